"""The pages to keep: what they say is what was compared, and nothing of the machine is in them."""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from made_experiments import seeds_of, write_decoded, write_experiment

from asr.cli import main
from asr.compare.cells import p_text, points
from asr.compare.compare import compare
from asr.compare.comparison import Comparison, LengthResult
from asr.compare.report.brief import brief_files, length_brief_files
from asr.compare.report.verdict import length_verdict, verdict
from asr.errors import InputError
from asr.files import Files

image = pytest.importorskip("matplotlib.image", reason="extra `plot` not installed")


def page_of(comparison: Comparison, make: Callable[..., Files] = brief_files) -> str:
    """The page; its picture is checked on the way."""
    files = make(comparison, Path("docs/x.md"), "recipes/mini/grid.sh --seeds '1 2'")
    assert sorted(map(str, files)) == ["docs/x.md", "docs/x.png"]
    page, picture = files[Path("docs/x.md")], files[Path("docs/x.png")]
    assert isinstance(page, str)
    assert isinstance(picture, bytes)
    height, width, _ = image.imread(io.BytesIO(picture)).shape
    assert min(height, width) > 200
    assert len(picture) < 1_000_000
    assert "](x.png)" in page
    assert "`recipes/mini/grid.sh --seeds '1 2'`" in page
    for row in comparison.rows:
        assert row.folder not in page
    for table in re.findall(r"((?:^\|.*\n)+)", page, flags=re.MULTILINE):
        assert len({line.count(" | ") for line in table.splitlines()}) == 1
    return page


def test_a_page_of_types(tmp_path: Path) -> None:
    rates = {
        ("softmax", "none"): 0.3,
        ("sigmoid", "none"): 0.3,
        ("softmax", "rope"): 0.1,
        ("sigmoid", "rope"): 0.1,
        ("softmax", "alibi"): 0.1,
        ("sigmoid", "alibi"): 0.1,
    }
    comparison = compare([e for w, rate in rates.items() for e in seeds_of(tmp_path, *w, rate)])
    page = page_of(comparison)
    assert "6 types, 3 seeds of each; conformer; 18.3M parameters" in page
    found = verdict(comparison)
    assert f"**{found.answer}**" in page
    assert "No significant difference between sigmoid and softmax: anything from " in found.answer
    best, other = ("rope", "alibi") if "than rope" in found.answer else ("alibi", "rope")
    assert found.answer.endswith(
        f"Of the positions, no position at all makes more errors than {best}; between that and "
        f"{other} no difference is significant."
    )
    for one in comparison.type_differences:
        line = f"| {one.name} - {one.baseline} |"
        shown = next(
            text
            for text in page.splitlines()
            if text.startswith(line) and f"| {points(one.difference)} |" in text
        )
        assert f"| {p_text(one.p_value)} | {p_text(one.p_holm)} |" in shown
    # Holm's correction among the positions alone: three pairs of them
    positions = [one for one in comparison.type_differences if one.factor == "position"]
    assert [(one.name, one.baseline) for one in positions] == [
        ("rope", "none"),
        ("alibi", "none"),
        ("alibi", "rope"),
    ]
    smallest = min(one.p_value or 0.0 for one in positions)
    assert min(one.p_holm or 0.0 for one in positions) == pytest.approx(3 * smallest)


def test_a_page_of_systems(tmp_path: Path) -> None:
    folders = [write_experiment(tmp_path / name, seed=None) for name in ("a", "b")]
    for seed, folder in enumerate(folders):
        write_decoded(folder, "test", 0.2, seed=seed)
    page = page_of(compare(folders))
    assert "# Systems compared" in page
    assert "WER minus that of a, in points" in page


def test_a_page_of_one_system(tmp_path: Path) -> None:
    """Nothing to compare it with, and a page all the same."""
    alone = write_experiment(tmp_path / "a", seed=None)
    write_decoded(alone, "test", 0.2)
    page = page_of(compare([alone]))
    assert "Nothing to compare yet" in page
    assert "WER minus" not in page


