#!/usr/bin/env python
"""Simulate how much data softmax and sigmoid attention need: excess error of fits against N.

    python recipes/sample_efficiency/attention.py --out docs/results/attention-sample

Teacher and student are single attention layers in all four crossings of softmax and sigmoid; the
student has one head more than the teacher (and, as a check of the fit, as many where both have the
same weighting). N sequences with a noisy output row each are drawn from a random teacher and fitted by
least squares. The excess error is the mean squared difference of the fit from the teacher's noiseless
output on fresh sequences. Writes OUT.json (every repetition), OUT.md and OUT.png.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from attention_fit import FP64, KEY, OUT, QUERY, VALUE, Data, fit, outputs, products
from attention_report import write_page
from run_record import record
from torch import Tensor

WEIGHTINGS = ("softmax", "sigmoid")
KEYS, DIM, HEAD_DIM, HEADS = 8, 4, 2, 2  # of the teacher; tokens are standard normal
SCORE_STD = 2.0  # of the teacher's scores: neither uniform attention nor a hard choice
NOISE = 0.5  # standard deviation; every teacher's output has variance 1
FRESH = 16384  # sequences of the excess error
# STARTS random starts take SHORT iterations on at most SCREEN sequences; the best CHAINS go on.
STARTS, SHORT, SCREEN, CHAINS = 8, 25, 1024, 3
ITERATIONS = 100
# A fit is done when steps gain less than GAIN noise variances; where no student equals the teacher,
# RELATIVE_GAIN of all noise is small against the excess error.
GAIN, RELATIVE_GAIN = 0.05, 1e-5
SIZES = [64, 128, 256, 1024, 4096, 16384, 65536]
SMALLEST = 64  # sequences: 256 outputs for the 96 weights of three heads
ORACLE = 16384  # most sequences of the fits that start at the teacher


@dataclass(frozen=True)
class Crossing:
    """Weighting of teacher and student; extra: heads the student has more than the teacher."""

    teacher: str
    student: str
    extra: int

    @property
    def name(self) -> str:
        heads = "one head too many" if self.extra else "exact"
        return f"{self.teacher} teacher, {self.student} student, {heads}"

    @property
    def specified(self) -> bool:
        """Whether some student equals the teacher."""
        return self.teacher == self.student


CROSSINGS = [Crossing(t, s, 1) for t in WEIGHTINGS for s in WEIGHTINGS]
CROSSINGS += [Crossing(one, one, 0) for one in WEIGHTINGS]


def draw_layers(num: int, heads: int, generator: torch.Generator) -> Tensor:
    """Random weights (num, heads, 4, DIM, HEAD_DIM) whose scores have SCORE_STD for normal tokens."""
    theta = torch.randn(num, heads, 4, DIM, HEAD_DIM, generator=generator, dtype=FP64)
    size_rh = products(theta)[0].square().sum((2, 3)).sqrt()  # of normal x: std of x'Bz is |B|
    theta[:, :, [QUERY, KEY]] *= (SCORE_STD / size_rh).sqrt()[..., None, None, None]
    theta[:, :, [VALUE, OUT]] /= (heads * DIM * HEAD_DIM) ** 0.25
    return theta


def draw_teachers(x_kin: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """One draw of weights behind both weightings, outputs scaled to variance 1 on ``x_kin``."""
    drawn = draw_layers(1, HEADS, generator)
    found = {}
    for weighting in WEIGHTINGS:
        theta = drawn.clone()
        theta[:, :, OUT] /= outputs(weighting, theta, x_kin).square().mean().sqrt()
        found[weighting] = theta
    return found


def fit_sizes(
    one: Crossing, data: Data, sizes: list[int], generator: torch.Generator
) -> list[tuple[Tensor, Tensor]]:
    """(weights, sums of squares) of the fits at every size, best first.

    Up to SCREEN sequences they start at random and from the best fits to fewer sequences, beyond that
    from the latter alone.
    """
    found: list[tuple[Tensor, Tensor]] = []
    for size in sizes:
        start = found[-1][0][: kept(size)] if found else None
        if size <= SCREEN or start is None:
            drawn = draw_layers(STARTS, HEADS + one.extra, generator)
            start = drawn if start is None else torch.cat([drawn, start])
            start = refit(one, start, data.first(min(size, SCREEN)), SHORT)[0][:CHAINS]
        found.append(refit(one, start, data.first(size), ITERATIONS))
    return found


def kept(size: int) -> int:
    """How many fits go on to ``size`` sequences."""
    return CHAINS if size <= 4 * SCREEN else 2 if size <= 16 * SCREEN else 1


def refit(one: Crossing, start: Tensor, data: Data, iterations: int) -> tuple[Tensor, Tensor]:
    """(weights, sums of squares) of fits from ``start`` to all of ``data``, best first."""
    least = GAIN if one.specified else max(GAIN, RELATIVE_GAIN * data.y_on.numel())
    theta, squares = fit(one.student, start, data, NOISE, iterations, least)
    order = squares.argsort()
    return theta[order], squares[order]


def repetition(sizes: list[int], seed: int, number: int) -> dict[str, dict[str, list[float]]]:
    """Measures of every crossing at every size.

    Teachers, sequences and noise are the same for all crossings; smaller sizes are the first sequences
    of the largest.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + number)

    def tokens(num: int) -> Tensor:
        return torch.randn(KEYS, DIM, num, generator=generator, dtype=FP64)

    fresh_kin, x_kin = tokens(FRESH), tokens(max(sizes))
    teachers = draw_teachers(fresh_kin, generator)
    noise_on = NOISE * torch.randn(DIM, max(sizes), generator=generator, dtype=FP64)
    found = {}
    for one in CROSSINGS:
        teacher = teachers[one.teacher]
        data = Data.of(x_kin, outputs(one.teacher, teacher, x_kin)[0] + noise_on).single()
        fits = fit_sizes(one, data, sizes, generator)
        best = torch.stack([theta[0] for theta, _ in fits])
        true_on = outputs(one.teacher, teacher, fresh_kin)[0]
        wrong_son = outputs(one.student, best, fresh_kin) - true_on
        measured = {
            "excess": rounded(wrong_son.square().mean((1, 2)).tolist()),
            **training_errors(fits, noise_on, sizes),
        }
        if one.specified:
            measured["oracle"] = oracle(one, teacher, data, sizes)
        found[one.name] = measured
    return found


