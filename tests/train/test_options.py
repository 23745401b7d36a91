"""Averaging, consistency, recomputation, fine-tuning, traces and trackers."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.distributions import Categorical, kl_divergence

from asr import config
from asr.errors import InputError
from asr.heads.ctc import consistency
from asr.model.folder import load_model
from asr.model.recogniser import Recogniser
from asr.nn.encoder import Encoder
from asr.processes import alone
from asr.text.tokenizer import load_tokenizer
from asr.train.averaging import MovingAverage
from asr.train.engines import build_engine
from asr.train.flops import count_layers
from asr.train.run import Options, average, train

SETTINGS = [
    "encoder.num_layers=1",
    "encoder.dim=16",
    "encoder.ff_dim=24",
    "encoder.conv_kernel=5",
    "encoder.subsampling_channels=4",
    "tokenizer.kind=char",
    "train.epochs=1",
    "train.global_batch_s=8",
    "train.max_batch_s=9",
    "train.num_threads=1",
    "train.tensorboard=false",
    "train.average_checkpoints=1",
    "train.log_steps=1",
]


def run(corpus: Path, exp: Path, *more: str, options: Options | None = None) -> None:
    data = [f"data.{part}=[{corpus}/{part}.cuts.jsonl.gz]" for part in ("train", "dev")]
    train(config.load([], [*SETTINGS, *data, *more]), exp, options)


def losses(exp: Path) -> list[float]:
    lines = [json.loads(line) for line in (exp / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "train"]


def weights(exp: Path) -> dict[str, torch.Tensor]:
    return load_file(exp / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def plain(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    exp = tmp_path_factory.mktemp("options") / "plain"
    run(tiny_corpus, exp)
    return exp


def test_the_moving_average_is_that_of_its_definition() -> None:
    net = nn.Linear(1, 1, bias=False)
    average = MovingAverage(net, decay=0.5)
    expected = net.weight.item()
    for step, value in enumerate((3.0, -1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0, 5.0, 3.0), start=1):
        net.weight.data.fill_(value)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert float(average.values["weight"]) == pytest.approx(expected)
    with average.in_place():
        assert net.weight.item() == pytest.approx(expected)
    assert net.weight.item() == 3.0


def test_a_run_keeps_the_average_in_place_of_the_weights(
    plain: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    run(tiny_corpus, tmp_path / "exp", "train.ema_decay=0.99")
    assert losses(tmp_path / "exp") == losses(plain)  # the average changes no step
    averaged, own = weights(tmp_path / "exp"), weights(plain)
    assert averaged.keys() == own.keys()
    assert not torch.equal(averaged["heads.ctc.linear.weight"], own["heads.ctc.linear.weight"])


def test_averages_made_afterwards(plain: Path, tiny_corpus: Path, tmp_path: Path) -> None:
    """One run with a moving average and two checkpoints gives the weights, their moving average and
    the mean of two checkpoints, each as a run that was asked for nothing else has it."""
    run(tiny_corpus, tmp_path / "moving", "train.ema_decay=0.99")
    exp = tmp_path / "exp"
    kept = ("train.validate_steps=4", "train.average_checkpoints=2", "train.average_what=last")
    run(tiny_corpus, exp, "train.ema_decay=0.99", *kept)
    run(tiny_corpus, tmp_path / "mean", *kept)
    for name, count, own in (("plain", 1, True), ("moving", 1, False), ("mean", 2, True)):
        out = tmp_path / "averages" / name
        (out / "tokenizer").mkdir(parents=True)  # of an older average, and no good
        steps = average(exp, out, count, own)
        record = json.loads((out / "run.json").read_text())
        assert record["name"] == name
        assert record["averaged_steps"] == steps
        assert len(steps) == count
        found = weights(out)
        expected = weights(plain if name == "plain" else tmp_path / name)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in found)
        assert config.load([out / "config.yaml"]) == config.load([exp / "config.yaml"])
        for tokenizer in (load_model(out).tokenizer, load_tokenizer(out / "tokenizer")):
            assert tokenizer.pieces == load_tokenizer(exp / "tokenizer").pieces
    for count in (0, 3):
        with pytest.raises(InputError, match=f"2 checkpoints, {count} asked for"):
            average(exp, tmp_path / "more", count, own=True)
    assert not (tmp_path / "more").exists()
    with pytest.raises(InputError, match="holds a run of its own"):
        average(exp, exp, 1, own=True)


def test_consistency_is_half_the_symmetric_divergence_over_the_frames_that_exist() -> None:
    generator = torch.Generator().manual_seed(0)
    lens = [4, 7, 0]
    logits = torch.randn(2, 3, 7, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    first_btv, second_btv = logits.log_softmax(-1)
    found_b = consistency(first_btv, second_btv, torch.tensor(lens))
    p, q = Categorical(logits=first_btv), Categorical(logits=second_btv)
    both_bt = 0.5 * (kl_divergence(p, q) + kl_divergence(q, p))
    expected = [float(both_bt[row, :length].sum()) for row, length in enumerate(lens)]
    assert found_b.tolist() == pytest.approx(expected)
    # the gradient of KL(target || softmax(x)) is softmax(x) - target: the target stands still
    found_b.sum().backward()
    assert logits.grad is not None
    frames_bt1 = (torch.arange(7) < torch.tensor(lens)[:, None]).unsqueeze(-1)
    towards_btv = 0.5 * (first_btv.exp() - second_btv.exp()) * frames_bt1
    torch.testing.assert_close(logits.grad[0], towards_btv)
    torch.testing.assert_close(logits.grad[1], -towards_btv)


def test_two_views_that_do_not_differ_train_as_one(tiny_corpus: Path, tmp_path: Path) -> None:
    still = ("augment.num_freq_masks=0", "augment.num_time_masks=0", "encoder.dropout=0")
    run(tiny_corpus, tmp_path / "one", *still)
    run(tiny_corpus, tmp_path / "two", *still, "ctc.consistency=0.2")
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    run(tiny_corpus, tmp_path / "masked", "ctc.consistency=0.2")
    assert losses(tmp_path / "masked") != pytest.approx(losses(tmp_path / "one"), rel=1e-4)


def test_recomputing_activations_changes_no_bit(
    plain: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    run(tiny_corpus, tmp_path / "exp", "train.checkpoint_activations=true")
    assert losses(tmp_path / "exp") == losses(plain)  # dropout included
    assert all(
        torch.equal(value, weights(plain)[name])
        for name, value in weights(tmp_path / "exp").items()
    )


@pytest.mark.parametrize("position", ["relative", pytest.param("alibi", marks=pytest.mark.slow)])
def test_layers_are_compiled_as_one_graph_for_all_lengths(position: str) -> None:
    """What a graph per length costs is why compiling "never ended"; a break in it, what it gains."""
    cfg = config.load([], [*SETTINGS, f"attention.position={position}", "encoder.num_layers=2"])
    torch.manual_seed(0)
    encoder = Encoder(cfg.encoder, cfg.attention, cfg.features.num_mels).train()
    torch.compiler.reset()
    graphs: list[int] = []

    def count(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        graphs.append(len(graph.graph.nodes))
        return graph.forward

    def compute(batch: int, num_frames: int) -> None:
        encoder(torch.randn(batch, num_frames, 80), torch.tensor([num_frames] * batch))

    compute(2, 50)  # attention's backend is chosen
    for layer in encoder.layers:
        layer.compile(dynamic=True, backend=count, fullgraph=True)
    for batch, num_frames in ((2, 100), (3, 130), (4, 90), (2, 257)):
        compute(batch, num_frames)
    assert len(graphs) == 1
    with count_layers(encoder) as counted:  # hooks that change with every call
        compute(2, 100)
        compute(2, 100)
    assert counted[0] > 0
    assert len(graphs) == 1
    torch.compiler.reset()


@pytest.mark.slow  # compiling takes a minute
def test_compiled_layers_compute_the_same() -> None:
    cfg = config.load([], [*SETTINGS, "encoder.dropout=0", "train.compile=true"])
    torch.manual_seed(0)
    net = Recogniser(cfg, 12).train()
    compiled = copy.deepcopy(net)
    build_engine(compiled, cfg.train, alone("cpu"))
    torch.compiler.reset()
    for batch, num_samples in ((2, 16000), (3, 21000)):
        lens_b = torch.tensor([num_samples - 160 * row for row in range(batch)])
        waves_bn = 0.1 * torch.randn(batch, num_samples)
        tokens = torch.arange(1, 5).repeat(batch, 1), torch.full((batch,), 4)
        for each in (net, compiled):
            each.zero_grad()
            each.loss(waves_bn, lens_b, *tokens).sum().backward()
        for (name, own), other in zip(net.named_parameters(), compiled.parameters(), strict=True):
            torch.testing.assert_close(other.grad, own.grad, rtol=1e-3, atol=1e-4, msg=name)


def test_fine_tuning_begins_with_the_weights_and_the_tokenizer(
    plain: Path, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exp = tmp_path / "exp"
    run(tiny_corpus, exp, "optimizer.lr=1e-9", options=Options(init_from=plain))
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(exp)[name], value, rtol=1e-5, atol=1e-6, msg=name)
    assert load_tokenizer(exp / "model").pieces == load_tokenizer(plain / "model").pieces
    assert f"tensors from {plain / 'model'}, its tokenizer too" in capsys.readouterr().out


def test_fine_tuning_with_another_tokenizer_has_a_new_head(
    plain: Path, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exp = tmp_path / "exp"
    other = ("tokenizer.kind=bpe", "tokenizer.vocab_size=40", "optimizer.lr=1e-9")
    run(tiny_corpus, exp, *other, options=Options(init_from=plain))
    found, before = weights(exp), weights(plain)
    assert found["heads.ctc.linear.weight"].shape[0] == 40
    for name in before.keys() - {"heads.ctc.linear.weight", "heads.ctc.linear.bias"}:
        torch.testing.assert_close(found[name], before[name], rtol=1e-5, atol=1e-6, msg=name)
    assert "new, for another tokenizer: the head ctc" in capsys.readouterr().out
    run_json = json.loads((exp / "run.json").read_text())
    assert str(plain) in run_json["initialised"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("encoder.ff_dim=32", r"ff\S+weight is \(16, 24\) there and \(16, 32\) here; encoder\.\*"),
        ("encoder.num_layers=2", r"encoder\.layers\.1\.\S+ is missing there; encoder\.\*"),
        ("features.hop_ms=20", r"its features\.hop_ms = 10\.0, here 20\.0"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_one_line(
    override: str, message: str, plain: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message) as refusal:
        run(tiny_corpus, tmp_path / "exp", override, options=Options(init_from=plain))
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "exp").exists()


TRACKER = """
import json
class Mine:
    def __init__(self, run):
        self.file = open(r"{path}", "w")
        self.file.write(json.dumps(run["seed"]) + chr(10))
    def record(self, kind, step, values):
        self.file.write(json.dumps([kind, step, values["loss"]]) + chr(10))
    def close(self):
        self.file.write('"closed"')
        self.file.close()
