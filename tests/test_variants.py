"""Every weighting x position x encoder x remedy: what is allowed works, what is not is refused.

Every day each pair of choices occurs in some case; the whole product is in the slow tier.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from sigmoid_attention.weightings import MAPS, listed, served_by

from asr import config
from asr.config import Config
from asr.config.kinds import ENCODERS
from asr.config.layers import parse_override
from asr.config.rules import RULES
from asr.errors import InputError
from asr.model.folder import load_model, save_model
from asr.model.recogniser import Recogniser
from asr.model.stream import FrameStream
from asr.nn.attention import POSITIONS
from asr.nn.encoder import LAYERS
from asr.search.greedy import greedy
from asr.text.tokenizer import Tokenizer, train_tokenizer

SMALL = (
    "encoder.num_layers=2",
    "encoder.dim=16",
    "encoder.ff_dim=24",
    "encoder.subsampling_channels=4",
    "encoder.dropout=0",
    "attention.num_heads=4",
    "tokenizer.kind=char",
    "features.num_mels=20",
)

REMEDIES = {
    "plain": [],
    "no shift": ["attention.shift=none"],
    "constant shift": ["attention.shift=constant", "attention.shift_constant=-3.0"],
    "shift per head": ["attention.shift_per_head=true"],
    "exponent": ["attention.shift_exponent=true"],
    "sequence": ["attention.count=sequence"],
    "visible": ["attention.count=visible"],
    "no scale": ["attention.row_scale=none"],
    "1/n": ["attention.row_scale=1/n"],
    "1/sqrt n": ["attention.row_scale=1/sqrt n"],
    "QK-norm": ["attention.qk_norm=true"],
    "hybrid norm": ["attention.output_norm=true"],
    "grouped heads": ["attention.num_kv_heads=2"],
    "LayerScale": ["encoder.layer_scale=0.1"],
    "post-norm": ["encoder.norm=post"],
    "subsampling 8": ["encoder.subsampling=8"],
    "convolutions over time": [
        *("encoder.subsampling_kind=conv1d", "encoder.subsampling=2"),
        *("encoder.subsampling_channels=64", "encoder.activation=gelu"),
    ],
    "stochastic depth": ["encoder.stochastic_depth=0.2"],
    "intermediate CTC": ["ctc.intermediate_layers=[1]"],
    "linformer": ["attention.keys=linformer", "attention.linformer_length=6"],
    "window": ["attention.window=3"],
    "past only": ["attention.causal=true"],
    "window of the past": ["attention.window=5", "attention.causal=true"],
    "chunks": ["encoder.chunk_sizes=[4]", "encoder.left_chunks=[1]"],
    "causal": ["encoder.causal=true"],
    "kernel 5": ["encoder.conv_kernel=5"],
    "RMSNorm": ["encoder.conv_norm=rmsnorm"],
    "narrow cgMLP": ["encoder.cgmlp_dim=20"],
    "whisper": ["features.kind=whisper", "features.pad_s=0.5"],
    "nemo": ["features.kind=nemo"],
    "decoder": [
        "model.heads=[ctc,attention]",
        *("decoder.num_layers=1", "decoder.num_heads=2", "decoder.ff_dim=24", "decoder.dropout=0"),
    ],
    "tied decoder": [
        *("model.heads=[ctc,attention]", "decoder.tie_embeddings=true", "decoder.position=learned"),
        *("decoder.num_layers=1", "decoder.num_heads=2", "decoder.ff_dim=24", "decoder.dropout=0"),
    ],
}

# remedies that are an option which not every encoder reads
OWN = {
    "causal": "causal",
    "kernel 5": "conv_kernel",
    "RMSNorm": "conv_norm",
    "narrow cgMLP": "cgmlp_dim",
}

# which remedies make no sense for which weightings, positions or encoders, and what the refusal
# begins with
REFUSED = {
    **{
        (weighting, remedy): "attention.shift"
        for weighting in sorted(set(MAPS) - {"sigmoid"})
        for remedy in ("no shift", "constant shift", "shift per head", "exponent")
    },
    ("softmax", "sequence"): "attention.count",
    ("softmax", "no scale"): "attention.row_scale",
    ("softmax", "1/n"): "attention.row_scale",
    ("softmax", "1/sqrt n"): "attention.row_scale",
    ("cape", "chunks"): "encoder.chunk_sizes",
    ("learned", "chunks"): "encoder.chunk_sizes",
    **{
        (position, "linformer"): "attention.keys"
        for position in sorted(set(POSITIONS) - {"none", "sinusoidal", "learned", "cape"})
    },
    **{
        (kind, remedy): f"encoder.{option}"
        for kind in ENCODERS
        for remedy, option in OWN.items()
        if option not in ENCODERS[kind].reads
    },
}

AXES = (list(MAPS), list(POSITIONS), list(LAYERS), list(REMEDIES))
Variant = tuple[str, str, str, str]


def allowed(variant: Variant) -> bool:
    return refusal_of(variant) is None


def refusal_of(variant: Variant) -> tuple[str, str] | None:
    """The choice that does not go with the remedy, and what the refusal begins with."""
    for choice in variant[:3]:
        if (choice, variant[3]) in REFUSED:
            return choice, REFUSED[choice, variant[3]]
    return None


def pairwise(variants: list[Variant]) -> list[Variant]:
    """A few of the variants that hold every pair of choices that any of them holds."""

    def pairs(variant: Variant) -> set[tuple[int, str, int, str]]:
        return {
            (i, variant[i], j, variant[j]) for i, j in itertools.combinations(range(len(AXES)), 2)
        }

    missing = set().union(*map(pairs, variants))
    chosen = []
    while missing:
        best = max(variants, key=lambda variant: len(pairs(variant) & missing))
        chosen.append(best)
        missing -= pairs(best)
    return chosen


ALL = [variant for variant in itertools.product(*AXES) if allowed(variant)]
EVERY_DAY = set(pairwise(ALL))
CASES = [
    pytest.param(*variant, marks=() if variant in EVERY_DAY else pytest.mark.slow)
    for variant in ALL
]


def make_config(weighting: str, position: str, encoder: str, remedy: str) -> Config:
    chosen = (
        f"attention.weighting={weighting}",
        f"attention.position={position}",
        f"encoder.kind={encoder}",
    )
    cut_causally = remedy == "chunks" and "causal" in ENCODERS[encoder].reads
    needed = ["encoder.causal=true"] if cut_causally else []
    return config.load([], [*SMALL, *chosen, *REMEDIES[remedy], *needed])


def test_every_pair_of_choices_is_tried_every_day() -> None:
    for i, j in itertools.combinations(range(len(AXES)), 2):
        for one, other in itertools.product(AXES[i], AXES[j]):
            tried = any(variant[i] == one and variant[j] == other for variant in EVERY_DAY)
            assert tried or (one, other) in REFUSED
    most_pairs = max(len(a) * len(b) for a, b in itertools.combinations(AXES, 2))
    assert len(EVERY_DAY) < 1.1 * most_pairs


TEXTS = ["a cab", "bad", "dad"]
LENS = [9000, 4321, 6500]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, config.load([], list(SMALL)).tokenizer)


@pytest.mark.parametrize(("weighting", "position", "encoder", "remedy"), CASES)
def test_a_variant_learns_ignores_padding_and_survives_its_folder(
    weighting: str,
    position: str,
    encoder: str,
    remedy: str,
    tokenizer: Tokenizer,
    tmp_path: Path,
) -> None:
    cfg = make_config(weighting, position, encoder, remedy)
    torch.manual_seed(0)
    net = Recogniser(cfg, tokenizer.vocab_size)
    generator = torch.Generator().manual_seed(1)
    waves = [0.3 * torch.randn(length, generator=generator) for length in LENS]

    losses = train(net, waves, tokenizer)
    assert sum(losses[-5:]) / 5 < 0.95 * losses[0]

    net.eval()
    alone = {i: outputs(net, waves, [i], 0)[i] for i in range(3)}
    for order, extra in (([0, 1, 2], 0), ([2, 0, 1], 5000), ([1, 2], 1)):
        for i, (log_probs, tokens) in outputs(net, waves, order, extra).items():
            torch.testing.assert_close(log_probs, alone[i][0], atol=1e-4, rtol=0)
            assert tokens == alone[i][1]

    save_model(tmp_path / "model", net.state_dict(), cfg, tokenizer)
    model = load_model(tmp_path)
    assert model.config == cfg
    for i, (log_probs, tokens) in outputs(model.net, waves, [0, 1, 2], 0).items():
        torch.testing.assert_close(log_probs, alone[i][0], atol=1e-4, rtol=0)
        assert model.tokenizer.decode(tokens) == tokenizer.decode(alone[i][1])
    if remedy == "chunks":
        for wave_n in waves:
            chunked = net(wave_n[None], torch.tensor([len(wave_n)]), chunk=(4, 1))[0][0]
            stream = FrameStream(net, cfg, (4, 1))
            streamed = torch.cat([*map(stream.feed, wave_n.split(700)), stream.finish()])
            torch.testing.assert_close(streamed, chunked, atol=1e-4, rtol=0)


def train(net: Recogniser, waves: list[torch.Tensor], tokenizer: Tokenizer) -> list[float]:
    """Thirty steps; the losses. Every parameter gets a finite gradient, and not always zero."""
    wave_bn = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    tokens = [torch.tensor(tokenizer.encode(text)) for text in TEXTS]
    tokens_bu = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
    token_lens_b = torch.tensor([len(part) for part in tokens])
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    moved = {name: 0.0 for name, _ in net.named_parameters()}
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = net.loss(wave_bn, torch.tensor(LENS), tokens_bu, token_lens_b).sum()
        loss.backward()
        for name, parameter in net.named_parameters():
            assert parameter.grad is not None, name
            moved[name] += float(parameter.grad.abs().sum())
        optimizer.step()
        losses.append(loss.item())
    for name, total in moved.items():
        assert 0.0 < total < float("inf"), name
    return losses


Outputs = dict[int, tuple[torch.Tensor, tuple[int, ...]]]


def outputs(net: Recogniser, waves: list[torch.Tensor], order: list[int], extra: int) -> Outputs:
    """Log-probabilities and greedy tokens of some of the utterances, in this order, padded by
    ``extra`` samples."""
    wave_bn = torch.zeros(len(order), max(LENS[i] for i in order) + extra)
    for row, i in enumerate(order):
        wave_bn[row, : LENS[i]] = waves[i]
    with torch.inference_mode():
        log_probs_btv, lens_b = net(wave_bn, torch.tensor([LENS[i] for i in order]))
    best = greedy(log_probs_btv, lens_b)
    return {i: (log_probs_btv[row, : lens_b[row]], best[row].tokens) for row, i in enumerate(order)}


@pytest.mark.parametrize(
    "variant", [variant for variant in itertools.product(*AXES) if not allowed(variant)]
)
def test_what_makes_no_sense_is_refused_in_one_line(variant: Variant) -> None:
    with pytest.raises(InputError) as caught:
        make_config(*variant)
    text = str(caught.value)
    refused = refusal_of(variant)
    assert refused is not None
    choice, beginning = refused
    assert text.startswith(beginning)
    assert choice in text
    assert "\n" not in text


BROKEN = [
    (["features.frame_ms=100", "features.sample_rate=192000"], "features.frame_ms = 100"),
    (["encoder.dim=18"], "encoder.dim = 18 must be a multiple of attention.num_heads = 4"),
    (["attention.num_kv_heads=3"], "must be a multiple of attention.num_kv_heads = 3"),
    (["encoder.dim=12", "attention.position=rope"], "even width per head, not 12 / 4"),
    (["attention.weighting=softmax", "attention.shift=none"], "only sigmoid has a shift"),
    (["attention.weighting=relu", "attention.shift_per_head=true"], "only sigmoid has a shift"),
    (["attention.weighting=relu", "attention.shift_exponent=true"], "has a count with an exponent"),
    (["attention.shift=constant", "attention.shift_exponent=true"], "sigmoid with shift constant"),
    (["attention.weighting=softmax", "attention.row_scale=1/n"], "rows sum to one already"),
    (["attention.shift=none", "attention.count=sequence"], "nothing is counted"),
    (["attention.power=5"], "only polynomial has a power"),
    (["attention.weighting=polynomial", "attention.power=4"], "must be odd"),
    (["attention.backend=sdpa"], "sdpa has softmax only, not sigmoid"),
    (
        ["attention.backend=triton", "attention.weighting=polynomial"],
        f"triton has {listed(served_by('triton'))} only, not polynomial",
    ),
    (["attention.keys=linformer"], "stand at no frame, so alibi has nothing to measure"),
    (
        ["attention.keys=linformer", "attention.position=none", "attention.window=4"],
        "attention.window = 4, attention.causal = False: attention.keys = linformer mixes all frames",
    ),
    (
        ["attention.keys=linformer", "attention.position=none", "attention.causal=true"],
        "no row can be kept from some",
    ),
    (
        ["attention.causal=true", "encoder.kind=transformer", "encoder.chunk_sizes=[0, 4]"],
        "encoder.left_chunks = [-1] chunks hide nothing more",
    ),
    (["attention.num_positions=9"], "alibi has no table of them; leave it at 1500"),
    (["decoder.num_positions=9"], "sinusoidal has no table of them; leave it at 448"),
    (
        ["encoder.subsampling_kind=conv1d"],
        "encoder.subsampling_channels = 4: encoder.subsampling_kind = conv1d is as wide as the encoder",
    ),
    (["encoder.conv_kernel=4"], "encoder.conv_kernel = 4: must be odd"),
    (["encoder.kind=ebranchformer", "encoder.cgmlp_dim=9"], "cgmlp_dim = 9: must be even"),
    (
        ["encoder.kind=transformer", "encoder.conv_kernel=7"],
        "encoder.conv_kernel = 7: encoder.kind = transformer does not read it; leave it at 31",
    ),
    (["encoder.kind=transformer", "encoder.causal=true"], "transformer does not read it"),
    (["encoder.kind=ebranchformer", "encoder.conv_norm=rmsnorm"], "ebranchformer does not read"),
    (["encoder.cgmlp_dim=64"], "encoder.kind = conformer does not read it; leave it at 0"),
    *(
        (["features.kind=whisper", f"features.{one}"], "features.kind = whisper does not read it")
        for one in ("frame_ms=20", "hop_ms=20", "low_hz=0", "high_hz=-400", "scale=1")
    ),
    (
        ["features.kind=whisper", "features.snip_edges=false"],
        "features.kind = whisper does not read it; leave it at True",
    ),
    (["features.pad_s=30"], "features.kind = kaldi does not read it; leave it at 0.0"),
    (
        ["features.kind=whisper", "features.sample_rate=8000"],
        "features.sample_rate = 8000: features.kind = whisper needs 16000",
    ),
    (["features.kind=nemo", "features.sample_rate=8000"], "features.kind = nemo needs 16000"),
    (["ctc.intermediate_layers=[2]"], "give different layers below the last, which is 2"),
    (["ctc.intermediate_layers=[1, 1]"], "give different layers below the last"),
    (["model.heads=[]"], "model.heads = []: give one or more of ctc, attention, none twice"),
    (["model.heads=[ctc, ctc]"], "give one or more of ctc, attention, none twice"),
    (
        ["model.heads=[attention]", "ctc.consistency=0.2"],
        "['attention'] has no ctc, which alone reads it",
    ),
    (
        ["model.heads=[attention]", "ctc.intermediate_layers=[1]"],
        "has no ctc, which alone reads it",
    ),
    (["model.heads=[attention]", "ctc.intermediate_weight=0.5"], "reads it; leave it at 0.3"),
    (["model.heads=[attention]", "ctc.weight=0.5"], "reads it; leave it at 1.0"),
    (["decoder.num_layers=1"], "['ctc'] has no attention, which alone reads it; leave it at 6"),
    (["decoder.num_heads=2"], "has no attention, which alone reads it"),
    (["decoder.ff_dim=8"], "has no attention, which alone reads it"),
    (["decoder.weighting=relu"], "has no attention, which alone reads it"),
    (["decoder.cross_weighting=relu"], "has no attention, which alone reads it"),
    (["decoder.position=rope"], "has no attention, which alone reads it"),
    (["decoder.tie_embeddings=true"], "has no attention, which alone reads it"),
    (["decoder.activation=gelu"], "has no attention, which alone reads it"),
    (["decoder.dropout=0.2"], "has no attention, which alone reads it"),
    (["decoder.label_smoothing=0"], "has no attention, which alone reads it"),
    (["decoder.weight=0.5"], "has no attention, which alone reads it"),
    (["model.heads=[attention]", "decoder.num_heads=7"], "multiple of decoder.num_heads = 7"),
    (
        ["model.heads=[attention]", "decoder.position=rope", "decoder.num_heads=16"],
        "decoder.position = rope needs an even width per head, not 16 / 16",
    ),
    (["encoder.left_chunks=[]"], "give at least one number, -1 for all"),
    (["augment.speed_factors=[]"], "give at least one speed, 1.0 for none"),
    (["augment.noise_snr_db=[10, 5]"], "= [10.0, 5.0]: give the lowest and the highest ratio"),
    (["augment.hiss_db=[-60]"], "= [-60.0]: give the lowest and the highest level, or neither"),
    (["augment.hiss_db=[-60, -80]"], "give the lowest and the highest level, or neither"),
    (["optimizer.betas=[0.9]"], "optimizer.betas = [0.9]: give two numbers"),
    (["train.average_what=last", "train.best_by=cer"], "last chooses by no error rate"),
    (["train.diagnose_steps=5", "train.parallel=fsdp"], "fsdp no process holds the weights"),
    (["data.min_duration_s=40"], "min_duration_s = 40.0 is above data.max_duration_s = 30.0"),
]


@pytest.mark.parametrize(("options", "reason"), BROKEN)
def test_each_rule_refuses_in_one_line(options: list[str], reason: str) -> None:
    with pytest.raises(InputError) as caught:
        config.load([], [*SMALL, *options])
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_rule_has_its_case() -> None:
    def broken(options: list[str]) -> list[int]:
        # checked one rule at a time on the configuration as merged, before it is refused
        return [number for number, rule in enumerate(RULES) if rule.broken(unchecked(options))]

    assert {number for options, _ in BROKEN for number in broken(options)} == set(range(len(RULES)))


def unchecked(options: list[str]) -> Config:
    sections: dict[str, dict[str, object]] = {}
    for option in [*SMALL, *options]:
        for section, values in parse_override(option).items():
            sections.setdefault(section, {}).update(values)
    return Config(
        **{
            name: type(getattr(Config(), name))(**values)  # type: ignore[arg-type]
            for name, values in sections.items()
        }
    )
