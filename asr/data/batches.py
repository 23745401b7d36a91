"""Which utterances make up which batch and which optimiser step: pure functions of the durations.

Step k of epoch e is a function of (durations, seed, e): resuming needs no replay, and every process
that asks gets the same answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from asr.errors import InputError

# Relative spread of the lengths that share a step: enough for new company every epoch, little
# enough that padding stays cheap.
LENGTH_JITTER = 0.05


class DurationBatches:
    """Utterances of similar length in steps of equal audio, cut into batches of bounded padding.

    A *step* is what one optimiser update consumes: about ``global_batch_s`` seconds of audio. Which
    utterances it holds depends on neither ``max_batch_s`` nor the machine. A *batch* is what is
    computed at once: at most ``max_batch_s`` padded seconds (longest times count). Every epoch has
    every utterance exactly once and the same number of steps.
    """

    def __init__(
        self,
        durations_s: np.ndarray,
        max_batch_s: float,
        seed: int,
        global_batch_s: float | None = None,
        ids: Sequence[str] | None = None,
    ) -> None:
        """
        Args:
            durations_s: seconds of each utterance.
            max_batch_s: the most padded seconds in a batch.
            seed: of the order.
            global_batch_s: seconds per step; by default a step is one batch's worth.
            ids: names for messages.

        Raises:
            InputError: no utterance, a duration that is not positive, or one above ``max_batch_s``.
        """
        self.durations_s = check_durations(durations_s, max_batch_s, ids)
        self.max_batch_s = max_batch_s
        self.seed = seed
        self._ids = ids
        total_s = float(self.durations_s.sum())
        # By default leave room for padding, so that a step is mostly one batch.
        wanted = round(total_s / (0.95 * max_batch_s if global_batch_s is None else global_batch_s))
        self.num_steps = min(max(1, wanted), len(self.durations_s))  # of every epoch

    def steps(self, epoch: int, durations_s: np.ndarray | None = None) -> list[list[np.ndarray]]:
        """The steps of an epoch in order; each is a list of batches, each batch holds indices.

        Args:
            durations_s: seconds as this epoch plays the utterances, where speeds change; the number
                of steps stays.

        Raises:
            InputError: such a duration is above ``max_batch_s``.
        """
        if durations_s is None:
            durations_s = self.durations_s
        else:
            durations_s = check_durations(durations_s, self.max_batch_s, self._ids)
            assert durations_s.shape == self.durations_s.shape
        rng = np.random.default_rng([self.seed, epoch])
        jitter = rng.uniform(1 - LENGTH_JITTER, 1 + LENGTH_JITTER, len(durations_s))
        order = np.argsort(durations_s * jitter, kind="stable")
        steps = np.split(order, _cut_points(durations_s[order], self.num_steps))
        chosen = rng.permutation(self.num_steps)
        return [_cut_batches(steps[step], durations_s, self.max_batch_s, rng) for step in chosen]

    def epoch(self, epoch: int, durations_s: np.ndarray | None = None) -> list[np.ndarray]:
        """All batches of an epoch in the order of their steps; see ``steps``."""
        return [batch for step in self.steps(epoch, durations_s) for batch in step]

    @property
    def waste(self) -> float:
        """Share of the padded seconds that is padding, epoch 0."""
        return padding_waste(self.epoch(0), self.durations_s)


def _cut_points(ordered_s: np.ndarray, num_steps: int) -> np.ndarray:
    """Where to cut ``ordered_s`` into num_steps non-empty parts of equal audio."""
    ends_s = np.cumsum(ordered_s)
    targets_s = ends_s[-1] * np.arange(1, num_steps) / num_steps
    cuts = np.searchsorted(ends_s - ordered_s / 2, targets_s)
    # Long utterances can swallow a target; each part still gets one utterance at least.
    rank = np.arange(1, num_steps)
    cuts = np.maximum.accumulate(np.maximum(cuts, rank) - rank) + rank
    return np.minimum(cuts, len(ordered_s) - num_steps + rank)


def _cut_batches(
    step: np.ndarray, durations_s: np.ndarray, max_batch_s: float, rng: np.random.Generator
) -> list[np.ndarray]:
    falling = step[np.argsort(-durations_s[step], kind="stable")]
    ends = even_cuts(durations_s[falling], max_batch_s)
    batches = [rng.permutation(batch) for batch in np.split(falling, ends)]
    return [batches[index] for index in rng.permutation(len(batches))]


def check_durations(
    durations_s: np.ndarray, max_batch_s: float, ids: Sequence[str] | None = None
) -> np.ndarray:
    """The durations as float64, each of them fit to be batched; see ``DurationBatches``."""
    durations_s = np.asarray(durations_s, dtype=np.float64)
    if durations_s.size == 0:
        raise InputError("there are no utterances to make batches of")
    for wrong, reason in (
        (~(durations_s > 0), "a duration must be positive"),
        (durations_s > max_batch_s, f"longer than train.max_batch_s = {max_batch_s:g}"),
    ):
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0])
            name = f"number {first}" if ids is None else ids[first]
            raise InputError(f"utterance {name} of {durations_s[first]:g} s: {reason}")
    return durations_s


def even_cuts(falling_s: np.ndarray, max_batch_s: float) -> np.ndarray:
    """Cut durations in falling order into as few batches as ``max_batch_s`` allows, evenly.

    Greedy filling leaves a last batch of crumbs, which costs a pass for little audio; lowering
    the bound until one more batch would be needed spreads the same number evenly.
    """
    best = _greedy_cuts(falling_s, max_batch_s)
    low_s, high_s = float(falling_s[0]), max_batch_s
    while best.size and high_s - low_s > 0.01 * max_batch_s:
        middle_s = (low_s + high_s) / 2
        cuts = _greedy_cuts(falling_s, middle_s)
        if cuts.size == best.size:
            best, high_s = cuts, middle_s
        else:
            low_s = middle_s
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