@pytest.mark.parametrize(("seeds", "words"), [(3, "it points to rope"), (5, "use rope")])
def test_positions_are_claimed_as_weightings_are(tmp_path: Path, seeds: int, words: str) -> None:
    rates = {"none": 0.3, "rope": 0.1}
    folders = [
        e for p, rate in rates.items() for e in seeds_of(tmp_path, "sigmoid", p, rate, seeds)
    ]
    assert words in verdict(compare(folders)).answer


def test_lengths_of_positions_alone(long_grid: list[Path]) -> None:
    """One weighting, two positions, two seeds: types all the same."""
    comparison = compare([exp for exp in long_grid if exp.name.startswith("sigmoid")])
    assert comparison.length_differences
    found = length_verdict(comparison)
    assert "Each system is one training" not in " ".join(found.reasons)
    (at_most,) = (one for one in comparison.length_differences if one.set_name == "5.09 s")
    shown = next(reason for reason in found.reasons if "at 5.09 s" in reason)
    assert f"{100 * abs(at_most.difference):+.2f}" in shown


def test_weightings_that_differ_at_one_position_stand_in_the_answer(tmp_path: Path) -> None:
    """On average they do not, for they differ the other way round at the other position: the mean
    answers nothing, and positions are ranked within each weighting."""
    rates = {
        ("softmax", "none"): 0.2,
        ("sigmoid", "none"): 0.2,
        ("softmax", "alibi"): 0.1,
        ("sigmoid", "alibi"): 0.4,
        ("softmax", "rope"): 0.4,
        ("sigmoid", "rope"): 0.1,
    }
    comparison = compare([e for w, rate in rates.items() for e in seeds_of(tmp_path, *w, rate)])
    found = verdict(comparison)
    assert found.answer.startswith(
        "How sigmoid compares with softmax depends on the position (a significant interaction), so "
        "their mean over positions answers nothing; with rope it points to sigmoid rather than "
        "softmax; with alibi it points to softmax rather than sigmoid; with no position at all no "
        "difference is significant after correction. With softmax, for the position, it points to "
        "alibi; "
    )
    assert "With sigmoid, for the position, it points to rope; " in found.answer
    (interaction,) = comparison.interactions
    assert (
        f"Interaction on test: sigmoid minus softmax is not the same at all 3 positions (Welch's F(2, "
        f"{interaction.df2:.1f}) = {interaction.f:.1f}, corrected p <0.001)."
    ) in found.reasons
    (reason,) = (one for one in found.reasons if one.startswith("With alibi, on test,"))
    (difference,) = (
        one
        for one in comparison.type_differences
        if (one.factor, one.over, one.at, one.contrast) == ("weighting", "position", "alibi", False)
    )
    assert f"is {100 * difference.difference:.2f} points higher" in reason
    joined = replace(
        comparison,
        lengths=[LengthResult("a", "9 s", 9.0, 9.0, 1, [], 0.1, None, None, None, None)],
        length_types=[replace(one, set_name="9 s") for one in comparison.types],
        length_differences=[replace(o, set_name="9 s") for o in comparison.type_differences],
        length_interactions=[replace(o, set_name="9 s") for o in comparison.interactions],
    )
    at_length = length_verdict(joined)
    assert at_length.answer.startswith("At 9 s, how sigmoid compares with softmax depends on ")
    assert "With sigmoid at 9 s, for the position, it points to rope; " in at_length.answer
    assert any(one.startswith("With rope, at 9 s,") for one in at_length.reasons)


