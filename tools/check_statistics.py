"""Do the tests of `asr compare` reject as often as they say, and do its intervals cover?

    python tools/check_statistics.py --trials 10000 --out docs/results/statistics.json
    python tools/check_statistics.py --pair exp/a exp/b --set test      # a null from real hypotheses

Null trials draw a new test set from a pool of decoded utterances (speakers, each once) and exchange the
two systems' labels at random, per speaker, per utterance or per segment (MAPSSWE's own unit), so
that no test may reject more often than 5 %. The pool is simulated, or the hypotheses of two
experiments. Prints Markdown; exit status 1 if a rate that a test vouches for is outside its binomial
interval. The intervals are simultaneous: with Bonferroni's correction for the number of rates that
are vouched for, all of them hold 5 % in 95 of 100 runs of a tool whose tests are right.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np

from asr.compare.stats.hierarchical import contrast
from asr.compare.stats.mapsswe import Slot, errors_by_word, segment_errors
from asr.compare.stats.statistics import (
    MIN_RESAMPLED,
    Floats,
    all_signs,
    log_t,
    random_signs,
    resample_totals,
    student,
    studentised_bootstrap,
)
from asr.compare.stats.student import two_sided_normal, two_sided_t
from asr.decode.decoded import read_hypotheses

LEVEL = 0.05
RESAMPLES = 999
BLOCK = 100  # trials computed together, with the same resamples
UTTERANCES = 20  # per speaker
SPEAKERS = (4, 6, 10, 20, 40)  # of a test set


@dataclass(frozen=True)
class Rate:
    """How often something happened. vouched: ``equal`` to or ``at most`` expected, or nothing."""

    table: str
    row: str
    column: str
    rate: float
    trials: int
    expected: float
    vouched: str

    def outside(self, z: float) -> bool:
        """Whether it is further from what is expected than z standard errors, on a side that counts."""
        error = math.sqrt(self.expected * (1 - self.expected) / self.trials)
        above = self.rate > self.expected + z * error
        below = self.rate < self.expected - z * error
        return {"equal": above or below, "at most": above, "": False}[self.vouched]


def normal_quantile(outside: float) -> float:
    """The z that a normal variable's size exceeds with this probability."""
    return NormalDist().inv_cdf(1 - outside / 2)


@dataclass(frozen=True)
class Pool:
    """Per speaker and utterance: words, and the second system's errors minus the first's in each of
    MAPSSWE's segments; there may be fewer (``number_su``) than there is room for."""

    words_su: Floats
    segments_sug: Floats
    number_su: Floats


def simulated_pool(rng: np.random.Generator, ratio: float, num_speakers: int = 150) -> Pool:
    """Word by word: speakers' error rates vary by 70 %, systems differ by 30 % between speakers.

    Args:
        ratio: error rate of the second system over that of the first.
    """
    words = rng.integers(3, 11, size=(num_speakers, UTTERANCES))
    common_s = 0.1 * rng.gamma(2.0, 0.5, size=num_speakers)
    own_2s = common_s * np.exp(rng.normal(0, 0.3, size=(2, num_speakers)))
    own_2s[1] *= ratio
    speakers = []
    for s in range(num_speakers):
        rows = []
        for u in range(UTTERANCES):
            hard = rng.random(words[s, u]) < common_s[s] / 2  # for both systems alike
            wrong = [hard | (rng.random(words[s, u]) < rate / 2) for rate in own_2s[:, s]]
            slots = [[Slot(0, int(one)) for one in system] for system in wrong]
            rows.append((int(words[s, u]), segment_differences(*slots)))
        speakers.append(rows)
    return padded(speakers)


def padded(speakers: Sequence[Sequence[tuple[int, list[int]]]]) -> Pool:
    """Of (words, segments' differences) of each utterance of each speaker; room is filled with 0."""
    shape = (len(speakers), max(len(rows) for rows in speakers))
    most = max(len(segments) for rows in speakers for _, segments in rows)
    words, number, differences = np.zeros(shape), np.zeros(shape), np.zeros((*shape, most))
    for s, rows in enumerate(speakers):
        for u, (count, segments) in enumerate(rows):
            words[s, u], number[s, u] = count, len(segments)
            differences[s, u, : len(segments)] = segments
    return Pool(words, differences, number)


