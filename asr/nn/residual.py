"""The residual connection around every module of a layer, with its norm and its remedies."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from asr.nn.frames import Frames

Branch = Callable[[Tensor, Frames], Tensor]


class PreNorm(nn.Module):
    """``x + weight * branch(norm(x))`` (Xiong et al. 2020, arXiv 2002.04745).

    With ``layer_scale`` a trained gain per channel, that small in the beginning, multiplies the branch
    (LayerScale: Touvron et al. 2021, arXiv 2103.17239, eq. 2). With ``drop_rate`` the branch of an
    utterance is left out with that probability in training, and scaled so that its mean stays
    (stochastic depth: Huang et al. 2016, arXiv 1603.09382).
    """

    def __init__(
        self,
        branch: nn.Module,
        dim: int,
        weight: float = 1.0,
        layer_scale: float = 0.0,
        drop_rate: float = 0.0,
    ):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.branch = branch
        self.weight = weight
        self.drop_rate = drop_rate
        self.gain_d = nn.Parameter(torch.full((dim,), layer_scale)) if layer_scale else None

    def forward(self, x_btd: Tensor, frames: Frames) -> Tensor:
        return self.add(x_btd, self.branch(self.norm(x_btd), frames))

    def add(self, x_btd: Tensor, branch_btd: Tensor) -> Tensor:
        """The residual sum."""
        if self.gain_d is not None:
            branch_btd = branch_btd * self.gain_d
        if self.training and self.drop_rate:
            kept_b11 = torch.rand(len(x_btd), 1, 1, device=x_btd.device) >= self.drop_rate
            branch_btd = branch_btd * (kept_b11 / (1.0 - self.drop_rate)).to(branch_btd.dtype)
        return torch.add(x_btd, branch_btd, alpha=self.weight)


class PostNorm(PreNorm):
    """``norm(x + weight * branch(x))`` (Vaswani et al. 2017, section 5.4); remedies as above."""

    def forward(self, x_btd: Tensor, frames: Frames) -> Tensor:
        return self.norm(self.add(x_btd, self.branch(x_btd, frames)))


RESIDUALS: dict[str, type[PreNorm]] = {"pre": PreNorm, "post": PostNorm}
