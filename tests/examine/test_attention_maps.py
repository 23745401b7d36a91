"""Maps of a decoder's cross-attention, against what its own modules put out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from asr import config
from asr.examine.attention_maps import attention_maps, cross_maps, draw_attention, picture
from asr.model.folder import Model, load_model, save_model
from asr.model.recogniser import Recogniser
from asr.nn.decoder import CrossAttention
from asr.nn.frames import Frames
from asr.text.tokenizer import train_tokenizer

SMALL = [
    *("encoder.num_layers=1", "encoder.dim=32", "encoder.ff_dim=32", "attention.num_heads=2"),
    *("tokenizer.kind=char", "model.heads=[ctc,attention]", "decoder.num_layers=2"),
    *("decoder.ff_dim=32", "decoder.num_heads=4"),
]
WAVE_N = np.random.default_rng(0).normal(0, 0.1, size=16000).astype(np.float32)


def saved(folder: Path, across: str) -> Model:
    cfg = config.load([], [*SMALL, f"decoder.cross_weighting={across}"])
    tokenizer = train_tokenizer(["the quick brown fox jumps over a lazy dog"], cfg.tokenizer)
    torch.manual_seed(0)
    net = Recogniser(cfg, tokenizer.vocab_size)
    save_model(folder / "model", net.state_dict(), cfg, tokenizer)
    return load_model(folder)


@pytest.mark.parametrize("across", ["softmax", "sigmoid"])
def test_weights_times_values_are_what_cross_attention_puts_out(
    tmp_path: Path, across: str
) -> None:
    model = saved(tmp_path, across)
    seen: list[tuple[CrossAttention, Frames, Tensor]] = []
    for module in model.net.modules():
        if isinstance(module, CrossAttention):
            module.register_forward_hook(
                lambda module, args, out: seen.append((module, args[1], out))
            )
    tokens = model.tokenizer.encode("a fox")
    maps = cross_maps(model, WAVE_N, tokens)
    assert maps is not None
    assert maps.pieces == ["▁", "a", "▁", "f", "o", "x", "end"][-len(tokens) - 1 :]
    assert len(maps.p_lhus) == len(seen) == 2
    for p_hus, (module, frames, out_bud) in zip(maps.p_lhus, seen, strict=True):
        assert p_hus.shape == (4, len(tokens) + 1, 25)
        v_sd = module.project_kv(frames.source.frames_bsd)[0].chunk(2, dim=-1)[1]
        o_uhd = torch.einsum("hus,shd->uhd", p_hus, v_sd.unflatten(-1, (4, -1)))
        expected = module.project_out(o_uhd.flatten(1))
        torch.testing.assert_close(expected, out_bud[0], atol=1e-5, rtol=1e-4)


def test_a_decoders_squares_follow_the_encoders(tmp_path: Path) -> None:
    """A row of the encoder's 2 heads of 25 x 25 frames, a line, two of the decoder's 4; edges of 2."""
    model = saved(tmp_path, "softmax")
    drawn, row_sum = draw_attention(tmp_path, WAVE_N, 16000)
    assert drawn.shape == (3 * 27 + 3, 4 * 27)
    assert (drawn[27:30, : 2 * 27] == 1).all()
    first = picture(attention_maps(model.net, WAVE_N))
    assert np.array_equal(drawn[:27, : 2 * 27], first)
    assert not drawn[:27, 2 * 27 :].any()
    assert drawn[30:].max() == 1.0
    assert row_sum == pytest.approx(float(attention_maps(model.net, WAVE_N)[0].sum(-1).mean()))
    # a head that looks at one frame more for each token, a row of the square for each
    square = picture([torch.eye(25)[None]], [torch.eye(5, 25)[None]])[30:, :25]
    assert [list(np.flatnonzero(row)) for row in square[:25:5]] == [[0], [1], [2], [3], [4]]


def test_a_model_without_a_decoder_has_no_such_maps(tmp_path: Path) -> None:
    model = saved(tmp_path, "softmax")
    del model.net.heads["attention"]
    assert cross_maps(model, WAVE_N) is None
