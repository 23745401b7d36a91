#!/usr/bin/env python
"""How fast are experts learnt behind a softmax and behind a sigmoid gate? Voronoi losses, log-log.

    python recipes/sample_efficiency/moe.py --out docs/results/moe         # minutes on one CPU core

A row of attention read as a mixture of experts with quadratic gating (Yan et al. 2025, arXiv
2502.00281): y = sum_j gate_j(x) expert_j(x) + noise, with scores s_j(x) = x'A_j x + b_j'x + c_j and
gates softmax(s) or, one by one, sigmoid(s_j). n points are drawn from two experts, and two (exact) or
three (one too many) are fitted by least squares in a box, which stands for the theory's compact set:
the best of several starts near the truth, so that what is measured is the statistics and not the
optimiser. Regimes of the sigmoid gate: dense (no gate is constant) and sparse (that of the expert
that is fitted twice is). Writes OUT.json, OUT.md and OUT.png.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from voronoi import GATE, aligned_losses, cell_losses, matched_losses

FP64 = torch.float64  # errors of the fit are far below those of fp32
# One expert, x a number: A, b, c of its gate, then weight and offset of the expert, eta.
PARAMS = GATE + 2
FIRST, LAST = [-2.0, 0.0, 2.0, 2.0, 1.0], [2.0, 2.0, -2.0, -1.0, 0.5]
# Softmax knows scores only up to a common function: its first gate is 0.
TRUTH = {
    ("softmax", "dense"): [[0.0, 0.0, 0.0, *FIRST[GATE:]], LAST],
    ("sigmoid", "dense"): [FIRST, LAST],
    ("sigmoid", "sparse"): [FIRST, [0.0, 0.0, 0.5, *LAST[GATE:]]],
}
NOISE, HALF_WIDTH = 0.1, 3.0  # of y; x is uniform in [-3, 3]
BOX = 5.0  # the largest parameter of a fit
START, SPARE = 0.05, 0.3  # spread of the starts around the truth, and of the spare expert's
ITERATIONS = 80
NOTES = (
    "- Voronoi loss: each fitted expert belongs to the true one that is nearest. For softmax, and for "
    "sigmoid where the gate of the expert that is fitted twice is constant (sparse): what the weights "
    "of each cell miss, and the weighted differences of gates and experts, squared where two fitted "
    "experts share a cell. For sigmoid otherwise (dense): the differences, unsquared, from the nearest "
    "set of three experts that gives the true function (`voronoi.py`).",
    "- The losses are not the same yardstick: dense sigmoid's takes the nearest equivalent answer, "
    "softmax's the truth. With linear experts softmax has equivalent answers too (two experts behind "
    "the same gate count as their mean): the column `nearest equivalent` takes them. Nor is the "
    "function the same. Only slopes compare, and the function's error.",
    "- Experts' error: of the experts alone, unsquared, weighted by their gates for softmax and sparse "
    "sigmoid. The theory's claim that sigmoid needs less data is about this column with one expert too "
    "many: -1/2 for dense sigmoid, -1/4 (tanh) or slower (linear) for softmax.",
    "- Parameters stay in [-5, 5]; the fit is the best of three starts near the truth.",
)
CHUNK = 500  # points whose Jacobian is made at once: it stays in the cache
MEASURES = ("voronoi", "experts", "equivalent", "function")


@dataclass(frozen=True)
class Setting:
    """gate: softmax or sigmoid; regime: dense or sparse; experts: linear or tanh; fitted: how many."""

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
        return torch.tensor(TRUTH[self.gate, self.regime], dtype=FP64)

    @property
    def theory(self) -> tuple[str, str]:
        """What the theory says of the slopes of the Voronoi loss and of the experts' error."""
        if self.fitted == 2 or (self.gate, self.regime) == ("sigmoid", "dense"):
            return "-1/2", "-1/2"
        return (
            ("-1/2", "-1/4") if self.experts == "tanh" else ("slower than any", "slower than any")
        )


SETTINGS = [
    Setting(gate, regime, experts, fitted)
    for gate, regime in TRUTH
    for experts in ("linear", "tanh")
    for fitted in (2, 3)
    if (regime, fitted) != ("sparse", 2)
]


# --- the model and its fit ----------------------------------------------------------------------


def outputs(setting: Setting, theta_rp: Tensor, x_rn: Tensor) -> tuple[Tensor, Tensor]:
    """(y_rn, its derivatives by every parameter J_rnp); experts stand one after another in theta."""
    theta_rjp = theta_rp.unflatten(1, (-1, PARAMS))
    features_rnf = torch.stack([x_rn * x_rn, x_rn, torch.ones_like(x_rn)], dim=-1)
    scores_rnj = features_rnf @ theta_rjp[..., :GATE].mT
    experts_rnj = features_rnf[..., 1:] @ theta_rjp[..., GATE:].mT
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
    by_expert = (gates_rnj * slopes_rnj)[..., None] * features_rnf[..., None, 1:]
    return y_rn, torch.cat([by_gate, by_expert], dim=-1).flatten(2)


