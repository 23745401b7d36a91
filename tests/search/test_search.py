"""The searches against CTC by enumeration, torch's CTC loss and torchaudio's forced alignment."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torchaudio
from numpy.typing import NDArray
from torch import Tensor

from asr.search.best_alignment import align, placed
from asr.search.greedy import greedy
from asr.search.hypothesis import Hypothesis
from asr.search.prefix_beam import prefix_beam

EVERYTHING = 10_000  # a beam that prunes nothing in these sizes


def first_frames(
    log_probs_tv: NDArray[np.floating], tokens: Sequence[int], blank: int = 0
) -> tuple[int, ...]:
    (found,) = align(log_probs_tv[None], [len(log_probs_tv)], [tokens], blank)
    return found.first_frames


def collapse(path: Sequence[int], blank: int) -> tuple[int, ...]:
    return tuple(token for token, _ in itertools.groupby(path) if token != blank)


def begins(path: Sequence[int], blank: int) -> tuple[int, ...]:
    """First frame of each token of an alignment."""
    frames, frame = [], 0
    for token, run in itertools.groupby(path):
        if token != blank:
            frames.append(frame)
        frame += len(list(run))
    return tuple(frames)


def all_paths(log_probs_tv: Tensor) -> list[tuple[tuple[int, ...], float]]:
    """Every alignment with its log-probability: V ** T of them."""
    num_frames, num_tokens = log_probs_tv.shape
    rows = log_probs_tv.tolist()
    return [
        (path, math.fsum(row[token] for row, token in zip(rows, path, strict=True)))
        for path in itertools.product(range(num_tokens), repeat=num_frames)
    ]


def transcript_log_probs(log_probs_tv: Tensor, blank: int) -> dict[tuple[int, ...], float]:
    """Log-probability of every transcript, summed over its alignments; most likely first."""
    probs: dict[tuple[int, ...], list[float]] = defaultdict(list)
    for path, score in all_paths(log_probs_tv):
        probs[collapse(path, blank)].append(math.exp(score))
    totals = {tokens: math.fsum(terms) for tokens, terms in probs.items()}
    possible = {tokens: math.log(total) for tokens, total in totals.items() if total > 0}
    return dict(sorted(possible.items(), key=lambda item: -item[1]))


def random_log_probs(*shape: int, seed: int, sharpness: float = 1.5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return (logits * sharpness).log_softmax(-1)


def ctc_log_prob(log_probs_tv: Tensor, tokens: Sequence[int], blank: int) -> float:
    loss = torch.nn.functional.ctc_loss(
        log_probs_tv[:, None, :],
        torch.tensor([list(tokens)], dtype=torch.long),
        torch.tensor([len(log_probs_tv)]),
        torch.tensor([len(tokens)]),
        blank=blank,
        reduction="sum",
    )
    return -float(loss)


def log_probs_of_path(path: Sequence[int], num_tokens: int) -> Tensor:
    """One utterance that says ``path``, each frame 0.9 sure."""
    log_probs = torch.full((1, len(path), num_tokens), math.log(0.1 / (num_tokens - 1)))
    for frame, token in enumerate(path):
        log_probs[0, frame, token] = math.log(0.9)
    return log_probs


@pytest.mark.parametrize(
    ("path", "tokens", "frames"),
    [
        ([0, 0, 0], (), ()),
        ([1, 1, 1], (1,), (0,)),
        ([0, 1, 1, 2, 0], (1, 2), (1, 3)),
        ([1, 0, 1], (1, 1), (0, 2)),
        ([2, 2, 0, 2, 1, 1, 0], (2, 2, 1), (0, 3, 4)),
    ],
)
def test_merging_by_hand(path: list[int], tokens: tuple[int, ...], frames: tuple[int, ...]) -> None:
    log_probs = log_probs_of_path(path, 3)
    lens = torch.tensor([len(path)])
    (found,) = greedy(log_probs, lens)
    assert (found.tokens, found.frames) == (tokens, frames)
    assert found.score == pytest.approx(len(path) * math.log(0.9), rel=1e-6)
    ((best,),) = prefix_beam(log_probs, lens)
    assert (best.tokens, best.frames) == (tokens, frames)


@pytest.mark.parametrize("seed", range(20))
def test_greedy_is_the_likeliest_alignment(seed: int) -> None:
    blank = seed % 3
    log_probs = random_log_probs(1, 6, 3, seed=seed)
    path, score = max(all_paths(log_probs[0]), key=lambda item: item[1])
    (found,) = greedy(log_probs, torch.tensor([6]), blank=blank)
    assert found.tokens == collapse(path, blank)
    assert found.frames == begins(path, blank)
    assert found.score == pytest.approx(score)


@pytest.mark.parametrize("num_tokens", [2, 3, 4])
@pytest.mark.parametrize("seed", range(6))
def test_unpruned_beam_is_the_enumeration(seed: int, num_tokens: int) -> None:
    blank = seed % num_tokens
    log_probs = random_log_probs(1, 6, num_tokens, seed=seed)
    expected = transcript_log_probs(log_probs[0], blank)
    (found,) = prefix_beam(
        log_probs, torch.tensor([6]), EVERYTHING, blank, num_best=EVERYTHING, token_beam=None
    )
    assert {h.tokens: h.score for h in found} == pytest.approx(expected, abs=1e-10)
    assert len({h.tokens for h in found}) == len(found)
    scores = [h.score for h in found]
    assert scores == sorted(scores, reverse=True)


def textbook_beam(
    log_probs_tv: Tensor, beam: int, blank: int
) -> list[tuple[tuple[int, ...], float]]:
    """Prefix beam search as it is usually written: in probabilities, every extension made."""
    kept: dict[tuple[int, ...], tuple[float, float]] = {(): (1.0, 0.0)}
    for probs_v in log_probs_tv.exp().tolist():
        grown: dict[tuple[int, ...], list[float]] = defaultdict(lambda: [0.0, 0.0])
        for prefix, (in_blank, in_token) in kept.items():
            for token, prob in enumerate(probs_v):
                longer = (*prefix, token)
                if token == blank:
                    grown[prefix][0] += (in_blank + in_token) * prob
                elif prefix and token == prefix[-1]:
                    grown[prefix][1] += in_token * prob
                    grown[longer][1] += in_blank * prob
                else:
                    grown[longer][1] += (in_blank + in_token) * prob
        ranked = sorted(grown.items(), key=lambda item: -sum(item[1]))[:beam]
        kept = {prefix: (ends[0], ends[1]) for prefix, ends in ranked}
    return [(prefix, math.log(sum(ends))) for prefix, ends in kept.items()]


@pytest.mark.parametrize("beam", [1, 2, 3, 8, 20])
@pytest.mark.parametrize("seed", range(5))
def test_pruned_beam_is_the_textbooks(seed: int, beam: int) -> None:
    blank = seed % 5
    log_probs = random_log_probs(1, 40, 5, seed=seed, sharpness=[0.5, 1.0, 2.0, 4.0, 8.0][seed])
    (found,) = prefix_beam(
        log_probs, torch.tensor([40]), beam, blank, num_best=beam, token_beam=None
    )
    expected = textbook_beam(log_probs[0], beam, blank)
    assert [h.tokens for h in found] == [tokens for tokens, _ in expected]
    assert [h.score for h in found] == pytest.approx([score for _, score in expected])


def test_beam_finds_what_greedy_misses() -> None:
    # Blank is likelier than "1" in each frame, but "1" has three alignments:
    # P() = 0.6 * 0.6 = 0.36, P(1) = 0.4 * 0.4 + 2 * 0.4 * 0.6 = 0.64.
    log_probs = torch.tensor([[[0.6, 0.4], [0.6, 0.4]]], dtype=torch.float64).log()
    lens = torch.tensor([2])
    assert greedy(log_probs, lens)[0].tokens == ()
    ((best, second),) = prefix_beam(log_probs, lens, num_best=2)
    assert (best.tokens, second.tokens) == ((1,), ())
    assert math.exp(best.score) == pytest.approx(0.64)
    assert math.exp(second.score) == pytest.approx(0.36)


@pytest.mark.parametrize("seed", range(4))
def test_scores_are_torchs_ctc_loss(seed: int) -> None:
    # Sharp enough that 2,000 prefixes hold all but a sliver of the probability.
    log_probs = random_log_probs(1, 12, 5, seed=seed, sharpness=6.0)
    (found,) = prefix_beam(log_probs, torch.tensor([12]), 2000, num_best=3, token_beam=None)
    for hypothesis in found:
        expected = ctc_log_prob(log_probs[0], hypothesis.tokens, blank=0)
        assert hypothesis.score == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_pruning_only_ever_loses_probability(seed: int) -> None:
    log_probs = random_log_probs(1, 30, 6, seed=seed)
    lens = torch.tensor([30])
    best_scores = []
    for beam in (1, 2, 8, 64):
        for token_beam in (1, 3, None):
            ((best,),) = prefix_beam(log_probs, lens, beam, token_beam=token_beam)
            assert best.score <= ctc_log_prob(log_probs[0], best.tokens, blank=0) + 1e-9
        best_scores.append(best.score)
    assert best_scores[-1] >= best_scores[0]


@pytest.mark.parametrize("seed", range(10))
def test_first_frames_against_enumeration(seed: int) -> None:
    blank = seed % 3
    log_probs = random_log_probs(6, 3, seed=seed)
    best: dict[tuple[int, ...], tuple[float, tuple[int, ...]]] = {}
    for path, score in all_paths(log_probs):
        entry = (score, begins(path, blank))
        best[collapse(path, blank)] = max(best.get(collapse(path, blank), entry), entry)
    for tokens, (_, frames) in best.items():
        assert first_frames(log_probs.numpy(), tokens, blank) == frames


def test_first_frames_against_torchaudio() -> None:
    log_probs = random_log_probs(80, 20, seed=3)
    tokens = [3, 3, 7, 1, 19, 19, 19, 2, 5, 3]
    path, _ = torchaudio.functional.forced_align(log_probs[None], torch.tensor([tokens]), blank=0)
    assert collapse(path[0].tolist(), 0) == tuple(tokens)
    assert first_frames(log_probs.numpy(), tokens) == begins(path[0].tolist(), 0)


@pytest.mark.parametrize("seed", range(3))
def test_batched_alignment_is_torchaudios(seed: int) -> None:
    """Ragged lengths, repeats and nothing to say at all; a NaN past an utterance's end is no harm."""
    generator = torch.Generator().manual_seed(seed)
    lens = [61, 200, 1, 37, 5, 199]
    num_tokens = [12, 60, 1, 18, 0, 1]
    log_probs = random_log_probs(6, 200, 8, seed=seed, sharpness=2.0)
    padding = torch.arange(200)[None, :] >= torch.tensor(lens)[:, None]
    poisoned = log_probs.masked_fill(padding[..., None], float("nan"))
    tokens = [torch.randint(1, 8, (count,), generator=generator).tolist() for count in num_tokens]
    for row, found in enumerate(align(poisoned.numpy(), lens, tokens)):
        path = [0] * lens[row]
        for token, first, end in zip(
            tokens[row], found.first_frames, found.end_frames, strict=True
        ):
            path[first:end] = [token] * (end - first)
        valid = log_probs[row : row + 1, : lens[row]]
        if tokens[row]:
            expected, scores = torchaudio.functional.forced_align(
                valid, torch.tensor([tokens[row]]), blank=0
            )
            assert path == expected[0].tolist()
            assert found.log_prob == pytest.approx(float(scores.sum()))
        else:
            assert found.log_prob == pytest.approx(float(valid[0, :, 0].sum()))


