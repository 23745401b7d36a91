"""Transformer decoder (Vaswani et al. 2017, arXiv 1706.03762): tokens and an encoder's frames in, the
logits of each next token out.

Shapes: b sequence, u token, s encoder frame, d channel, v vocabulary.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from sigmoid_attention import Mask
from sigmoid_attention.reference import attention_weights
from torch import Tensor, nn

from asr.config import AttentionConfig, DecoderConfig
from asr.nn.attention import ABSOLUTE_POSITIONS, Attending, build_attention, build_weighting
from asr.nn.dropout import Dropout
from asr.nn.frames import Beginnings, Frames, Memory, Source, frame_mask
from asr.nn.modules import FeedForward, SelfAttention
from asr.nn.residual import PreNorm


class CrossAttention(Attending):
    """Attention of tokens to the frames of ``Frames.source``: (b, u, d) -> (b, u, d).

    Frames beyond the encoder's lengths contribute exactly nothing. In a search keys and values are
    computed once.
    """

    def __init__(self, config: AttentionConfig, dim: int, dropout: float):
        super().__init__(build_weighting(config), None, "key_lens", config.backend)
        self.num_heads = config.num_heads
        self.project_q = nn.Linear(dim, dim)
        self.project_kv = nn.Linear(dim, 2 * dim)
        self.project_out = nn.Linear(dim, dim)
        self.dropout = Dropout(dropout)

    def forward(self, x_bud: Tensor, frames: Frames) -> Tensor:
        """
        Args:
            x_bud: of as many hypotheses for each utterance of the source, one utterance's after the
                other's: without a position they are one sequence of queries.
        """
        assert frames.source is not None
        q_bhud = self.queries(x_bud, frames.source)
        k_bhsd, v_bhsd = self.keys_values(frames.source)
        attend = self.resolve(q_bhud.device, q_bhud.dtype)
        o_bhud = attend(q_bhud, k_bhsd, v_bhsd, mask=Mask(key_lens=frames.source.lens_b))
        out_bud = self.project_out(o_bhud.transpose(1, 2).flatten(2))
        return self.dropout(out_bud.reshape(x_bud.shape))

    def queries(self, x_bud: Tensor, source: Source) -> Tensor:
        """Return the queries (b, h, u, d / h), those of an utterance's hypotheses in one sequence."""
        q_bud = self.project_q(x_bud).reshape(len(source.lens_b), -1, x_bud.shape[2])
        return self._heads(q_bud)

    def weights(self, x_bud: Tensor, source: Source) -> Tensor:
        """Return the weights (b, h, u, s) of the frames, by the reference implementation."""
        q_bhud, (k_bhsd, _) = self.queries(x_bud, source), self.keys_values(source)
        mask = Mask(key_lens=source.lens_b)
        return attention_weights(q_bhud, k_bhsd, weighting=self.weighting, mask=mask)

    def keys_values(self, source: Source) -> tuple[Tensor, Tensor]:
        """Return the keys and values (b, h, s, d / h) of the encoder's frames."""
        if source.memory is None:
            kv_bsd = self.project_kv(source.frames_bsd)
        else:
            kv_bsd = source.memory.once(
                self, "keys and values", lambda: self.project_kv(source.frames_bsd)
            )
        k_bsd, v_bsd = kv_bsd.chunk(2, dim=-1)
        return self._heads(k_bsd), self._heads(v_bsd)

    def _heads(self, x_btd: Tensor) -> Tensor:
        return x_btd.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class DecoderLayer(nn.Module):
    """Causal self-attention, cross-attention, feed-forward, each behind a norm (pre-norm)."""

    def __init__(self, config: DecoderConfig, attention: AttentionConfig, dim: int):
        super().__init__()
        own = SelfAttention(build_attention(attention, dim), config.dropout)
        across = replace(attention, weighting=config.cross_weighting, position="none", causal=False)
        ff = FeedForward(dim, config.ff_dim, config.dropout, config.activation)
        self.self_attention = PreNorm(own, dim)
        self.cross_attention = PreNorm(CrossAttention(across, dim, config.dropout), dim)
        self.ff = PreNorm(ff, dim)

    def forward(self, x_bud: Tensor, frames: Frames) -> Tensor:
        x_bud = self.cross_attention(self.self_attention(x_bud, frames), frames)
        return self.ff(x_bud, frames)

    def with_weights(self, x_bud: Tensor, frames: Frames) -> tuple[Tensor, Tensor]:
        """Return what ``forward`` does, and cross-attention's weights (b, h, u, s)."""
        x_bud = self.self_attention(x_bud, frames)
        across = self.cross_attention.branch
        assert isinstance(across, CrossAttention)
        assert frames.source is not None
        weights_bhus = across.weights(self.cross_attention.norm(x_bud), frames.source)
        return self.ff(self.cross_attention(x_bud, frames), frames), weights_bhus


