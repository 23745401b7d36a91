"""Hooks on attention: what its queries and keys were, whatever computes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from sigmoid_attention import Mask, PositionBias
from sigmoid_attention.reference import attention_weights
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from asr.nn.attention import Attending, MultiHeadAttention
from asr.nn.decoder import CrossAttention
from asr.nn.frames import Frames


@dataclass(frozen=True)
class Seen:
    """Data that one layer's attention got: its input, and queries and keys as they meet.

    Attributes:
        again: another such module and another input -> its output, all else being the same.
        key_mask: of the keys; a Linformer's are mixtures, seen otherwise than frames.
        one_axis: whether queries and keys are the same frames, or tokens.
    """

    attention: Attending
    again: Callable[[Any, Tensor], Tensor]
    x_btd: Tensor
    frame_mask: Mask
    key_mask: Mask
    q_bhtd: Tensor
    k_bhsd: Tensor
    bias: PositionBias | None
    one_axis: bool

    def weights(self) -> Tensor:
        """p_bhts, by the reference implementation."""
        return attention_weights(
            self.q_bhtd,
            self.k_bhsd,
            weighting=self.attention.trained_weighting(),
            position=self.bias,
            mask=self.key_mask,
        )


Tell = Callable[[Seen], None]


@contextmanager
def watch_attention(
    attention: Attending, tell: Tell, row_lens_b: Tensor | None = None
) -> Iterator[None]:
    """Tell of every forward pass of the module, for as long as the block lasts.

    Args:
        row_lens_b: how many queries of each sequence exist; None: the mask says it.
    """

    def limited(mask: Mask) -> Mask:
        return mask if row_lens_b is None else replace(mask, query_lens=row_lens_b)

    if isinstance(attention, CrossAttention):
        handles = _watch_across(attention, tell, limited)
    else:
        assert isinstance(attention, MultiHeadAttention)
        handles = _watch_among(attention, tell, limited)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _watch_among(
    attention: MultiHeadAttention, tell: Tell, limited: Callable[[Mask], Mask]
) -> list[RemovableHandle]:
    got: dict[str, Any] = {}

    def enters(module: nn.Module, args: tuple[Tensor, Mask, Any]) -> None:
        x_btd, mask = args[:2]
        got.update(x_btd=x_btd, frame_mask=limited(mask), key_mask=limited(mask))
        got.update(again=lambda twin, x_btd: twin(x_btd, mask))

    def mixed(module: nn.Module, args: Any, output: tuple[Tensor, Tensor, Mask]) -> None:
        got["key_mask"] = output[2]

    def meet(
        module: nn.Module, args: Any, output: tuple[Tensor, Tensor, PositionBias | None]
    ) -> None:
        q_bhtd, k_bhsd, bias = output
        one_axis = attention.linformer is None
        tell(Seen(attention, q_bhtd=q_bhtd, k_bhsd=k_bhsd, bias=bias, one_axis=one_axis, **got))

    handles = [
        attention.register_forward_pre_hook(enters),
        attention.position.register_forward_hook(meet),
    ]
    if attention.linformer is not None:
        handles.append(attention.linformer.register_forward_hook(mixed))
    return handles


def _watch_across(
    attention: CrossAttention, tell: Tell, limited: Callable[[Mask], Mask]
) -> list[RemovableHandle]:
    def enters(module: nn.Module, args: tuple[Tensor, Frames]) -> None:
        x_bud, frames = args
        assert frames.source is not None
        source, mask = frames.source, limited(Mask(key_lens=frames.source.lens_b))

        def again(twin: CrossAttention, x_bud: Tensor) -> Tensor:
            given = source._replace(frames_bsd=source.frames_bsd.detach().to(x_bud.dtype))
            out_bud: Tensor = twin(x_bud, frames._replace(source=given))
            return out_bud

        q_bhud, k_bhsd = attention.queries(x_bud, source), attention.keys_values(source)[0]
        tell(Seen(attention, again, x_bud, mask, mask, q_bhud, k_bhsd, None, one_axis=False))

    return [attention.register_forward_pre_hook(enters)]
