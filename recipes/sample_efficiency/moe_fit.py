"""Mixtures of experts over a number x: outputs, derivatives and least squares in a box, batched.

y = sum_j gate_j(x) expert_j(x) with scores s_j = A_j x^2 + b_j x + c_j, gates softmax(s) or sigmoid(s_j)
and experts w_j x + o_j, through tanh or not. An expert is a row (A, b, c, w, o) of theta_rjp; r stands
for the problem, n for the point.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from voronoi import GATE

FP64 = torch.float64  # errors of the fit are far below those of fp32
PARAMS = GATE + 2  # of an expert: A, b, c of its gate, then its weight and offset, eta
CHUNK = 8192  # problems x points whose Jacobian is made at once: it stays in the cache
ITERATIONS = 80
GAIN = 3e-3  # a fit is done when steps gain less than this, in noise variances


@dataclass(frozen=True)
class Model:
    """gate: softmax or sigmoid; experts: linear or tanh; lower_p, upper_p: the box of an expert."""

    gate: str
    experts: str
    lower_p: tuple[float, ...]
    upper_p: tuple[float, ...]

    def clamp(self, theta_rjp: Tensor) -> Tensor:
        lower, upper = (theta_rjp.new_tensor(end) for end in (self.lower_p, self.upper_p))
        return theta_rjp.clamp(lower, upper)


def outputs(model: Model, theta_rjp: Tensor, x_rn: Tensor) -> tuple[Tensor, Tensor]:
    """(y_rn, its derivatives by every parameter J_rpn); experts stand one after another."""
    features_rfn = torch.stack([x_rn * x_rn, x_rn, torch.ones_like(x_rn)], dim=1)
    scores_rjn = theta_rjp[..., :GATE] @ features_rfn
    experts_rjn = theta_rjp[..., GATE:] @ features_rfn[:, 1:]
    if model.experts == "tanh":
        experts_rjn = experts_rjn.tanh()
    if model.gate == "softmax":
        gates_rjn = (scores_rjn - scores_rjn.amax(1, keepdim=True)).exp()
        gates_rjn = gates_rjn / gates_rjn.sum(1, keepdim=True)
        y_rn = (gates_rjn * experts_rjn).sum(1)
        by_score_rjn = gates_rjn * (experts_rjn - y_rn[:, None])
    else:
        gates_rjn = scores_rjn.sigmoid()
        parts_rjn = gates_rjn * experts_rjn
        y_rn = parts_rjn.sum(1)
        by_score_rjn = parts_rjn * (1 - gates_rjn)
    by_expert_rjn = gates_rjn
    if model.experts == "tanh":
        by_expert_rjn = gates_rjn * (1 - experts_rjn.square())
    by_gate = by_score_rjn[:, :, None] * features_rfn[:, None]
    by_eta = by_expert_rjn[:, :, None] * features_rfn[:, None, 1:]
    return y_rn, torch.cat([by_gate, by_eta], dim=2).flatten(1, 2)


def normal_equations(
    model: Model, theta_rjp: Tensor, x_rn: Tensor, y_rn: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(J'J, J'residual, sum of squares) of each problem, a chunk of points at a time."""
    num, size = len(theta_rjp), theta_rjp[0].numel()
    jj, jr = theta_rjp.new_zeros(num, size, size), theta_rjp.new_zeros(num, size)
    squares_r = theta_rjp.new_zeros(num)
    step = max(64, CHUNK // num)
    for start in range(0, x_rn.shape[1], step):
        part = slice(start, start + step)
        value_rn, j_rpn = outputs(model, theta_rjp, x_rn[:, part])
        residual_rn = y_rn[:, part] - value_rn
        jj += j_rpn @ j_rpn.mT
        jr += (j_rpn @ residual_rn[..., None])[..., 0]
        squares_r += residual_rn.square().sum(1)
    return jj, jr, squares_r


def known(model: Model, num_experts: int) -> Tensor:
    """Parameters that are not fitted: softmax knows scores up to a common function, its first is 0."""
    fixed = torch.zeros(num_experts, PARAMS, dtype=torch.bool)
    if model.gate == "softmax":
        fixed[0, :GATE] = True
    return fixed.flatten()


def held(model: Model, theta_rjp: Tensor, uphill_rp: Tensor) -> Tensor:
    """Parameters that cannot move: those that are known, and at an end of the box those that a better
    fit would move out of it. ``uphill_rp``: J'residual."""
    lower, upper = (theta_rjp.new_tensor(end) for end in (model.lower_p, model.upper_p))
    low_rp = (theta_rjp <= lower).flatten(1) & (uphill_rp < 0)
    high_rp = (theta_rjp >= upper).flatten(1) & (uphill_rp > 0)
    return known(model, theta_rjp.shape[1]) | low_rp | high_rp


def fit(
    model: Model,
    theta_rjp: Tensor,
    x_rn: Tensor,
    y_rn: Tensor,
    noise: float,
    iterations: int = ITERATIONS,
) -> tuple[Tensor, Tensor]:
    """(parameters, sums of squares): Levenberg and Marquardt's least squares in the box.

    All problems at once. A problem is done when two accepted steps running gain less than GAIN noise
    variances, or when its damping says that no step helps.
    """
    theta, going = model.clamp(theta_rjp), torch.arange(len(theta_rjp))
    damping_r, growth_r = theta.new_full((len(going),), 1e-3), theta.new_full((len(going),), 2)
    idle_r = torch.zeros(len(going))
    jj, jr, squares_r = normal_equations(model, theta, x_rn, y_rn)
    for _ in range(iterations):
        stuck_rp = held(model, theta[going], jr[going])
        both = stuck_rp[:, :, None] | stuck_rp[:, None]
        diagonal_rp = jj[going].diagonal(dim1=1, dim2=2) + 1e-9 * x_rn.shape[1]
        extra_rp = torch.where(stuck_rp, 1.0, damping_r[going, None] * diagonal_rp)
        damped = jj[going].masked_fill(both, 0.0) + torch.diag_embed(extra_rp)
        step = torch.linalg.solve(damped, jr[going].masked_fill(stuck_rp, 0.0))
        tried = model.clamp(theta[going] + step.view_as(theta[going]))
        jj_new, jr_new, new_r = normal_equations(model, tried, x_rn[going], y_rn[going])
        gained_r = squares_r[going] - new_r
        better_r = gained_r > 0
        taken = going[better_r]
        theta[taken], jj[taken], jr[taken] = tried[better_r], jj_new[better_r], jr_new[better_r]
        squares_r[taken] = new_r[better_r]
        factor_r = torch.where(better_r, 0.2, growth_r[going])
        damping_r[going] = (damping_r[going] * factor_r).clamp(1e-12, 1e10)
        growth_r[going] = torch.where(better_r, 2.0, 2 * growth_r[going])
        small_r = better_r & (gained_r < GAIN * noise**2)
        idle_r[going] = torch.where(small_r, idle_r[going] + 1, idle_r[going] * ~better_r)
        going = going[(idle_r[going] < 2) & (damping_r[going] < 1e8)]
        if not len(going):
            break
    return theta, squares_r
