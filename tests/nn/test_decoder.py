"""The decoder against itself in other surroundings, and its cross-attention against a formula."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from asr.config import DecoderConfig
from asr.nn.decoder import Decoder
from asr.nn.frames import Beginnings, Memory, Source

DIM, VOCAB = 16, 7
WEIGHTINGS = ("softmax", "sigmoid", "relu", "polynomial")
POSITIONS = ("none", "sinusoidal", "rope", "alibi", "relative", "table")


def decoder_of(
    weighting: str = "softmax", position: str = "sinusoidal", across: str = "softmax"
) -> Decoder:
    torch.manual_seed(3)
    config = DecoderConfig(
        num_layers=2,
        num_heads=2,
        ff_dim=24,
        weighting=weighting,
        position=position,
        cross_weighting=across,
    )
    decoder = Decoder(config, "auto", DIM, VOCAB).eval()
    for weight in decoder.parameters():  # zeros, as of relative's u and v, would hide faults
        torch.nn.init.normal_(weight, std=0.3)
    return decoder


def source_of(*lens: int) -> Source:
    torch.manual_seed(5)
    return Source(torch.randn(len(lens), max(lens), DIM), torch.tensor(lens))


@pytest.mark.parametrize(("weighting", "position"), list(itertools.product(WEIGHTINGS, POSITIONS)))
def test_a_step_from_memory_gives_what_the_whole_gives(weighting: str, position: str) -> None:
    decoder, source = decoder_of(weighting, position, weighting), source_of(9, 4)
    tokens_bu = torch.randint(VOCAB, (2, 6))
    with torch.no_grad():
        whole_buv = decoder(tokens_bu, source)
        memory = Memory()
        blocks = [decoder(part, source, memory) for part in tokens_bu.split([1, 1, 3, 1], 1)]
    torch.testing.assert_close(torch.cat(blocks, 1), whole_buv, rtol=0, atol=1e-5)


def test_rows_of_a_memory_are_chosen() -> None:
    decoder, source = decoder_of("sigmoid", "rope", "sigmoid"), source_of(9, 4)
    tokens_bu = torch.tensor([[0, 1, 2], [0, 3, 4]])
    rows = torch.tensor([1, 0, 1])
    memory = Memory()
    with torch.no_grad():
        decoder(tokens_bu[:, :2], source, memory)
        memory.select(rows)
        chosen = Source(source.frames_bsd[rows], source.lens_b[rows])
        last_bv = decoder(tokens_bu[rows, 2:], chosen, memory)[:, -1]
        expected_bv = decoder(tokens_bu, source)[:, -1][rows]
    torch.testing.assert_close(last_bv, expected_bv, rtol=0, atol=1e-5)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_neither_later_tokens_nor_padded_frames_nor_others_change_a_token(weighting: str) -> None:
    decoder, source = decoder_of(weighting, "alibi", weighting), source_of(9, 4)
    tokens_bu = torch.randint(VOCAB, (2, 6))
    poisoned_bsd = source.frames_bsd.clone()
    poisoned_bsd[1, 4:] = torch.nan
    with torch.no_grad():
        whole_buv = decoder(tokens_bu, source)
        alone_buv = decoder(tokens_bu[1:, :3], Source(source.frames_bsd[1:, :4], source.lens_b[1:]))
        poisoned_buv = decoder(tokens_bu, Source(poisoned_bsd, source.lens_b))
    torch.testing.assert_close(whole_buv[1:, :3], alone_buv, rtol=0, atol=1e-5)
    torch.testing.assert_close(poisoned_buv, whole_buv, rtol=0, atol=1e-5)


def test_sigmoids_n_across_is_the_number_of_the_encoders_frames() -> None:
    decoder = decoder_of("softmax", "none", "sigmoid")
    across = decoder.layers[0].cross_attention.branch
    source, x_bud = source_of(9, 4), torch.randn(2, 3, DIM)

    def heads(x_btd: Tensor) -> Tensor:
        return x_btd.unflatten(-1, (2, -1)).transpose(1, 2)

    with torch.no_grad():
        k_bhsd, v_bhsd = (heads(x) for x in across.project_kv(source.frames_bsd).chunk(2, -1))
        scores_bhus = heads(across.project_q(x_bud)) @ k_bhsd.mT * (DIM // 2) ** -0.5
        lens_b111 = source.lens_b[:, None, None, None]
        weights_bhus = (scores_bhus - lens_b111.log()).sigmoid()
        weights_bhus = weights_bhus * (torch.arange(9) < lens_b111)
        expected_bud = across.project_out((weights_bhus @ v_bhsd).transpose(1, 2).flatten(2))
        found_bud = across(x_bud, _frames(source))
    torch.testing.assert_close(found_bud, expected_bud, rtol=0, atol=1e-5)


def _frames(source: Source):  # type: ignore[no-untyped-def]
    from sigmoid_attention import Mask

    from asr.nn.frames import Frames

    return Frames(torch.ones(2, 3, dtype=torch.bool), Mask(causal=True), None, source)


# two utterances, four transcripts of each: common beginnings, equal ones, empty ones, a repeat
OF_UTTERANCES = (((3, 1, 4), (3, 1, 5, 2), (3,), (3, 1, 4)), ((2, 2), (), (2, 2, 2), (6, 2, 2)))


def given() -> tuple[Tensor, Tensor]:
    rows = [(0, *tokens) for several in OF_UTTERANCES for tokens in several]
    tokens_nu = torch.full((len(rows), max(map(len, rows))), 6)  # anything behind an end
    for row, tokens in enumerate(rows):
        tokens_nu[row, : len(tokens)] = torch.tensor(tokens)
    return tokens_nu, torch.tensor([len(tokens) for tokens in rows])


def test_beginnings_are_the_distinct_ones() -> None:
    tokens_nu, lens_n = given()
    found = Beginnings.of(tokens_nu, lens_n, 2)
    nodes: dict[int, set[tuple[int, ...]]] = {}
    for row, length in enumerate(lens_n.tolist()):
        for place in range(length):
            begins = (row // 4, *tokens_nu[row, : place + 1].tolist())
            nodes.setdefault(int(found.node_nu[row, place]), set()).add(begins)
    assert all(len(begun) == 1 for begun in nodes.values())
    distinct = [
        len({one[: k + 1] for one in several for k in range(len(one))}) for several in OF_UTTERANCES
    ]
    assert len(nodes) == sum(distinct) + 2, "and the two empty beginnings"
    assert found.place_bm.shape == (2, max(distinct) + 1)


@pytest.mark.parametrize(("weighting", "position"), list(itertools.product(WEIGHTINGS, POSITIONS)))
def test_common_beginnings_are_computed_as_each_transcript_alone(
    weighting: str, position: str
) -> None:
    decoder, source = decoder_of(weighting, position, weighting), source_of(9, 4)
    tokens_nu, lens_n = given()
    beginnings = Beginnings.of(tokens_nu, lens_n, 2)
    with torch.no_grad():
        shared_nuv = beginnings.spread(decoder(tokens_nu, source, beginnings=beginnings))
        for row, length in enumerate(lens_n.tolist()):
            frames = int(source.lens_b[row // 4])
            own = Source(source.frames_bsd[row // 4, :frames][None], torch.tensor([frames]))
            alone_uv = decoder(tokens_nu[row : row + 1, :length], own)[0]
            torch.testing.assert_close(shared_nuv[row, :length], alone_uv, rtol=0, atol=1e-5)