def pool_of(pair: Sequence[Path], set_name: str) -> Pool:
    """The hypotheses of two experiments; speakers with fewer utterances are padded with nothing."""
    one, other = (
        {u.id: u for u in read_hypotheses(folder / "decode" / set_name)} for folder in pair
    )
    speakers: dict[str, list[tuple[int, list[int]]]] = {}
    for id_, utterance in one.items():
        reference = utterance.reference.split()
        slots = [
            errors_by_word(reference, system[id_].hypothesis.split()) for system in (one, other)
        ]
        row = (len(reference), segment_differences(*slots))
        speakers.setdefault(utterance.speaker, []).append(row)
    return padded(list(speakers.values()))


def segment_differences(one: Sequence[Slot], other: Sequence[Slot]) -> list[int]:
    return [b - a for a, b in segment_errors(one, other)]


@dataclass(frozen=True)
class Trial:
    """A block of test sets: words and number of segments (trial, speaker, utterance), differences of
    the segments (trial, speaker, utterance, segment)."""

    words: Floats
    number: Floats
    segments: Floats

    @property
    def differences(self) -> Floats:
        """(trial, speaker, utterance)"""
        return self.segments.sum(axis=3)


# How many axes of ``Trial.segments`` have a sign of their own.
SWAPS = {"speaker": 2, "utterance": 3, "segment": 4}


def draw(pool: Pool, rng: np.random.Generator, num_speakers: int, swap: str, size: int) -> Trial:
    """New test sets. swap: exchange labels per ``speaker``, ``utterance``, ``segment`` or ``never``."""
    chosen = rng.random((size, len(pool.words_su))).argsort(axis=1)[:, :num_speakers]
    segments = pool.segments_sug[chosen]
    if swap != "never":
        axes = SWAPS[swap]
        shape = segments.shape[:axes] + (1,) * (4 - axes)
        segments = segments * rng.choice([-1.0, 1.0], size=shape)
    return Trial(pool.words_su[chosen], pool.number_su[chosen], segments)


def p_values(trial: Trial, seed: int) -> dict[str, Floats]:
    """Of each test, one per trial; `asr compare` does not use the last two."""
    size, num_speakers, _ = trial.words.shape
    by_speaker = trial.differences.sum(axis=2).T, trial.words.sum(axis=2).T
    by_utterance = trial.differences.reshape(size, -1).T, trial.words.reshape(size, -1).T
    number = np.maximum(trial.number.sum(axis=(1, 2)), 2)
    total, squares = trial.segments.sum(axis=(1, 2, 3)), (trial.segments**2).sum(axis=(1, 2, 3))
    variance = (squares - total**2 / number) / (number - 1)
    with np.errstate(invalid="ignore"):
        z = np.where(total == 0, 0.0, total / np.sqrt(number * variance))
    found = {}
    if num_speakers >= MIN_RESAMPLED:
        found["signs, speakers"] = random_signs(*by_speaker, RESAMPLES, seed, 0.95).p_k
    else:
        found["signs, speakers"] = all_signs(*by_speaker, 0.95).p_k
    found["signs, utterances"] = random_signs(*by_utterance, RESAMPLES, seed, 0.95).p_k
    found["MAPSSWE"] = np.array([two_sided_normal(float(one)) for one in z])
    found["t, speakers"] = student(*by_speaker, 0.95).p_k
    found["percentile bootstrap, speakers"] = percentile_p(*by_speaker, seed)
    return found


def percentile_p(differences_uk: Floats, words_uk: Floats, seed: int) -> Floats:
    """Twice the smaller share of resamples on either side of zero."""
    totals = resample_totals(np.concatenate([differences_uk, words_uk], axis=1), RESAMPLES, seed)
    differences_rk = totals[:, : differences_uk.shape[1]]
    sides = [(differences_rk <= 0).mean(axis=0), (differences_rk >= 0).mean(axis=0)]
    return np.minimum(1.0, 2 * np.minimum(*sides))


def vouched_for(test: str, swap: str, num_speakers: int) -> str:
    """What a test says of its level under this null: none of anything larger than its own units."""
    few = num_speakers < 20  # of which few utterances differ, so signs are coarse and z not normal
    if test == "signs, speakers":
        return "at most" if few else "equal"
    own = {"signs, utterances": ("utterance", "segment"), "MAPSSWE": ("segment",)}
    return "equal" if swap in own.get(test, ()) and not few else ""


