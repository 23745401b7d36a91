"""A batch of no utterance, and utterances without a frame, through the whole recogniser."""

from __future__ import annotations

import itertools

import pytest
import torch

from asr import config
from asr.config.kinds import ENCODERS
from asr.model.recogniser import Recogniser

SMALL = [
    *("encoder.num_layers=1", "encoder.dim=32", "encoder.ff_dim=32"),
    "encoder.subsampling_channels=4",
]
WEIGHTINGS = ("softmax", "sigmoid", "relu", "polynomial")
POSITIONS = ("none", "sinusoidal", "learned", "cape", "rope", "alibi", "relative", "table")
BATCHES = [
    ((0, 16000), []),
    ((0, 0), []),
    ((2, 0), [0, 0]),
    ((1, 10), [10]),
    ((2, 16000), [0, 16000]),
]


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("kind", list(ENCODERS))
def test_empty_batches(kind: str, position: str) -> None:
    """Forward and backward: the right shapes, no gradient that is not finite."""
    for weighting, train in itertools.product(WEIGHTINGS, (False, True)):
        options = [f"encoder.kind={kind}", f"attention.weighting={weighting}"]
        loaded = config.load([], [*SMALL, *options, f"attention.position={position}"])
        net = Recogniser(loaded, vocab_size=10).train(train)
        for shape, lens in BATCHES:
            lens_b = torch.tensor(lens, dtype=torch.int64)
            log_probs_btv, frames_b = net(torch.zeros(shape), lens_b)
            assert log_probs_btv.shape[::2] == (len(lens), 10)
            assert frames_b.tolist() == [int(net.num_output_frames(one)) for one in lens_b]
            assert not log_probs_btv[frames_b == 0].isnan().any()
            net.zero_grad()
            log_probs_btv.sum().backward()
            gradients = [p.grad for p in net.parameters() if p.grad is not None]
            assert all(gradient.isfinite().all() for gradient in gradients)
