#!/usr/bin/env python
"""Simulate how fast experts are learnt behind softmax and sigmoid gates: Voronoi losses against n.

    python recipes/sample_efficiency/moe.py --out docs/results/moe         # minutes on one CPU core

A row of attention read as a mixture of experts with quadratic gating (Yan et al. 2025, arXiv
2502.00281): y = sum_j gate_j(x) expert_j(x) + noise, with scores s_j(x) = A_j x^2 + b_j x + c_j and
gates softmax(s) or, one by one, sigmoid(s_j). n points are drawn from two experts, and two (exact) or
three (one too many) are fitted by least squares in a box, which stands for the theory's compact set:
the best of several starts near the answer, so that what is measured is the statistics and not the
optimiser. Regimes of the sigmoid gate with one too many: sparse (the gate of the expert that is fitted
twice is constant), dense (no gate is), bounded (dense, with a box that holds no expert that is 0, so
that the best answer has three experts). Writes OUT.json (every repetition), OUT.md and OUT.png.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from moe_fit import FP64, PARAMS, Model, fit, held, known, normal_equations, outputs
from moe_report import write_page
from run_record import record
from torch import Tensor
from voronoi import GATE, aligned_losses, cell_losses, matched_losses

Rows = list[list[float]]  # an expert each: A, b, c of its gate, weight and offset of the expert
FIRST, LAST = [-2.0, 0.0, 2.0, 2.0, 1.0], [2.0, 2.0, -2.0, -1.0, 0.5]
# Softmax knows scores only up to a common function: its first gate is 0.
TRUTH: dict[tuple[str, str], Rows] = {
    ("softmax", "dense"): [[0.0, 0.0, 0.0, *FIRST[GATE:]], LAST],
    ("sigmoid", "dense"): [FIRST, LAST],
    ("sigmoid", "sparse"): [FIRST, [0.0, 0.0, 0.5, *LAST[GATE:]]],
}
# Truths of the bounded regime: of 50 to 140 random ones in each of three boxes, those with the best
# condition of the information matrix at the best answer.
BOUNDED: dict[str, Rows] = {
    "tanh": [[1.71, -0.41, 0.29, 0.4, 2.38], [-0.32, -0.77, 0.33, -1.1, 2.24]],
    "linear": [[-1.1, 0.65, 1.53, 1.94, 1.76], [-1.99, -1.32, 0.35, 0.67, 1.89]],
}
BOX = 5.0  # the largest parameter of a fit, but in the bounded regime:
BOUNDED_BOX = (-2.0, -2.0, 0.0, -2.0, 1.5), (2.0, 2.0, 3.0, 2.0, 4.0)
NOISE, HALF_WIDTH = 0.02, 3.0  # of y; x is uniform in [-3, 3]
START, SPARE = 0.05, 0.3  # spread of the starts around the answer, and of the spare expert's
GRID = 2001  # points that stand for the law of x
RANK = 1e-10  # least eigenvalue of an information matrix, of its largest, that counts
GROUP = 40  # repetitions that are fitted together
MEASURES = ("voronoi", "experts", "equivalent", "function")


@dataclass(frozen=True)
class Setting:
    """gate: softmax or sigmoid; regime: dense, bounded or sparse; experts: linear or tanh; fitted."""

    gate: str
    regime: str
    experts: str
    fitted: int

    @property
    def name(self) -> str:
        kind = "exact" if self.fitted == 2 else "one too many"
        regime = f"{self.regime}, " if self.gate == "sigmoid" else ""
        return f"{self.gate}, {regime}{self.experts} experts, {kind}"

    @property
    def truth_jp(self) -> Tensor:
        rows = BOUNDED[self.experts] if self.regime == "bounded" else TRUTH[self.gate, self.regime]
        return torch.tensor(rows, dtype=FP64)

    @property
    def model(self) -> Model:
        box = ((-BOX,) * PARAMS, (BOX,) * PARAMS)
        return Model(self.gate, self.experts, *(BOUNDED_BOX if self.regime == "bounded" else box))

    @property
    def regular(self) -> bool:
        """Whether a rate of -1/2 rests on a full rank of the information matrix at the answer."""
        return self.fitted == 2 or (self.regime in ("dense", "bounded") and self.gate == "sigmoid")


SETTINGS = [
    Setting(gate, regime, experts, fitted)
    for gate, regime in [*TRUTH, ("sigmoid", "bounded")]
    for experts in ("linear", "tanh")
    for fitted in (2, 3)
    if fitted == 3 or regime == "dense"
]


# --- what is to be found ------------------------------------------------------------------------


def grid() -> Tensor:
    return torch.linspace(-HALF_WIDTH, HALF_WIDTH, GRID, dtype=FP64)[None]


@cache
def answer(setting: Setting) -> Tensor:
    """The experts nearest to the true function of as many as are fitted, (fitted, PARAMS).

    Where several are, one of them: the truth and an expert that is 0 (dense), or with the last expert
    as two equal copies that weigh as much together (softmax, sparse). In the bounded regime the best
    of 60 fits to the noiseless function.
    """
    truth = setting.truth_jp
    if setting.fitted == 2:
        return truth
    if setting.regime == "bounded":
        return best_answer(setting)
    if setting.regular:
        return torch.cat([truth, torch.zeros(1, PARAMS, dtype=FP64)])
    copy = truth[1].clone()
    half = copy[2].exp() / 2 if setting.gate == "softmax" else copy[2].sigmoid() / 2
    copy[2] = half.log() if setting.gate == "softmax" else half.logit()
    return torch.stack([truth[0], copy, copy])


def best_answer(setting: Setting, starts: int = 60) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    truth, model, x_1n = setting.truth_jp, setting.model, grid()
    y_1n = outputs(model, truth[None], x_1n)[0]
    around = torch.cat([truth, truth[:1]]).expand(starts, -1, -1)
    start = around + torch.randn(around.shape, generator=generator, dtype=FP64)
    theta, squares = fit(
        model, start, x_1n.expand(starts, -1), y_1n.expand(starts, -1), 1e-4, iterations=400
    )
    return theta[squares.argmin()]


def information(setting: Setting) -> dict[str, float]:
    """Rank and least eigenvalue of the information matrix J'J / n at the answer.

    ``free``: its size. Parameters that the box holds at the answer do not count. ``curvature``: least
    eigenvalue of the Hessian of the mean squared error over 2, which is J'J / n where the answer gives
    the true function.
    """
    found, x_1n = answer(setting)[None], grid()
    y_1n = outputs(setting.model, setting.truth_jp[None], x_1n)[0]
    jj, jr, _ = normal_equations(setting.model, found, x_1n, y_1n)
    bounded = setting.regime == "bounded"
    fixed = held(setting.model, found, jr)[0] if bounded else known(setting.model, len(found[0]))
    free = (~fixed).nonzero()[:, 0]

    def risk(theta_p: Tensor) -> Tensor:
        wrong_1n = outputs(setting.model, theta_p.view_as(found), x_1n)[0] - y_1n
        return wrong_1n.square().mean() / 2

    hessian = torch.autograd.functional.hessian(risk, found.flatten())
    values = torch.linalg.eigvalsh(jj[0][free][:, free] / x_1n.shape[1])
    rank = int((values > RANK * values[-1]).sum())
    curvature = float(torch.linalg.eigvalsh(hessian[free][:, free])[0])
    return {"rank": rank, "free": len(values), "least": float(values[0]), "curvature": curvature}


def theory(setting: Setting, rank: int, free: int) -> list[str]:
    """What the theory says of the slopes of the Voronoi loss and of the experts' error."""
    if setting.regular:
        return ["-1/2" if rank == free else "nothing"] * 2
    return ["-1/2", "-1/4"] if setting.experts == "tanh" else ["slower than any"] * 2


