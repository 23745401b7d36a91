"""Every front end: the interface, what an utterance's features may depend on, and refusals."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr import config
from asr.config import FeatureConfig
from asr.config.kinds import FRONT_ENDS
from asr.errors import InputError
from asr.nn.features.mel import slaney_bank
from asr.nn.features.table import CLASSES, build_front_end, build_norm

CONFIGS = {
    "kaldi": FeatureConfig(),
    "whisper": FeatureConfig(kind="whisper"),
    "whisper, filled up": FeatureConfig(kind="whisper", num_mels=128, pad_s=0.1),
    "nemo": FeatureConfig(kind="nemo"),
}


def features(
    name: str, waves: list[torch.Tensor], extra: int = 0, dtype: torch.dtype = torch.float32
) -> list[torch.Tensor]:
    """Normalised features of each utterance of a batch, padded with NaN."""
    lens_b = torch.tensor([len(wave_n) for wave_n in waves])
    wave_bn = torch.full((len(waves), int(lens_b.max()) + extra), float("nan"))
    for row_n, wave_n in zip(wave_bn, waves, strict=True):
        row_n[: len(wave_n)] = wave_n
    front_end = build_front_end(CONFIGS[name]).to(dtype)
    feats_btf, feat_lens_b = front_end(wave_bn, lens_b)
    feats_btf = build_norm(CONFIGS[name]).to(dtype)(feats_btf, feat_lens_b)
    assert feats_btf.dtype == dtype
    assert feats_btf.shape[1] == front_end.num_frames(wave_bn.shape[1])
    assert feat_lens_b.tolist() == [front_end.num_frames(len(wave_n)) for wave_n in waves]
    assert bool(feats_btf.isfinite().all())
    for row_tf, length in zip(feats_btf, feat_lens_b.tolist(), strict=True):
        assert bool((row_tf[length:] == 0).all())
    return [row_tf[:n] for row_tf, n in zip(feats_btf, feat_lens_b.tolist(), strict=True)]


def test_every_kind_has_its_class_and_is_tried_here() -> None:
    assert set(CLASSES) == set(FRONT_ENDS) == {one.kind for one in CONFIGS.values()}


@pytest.mark.parametrize("name", CONFIGS)
@given(lengths=st.lists(st.integers(0, 3000), min_size=1, max_size=5), extra=st.integers(0, 700))
@settings(max_examples=20, deadline=None)
def test_an_utterance_alone_is_what_it_is_in_a_batch(
    name: str, lengths: list[int], extra: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    # of another loudness each: the loudest of a batch must not decide on the others
    waves = [0.3**k * torch.randn(n, generator=generator) for k, n in enumerate(lengths)]
    together = features(name, waves, extra, torch.float64)
    for wave_n, found_tf in zip(waves, together, strict=True):
        alone_tf = features(name, [wave_n], 0, torch.float64)[0]
        torch.testing.assert_close(found_tf, alone_tf, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", CONFIGS)
def test_silence_and_a_batch_of_nothing(name: str) -> None:
    features(name, [torch.zeros(5000), torch.zeros(161)])
    front_end = build_front_end(CONFIGS[name])
    feats_btf, lens_b = front_end(torch.zeros(0, 5000), torch.zeros(0, dtype=torch.int64))
    assert feats_btf.shape == (0, front_end.num_frames(5000), front_end.num_mels)
    assert lens_b.shape == (0,)


def test_norm_by_the_utterance_by_hand() -> None:
    """1 and 4: mean 2.5, unbiased variance 4.5. A constant gives 0, as does a single frame."""
    feats_btf = torch.tensor([[[1.0, -16.635532], [4.0, -16.635532], [0.0, 0.0]]]).repeat(2, 1, 1)
    feats_btf[1, 1] = 0.0
    norm = build_norm(FeatureConfig(kind="nemo"))
    found_btf = norm(feats_btf, torch.tensor([2, 1]))
    far = 1.5 / (4.5**0.5 + 1e-5)
    expected_tf = torch.tensor([[-far, 0.0], [far, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(found_btf[0], expected_tf, rtol=0, atol=1e-6)
    assert not found_btf[1].any()


@pytest.mark.parametrize("name", CONFIGS)
def test_frames_in_pieces_are_those_of_the_whole(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waves = [torch.randn(9000, generator=torch.Generator().manual_seed(0))]
    whole_tf = features(name, waves)[0]
    monkeypatch.setattr("asr.nn.features.base.FRAMES_AT_ONCE_CPU", 7)
    torch.testing.assert_close(features(name, waves)[0], whole_tf, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_frame_shift_is_10_ms(name: str) -> None:
    front_end = build_front_end(CONFIGS[name])
    assert front_end.frame_s == 0.01
    assert front_end.num_frames(10**7 + 160) == front_end.num_frames(10**7) + 1


@pytest.mark.parametrize("kind", FRONT_ENDS)
def test_kinds_that_are_exported_say_how(kind: str) -> None:
    front_end = build_front_end(FeatureConfig(kind=kind))
    if FRONT_ENDS[kind].exports:
        assert front_end.in_convolutions() is not None
    else:
        with pytest.raises(NotImplementedError):
            front_end.in_convolutions()


OTHER_VALUES = {
    "frame_ms": 32.0,
    "hop_ms": 8.0,
    "low_hz": 60.0,
    "high_hz": -400.0,
    "scale": 1.0,
    "snip_edges": False,
    "pad_s": 1.0,
}


@pytest.mark.parametrize("kind", FRONT_ENDS)
def test_a_kind_reads_the_options_that_it_declares_and_no_other(kind: str) -> None:
    def outcome(options: dict[str, object]) -> torch.Tensor:
        made = build_front_end(FeatureConfig(kind=kind, **options))  # type: ignore[arg-type]
        return made(torch.linspace(-1, 1, 4000)[None] ** 3, torch.tensor([4000]))[0]

    for name, value in OTHER_VALUES.items():
        found, usual = outcome({name: value}), outcome({})
        is_read = found.shape != usual.shape or not torch.equal(found, usual)
        assert is_read == (name in FRONT_ENDS[kind].reads), name


def test_slaneys_bank_by_hand() -> None:
    """8 bins to 8 kHz: 45.2456 mel in 9 steps; the first triangle ends at 670 Hz."""
    step_hz = (15 + 27 * 2.0794415416798357 / 1.8562979903656263) / 9 * 1000 / 15
    bank_kf = slaney_bank(8, 400, 16000)
    # bin 5 is 200 Hz, on the rising side of the first triangle, whose area is 1 and base two steps
    assert bank_kf[5, 0].item() == pytest.approx(200 / step_hz / step_hz, rel=1e-6)
    # bin 15 is 600 Hz, on its falling side
    assert bank_kf[15, 0].item() == pytest.approx((2 - 600 / step_hz) / step_hz, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            ["features.kind=whisper", "features.snip_edges=false"],
            "features.snip_edges = False: features.kind = whisper does not read it; leave it at True",
        ),
        (
            ["features.pad_s=30"],
            "features.pad_s = 30.0: features.kind = kaldi does not read it; leave it at 0.0",
        ),
        (
            ["features.kind=whisper", "features.sample_rate=8000"],
            "features.sample_rate = 8000: features.kind = whisper needs 16000",
        ),
        (
            ["features.kind=nemo", "features.pad_s=1"],
            "features.pad_s = 1.0: features.kind = nemo does not read it; leave it at 0.0",
        ),
        (
            ["features.kind=whisper", "encoder.kind=transformer", "encoder.chunk_sizes=[4]"],
            "encoder.chunk_sizes = [4]: features.kind = whisper needs whole utterances",
        ),
    ],
)
def test_refusals_name_the_kind(options: list[str], reason: str) -> None:
    with pytest.raises(InputError) as caught:
        config.load([], options)
    assert str(caught.value) == reason


def test_a_bin_without_a_frequency_is_refused() -> None:
    for kind, most, reason in (
        ("kaldi", 80, "features.num_mels = 128: too many for frames of 25 ms; some mel bin covers"),
        ("whisper", 128, "features.num_mels = 256: too many for a spectrum of 201 frequencies"),
        ("nemo", 128, "features.num_mels = 256: too many for a spectrum of 257 frequencies"),
    ):
        build_front_end(FeatureConfig(kind=kind, num_mels=most))
        with pytest.raises(InputError) as caught:
            build_front_end(FeatureConfig(kind=kind, num_mels=256 if most == 128 else 128))
        assert str(caught.value).startswith(reason)
