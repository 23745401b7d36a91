import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.data.batches import (
    DurationBatches,
    even_cuts,
    padding_waste,
    sorted_batches,
    split_step,
)
from asr.errors import InputError


def librispeech_like(count: int, seed: int = 0) -> np.ndarray:
    """Most utterances of 12 to 17 s, a quarter spread from 1.4 s up: train-clean-100's picture."""
    rng = np.random.default_rng(seed)
    bulk = rng.normal(14.2, 1.3, count)
    tail = rng.uniform(1.4, 16.0, count)
    return np.where(rng.random(count) < 0.75, bulk, tail).clip(1.4, 24.5)


def padded_s(batch: np.ndarray, durations_s: np.ndarray) -> float:
    return float(durations_s[batch].max() * len(batch))


durations = st.lists(st.floats(0.05, 20.0), min_size=1, max_size=200).map(np.array)


@given(
    durations_s=durations,
    max_batch_s=st.floats(20.0, 100.0),
    global_batch_s=st.floats(1.0, 300.0) | st.none(),
    epoch=st.integers(0, 5),
)
@settings(max_examples=150, deadline=None)
def test_every_utterance_once_within_the_bound(
    durations_s: np.ndarray, max_batch_s: float, global_batch_s: float | None, epoch: int
) -> None:
    plan = DurationBatches(durations_s, max_batch_s, 1, global_batch_s)
    steps = list(plan.plan(epoch))
    assert len(steps) == plan.num_steps >= 1
    assert all(len(step) >= 1 for step in steps)
    batches = [batch for step in steps for batch in step]
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(durations_s)))
    assert all(len(batch) >= 1 for batch in batches)
    assert all(padded_s(batch, durations_s) <= max_batch_s * (1 + 1e-6) for batch in batches)
    flat = plan.epoch(epoch)
    assert len(flat) == len(batches)
    assert all(np.array_equal(a, b) for a, b in zip(flat, batches, strict=True))


def as_lists(steps: Iterable[list[np.ndarray]]) -> list[list[list[int]]]:
    return [[batch.tolist() for batch in step] for step in steps]


def test_a_pure_function_of_durations_seed_and_epoch() -> None:
    durations_s = librispeech_like(500)
    first = DurationBatches(durations_s, 100, 1, 200)
    second = DurationBatches(durations_s.copy(), 100, 1, 200)
    second.plan(0)[0]  # asking for another epoch first changes nothing
    assert as_lists(first.plan(3)) == as_lists(second.plan(3))
    assert as_lists(first.plan(3)) != as_lists(first.plan(4))
    other_seed = DurationBatches(durations_s, 100, 2, 200)
    assert as_lists(first.plan(3)) != as_lists(other_seed.plan(3))


def test_what_a_step_holds_does_not_depend_on_the_machine() -> None:
    durations_s = librispeech_like(2000)
    small = list(DurationBatches(durations_s, 60, 1, 300).plan(2))
    large = list(DurationBatches(durations_s, 1000, 1, 300).plan(2))
    for step, same in zip(small, large, strict=True):
        assert set(np.concatenate(step)) == set(np.concatenate(same))
    assert all(len(step) == 1 for step in large)
    assert all(len(step) >= 5 for step in small)


@pytest.mark.parametrize("global_batch_s", [60.0, 300.0, 600.0])
def test_every_step_has_about_the_asked_seconds(global_batch_s: float) -> None:
    durations_s = librispeech_like(3000)
    plan = DurationBatches(durations_s, 300, 1, global_batch_s)
    seconds = [sum(durations_s[batch].sum() for batch in step) for step in plan.plan(0)]
    longest = durations_s.max()
    assert plan.num_steps == round(durations_s.sum() / global_batch_s)
    assert min(seconds) > global_batch_s - 1.5 * longest
    assert max(seconds) < global_batch_s + 1.5 * longest


@pytest.mark.parametrize(
    ("max_batch_s", "global_batch_s"), [(300, 600), (600, 600), (100, 600), (100, None)]
)
def test_padding_is_under_five_percent(max_batch_s: float, global_batch_s: float | None) -> None:
    plan = DurationBatches(librispeech_like(5000), max_batch_s, 1, global_batch_s)
    assert 0 < plan.waste < 0.05


