"""Voronoi losses of fitted mixtures of experts: distances of their parameters from the true ones.

Experts are rows (A, b, c, weight, offset): the score of x is A x^2 + b x + c, eta = (weight, offset).
In the form of Nguyen, Ho and Rinaldo (softmax gates: arXiv 2402.02952, sigmoid gates: 2405.13997),
here with the quadratic scores of Yan et al. (2502.00281); constants may differ, slopes do not. Every
loss is 0 at the truth and where softmax or sparse sigmoid split an expert into copies, and does not
depend on the experts' order.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

GATE = 3  # A, b, c come first


def cell_losses(
    fitted_rkp: Tensor, true_jp: Tensor, weigh: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """For softmax and for sparse sigmoid gates: a fitted expert belongs to the cell of the true one
    that is nearest in (A, b, eta). With w = weigh(c) the loss is sum_j |cell's sum of w - w_j| and,
    over the fitted experts, w (|dA| + |db| + |deta|), squared in cells that hold several.

    Experts that share a cell and its gate act as their mean, so the ``equivalent`` loss of linear
    experts compares that mean.
    """
    weight_rk, weight_j = weigh(fitted_rkp[..., 2]), weigh(true_jp[:, 2])
    length_rkj = lengths(fitted_rkp[:, :, None] - true_jp).sum(-1)
    member_rkj = torch.nn.functional.one_hot(length_rkj.argmin(2), len(true_jp)).to(fitted_rkp)
    parts_rk3 = lengths(fitted_rkp - member_rkj @ true_jp)
    several_rk = (member_rkj @ member_rkj.sum(1)[..., None])[..., 0] > 1
    powers_rk3 = torch.where(several_rk[..., None], parts_rk3.square(), parts_rk3)
    mass_rj = (weight_rk[..., None] * member_rkj).sum(1)
    mass_r = (mass_rj - weight_j).abs().sum(1)
    sums_rje = (weight_rk[..., None] * member_rkj).mT @ fitted_rkp[..., GATE:]
    means_rje = sums_rje / mass_rj[..., None].clamp(min=1e-12)
    gates_r = (weight_rk * parts_rk3[..., :2].sum(-1)).sum(1)
    return {
        "voronoi": mass_r + (weight_rk * powers_rk3.sum(-1)).sum(1),
        "experts": (weight_rk * parts_rk3[..., 2]).sum(1) / weight_rk.sum(1),
        "equivalent": mass_r + gates_r + (means_rje - true_jp[:, GATE:]).norm(dim=-1).sum(1),
    }


def aligned_losses(fitted_rkp: Tensor, true_jp: Tensor) -> dict[str, Tensor]:
    """Softmax gates, known up to a common function: the least over those shifts of all the fitted
    gates that lay one of them on a true one."""
    found = []
    for i, j in itertools.product(range(fitted_rkp.shape[1]), range(len(true_jp))):
        shift_r1p = true_jp[j] - fitted_rkp[:, i, None]
        shift_r1p[..., GATE:] = 0
        found.append(cell_losses(fitted_rkp + shift_r1p, true_jp, Tensor.exp))
    best_r = torch.stack([one["voronoi"] for one in found]).argmin(0)
    chosen = torch.arange(len(best_r))
    return {key: torch.stack([one[key] for one in found])[best_r, chosen] for key in found[0]}


def matched_losses(fitted_rkp: Tensor, true_jp: Tensor, experts: str) -> dict[str, Tensor]:
    """Dense sigmoid gates: |dA| + |db| + |dc| + |deta| to the nearest of the sets of as many experts
    as were fitted that give the true function (Voronoi cells of one), in the best order.

    With one expert too many these sets are: the truth and an expert that is 0, behind any gate; where
    experts are linear also one of them split in two behind the same gate, or s_j, eta_j replaced by
    -s_j, -eta_j and eta_j / sigmoid(c) behind a constant gate.
    """
    totals, experts_alone = [], []
    for order in itertools.permutations(range(fitted_rkp.shape[1])):
        own_r2p = fitted_rkp[:, order[: len(true_jp)]] - true_jp
        gates, parts = own_r2p[..., :GATE], own_r2p[..., GATE:]
        plain = gate_length(gates).sum(1), parts.norm(dim=-1).sum(1)
        if len(order) == len(true_jp):
            options = [plain]
        else:
            spare_rp = fitted_rkp[:, order[2]]
            options = [(plain[0], plain[1] + spare_rp[:, GATE:].norm(dim=-1))]
        if len(order) > len(true_jp) and experts == "linear":
            last_p, fitted_rp = true_jp[1], fitted_rkp[:, order[1]]
            options += shared(own_r2p[:, 0], fitted_rp, spare_rp, last_p)
            first_p = true_jp[0]
            options += shared(own_r2p[:, 1], fitted_rkp[:, order[0]], spare_rp, first_p)
        totals += [gate_r + expert_r for gate_r, expert_r in options]
        experts_alone += [expert_r for _, expert_r in options]
    total_r, best_r = torch.stack(totals).min(0)
    expert_r = torch.stack(experts_alone)[best_r, torch.arange(len(best_r))]
    return {"voronoi": total_r, "experts": expert_r, "equivalent": total_r}


def shared(
    other_rp: Tensor, one_rp: Tensor, spare_rp: Tensor, true_p: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """(gates', experts' part) where two fitted linear experts stand for one true one.

    Args:
        other_rp: difference of the third from the other true one.
    """
    gate_r, expert_r = gate_length(other_rp[:, :GATE]), other_rp[:, GATE:].norm(dim=-1)
    gate_p, eta_p = true_p[:GATE], true_p[GATE:]
    split = (
        gate_length(one_rp[:, :GATE] - gate_p) + gate_length(spare_rp[:, :GATE] - gate_p),
        (one_rp[:, GATE:] + spare_rp[:, GATE:] - eta_p).norm(dim=-1),
    )
    whole_re = eta_p / spare_rp[:, 2].sigmoid()[:, None]
    flipped = (
        gate_length(one_rp[:, :GATE] + gate_p) + spare_rp[:, :2].abs().sum(1),
        (one_rp[:, GATE:] + eta_p).norm(dim=-1) + (spare_rp[:, GATE:] - whole_re).norm(dim=-1),
    )
    return [(gate_r + g_r, expert_r + e_r) for g_r, e_r in (split, flipped)]


def lengths(difference: Tensor) -> Tensor:
    """(|dA|, |db|, |deta|) in the last axis."""
    a, b = difference[..., 0].abs(), difference[..., 1].abs()
    return torch.stack([a, b, difference[..., GATE:].norm(dim=-1)], dim=-1)


def gate_length(difference: Tensor) -> Tensor:
    return difference.abs().sum(-1)
