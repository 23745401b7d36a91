"""The report's pictures: labels that stand apart, and numbers where the axis says."""

from __future__ import annotations

import itertools
import re

import pytest

from asr.compare.report.svg import Whisker, scatter, spread_out


def test_labels_are_moved_apart_and_no_further() -> None:
    assert spread_out([10, 50, 90], 13, 0, 100) == [10, 50, 90]
    assert spread_out([50, 50], 10, 0, 100) == [45, 55]
    assert spread_out([20, 50, 51, 52, 80], 10, 0, 100) == [20, 41, 51, 61, 80]
    assert spread_out([0, 1, 2], 10, 0, 100) == [0, 10, 20]
    assert spread_out([98, 99, 100], 10, 0, 100) == [80, 90, 100]
    crowd = spread_out([30.0] * 12, 13, 26, 26 + 13 * 12)
    assert all(b - a >= 13 - 1e-9 for a, b in itertools.pairwise(crowd))
    assert crowd[0] >= 26
    assert crowd[-1] <= 26 + 13 * 12


@pytest.mark.parametrize("count", [1, 4, 12, 36])
def test_no_name_covers_another_in_the_scatter(count: int) -> None:
    """All systems at about the same place, as seeds of one training are."""
    rows = [
        Whisker(f"sigmoid-sinusoidal-s{k}", 12 + k / 1000, None, None, "red") for k in range(count)
    ]
    picture = scatter(rows, [100 + k / 10 for k in range(count)], "speed", "WER, %")
    (height,) = re.findall(r'viewBox="0 0 400 (\d+)"', picture)
    labels = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="start">sigmoid', picture)
    assert len(labels) == count
    assert len({x for x, _ in labels}) == 1
    ys = sorted(float(y) for _, y in labels)
    assert all(b - a >= 11 for a, b in itertools.pairwise(ys))
    assert ys[-1] < float(height) - 20
    circles = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', picture)
    assert len(circles) == count
    # Points stand left of the column of names, lower rates lower down.
    assert max(float(cx) for cx, _ in circles) < float(labels[0][0]) - 10
