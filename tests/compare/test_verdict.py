"""What the answer says of several sets, of unequal grids and of what cannot be compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from made_experiments import hash_of, seeds_of, write_decoded, write_experiment

from asr.compare.compare import compare
from asr.compare.comparison import Part
from asr.compare.report.figures import factor_rows
from asr.compare.report.verdict import verdict
from asr.compare.tables import format_markdown, format_terminal


def test_positions_with_unequal_weightings_are_ranked_by_what_they_share(tmp_path: Path) -> None:
    """No position's mean is the highest only because its sigmoid is bad; others have no sigmoid."""
    rates = {
        ("softmax", "none"): 0.1,
        ("sigmoid", "none"): 0.7,
        ("softmax", "rope"): 0.25,
        ("softmax", "alibi"): 0.4,
        ("sigmoid", "alibi"): 0.75,
    }
    comparison = compare([e for w, rate in rates.items() for e in seeds_of(tmp_path, *w, rate)])
    found = verdict(comparison)
    assert "to no position at all; rope and alibi make more errors" in found.answer
    shown = next(reason for reason in found.reasons if "above no position at all" in reason)
    assert "-" not in shown.split(":", 1)[1].replace("[-", "[")
    assert [row.label.split(" −")[0] for row in factor_rows(comparison, "position")] == [
        "rope",
        "alibi",
    ]


def test_a_pair_that_shares_one_position_is_answered_for_that_one(tmp_path: Path) -> None:
    rates = {
        ("softmax", "alibi"): 0.3,
        ("sigmoid", "alibi"): 0.3,
        ("softmax", "rope"): 0.3,
        ("sigmoid", "rope"): 0.3,
        ("relu", "alibi"): 0.1,
    }
    comparison = compare([e for w, rate in rates.items() for e in seeds_of(tmp_path, *w, rate)])
    answer = verdict(comparison).answer
    assert "With alibi, it points to relu rather than sigmoid." in answer
    assert " It points to relu" not in answer


def test_positions_in_a_circle_have_no_best(tmp_path: Path) -> None:
    """Each beats the next over the one weighting that the two share."""
    rates = {
        ("softmax", "none"): 0.1,
        ("softmax", "rope"): 0.3,
        ("sigmoid", "rope"): 0.1,
        ("sigmoid", "alibi"): 0.3,
        ("relu", "alibi"): 0.1,
        ("relu", "none"): 0.32,
    }
    comparison = compare([e for w, rate in rates.items() for e in seeds_of(tmp_path, *w, rate)])
    answer = verdict(comparison).answer
    assert "no position is ahead of every other: over what they share " in answer.lower()
    assert " makes fewer errors than " in answer


def test_positions_without_a_weighting_in_common_are_named(tmp_path: Path) -> None:
    rates = {
        ("softmax", "none"): 0.1,
        ("softmax", "rope"): 0.3,
        ("sigmoid", "rope"): 0.3,
        ("sigmoid", "alibi"): 0.4,
    }
    comparison = compare([e for w, rate in rates.items() for e in seeds_of(tmp_path, *w, rate)])
    answer = verdict(comparison).answer
    assert (
        "nothing is said of alibi, which shares no level of the other factors with no position at all"
        in answer
    )


def test_what_only_the_correction_takes_away_is_said_to_lean(tmp_path: Path) -> None:
    comparison = compare(
        [
            e
            for w, r in (("softmax", 0.3), ("sigmoid", 0.1))
            for e in seeds_of(tmp_path, w, "rope", r)
        ]
    )
    (one,) = comparison.type_differences
    only = replace(one, p_value=0.03, p_holm=0.2)
    found = verdict(replace(comparison, type_differences=[only]))
    assert found.answer == (
        "No significant difference between sigmoid and softmax after correction for the number of "
        "comparisons; by itself this favours sigmoid."
    )
    none = verdict(replace(comparison, type_differences=[replace(only, p_value=0.3)]))
    assert " points would fit" in none.answer


def test_an_answer_for_each_set(tmp_path: Path) -> None:
    base, other = (write_experiment(tmp_path / name) for name in ("base", "other"))
    for set_name, rates in {"test": (0.3, 0.1), "test-lm": (0.1, 0.4)}.items():
        for seed, (folder, rate) in enumerate(zip((base, other), rates, strict=True)):
            write_decoded(folder, set_name, rate, seed=seed)
    comparison = compare([base, other])
    assert verdict(comparison).answer == (
        "On test, other makes fewer errors than base. On test-lm, other makes more errors than base."
    )
    parts = [
        Part(set_name, "length", "1.0 s to 2.0 s", 1.0, 2.0, 60, 500, {"base": 0.3, "other": 0.1})
        for set_name in ("test", "test-lm")
    ]
    text = format_markdown(replace(comparison, parts=parts))
    assert "| system | test 1.0 s to 2.0 s | test-lm 1.0 s to 2.0 s |" in text
    assert "| system | 1.0 s to 2.0 s |" in format_markdown(replace(comparison, parts=parts[:1]))


