#!/usr/bin/env python
"""How fast are experts learnt behind a softmax and behind a sigmoid gate? Errors against data, log-log.

    python recipes/sample_efficiency/moe.py --out docs/results/moe         # minutes on one CPU core

A row of attention read as a mixture of experts with quadratic gating (Yan et al. 2025, arXiv
2502.00281): y = sum_j gate_j(x) expert_j(x) + noise, where the scores are s_j(x) = x'A_j x + b_j'x + c_j
and the gates are softmax(s) or, one by one, sigmoid(s_j). Data of n points is drawn from two experts
and fitted by least squares with two (exact) or three experts (over-specified), from a start near the
truth, so that what is measured is the statistics and not the optimiser. Slopes of the errors against
n, with bootstrap intervals over the repetitions. Writes OUT.json, OUT.md and OUT.png.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FP64 = torch.float64  # errors of the fit are far below fp32's at the largest n

DIM = 2
# One expert: A (symmetric: 3 numbers), b (2), c, then the expert's weights a (2) and offset.
GATE, EXPERT = 6, 3
PARAMS = GATE + EXPERT
# The first gate is 0 for softmax, which knows scores only up to a common function.
TRUTH = {
    "softmax": [
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.5, -1.0, 0.5],
        [-0.6, 0.3, 0.5, 1.0, -0.8, 0.3, -1.0, 1.2, -1.0],
    ],
    "sigmoid": [
        [0.5, -0.2, -0.4, 0.8, 0.5, -0.3, 1.5, -1.0, 0.5],
        [-0.6, 0.3, 0.5, 1.0, -0.8, 0.3, -1.0, 1.2, -1.0],
    ],
}
NOISE = 0.1
NOTES = (
    "- exact: as many experts are fitted as drew the data. Both gates should then show -0.5.",
    "- one too many: the theory's point is that softmax is slower here. With a sigmoid gate the true "
    "experts are not the only answer (an expert may be split in two halves behind the same gate), so "
    "their distance need not go to 0 and says nothing against the theory, whose loss takes the "
    "nearest equivalent answer; the function's error is the fair comparison.",
    "- The fit starts near the true experts and the spare one as a copy of the last: an optimiser that "
    "stays on a plateau from there shows as a flatter slope.",
)
START = 0.05  # spread of the start around the truth
ITERATIONS = 60
CHUNK = 4000  # points whose Jacobian is in memory at once


@dataclass(frozen=True)
class Setting:
    """gate: softmax or sigmoid; experts: linear or tanh; fitted: how many experts."""

    gate: str
    experts: str
    fitted: int

    @property
    def name(self) -> str:
        kind = "exact" if self.fitted == 2 else "one too many"
        return f"{self.gate}, {self.experts} experts, {kind}"


def outputs(setting: Setting, theta_rp: Tensor, x_rnd: Tensor) -> tuple[Tensor, Tensor]:
    """(y_rn, its derivatives by every parameter J_rnp); experts stand one after another in theta."""
    theta_rjp = theta_rp.unflatten(1, (-1, PARAMS))
    x, y = x_rnd.unbind(-1)
    one = torch.ones_like(x)
    features_rnf = torch.stack([x * x, x * y, y * y, x, y, one], dim=-1)
    inputs_rne = torch.stack([x, y, one], dim=-1)
    scores_rnj = features_rnf @ theta_rjp[..., :GATE].mT
    experts_rnj = inputs_rne @ theta_rjp[..., GATE:].mT
    slopes_rnj = torch.ones_like(experts_rnj)
    if setting.experts == "tanh":
        experts_rnj = experts_rnj.tanh()
        slopes_rnj = 1 - experts_rnj.square()
    if setting.gate == "softmax":
        gates_rnj = scores_rnj.softmax(-1)
        y_rn = (gates_rnj * experts_rnj).sum(-1)
        by_score_rnj = gates_rnj * (experts_rnj - y_rn[..., None])
    else:
        gates_rnj = scores_rnj.sigmoid()
        y_rn = (gates_rnj * experts_rnj).sum(-1)
        by_score_rnj = gates_rnj * (1 - gates_rnj) * experts_rnj
    by_gate = by_score_rnj[..., None] * features_rnf[..., None, :]
    by_expert = (gates_rnj * slopes_rnj)[..., None] * inputs_rne[..., None, :]
    return y_rn, torch.cat([by_gate, by_expert], dim=-1).flatten(2)


def free_parameters(setting: Setting) -> Tensor:
    free = torch.ones(setting.fitted, PARAMS, dtype=torch.bool)
    if setting.gate == "softmax":
        free[0, :GATE] = False
    return free.flatten()


def normal_equations(
    setting: Setting, theta_rp: Tensor, x_rnd: Tensor, y_rn: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(J'J, J'residual, sum of squares) of each repetition, a chunk of points at a time."""

    size = theta_rp.shape[1]
    jj = theta_rp.new_zeros(len(theta_rp), size, size)
    jr, squares = theta_rp.new_zeros(len(theta_rp), size), theta_rp.new_zeros(len(theta_rp))
    for start in range(0, x_rnd.shape[1], CHUNK):
        part = slice(start, start + CHUNK)
        value_rn, j_rnp = outputs(setting, theta_rp, x_rnd[:, part])
        residual_rn = y_rn[:, part] - value_rn
        jj += j_rnp.mT @ j_rnp
        jr += (j_rnp.mT @ residual_rn[..., None])[..., 0]
        squares += residual_rn.square().sum(1)
    return jj, jr, squares


