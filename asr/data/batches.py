"""Which utterances make up which batch and which optimiser step: pure functions of the durations.

Step k of epoch e is a function of (durations, seed, e, k): resuming needs no replay, and every process
that asks gets the same answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from asr.data.mixing import Mixture
from asr.errors import InputError

# Relative spread of the lengths that share a step: enough for new company every epoch, little
# enough that padding stays cheap.
LENGTH_JITTER = 0.05
_STEPS_FOR_WASTE = 500


class DurationBatches:
    """Utterances of similar length in steps of equal audio, cut into batches of bounded padding.

    A *step* is what one optimiser update consumes: about ``global_batch_s`` seconds of audio. Which
    utterances it holds depends on neither ``max_batch_s`` nor the machine. A *batch* is what is
    computed at once: at most ``max_batch_s`` padded seconds (longest times count). Every epoch has
    the same number of steps and every utterance exactly once, or those its mixture draws.
    """

    def __init__(
        self,
        durations_s: np.ndarray,
        max_batch_s: float,
        seed: int,
        global_batch_s: float | None = None,
        ids: Sequence[str] | None = None,
        attention_balance_s: float = 0.0,
        mixture: Mixture | None = None,
    ) -> None:
        """
        Args:
            durations_s: seconds of each utterance.
            max_batch_s: the most padded seconds in a batch.
            seed: of the order.
            global_batch_s: seconds per step; by default a step is one batch's worth.
            ids: names for messages.
            attention_balance_s: where attention costs as much as all else; see ``costs_s``.
            mixture: which utterances an epoch plays; None: all.

        Raises:
            InputError: no utterance, a duration that is not positive, or one above ``max_batch_s``.
        """
        self.durations_s = check_durations(durations_s, max_batch_s, ids, attention_balance_s)
        self.max_batch_s = max_batch_s
        self.attention_balance_s = attention_balance_s
        self.seed = seed
        self._ids = ids
        self._mixture = mixture
        rates = 1.0 if mixture is None else mixture.rates
        total_s = float((self.durations_s * rates).sum())
        # By default leave room for padding, so that a step is mostly one batch.
        wanted = round(total_s / (0.95 * max_batch_s if global_batch_s is None else global_batch_s))
        least = len(self.durations_s) if mixture is None else mixture.least
        self.num_steps = min(max(1, wanted), least)  # of every epoch

    def plan(self, epoch: int, durations_s: np.ndarray | None = None) -> EpochPlan:
        """The steps of an epoch, each computed when it is asked for.

        Args:
            durations_s: seconds as this epoch plays the utterances, where speeds change; the number
                of steps stays.

        Raises:
            InputError: such a duration is above ``max_batch_s``.
        """
        if durations_s is None:
            durations_s = self.durations_s
        else:
            durations_s = check_durations(
                durations_s, self.max_batch_s, self._ids, self.attention_balance_s
            )
            assert durations_s.shape == self.durations_s.shape
        rng = np.random.default_rng([self.seed, epoch])
        jitter = rng.uniform(1 - LENGTH_JITTER, 1 + LENGTH_JITTER, len(durations_s))
        order = np.argsort(durations_s * jitter, kind="stable")
        if self._mixture is not None:
            played = np.zeros(len(order), dtype=bool)
            played[self._mixture.indices(epoch)] = True
            order = order[played[order]]
        cuts = _cut_points(durations_s[order], self.num_steps)
        bounds = np.concatenate([[0], cuts, [len(order)]])
        chosen = rng.permutation(self.num_steps)
        batch_costs_s = costs_s(durations_s, self.attention_balance_s)
        return EpochPlan(order, bounds[chosen], bounds[chosen + 1], batch_costs_s, self.max_batch_s)

    def epoch(self, epoch: int, durations_s: np.ndarray | None = None) -> list[np.ndarray]:
        """All batches of an epoch in the order of their steps; see ``plan``."""
        return [batch for step in self.plan(epoch, durations_s) for batch in step]

    @property
    def waste(self) -> float:
        """Share of the padded seconds that is padding, epoch 0 (of many steps, some of them)."""
        plan = self.plan(0)
        some = range(0, len(plan), max(1, len(plan) // _STEPS_FOR_WASTE))
        return padding_waste([batch for step in some for batch in plan[step]], self.durations_s)


class EpochPlan:
    """The steps of one epoch in order: ``len(plan)`` of them, ``plan[k]`` the batches of step k.

    A step is computed when it is asked for and depends on no other, so that training can begin at
    any step and each of several processes can ask for its own share.
    """

    def __init__(
        self,
        order: np.ndarray,
        starts: np.ndarray,
        ends: np.ndarray,
        batch_costs_s: np.ndarray,
        max_batch_s: float,
    ) -> None:
        """Step k holds the utterances ``order[starts[k] : ends[k]]``."""
        self._order, self._starts, self._ends = order, starts, ends
        self._costs_s, self._max_batch_s = batch_costs_s, max_batch_s

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, step: int) -> list[np.ndarray]:
        """The batches of a step, for one process; each holds indices of utterances."""
        return self.share(step, 0, 1)

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        return (self[step] for step in range(len(self)))

    def utterances(self, step: int) -> np.ndarray:
        """The indices of a step's utterances, whoever computes them."""
        if not 0 <= step < len(self):
            raise IndexError(f"step {step} of an epoch of {len(self)}")
        return self._order[self._starts[step] : self._ends[step]]

    def share(self, step: int, rank: int, world_size: int) -> list[np.ndarray]:
        """One process' batches of a step; see ``split_step``."""
        return split_step(self.utterances(step), self._costs_s, self._max_batch_s, rank, world_size)


