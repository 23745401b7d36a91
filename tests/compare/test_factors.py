"""Factors: what differs between trainings is found from their configurations, whatever it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_experiments import seeds_of, seeds_with, write_decoded, write_experiment

from asr.compare.compare import compare
from asr.compare.comparison import Comparison
from asr.compare.report.brief import brief_files
from asr.compare.report.gather import gather
from asr.compare.report.page import report_html
from asr.compare.report.verdict import verdict
from asr.compare.tables import comparison_as_json, format_markdown, format_terminal
from asr.examine.attention_maps import draw_attention

# Error rates of a grid in which the second axis changes what the first does.
RATES = {
    ("a", "x"): 0.2,
    ("b", "x"): 0.2,
    ("a", "y"): 0.1,
    ("b", "y"): 0.4,
    ("a", "z"): 0.4,
    ("b", "z"): 0.1,
}


def of_two(folder: Path, keys: tuple[str, str], values: Sequence[Sequence[Any]]) -> list[Path]:
    """The grid above with values of two options in the place of its letters."""
    names = [
        dict(zip(letters, own, strict=True))
        for letters, own in zip(("ab", "xyz"), values, strict=True)
    ]
    found = []
    for (first, second), rate in RATES.items():
        settings = {keys[0]: names[0][first], keys[1]: names[1][second]}
        words = {
            key.partition(".")[2]: value for key, value in settings.items() if "attention" in key
        }
        if "encoder.kind" in settings:
            words["encoder"] = settings["encoder.kind"]
        found += seeds_with(folder, first + second, rate, settings, **words)
    return found


def numbers(comparison: Comparison) -> list[Any]:
    """Every figure of types, differences and interactions, by what was done with what."""
    return [
        [(one.names, one.wer, one.interval) for one in comparison.types],
        [
            (
                one.difference,
                one.interval,
                one.p_value,
                one.p_holm,
                one.df,
                one.num_seeds,
                one.contrast,
            )
            for one in comparison.type_differences
        ],
        [(one.f, one.df1, one.df2, one.p_value, one.p_holm) for one in comparison.interactions],
    ]


def test_a_factor_is_compared_as_weightings_and_positions_are(tmp_path: Path) -> None:
    """The same hypotheses under other options: the same numbers."""
    words = of_two(
        tmp_path / "words",
        ("attention.weighting", "attention.position"),
        [("softmax", "sigmoid"), ("none", "alibi", "rope")],
    )
    options = of_two(
        tmp_path / "options",
        ("encoder.kind", "encoder.dim"),
        [("conformer", "transformer"), (32, 64, 96)],
    )
    one, other = compare(words), compare(options)
    assert [factor.name for factor in one.factors] == ["weighting", "position"]
    assert [(factor.name, factor.levels) for factor in other.factors] == [
        ("encoder.kind", ["conformer", "transformer"]),
        ("encoder.dim", ["dim=32", "dim=64", "dim=96"]),
    ]
    assert numbers(one) == numbers(other)
    assert numbers(one)[2]
    answers = [verdict(each).answer for each in (one, other)]
    assert answers[1] == (
        answers[0]
        .replace("the position", "encoder.dim")
        .replace("positions", "values of encoder.dim")
        .replace("no position at all", "dim=32")
        .replace("alibi", "dim=64")
        .replace("rope", "dim=96")
        .replace("sigmoid", "transformer")
        .replace("softmax", "conformer")
    )
    text = format_terminal(other)
    for caption in (
        "Interaction: Welch's analysis of variance of differences of encoder.kind over values of "
        "encoder.dim:",
        "Differences of encoder.kind in points of WER, over seeds and speakers:",
        "Differences of encoder.dim in points of WER, over seeds and speakers:",
        "Differences of encoder.kind at one value of encoder.dim, less their mean at the other "
        "values of encoder.dim, in points of WER",
    ):
        assert caption in text
    assert "mean of 3 values of encoder.dim" in text


def test_every_two_of_three_factors_are_asked_for_an_interaction(tmp_path: Path) -> None:
    """Means and contrasts by hand, from the types' own word error rates."""
    folders, wers = [], {}
    for weighting in ("softmax", "sigmoid"):
        for dim in (32, 64):
            for norm in ("pre", "post"):
                name = f"{weighting}-{dim}-{norm}"
                rate = 0.4 if (dim, norm) == (64, "post") else 0.15
                settings = {"encoder.dim": dim, "encoder.norm": norm}
                folders += seeds_with(tmp_path, name, rate, settings, weighting=weighting)
    comparison = compare(folders)
    assert [one.name for one in comparison.factors] == ["weighting", "encoder.dim", "encoder.norm"]
    wers = {tuple(one.levels.values()): one.wer for one in comparison.types}
    assert len(wers) == 8
    found = {(one.factor, one.over): one for one in comparison.interactions}
    assert list(found) == [
        ("weighting", "encoder.dim"),
        ("weighting", "encoder.norm"),
        ("encoder.dim", "encoder.norm"),
    ]
    (contrast,) = (
        one
        for one in comparison.type_differences
        if one.contrast and (one.factor, one.over) == ("encoder.dim", "encoder.norm")
    )

    def mean(dim: int, norm: str) -> float:
        return float(
            np.mean([wers[w, f"dim={dim}", f"norm={norm}"] for w in ("softmax", "sigmoid")])
        )

    assert contrast.difference == pytest.approx(
        mean(64, "post") - mean(32, "post") - (mean(64, "pre") - mean(32, "pre"))
    )
    significant = found["encoder.dim", "encoder.norm"]
    assert significant.p_value == pytest.approx(contrast.p_value)
    assert significant.p_holm is not None
    assert significant.p_holm < 0.001
    (at_post,) = (
        one
        for one in comparison.type_differences
        if not one.contrast and one.factor == "encoder.dim" and one.at == "norm=post"
    )
    assert at_post.difference == pytest.approx(mean(64, "post") - mean(32, "post"))
    assert at_post.scope == "norm=post, mean of 2 weightings"
    (overall,) = (
        one for one in comparison.type_differences if one.factor == "weighting" and not one.over
    )
    assert overall.scope == "mean of 4 combinations"
    answer = verdict(comparison).answer
    assert (
        "How dim=64 compares with dim=32 depends on encoder.norm (a significant interaction)"
        in answer
    )
    # and the norms are ranked where the other factor has one level
    assert (
        "With dim=64, for encoder.norm, it points to norm=pre; norm=post makes more errors."
        in answer
    )