def fit(setting: Setting, theta_rp: Tensor, x_rnd: Tensor, y_rn: Tensor) -> Tensor:
    """Levenberg and Marquardt's least squares, all repetitions at once."""
    free = free_parameters(setting)
    damping_r = torch.full((len(theta_rp),), 1e-3, dtype=FP64)
    jj, jr, squares_r = normal_equations(setting, theta_rp, x_rnd, y_rn)
    for _ in range(ITERATIONS):
        scale = damping_r[:, None, None] * torch.diag_embed(
            jj.diagonal(dim1=1, dim2=2) + 1e-9 * x_rnd.shape[1]
        )
        step = torch.linalg.solve((jj + scale)[:, free][:, :, free], jr[:, free])
        tried = theta_rp.clone()
        tried[:, free] += step
        jj_new, jr_new, squares_new_r = normal_equations(setting, tried, x_rnd, y_rn)
        better_r = squares_new_r < squares_r
        done = bool((squares_r - squares_new_r)[better_r].le(1e-10 * squares_r[better_r]).all())
        theta_rp = torch.where(better_r[:, None], tried, theta_rp)
        jj = torch.where(better_r[:, None, None], jj_new, jj)
        jr = torch.where(better_r[:, None], jr_new, jr)
        squares_r = torch.where(better_r, squares_new_r, squares_r)
        damping_r = torch.where(better_r, damping_r / 5, damping_r * 5).clamp(1e-12, 1e8)
        if (better_r.any() and done) or bool((damping_r > 1e6).all()):
            break
    return theta_rp


def errors(setting: Setting, theta_rp: Tensor, test_nd: Tensor) -> tuple[Tensor, Tensor]:
    """(function's root mean square error, mean distance of a true expert to the nearest fitted)."""
    truth_1p = torch.tensor(TRUTH[setting.gate], dtype=FP64).flatten()[None]
    test_rnd = test_nd.expand(len(theta_rp), -1, -1)
    wrong_rn = (
        outputs(setting, theta_rp, test_rnd)[0] - outputs(setting, truth_1p, test_nd[None])[0]
    )
    fitted_rje = theta_rp.view(len(theta_rp), -1, PARAMS)[..., GATE:]
    true_je = torch.tensor(TRUTH[setting.gate], dtype=FP64)[:, GATE:]
    distance_rjk = (true_je[None, :, None] - fitted_rje[:, None]).norm(dim=-1)
    return wrong_rn.square().mean(1).sqrt(), distance_rjk.amin(2).mean(1)


def simulate(
    setting: Setting, num_points: int, repetitions: int, seed: int
) -> dict[str, list[float]]:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + num_points)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=FP64)

    truth = torch.tensor(TRUTH[setting.gate], dtype=FP64)
    x_rnd = normal(repetitions, num_points, DIM)
    truth_rp = truth.flatten().expand(repetitions, -1)
    y_rn = outputs(setting, truth_rp, x_rnd)[0] + NOISE * normal(repetitions, num_points)
    start = truth if setting.fitted == 2 else torch.cat([truth, truth[1:]])
    theta_rp = start.flatten() + START * normal(repetitions, setting.fitted * PARAMS) * (
        free_parameters(setting)
    )
    function_r, expert_r = errors(setting, fit(setting, theta_rp, x_rnd, y_rn), normal(4000, DIM))
    return {"function": function_r.tolist(), "expert": expert_r.tolist()}