def system_rates(pool: Pool, trials: int, swap: str, table: str, seed: int) -> list[Rate]:
    rates = []
    # Of all the speakers there is one test set: nothing to count where no labels are exchanged.
    most = len(pool.words_su) - (swap == "never")
    for num_speakers in (one for one in SPEAKERS if one <= most):
        rng = np.random.default_rng([seed, num_speakers, *swap.encode()])
        rejected: dict[str, int] = {}
        for number, size in enumerate(blocks(trials)):
            trial = draw(pool, rng, num_speakers, swap, size)
            # Exchanges of its own for each block, or rates would depend on one draw of them.
            for test, p_k in p_values(trial, seed + number).items():
                rejected[test] = rejected.get(test, 0) + int((p_k <= LEVEL).sum())
        for test, count in rejected.items():
            vouched = vouched_for(test, swap, num_speakers) if swap != "never" else ""
            row = f"{num_speakers} speakers"
            rates.append(Rate(table, row, test, count / trials, trials, LEVEL, vouched))
    return rates


def type_rates(trials: int, gain: float, table: str, seed: int) -> list[Rate]:
    """Two types. gain: by how much the second type's error rate is lower."""
    rates: list[Rate] = []
    for num_speakers, seeds, positions in (
        *((20, 3, 1), (20, 5, 1), (20, 3, 6)),
        *((10, 3, 1), (4, 3, 1), (4, 3, 6)),
    ):
        sources: tuple[tuple[str, float | tuple[float, float], float], ...] = (
            ("seeds by 5 %, types x speakers by 20 %", 0.05, 0.2),
            ("seeds by 10 %, types x speakers by 20 %", 0.1, 0.2),
            ("seeds by 10 %", 0.1, 0.0),
            ("seeds of one type by 2 %, of the other by 20 %", (0.02, 0.2), 0.0),
            ("nothing but utterances", 0.0, 0.0),
        )
        for name, seed_sd, speaker_sd in sources:
            rng = np.random.default_rng([seed, len(rates)])
            rejected = np.zeros(3)
            for size in blocks(trials):
                shape = (size, 2, positions, seeds, num_speakers)
                rejected += _type_rejections(rng, shape, seed_sd, speaker_sd, 1 - gain)
            row = f"{name}; {num_speakers} speakers, {seeds} seeds"
            row += f" x {positions} positions" if positions > 1 else ""
            columns = ("hierarchical t", "seeds alone", "speakers alone")
            for column, count in zip(columns, rejected, strict=True):
                enough = num_speakers >= MIN_RESAMPLED
                equal = not isinstance(seed_sd, tuple)
                own = column == "hierarchical t" and not gain and enough and equal
                says = "at most" if own else ""
                rates.append(Rate(table, row, column, count / trials, trials, LEVEL, says))
    return rates


