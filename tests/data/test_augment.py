import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from asr.config import AugmentConfig
from asr.data.augment import change_speed, draw_edge_silences_s, draw_speeds, spec_augment
from asr.data.draws import draw_many, stable_hash, utterance_rng


def rngs_of(names: list[str], epoch: int = 0) -> list[np.random.Generator]:
    return [utterance_rng(1, epoch, name, "spec_augment") for name in names]


def masked_runs(row: Tensor) -> list[tuple[int, int]]:
    """(start, width) of every run of True."""
    runs: list[tuple[int, int]] = []
    for index, value in enumerate([*row.tolist(), False]):
        if value and (index == 0 or not row[index - 1]):
            start = index
        elif not value and index > 0 and row[index - 1]:
            runs.append((start, index - start))
    return runs


def test_stable_hash_is_pinned() -> None:
    # A change here changes every published training run.
    raw = b"i1:i0:s3:a-b"
    expected = int.from_bytes(hashlib.blake2b(raw, digest_size=16).digest(), "little")
    assert stable_hash(1, 0, "a-b") == expected
    assert stable_hash("ab", "c") != stable_hash("a", "bc")
    assert stable_hash(1) != stable_hash("1")
    assert stable_hash("ü") != stable_hash("u")
    assert stable_hash(-1) != stable_hash(1)


