"""A model folder that carries a language model: who transcribes with it says nothing and gets it."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import pytest

import asr
from asr.cli import main
from asr.errors import InputError, InputWarning
from asr.files import file_hash
from asr.model.folder import find_model
from asr.search.options import GREEDY, SearchOptions, carried_search
from asr.search.weights import Tuned, Weights, write_tuned

# "a" whatever the sound says, if it weighs enough
ARPA = """\\data\\
ngram 1=4

\\1-grams:
-9\t</s>
-99\t<s>
-9\t<unk>
-0.001\ta

\\end\\
"""


@pytest.fixture
def carrying(grid: list[Path], tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(find_model(grid[0]), folder)
    (folder / "lm.arpa.gz").write_bytes(gzip.compress(ARPA.encode()))
    return folder


def tuned(beam: int, sha256: str) -> Tuned:
    return Tuned("lm.arpa.gz", sha256, Weights(3.0, 0.5, 5.0), beam, "dev", 0.5)


def test_beam_search_with_what_is_carried(carrying: Path) -> None:
    lm = carrying / "lm.arpa.gz"
    assert carried_search(carrying) == SearchOptions("beam", lm=lm)
    write_tuned(tuned(3, file_hash(lm)), carrying)
    assert carried_search(carrying) == SearchOptions("beam", 3, lm=lm)
    write_tuned(tuned(3, "0" * 64), carrying)
    with pytest.warns(InputWarning, match=r"tuned for another lm\.arpa\.gz: run asr tune again"):
        assert carried_search(carrying) == SearchOptions("beam", lm=lm)
    lm.unlink()
    assert carried_search(carrying) == GREEDY


def test_damaged_weights_are_one_line(carrying: Path) -> None:
    (carrying / "search.yaml").write_text("first: [")
    with pytest.raises(InputError, match=r"search\.yaml"):
        asr.load(carrying)


def test_transcribing_uses_it_and_decoding_does_not(
    carrying: Path,
    tiny_corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cuts = str(tiny_corpus / "test.cuts.jsonl.gz")

    def transcribed(*more: str) -> str:
        assert main(["transcribe", cuts, "--model", str(carrying), "--threads", "1", *more]) == 0
        return capsys.readouterr().out

    lm = str(carrying / "lm.arpa.gz")
    assert transcribed() == transcribed("--search", "beam", "--lm", lm)
    assert transcribed("--search", "greedy") != transcribed()
    # what is said adjusts it
    assert transcribed("--search", "beam") == transcribed()
    by_hand = ["--search", "beam", "--lm", lm]
    for more in (["--beam", "2"], ["--lm-weight", "0"], ["--hotwords", "the"]):
        assert transcribed(*more) == transcribed(*by_hand, *more)
    assert transcribed("--lm-weight", "0", "--word-bonus", "0") != transcribed()
    out = tmp_path / "decoded"
    words = ["decode", "--model", str(carrying), "--cuts", cuts, "--out", str(out)]
    assert main([*words, "--threads", "1"]) == 0
    assert '"search": "greedy"' in (out / "decode.json").read_text()