def test_alignment_memory_grows_with_the_root_of_the_frames() -> None:
    # 5,000 frames and 601 states: all steps would be 3 MB even as bytes.
    log_probs_tv = random_log_probs(5000, 5, seed=0).numpy()
    tokens = [1 + number % 4 for number in range(300)]
    tracemalloc.start()
    (found,) = align(log_probs_tv[None], [5000], [tokens])
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found.first_frames) == 300
    assert peak_bytes < 1e6


def test_first_frames_need_room_for_repeats() -> None:
    log_probs = random_log_probs(3, 4, seed=0).numpy()
    assert first_frames(log_probs, (1, 1)) == (0, 2)
    with pytest.raises(ValueError, match="3 tokens need 5 frames, there are 3"):
        first_frames(log_probs, (1, 1, 1))


def search_all(log_probs: Tensor, lens: Tensor) -> list[list[Hypothesis]]:
    beams = prefix_beam(log_probs, lens, num_best=3)
    return [[one, *several] for one, several in zip(greedy(log_probs, lens), beams, strict=True)]


def test_padding_batch_and_order_change_nothing() -> None:
    log_probs = random_log_probs(5, 40, 12, seed=1)
    lens = torch.tensor([40, 1, 17, 0, 33])
    together = search_all(log_probs, lens)
    padding = torch.arange(47)[None, :] >= lens[:, None]
    poisoned = torch.cat([log_probs, torch.zeros(5, 7, 12)], dim=1)
    poisoned = poisoned.masked_fill(padding[..., None], float("nan"))
    assert_equal(search_all(poisoned, lens), together)
    order = [3, 0, 4, 2, 1]
    assert_equal(search_all(poisoned[order], lens[order]), [together[row] for row in order])
    for row, num_frames in enumerate(lens.tolist()):
        alone = search_all(log_probs[row : row + 1, :num_frames], torch.tensor([num_frames]))
        assert_equal(alone, [together[row]])


