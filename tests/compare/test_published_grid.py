"""The published grid: the errors of its speakers give the figures that stand in its file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asr.compare.comparison import Interaction, TypeDifference, TypeResult
from asr.compare.contrasts import Grid, type_results
from asr.compare.experiment import Experiment, Run
from asr.compare.factors import find_factors, types_of
from asr.compare.interactions import compared_types
from asr.compare.stats.paired import Group

PUBLISHED = Path(__file__).parents[2] / "docs" / "results" / "mini-grid.json"
# The names of an earlier version, by which the file says what each figure is of.
AXES = ("weighting", "position")


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(PUBLISHED.read_text())
    return content


def group_of(set_name: str, units: Sequence[Sequence[dict[str, Any]]]) -> Group:
    """Speakers with their errors, one column for each run."""
    errors_nm = np.array([[unit["errors"] for unit in own] for own in units], dtype=float).T
    words_n = np.array([unit["words"] for unit in units[0]], dtype=float)
    names = [unit["name"] for unit in units[0]]
    members = list(range(len(units)))
    hypotheses: list[list[list[str]]] = [[] for _ in units]
    sums = (errors_nm.sum(axis=0, keepdims=True), words_n.sum(keepdims=True))
    return Group(set_name, members, [], hypotheses, *sums, "speaker", names, errors_nm, words_n)


Found = tuple[list[TypeResult], list[TypeDifference], list[Interaction]]


def compared(
    published: dict[str, Any], sets: dict[str, Sequence[Sequence[dict[str, Any]]]]
) -> Found:
    """Compare the published runs by their speakers' errors on each set."""
    names = [row["name"] for row in published["rows"]]
    experiments = [
        Experiment(Path(row["folder"]), Run(**row["run"]), {}, {}, {}, {}, [])
        for row in published["rows"]
    ]
    design = find_factors(experiments, names)
    factors = [factor.name for factor in design.factors]
    assert factors == [*AXES]
    groups = [group_of(name, units) for name, units in sets.items()]
    grids = [
        Grid(group, factors, types_of(group, design, experiments, names)[0], published["level"])
        for group in groups
    ]
    return [one for grid in grids for one in type_results(grid, names)], *compared_types(grids)


def assert_same(found: Found, published: dict[str, Any], prefix: str) -> None:
    """In the same order, and to the last digits that adding rounds off."""
    types, differences, interactions = found
    pairs = zip(types, published[f"{prefix}types"], strict=True)
    for one, other in pairs:
        assert (one.names, one.set_name) == (other["names"], other["set_name"])
        assert one.levels == {axis: other[axis] for axis in AXES}
        assert_alike(one, other, "wer", "interval")
    key = f"{prefix}differences" if prefix else "type_differences"
    for one, other in zip(differences, published[key], strict=True):
        assert ("contrast" if one.contrast else one.factor) == other["kind"]
        assert one.within == other["within"]
        assert (one.name, one.baseline, one.set_name, one.num_seeds) == tuple(
            other[name] for name in ("name", "baseline", "set_name", "num_seeds")
        )
        assert_alike(one, other, "difference", "interval", "p_value", "p_holm", "df")
    for one, other in zip(interactions, published[f"{prefix}interactions"], strict=True):
        assert (one.levels, one.set_name) == (other["positions"], other["set_name"])
        assert_alike(one, other, "f", "df1", "df2", "p_value", "p_holm")


def assert_alike(found: Any, published: dict[str, Any], *names: str) -> None:
    for name in names:
        value, expected = getattr(found, name), published[name]
        if name == "interval":
            value, expected = [value.low, value.high], [*expected.values()]
        assert value == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_on_its_set(published: dict[str, Any]) -> None:
    units = [row["sets"]["test"]["units"] for row in published["rows"]]
    assert_same(compared(published, {"test": units}), published, "")


def test_joined_to_durations(published: dict[str, Any]) -> None:
    """Four durations in one table, with interactions that are significant."""
    sets: dict[str, list[Any]] = {}
    for one in published["lengths"]:
        sets.setdefault(one["label"], []).append(one["units"])
    assert_same(compared(published, sets), published, "length_")
