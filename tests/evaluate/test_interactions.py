"""Interactions: found where a difference of weightings depends on the position, and not where not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_experiments import seeds_of
from numpy.typing import NDArray

from asr.evaluate import hierarchical
from asr.evaluate.compare import compare
from asr.evaluate.hierarchical import contrast
from asr.evaluate.interactions import significant_interactions
from asr.evaluate.report.verdict import verdict
from asr.evaluate.statistics import holm
from asr.evaluate.tables import format_markdown, format_terminal

Floats = NDArray[np.float64]

POSITIONS, SEEDS, SPEAKERS = 6, 3, 20
# Of sigmoid minus softmax at 60 s: what docs/results/length.md once averaged.
DEPENDING = np.array([-5.7, -5.0, -4.0, 5.1, 12.0, 14.4]) / 100


def simulated(effect_p: Floats, trials: int, rng: np.random.Generator) -> Floats:
    """Errors (trials, runs, speakers) of softmax and sigmoid at each position, 130 words a speaker."""
    shape = (trials, 2, POSITIONS, SEEDS, SPEAKERS)
    rate = 0.35 + 0.08 * rng.standard_normal((trials, 1, 1, 1, SPEAKERS))
    rate = rate + 0.012 * rng.standard_normal((trials, 2, POSITIONS, SEEDS, 1))
    rate = rate + 0.02 * rng.standard_normal((trials, 2, POSITIONS, 1, SPEAKERS))
    rate = rate + np.array([0.0, 1.0])[:, None, None, None] * effect_p[:, None, None]
    errors = rng.binomial(130, np.clip(rate, 0.01, 0.99) * np.ones(shape))
    return errors.reshape(trials, -1, SPEAKERS).astype(np.float64)


def lowest_corrected_p(errors_kru: Floats) -> list[float]:
    """Of each trial, the smallest of the positions' corrected p-values."""
    words_ku = np.full((len(errors_kru), SPEAKERS), 130.0)
    types = np.repeat(np.arange(2 * POSITIONS), SEEDS)
    lowest = []
    for trial in range(len(errors_kru)):
        p_values = []
        for position in range(POSITIONS):
            share_p = np.full(POSITIONS, -1.0 / (POSITIONS - 1))
            share_p[position] = 1.0
            weight_r = np.repeat(np.concatenate([-share_p, share_p]), SEEDS) / SEEDS
            one = slice(trial, trial + 1)
            p_value = hierarchical.tested(
                contrast(errors_kru[one], words_ku[one], weight_r, types), 0.95
            )[1]
            p_values.append(1.0 if p_value is None else p_value)
        lowest.append(min(holm(p_values)))
    return lowest


def test_level_and_power() -> None:
    """Without one at most 5 % of grids show any; such as the committed grid's is found every time."""
    rng = np.random.default_rng(0)
    without = np.array(lowest_corrected_p(simulated(np.full(POSITIONS, 0.01), 300, rng)))
    assert (without <= 0.05).mean() <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 300)
    found = np.array(lowest_corrected_p(simulated(DEPENDING, 40, rng)))
    assert (found <= 0.05).mean() > 0.95


def grid(folder: Path, rates: dict[str, tuple[float, float]]) -> list[Path]:
    return [
        exp
        for position, pair in rates.items()
        for weighting, rate in zip(("softmax", "sigmoid"), pair, strict=True)
        for exp in seeds_of(folder, weighting, position, rate)
    ]


def test_an_interaction_is_printed_and_answers_are_given_within_it(tmp_path: Path) -> None:
    rates = {"none": (0.3, 0.2), "sinusoidal": (0.3, 0.2), "alibi": (0.2, 0.3), "rope": (0.2, 0.35)}
    comparison = compare(grid(tmp_path, rates))
    found = significant_interactions(comparison.type_differences, "test")
    assert found
    largest = found[0]
    wers = {(one.weighting, one.position): one.wer for one in comparison.types}
    by_position = {p: wers["sigmoid", p] - wers["softmax", p] for p in rates}
    (position,) = largest.within
    others = [by_position[p] for p in rates if p != position]
    assert largest.difference == pytest.approx(by_position[position] - np.mean(others))
    assert "depends on the position" in verdict(comparison).answer
    assert "Of the positions" not in verdict(comparison).answer.split("With softmax")[0]
    within = [o for o in comparison.type_differences if (o.kind, len(o.within)) == ("position", 1)]
    assert {o.within[0] for o in within} == {"softmax", "sigmoid"}
    for text in (format_terminal(comparison), format_markdown(comparison)):
        assert "Interaction: differences of weightings at one position" in text


def test_no_interaction_no_claim(tmp_path: Path) -> None:
    rates = {"none": (0.3, 0.3), "alibi": (0.2, 0.2), "rope": (0.25, 0.25)}
    comparison = compare(grid(tmp_path, rates))
    assert significant_interactions(comparison.type_differences, "test") == []
    assert "depends on the position" not in verdict(comparison).answer
    assert all(len(o.within) == 2 for o in comparison.type_differences if o.kind == "position")