def split_step(
    indices: np.ndarray,
    batch_costs_s: np.ndarray,
    max_batch_s: float,
    rank: int = 0,
    world_size: int = 1,
) -> list[np.ndarray]:
    """One process' batches of a step whose utterances are ``indices``.

    All processes get the same number of batches, so that what they do together happens equally
    often; together they hold every utterance once. Work (a batch's longest times its count) is
    spread evenly. An empty batch fills up a share where there are fewer utterances than batches
    asked for; a whole share is empty only where there are fewer utterances than processes.

    Args:
        batch_costs_s: of all utterances, from ``costs_s``; ``indices`` point into it.
        max_batch_s: the most that a batch may cost.
    """
    assert 0 <= rank < world_size
    falling = indices[np.argsort(-batch_costs_s[indices], kind="stable")]
    batches = np.split(falling, even_cuts(batch_costs_s[falling], max_batch_s, world_size))
    batches.sort(key=lambda batch: -len(batch) * batch_costs_s[batch[0]])
    share = []
    for turn, start in enumerate(range(0, len(batches), world_size)):
        # Dealt forth and back: who got the most in one turn gets the least in the next.
        place = start + (rank if turn % 2 == 0 else world_size - 1 - rank)
        share.append(batches[place] if place < len(batches) else falling[:0])
    return share


def costs_s(durations_s: np.ndarray, attention_balance_s: float) -> np.ndarray:
    """What an utterance costs to compute, in seconds of audio that attend to nothing.

    ``d (1 + d / attention_balance_s)`` for d seconds: attention grows with the square, and at
    ``attention_balance_s`` costs as much as everything else. 0: only seconds count.
    """
    if attention_balance_s == 0.0:
        return durations_s
    return durations_s * (1.0 + durations_s / attention_balance_s)


def _cut_points(ordered_s: np.ndarray, num_steps: int) -> np.ndarray:
    """Where to cut ``ordered_s`` into num_steps non-empty parts of equal audio."""
    ends_s = np.cumsum(ordered_s)
    targets_s = ends_s[-1] * np.arange(1, num_steps) / num_steps
    cuts = np.searchsorted(ends_s - ordered_s / 2, targets_s)
    # Long utterances can swallow a target; each part still gets one utterance at least.
    rank = np.arange(1, num_steps)
    cuts = np.maximum.accumulate(np.maximum(cuts, rank) - rank) + rank
    return np.minimum(cuts, len(ordered_s) - num_steps + rank)


