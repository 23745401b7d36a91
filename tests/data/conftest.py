"""Shared by the tests of data."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_corpora import Refusal

from asr.cli import main


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Refusal:
    def call(*words: object) -> str:
        out = tmp_path / "refused"
        assert main(["prepare", *map(str, words), "--out", str(out)]) == 2
        captured = capsys.readouterr()
        assert captured.err.count("\n") == 1
        assert not out.exists()
        return captured.err

    return call