@pytest.mark.parametrize(("rate", "told"), [(0.6, True), (0.05, False)])
def test_of_few_speakers_it_says_what_holds_for_them_alone(
    rate: float, told: bool, tmp_path: Path
) -> None:
    a, b = (write_experiment(tmp_path / name) for name in ("a", "b"))
    write_decoded(a, "test", 0.05, num_speakers=5, seed=1)
    write_decoded(b, "test", rate, num_speakers=5, seed=1)
    answer = verdict(compare([a, b])).answer
    few = "There are too few speakers for an answer that holds for others"
    more = "; of these alone, b makes more errors than a (MAPSSWE)"
    assert answer == f"{few}{more if told else ''}."


def test_positions_of_each_set_are_drawn(tmp_path: Path) -> None:
    folders = [
        e for p, r in (("none", 0.3), ("rope", 0.1)) for e in seeds_of(tmp_path, "relu", p, r)
    ]
    for folder in folders:
        write_decoded(
            folder, "other", 0.3 if "rope" in folder.name else 0.1, seed=hash_of(folder.name)
        )
    rows = factor_rows(compare(folders), "position")
    assert [row.label for row in rows] == ["rope − none, other", "none − rope, test"]
    assert all(row.value > 0 for row in rows)


def test_types_do_not_need_the_first_system(tmp_path: Path) -> None:
    first = write_experiment(tmp_path / "first", weighting="relu")
    write_decoded(first, "dev", 0.2)
    types = [
        e for w, r in (("softmax", 0.3), ("sigmoid", 0.1)) for e in seeds_of(tmp_path, w, "rope", r)
    ]
    comparison = compare([first, *types])
    assert comparison.differences == []
    assert [(one.levels, one.set_name) for one in comparison.types] == [
        ({"weighting": "softmax"}, "test"),
        ({"weighting": "sigmoid"}, "test"),
    ]
    assert comparison.type_differences == compare(types).type_differences
    assert "test: first was not decoded on it, so no system is compared with first there" in (
        comparison.notes
    )


@pytest.mark.parametrize(("num_speakers", "unit"), [(2, "utterances"), (12, "speakers")])
def test_the_units_of_types_are_those_that_were_taken(
    num_speakers: int, unit: str, tmp_path: Path
) -> None:
    folders = []
    for weighting, rate in (("softmax", 0.3), ("sigmoid", 0.1)):
        for seed in (1, 2):
            exp = write_experiment(tmp_path / f"{weighting}-{seed}", weighting=weighting, seed=seed)
            write_decoded(exp, "test", rate, num_speakers=num_speakers, seed=seed)
            folders.append(exp)
    comparison = compare(folders)
    for text in (format_terminal(comparison), format_markdown(comparison)):
        assert f"points of WER, over seeds and {unit}:" in text
        assert f"Types: t over seeds and {unit}, both taken as samples" in text


def test_without_words_there_is_nothing_to_compare(tmp_path: Path) -> None:
    folders = []
    for weighting in ("softmax", "sigmoid"):
        for seed in (1, 2):
            exp = write_experiment(tmp_path / f"{weighting}-{seed}", weighting=weighting, seed=seed)
            write_decoded(exp, "test", 0.5, references=[[], []], seed=seed)
            folders.append(exp)
    comparison = compare(folders)
    assert (comparison.differences, comparison.types, comparison.type_differences) == ([], [], [])
    assert "test: there are no words in its references to get wrong" in comparison.notes


def test_an_interval_is_said_to_be_of_one_comparison(tmp_path: Path) -> None:
    """Holm's correction is of p-values alone, so an interval without 0 may stand beside p = 0.6."""
    rates = {"none": 0.2, "rope": 0.2, "alibi": 0.2, "cape": 0.2}
    folders = [e for p, r in rates.items() for e in seeds_of(tmp_path, "softmax", p, r)]
    comparison = compare(folders)
    (shown,) = (one for one in verdict(comparison).reasons if one.startswith("Points of word"))
    assert "each pair by itself" in shown
    assert "corrected for the number of comparisons in its table; intervals are not" in (
        format_terminal(comparison)
    )


def test_seeds_of_types_that_have_more_and_fewer(tmp_path: Path) -> None:
    folders = seeds_of(tmp_path, "softmax", "alibi", 0.2, count=5)
    comparison = compare([*folders, *seeds_of(tmp_path, "sigmoid", "alibi", 0.2, count=2)])
    assert verdict(comparison).reasons[-1].startswith("Types were trained with 2 to 5 seeds; below")
    few = compare([*folders[:2], *seeds_of(tmp_path, "relu", "alibi", 0.2, count=2)])
    assert verdict(few).reasons[-1].startswith("Each type was trained with 2 seeds; below 5")
