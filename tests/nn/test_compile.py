"""torch.compile takes whole layers: attention is one operator, and nothing breaks the graph."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from interpreter import run_in_interpreter
from sigmoid_attention import Mask

from asr.config import AttentionConfig, EncoderConfig
from asr.nn.encoder import Encoder
from asr.nn.frames import Frames, frame_mask


@pytest.mark.parametrize(
    ("weighting", "position", "backend"),
    [
        ("sigmoid", "relative", "blockwise"),
        ("sigmoid", "alibi", "reference"),
        ("softmax", "rope", "sdpa"),
        ("softmax", "relative", "blockwise"),
        ("sigmoid", "relative", "triton"),
    ],
)
def test_a_conformer_layer_has_no_graph_break(weighting: str, position: str, backend: str) -> None:
    device = "cuda" if backend == "triton" and torch.cuda.is_available() else "cpu"
    if backend == "triton" and device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("neither a GPU nor TRITON_INTERPRET=1")
    torch._dynamo.reset()
    torch.manual_seed(0)
    config = EncoderConfig("conformer", 1, 16, 32, 5, subsampling_channels=4, dropout=0.1)
    attention = AttentionConfig(weighting, position, 2, backend=backend)
    layer = Encoder(config, attention, 80).layers[0].eval().to(device)
    lens_b = torch.tensor([20, 13], device=device)
    frames = Frames(frame_mask(lens_b, 20), Mask(key_lens=lens_b, query_lens=lens_b))
    leaves = [torch.randn(2, 20, 16, device=device).requires_grad_() for _ in range(2)]
    leaves[1].data.copy_(leaves[0])
    # the compiled one first: it has to choose its backend, too
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    got, expected = compiled(leaves[0], frames), layer(leaves[1], frames)
    torch.testing.assert_close(got, expected)
    for y_btd in (got, expected):
        y_btd.square().sum().backward()
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad)


def test_whole_layers_compile_around_the_kernels() -> None:
    pytest.importorskip("triton")
    run_in_interpreter("not slow", Path(__file__), "-k", "triton")