def voronoi_losses(setting: Setting, fitted_rkp: Tensor) -> dict[str, Tensor]:
    """Of fits: ``voronoi``, the theory's loss; ``experts``: that of the experts alone, unsquared;
    ``equivalent``: to the nearest of all parameters that give the true function."""
    if setting.gate == "softmax":
        return aligned_losses(fitted_rkp, setting.truth_jp)
    if setting.regime == "sparse":
        return cell_losses(fitted_rkp, setting.truth_jp, Tensor.sigmoid)
    nearest = answer(setting) if setting.regime == "bounded" else setting.truth_jp
    return matched_losses(fitted_rkp, nearest, setting.experts)


# --- simulation ---------------------------------------------------------------------------------


def starts(setting: Setting, repetitions: int, generator: torch.Generator) -> Tensor:
    """(start, repetition, expert, parameter): the answer; where that is not unique, the truth and a
    spare expert, which is a copy of each true one in turn, or as good as nothing behind any gate."""
    truth = setting.truth_jp
    if setting.fitted == 2:
        around, spread = [truth], [START, START]
    elif setting.regime == "bounded":
        around, spread = [answer(setting)] * 3, [SPARE] * 3
    else:
        nothing = truth.new_tensor([[0.0, 0.0, -2.0, 0.0, 0.0]])
        around = [torch.cat([truth, spare]) for spare in (truth[:1], truth[1:], nothing)]
        spread = [START, START, SPARE]
    free = ~known(setting.model, setting.fitted).view(-1, PARAMS)
    scale = truth.new_tensor(spread)[:, None] * free
    shape = (repetitions, setting.fitted, PARAMS)
    noise = [torch.randn(shape, generator=generator, dtype=FP64) for _ in around]
    return torch.stack([one + scale * own for one, own in zip(around, noise, strict=True)])


