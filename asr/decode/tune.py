"""Weights of a language model from a development set: minimum error rate over n-best lists.

Och, "Minimum error rate training in statistical machine translation" (2003): search with the weights
so far, add what was found to every utterance's list, take the weights whose choices from the lists
have the fewest errors, and search again. With three weights a grid does what his line search
does. The encoder runs once.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from asr.decode.decode import frames_of, open_utterances, set_name
from asr.errors import InputError
from asr.files import file_hash
from asr.lm.neural import WEIGHTS as NEURAL_FILE
from asr.lm.neural import NeuralLm, load_neural
from asr.model.folder import Model
from asr.search.factory import Search, build_search, choose_weights
from asr.search.hypothesis import Hypothesis, ScoreParts
from asr.search.options import SearchOptions
from asr.search.rescore import weighted, with_neural_scores
from asr.search.weights import Tuned, Weights
from asr.text.coverage import warn_of_references
from asr.wer import WER, Metric, edit_distance

LM_WEIGHTS = np.arange(0.0, 1.501, 0.05)
WORD_BONUSES = np.arange(-1.0, 6.001, 0.25)
UNKNOWN_PENALTIES = np.array([0.0, 2.0, 4.0, 6.0, 8.0, 12.0])

NEURAL_WEIGHTS = np.arange(0.0, 1.401, 0.2)

MAX_ROUNDS = 4

Report = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A hypothesis and its errors."""

    parts: ScoreParts
    errors: int


class Lists:
    """Hypotheses found so far for each utterance, with their errors in one metric."""

    def __init__(self, references: Sequence[str], metric: Metric = WER) -> None:
        self._split = metric.split
        self._references = [metric.split(reference) for reference in references]
        self._found: list[dict[tuple[int, ...], Candidate]] = [{} for _ in references]

    @property
    def num_words(self) -> int:
        """Return the references' words, or characters."""
        return sum(len(reference) for reference in self._references)

    def add(self, index: int, hypotheses: Iterable[Hypothesis], texts: Iterable[str]) -> int:
        """Takes an utterance's hypotheses, best first; returns the errors of the best one."""
        errors = []
        for hypothesis, text in zip(hypotheses, texts, strict=True):
            assert hypothesis.parts is not None
            errors.append(edit_distance(self._references[index], self._split(text)))
            known = self._found[index].get(hypothesis.tokens)
            # a search that pruned less has summed more alignments
            if known is None or known.parts.acoustic < hypothesis.parts.acoustic:
                self._found[index][hypothesis.tokens] = Candidate(hypothesis.parts, errors[-1])
        return errors[0]

    def best_weights(self, neural_weights: Sequence[float] = (0.0,)) -> Weights:
        """The weights on the grid whose choices have the fewest errors, neighbours considered.

        The count of errors is a jagged function of the weights, and a lone dip in it is luck: what
        is minimised is its mean over neighbouring LM weights and bonuses.
        """
        parts = {
            name: self._table([[getattr(c.parts, name) for c in u.values()] for u in self._found])
            for name in ("acoustic", "lm", "num_words", "num_unknown", "neural")
        }
        errors_un = self._table([[c.errors for c in u.values()] for u in self._found])
        rows = np.arange(len(self._found))
        axes = (LM_WEIGHTS, WORD_BONUSES, UNKNOWN_PENALTIES, np.asarray(neural_weights))
        counts = np.empty([len(axis) for axis in axes])
        for (i, lm), (k, penalty), (m, neural) in itertools.product(
            enumerate(LM_WEIGHTS), enumerate(UNKNOWN_PENALTIES), enumerate(neural_weights)
        ):
            score_un = parts["acoustic"] + lm * parts["lm"] - penalty * parts["num_unknown"]
            score_un += neural * parts["neural"]
            for j, bonus in enumerate(WORD_BONUSES):
                chosen = (score_un + bonus * parts["num_words"]).argmax(axis=1)
                counts[i, j, k, m] = errors_un[rows, chosen].sum()
        mean = _neighbours_mean(counts)
        equals = np.argwhere(mean <= mean.min() + 1e-9)
        # of equally good ones the most central
        best = equals[np.square(equals - equals.mean(axis=0)).sum(axis=1).argmin()]
        return Weights(*(float(axis[at]) for axis, at in zip(axes, best, strict=True)))

    def errors_with(self, weights: Weights) -> int:
        """Errors of what the weights choose."""
        return sum(
            max(u.values(), key=lambda candidate: weighted(candidate.parts, weights)).errors
            for u in self._found
        )

    def _table(self, values: list[list[float]]) -> NDArray[np.float64]:
        """(utterances, longest list); a short list's best is repeated, so that it changes nothing."""
        longest = max(len(row) for row in values)
        return np.array([[*row, *[row[0]] * (longest - len(row))] for row in values])