def test_padding_of_real_librispeech_is_under_five_percent() -> None:
    root = os.environ.get("SIGMOID_ASR_DATA")
    if not root:
        pytest.skip("SIGMOID_ASR_DATA is not set: no real speech here")
    folder = Path(root) / "librispeech-mini" / "LibriSpeech"
    infos = [soundfile.info(path) for path in folder.glob("*/*/*/*.*") if path.suffix != ".txt"]
    durations_s = np.array([info.frames / info.samplerate for info in infos])
    assert len(durations_s) > 2000
    for max_batch_s, global_batch_s in ((300, 600), (600, 600), (100, 600), (100, None), (60, 60)):
        batches = DurationBatches(durations_s, max_batch_s, 1, global_batch_s)
        assert 0 < batches.waste < 0.05


def test_short_utterances_of_a_small_set_pad_little_too() -> None:
    durations_s = np.random.default_rng(0).uniform(1, 6, 1500)
    assert DurationBatches(durations_s, 60, 1, 60).waste < 0.05


def test_order_is_shuffled_and_company_changes() -> None:
    durations_s = librispeech_like(3000)
    plan = DurationBatches(durations_s, 150, 1, 150)
    means = [durations_s[step[0]].mean() for step in plan.plan(0)]
    ranks = np.argsort(np.argsort(means))
    correlation = np.corrcoef(ranks, np.arange(len(ranks)))[0, 1]
    assert abs(correlation) < 0.25
    neighbours = []
    for epoch in (0, 1):
        batch = next(batch for batch in plan.epoch(epoch) if 17 in batch)
        neighbours.append(set(batch.tolist()) - {17})
    assert len(neighbours[0] & neighbours[1]) < 0.5 * len(neighbours[0])


def test_speeds_of_an_epoch_keep_the_bound_and_the_number_of_steps() -> None:
    durations_s = librispeech_like(800)
    plan = DurationBatches(durations_s, 60, 1, 120)
    played_s = durations_s / np.random.default_rng(1).choice([0.9, 1.0, 1.1], 800)
    steps = list(plan.plan(1, played_s))
    assert len(steps) == plan.num_steps
    batches = [batch for step in steps for batch in step]
    assert max(padded_s(batch, played_s) for batch in batches) <= 60
    assert padding_waste(batches, played_s) < 0.05
    too_slow_s = durations_s * 60 / durations_s.max() * 1.01
    with pytest.raises(InputError, match="max_batch_s = 60"):
        plan.plan(1, too_slow_s)


def test_more_steps_than_utterances_is_capped() -> None:
    plan = DurationBatches(np.array([10.0, 10.0]), 20, 1, 1.0)
    assert plan.num_steps == 2
    assert [len(batch) for batch in plan.epoch(0)] == [1, 1]


def test_a_last_batch_is_not_crumbs() -> None:
    falling_s = np.full(31, 10.0)
    sizes = np.diff([0, *even_cuts(falling_s, 300), 31])
    assert sorted(sizes.tolist()) == [15, 16]


def test_bad_durations_name_the_utterance_and_the_option() -> None:
    with pytest.raises(
        InputError, match=r"utterance b of 31 s: longer than train.max_batch_s = 30"
    ):
        DurationBatches(np.array([3.0, 31.0]), 30, 1, ids=["a", "b"])
    with pytest.raises(InputError, match=r"utterance number 0 of 0 s: .* positive"):
        DurationBatches(np.array([0.0]), 30, 1)
    with pytest.raises(InputError, match=r"utterance b of nan s: .* positive"):
        DurationBatches(np.array([1.0, np.nan]), 30, 1, ids=["a", "b"])
    with pytest.raises(InputError, match="no utterances"):
        DurationBatches(np.array([]), 30, 1)


@given(durations_s=durations, max_batch_s=st.floats(0.01, 60.0))
@settings(max_examples=100, deadline=None)
def test_sorted_batches_cover_everything_longest_first(
    durations_s: np.ndarray, max_batch_s: float
) -> None:
    batches = sorted_batches(durations_s, max_batch_s)
    order = np.concatenate(batches)
    assert sorted(order.tolist()) == list(range(len(durations_s)))
    assert (np.diff(durations_s[order]) <= 0).all()
    for batch in batches:
        assert len(batch) == 1 or padded_s(batch, durations_s) <= max_batch_s * (1 + 1e-6)


def test_sorted_batches_of_nothing() -> None:
    assert sorted_batches(np.array([]), 10.0) == []


def test_waste_by_hand() -> None:
    durations_s = np.array([4.0, 3.0, 1.0])
    assert padding_waste([np.array([0, 1]), np.array([2])], durations_s) == pytest.approx(1 / 9)