def free_parameters(setting: Setting) -> Tensor:
    free = torch.ones(setting.fitted, PARAMS, dtype=torch.bool)
    if setting.gate == "softmax":
        free[0, :GATE] = False
    return free.flatten()


def normal_equations(
    setting: Setting, theta_rp: Tensor, x_rn: Tensor, y_rn: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(J'J, J'residual, sum of squares) of each problem, a chunk of points at a time."""
    size = theta_rp.shape[1]
    jj = theta_rp.new_zeros(len(theta_rp), size, size)
    jr, squares_r = theta_rp.new_zeros(len(theta_rp), size), theta_rp.new_zeros(len(theta_rp))
    for start in range(0, x_rn.shape[1], CHUNK):
        part = slice(start, start + CHUNK)
        value_rn, j_rnp = outputs(setting, theta_rp, x_rn[:, part])
        residual_rn = y_rn[:, part] - value_rn
        jj += j_rnp.mT @ j_rnp
        jr += (j_rnp.mT @ residual_rn[..., None])[..., 0]
        squares_r += residual_rn.square().sum(1)
    return jj, jr, squares_r


def fit(setting: Setting, theta_rp: Tensor, x_rn: Tensor, y_rn: Tensor) -> tuple[Tensor, Tensor]:
    """(parameters, sums of squares): Levenberg and Marquardt's least squares in the box.

    All problems at once; one that no longer gets better is left alone.
    """
    free = free_parameters(setting)
    theta_rp, damping_r = theta_rp.clone(), theta_rp.new_full((len(theta_rp),), 1e-3)
    jj, jr, squares_r = normal_equations(setting, theta_rp, x_rn, y_rn)
    going = torch.arange(len(theta_rp))
    for _ in range(ITERATIONS):
        diagonal = jj[going].diagonal(dim1=1, dim2=2) + 1e-9 * x_rn.shape[1]
        damped = jj[going] + torch.diag_embed(damping_r[going, None] * diagonal)
        step = torch.linalg.solve(damped[:, free][:, :, free], jr[going][:, free])
        tried = theta_rp[going]
        tried[:, free] = (tried[:, free] + step).clamp(-BOX, BOX)
        jj_new, jr_new, new_r = normal_equations(setting, tried, x_rn[going], y_rn[going])
        better_r = new_r < squares_r[going]
        gained_r = (squares_r[going] - new_r) / squares_r[going]
        taken = going[better_r]
        theta_rp[taken], jj[taken], jr[taken] = tried[better_r], jj_new[better_r], jr_new[better_r]
        squares_r[taken] = new_r[better_r]
        factor_r = torch.where(better_r, 0.2, 5.0).to(FP64)
        damping_r[going] = (damping_r[going] * factor_r).clamp(1e-12, 1e10)
        done_r = (better_r & (gained_r < 1e-9)) | (damping_r[going] > 1e8)
        going = going[~done_r]
        if not len(going):
            break
    return theta_rp, squares_r


def starts(setting: Setting, repetitions: int, generator: torch.Generator) -> Tensor:
    """(start, repetition, parameters): the truth, and where one is too many a spare expert, which is
    a copy of each true one in turn, or as good as nothing behind any gate."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=FP64)

    truth = setting.truth_jp
    spares = [truth[:0]]
    if setting.fitted == 3:
        nothing = truth.new_tensor([[0.0, 0.0, -2.0, 0.0, 0.0]])
        spares = [truth[:1], truth[1:], nothing]
    found = []
    for spare in spares:
        start_p = torch.cat([truth, spare]).flatten()
        spread_p = torch.full_like(start_p, START)
        spread_p[2 * PARAMS :] = SPARE
        jitter = spread_p * free_parameters(setting) * normal(repetitions, len(start_p))
        found.append(start_p + jitter)
    return torch.stack(found)


def voronoi_losses(setting: Setting, theta_rp: Tensor) -> dict[str, Tensor]:
    """Of fits: ``voronoi``, the theory's loss; ``experts``: that of the experts alone, unsquared;
    ``equivalent``: to the nearest of all parameters that give the true function."""
    fitted_rkp = theta_rp.unflatten(1, (-1, PARAMS))
    if setting.gate == "softmax":
        return aligned_losses(fitted_rkp, setting.truth_jp)
    if setting.regime == "sparse":
        return cell_losses(fitted_rkp, setting.truth_jp, Tensor.sigmoid)
    return matched_losses(fitted_rkp, setting.truth_jp, setting.experts)


# --- simulation and report ----------------------------------------------------------------------


def simulate(
    setting: Setting, num_points: int, repetitions: int, seed: int
) -> dict[str, list[float]]:
    """Each measure of each repetition's best fit."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + num_points)
    start_srp = starts(setting, repetitions, generator)
    num_starts = len(start_srp)
    shape = (repetitions, num_points)
    x_rn = HALF_WIDTH * (2 * torch.rand(*shape, generator=generator, dtype=FP64) - 1)
    truth_1p = setting.truth_jp.flatten()[None]
    noise_rn = NOISE * torch.randn(*shape, generator=generator, dtype=FP64)
    y_rn = outputs(setting, truth_1p.expand(repetitions, -1), x_rn)[0] + noise_rn
    theta, squares = fit(
        setting, start_srp.flatten(0, 1), x_rn.repeat(num_starts, 1), y_rn.repeat(num_starts, 1)
    )
    best_r = squares.view(num_starts, repetitions).argmin(0)
    theta_rp = theta.view(num_starts, repetitions, -1)[best_r, torch.arange(repetitions)]
    grid_1n = torch.linspace(-HALF_WIDTH, HALF_WIDTH, 2001, dtype=FP64)[None]
    true_1n = outputs(setting, truth_1p, grid_1n)[0]
    wrong_rn = outputs(setting, theta_rp, grid_1n.expand(repetitions, -1))[0] - true_1n
    found = {**voronoi_losses(setting, theta_rp), "function": wrong_rn.square().mean(1).sqrt()}
    return {key: [float(f"{value:.5g}") for value in found[key]] for key in MEASURES}


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


def report(results: dict[str, dict[str, Any]], sizes: list[int], args: argparse.Namespace) -> str:
    lines = [
        "# Experts behind softmax and sigmoid gates: error against data",
        "",
        f"`{args.command}`",
        "",
        f"Slopes of the log median error over {args.repetitions} repetitions against log n, n = "
        f"{', '.join(map(str, sizes))}, with 95 % intervals; in parentheses what the theory says.",
        "",
        "| gate, experts, fit | Voronoi loss | experts' error | nearest equivalent | function | "
        f"Voronoi loss at n = {sizes[-1]} |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for setting in SETTINGS:
        found = results[setting.name]
        says = {"voronoi": setting.theory[0], "experts": setting.theory[1], "function": "-1/2"}
        cells = []
        for kind in MEASURES:
            value, low, high = found[f"{kind}_slope"]
            theory = f" ({says[kind]})" if kind in says else ""
            cells.append(f"{value:.2f} [{low:.2f}, {high:.2f}]{theory}")
        last = float(np.median(found["voronoi"][-1]))
        lines.append(f"| {setting.name} | {' | '.join(cells)} | {last:.2g} |")
    return "\n".join([*lines, "", f"![errors against n]({args.out.name}.png)", "", *NOTES]) + "\n"


def plot(results: dict[str, dict[str, Any]], sizes: list[int], path: Path) -> None:
    from matplotlib.figure import Figure

    titles = {
        "voronoi": "Voronoi loss",
        "experts": "experts' error",
        "function": "function's error",
    }
    figure = Figure(figsize=(12.5, 5.2), layout="constrained")
    panels = figure.subplots(1, 3)
    colours = {("softmax", "dense"): "#0072B2", ("sigmoid", "dense"): "#D55E00"}
    for axes, (kind, title) in zip(panels, titles.items(), strict=True):
        for setting in SETTINGS:
            style = ("-" if setting.fitted == 2 else "--") + (
                "o" if setting.experts == "linear" else "s"
            )
            colour = colours.get((setting.gate, setting.regime), "#009E73")
            medians = np.median(np.array(results[setting.name][kind]), axis=1)
            axes.loglog(sizes, medians, style, color=colour, label=setting.name, markersize=4)
        axes.set_xlabel("n")
        axes.set_title(f"{title}, median")
        axes.grid(alpha=0.25)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=3,
        handlelength=4,
        frameon=False,
        fontsize=8,
    )
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 3000, 10000, 30000])
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("moe"), help="stem of the files written")
    args = parser.parse_args()
    args.command = (
        f"python recipes/sample_efficiency/moe.py --sizes {' '.join(map(str, args.sizes))} "
        f"--repetitions {args.repetitions} --seed {args.seed} --out {args.out}"
    )
    results: dict[str, dict[str, Any]] = {}
    for setting in SETTINGS:
        begun = time.perf_counter()
        by_size = [simulate(setting, size, args.repetitions, args.seed) for size in args.sizes]
        found: dict[str, Any] = {"setting": asdict(setting)}
        for kind in MEASURES:
            errors_sr = np.array([one[kind] for one in by_size])
            found[kind] = errors_sr.tolist()
            found[f"{kind}_slope"] = slope(args.sizes, errors_sr, args.seed)
        results[setting.name] = found
        value, low, high = found["voronoi_slope"]
        took = time.perf_counter() - begun
        print(f"{setting.name}: {value:.2f} [{low:.2f}, {high:.2f}], {took:.0f} s", flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    content = {"sizes": args.sizes, "repetitions": args.repetitions, "results": results}
    args.out.with_suffix(".json").write_text(json.dumps(content) + "\n")
    args.out.with_suffix(".md").write_text(report(results, args.sizes, args))
    plot(results, args.sizes, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
