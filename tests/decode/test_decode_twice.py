"""A set that is called as another one does not take its place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from made_models import write_run

from asr.cli import main
from asr.data.store.manifest import read_cuts, write_cuts


@pytest.fixture(scope="module")
def exp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("exp"), "sigmoid", "alibi", seed=1)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_two_sets_called_test(
    exp: Path, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, same, other = (tmp_path / name / "test.cuts.jsonl.gz" for name in ("a", "copy", "b"))
    cuts = list(read_cuts(tiny_corpus / "test.cuts.jsonl.gz"))
    write_cuts(cuts[:2], one)
    write_cuts(cuts[:2], same)
    write_cuts(cuts[2:4], other)

    def decode(path: Path, *more: str) -> int:
        return main(["decode", "--model", str(exp), "--cuts", str(path), "--threads", "1", *more])

    assert decode(one) == decode(same) == 0
    out = exp / "decode" / "test"
    before = files(out)
    capsys.readouterr()
    assert decode(other) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        f"asr: error: {out}: holds another set of that name, decoded from {same}"
    )
    assert "--out" in error
    assert "--overwrite" in error
    assert files(out) == before
    assert decode(other, "--out", str(tmp_path / "out")) == 0
    assert files(out) == before
    # another set at the first one's path
    shutil.copy(other, one)
    assert decode(one) == 2
    assert decode(one, "--overwrite") == 0
    lines = (out / "hypotheses.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [cut.id for cut in cuts[2:4]]
    # what an older version decoded says where from, no more
    summary = json.loads((out / "decode.json").read_text())
    del summary["fingerprint"]
    (out / "decode.json").write_text(json.dumps(summary))
    assert decode(same) == 2
    assert decode(one) == 0


def test_another_search_that_takes_the_place_of_one_is_told(
    exp: Path, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cuts, out = str(tiny_corpus / "test.cuts.jsonl.gz"), tmp_path / "out"

    def warned(*words: str) -> bool:
        common = ["--model", str(exp), "--cuts", cuts, "--out", str(out), "--threads", "1"]
        assert main(["decode", *common, *words]) == 0
        error = capsys.readouterr().err
        assert error.count("replaces what") <= 1
        return f"{out}: replaces what search " in error

    assert not warned()
    assert not warned()  # the same again
    assert warned("--search", "beam", "--beam", "2")
    assert not warned("--search", "beam", "--beam", "2")
    assert warned("--search", "beam", "--beam", "3")
    assert not warned("--overwrite")