class Decoder(nn.Module):
    """(b, u) tokens and the encoder's frames -> (b, u, v) logits of what follows each token.

    For sigmoid, n is the number of tokens up to each (effective, where position is a bias), and in
    cross-attention the number of the encoder's frames.
    """

    def __init__(self, config: DecoderConfig, backend: str, dim: int, vocab_size: int):
        super().__init__()
        attention = AttentionConfig(
            weighting=config.weighting,
            position=config.position,
            num_heads=config.num_heads,
            causal=True,  # padding stands behind the tokens that exist, where none of them looks
            backend=backend,
        )
        absolute = ABSOLUTE_POSITIONS.get(config.position)
        self.embedding = nn.Embedding(vocab_size, dim)
        # absolute positions scale what they are added to by sqrt(dim)
        nn.init.normal_(self.embedding.weight, std=1.0 if absolute is None else dim**-0.5)
        self.position = None if absolute is None else absolute(config.num_positions, dim)
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList(
            DecoderLayer(config, attention, dim) for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.output = None if config.tie_embeddings else nn.Linear(dim, vocab_size)

    def forward(
        self,
        tokens_bu: Tensor,
        source: Source,
        memory: Memory | None = None,
        beginnings: Beginnings | None = None,
    ) -> Tensor:
        """
        Args:
            memory: of tokens that were given before these, which it is added to; None: there are none.
            beginnings: that transcripts of one utterance share, which are computed once; the logits are
                of their nodes (b, m, v) then.
        """
        x_bud, frames = self._enter(tokens_bu, source, memory)
        if beginnings is not None:
            x_bud = beginnings.gather(x_bud)
            mask = replace(
                frames.mask, query_lens=beginnings.lens_n
            )  # what lies beyond is not computed
            frames = frames._replace(beginnings=beginnings, mask=mask)
        for layer in self.layers:
            x_bud = layer(x_bud, frames)
        if memory is not None:
            memory.num_frames += tokens_bu.shape[1]
        return self._leave(x_bud)

    def with_weights(self, tokens_bu: Tensor, source: Source) -> tuple[Tensor, Tensor]:
        """Return the logits (b, u, v), and the weights (b, layers * h, u, s) of cross-attention."""
        x_bud, frames = self._enter(tokens_bu, source, None)
        found = []
        for layer in self.layers:
            assert isinstance(layer, DecoderLayer)
            x_bud, weights_bhus = layer.with_weights(x_bud, frames)
            found.append(weights_bhus)
        return self._leave(x_bud), torch.cat(found, 1)

    def _enter(
        self, tokens_bu: Tensor, source: Source, memory: Memory | None
    ) -> tuple[Tensor, Frames]:
        """Return what the first layer gets."""
        start = 0 if memory is None else memory.num_frames
        lens_b = torch.full((len(tokens_bu),), tokens_bu.shape[1], device=tokens_bu.device)
        x_bud = self.embedding(tokens_bu)
        if self.position is not None:
            x_bud = self.position(x_bud, lens_b, start)
        x_bud = self.dropout(x_bud)
        mask = Mask(causal=True, q_start=start, k_start=start)
        return x_bud, Frames(frame_mask(lens_b, tokens_bu.shape[1]), mask, memory, source)

    def _leave(self, x_bud: Tensor) -> Tensor:
        x_bud = self.norm(x_bud)
        if self.output is None:
            return nn.functional.linear(x_bud, self.embedding.weight)
        logits_buv: Tensor = self.output(x_bud)
        return logits_buv
