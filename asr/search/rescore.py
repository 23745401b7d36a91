"""A second look at n-best lists with a neural language model over the recogniser's tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from asr.lm.neural import NeuralLm
from asr.search.hypothesis import Hypothesis, ScoreParts
from asr.search.weights import Weights


def rescore(
    hypotheses: Sequence[Hypothesis], model: NeuralLm, weights: Weights
) -> list[Hypothesis]:
    """The hypotheses, whose parts a search with a language model has filled, in their new order."""
    rescored = []
    for hypothesis in with_neural_scores(hypotheses, model):
        assert hypothesis.parts is not None
        score = weighted(hypothesis.parts, weights)
        rescored.append(dataclasses.replace(hypothesis, score=score))
    return sorted(rescored, key=lambda one: (-one.score, one.tokens))


def with_neural_scores(hypotheses: Sequence[Hypothesis], model: NeuralLm) -> list[Hypothesis]:
    """The hypotheses with ``parts.neural``, all scored at once."""
    scores = model.score([hypothesis.tokens for hypothesis in hypotheses])
    found = []
    for hypothesis, score in zip(hypotheses, scores, strict=True):
        assert hypothesis.parts is not None
        parts = dataclasses.replace(hypothesis.parts, neural=score)
        found.append(dataclasses.replace(hypothesis, parts=parts))
    return found


def weighted(parts: ScoreParts, weights: Weights) -> float:
    """The score that parts have under weights."""
    acoustic, share = parts.acoustic, weights.ctc_weight
    if share is not None and parts.ctc is not None and parts.decoder is not None:
        acoustic = share * parts.ctc + (1.0 - share) * parts.decoder
    return (
        acoustic
        + weights.lm_weight * parts.lm
        + weights.word_bonus * parts.num_words
        - weights.unknown_penalty * parts.num_unknown
        + weights.neural_weight * parts.neural
        + parts.hotwords
    )