def assert_equal(left: list[list[Hypothesis]], right: list[list[Hypothesis]]) -> None:
    for one, other in zip(left, right, strict=True):
        for a, b in zip(one, other, strict=True):
            assert (a.tokens, a.frames) == (b.tokens, b.frames)
            assert a.score == pytest.approx(b.score, abs=1e-9)


def test_no_frames_say_nothing() -> None:
    nothing = Hypothesis((), 0.0, ())
    for num_frames in (0, 4):
        log_probs = torch.full((1, num_frames, 3), float("nan"))
        assert greedy(log_probs, torch.tensor([0])) == [nothing]
        assert prefix_beam(log_probs, torch.tensor([0])) == [[nothing]]
    assert greedy(torch.zeros(0, 4, 3), torch.zeros(0, dtype=torch.long)) == []
    assert prefix_beam(torch.zeros(0, 4, 3), torch.zeros(0, dtype=torch.long)) == []


def test_impossible_tokens_are_never_said() -> None:
    log_probs = random_log_probs(1, 5, 4, seed=2)
    log_probs[..., 2] = -math.inf
    log_probs = log_probs.log_softmax(-1)
    (found,) = prefix_beam(
        log_probs, torch.tensor([5]), EVERYTHING, num_best=EVERYTHING, token_beam=None
    )
    expected = transcript_log_probs(log_probs[0], 0)
    assert {h.tokens: h.score for h in found} == pytest.approx(expected, abs=1e-10)
    assert all(2 not in h.tokens for h in found)