def check_durations(
    durations_s: np.ndarray,
    max_batch_s: float,
    ids: Sequence[str] | None = None,
    attention_balance_s: float = 0.0,
) -> np.ndarray:
    """The durations as float64, each of them fit to be batched; see ``DurationBatches``."""
    durations_s = np.asarray(durations_s, dtype=np.float64)
    if durations_s.size == 0:
        raise InputError("there are no utterances to make batches of")
    too_costly = f"train.max_batch_s = {max_batch_s:g}"
    if attention_balance_s:
        too_costly += f" (train.attention_balance_s = {attention_balance_s:g} counted)"
    for wrong, reason in (
        (~(durations_s > 0), "a duration must be positive"),
        (costs_s(durations_s, attention_balance_s) > max_batch_s, f"longer than {too_costly}"),
    ):
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0])
            name = f"number {first}" if ids is None else ids[first]
            raise InputError(f"utterance {name} of {durations_s[first]:g} s: {reason}")
    return durations_s


def even_cuts(falling_s: np.ndarray, max_batch_s: float, multiple: int = 1) -> np.ndarray:
    """Cut costs in falling order into as few batches as ``max_batch_s`` allows, evenly.

    The number of batches is a ``multiple`` (or as many as there are utterances). Greedy filling
    leaves a last batch of crumbs, which costs a pass for little audio; lowering the bound until one
    more batch would be needed spreads the same number evenly.
    """
    best = _greedy_cuts(falling_s, max_batch_s)
    num_batches = min(-(-(best.size + 1) // multiple) * multiple, len(falling_s))
    low_s, high_s = float(falling_s[0]), max_batch_s
    while num_batches > 1 and high_s - low_s > 0.01 * high_s:
        middle_s = (low_s + high_s) / 2
        cuts = _greedy_cuts(falling_s, middle_s)
        if cuts.size < num_batches:
            best, high_s = cuts, middle_s
        else:
            low_s = middle_s
    while best.size + 1 < num_batches:
        best = _halve_costliest(falling_s, best)
    return best


def _greedy_cuts(falling_s: np.ndarray, limit_s: float) -> np.ndarray:
    cuts: list[int] = []
    start = 0
    while True:
        # The first of a batch is its longest; the tolerance keeps 10 x 0.1 s within 1 s.
        start += max(1, int(limit_s / falling_s[start] * (1 + 1e-9)))
        if start >= len(falling_s):
            return np.array(cuts, dtype=np.int64)
        cuts.append(start)


def _halve_costliest(falling_s: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """One cut more, through the costliest batch that holds two utterances."""
    starts = np.concatenate([[0], cuts])
    sizes = np.diff([*starts, len(falling_s)])
    costliest = int(np.argmax(np.where(sizes > 1, sizes * falling_s[starts], -1.0)))
    return np.sort(np.append(cuts, starts[costliest] + sizes[costliest] // 2))


def sorted_batches(durations_s: np.ndarray, max_batch_s: float) -> list[np.ndarray]:
    """Every utterance once, longest first, least padding: for validation and decoding.

    An utterance longer than ``max_batch_s`` gets a batch of its own. Longest first, so that what
    does not fit in memory fails at once.
    """
    durations_s = np.asarray(durations_s, dtype=np.float64)
    if durations_s.size == 0:
        return []
    falling = np.argsort(-durations_s, kind="stable")
    return np.split(falling, _greedy_cuts(durations_s[falling], max_batch_s))


def padding_waste(batches: Sequence[np.ndarray], durations_s: np.ndarray) -> float:
    """Share of the padded seconds of these batches that is padding."""
    padded_s = sum(float(durations_s[batch].max()) * len(batch) for batch in batches)
    audio_s = sum(float(durations_s[batch].sum()) for batch in batches)
    return 1.0 - audio_s / padded_s if padded_s > 0 else 0.0