@pytest.mark.parametrize("attention_balance_s", [0.0, 30.0])
@given(
    durations_s=durations,
    max_batch_s=st.floats(34.0, 100.0),  # 20 s of balance 30 s cost 33.3 s
    global_batch_s=st.floats(1.0, 300.0),
    world_size=st.integers(1, 9),
)
@settings(max_examples=100, deadline=None)
def test_shares_are_a_step_and_equally_many_batches(
    durations_s: np.ndarray,
    max_batch_s: float,
    global_batch_s: float,
    world_size: int,
    attention_balance_s: float,
) -> None:
    batches = DurationBatches(
        durations_s, max_batch_s, 1, global_batch_s, attention_balance_s=attention_balance_s
    )
    plan = batches.plan(0)
    assert len(plan) == batches.num_steps == len(batches.plan(1))
    seen: list[int] = []
    for step in range(len(plan)):
        shares = [plan.share(step, rank, world_size) for rank in range(world_size)]
        indices = np.concatenate([batch for share in shares for batch in share]).tolist()
        assert sorted(indices) == sorted(plan.utterances(step).tolist())
        assert sorted(indices) == sorted(np.concatenate(plan[step]).tolist())
        seen += indices
        assert len({len(share) for share in shares}) == 1
        counts = [sum(map(len, share)) for share in shares]
        assert min(counts) > 0 or len(indices) < world_size
        for batch in (batch for share in shares for batch in share if len(batch) > 1):
            longest_s = durations_s[batch].max()
            cost_s = len(batch) * longest_s
            if attention_balance_s:
                cost_s += len(batch) * longest_s**2 / attention_balance_s
            assert cost_s <= max_batch_s * (1 + 1e-6)
    assert sorted(seen) == list(range(len(durations_s)))


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_shares_cost_about_the_same(world_size: int) -> None:
    durations_s = librispeech_like(4000)
    plan = DurationBatches(durations_s, 120, 1, 150.0 * world_size).plan(0)
    busy_s, idle_s = 0.0, 0.0
    for step in range(len(plan)):
        work_s = [
            sum(padded_s(batch, durations_s) for batch in plan.share(step, rank, world_size))
            for rank in range(world_size)
        ]
        busy_s += sum(work_s)
        idle_s += world_size * max(work_s) - sum(work_s)
    assert idle_s / busy_s < 0.06
    shares = [plan.share(step, 0, world_size) for step in range(len(plan))]
    waste = padding_waste([batch for share in shares for batch in share], durations_s)
    assert waste < 0.05


def test_any_step_alone_is_the_step_of_the_whole_epoch() -> None:
    durations_s = librispeech_like(600)
    batches = DurationBatches(durations_s, 100, 7, 200)
    whole = as_lists(batches.plan(4))
    for step in (len(whole) - 1, 0, 11):
        assert as_lists([batches.plan(4)[step]]) == [whole[step]]
    with pytest.raises(IndexError, match=f"step {len(whole)} of an epoch of {len(whole)}"):
        batches.plan(4)[len(whole)]


def test_attention_bounds_a_batch_by_hand() -> None:
    # 20 s cost 20 (1 + 20 / 20) = 40 s; three make 120 s. Of seconds alone six would fit.
    batches = DurationBatches(np.full(6, 20.0), 120, 1, 120, attention_balance_s=20.0)
    assert [len(batch) for batch in batches.epoch(0)] == [3, 3]
    assert [len(batch) for batch in DurationBatches(np.full(6, 20.0), 120, 1, 120).epoch(0)] == [6]
    with pytest.raises(
        InputError, match=r"of 20 s: longer than train.max_batch_s = 30 \(train.att"
    ):
        DurationBatches(np.full(6, 20.0), 30, 1, attention_balance_s=20.0)


def test_shares_by_hand() -> None:
    costs_s = np.array([5.0, 8.0, 6.0, 7.0])
    shares = [split_step(np.arange(4), costs_s, 8.0, rank, 2) for rank in range(2)]
    # no two fit into 8 s; forth and back: 8 and 5 to the one, 7 and 6 to the other
    assert [[batch.tolist() for batch in share] for share in shares] == [[[1], [0]], [[3], [2]]]
    # two utterances for three processes: one goes without
    shares = [split_step(np.arange(2), costs_s, 100.0, rank, 3) for rank in range(3)]
    assert [[batch.tolist() for batch in share] for share in shares] == [[[1]], [[0]], [[]]]
