"""What training minimises, as a module that DDP can wrap."""

from __future__ import annotations

from torch import Tensor, nn

from asr.model.recogniser import Augment, Recogniser


class Objective(nn.Module):
    """The recogniser's loss as a forward pass."""

    def __init__(self, net: Recogniser):
        super().__init__()
        self.net = net

    def forward(
        self,
        wave_bn: Tensor,
        wave_lens_b: Tensor,
        tokens_bu: Tensor,
        token_lens_b: Tensor,
        augment: Augment,
    ) -> Tensor:
        """(b) the loss of each utterance; ``augment`` gets the first views, then the second ones."""
        return self.net.loss(wave_bn, wave_lens_b, tokens_bu, token_lens_b, augment)
