"""Recipes whose models have an attention decoder beside CTC."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from recipe_runs import ROOT, recipe


@pytest.mark.parametrize(
    ("script", "words"), [("mini/run.sh", ()), ("librispeech/run.sh", ("--test", "test"))]
)
def test_heads_are_an_option(script: str, words: tuple[str, ...], tmp_path: Path) -> None:
    common = (*words, "--work", tmp_path, "--dry-run", "--systems", "sigmoid+rope")

    def commands(*more: str) -> list[str]:
        lines = recipe(script, *common, *more).stdout.splitlines()
        return [line for line in lines if line.startswith(" asr")]

    plain, both = commands(), commands("--heads", "ctc ctc+attention")
    assert not any("model.heads" in line or "joint" in line for line in plain)
    compared = " asr compare"
    assert set(plain) - set(both) <= {line for line in plain if line.startswith(compared)}
    (trained,) = (line for line in both if " train " in line and "model.heads" in line)
    assert "decoder.weighting=sigmoid decoder.cross_weighting=sigmoid" in trained
    assert "+attention --resume" in trained
    for search in ("rescore", "joint"):
        tuned, decoded = (line for line in both if f"--search {search}" in line)
        assert tuned.startswith(" asr tune")
        assert f"+attention/decode/test-{search}" in decoded
    refused = recipe(script, *common, "--heads", "attention", check=False)
    assert refused.returncode == 2
    assert "--heads 'attention': choose of ctc and ctc+attention" in refused.stderr
    refused = recipe(script, *common, "--heads", "ctc ctc", check=False)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--heads names 'ctc' twice" in refused.stderr


def test_decoders_that_cannot_be_are_refused_before_anything_runs(tmp_path: Path) -> None:
    run = recipe("mini/heads.sh", "--work", tmp_path, "--decoders", "softmax foo", check=False)
    assert run.returncode == 2
    assert "foo" in run.stderr
    assert not (tmp_path / "data").exists()


def test_a_decoder_is_trained_searched_and_compared(tmp_path: Path) -> None:
    conf = ROOT / "recipes/mini/conf/smoke.yaml"
    size = ("--hours", 0.02, "--dev", 4, "--test", 5, "--systems", "sigmoid+alibi")
    words = ("--work", tmp_path, "--config", conf, *size, "--heads", "ctc ctc+attention")
    recipe("mini/run.sh", *words)
    exp = tmp_path / "exp/sigmoid-alibi+attention"
    table = (tmp_path / "exp/compare.md").read_text()
    for search in ("rescore", "joint"):
        settings = json.loads((exp / f"decode/test-{search}/decode.json").read_text())
        assert settings["weights"] == "tuned"
        assert settings["search"] == search
        assert f"test-{search}" in table
    assert "model.heads" in table
