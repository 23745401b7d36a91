"""Facts about the frames for every module of a layer: which exist, which see each other, and, in a
stream, where it keeps what it must remember of those before."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from sigmoid_attention import Mask
from torch import Tensor, nn


class Memory:
    """The state that the modules of an encoder keep of past frames, each under its own name.

    Attributes:
        num_frames: frames of the encoder that have gone by.
    """

    def __init__(self) -> None:
        self.num_frames = 0
        self._kept: dict[tuple[nn.Module, str], Tensor] = {}

    def join(self, owner: nn.Module, name: str, x: Tensor, dim: int, most: int | None) -> Tensor:
        """Return what the module has kept under this name, then x, along ``dim``; of both together
        the last ``most`` frames are kept for the next time (None: all)."""
        if (owner, name) in self._kept:
            x = torch.cat([self._kept[owner, name], x], dim)
        count = x.shape[dim]
        kept = count if most is None else min(most, count)
        self._kept[owner, name] = x.narrow(dim, count - kept, kept)
        return x

    def once(self, owner: nn.Module, name: str, make: Callable[[], Tensor]) -> Tensor:
        """Return what the module has kept under this name; what ``make`` gives the first time."""
        if (owner, name) not in self._kept:
            self._kept[owner, name] = make()
        return self._kept[owner, name]

    def select(self, rows_n: Tensor) -> None:
        """Keep these rows of the batch, in this order; a row may be taken several times."""
        self._kept = {key: x.index_select(0, rows_n) for key, x in self._kept.items()}

    def sizes(self) -> dict[str, set[tuple[int, ...]]]:
        """Return the shapes of what is kept, by name: what a stream costs."""
        found: dict[str, set[tuple[int, ...]]] = {}
        for (_, name), x in self._kept.items():
            found.setdefault(name, set()).add(tuple(x.shape))
        return found


class Source(NamedTuple):
    """The encoder's frames (b, s, d) that a decoder's tokens see, and how many there are (b); in a
    search, what modules compute of them once."""

    frames_bsd: Tensor
    lens_b: Tensor
    memory: Memory | None = None

    def select(self, rows_b: Tensor) -> Source:
        """Return these utterances, with what is remembered of them."""
        if self.memory is not None:
            self.memory.select(rows_b)
        return Source(self.frames_bsd[rows_b], self.lens_b[rows_b], self.memory)


class Frames(NamedTuple):
    """Frames that exist (b, t), which of them see each other, in a stream what is remembered of those
    before, and in a decoder what they see besides."""

    exist_bt: Tensor
    mask: Mask
    memory: Memory | None = None
    source: Source | None = None

    def with_past(self, owner: nn.Module, x_bdt: Tensor, num_before: int) -> Tensor:
        """Return (b, d, num_before + t): x behind the frames before it, which are zeros in the
        beginning. A causal convolution reads that, in a stream as in a whole pass."""
        total = num_before + x_bdt.shape[2]
        if self.memory is not None:
            x_bdt = self.memory.join(owner, "frames", x_bdt, 2, num_before)
        return nn.functional.pad(x_bdt, (total - x_bdt.shape[2], 0))


def frame_mask(lens_b: Tensor, num_frames: int) -> Tensor:
    """(batch, frame) bool: true on the frames that exist."""
    return torch.arange(num_frames, device=lens_b.device)[None, :] < lens_b[:, None]
