"""Heads as a factor: what a level of theirs is called."""

from __future__ import annotations

from pathlib import Path

from made_experiments import seeds_with

from asr.compare.compare import compare


def test_heads_are_named_as_they_are_said(tmp_path: Path) -> None:
    folders = seeds_with(tmp_path, "alone", 0.3, {"model.heads": ["ctc"]})
    folders += seeds_with(tmp_path, "both", 0.2, {"model.heads": ["ctc", "attention"]})
    comparison = compare(folders)
    names = [row.levels["model.heads"] for row in comparison.rows]
    assert names == ["heads=ctc"] * 3 + ["heads=ctc,attention"] * 3
    (found,) = (one for one in comparison.type_differences if one.factor == "model.heads")
    assert {found.name, found.baseline} == {"heads=ctc", "heads=ctc,attention"}