def test_options_that_always_vary_together_are_one_factor(tmp_path: Path) -> None:
    small = {"encoder.dim": 32, "encoder.num_layers": 2}
    large = {"encoder.dim": 64, "encoder.num_layers": 4}
    folders = [
        *seeds_with(tmp_path, "small", 0.3, small),
        *seeds_with(tmp_path, "large", 0.1, large),
    ]
    comparison = compare(folders)
    (factor,) = comparison.factors
    assert factor.name == "encoder.num_layers+encoder.dim"
    assert factor.keys == ["encoder.num_layers", "encoder.dim"]
    assert factor.levels == ["num_layers=2+dim=32", "num_layers=4+dim=64"]
    told = (
        "encoder.num_layers and encoder.dim always vary together: they are one factor, "
        "encoder.num_layers+encoder.dim, and no difference can be put down to one of them alone"
    )
    for text in (
        format_terminal(comparison),
        format_markdown(comparison),
        report_html(gather(comparison, draw_attention)),
    ):
        assert told in text
    assert verdict(comparison).answer == (
        "For encoder.num_layers+encoder.dim, it points to num_layers=4+dim=64; num_layers=2+dim=32 "
        "makes more errors."
    )
    # a third type that has one value of each is what tells them apart
    mixed = seeds_with(tmp_path, "mixed", 0.2, {"encoder.dim": 32, "encoder.num_layers": 4})
    comparison = compare([*folders, *mixed])
    assert [one.name for one in comparison.factors] == ["encoder.num_layers", "encoder.dim"]
    found = {(one.factor, one.name, one.baseline): one.scope for one in comparison.type_differences}
    assert found == {
        ("encoder.num_layers", "num_layers=4", "num_layers=2"): "dim=32",
        ("encoder.dim", "dim=64", "dim=32"): "num_layers=4",
    }


def test_an_option_that_not_all_read_is_one_factor_with_what_reads_it(tmp_path: Path) -> None:
    """A softmax has no count: three ways to weigh, not two times two."""
    folders = seeds_with(
        tmp_path, "softmax", 0.3, {"attention.count": "visible"}, weighting="softmax"
    )
    for count, rate in (("visible", 0.3), ("effective", 0.1)):
        folders += seeds_with(
            tmp_path, count, rate, {"attention.count": count}, weighting="sigmoid"
        )
    comparison = compare(folders)
    (factor,) = comparison.factors
    assert factor.name == "weighting+attention.count"
    assert factor.levels == ["softmax", "sigmoid+count=visible", "sigmoid+count=effective"]
    assert len(comparison.type_differences) == 3
    assert comparison.notes[0] == (
        "attention.count: not read with every weighting, so that they are one factor, "
        "weighting+attention.count"
    )


