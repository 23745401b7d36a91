"""Weights of a language model from a development set: minimum error rate over n-best lists.

Och, "Minimum error rate training in statistical machine translation" (2003): search with the weights
so far, add what was found to every utterance's list, take the weights whose choices from the lists
have the fewest errors, and search again. With four weights a grid does what his line search
does. The encoder runs once.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
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
from asr.search.options import CTC_WEIGHTS, WEIGHT_NAMES, SearchOptions
from asr.search.rescore import weighted, with_neural_scores
from asr.search.weights import Tuned, Weights, tuned_name
from asr.text.coverage import warn_of_references
from asr.wer import WER, Metric, edit_distance

LM_WEIGHTS = np.arange(0.0, 1.501, 0.05)
WORD_BONUSES = np.arange(-1.0, 6.001, 0.25)
UNKNOWN_PENALTIES = np.array([0.0, 2.0, 4.0, 6.0, 8.0, 12.0])

NEURAL_WEIGHTS = np.arange(0.0, 1.401, 0.2)
CTC_SHARES = tuple(tenths / 10 for tenths in range(1, 10))

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
        """Take an utterance's hypotheses, best first; return the errors of the best one."""
        errors = []
        for hypothesis, text in zip(hypotheses, texts, strict=True):
            assert hypothesis.parts is not None
            errors.append(edit_distance(self._references[index], self._split(text)))
            known = self._found[index].get(hypothesis.tokens)
            # a search that pruned less has summed more alignments
            if known is None or known.parts.acoustic < hypothesis.parts.acoustic:
                self._found[index][hypothesis.tokens] = Candidate(hypothesis.parts, errors[-1])
        return errors[0]

    def best_weights(
        self,
        neural_weights: Sequence[float] = (0.0,),
        ctc_shares: Sequence[float] | None = None,
        with_lm: bool = True,
    ) -> Weights:
        """The weights on the grid whose choices have the fewest errors, neighbours considered.

        The count of errors is a jagged function of the weights, and a lone dip in it is luck: what
        is minimised is its mean over neighbouring LM weights, bonuses and shares of CTC.

        Args:
            ctc_shares: of searches by two heads.
        """
        acoustics = [self._part("acoustic")]
        if ctc_shares is not None:
            ctc_un, decoder_un = self._part("ctc"), self._part("decoder")
            acoustics = [share * ctc_un + (1.0 - share) * decoder_un for share in ctc_shares]
        lm_un, words_un, unknown_un, neural_un, hotwords_un = map(
            self._part, ("lm", "num_words", "num_unknown", "neural", "hotwords")
        )
        errors_un = self._table([[c.errors for c in u.values()] for u in self._found])
        rows = np.arange(len(self._found))
        of_lm = (LM_WEIGHTS, WORD_BONUSES, UNKNOWN_PENALTIES)
        axes = (*(of_lm if with_lm else [np.zeros(1)] * 3), np.asarray(neural_weights))
        counts = np.empty([*map(len, axes), len(acoustics)])
        lms, bonuses, penalties, neurals = map(list, map(enumerate, axes))
        for (i, lm), (k, penalty), (m, neural), (s, acoustic_un) in itertools.product(
            lms, penalties, neurals, enumerate(acoustics)
        ):
            score_un = acoustic_un + lm * lm_un - penalty * unknown_un + hotwords_un
            score_un += neural * neural_un
            for j, bonus in bonuses:
                chosen = (score_un + bonus * words_un).argmax(axis=1)
                counts[i, j, k, m, s] = errors_un[rows, chosen].sum()
        mean = _neighbours_mean(counts, (0, 1, 4))
        equals = np.argwhere(mean <= mean.min() + 1e-9)
        # of equally good ones the most central
        *places, share = equals[np.square(equals - equals.mean(axis=0)).sum(axis=1).argmin()]
        found = Weights(*(float(axis[at]) for axis, at in zip(axes, places, strict=True)))
        chosen = None if ctc_shares is None else ctc_shares[share]
        return dataclasses.replace(found, ctc_weight=chosen)

    def errors_with(self, weights: Weights) -> int:
        """Errors of what the weights choose."""
        return sum(
            max(u.values(), key=lambda candidate: weighted(candidate.parts, weights)).errors
            for u in self._found
        )

    def _part(self, name: str) -> NDArray[np.float64]:
        """(utterances, longest list) of a part of the score."""
        return self._table([[getattr(c.parts, name) for c in u.values()] for u in self._found])

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
    """The weights of a search, from a development set alone: of the language model and of the heads.

    Args:
        options: search, beam, language model, and by its weights where to begin.
        metric: the error rate that the weights are to lower.
        report: called with a line per search.

    Raises:
        InputError: nothing to tune, a set without words; see ``decode_set``.
    """
    options = _checked(options)
    lm_sha256 = None if options.lm is None else file_hash(options.lm)
    weights, _ = choose_weights(options, None, lm_sha256)  # never what an earlier run found
    neural_folder, options = options.neural, dataclasses.replace(options, neural=None)
    search = build_search(_with(options, weights), model)
    utterances = open_utterances(model, cuts)
    lists = Lists(utterances.texts, metric)
    if not lists.num_words:
        raise InputError(f"{cuts}: no words to tune on")
    warn_of_references(utterances.texts, model.tokenizer, str(cuts))
    batches = [
        (indices, frames_btx.cpu(), lens_b.cpu())
        for indices, frames_btx, lens_b in frames_of(
            model, utterances, max_batch_s, num_workers, head=search.head
        )
    ]

    # the search's own weights come first; a neural model ranks what that search finds
    errors: dict[Weights, int] = {}
    shares = None if weights.ctc_weight is None else CTC_SHARES
    while weights not in errors and len(errors) < MAX_ROUNDS:
        if errors:
            search = build_search(_with(options, weights), model)
        errors[weights] = _search(search, model, batches, lists)
        rate = 100 * errors[weights] / lists.num_words
        report(f"{_shown(weights, options.lm)}: {metric.label} {rate:.2f} %")
        weights = lists.best_weights(ctc_shares=shares, with_lm=options.lm is not None)
    best = min(errors, key=lambda tried: errors[tried])
    tuned = Tuned(
        lm=None if options.lm is None else options.lm.name,
        lm_sha256=lm_sha256,
        first=best,
        beam=options.width,
        tuned_on=set_name(cuts),
        wer=errors[best] / lists.num_words,
        metric=metric.name,
        name=tuned_name(search.head, options.search),
    )
    if neural_folder is None:
        return tuned
    neural = load_neural(neural_folder, model.tokenizer)
    search = build_search(_with(options, best), model)
    lists = Lists(utterances.texts, metric)
    _search(search, model, batches, lists, neural)
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


