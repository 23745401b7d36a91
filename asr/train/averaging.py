"""Exponential moving average of the weights (Polyak and Juditsky 1992)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """``average += (1 - d) (weight - average)`` after each step, d rising to ``decay`` as
    ``(1 + step) / (10 + step)``, so that the random weights of the beginning are soon forgotten.

    ``decay`` 0 keeps no average at all.

    Attributes:
        values: by parameter name; empty at decay 0.
    """

    def __init__(self, net: nn.Module, decay: float):
        self._decay = decay
        self._parameters = dict(net.named_parameters()) if decay else {}
        self.values: dict[str, Tensor] = {
            name: value.detach().clone() for name, value in self._parameters.items()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After optimiser step ``step``, counted from 1."""
        if not self.values:
            return
        share = 1.0 - min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(
            list(self.values.values()), [p.detach() for p in self._parameters.values()], share
        )

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the averaged weights in here, and its own bit for bit afterwards."""
        with torch.no_grad():
            own = [value.clone() for value in self._parameters.values()]
            for name, parameter in self._parameters.items():
                parameter.copy_(self.values[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(self._parameters.values(), own, strict=True):
                    parameter.copy_(value)