def test_a_kind_that_nobody_knows_is_compared(tmp_path: Path) -> None:
    folders = []
    for kind in ("conformer", "of-a-later-version"):
        settings = {"encoder.kind": kind}
        folders += seeds_with(tmp_path, kind, 0.2, settings, encoder=kind)
    folders += seeds_with(tmp_path, "list", 0.2, {"encoder.kind": [1, {}]}, encoder=None)
    (factor,) = compare(folders).factors
    assert factor.levels == ["conformer", "of-a-later-version", "[1, {}]"]


def held(folder: Path, option: str, content: str) -> None:
    record = json.loads((folder / "run.json").read_text())
    data = {**record.get("data", {}), option: {"num_utterances": 1, "fingerprint": content}}
    (folder / "run.json").write_text(json.dumps({**record, "data": data}))


def test_amounts_of_data_are_told_by_what_the_manifests_held(tmp_path: Path) -> None:
    folders = []
    for name, where, rate in (("half", "here", 0.4), ("whole", "here", 0.1)):
        settings = {"data.train": [f"/{where}/{name}.cuts.jsonl.gz"]}
        folders += seeds_with(tmp_path, name, rate, settings)
    levels = [factor.levels for factor in compare(folders).factors]
    assert levels == [["train=half", "train=whole"]]
    for folder in folders:
        held(folder, "data.train", folder.name.split("-")[0])
    # one of them was moved before its training
    config = folders[-1] / "config.yaml"
    config.write_text(config.read_text().replace("/here/", "/there/"))
    comparison = compare(folders)
    assert [len(one.names) for one in comparison.types] == [3, 3]
    (factor,) = comparison.factors
    assert (factor.name, factor.levels) == ("data.train", ["train=half", "train=whole"])
    assert "it points to train=whole" in verdict(comparison).answer


def test_a_run_without_a_configuration_is_in_no_type_where_others_differ(tmp_path: Path) -> None:
    folders = [
        *seeds_with(tmp_path, "small", 0.3, {"encoder.dim": 32}),
        *seeds_with(tmp_path, "large", 0.1, {"encoder.dim": 64}),
        *seeds_of(tmp_path, "softmax", "alibi", 0.2, count=2),
    ]
    comparison = compare(folders)
    assert [one.label for one in comparison.types] == ["dim=32", "dim=64"]
    assert comparison.notes[0] == (
        "in no type, since options are unknown without a config.yaml: softmax-alibi-1, "
        "softmax-alibi-2 (encoder.dim)"
    )
    assert comparison.rows[-1].levels == {}


def test_levels_that_share_nothing_are_not_compared_and_that_is_said(tmp_path: Path) -> None:
    """Each kind has learning rates of its own: rates are compared within a kind, kinds never."""
    folders = seeds_with(tmp_path, "c", 0.3, {"optimizer.lr": 0.001}, encoder="conformer")
    for rate in (0.002, 0.003):
        folders += seeds_with(
            tmp_path, f"t{rate}", 0.3, {"optimizer.lr": rate}, encoder="transformer"
        )
    comparison = compare(folders)
    assert [(one.factor, one.scope) for one in comparison.type_differences] == [
        ("optimizer.lr", "transformer")
    ]
    assert (
        "test: no two values of encoder.kind were trained with the same levels of the other factors, "
        "so none are compared"
    ) in comparison.notes


def test_single_trainings_are_named_by_what_differs(tmp_path: Path) -> None:
    folders = [
        seeds_with(tmp_path, f"dim{dim}", 0.2, {"encoder.dim": dim}, count=1)[0] for dim in (32, 64)
    ]
    comparison = compare(folders)
    assert comparison.types == []
    assert [row.levels for row in comparison.rows] == [
        {"encoder.dim": f"dim={d}"} for d in (32, 64)
    ]
    assert "says nothing yet about encoder.dim" in verdict(comparison).reasons[-1]
    assert comparison.notes == []