tracker = Mine
"""


def test_a_trace_a_tracker_and_what_the_run_was(
    plain: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    exp, seen = tmp_path / "exp", tmp_path / "seen.jsonl"
    (tmp_path / "mine.py").write_text(TRACKER.format(path=seen))
    options = Options(profile=True, tracker=tmp_path / "mine.py", command="asr train --profile")
    run(tiny_corpus, exp, "train.tensorboard=true", options=options)
    assert losses(exp) == losses(plain)
    series = EventAccumulator(str(exp / "tensorboard")).Reload()
    drawn = [(event.step, event.value) for event in series.Scalars("train/loss")]
    assert drawn == list(enumerate(np.float32(losses(exp)).tolist(), start=1))
    seed, *lines, end = map(json.loads, seen.read_text().splitlines())
    assert (seed, end) == (1, "closed")
    log = [json.loads(line) for line in (exp / "log.jsonl").read_text().splitlines()]
    assert lines == [[line["kind"], line["step"], line["loss"]] for line in log]
    events: dict[str, Any] = json.loads((exp / "profile" / "trace.json").read_text())
    assert any("ctc_loss" in event.get("name", "") for event in events["traceEvents"])
    assert "ctc_loss" in (exp / "profile" / "summary.txt").read_text()
    record = json.loads((exp / "run.json").read_text())
    assert record["command"] == "asr train --profile"
    assert record["environment"]["num_cpus"] >= 1
    assert record["num_processes"] == 1
    for key in ("commit", "dirty", "diff", "seed", "versions"):
        assert key in record


def test_a_tracker_that_is_none_is_refused(tiny_corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("")
    for name, message in (
        ("empty.py", "must define a function tracker"),
        ("no.py", "no such Python"),
    ):
        with pytest.raises(InputError, match=message):
            run(tiny_corpus, tmp_path / f"exp-{name}", options=Options(tracker=tmp_path / name))
