"""The recogniser: waveforms in, CTC log-probabilities out."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from asr.config import Config
from asr.errors import InputError
from asr.nn.encoder import Chunk, Encoder
from asr.nn.features import Fbank, GlobalNorm
from asr.nn.subsampling import Count, subsampled

BLANK = 0

Augment = Callable[[Tensor, Tensor], Tensor]
"""(features_btf, lens_b) -> features_btf: what training does to normalised features."""


class Recogniser(nn.Module):
    """Filterbank, global normalisation, encoder, CTC head.

    ``forward``: waveforms (b, n) in [-1, 1] padded with zeros and their lengths (b) in samples ->
    log-probabilities (b, t, v), blank at 0, and their lengths (b) in frames. Nothing in it depends on
    the padding or on the other utterances of the batch.
    """

    def __init__(self, config: Config, vocab_size: int):
        super().__init__()
        self.features = Fbank(config.features)
        self.norm = GlobalNorm(config.features.num_mels)
        self.encoder = Encoder(config.encoder, config.attention, config.features.num_mels)
        self.head = nn.Linear(config.encoder.dim, vocab_size)
        self.subsampling = config.encoder.subsampling
        self.intermediate_layers = tuple(config.encoder.intermediate_ctc)
        self.chunk_sizes = tuple(config.encoder.chunk_sizes)
        self.left_chunks = tuple(config.encoder.left_chunks)
        self.intermediate_weight = config.encoder.intermediate_ctc_weight

    def forward(
        self,
        wave_bn: Tensor,
        wave_lens_b: Tensor,
        augment: Augment | None = None,
        chunk: Chunk | None = None,
    ) -> tuple[Tensor, Tensor]:
        feats_btf, feat_lens_b = self.normalised_features(wave_bn, wave_lens_b, augment)
        encoded_btd, lens_b = self.encoder(feats_btf, feat_lens_b, chunk)
        return self.log_probs(encoded_btd), lens_b

    def loss(
        self,
        wave_bn: Tensor,
        wave_lens_b: Tensor,
        tokens_bu: Tensor,
        token_lens_b: Tensor,
        augment: Augment | None = None,
    ) -> Tensor:
        """(b) what training minimises: the CTC loss of each utterance, mixed with those of the layers
        of ``intermediate_ctc`` through the same head (Lee and Watanabe 2021, arXiv 2102.03216, eq. 9,
        several layers averaged)."""
        return self.loss_and_output(wave_bn, wave_lens_b, tokens_bu, token_lens_b, augment)[0]

    def loss_and_output(
        self,
        wave_bn: Tensor,
        wave_lens_b: Tensor,
        tokens_bu: Tensor,
        token_lens_b: Tensor,
        augment: Augment | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what ``loss`` and what ``forward`` give, from one pass."""
        feats_btf, feat_lens_b = self.normalised_features(wave_bn, wave_lens_b, augment)
        encoded, lens_b = self.encoder.outputs(
            feats_btf, feat_lens_b, self._draw_chunk(), self.intermediate_layers
        )
        outputs = [self.log_probs(encoded_btd) for encoded_btd in encoded]
        *between_b, last_b = (
            ctc_loss(log_probs_btv, lens_b, tokens_bu, token_lens_b) for log_probs_btv in outputs
        )
        if between_b:
            last_b = torch.lerp(last_b, torch.stack(between_b).mean(0), self.intermediate_weight)
        return last_b, outputs[-1], lens_b

    def _draw_chunk(self) -> Chunk | None:
        """One of the configuration's sizes, and one of its numbers of chunks before."""
        if not self.chunk_sizes:
            return None
        size, left = (
            choices[int(torch.randint(len(choices), ()))]
            for choices in (self.chunk_sizes, self.left_chunks)
        )
        return (size, None if left < 0 else left) if size else None

    def log_probs(self, encoded_btd: Tensor) -> Tensor:
        """(b, t, v) from what a layer gives, in float32 at least: under autocast it is bfloat16."""
        logits_btv = self.head(encoded_btd)
        return logits_btv.log_softmax(
            -1, dtype=torch.promote_types(logits_btv.dtype, torch.float32)
        )

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
        parameter = self.head.weight
        return self.encoder.attention_backend(parameter.device, parameter.dtype)


def weight_shapes(config: Config, vocab_size: int) -> dict[str, torch.Size]:
    """Names and shapes of the weights that a model of this configuration has, without allocating any."""
    with torch.device("meta"):
        parts = {
            "norm": GlobalNorm(config.features.num_mels),
            "encoder": Encoder(config.encoder, config.attention, config.features.num_mels),
            "head": nn.Linear(config.encoder.dim, vocab_size),
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


def ctc_loss(
    log_probs_btv: Tensor, lens_b: Tensor, tokens_bu: Tensor, token_lens_b: Tensor
) -> Tensor:
    """(b) minus the log-probability of each transcript (Graves et al. 2006).

    Infinite where a transcript does not fit into its frames; training leaves those out beforehand.
    """
    return nn.functional.ctc_loss(
        log_probs_btv.transpose(0, 1),
        tokens_bu,
        lens_b,
        token_lens_b,
        blank=BLANK,
        reduction="none",
    )


def count_parameters(model: nn.Module) -> int:
    """Trained numbers in the model."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
