"""A stream gives what the whole file with the same chunks gives, however the audio is cut."""

from __future__ import annotations

import pytest
import torch

from asr import config
from asr.config import Config
from asr.errors import InputError
from asr.model.recogniser import Recogniser
from asr.model.stream import FrameStream, choose_chunk
from asr.search.greedy import greedy

SMALL = [
    "encoder.num_layers=2",
    "encoder.dim=16",
    "encoder.ff_dim=24",
    "encoder.subsampling_channels=4",
    "encoder.dropout=0",
    "features.num_mels=20",
    "tokenizer.kind=char",
]

CAUSAL = ["encoder.conv_kernel=7", "encoder.causal=true"]

VARIANTS = [
    *[
        [f"attention.weighting={weighting}", f"attention.position={position}"]
        for weighting in ("softmax", "sigmoid")
        for position in ("none", "sinusoidal", "rope", "alibi", "relative", "table")
    ],
    ["attention.weighting=relu"],
    ["attention.shift_per_head=true", "encoder.norm=post", "attention.num_kv_heads=2"],
    *[
        [f"attention.count={count}", f"attention.position={position}", f"attention.{exponent}"]
        for count, position, exponent in (
            ("visible", "alibi", "shift_exponent=false"),
            ("effective", "alibi", "shift_exponent=true"),
            ("effective", "table", "shift_exponent=false"),
            ("visible", "relative", "shift_exponent=true"),
        )
    ],
    ["encoder.subsampling=8", "attention.qk_norm=true"],
    ["encoder.kind=transformer"],
    ["encoder.kind=ebranchformer"],
    ["encoder.kind=ebranchformer", "attention.position=relative", "encoder.norm=post"],
]


WINDOWS = [
    ["attention.window=5"],
    ["attention.window=5", "attention.weighting=softmax", "attention.position=relative"],
    ["attention.causal=true", "attention.window=6", "attention.position=rope"],
    ["attention.causal=true", "attention.count=visible"],
    ["attention.causal=true", "attention.window=3", "encoder.kind=transformer"],
    ["attention.window=4", "encoder.kind=ebranchformer", "attention.position=table"],
]

PAST_ONLY = [
    *(
        [f"attention.weighting={weighting}", f"attention.position={position}"]
        for weighting in ("softmax", "sigmoid")
        for position in ("none", "sinusoidal", "rope", "alibi", "relative", "table")
    ),
    ["attention.window=5"],
    ["attention.window=2", "encoder.kind=ebranchformer"],
    ["encoder.kind=transformer", "encoder.subsampling=8"],
]


def build(options: list[str]) -> tuple[Recogniser, Config]:
    convolutions = [] if "encoder.kind=transformer" in options else CAUSAL
    cfg = config.load([], [*SMALL, *convolutions, *options])
    torch.manual_seed(0)
    net = Recogniser(cfg, 12).eval()
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return net, cfg


def offline(net: Recogniser, wave_n: torch.Tensor, chunk: tuple[int, int | None]) -> torch.Tensor:
    with torch.inference_mode():
        return net(wave_n[None], torch.tensor([len(wave_n)]), chunk=chunk)[0][0]


def streamed(
    net: Recogniser,
    cfg: Config,
    wave_n: torch.Tensor,
    chunk: tuple[int, int | None],
    cuts: list[int],
) -> torch.Tensor:
    stream = FrameStream(net, cfg, chunk)
    return torch.cat([*(stream.feed(part) for part in wave_n.split(cuts)), stream.finish()])


