"""The level of the tests where labels are exchanged at random, by enumeration: no binomial noise.

    python tools/exact_levels.py --test-sets 2000 --out docs/results/exact-levels.json

Errors are whole numbers, so the distribution of their summed difference over all exchanges of labels
is a product of cosines (its Fourier transform), computed exactly for each of many simulated test sets.
A test's level on a test set is the share of exchanges in which it rejects at 5 %; printed is its mean.
What `tools/check_statistics.py` counts in 10,000 trials scatters around these.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from check_statistics import LEVEL, SWAPS, Pool, blocks, draw, normal_quantile, simulated_pool
from numpy.typing import NDArray

from asr.evaluate.statistics import MIN_RESAMPLED, Floats


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
    """Of random signs over the units u with the mid p-value, per test set."""
    sums, shares = exchanged(values_ku)
    sizes = np.arange(int(np.abs(sums).max()) + 1)
    at = np.zeros((len(shares), len(sizes)))
    np.add.at(at.T, np.abs(sums), shares.T)
    larger = at[:, ::-1].cumsum(axis=1)[:, ::-1] - at
    return np.where(larger + at / 2 <= LEVEL, at, 0.0).sum(axis=1)


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


def levels(pool: Pool, num_speakers: int, swap: str, test_sets: int, seed: int) -> dict[str, float]:
    """Mean level of each test whose units' signs are coins under this exchange of labels."""
    rng = np.random.default_rng([seed, num_speakers, *swap.encode()])
    found: dict[str, list[Floats]] = {}
    for size in blocks(test_sets):
        trial = draw(pool, rng, num_speakers, swap, size)
        units = {
            "speaker": trial.differences.sum(axis=2),
            "utterance": trial.differences.reshape(size, -1),
            "segment": trial.segments.reshape(size, -1),
        }
        if num_speakers >= MIN_RESAMPLED:
            found.setdefault("random signs, speakers", []).append(sign_levels(units["speaker"]))
        if swap != "speaker":
            signs = sign_levels(units["utterance"])
            found.setdefault("random signs, utterances", []).append(signs)
        squares_k = (trial.segments**2).sum(axis=(1, 2, 3))
        number_k = trial.number.sum(axis=(1, 2))
        level = mapsswe_levels(units[swap], number_k, squares_k)
        found.setdefault("MAPSSWE", []).append(level)
    return {test: float(np.concatenate(parts).mean()) for test, parts in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--test-sets", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="also write them as JSON")
    args = parser.parse_args()
    pool = simulated_pool(np.random.default_rng(args.seed), ratio=1.0)
    tests = ("random signs, speakers", "random signs, utterances", "MAPSSWE")
    print("| labels exchanged per | speakers | " + " | ".join(tests) + " |")
    print("|---|---:|" + "---:|" * len(tests))
    rows = []
    for swap in SWAPS:
        for num_speakers in (4, 10, 20, 40):
            found = levels(pool, num_speakers, swap, args.test_sets, args.seed)
            cells = [f"{100 * found[test]:.2f}" if test in found else "" for test in tests]
            print(f"| {swap} | {num_speakers} | {' | '.join(cells)} |", flush=True)
            rows.append({"swap": swap, "speakers": num_speakers, "levels": found})
    if args.out:
        content = {"test_sets": args.test_sets, "seed": args.seed, "rows": rows}
        args.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
