"""The recogniser: waveforms in, frames of a head out."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from asr.config import Config
from asr.errors import InputError
from asr.heads.base import Head
from asr.heads.table import build_heads
from asr.nn.encoder import Chunk, Encoder
from asr.nn.features.table import build_front_end, build_norm
from asr.nn.outline import outlines
from asr.nn.subsampling import Count, subsampled

Augment = Callable[[Tensor, Tensor], Tensor]
"""(features_btf, lens_b) -> features_btf: what training does to normalised features."""


class Recogniser(nn.Module):
    """Front end, its normalisation, encoder, heads.

    ``forward``: waveforms (b, n) in [-1, 1] padded with zeros and their lengths (b) in samples -> frames
    (b, t, x) of a head (log-probabilities of CTC's) and their lengths (b). Nothing in it depends on the
    padding or on the other utterances of the batch.

    Attributes:
        heads: by name; the first one is read where no other is asked for.
        num_views: how often training computes an utterance, each time augmented anew.
    """

    def __init__(self, config: Config, vocab_size: int):
        super().__init__()
        self.features = build_front_end(config.features)
        self.norm = build_norm(config.features)
        self.encoder = Encoder(config.encoder, config.attention, config.features.num_mels)
        self.heads = nn.ModuleDict(build_heads(config, vocab_size))
        self.vocab_size = vocab_size
        self.dim = config.encoder.dim
        self.subsampling = config.encoder.subsampling
        self.chunk_sizes = tuple(config.encoder.chunk_sizes)
        self.left_chunks = tuple(config.encoder.left_chunks)
        self.num_views = max(self.head(name).num_views for name in self.heads)

    @property
    def device(self) -> torch.device:
        """Device of the weights, on which the audio must be."""
        return next(self.encoder.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return next(self.encoder.parameters()).dtype

    @property
    def first_head(self) -> str:
        """The name of the head that is read where no other is asked for."""
        return next(iter(self.heads))

    def head(self, name: str | None = None) -> Head:
        """Return a head by its name; by default the one that is read where no other is asked for.

        Raises:
            InputError: the model has no such head.
        """
        if name is not None and name not in self.heads:
            known = ", ".join(self.heads)
            raise InputError(f"this model has no {name} head: choose one of its heads, {known}")
        return cast(Head, self.heads[name or self.first_head])

    def forward(
        self,
        wave_bn: Tensor,
        wave_lens_b: Tensor,
        augment: Augment | None = None,
        chunk: Chunk | None = None,
        head: str | None = None,
    ) -> tuple[Tensor, Tensor]:
        feats_btf, feat_lens_b = self.normalised_features(wave_bn, wave_lens_b, augment)
        encoded_btd, lens_b = self.encoder(feats_btf, feat_lens_b, chunk)
        return self.head(head).frames(encoded_btd), lens_b

    def loss(
        self,
        wave_bn: Tensor,
        wave_lens_b: Tensor,
        tokens_bu: Tensor,
        token_lens_b: Tensor,
        augment: Augment | None = None,
    ) -> Tensor:
        """(b) what training minimises for each utterance: the sum over the heads.

        Args:
            augment: gets the first views of all utterances, then the second ones.
        """
        views, count = self.num_views, len(wave_bn)
        feats_btf, feat_lens_b = self.normalised_features(
            wave_bn.repeat(views, 1), wave_lens_b.repeat(views), augment
        )
        heads = [self.head(name) for name in self.heads]
        layers = sorted({layer for head in heads for layer in head.layers})
        outputs, lens_b = self.encoder.outputs(feats_btf, feat_lens_b, self._draw_chunk(), layers)
        after = dict(zip([*layers, None], outputs, strict=True))
        losses = []
        for head in heads:
            rows = head.num_views * count
            own = [after[layer][:rows] for layer in (*head.layers, None)]
            losses.append(
                head.loss(
                    own,
                    lens_b[:rows],
                    tokens_bu.repeat(head.num_views, 1),
                    token_lens_b.repeat(head.num_views),
                )
            )
        return sum(losses[1:], start=losses[0])

    def _draw_chunk(self) -> Chunk | None:
        """One of the configuration's sizes, and one of its numbers of chunks before."""
        if not self.chunk_sizes:
            return None
        size, left = (
            choices[int(torch.randint(len(choices), ()))]
            for choices in (self.chunk_sizes, self.left_chunks)
        )
        return (size, None if left < 0 else left) if size else None

    def normalised_features(
        self, wave_bn: Tensor, wave_lens_b: Tensor, augment: Augment | None = None
    ) -> tuple[Tensor, Tensor]:
        """(b, t, f) what the encoder reads, and the lengths in feature frames."""
        # features stay in float32 whatever autocast does: a log of small energies needs the range
        with torch.autocast(wave_bn.device.type, enabled=False), torch.no_grad():
            feats_btf, feat_lens_b = self.features(wave_bn, wave_lens_b)
            feats_btf = self.norm(feats_btf, feat_lens_b)
            if augment is not None:
                feats_btf = augment(feats_btf, feat_lens_b)
        return feats_btf, feat_lens_b

    def num_output_frames(self, num_samples: Count) -> Count:
        """Frames that the loss and the search get from so many samples (or each of a tensor)."""
        return subsampled(self.features.num_frames(num_samples), self.subsampling)

    def attention_backend(self) -> str:
        """Name which backend computes attention here, for the log."""
        return self.encoder.attention_backend(self.device, self.dtype)


def weight_shapes(config: Config, vocab_size: int) -> dict[str, torch.Size]:
    """Names and shapes of the weights that a model of this configuration has, without allocating any."""
    with outlines():
        parts = {
            "norm": build_norm(config.features),
            "encoder": Encoder(config.encoder, config.attention, config.features.num_mels),
            "heads": nn.ModuleDict(build_heads(config, vocab_size)),
        }
    return {
        f"{part}.{name}": value.shape
        for part, module in parts.items()
        for name, value in module.state_dict().items()
    }


def check_finite(model: nn.Module, folder: Path) -> None:
    """Refuse weights with which every output would be NaN.

    Args:
        folder: where they are from, for the message.

    Raises:
        InputError: names the first tensor that holds NaN or infinite numbers.
    """
    for name, value in model.state_dict().items():
        # by NumPy: PyTorch's threads take turns, for milliseconds each time, where CPUs are busy
        numbers = value.cpu().numpy()
        with np.errstate(all="ignore"):
            total = float(numbers.sum())
        # a sum that is finite has finite terms; one that overflows says nothing
        if not math.isfinite(total) and not np.isfinite(numbers).all():
            raise InputError(
                f"{folder}: damaged weights: {name} holds NaN or infinite numbers; "
                "train or copy the model anew"
            )


def count_parameters(model: nn.Module) -> int:
    """Trained numbers in the model."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
