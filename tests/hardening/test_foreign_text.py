"""Texts and language models that a recogniser can never write: every command says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from lhotse.cut import Cut

from asr.data.store.manifest import read_cuts, write_cuts

from .conftest import TINY, Workspace, run_apart

BEAM = ["--search", "beam", "--beam", 2]


@pytest.fixture(scope="module")
def upper(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model of words in upper case, as openslr-11 has them: the manifest's own spelling."""
    out = tmp_path_factory.mktemp("lm") / "upper.arpa"
    text = out.with_suffix(".txt")
    text.write_text("".join(f"{cut.supervisions[0].text}\n" for cut in cuts_of(workspace)))
    words = ["lm", "train", "--text", text, "--out", out, "--order", 2, "--normaliser", "none"]
    assert run_apart(words).code == 0
    return out


def cuts_of(workspace: Workspace) -> list[Cut]:
    return list(read_cuts(workspace.cuts))


def respelled(workspace: Workspace, path: Path, old: str, new: str) -> Path:
    cuts = cuts_of(workspace)
    for cut in cuts:
        cut.supervisions[0].text = cut.supervisions[0].text.replace(old, new)
    write_cuts(cuts, path)
    return path


@pytest.mark.parametrize("command", ["decode", "transcribe", "stream", "tune"])
def test_a_language_model_in_upper_case_is_refused(
    command: str, workspace: Workspace, upper: Path, tmp_path: Path
) -> None:
    manifest = ["--cuts", workspace.cuts]
    of_command = {
        "decode": [*manifest, "--out", tmp_path / "out", *BEAM],
        "transcribe": [workspace.audio, *BEAM],
        "stream": ["--rate", 16000, *BEAM],
        "tune": manifest,
    }
    more = of_command[command]
    words = [command, "--model", workspace.model, "--lm", upper, "--threads", 1, *more]
    run_apart(words).refused(str(upper), "never writes", "100 %", "spelling", "asr lm train")
    assert not (tmp_path / "out").exists()


def test_a_neural_model_of_unknown_tokens_is_not_trained(
    workspace: Workspace, tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text("ALL OF IT SHOUTED\n")
    words = ["lm", "train-neural", "--model", workspace.model, "--text", tmp_path / "text.txt"]
    words += ["--out", tmp_path / "lm", "--normaliser", "none", "--epochs", 1]
    run_apart(words).refused("text.txt", "no token for 82 % of the characters", "'T'", "spelling")
    assert not (tmp_path / "lm").exists()


def test_references_that_are_never_written_are_a_warning(
    workspace: Workspace, tmp_path: Path
) -> None:
    cuts = respelled(workspace, tmp_path / "x.cuts.jsonl.gz", "E", "É")
    words = ["decode", "--model", workspace.model, "--cuts", cuts, "--out", tmp_path / "out"]
    outcome = run_apart([*words, "--threads", 1])
    assert outcome.code == 0
    (line,) = [line for line in outcome.error.splitlines() if "warning" in line]
    assert line.startswith(f"asr: warning: {cuts}: the model has no token for")
    assert "'é'" in line


@pytest.mark.parametrize(("old", "code"), [("E", 2), ("_", 0)])
def test_fine_tuning_on_another_alphabet(
    old: str, code: int, workspace: Workspace, tmp_path: Path
) -> None:
    cuts = respelled(workspace, tmp_path / "x.cuts.jsonl.gz", old, "É")
    if code == 0:  # one letter of some hundred
        all_cuts = cuts_of(workspace)
        all_cuts[0].supervisions[0].text += " É"
        all_cuts[1].supervisions[0].text *= 4
        write_cuts(all_cuts, cuts)
    manifests = [f"data.train=[{cuts}]", f"data.dev=[{workspace.cuts}]"]
    words = ["train", "--exp", tmp_path / "exp", "--init-from", workspace.model, *TINY, *manifests]
    outcome = run_apart(words)
    if code:
        outcome.refused("data.train", "has no token for", "'é'", "--new-tokenizer")
        assert not (tmp_path / "exp").exists()
    else:
        assert outcome.code == 0, outcome
        assert "asr: warning: data.train: the tokenizer has no token for 0." in outcome.error