def test_same_result_twice_even_with_ties() -> None:
    uniform = torch.full((2, 8, 5), math.log(0.2))
    lens = torch.tensor([8, 5])
    first = prefix_beam(uniform, lens, num_best=4)
    assert prefix_beam(uniform.clone(), lens, num_best=4) == first


def test_works_on_half_precision() -> None:
    log_probs = random_log_probs(2, 20, 8, seed=4, sharpness=5.0)
    lens = torch.tensor([20, 12])
    exact = greedy(log_probs, lens)
    assert [h.tokens for h in greedy(log_probs.bfloat16(), lens)] == [h.tokens for h in exact]
    assert len(prefix_beam(log_probs.bfloat16(), lens)) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beam": 0}, "beam = 0: must be at least 1"),
        ({"token_beam": 0}, "token_beam = 0: must be at least 1"),
        ({"num_best": 9}, "num_best = 9: must be at most beam = 8"),
        ({"blank": 3}, "blank = 3: must be a token, from 0 to 2"),
    ],
)
def test_refusals(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prefix_beam(torch.zeros(1, 2, 3), torch.tensor([2]), **change)


def test_bad_tensors_are_refused() -> None:
    log_probs = torch.zeros(2, 4, 3)
    for search in (greedy, prefix_beam):
        with pytest.raises(ValueError, match="every length must be from 0 to 4"):
            search(log_probs, torch.tensor([4, 5]))
        with pytest.raises(ValueError, match="expected \\(batch, frames, tokens\\)"):
            search(log_probs, torch.tensor([4]))
        broken = log_probs.clone()
        broken[1, 2, 0] = float("nan")
        with pytest.raises(ValueError, match="NaN in row 1"):
            search(broken, torch.tensor([4, 4]))
        search(broken, torch.tensor([4, 2]))  # the NaN is padding now


def test_long_utterance_keeps_its_precision() -> None:
    # Ten minutes at 25 frames a second: scores near -1e4 must neither underflow nor drift.
    log_probs = random_log_probs(1, 3000, 4, seed=5, sharpness=3.0)
    ((best,),) = prefix_beam(log_probs, torch.tensor([3000]))
    assert np.isfinite(best.score)
    assert best.score <= ctc_log_prob(log_probs[0], best.tokens, blank=0) + 1e-6
    assert best.score >= greedy(log_probs, torch.tensor([3000]))[0].score
    assert list(best.frames) == sorted(set(best.frames))


def test_hypotheses_of_a_batch_are_placed_as_each_alone() -> None:
    """Whatever their number; where there are too few frames, evenly."""
    torch.manual_seed(3)
    log_probs, lens = torch.randn(3, 9, 5).log_softmax(-1), torch.tensor([9, 4, 0])
    log_probs[1, 4:] = torch.nan
    of_rows = [[(1, 2, 2), (3,), ()], [(4, 4, 4), (2, 1)], [()]]
    found = [[Hypothesis(tokens, 0.0, ()) for tokens in tokens_k] for tokens_k in of_rows]
    results = placed(found, log_probs, lens)
    for row, (tokens_k, several) in enumerate(zip(of_rows, results, strict=True)):
        for tokens, one in zip(tokens_k, several, strict=True):
            length = int(lens[row])
            if tokens == (4, 4, 4):
                assert one.frames == (0, 1, 2)  # 0, 4 / 3, 8 / 3
            else:
                assert one.frames == first_frames(log_probs[row, :length].numpy(), tokens)
    beams = prefix_beam(log_probs, lens, num_best=3)
    without = prefix_beam(log_probs, lens, num_best=3, has_frames=False)
    assert {one.frames for several in without for one in several} == {()}
    assert placed(without, log_probs, lens) == beams
