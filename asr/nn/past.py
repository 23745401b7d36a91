"""What a layer remembers of the frames before, when a stream comes chunk by chunk."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Past:
    """One layer's memory: the keys and values of the last ``num_keys`` frames before position entered
    them (None: of all frames), and the last ``num_conv`` frames that its convolution read."""

    num_keys: int | None
    num_conv: int
    k_bhsd: Tensor | None = None
    v_bhsd: Tensor | None = None
    conv_bdt: Tensor | None = None

    @property
    def num_past_keys(self) -> int:
        """Frames whose keys are remembered."""
        return 0 if self.k_bhsd is None else self.k_bhsd.shape[2]

    def join_keys(self, k_bhsd: Tensor, v_bhsd: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the past and of now; what the next chunk may see is remembered."""
        if self.k_bhsd is not None and self.v_bhsd is not None:
            k_bhsd = torch.cat([self.k_bhsd, k_bhsd], dim=2)
            v_bhsd = torch.cat([self.v_bhsd, v_bhsd], dim=2)
        first = 0 if self.num_keys is None else max(0, k_bhsd.shape[2] - self.num_keys)
        self.k_bhsd, self.v_bhsd = k_bhsd[:, :, first:], v_bhsd[:, :, first:]
        return k_bhsd, v_bhsd

    def join_conv(self, x_bdt: Tensor) -> Tensor:
        """The frames before, zeros in the beginning, and those of now."""
        if self.conv_bdt is None:
            self.conv_bdt = x_bdt.new_zeros(*x_bdt.shape[:2], self.num_conv)
        x_bdt = torch.cat([self.conv_bdt, x_bdt], dim=2)
        self.conv_bdt = x_bdt[:, :, x_bdt.shape[2] - self.num_conv :]
        return x_bdt