def simulate(
    setting: Setting, num_points: int, repetitions: int, seed: int
) -> dict[str, list[float]]:
    """Each measure of each repetition's best fit."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + num_points)
    counts = [min(GROUP, repetitions - done) for done in range(0, repetitions, GROUP)]
    theta = torch.cat([best_fits(setting, num_points, count, generator) for count in counts])
    true_1n = outputs(setting.model, answer(setting)[None], grid())[0]
    wrong_rn = outputs(setting.model, theta, grid().expand(repetitions, -1))[0] - true_1n
    found = {**voronoi_losses(setting, theta), "function": wrong_rn.square().mean(1).sqrt()}
    return {key: [float(f"{value:.5g}") for value in found[key]] for key in MEASURES}


def best_fits(
    setting: Setting, num_points: int, repetitions: int, generator: torch.Generator
) -> Tensor:
    start = starts(setting, repetitions, generator)
    shape = (repetitions, num_points)
    x_rn = HALF_WIDTH * (2 * torch.rand(shape, generator=generator, dtype=FP64) - 1)
    truth = setting.truth_jp.expand(repetitions, -1, -1)
    noise_rn = NOISE * torch.randn(shape, generator=generator, dtype=FP64)
    y_rn = outputs(setting.model, truth, x_rn)[0] + noise_rn
    again = (len(start), 1)
    theta, squares = fit(
        setting.model, start.flatten(0, 1), x_rn.repeat(again), y_rn.repeat(again), NOISE
    )
    best_r = squares.view(len(start), repetitions).argmin(0)
    return theta.unflatten(0, (len(start), repetitions))[best_r, torch.arange(repetitions)]


def simulate_all(sizes: list[int], repetitions: int, seed: int) -> dict[str, dict[str, Any]]:
    """Errors of every setting by size and repetition, with the information matrix and the theory."""
    results = {}
    for setting in SETTINGS:
        begun = time.perf_counter()
        by_size = [simulate(setting, size, repetitions, seed) for size in sizes]
        matrix = information(setting)
        says = theory(setting, int(matrix["rank"]), int(matrix["free"]))
        results[setting.name] = {
            "setting": asdict(setting),
            "information": matrix,
            "theory": dict(zip(("voronoi", "experts"), says, strict=True)),
            "answer": answer(setting).tolist(),
            **{kind: [one[kind] for one in by_size] for kind in MEASURES},
        }
        took = time.perf_counter() - begun
        print(f"{setting.name}: {took:.0f} s", file=sys.stderr, flush=True)
    return results


def parsed(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add(
        "--sizes", type=int, nargs="+", default=[1000, 3000, 9000], help="numbers of points, rising"
    )
    add("--repetitions", type=int, default=400, help="independent data sets (default: 400)")
    add("--seed", type=int, default=1, help="random seed (default: 1)")
    add("--out", type=Path, default=Path("moe"), help="stem of the files written")
    add("--from-json", action="store_true", help="render page and picture again from OUT.json")
    args = parser.parse_args(words)
    if len(args.sizes) < 2 or sorted(set(args.sizes)) != args.sizes or args.sizes[0] < 50:
        parser.error(f"--sizes: at least two rising numbers from 50 on, not {args.sizes}")
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
            f"python recipes/sample_efficiency/moe.py --sizes {' '.join(map(str, args.sizes))} "
            f"--repetitions {args.repetitions} --seed {args.seed} --out {args.out}",
            ["moe.py", "moe_fit.py", "voronoi.py"],
        )
        begun = time.perf_counter()
        results = simulate_all(args.sizes, args.repetitions, args.seed)
        run["minutes"] = (time.perf_counter() - begun) / 60
        content = {"run": run, "sizes": args.sizes, "noise": NOISE, "results": results}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content) + "\n")
    write_page(json.loads(path.read_text()), args.out)


if __name__ == "__main__":
    main()