def training_errors(
    fits: list[tuple[Tensor, Tensor]], noise_on: Tensor, sizes: list[int]
) -> dict[str, list[float]]:
    """``training``: mean squared residual over the noise variance; ``second``: that of the second
    best fit, where there is one; ``gain``: by how many noise variances the fit's sum of squares is
    below the teacher's (of an exact student at its optimum: chi-squared, with a degree of freedom for
    every parameter)."""
    best = [float(squares[0]) for _, squares in fits]
    second = [float(squares[1]) for _, squares in fits if len(squares) > 1]
    teachers = [float(noise_on[:, :size].square().sum()) for size in sizes]
    gains = [(true - own) / NOISE**2 for true, own in zip(teachers, best, strict=True)]
    return {
        "training": relative(best, sizes),
        "second": relative(second, sizes),
        "gain": rounded(gains),
    }


def relative(squares: list[float], sizes: list[int]) -> list[float]:
    return rounded(
        [own / (size * DIM * NOISE**2) for own, size in zip(squares, sizes, strict=False)]
    )


def oracle(one: Crossing, teacher: Tensor, data: Data, sizes: list[int]) -> list[float]:
    """Training errors, up to ORACLE sequences, of fits that start at the teacher.

    A head too many starts as a copy of the first head with a tenth of its output.
    """
    spare = teacher[:, :1].clone()
    spare[:, :, [VALUE, OUT]] *= 0.1**0.5
    start = torch.cat([teacher, spare], 1) if one.extra else teacher
    small = [size for size in sizes if size <= ORACLE]
    return relative(
        [float(refit(one, start, data.first(size), ITERATIONS)[1][0]) for size in small], small
    )


def rounded(values: list[float]) -> list[float]:
    return [float(f"{value:.7g}") for value in values]


def num_parameters(heads: int) -> int:
    """Dimension of the functions: two matrices of rank HEAD_DIM per head."""
    return heads * 2 * (2 * DIM * HEAD_DIM - HEAD_DIM**2)


def simulate(sizes: list[int], repetitions: int, seed: int) -> dict[str, dict[str, Any]]:
    """Each measure of every crossing as a list over repetitions of lists over sizes."""
    found: dict[str, dict[str, Any]] = {one.name: {**asdict(one)} for one in CROSSINGS}
    for number in range(repetitions):
        begun = time.perf_counter()
        for name, measured in repetition(sizes, seed, number).items():
            for key, values in measured.items():
                found[name].setdefault(key, []).append(values)
        took = time.perf_counter() - begun
        print(
            f"repetition {number + 1} of {repetitions}: {took:.0f} s", file=sys.stderr, flush=True
        )
    return found


def parsed(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add(
        "--sizes",
        type=int,
        nargs="+",
        default=SIZES,
        metavar="N",
        help="numbers of training sequences, rising (default: 64 to 65536)",
    )
    add("--repetitions", type=int, default=20, help="independent teachers and data (default: 20)")
    add("--seed", type=int, default=1, help="random seed (default: 1)")
    add("--out", type=Path, default=Path("attention-sample"), help="stem of the files written")
    add("--from-json", action="store_true", help="render page and picture again from OUT.json")
    args = parser.parse_args(words)
    if len(args.sizes) < 2 or sorted(set(args.sizes)) != args.sizes or args.sizes[0] < SMALLEST:
        parser.error(f"--sizes: at least two rising numbers from {SMALLEST} on, not {args.sizes}")
    if args.repetitions < 2:
        parser.error(f"--repetitions: at least 2, not {args.repetitions}")
    if args.from_json and not args.out.with_suffix(".json").is_file():
        parser.error(f"--from-json: there is no {args.out.with_suffix('.json')}")
    return args


def main() -> None:
    args = parsed()
    path = args.out.with_suffix(".json")
    if not args.from_json:
        torch.set_num_threads(1)
        run = record(
            f"python recipes/sample_efficiency/attention.py --sizes {' '.join(map(str, args.sizes))} "
            f"--repetitions {args.repetitions} --seed {args.seed} --out {args.out}",
            ["attention.py", "attention_fit.py"],
        )
        begun = time.perf_counter()
        results = simulate(args.sizes, args.repetitions, args.seed)
        run["minutes"] = (time.perf_counter() - begun) / 60
        setting = {"noise": NOISE, "score_std": SCORE_STD, "keys": KEYS, "channels": DIM}
        setting |= {"heads": HEADS, "head_dim": HEAD_DIM, "fresh": FRESH, "starts": STARTS}
        parameters = {str(extra): num_parameters(HEADS + extra) for extra in (0, 1)}
        content = {
            "run": run,
            "setting": setting,
            "parameters": parameters,
            "sizes": args.sizes,
            "results": results,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content) + "\n")
    write_page(json.loads(path.read_text()), args.out)


if __name__ == "__main__":
    main()
