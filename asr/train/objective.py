"""What training minimises, as a module that DDP can wrap."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from asr.model.recogniser import Augment, Recogniser


class Objective(nn.Module):
    """The recogniser's loss; with ``cr_ctc`` above 0 that of two augmented views and their consistency
    (CR-CTC: Yao et al. 2024, arXiv 2410.05101)."""

    def __init__(self, net: Recogniser, cr_ctc: float):
        super().__init__()
        self.net = net
        self.cr_ctc = cr_ctc

    @property
    def num_views(self) -> int:
        """How often an utterance is computed, each time augmented anew."""
        return 2 if self.cr_ctc else 1

    def forward(
        self,
        wave_bn: Tensor,
        wave_lens_b: Tensor,
        tokens_bu: Tensor,
        token_lens_b: Tensor,
        augment: Augment,
    ) -> Tensor:
        """(b) the loss of each utterance; ``augment`` gets the first views, then the second ones."""
        views = self.num_views
        loss_b, log_probs_btv, lens_b = self.net.loss_and_output(
            wave_bn.repeat(views, 1),
            wave_lens_b.repeat(views),
            tokens_bu.repeat(views, 1),
            token_lens_b.repeat(views),
            augment,
        )
        if views == 1:
            return loss_b
        first_btv, second_btv = log_probs_btv.chunk(2)
        pulled_b = consistency(first_btv, second_btv, lens_b.chunk(2)[0])
        return loss_b.unflatten(0, (2, -1)).mean(0) + self.cr_ctc * pulled_b


def consistency(first_btv: Tensor, second_btv: Tensor, lens_b: Tensor) -> Tensor:
    """(b) half the sum over an utterance's frames of ``KL(sg(z2) || z1) + KL(sg(z1) || z2)``
    (equations 3 and 4): each view learns from the other, which stands still (sg: no gradient).

    Args:
        first_btv, second_btv: log-probabilities of the two views.
        lens_b: frames of each utterance; the rest does not count.
    """
    pulled_btv = _terms(second_btv, first_btv) + _terms(first_btv, second_btv)
    frames_bt = torch.arange(first_btv.shape[1], device=lens_b.device) < lens_b[:, None]
    return 0.5 * torch.where(frames_bt, pulled_btv.sum(-1), 0.0).sum(-1)


def _terms(target_btv: Tensor, log_probs_btv: Tensor) -> Tensor:
    """p (log p - log q), p standing still."""
    target_btv = target_btv.detach()
    return target_btv.exp() * (target_btv - log_probs_btv)
