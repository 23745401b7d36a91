"""Files of results: whole or absent, and errors in one line."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from asr import files
from asr.errors import InputError


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    files.write_atomically(path, "old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(InputError, match=r"a\.json: cannot write: No space left on device"):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_folders_are_made_and_text_is_utf8(tmp_path: Path) -> None:
    files.write_atomically(tmp_path / "new" / "folder" / "a.txt", "é")
    assert (tmp_path / "new" / "folder" / "a.txt").read_bytes() == b"\xc3\xa9"


def test_a_file_in_the_way_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot make this folder"):
        files.write_atomically(tmp_path / "file" / "a.txt", "text")