def test_one_type_beside_single_trainings_is_named_by_what_differs(tmp_path: Path) -> None:
    folders = seeds_with(tmp_path, "small", 0.2, {"encoder.dim": 32}, count=2)
    folders += seeds_with(tmp_path, "large", 0.2, {"encoder.dim": 64}, count=1)
    comparison = compare(folders)
    assert [(one.label, len(one.names)) for one in comparison.types] == [("dim=32", 2)]
    assert [row.label for row in comparison.rows] == ["dim=32", "dim=32", "dim=64"]
    assert comparison.type_differences == []
    assert any(note.endswith(": large-1 (encoder.dim)") for note in comparison.notes)


EVIL = "\x1b[2J</td><script>|`" + "x" * 500


def test_a_strangers_values_are_shown_and_do_nothing(tmp_path: Path) -> None:
    folders = []
    for value in (EVIL, EVIL + "y"):
        settings = {"encoder.dim": value, f"encoder.{EVIL}": value, "data.train": value}
        folders += seeds_with(tmp_path, f"evil{len(value)}", 0.3, settings, count=2)
    comparison = compare(folders)
    (factor,) = comparison.factors
    assert len(set(factor.levels)) == 2
    assert max(map(len, factor.levels)) < 100
    page = report_html(gather(comparison, draw_attention))
    assert "<script" not in page
    brief = brief_files(comparison, tmp_path / "page.md", "")[tmp_path / "page.md"]
    assert isinstance(brief, str)
    for text in (format_terminal(comparison), format_markdown(comparison), page, brief):
        assert "\x1b" not in text
    assert json.dumps(comparison_as_json(comparison))


def test_a_factor_has_a_column_in_every_table(tmp_path: Path) -> None:
    folders = []
    for dim in (32, 64):
        folders += seeds_with(tmp_path, f"dim{dim}", 0.2, {"encoder.dim": dim}, count=2)
    comparison = compare(folders)
    systems, *_, types = (
        line
        for line in format_terminal(comparison).splitlines()
        if "encoder.dim" in line and "  " in line
    )
    assert systems.split()[:5] == ["system", "weighting", "position", "encoder", "encoder.dim"]
    assert types.split()[:2] == ["encoder.dim", "set"]
    alone = write_experiment(tmp_path / "alone", seed=7)
    write_decoded(alone, "test", 0.2)
    assert compare([*folders, alone]).rows[-1].levels == {}


def test_a_run_without_a_configuration_is_not_pooled_with_those_that_have_one(
    tmp_path: Path,
) -> None:
    folders = [
        *seeds_with(tmp_path, "c", 0.3, {"encoder.kind": "conformer"}, encoder="conformer"),
        *seeds_with(tmp_path, "t", 0.1, {"encoder.kind": "transformer"}, encoder="transformer"),
        *seeds_of(tmp_path, "sigmoid", "alibi", 0.2, count=2),
    ]
    comparison = compare(folders)
    assert [len(one.names) for one in comparison.types] == [3, 3]
    assert comparison.notes[0] == (
        "in no type, since options are unknown without a config.yaml: sigmoid-alibi-1, "
        "sigmoid-alibi-2"
    )


def test_a_seed_that_the_run_does_not_tell_is_that_of_its_configuration(tmp_path: Path) -> None:
    folders = seeds_with(tmp_path, "a", 0.3, {"encoder.dim": 32})
    folders += seeds_with(tmp_path, "b", 0.1, {"encoder.dim": 64})
    for folder in folders:
        path = folder / "run.json"
        content = json.loads(path.read_text())
        assert content.pop("seed") in (1, 2, 3)
        path.write_text(json.dumps(content))
        assert '"seed"' in (folder / "config.yaml").read_text()
    comparison = compare(folders)
    assert [len(one.names) for one in comparison.types] == [3, 3]


def test_a_difference_over_part_of_a_grid_says_over_which(tmp_path: Path) -> None:
    folders = []
    for weighting in ("softmax", "sigmoid"):
        for kind, dim in (("conformer", 32), ("transformer", 32), ("transformer", 64)):
            settings = {
                "attention.weighting": weighting,
                "encoder.kind": kind,
                "encoder.dim": dim,
            }
            rate, name = 0.1 if dim == 32 else 0.3, f"{weighting}{kind}{dim}"
            words = {"weighting": weighting, "encoder": kind}
            folders += seeds_with(tmp_path, name, rate, settings, **words)
    comparison = compare(folders)
    (one,) = (
        one for one in comparison.type_differences if one.factor == "encoder.dim" and not one.over
    )
    assert one.scope == "transformer, mean of 2 weightings"
    (told,) = (one for one in verdict(comparison).answer.split(". ") if "dim=32" in one)
    assert "transformer" in told
