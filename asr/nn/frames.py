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


class Beginnings(NamedTuple):
    """Several transcripts of each utterance whose common beginnings are computed once, as nodes.

    Attributes:
        node_nu: of each place of each transcript the node, counted through all utterances.
        place_bm: of each node a place that it is at, counted through all transcripts; what is added to
            the utterances with fewer nodes is any.
        lens_n: places of each transcript.
    """

    node_nu: Tensor
    place_bm: Tensor
    lens_n: Tensor

    @classmethod
    def of(cls, tokens_nu: Tensor, lens_n: Tensor, num_utterances: int) -> Beginnings:
        """Find the beginnings of transcripts, as many for each utterance, one's after the other's."""
        num, length = tokens_nu.shape
        tokens_bwu = tokens_nu.view(num_utterances, -1, length)
        width = tokens_bwu.shape[1]
        exist_bwu = frame_mask(lens_n, length).view_as(tokens_bwu)
        equal_bwwu = (tokens_bwu[:, :, None] == tokens_bwu[:, None]) & exist_bwu[:, None]
        # the first transcript that begins so; what lies beyond an end is as good as the first place
        # (a maximum is found sooner than where it is)
        rank_w1 = torch.arange(width, 0, -1, device=lens_n.device)[:, None]
        first_bwu = width - (equal_bwwu.cumprod(-1) * rank_w1).amax(2)
        at_bwu = first_bwu * length + torch.arange(length, device=lens_n.device)
        at_bn = at_bwu.where(exist_bwu, 0).flatten(1)
        is_node_bn = at_bn == torch.arange(width * length, device=lens_n.device)
        num_nodes = int(is_node_bn.sum(1).max())
        # stable: nodes stand in the order of their places
        place_bn = is_node_bn.int().sort(dim=1, descending=True, stable=True).indices
        rows_b1 = torch.arange(num_utterances, device=lens_n.device)[:, None]
        node_bn = (is_node_bn.cumsum(1) - 1).gather(1, at_bn) + rows_b1 * num_nodes
        place_bm = place_bn[:, :num_nodes] + rows_b1 * (width * length)
        return cls(node_bn.view(num, length), place_bm, lens_n)

    def spread(self, x_bmd: Tensor) -> Tensor:
        """Return (n, u, d): at every place of the transcripts what is at its node."""
        return _rows(x_bmd, self.node_nu)

    def gather(self, x_nud: Tensor) -> Tensor:
        """Return (b, m, d): at every node what is at one of its places."""
        return _rows(x_nud, self.place_bm)


def _rows(x_ijd: Tensor, at_kl: Tensor) -> Tensor:
    """Return (k, l, d): rows counted through the first two axes; indexing by ``at_kl`` is slower."""
    return x_ijd.flatten(0, 1).index_select(0, at_kl.flatten()).unflatten(0, at_kl.shape)


class Frames(NamedTuple):
    """Frames that exist (b, t), which of them see each other, in a stream what is remembered of those
    before, and in a decoder what they see besides and which beginnings they share."""

    exist_bt: Tensor
    mask: Mask
    memory: Memory | None = None
    source: Source | None = None
    beginnings: Beginnings | None = None

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