def tune(
    model: Model,
    cuts: Path,
    options: SearchOptions,
    *,
    max_batch_s: float = 300.0,
    num_workers: int = 0,
    metric: Metric = WER,
    report: Report = lambda line: None,
) -> Tuned:
    """The weights for ``options.lm``, from a development set alone.

    Args:
        options: beam, language model, and by its weights where to begin.
        metric: the error rate that the weights are to lower.
        report: called with a line per search.

    Raises:
        InputError: no language model, a set without words; see ``decode_set``.
    """
    if options.lm is None:
        raise InputError("tune: needs a language model, --lm")
    lm, lm_sha256 = options.lm.name, file_hash(options.lm)
    options = dataclasses.replace(options, num_best=options.beam)
    weights, _ = choose_weights(options, None, lm_sha256)  # never what an earlier run found
    utterances = open_utterances(model, cuts)
    lists = Lists(utterances.texts, metric)
    if not lists.num_words:
        raise InputError(f"{cuts}: no words to tune on")
    warn_of_references(utterances.texts, model.tokenizer, str(cuts))
    frames: dict[int, Tensor] = {}
    for indices, frames_btx, lens_b in frames_of(model, utterances, max_batch_s, num_workers):
        for index, frames_tx, length in zip(indices, frames_btx, lens_b.tolist(), strict=True):
            frames[index] = frames_tx[:length].cpu()

    # the search's own weights come first; a neural model ranks what that search finds
    neural_folder, options = options.neural, dataclasses.replace(options, neural=None)
    errors: dict[Weights, int] = {}
    while weights not in errors and len(errors) < MAX_ROUNDS:
        search = build_search(_with(options, weights), model)
        errors[weights] = _search(search, model, frames, lists)
        report(
            f"lm weight {weights.lm_weight:.2f}, word bonus {weights.word_bonus:.2f}, unknown "
            f"penalty {weights.unknown_penalty:g}: {metric.label} "
            f"{100 * errors[weights] / lists.num_words:.2f} %"
        )
        weights = lists.best_weights()
    best = min(errors, key=lambda tried: errors[tried])
    tuned = Tuned(
        lm=lm,
        lm_sha256=lm_sha256,
        first=best,
        beam=options.beam,
        tuned_on=set_name(cuts),
        wer=errors[best] / lists.num_words,
        metric=metric.name,
    )
    if neural_folder is None:
        return tuned
    neural = load_neural(neural_folder, model.tokenizer)
    search = build_search(_with(options, best), model)
    lists = Lists(utterances.texts, metric)
    _search(search, model, frames, lists, neural)
    second = lists.best_weights([float(weight) for weight in NEURAL_WEIGHTS])
    report(
        f"ranked anew: lm weight {second.lm_weight:.2f}, word bonus {second.word_bonus:.2f}, "
        f"unknown penalty {second.unknown_penalty:g}, neural weight {second.neural_weight:.1f}"
    )
    return dataclasses.replace(
        tuned,
        neural=neural_folder.name,
        neural_sha256=file_hash(neural_folder / NEURAL_FILE),
        second=second,
        wer=lists.errors_with(second) / lists.num_words,
    )


def _with(options: SearchOptions, weights: Weights) -> SearchOptions:
    return dataclasses.replace(
        options,
        lm_weight=weights.lm_weight,
        word_bonus=weights.word_bonus,
        unknown_penalty=weights.unknown_penalty,
    )


def _search(
    search: Search,
    model: Model,
    frames: dict[int, Tensor],
    lists: Lists,
    neural: NeuralLm | None = None,
) -> int:
    """Errors of one search over the whole set, whose hypotheses go into the lists."""
    errors = 0
    for index, frames_tx in frames.items():
        (found,) = search(frames_tx[None], torch.tensor([len(frames_tx)]))
        if neural is not None:
            found = with_neural_scores(found, neural)
        texts = [model.tokenizer.decode(hypothesis.tokens) for hypothesis in found]
        errors += lists.add(index, found, texts)
    return errors


def _neighbours_mean(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the nine neighbours in the first two dimensions; edges count themselves again."""
    padded = np.pad(counts, ((1, 1), (1, 1), (0, 0), (0, 0)), mode="edge")
    size_0, size_1 = counts.shape[:2]
    mean = np.zeros_like(counts)
    for i, j in itertools.product(range(3), repeat=2):
        mean += padded[i : i + size_0, j : j + size_1] / 9
    return mean