def slope(sizes: list[int], errors_sr: np.ndarray, seed: int) -> tuple[float, float, float]:
    """(slope of log median error against log n, its 95 % bootstrap interval over repetitions)."""
    x = np.log(sizes)
    rng = np.random.default_rng(seed)

    def fitted(values_sr: np.ndarray) -> float:
        return float(np.polyfit(x, np.log(np.median(values_sr, axis=1)), 1)[0])

    count = errors_sr.shape[1]
    resampled = [
        fitted(np.stack([row[rng.integers(count, size=count)] for row in errors_sr]))
        for _ in range(1000)
    ]
    low, high = np.quantile(resampled, [0.025, 0.975])
    return fitted(errors_sr), float(low), float(high)


def report(
    results: dict[str, dict[str, object]], sizes: list[int], args: argparse.Namespace
) -> str:
    lines = [
        "# Experts behind softmax and sigmoid gates: error against data",
        "",
        f"`{args.command}`, n = {', '.join(map(str, sizes))}. Slopes "
        "of the log median error against log n; -0.5 is the parametric rate.",
        "",
        "| gate, experts, fit | slope of the experts' error | slope of the function's error | "
        f"experts' error at n = {sizes[-1]} |",
        "|---|---:|---:|---:|",
    ]
    for name, found in results.items():
        cells = []
        for kind in ("expert", "function"):
            value, low, high = found[f"{kind}_slope"]
            cells.append(f"{value:.2f} [{low:.2f}, {high:.2f}]")
        last = float(np.median(found["expert"][-1]))
        lines.append(f"| {name} | {' | '.join(cells)} | {last:.2g} |")
    lines += ["", *NOTES]
    return "\n".join(lines) + "\n"


def plot(results: dict[str, dict[str, object]], sizes: list[int], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for axes, kind in zip(figure.subplots(1, 2), ("expert", "function"), strict=True):
        for name, found in results.items():
            style = ("-" if "exact" in name else "--") + ("o" if "linear" in name else "s")
            colour = "#0072B2" if name.startswith("softmax") else "#D55E00"
            medians = np.median(np.array(found[kind]), axis=1)
            axes.loglog(sizes, medians, style, color=colour, label=name, markersize=4)
        axes.set_xlabel("n")
        axes.set_title(f"{kind} error, median")
        axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=7, loc="lower left")
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[500, 1500, 5000, 15000, 50000])
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("moe"), help="stem of the files written")
    args = parser.parse_args()
    args.command = (
        f"python recipes/sample_efficiency/moe.py --sizes {' '.join(map(str, args.sizes))} "
        f"--repetitions {args.repetitions} --seed {args.seed} --out {args.out}"
    )
    results: dict[str, dict[str, object]] = {}
    for gate in ("softmax", "sigmoid"):
        for experts in ("linear", "tanh"):
            for fitted in (2, 3):
                setting = Setting(gate, experts, fitted)
                begun = time.perf_counter()
                by_size = [
                    simulate(setting, size, args.repetitions, args.seed) for size in args.sizes
                ]
                found: dict[str, object] = {"setting": asdict(setting)}
                for kind in ("expert", "function"):
                    errors_sr = np.array([one[kind] for one in by_size])
                    found[kind] = errors_sr.tolist()
                    found[f"{kind}_slope"] = slope(args.sizes, errors_sr, args.seed)
                results[setting.name] = found
                value, low, high = found["expert_slope"]
                took = time.perf_counter() - begun
                print(
                    f"{setting.name}: {value:.2f} [{low:.2f}, {high:.2f}], {took:.0f} s", flush=True
                )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    content = {"sizes": args.sizes, "repetitions": args.repetitions, "results": results}
    args.out.with_suffix(".json").write_text(json.dumps(content) + "\n")
    args.out.with_suffix(".md").write_text(report(results, args.sizes, args))
    plot(results, args.sizes, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
