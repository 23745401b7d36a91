"""Single attention layers, batched: outputs, normal equations and least-squares fits.

A layer has H heads of head dimension a over tokens of dimension d. Of each sequence of K tokens it
gives one row of self-attention: the output (d numbers) at the first token,

    y = sum_h sum_k p_hk x_k M_h,   M_h = W_V W_O,   scores s_hk = x_1 W_Q W_K' x_k / sqrt(a),

with p = softmax(s) or sigmoid(s - log K). Tensors carry their axes: r problem (repetitions, starts),
h head, k key, i and j model channels, a head channels, o output channels, n sequence. Sequences
stand last in memory, which keeps the inner loops long.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

FP64 = torch.float64
QUERY, KEY, VALUE, OUT = range(4)  # a head's four d x a matrices, O transposed
RIDGE = 0.01  # of the noise variance: a Gaussian prior of standard deviation 10 on every weight
CHUNK = 2048  # problems x sequences whose Jacobian is made at once: it stays in the cache


@dataclass(frozen=True)
class Data:
    """Sequences and noisy outputs of one teacher.

    x_kin: tokens; the first is the query. xx_kfn: products x_ki x_kj for i <= j (``pairs``). y_on.
    """

    x_kin: Tensor
    xx_kfn: Tensor
    y_on: Tensor

    @classmethod
    def of(cls, x_kin: Tensor, y_on: Tensor) -> Data:
        first, second = pairs(x_kin.shape[1])
        return cls(x_kin, x_kin[:, first] * x_kin[:, second], y_on)

    def first(self, num: int) -> Data:
        return Data(self.x_kin[..., :num], self.xx_kfn[..., :num], self.y_on[..., :num])

    def single(self) -> Data:
        """In float32: twice as fast, and the fits agree to seven digits (sums stay in float64)."""
        return Data(self.x_kin.float(), self.xx_kfn.float(), self.y_on.float())


def pairs(dim: int) -> tuple[Tensor, Tensor]:
    first, second = torch.triu_indices(dim, dim)
    return first, second


def unpairs(dim: int) -> Tensor:
    """Where x_i x_j stands among the pairs, (dim * dim)."""
    first, second = pairs(dim)
    place = torch.empty(dim, dim, dtype=torch.long)
    place[first, second] = place[second, first] = torch.arange(len(first))
    return place.flatten()


def products(theta_rhwia: Tensor) -> tuple[Tensor, Tensor]:
    """(B_rhij = W_Q W_K' / sqrt(a), M_rhio = W_V W_O)."""
    q, k, v, o = theta_rhwia.unbind(2)
    return q @ k.mT / math.sqrt(q.shape[-1]), v @ o.mT


def weights(weighting: str, scores_rhkn: Tensor) -> Tensor:
    if weighting == "sigmoid":
        return (scores_rhkn - math.log(scores_rhkn.shape[2])).sigmoid()
    exp_rhkn = (scores_rhkn - scores_rhkn.amax(2, keepdim=True)).exp()
    return exp_rhkn / exp_rhkn.sum(2, keepdim=True)


def attended(weighting: str, b_rhij: Tensor, x_kin: Tensor) -> tuple[Tensor, Tensor]:
    """(weights p_rhkn, weighted sums of the tokens a_rhin)."""
    dim = x_kin.shape[1]
    qb_rhjn = (b_rhij.mT.flatten(1, 2) @ x_kin[0]).unflatten(1, (-1, dim))
    scores_rhkn = sum_of_products(qb_rhjn[:, :, None], x_kin, 3)
    p_rhkn = weights(weighting, scores_rhkn)
    return p_rhkn, sum_of_products(p_rhkn[:, :, :, None], x_kin, 2)


def sum_of_products(left: Tensor, right: Tensor, axis: int) -> Tensor:
    """(left * right).sum(axis) without the product's memory: axes are short, n is long."""
    shape = torch.broadcast_shapes(left.shape, right.shape)
    left, right = left.expand(shape), right.expand(shape)
    total = left.select(axis, 0) * right.select(axis, 0)
    for place in range(1, shape[axis]):
        total.addcmul_(left.select(axis, place), right.select(axis, place))
    return total


def outputs(weighting: str, theta_rhwia: Tensor, x_kin: Tensor) -> Tensor:
    """y_ron of each layer."""
    b_rhij, m_rhio = products(theta_rhwia)
    parts = [
        m_rhio.flatten(1, 2).mT @ attended(weighting, b_rhij, part_kin)[1].flatten(1, 2)
        for part_kin in x_kin.split(max(1, CHUNK // len(theta_rhwia)), dim=2)
    ]
    return torch.cat(parts, dim=2)


def normal_equations(
    weighting: str, theta_rhwia: Tensor, data: Data
) -> tuple[Tensor, Tensor, Tensor]:
    """(J'J, J'residual, sum of squares) by the entries of the four matrices.

    J is made by B and M, a chunk of sequences at a time; J'J is then carried over to their factors.
    """
    b_rhij, m_rhio = (part.to(data.x_kin.dtype) for part in products(theta_rhwia))
    num, heads, dim = m_rhio.shape[:3]
    block = heads * dim * dim
    bb = theta_rhwia.new_zeros(num, block, block)
    bm = theta_rhwia.new_zeros(num, block, heads * dim, dim)
    mm = theta_rhwia.new_zeros(num, heads * dim, heads * dim)
    jr = theta_rhwia.new_zeros(num, 2 * block)
    squares_r = theta_rhwia.new_zeros(num)
    for part in slices(data.x_kin.shape[2], num):
        x_kin = data.x_kin[..., part]
        p_rhkn, a_rhin = attended(weighting, b_rhij, x_kin)
        a_rmn = a_rhin.flatten(1, 2)
        residual_ron = data.y_on[..., part] - m_rhio.flatten(1, 2).mT @ a_rmn
        by_b_robn = by_scores(weighting, m_rhio, p_rhkn, a_rhin, x_kin[0], data.xx_kfn[..., part])
        bb += (by_b_robn @ by_b_robn.mT).sum(1)
        bm += (by_b_robn @ a_rmn[:, None].mT).movedim(1, 3)
        mm += a_rmn @ a_rmn.mT
        jr[:, :block] += (by_b_robn @ residual_ron[..., None])[..., 0].sum(1)
        jr[:, block:] += (a_rmn @ residual_ron.mT).flatten(1)
        squares_r += residual_ron.to(FP64).square().sum((1, 2))
    eye = torch.eye(dim, dtype=mm.dtype)
    mm = (mm[:, :, None, :, None] * eye[:, None]).reshape(num, block, block)
    bm = bm.flatten(2)
    jj = torch.cat([torch.cat([bb, bm], 2), torch.cat([bm.mT, mm], 2)], 1)
    chain = by_factors(theta_rhwia)
    return chain.mT @ jj @ chain, (chain.mT @ jr[..., None])[..., 0], squares_r


def slices(num_sequences: int, num_problems: int) -> list[slice]:
    size = max(32, CHUNK // num_problems)
    return [slice(start, start + size) for start in range(0, num_sequences, size)]


def by_scores(
    weighting: str, m_rhio: Tensor, p_rhkn: Tensor, a_rhin: Tensor, query_in: Tensor, xx_kfn: Tensor
) -> Tensor:
    """dy_o / dB_hij = x_1i (S_h M_h)_jo, as (r, o, hij, n).

    S_h = sum_k p_k (1 - p_k) x_k x_k' for sigmoid; sum_k p_k x_k x_k' - a_h a_h' for softmax.
    """
    dim = m_rhio.shape[2]
    first, second = pairs(dim)
    slopes_rhkn = p_rhkn if weighting == "softmax" else p_rhkn * (1 - p_rhkn)
    s_rhfn = sum_of_products(slopes_rhkn[:, :, :, None], xx_kfn, 2)
    if weighting == "softmax":
        s_rhfn.addcmul_(a_rhin[:, :, first], a_rhin[:, :, second], value=-1)
    s_rhijn = s_rhfn[:, :, unpairs(dim)].unflatten(2, (dim, dim))
    m_rohi = m_rhio.movedim(3, 1)
    sm_rohjn = sum_of_products(s_rhijn[:, None], m_rohi[..., None, None], 3)
    return (query_in[:, None] * sm_rohjn[:, :, :, None]).flatten(2, 4)


def by_factors(theta_rhwia: Tensor) -> Tensor:
    """Derivatives of (B, M) of all heads by their factors, (r, 2 h d d, 4 h d a)."""
    num, heads, _, dim, width = theta_rhwia.shape
    q, k, v, o = theta_rhwia.unbind(2)
    eye = torch.eye(dim, dtype=theta_rhwia.dtype)
    chain = theta_rhwia.new_zeros(num, 2, heads, dim, dim, heads, 4, dim, width)
    for h in range(heads):
        left, right = chain[:, 0, h, :, :, h], chain[:, 1, h, :, :, h]  # r i j w d a
        left[:, :, :, QUERY] = torch.einsum("xi,rja->rxjia", eye, k[:, h]) / math.sqrt(width)
        left[:, :, :, KEY] = torch.einsum("xj,ria->rixja", eye, q[:, h]) / math.sqrt(width)
        right[:, :, :, VALUE] = torch.einsum("xi,roa->rxoia", eye, o[:, h])
        right[:, :, :, OUT] = torch.einsum("xo,ria->rixoa", eye, v[:, h])
    return chain.flatten(5, 8).flatten(1, 4)


def fit(
    weighting: str, theta_rhwia: Tensor, data: Data, noise: float, iterations: int, least: float
) -> tuple[Tensor, Tensor]:
    """(weights, sums of squares): Levenberg and Marquardt's least squares with a weak ridge.

    All problems at once. A problem is done when two accepted steps running gain less than ``least``
    noise variances, or when its damping says that no step helps.
    """
    shape, ridge = theta_rhwia.shape[1:], RIDGE * noise**2
    theta_rp = theta_rhwia.flatten(1).clone()
    going = torch.arange(len(theta_rp))
    damping_r, growth_r = (
        theta_rp.new_full((len(going),), 1e-3),
        theta_rp.new_full((len(going),), 2),
    )
    idle_r = torch.zeros(len(going))
    jj, jr, squares_r = normal_equations(weighting, theta_rhwia, data)
    for _ in range(iterations):
        now = theta_rp[going]
        scale_rp = damping_r[going, None] * (jj[going].diagonal(dim1=1, dim2=2) + ridge)
        slope_rp = jr[going] - ridge * now
        step = torch.linalg.solve(jj[going] + torch.diag_embed(scale_rp + ridge), slope_rp)
        tried = now + step
        layer = tried.unflatten(1, shape)
        jj_new, jr_new, new_r = normal_equations(weighting, layer, data)
        before_r = squares_r[going] + ridge * now.square().sum(1)
        gained_r = before_r - new_r - ridge * tried.square().sum(1)
        promised_r = (step * (slope_rp + scale_rp * step)).sum(1)
        better_r = gained_r > 0
        taken = going[better_r]
        theta_rp[taken], jj[taken], jr[taken] = tried[better_r], jj_new[better_r], jr_new[better_r]
        squares_r[taken] = new_r[better_r]
        # Nielsen's rule: the damping follows how much of the promised gain came true.
        kept_r = (1 - (2 * gained_r / promised_r - 1) ** 3).clamp(min=0.1, max=1.0)
        factor_r = torch.where(better_r, kept_r, growth_r[going])
        damping_r[going] = (damping_r[going] * factor_r).clamp(1e-8, 1e10)
        growth_r[going] = torch.where(better_r, 2.0, 2 * growth_r[going])
        small_r = better_r & (gained_r < least * noise**2)
        idle_r[going] = torch.where(small_r, idle_r[going] + 1, idle_r[going] * ~better_r)
        going = going[(idle_r[going] < 2) & (damping_r[going] < 1e8)]
        if not len(going):
            break
    return theta_rp.unflatten(1, shape), squares_r