def _checked(options: SearchOptions) -> SearchOptions:
    """Return the options of a search for all of its hypotheses.

    Raises:
        InputError: nothing to tune.
    """
    by_two = options.search in CTC_WEIGHTS
    if options.lm is None and not by_two:
        raise InputError(
            f"tune: needs a language model, --lm, or one of --search {', '.join(CTC_WEIGHTS)}"
        )
    if options.neural is not None and options.search != "beam":
        raise InputError("tune: --neural is tuned for --search beam alone")
    if options.ctc_weight == 0.0:
        raise InputError("tune: ctc_weight = 0: both heads must have a share where tuning begins")
    return dataclasses.replace(options, num_best=options.width)


def _with(options: SearchOptions, weights: Weights) -> SearchOptions:
    of_lm = {} if options.lm is None else {name: getattr(weights, name) for name in WEIGHT_NAMES}
    return dataclasses.replace(options, **of_lm, ctc_weight=weights.ctc_weight)


def _shown(weights: Weights, lm: Path | None) -> str:
    """Return the weights of a search, for people."""
    shown = []
    if lm is not None:
        shown += [f"lm weight {weights.lm_weight:.2f}", f"word bonus {weights.word_bonus:.2f}"]
        shown.append(f"unknown penalty {weights.unknown_penalty:g}")
    if weights.ctc_weight is not None:
        shown.append(f"ctc weight {weights.ctc_weight:.2f}")
    return ", ".join(shown)


def _search(
    search: Search,
    model: Model,
    batches: Sequence[tuple[list[int], Tensor, Tensor]],
    lists: Lists,
    neural: NeuralLm | None = None,
) -> int:
    """Errors of one search over the whole set, whose hypotheses go into the lists."""
    errors = 0
    for indices, frames_btx, lens_b in batches:
        for index, found in zip(indices, search(frames_btx, lens_b), strict=True):
            if neural is not None:
                found = with_neural_scores(found, neural)
            texts = [model.tokenizer.decode(hypothesis.tokens) for hypothesis in found]
            errors += lists.add(index, found, texts)
    return errors


def _neighbours_mean(counts: NDArray[np.float64], axes: Sequence[int]) -> NDArray[np.float64]:
    """Mean over both neighbours along each of some axes; edges count themselves again."""
    for axis in axes:
        size = counts.shape[axis]
        places = [np.clip(np.arange(size) + step, 0, size - 1) for step in (-1, 0, 1)]
        counts = np.mean([counts.take(at, axis) for at in places], axis=0)
    return counts