def _type_rejections(
    rng: np.random.Generator,
    shape: tuple[int, int, int, int, int],
    seed_sd: float | tuple[float, float],
    speaker_sd: float,
    ratio: float,
) -> Floats:
    """(3) trials that each test rejects; ``shape``: trials, types, positions, seeds, speakers."""
    size, _, positions, seeds, speakers = shape
    words = rng.integers(80, 180, size=(size, speakers)).astype(float)
    rate = 0.12 * rng.gamma(2.0, 0.5, size=(size, 1, 1, 1, speakers))
    rate = rate * np.exp(rng.normal(0, speaker_sd, size=(size, 2, 1, 1, speakers)))
    sd = np.reshape(seed_sd, (-1, 1, 1, 1))
    # of mean 1, or types of unequal seeds would differ
    rate = rate * np.exp(rng.normal(-(sd**2) / 2, sd, size=(size, 2, positions, seeds, 1)))
    rate = rate * np.array([1.0, ratio])[None, :, None, None, None]
    errors = rng.poisson(rate * words[:, None, None, None], size=shape).astype(float)
    num_runs = 2 * positions * seeds
    weight_r = np.repeat([-1.0, 1.0], num_runs // 2) / (num_runs // 2)
    type_r = np.repeat(np.arange(2 * positions), seeds)
    found = contrast(errors.reshape(size, num_runs, speakers), words, weight_r, type_r.tolist())
    p = [
        (np.sqrt(found.variance_k), found.df_k),
        (found.seeds_k, np.full(size, float(num_runs - 2 * positions))),
        (found.speakers_k, np.full(size, speakers - 1.0)),
    ]
    return np.array(
        [
            sum(
                two_sided_t(float(t), float(df)) <= LEVEL
                for t, df in zip(found.estimate_k / error_k, df_k, strict=True)
            )
            for error_k, df_k in p
        ],
        dtype=float,
    )


def coverage(trials: int, seed: int) -> list[Rate]:
    """Of intervals of one WER for the speakers' population."""
    rates = []
    for spread in (0.1, 0.7, 1.0):
        for num_speakers in (4, 10, 20, 40):
            rng = np.random.default_rng(seed)
            covered: dict[str, int] = {}
            for size in blocks(trials):
                words = rng.integers(80, 180, size=(num_speakers, size)).astype(float)
                factor = rng.gamma(spread**-2, spread**2, size=(num_speakers, size))
                errors = rng.poisson(0.12 * factor * words).astype(float)
                for name, (low, high) in intervals(errors, words).items():
                    hits = int(((low <= 0.12) & (high >= 0.12)).sum())
                    covered[name] = covered.get(name, 0) + hits
            row = f"{num_speakers} speakers, rates vary by {100 * spread:.0f} %"
            for name, count in covered.items():
                rates.append(Rate("coverage", row, name, count / trials, trials, 0.95, ""))
    return rates


def intervals(errors_uk: Floats, words_uk: Floats) -> dict[str, tuple[Floats, Floats]]:
    totals = resample_totals(np.concatenate([errors_uk, words_uk], axis=1), RESAMPLES, 1)
    wer_rk = totals[:, : errors_uk.shape[1]] / totals[:, errors_uk.shape[1] :]
    few = len(errors_uk) < MIN_RESAMPLED
    used = (
        log_t(errors_uk, words_uk, 0.95)
        if few
        else studentised_bootstrap(errors_uk, words_uk, RESAMPLES, 1, 0.95)
    )
    low, high = np.quantile(wer_rk, [0.025, 0.975], axis=0)
    return {"`asr compare`": used, "percentile bootstrap": (low, high)}


def blocks(trials: int) -> list[int]:
    return [min(BLOCK, trials - start) for start in range(0, trials, BLOCK)]


def markdown(rates: Sequence[Rate], z: float) -> str:
    lines = []
    for table in dict.fromkeys(rate.table for rate in rates):
        chosen = [rate for rate in rates if rate.table == table]
        columns = list(dict.fromkeys(rate.column for rate in chosen))
        lines += [f"### {table}", "", "| | " + " | ".join(columns) + " |"]
        lines.append("|---|" + "---:|" * len(columns))
        for row in dict.fromkeys(rate.row for rate in chosen):
            cells = {rate.column: cell(rate, z) for rate in chosen if rate.row == row}
            lines.append(f"| {row} | " + " | ".join(cells.get(c, "") for c in columns) + " |")
        lines.append("")
    return "\n".join(lines)


def cell(rate: Rate, z: float) -> str:
    text = f"{100 * rate.rate:.2f}"
    if not rate.vouched:
        return text
    return f"**{text} (wrong)**" if rate.outside(z) else f"**{text}**"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--pair", type=Path, nargs=2, help="two experiments instead of a simulation"
    )
    parser.add_argument("--set", default="test", help="their decoded set")
    parser.add_argument("--out", type=Path, help="also write every rate as JSON")
    args = parser.parse_args()
    if args.pair:
        pool = pool_of(args.pair, args.set)
    else:
        pool = simulated_pool(np.random.default_rng(args.seed), ratio=1.0)
    rates: list[Rate] = []
    for swap in SWAPS:
        title = f"rejections %, no difference: labels exchanged per {swap}"
        rates += system_rates(pool, args.trials, swap, title, args.seed)
    if args.pair:
        rates += system_rates(pool, args.trials, "never", "power %, as they are", args.seed)
    else:
        for ratio in (0.9, 0.8):
            title = f"power %, the second system's own errors times {ratio}"
            planted = simulated_pool(np.random.default_rng(args.seed), ratio)
            rates += system_rates(planted, args.trials, "never", title, args.seed)
        title = "types, rejections %, no difference"
        rates += type_rates(args.trials, 0.0, title, args.seed)
        rates += type_rates(args.trials, 0.1, "types, power %, error rate 10 % lower", args.seed)
        rates += coverage(args.trials, args.seed)
    vouched = [rate for rate in rates if rate.vouched]
    z = normal_quantile(0.05 / max(1, len(vouched)))
    print(markdown(rates, z))
    alone = [rate for rate in vouched if rate.outside(normal_quantile(0.05))]
    half = 100 * z * math.sqrt(LEVEL * (1 - LEVEL) / args.trials)
    print(
        f"{len(vouched)} rates are vouched for; simultaneous interval {5 - half:.2f} to "
        f"{5 + half:.2f} %; {len(alone)} are outside their own 95 % interval."
    )
    if args.out:
        content = {
            "trials": args.trials,
            "seed": args.seed,
            "z": z,
            "rates": [asdict(rate) for rate in rates],
        }
        args.out.write_text(json.dumps(content, indent=1) + "\n")
    wrong = [rate for rate in vouched if rate.outside(z)]
    for rate in wrong:
        print(f"WRONG: {rate}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