def random_cuts(total: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    cuts: list[int] = []
    while sum(cuts) < total:
        # now and then nothing, now and then more than a chunk
        size = int(10 ** (4 * torch.rand(1, generator=generator)) - 1)
        cuts.append(min(size, total - sum(cuts)))
    return cuts


@pytest.mark.parametrize("chunk", [(4, 2), (8, None), (3, 0)])
@pytest.mark.parametrize("options", VARIANTS + WINDOWS, ids=" ".join)
def test_a_stream_gives_what_the_whole_file_gives(
    options: list[str], chunk: tuple[int, int | None]
) -> None:
    net, cfg = build(options)
    # 27,161 samples: 168 feature frames, which is no whole number of chunks of any size here
    wave_n = 0.3 * torch.randn(27_161)
    expected = offline(net, wave_n, chunk)
    for seed in range(3):
        got = streamed(net, cfg, wave_n, chunk, random_cuts(len(wave_n), seed))
        assert got.shape == expected.shape
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
        lens = torch.tensor([len(expected)])
        assert greedy(got[None], lens)[0].tokens == greedy(expected[None], lens)[0].tokens


@pytest.mark.parametrize("size", [None, 1, 5])
@pytest.mark.parametrize("options", PAST_ONLY, ids=" ".join)
def test_a_model_of_the_past_gives_with_any_chunk_what_the_whole_file_gives(
    options: list[str], size: int | None
) -> None:
    net, cfg = build([*options, "attention.causal=true"])
    wave_n = 0.3 * torch.randn(27_161)
    with torch.inference_mode():
        expected = net(wave_n[None], torch.tensor([len(wave_n)]))[0][0]
    chunk = choose_chunk(cfg, size)
    got = streamed(net, cfg, wave_n, chunk, random_cuts(len(wave_n), 0))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_a_model_of_the_past_takes_chunks_that_reach_as_far_as_it_sees() -> None:
    _, cfg = build(["attention.causal=true"])
    # the longest utterance of training has 30 s, which are 750 frames
    assert choose_chunk(cfg) == (16, 47)
    assert choose_chunk(cfg, 8) == (8, 94)
    assert choose_chunk(cfg, 8, 3) == (8, 3)
    _, cfg = build(["attention.causal=true", "attention.window=17"])
    assert choose_chunk(cfg) == (16, 2)
    assert choose_chunk(cfg, 1) == (1, 17)
    for size, left_chunks, reason in (
        (0, None, "chunks of 0 frames: this model was trained with any number from 1"),
        (-3, None, "any number from 1"),
        (8, -1, "-1 chunks before: this model was trained with any number from 0"),
    ):
        with pytest.raises(InputError, match=reason):
            choose_chunk(cfg, size, left_chunks)


def test_who_was_trained_with_chunks_keeps_to_them_though_it_sees_the_past_only() -> None:
    _, cfg = build(
        ["attention.causal=true", "encoder.chunk_sizes=[4, 8]", "encoder.left_chunks=[2]"]
    )
    assert choose_chunk(cfg) == (8, 2)
    with pytest.raises(InputError, match="trained with 4, 8"):
        choose_chunk(cfg, 5)


@pytest.mark.parametrize("num_samples", [0, 1, 399, 400, 401, 2800, 3040, 3041, 5000])
def test_streams_of_any_length_sample_by_sample(num_samples: int) -> None:
    net, cfg = build([])
    wave_n = 0.3 * torch.randn(num_samples)
    got = streamed(net, cfg, wave_n, (4, 1), [1] * num_samples if num_samples else [])
    if net.num_output_frames(num_samples) == 0:
        assert got.shape == (0, 12)
    else:
        torch.testing.assert_close(got, offline(net, wave_n, (4, 1)), atol=1e-5, rtol=0)


def test_a_chunk_is_out_as_soon_as_its_last_window_is_in() -> None:
    net, cfg = build([])
    stream = FrameStream(net, cfg, (4, 1))
    # 16 feature frames of 10 ms, the last of which is 25 ms long
    assert len(stream.feed(torch.zeros(15 * 160 + 399))) == 0
    assert len(stream.feed(torch.zeros(1))) == 4
    assert len(stream.feed(torch.zeros(16 * 160 - 1))) == 0
    assert len(stream.feed(torch.zeros(1))) == 4


def test_memory_does_not_grow_with_a_bounded_past() -> None:
    net, cfg = build([])
    stream = FrameStream(net, cfg, (4, 2))
    sizes = []
    for _ in range(5):
        stream.feed(torch.zeros(16_000))
        sizes.append(stream._memory.sizes())
    # four feature frames of 20 bins, keys of two chunks, kernel 7 less its own frame
    expected = {"feats": {(1, 4, 20)}, "keys": {(1, 4, 8, 4)}, "frames": {(1, 16, 6)}}
    assert sizes == 5 * [{**expected, "values": expected["keys"]}]
    assert len(stream._wave_n) < 16 * 160 + 400


@pytest.mark.parametrize(
    ("options", "num_kept"), [(["attention.window=7"], 7), (["attention.causal=true"], 12)]
)
def test_memory_holds_what_a_window_lets_a_later_chunk_see(
    options: list[str], num_kept: int
) -> None:
    net, cfg = build(["attention.window=12", *options])
    stream = FrameStream(net, cfg, (4, None))
    for _ in range(3):
        stream.feed(torch.zeros(16_000))
        assert stream._memory.sizes()["keys"] == {(1, 4, num_kept, 4)}


@pytest.mark.parametrize("weighting", ["softmax", "sigmoid"])
@pytest.mark.parametrize("position", ["none", "rope", "alibi", "relative", "table"])
def test_after_a_month_it_is_as_in_the_beginning(weighting: str, position: str) -> None:
    """These positions are relative, so the number of a frame changes nothing, however large it is."""
    net, cfg = build([f"attention.weighting={weighting}", f"attention.position={position}"])
    wave_n = 0.3 * torch.randn(20_000)
    fresh, old = FrameStream(net, cfg, (4, 2)), FrameStream(net, cfg, (4, 2))
    old._memory.num_frames = 30 * 24 * 3600 * 25
    expected = torch.cat([fresh.feed(wave_n), fresh.finish()])
    found = torch.cat([old.feed(wave_n), old.finish()])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_chunked_attention_sees_no_further_than_its_chunk() -> None:
    """A change in the second chunk leaves the frames of the first alone, but for the one sample of
    features that the last window shares."""
    net, _ = build([])
    wave_n = 0.3 * torch.randn(16_000)
    changed_n = wave_n.clone()
    changed_n[15 * 160 + 400 :] += 0.1
    before, after = offline(net, wave_n, (4, None)), offline(net, changed_n, (4, None))
    torch.testing.assert_close(before[:4], after[:4], atol=1e-6, rtol=0)
    assert not torch.allclose(before[4:], after[4:], atol=1e-3)


def test_training_draws_each_chunk() -> None:
    net, _ = build(["encoder.chunk_sizes=[0, 4, 8]", "encoder.left_chunks=[-1, 2]"])
    drawn = {net._draw_chunk() for _ in range(200)}
    assert drawn == {None, (4, None), (4, 2), (8, None), (8, 2)}


def test_training_with_chunks_is_the_loss_of_those_chunks() -> None:
    net, _ = build(["encoder.chunk_sizes=[4]", "encoder.left_chunks=[1]"])
    wave_bn, lens = 0.3 * torch.randn(2, 16_000), torch.tensor([16_000, 9000])
    tokens, token_lens = torch.tensor([[3, 4], [5, 0]]), torch.tensor([2, 1])
    log_probs, frames = net(wave_bn, lens, chunk=(4, 1))
    expected = torch.nn.functional.ctc_loss(
        log_probs.transpose(0, 1), tokens, frames, token_lens, reduction="none"
    )
    torch.testing.assert_close(net.loss(wave_bn, lens, tokens, token_lens), expected)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["encoder.causal=false"], r"needs encoder\.causal = true"),
        (["attention.position=cape"], "cape needs whole utterances"),
        (["attention.keys=linformer", "attention.position=none"], "keys = linformer needs whole"),
        (["attention.count=sequence"], "count = sequence needs whole utterances"),
    ],
)
def test_what_cannot_be_cut_into_chunks_is_refused(options: list[str], reason: str) -> None:
    net, cfg = build(options)
    with pytest.raises(InputError, match=reason):
        FrameStream(net, cfg, (4, 1))
    with pytest.raises(InputError, match=reason):
        build([*options, "encoder.chunk_sizes=[4]"])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["encoder.causal=false"], r"train with encoder\.causal=true encoder\.chunk_sizes="),
        (["encoder.kind=transformer"], r"train with encoder\.chunk_sizes="),
        (
            ["encoder.causal=false", "attention.causal=true"],
            r"or with encoder\.causal=true attention\.causal=true$",
        ),
        (
            ["attention.causal=true", "attention.count=sequence"],
            r"^streaming: attention\.count = sequence needs whole",
        ),
        (["attention.position=cape"], r"^streaming: attention\.position = cape needs whole"),
        (["features.kind=whisper"], r"^streaming: features\.kind = whisper needs whole"),
    ],
)
def test_who_saw_whole_utterances_is_told_how_to_train_if_it_can_be(
    options: list[str], reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        choose_chunk(build(options)[1])


def test_bad_chunks_and_mirrored_edges_are_refused() -> None:
    net, cfg = build(["features.snip_edges=false"])
    with pytest.raises(InputError, match="snip_edges"):
        FrameStream(net, cfg, (4, 1))
    net, cfg = build([])
    for chunk in ((0, 1), (4, -1)):
        with pytest.raises(InputError, match="at least one frame"):
            FrameStream(net, cfg, chunk)