def test_same_numbers_in_another_process_with_another_hash_seed() -> None:
    program = (
        "from asr.data.draws import utterance_rng;"
        "print(utterance_rng(3, 7, '19-198-0001', 'speed').integers(0, 2**62, 4).tolist())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    there = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    here = utterance_rng(3, 7, "19-198-0001", "speed").integers(0, 2**62, 4).tolist()
    assert there.stdout == f"{here}\n"


def test_every_part_of_the_key_matters() -> None:
    keys = [
        (1, 0, "a", "speed"),
        (2, 0, "a", "speed"),
        (1, 1, "a", "speed"),
        (1, 0, "b", "speed"),
        (1, 0, "a", "noise"),
    ]
    drawn = {float(utterance_rng(*key).random()) for key in keys}
    assert len(drawn) == len(keys)


def test_uniform_over_utterances() -> None:
    drawn = np.array([utterance_rng(0, 0, f"utt{i}", "x").random() for i in range(4000)])
    counts, _ = np.histogram(drawn, bins=10, range=(0, 1))
    # chi-squared with 9 degrees of freedom: 33.7 is the 0.9999 quantile
    assert ((counts - 400) ** 2 / 400).sum() < 33.7


def test_half_of_the_edges_are_bare_and_the_others_uniform() -> None:
    keys = np.arange(4000, dtype=np.uint64) * 977
    config = AugmentConfig(edge_silence_s=0.8)
    drawn_2n = draw_edge_silences_s(keys, 1, 3, config)
    assert drawn_2n.shape == (2, 4000)
    for silences_n in drawn_2n:
        assert (silences_n == 0.0).sum() == pytest.approx(2000, abs=120)
        counts, _ = np.histogram(silences_n[silences_n > 0.0], bins=8, range=(0.0, 0.8))
        assert counts == pytest.approx(250, abs=70)
    # before and after, and epochs, and seeds have draws of their own
    for other_n in (
        drawn_2n[1],
        draw_edge_silences_s(keys, 1, 4, config)[0],
        draw_edge_silences_s(keys, 2, 3, config)[0],
    ):
        assert abs(np.corrcoef(drawn_2n[0], other_n)[0, 1]) < 0.08
    assert not draw_edge_silences_s(keys, 1, 3, AugmentConfig()).any()


def test_masks_do_not_depend_on_the_batch() -> None:
    config = AugmentConfig()
    names = [f"utt{i}" for i in range(6)]
    lens_b = torch.tensor([300, 120, 40, 999, 7, 500])
    feats_btf = torch.ones(6, 999, 80)
    together = spec_augment(feats_btf, lens_b, rngs_of(names), config)
    for index, length in enumerate(lens_b.tolist()):
        single = spec_augment(
            torch.ones(1, length, 80), lens_b[index : index + 1], rngs_of([names[index]]), config
        )
        assert torch.equal(together[index, :length], single[0])
    other_epoch = spec_augment(feats_btf, lens_b, rngs_of(names, epoch=1), config)
    assert not torch.equal(together, other_epoch)
    assert (feats_btf == 1).all(), "the input is left alone"


def test_what_is_masked_is_zero_and_the_rest_untouched() -> None:
    feats_btf = torch.randn(4, 200, 80) + 10
    lens_b = torch.full((4,), 200)
    out = spec_augment(feats_btf, lens_b, rngs_of(list("abcd")), AugmentConfig())
    masked = out == 0
    assert masked.any()
    assert torch.equal(out[~masked], feats_btf[~masked])
    # Whole rows and columns and nothing else.
    rows_bt, columns_bf = masked.all(2), masked.all(1)
    assert torch.equal(masked, rows_bt[:, :, None] | columns_bf[:, None, :])


def test_one_time_mask_stays_inside_and_within_its_fraction() -> None:
    config = AugmentConfig(
        num_freq_masks=0, num_time_masks=1, time_mask_fraction=0.2, time_masks_per_s=100.0
    )
    lens_b = torch.randint(20, 120, (500,), generator=torch.Generator().manual_seed(0))
    feats_btf = torch.ones(500, 140, 4)
    out = spec_augment(feats_btf, lens_b, rngs_of([f"u{i}" for i in range(500)]), config)
    shares, edges = [], set()
    for row_t, length in zip(out[:, :, 0] == 0, lens_b.tolist(), strict=True):
        runs = masked_runs(row_t)
        assert len(runs) <= 1
        for start, width in runs:
            assert width <= int(0.2 * length)
            assert start + width <= length
            edges |= {"first"} if start == 0 else set()
            edges |= {"last"} if start + width == length else set()
        shares.append(sum(width for _, width in runs) / int(0.2 * length))
    assert edges == {"first", "last"}
    assert 0.45 < np.mean(shares) < 0.55
    assert max(shares) == 1.0
    assert min(shares) == 0.0


def test_one_frequency_mask_is_as_wide_as_asked_and_covers_every_bin() -> None:
    config = AugmentConfig(num_freq_masks=1, max_freq_mask=10, num_time_masks=0)
    out = spec_augment(
        torch.ones(800, 3, 20),
        torch.full((800,), 3),
        rngs_of([f"u{i}" for i in range(800)]),
        config,
    )
    widths = (out[:, 0] == 0).sum(1)
    assert widths.min() == 0
    assert widths.max() == 10
    assert 4.5 < widths.float().mean() < 5.5
    assert ((out[:, 0] == 0).sum(0) > 0).all()


def test_a_mask_wider_than_the_bins_is_cut_to_them() -> None:
    config = AugmentConfig(num_freq_masks=1, max_freq_mask=27, num_time_masks=0)
    out = spec_augment(
        torch.ones(200, 2, 8), torch.full((200,), 2), rngs_of([f"u{i}" for i in range(200)]), config
    )
    assert (out == 0).all((1, 2)).any()


@pytest.mark.parametrize(
    ("seconds", "per_s", "most", "expected"),
    [
        (4.0, 1.0, 10, 4),
        (4.0, 0.4, 10, 2),
        (60.0, 1.0, 10, 10),
        (0.4, 1.0, 10, 0),
        (5.0, 1.0, 0, 0),
    ],
)
def test_number_of_time_masks(seconds: float, per_s: float, most: int, expected: int) -> None:
    config = AugmentConfig(
        num_freq_masks=0, num_time_masks=most, time_mask_fraction=0.01, time_masks_per_s=per_s
    )
    frames = round(seconds * 100)
    batch = 60
    out = spec_augment(
        torch.ones(batch, frames, 2),
        torch.full((batch,), frames),
        rngs_of([f"u{i}" for i in range(batch)]),
        config,
    )
    masked_bt = out[:, :, 0] == 0
    widest = int(0.01 * frames)
    assert masked_bt.sum(1).max() <= expected * widest
    if expected:
        # Touching masks merge and some have width 0, but not in every utterance.
        assert max(len(masked_runs(row_t)) for row_t in masked_bt) == expected


def test_switched_off_or_empty_is_a_no_op() -> None:
    feats_btf = torch.randn(2, 50, 8)
    lens_b = torch.tensor([50, 20])
    off = AugmentConfig(num_freq_masks=0, num_time_masks=0)
    assert torch.equal(spec_augment(feats_btf, lens_b, rngs_of(["a", "b"]), off), feats_btf)
    empty = torch.zeros(2, 0, 8)
    no_lens = torch.zeros(2, dtype=torch.long)
    assert spec_augment(empty, no_lens, rngs_of(["a", "b"]), AugmentConfig()).shape == (2, 0, 8)


def peak_hz(wave_n: np.ndarray, rate: int) -> float:
    spectrum = np.abs(np.fft.rfft(wave_n * np.hanning(len(wave_n))))
    return float(spectrum.argmax()) * rate / len(wave_n)


@pytest.mark.parametrize("factor", [0.9, 1.1, 1.25])
def test_speed_changes_length_and_pitch_together(factor: float) -> None:
    rate = 16000
    wave_n = (0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * rate) / rate)).astype(np.float32)
    faster_n = change_speed(wave_n, factor, rate)
    assert faster_n.dtype == np.float32
    assert abs(len(faster_n) - len(wave_n) / factor) <= 1
    assert peak_hz(faster_n, rate) == pytest.approx(440 * factor, abs=2)
    inner = faster_n[rate // 4 : -rate // 4]
    assert np.sqrt(np.mean(inner**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.01)
    assert np.array_equal(faster_n, change_speed(wave_n, factor, rate))


def test_speed_one_leaves_the_samples_alone() -> None:
    wave_n = np.linspace(-1, 1, 1000, dtype=np.float32)
    assert change_speed(wave_n, 1.0, 16000) is wave_n


def test_speeds_are_drawn_evenly() -> None:
    config = AugmentConfig(speed_factors=[0.9, 1.0, 1.1])
    drawn = draw_speeds(np.arange(3000, dtype=np.uint64), 0, 0, config)
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == [0.9, 1.0, 1.1]
    assert (abs(counts - 1000) < 120).all()


def test_draws_for_many_are_each_keys_own_and_uniform() -> None:
    keys = np.array([stable_hash(f"u{i}") & (1 << 64) - 1 for i in range(20000)], dtype=np.uint64)
    drawn = draw_many(keys, 1, 0, "speed")
    assert np.array_equal(draw_many(keys[5:6], 1, 0, "speed"), drawn[5:6])
    assert 0 <= drawn.min() < drawn.max() < 1
    counts, _ = np.histogram(drawn, bins=10, range=(0, 1))
    # chi-squared with 9 degrees of freedom: 33.7 is the 0.9999 quantile
    assert ((counts - 2000) ** 2 / 2000).sum() < 33.7
    # consecutive keys, epochs, seeds and purposes have nothing to do with each other
    consecutive = draw_many(np.arange(20000, dtype=np.uint64), 1, 0, "speed")
    assert abs(np.corrcoef(consecutive[1:], consecutive[:-1])[0, 1]) < 0.03
    for parts in ((1, 1, "speed"), (2, 0, "speed"), (1, 0, "noise")):
        assert abs(np.corrcoef(drawn, draw_many(keys, *parts))[0, 1]) < 0.03


def test_draws_for_many_by_hand() -> None:
    # SplitMix64's mixing written out with whole numbers
    state = (7 + stable_hash(1, "x")) % 2**64
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
    state ^= state >> 31
    assert draw_many(np.array([7], dtype=np.uint64), 1, "x")[0] == (state >> 11) / 2**53
