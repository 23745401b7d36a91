"""The level of the tests where labels are exchanged at random, by enumeration: no binomial noise.

    python tools/exact_levels.py --test-sets 1000 --out docs/results/exact-levels.json
    python tools/exact_levels.py --pairs exp/a exp/b exp/a exp/c --set test   # of real hypotheses

Errors are whole numbers, so the distribution of their summed difference over all exchanges of labels
is a product of cosines (its Fourier transform), computed exactly for each of many simulated test sets.
A test's level on a test set is the share of exchanges in which it rejects at 5 %; printed is its mean.
What `tools/check_statistics.py` counts in 10,000 trials scatters around these.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from check_statistics import (
    LEVEL,
    SPEAKERS,
    SWAPS,
    Pool,
    Trial,
    blocks,
    draw,
    normal_quantile,
    pool_of,
    simulated_pool,
)
from numpy.typing import NDArray

from asr.compare.stats.statistics import MIN_RESAMPLED, Floats

Levels = dict[str, float]  # by test, fractions


def exchanged(values_ku: Floats) -> tuple[NDArray[np.int64], Floats]:
    """(sums, their probabilities (test set, sum)) where every value's sign is a coin of its own."""
    sizes = np.abs(values_ku).astype(np.int64)
    most = int(sizes.sum(axis=1).max())
    count = 2 * most + 1
    angles = 2 * np.pi * np.arange(count) / count
    transform = np.ones((len(sizes), count))
    for size in range(1, int(sizes.max(initial=0)) + 1):
        times_k = (sizes == size).sum(axis=1)
        transform *= np.cos(size * angles) ** times_k[:, None]
    shares = np.maximum(np.fft.fft(transform, axis=1).real / count, 0.0)
    sums = np.arange(count)
    return np.where(sums > most, sums - count, sums), shares


def sign_levels(values_ku: Floats) -> Floats:
    """Of signs over the units u, per test set: ties count half from ten units on, whole below."""
    sums, shares = exchanged(values_ku)
    sizes = np.arange(int(np.abs(sums).max()) + 1)
    at = np.zeros((len(shares), len(sizes)))
    np.add.at(at.T, np.abs(sums), shares.T)
    larger = at[:, ::-1].cumsum(axis=1)[:, ::-1] - at
    ties = at / 2 if values_ku.shape[1] >= MIN_RESAMPLED else at
    return np.where(larger + ties <= LEVEL, at, 0.0).sum(axis=1)


def mapsswe_levels(unit_ku: Floats, number_k: Floats, squares_k: Floats) -> Floats:
    """Of MAPSSWE, per test set: signs are those of units of one or more of its segments.

    Args:
        number_k, squares_k: of the segments: how many, and the sum of their squared differences.
    """
    sums, shares = exchanged(unit_ku)
    number = np.maximum(number_k, 2)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = (squares_k[:, None] - sums**2 / number) / (number - 1) * number
        z = np.where(sums == 0, 0.0, np.abs(sums) / np.sqrt(spread))
    return np.where(z >= normal_quantile(LEVEL), shares, 0.0).sum(axis=1)


def levels_of(trial: Trial, swap: str) -> dict[str, Floats]:
    """Of each test whose units' signs are coins under this exchange of labels, per test set."""
    size = len(trial.words)
    units = {
        "speaker": trial.differences.sum(axis=2),
        "utterance": trial.differences.reshape(size, -1),
        "segment": trial.segments.reshape(size, -1),
    }
    # What an exchange of smaller units leaves of larger ones is not their size with another sign; on
    # average over test sets that were exchanged already it is.
    found = {"signs, speakers": sign_levels(units["speaker"])}
    if swap != "speaker":
        found["signs, utterances"] = sign_levels(units["utterance"])
    squares_k = (trial.segments**2).sum(axis=(1, 2, 3))
    found["MAPSSWE"] = mapsswe_levels(units[swap], trial.number.sum(axis=(1, 2)), squares_k)
    return found


def simulated(pool: Pool, num_speakers: int, swap: str, test_sets: int, seed: int) -> Levels:
    """Mean levels over test sets of a pool."""
    rng = np.random.default_rng([seed, num_speakers, *swap.encode()])
    found: dict[str, list[Floats]] = {}
    for size in blocks(test_sets):
        trial = draw(pool, rng, num_speakers, swap, size)
        for test, level_k in levels_of(trial, swap).items():
            found.setdefault(test, []).append(level_k)
    return {test: float(np.concatenate(parts).mean()) for test, parts in found.items()}


def of_pair(pool: Pool) -> Levels:
    """Of each test on the very utterances of two systems, with labels exchanged per its own unit, and
    of MAPSSWE per larger ones."""
    whole = Trial(pool.words_su[None], pool.number_su[None], pool.segments_sug[None])
    found = {swap: levels_of(whole, swap) for swap in SWAPS}
    own = {
        "signs, speakers": found["speaker"]["signs, speakers"],
        "signs, utterances": found["utterance"]["signs, utterances"],
        **{f"MAPSSWE, per {swap}": found[swap]["MAPSSWE"] for swap in SWAPS},
    }
    return {test: float(level_k[0]) for test, level_k in own.items()}


def markdown(rows: Sequence[tuple[str, Levels]]) -> str:
    tests = list(dict.fromkeys(test for _, levels in rows for test in levels))
    lines = ["| | " + " | ".join(tests) + " |", "|---|" + "---:|" * len(tests)]
    for row, levels in rows:
        cells = [f"{100 * levels[test]:.2f}" if test in levels else "" for test in tests]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--test-sets", type=int, default=2000)
    parser.add_argument("--pairs", type=Path, nargs="+", help="experiments, two by two, instead")
    parser.add_argument("--set", default="test", help="their decoded set")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="also write them as JSON")
    args = parser.parse_args()
    rows: list[tuple[str, Levels]] = []
    if args.pairs:
        if len(args.pairs) % 2:
            parser.error("--pairs needs an even number of experiments")
        for one, other in zip(args.pairs[::2], args.pairs[1::2], strict=True):
            levels = of_pair(pool_of((one, other), args.set))
            rows.append((f"{one.name}, {other.name}", levels))
        pairs = [levels for _, levels in rows]
        for row, of in (("mean", np.mean), ("lowest", np.min), ("highest", np.max)):
            rows.append((row, {test: float(of([one[test] for one in pairs])) for test in pairs[0]}))
    else:
        pool = simulated_pool(np.random.default_rng(args.seed), ratio=1.0)
        for swap in SWAPS:
            for speakers in SPEAKERS:
                levels = simulated(pool, speakers, swap, args.test_sets, args.seed)
                rows.append((f"labels exchanged per {swap}, {speakers} speakers", levels))
    print(markdown(rows))
    if args.out:
        content = {
            "test_sets": 1 if args.pairs else args.test_sets,
            "seed": args.seed,
            "rows": [{"row": row, "levels": levels} for row, levels in rows],
        }
        args.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