def test_a_page_of_lengths(long_grid: list[Path]) -> None:
    comparison = compare(long_grid)
    assert "# Comparison of weightings and positions" in page_of(comparison)
    page = page_of(comparison, length_brief_files)
    assert "# Longer audio" in page
    # its own sets alone, and how they were decoded
    words = sum(unit.words for unit in comparison.lengths[0].units)
    how = f"{words} words; normaliser lowercase-apostrophe; search greedy"
    assert f"test-1s: 6 utterances of 2.54 s on average, {how}" in page
    assert f"test-60s: 3 utterances of 5.09 s on average, {how}" in page
    assert "test: 6 utterances" not in page
    for one in comparison.length_types:
        assert one.interval is not None
        cell = f"{100 * one.wer:.2f} [{100 * one.interval.low:.2f}, {100 * one.interval.high:.2f}]"
        line = next(
            x for x in page.splitlines() if x.startswith(f"| {' | '.join(one.levels.values())}")
        )
        assert cell in line
    differences = comparison.length_differences
    assert {one.set_name for one in differences} == {"2.54 s", "5.09 s"}
    # a type's WER is the mean of its trainings', and a difference that of two types
    wers = {(one.name, one.length_s): one.wer for one in comparison.lengths}
    sigmoid = [wers[exp.name, 60.0] for exp in long_grid if exp.name.startswith("sigmoid")]
    softmax = [wers[exp.name, 60.0] for exp in long_grid if exp.name.startswith("softmax")]
    weightings = [one for one in differences if one.factor == "weighting" and not one.contrast]
    (overall,) = (o for o in weightings if o.set_name == "5.09 s" and len(o.within) == 2)
    assert overall.difference != 0
    assert overall.difference == pytest.approx(sum(sigmoid) / 4 - sum(softmax) / 4)
    assert "at 5.09 s" in page
    # of single systems: no types, no claim about any
    alone = replace(comparison, types=[], length_types=[], length_differences=[])
    page = page_of(alone, length_brief_files)
    assert "says nothing yet about weightings and positions" in page


def test_a_file_among_the_folders_is_named_as_one(tmp_path: Path) -> None:
    (tmp_path / "compare.json").write_text("{}")
    with pytest.raises(InputError, match=r"compare\.json: a file, not an experiment folder"):
        compare([tmp_path / "compare.json"])


def test_equal_rates_are_the_same(tmp_path: Path) -> None:
    folders = [write_experiment(tmp_path / name, seed=None) for name in ("a", "b")]
    for folder in folders:
        write_decoded(folder, "test", 0.2)
    (first, *_) = verdict(compare(folders)).reasons
    assert first.startswith("On test the word error rate of b is the same as that of a")


def test_one_duration_is_said_once(long_grid: list[Path]) -> None:
    comparison = compare(long_grid)
    alone = [one for one in comparison.lengths if one.label == "5.09 s"]
    types = [one for one in comparison.length_types if one.set_name == "5.09 s"]
    of_types = [one for one in comparison.length_differences if one.set_name == "5.09 s"]
    one = replace(
        comparison, lengths=alone, length_types=types, length_differences=of_types, types=[]
    )
    (lowest,) = (x for x in length_verdict(one).reasons if x.startswith("Lowest at 5.09 s"))
    assert lowest.endswith(f"({100 * min(x.wer for x in types):.2f} %).")
    found = length_verdict(replace(one, length_types=[], length_differences=[])).answer
    assert found.startswith(
        f"Word error rates at 5.09 s: {alone[0].name} {100 * alone[0].wer:.2f} %;"
    )


def test_refusals(grid: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"--page x\.html: must end in \.md"):
        brief_files(compare(grid[:1]), Path("x.html"), "")
    empty = write_experiment(tmp_path / "empty")
    with pytest.raises(InputError, match="nothing is decoded yet"):
        brief_files(compare([empty]), Path("x.md"), "")
    with pytest.raises(InputError, match=r"--length-page x\.html: must end in \.md"):
        length_brief_files(compare(grid[:1]), Path("x.html"), "")
    with pytest.raises(InputError, match=r"no set of joined utterances is decoded \(asr join"):
        length_brief_files(compare(grid[:1]), Path("x.md"), "")
    # What cannot be made is noticed before anything is written.
    out = tmp_path / "out"
    words = ["compare", *map(str, grid[:2]), "--out", str(out)]
    html = ["--html", str(out / "r.html")]
    for wrong in ([*html, "--utterance", "nobody"], ["--page", "x.html"]):
        assert main([*words, *wrong]) == 2
        assert not out.exists()
    (tmp_path / "file").write_text("")
    assert main([*words, "--page", str(tmp_path / "file" / "x.md")]) == 2
    assert not (out / "compare.json").exists()
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 3
    assert main([*words, "--page", str(out / "page.md")]) == 0
    names = ["compare.json", "compare.md", "curves.png", "page.md", "page.png"]
    assert sorted(path.name for path in out.iterdir()) == names
    made_by = shlex.join(["asr", *words, "--page", str(out / "page.md")])
    assert f"`{made_by}`" in (out / "page.md").read_text()
