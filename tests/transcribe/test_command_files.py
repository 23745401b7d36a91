"""`asr transcribe`: which inputs there are, and which file each result goes to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.data.store.manifest import read_cuts, write_cuts

from .conftest import RATE, Run, write


def test_every_format_at_once_beside_the_input_or_in_a_folder(
    run: Run, tmp_path: Path, good: Path
) -> None:
    every = "txt,json,srt,vtt,tsv,ctm,textgrid"
    suffixes = [".txt", ".json", ".srt", ".vtt", ".tsv", ".ctm", ".TextGrid"]
    assert run(good, "--format", every, "--beside")[:2] == (0, "")
    assert all((tmp_path / f"good{suffix}").stat().st_size for suffix in suffixes)
    assert run(good, "--format", every, "--out", tmp_path / "new" / "out")[:2] == (0, "")
    for suffix in suffixes:
        beside, inside = tmp_path / f"good{suffix}", tmp_path / "new/out" / f"good{suffix}"
        assert beside.read_bytes() == inside.read_bytes()
    code, out, _ = run(good)
    assert code == 0
    assert out == (tmp_path / "good.txt").read_text()
    assert run(good, "--format", "srt")[1] == (tmp_path / "good.srt").read_text()


def test_folders_globs_and_names_that_collide(run: Run, tmp_path: Path, babble: np.ndarray) -> None:
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    for name in ("a.wav", "a.flac", "deep/b.ogg", "c [1].wav"):
        soundfile.write(folder / name, babble[:RATE], RATE)
    (folder / "notes.txt").write_text("not audio")
    code, _, err = run(folder, "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    found = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.txt")}
    assert found == {"a.wav.txt", "a.flac.txt", "c [1].txt", "deep/b.txt"}
    assert run(f"{folder}/a.*")[1].count("\n") == 2
    assert run(f"{folder}/**/*.ogg", folder / "deep")[1].count("\n") == 1, "each file once"
    assert run(folder / "c [1].wav")[0] == 0
    code, _, err = run(f"{folder}/*.mp3", tmp_path / "in" / "deep")
    assert code == 3
    assert "no file matches" in err
    (tmp_path / "bare").mkdir()
    code, _, err = run(tmp_path / "bare")
    assert code == 2
    assert "no audio or video file in this folder" in err
    code, _, err = run("")
    assert code == 2
    assert "an empty file name" in err


def test_what_a_pattern_finds_is_a_name_and_no_pattern(
    run: Run, tmp_path: Path, babble: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a[1].wav", "a1.wav", "b?.wav", "-"):
        soundfile.write(tmp_path / name, babble[:RATE], RATE, format="WAV")
    code, out, err = run("a*.wav")
    assert (code, err, out.count("\n")) == (0, "", 2)
    assert run("b*.wav")[0] == 0
    code, _, err = run("[-]")  # standard input is asked for by its own name only
    assert (code, err) == (0, "")
    (tmp_path / "c[1].wav").symlink_to(tmp_path / "gone")
    code, _, err = run("c*.wav")
    assert code in (2, 3)
    assert "c[1].wav" in err
    assert "Traceback" not in err


def made(folder: Path) -> set[str]:
    """The files that a folder shows."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)) for path in paths if path.name[0] != "."}


def test_every_input_has_files_of_its_own(run: Run, tmp_path: Path, babble: np.ndarray) -> None:
    names = ["x/talk.wav", "y/talk.wav", "y/deep/x/talk.wav", "y/only.wav", "y/a.wav", "y/a.flac"]
    for number, name in enumerate([*names, "y/a.wav.flac"], start=1):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / name, babble[: number * 1600], RATE)
    here, there, files = tmp_path / "x", tmp_path / "y", [tmp_path / name for name in names]
    out = tmp_path / "out"
    assert run(*files[:2], "--out", out)[0] == 0
    assert made(out) == {"x/talk.txt", "y/talk.txt"}
    assert run(here, there, "--out", out, "--overwrite", "--format", "json")[0] == 0
    of_folders = {"x/talk.json", "y/talk.json", "deep/x/talk.json", "only.json"}
    alike = {"a.wav.json", "a.flac.json", "a.wav.flac.json"}
    assert made(out) == {"x/talk.txt", "y/talk.txt"} | of_folders | alike
    for name, duration_s in (("x/talk", 0.1), ("y/talk", 0.2), ("deep/x/talk", 0.3)):
        assert json.loads((out / f"{name}.json").read_text())["duration_s"] == duration_s
    assert run(*files[:3], "--out", tmp_path / "other")[0] == 0
    assert made(tmp_path / "other") == {
        f"{tmp_path.name}/x/talk.txt",
        "y/talk.txt",
        "deep/x/talk.txt",
    }


def test_cuts_of_two_manifests_with_equal_ids(run: Run, tmp_path: Path, tiny_corpus: Path) -> None:
    cuts = list(read_cuts(tiny_corpus / "test.cuts.jsonl.gz"))
    write_cuts(cuts[:2], tmp_path / "a.cuts.jsonl.gz")
    write_cuts([cuts[2].with_id(cuts[0].id)], tmp_path / "b.cuts.jsonl.gz")
    manifests = [tmp_path / "a.cuts.jsonl.gz", tmp_path / "b.cuts.jsonl.gz"]
    assert run(*manifests, manifests[0])[1].count("\n") == 3
    assert run(*manifests, "--out", tmp_path / "out")[0] == 0
    name = f"{cuts[0].id}.txt"
    both = {f"a.cuts.jsonl.gz/{name}", f"b.cuts.jsonl.gz/{name}"}
    assert made(tmp_path / "out") == both | {f"{cuts[1].id}.txt"}
    write_cuts([cuts[0].with_id("a/b"), cuts[1].with_id("a_b")], manifests[0])
    code, _, err = run(manifests[0], "--out", tmp_path / "out")
    assert code == 2
    assert "a/b, a_b: results would go to one file" in err


def test_what_cannot_be_opened_costs_the_others_nothing_beside_them(
    run: Run, tmp_path: Path, good: Path
) -> None:
    (tmp_path / "bare").mkdir()
    code, _, err = run(tmp_path / "*.mp3", tmp_path / "bare", good, "--beside")
    assert code == 3
    assert good.with_suffix(".txt").exists()
    assert ["no file matches" in err, "in this folder" in err, err.count("\n")] == [True, True, 2]


def test_no_file_is_replaced_without_being_told_to(
    run: Run, tmp_path: Path, good: Path, babble: np.ndarray
) -> None:
    by_hand = good.with_suffix(".txt")
    by_hand.write_text("what was really said")
    write(tmp_path / "other.wav", babble[:RATE])
    code, _, err = run(good, tmp_path / "other.wav", "--beside", "--format", "srt,txt")
    assert (code, err) == (0, "")
    assert made(tmp_path) == {
        f"{name}.{suffix}" for name in ("good", "other") for suffix in ("wav", "txt", "srt")
    }
    assert by_hand.read_text() == "what was really said"
    code, out, err = run(good, tmp_path / "other.wav", "--beside")
    assert (code, out) == (0, "")
    assert err == "asr: note: 2 of 2 inputs have their results already; --overwrite replaces them\n"
    assert by_hand.read_text() == "what was really said"
    assert run(good, "--beside", "--overwrite")[0] == 0
    assert by_hand.read_text() == run(good)[1]
    code, _, err = run(good, "--overwrite")
    assert code == 2
    assert "--overwrite goes with --beside or --out" in err


def test_results_are_not_taken_for_those_of_another_input(
    run: Run, babble: np.ndarray, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for folder, name in (("1", "talk.wav"), ("2", "talk.wav"), ("2", "talk.aiff"), ("2", "b.wav")):
        (tmp_path / folder).mkdir(exist_ok=True)
        write(tmp_path / folder / name, babble[: 2 * RATE], RATE)
    first, second, third, other = (
        tmp_path / name for name in ("1/talk.wav", "2/talk.wav", "2/talk.aiff", "2/b.wav")
    )
    assert run(first, "--out", out)[0] == 0
    before = (out / "talk.txt").read_bytes()
    for given in (second, third):
        code, _, err = run(given, "--out", out)
        assert code == 2
        assert f"{given}: {out}/talk has the results of another input, {first}; " in err
    code, _, err = run(second, other, "--out", out)
    assert code == 3
    assert (out / "b.txt").is_file()
    assert (out / "talk.txt").read_bytes() == before
    # another format of the same input is made, and --overwrite changes whose they are
    assert run(first, "--out", out, "--format", "txt,json")[0] == 0
    assert run(second, "--out", out, "--overwrite")[0] == 0
    assert run(first, "--out", out)[0] == 2
    assert run(second, "--out", out)[0] == 0


def test_links_in_a_folder_are_followed_once_and_dangling_ones_are_told(
    run: Run, babble: np.ndarray, tmp_path: Path
) -> None:
    folder, elsewhere = tmp_path / "talks", tmp_path / "elsewhere"
    for place in (folder / "real", elsewhere):
        place.mkdir(parents=True)
        write(place / f"{place.name}.wav", babble[: 2 * RATE])
    (folder / "speaker").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(folder)
    (folder / "gone.flac").symlink_to(tmp_path / "annex" / "gone.flac")
    code, _, err = run(folder, "--out", tmp_path / "out")
    assert code == 3
    assert f"{folder / 'gone.flac'}: no such file" in err
    assert made(tmp_path / "out") == {"real/real.txt", "speaker/elsewhere.txt"}
