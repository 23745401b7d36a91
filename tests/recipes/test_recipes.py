"""Recipes as a user runs them: end to end at smoke size, markers, and the control that must fail."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import yaml
from recipe_runs import ROOT, recipe

from asr import config
from asr.cli import main
from asr.data.store.manifest import read_cuts, write_cuts
from asr.model.recogniser import weight_shapes

DATA = os.environ.get("SIGMOID_ASR_DATA")


def wer(exp: Path, name: str = "test") -> float:
    return json.loads((exp / "decode" / name / "score.json").read_text())["wer"]


def test_a_changed_file_is_noticed_whatever_its_path(tmp_path: Path) -> None:
    conf, other = tmp_path / "my conf" / "a  b*.yaml", tmp_path / "other.yaml"
    conf.parent.mkdir()
    script = tmp_path / "run.sh"
    script.write_text(
        f"set -euo pipefail\ncd {ROOT}/recipes/mini\noptions='config other' paths='config other'\n"
        "config='' other=''\nsource ../../tools/stages.sh\n"
        "stage one '' \"$config\"$'\\n'\"$other\" true\nstages_finish\n"
    )

    def run() -> str:
        words = ["--work", tmp_path, "--config", conf, "--other", other]
        done = subprocess.run(["bash", script, *words], capture_output=True, text=True, check=True)
        return done.stdout

    for path in (conf, other, conf, other):
        path.write_text(f"{path.name}: {len(path.read_text()) if path.exists() else 0}\n")
        assert "one: done in" in run()
        assert "done before, unchanged" in run()


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    work = tmp_path_factory.mktemp("mini")
    conf = work / "smoke.yaml"
    shutil.copy(ROOT / "recipes/mini/conf/smoke.yaml", conf)
    return work, conf


def mini(smoke: tuple[Path, Path], *words: object, loads_anew: bool = False) -> str:
    work, conf = smoke
    every = ("--work", work, "--config", conf, "--hours", 0.02, "--dev", 4, "--test", 5, *words)
    return recipe("mini/run.sh", *every, loads_anew=loads_anew).stdout


def test_mini_runs_every_stage_and_prints_the_table(smoke: tuple[Path, Path]) -> None:
    assert "decode-sigmoid-alibi" in mini(smoke, "--dry-run")
    assert not (smoke[0] / "data").exists()
    mini(smoke, "--systems", "sigmoid+alibi", loads_anew=True)
    printed = mini(smoke)
    assert "softmax" in printed
    assert "sigmoid" in printed
    assert "WER" in printed
    for name in ("compare.md", "compare.json", "curves.png"):
        assert (smoke[0] / "exp" / name).stat().st_size > 0
    for system in ("softmax-alibi", "sigmoid-alibi"):
        assert wer(smoke[0] / "exp" / system) >= 0


def check_rescoring(exp: Path, name: str) -> None:
    """The set was ranked anew, with the weights that were tuned for it, and is in the table."""
    tuned = yaml.safe_load((exp / "model/search.yaml").read_text())
    settings = json.loads((exp / "decode" / name / "decode.json").read_text())
    assert settings["rescoring"] == tuned["second"]
    assert settings["neural_sha256"] == tuned["neural_sha256"]
    assert wer(exp, name) >= 0
    assert name in (exp.parent / "compare.md").read_text()


@pytest.mark.parametrize(
    ("script", "words", "num_decoded"),
    [("mini/run.sh", (), 2), ("librispeech/run.sh", ("--test", "test"), 1)],
)
def test_rescoring_is_an_option(
    script: str, words: tuple[str, ...], num_decoded: int, tmp_path: Path
) -> None:
    common = (*words, "--work", tmp_path, "--dry-run")
    assert "--neural" not in recipe(script, *common, "--neural-epochs", 0).stdout
    lines = recipe(script, *common, "--neural-epochs", 3).stdout.splitlines()
    assert sum(" lm train-neural " in line for line in lines) == num_decoded
    assert sum(" tune " in line and "--neural " in line for line in lines) == num_decoded
    decoded = [line for line in lines if line.startswith(" asr decode") and "--neural" in line]
    assert len(decoded) == num_decoded
    assert all("test-neural" in line and "--lm" in line for line in decoded)


def test_ids_are_no_words_of_a_language_model(tmp_path: Path) -> None:
    """Those of the text that was given; transcripts in manifests have none."""

    def num_with_ids(*words: object) -> int:
        common = ("--work", tmp_path, "--dry-run", "--lm-ids", "yes")
        lines = recipe("librispeech/run.sh", *common, *words).stdout.splitlines()
        return sum(" asr lm train" in line and " --ids " in line for line in lines)

    assert num_with_ids("--lm-text", tmp_path / "text.txt") == 2
    assert num_with_ids() == 0


@pytest.mark.slow
def test_mini_ranks_with_a_neural_language_model(tmp_path: Path) -> None:
    conf = ROOT / "recipes/mini/conf/smoke.yaml"
    size = ("--hours", 0.02, "--dev", 4, "--test", 5, "--systems", "sigmoid+alibi")
    recipe("mini/run.sh", "--work", tmp_path, "--config", conf, *size, "--neural-epochs", 1)
    check_rescoring(tmp_path / "exp/sigmoid-alibi", "test-neural")


def test_a_rerun_does_nothing_and_a_changed_configuration_is_noticed(
    smoke: tuple[Path, Path],
) -> None:
    mini(smoke)
    again = mini(smoke)
    assert again.count("done before, unchanged") == len(mini(smoke, "--list").splitlines())
    assert "done in" not in again
    smoke[1].write_text(smoke[1].read_text().replace("epochs: 2", "epochs: 1"))
    states = dict(line.split()[1:3] for line in mini(smoke, "--list").splitlines())
    assert states.pop("data") == states.pop("lm") == "done"
    assert set(states.values()) == {"changed"}


def test_grid_lists_every_type_and_seed(tmp_path: Path) -> None:
    """Under equal budgets: the commands of two trainings differ in words, seed and folder alone."""
    lines = recipe("mini/grid.sh", "--work", tmp_path, "--dry-run").stdout.splitlines()
    trainings = [line for line in lines if line.startswith(" asr train")]
    assert len(trainings) == len(set(trainings)) == 2 * 6 * 3
    kinds = {
        re.sub(r"(weighting|position|seed)=\w+|grid/[\w-]+", "", training) for training in trainings
    }
    assert len(kinds) == 1
    assert sum(line.startswith(" asr decode") for line in lines) == 36 * (1 + 4)
    assert sum(" --to-s " in line for line in lines) == 4
    (report,) = (line for line in lines if line.startswith(" asr compare"))
    for words in ("RESULTS.md", "--page", "mini-grid.md", "--html", "--length-page", "length.md"):
        assert words in report
    printed = recipe("mini/grid.sh", "--work", tmp_path, "--lengths", "", "--dry-run").stdout
    assert " asr join" not in printed
    assert "--length-page" not in printed
    words = ("--corpus", tmp_path, "--work", tmp_path, "--seeds", "1 2 3 4 5", "--dry-run")
    lines = recipe("librispeech/grid.sh", *words).stdout.splitlines()
    assert sum(line.startswith(" asr train") for line in lines) == 2 * 6 * 5
    assert sum(line.startswith(" asr decode") for line in lines) == (2 + 4) * 2 * 6 * 5
    assert sum(" --to-s " in line and "test-clean.cuts" in line for line in lines) == 4


def test_options_differ_from_the_baseline_in_what_they_are_named_for(tmp_path: Path) -> None:
    words = ("--work", tmp_path, "--seeds", "1 2", "--dry-run", "--", "train.epochs=2")
    lines = recipe("mini/options.sh", *words).stdout.splitlines()
    trainings = [line.split() for line in lines if line.startswith(" asr train")]
    common = set.intersection(*map(set, trainings))
    assert "train.epochs=2" in common
    own = [sorted(word for word in one if word not in common) for one in trainings]
    assert len(own) == 2 * 4
    assert sum("ctc.consistency=0.2" in words for words in own) == 2
    keys = {word.split("=")[0] for words in own for word in words if not word.startswith("/")}
    assert keys == {
        *("train.seed", "train.ema_decay", "train.validate_steps", "train.average_checkpoints"),
        *("augment.num_freq_masks", "augment.num_time_masks", "ctc.consistency"),
        *("augment.noises", "augment.rooms"),
    }
    assert sum(line.startswith(" asr average") for line in lines) == 2 * 3
    assert sum(line.startswith(" asr decode") for line in lines) == 2 * 2 * 6


@pytest.mark.slow
def test_options_end_in_a_table(tmp_path: Path) -> None:
    """Of options that hear nothing yet; the mean of the baseline's runs is their scores' mean."""
    printed = recipe(
        *("mini/options.sh", "--work", tmp_path, "--hours", 0.05, "--dev", 4, "--test", 5),
        *("--config", ROOT / "recipes/mini/conf/smoke.yaml", "--jobs", 1, "--seeds", "1 2"),
        *("--", "train.validate_steps=1"),
    ).stdout
    rows = [line.split(" | ") for line in printed.splitlines() if line.startswith("| baseline")]
    for row, name in zip(rows, ("test", "test-noisy"), strict=True):
        rates = [wer(tmp_path / f"runs/baseline-s{seed}", name) for seed in (1, 2)]
        assert float(row[2].split()[0]) == pytest.approx(100 * np.mean(rates), abs=0.006)
    sets = [(tmp_path / path).read_text() for path in ("options.md",)]
    assert sets[0].count("| cr-ctc | 2 |") == sets[0].count("| surroundings | 2 |") == 2


@pytest.mark.slow
def test_grid_ends_in_a_report_and_loses_nothing(tmp_path: Path) -> None:
    words = (
        *("mini/grid.sh", "--work", tmp_path, "--hours", 0.02, "--dev", 4, "--test", 5),
        *("--config", ROOT / "recipes/mini/conf/smoke.yaml", "--jobs", 1),
        *("--positions", "rope", "--seeds", "1 2", "--lengths", "5"),
    )
    printed = recipe(*words).stdout
    assert "sigmoid - softmax" in printed
    content = json.loads((tmp_path / "grid/compare.json").read_text())
    assert {one["length_s"] for one in content["lengths"]} == {5.0}
    assert [len(one["names"]) for one in content["types"]] == [2, 2]
    report = (tmp_path / "grid/report.html").read_text()
    assert "Which weighting?" in report
    assert "Longer audio" in report
    for name in ("mini-grid", "length"):
        page = (tmp_path / f"grid/{name}.md").read_text()
        assert "`recipes/mini/grid.sh --hours '0.02' --dev '4' --test '5' --config '" in page
        assert " --positions 'rope' --seeds '1 2' --lengths '5'`" in page
        assert "--jobs" not in page
        assert f"]({name}.png)" in page
        assert str(tmp_path) not in page
        assert (tmp_path / f"grid/{name}.png").stat().st_size > 10_000
    results = (tmp_path / "RESULTS.md").read_text()
    assert results.count("`asr train --config") == 4
    shutil.rmtree(tmp_path / "grid/sigmoid-rope-s2/model")
    (tmp_path / ".done/train-sigmoid-rope-s2").unlink()
    again = recipe(*words).stdout
    assert again.count("done before, unchanged") == 14
    assert (tmp_path / "RESULTS.md").read_text() == results


def test_wrong_options_are_refused(smoke: tuple[Path, Path]) -> None:
    for words, message in (
        (["--hour", "1"], "unknown option '--hour'"),
        (["--hours"], "--hours needs a value"),
        (["--stage", "nothing", "--dry-run"], "no stage 'nothing'"),
        (["softmax"], "unexpected 'softmax'"),
    ):
        run = recipe("mini/run.sh", "--work", smoke[0], *words, check=False)
        assert run.returncode == 2
        assert message in run.stderr


@pytest.mark.parametrize(
    ("script", "words", "told"),
    [
        ("mini/run.sh", ("--systems", "softmax+alibi relu+foo"), "attention.position = 'foo'"),
        ("mini/grid.sh", ("--weightings", "soft"), "attention.weighting = 'soft'"),
        ("mini/grid.sh", ("--", "train.epoch=1"), "train.epoch"),
        ("mini/counts.sh", ("--positions", "foo"), "attention.position = 'foo'"),
        ("librispeech/run.sh", ("--systems", "bar+alibi"), "attention.weighting = 'bar'"),
        ("librispeech/grid.sh", ("--positions", "foo"), "attention.position = 'foo'"),
    ],
)
def test_a_model_that_cannot_be_is_refused_before_anything_runs(
    script: str, words: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    run = recipe(script, "--work", tmp_path / "new", *words, check=False)
    assert run.returncode == 2
    (line,) = run.stderr.splitlines()
    assert told in line
    assert run.stdout == ""
    assert not (tmp_path / "new").exists()


def test_control_wrong_labels_are_learnt_by_nobody(tiny_corpus: Path, tmp_path: Path) -> None:
    """The same training on true and on exchanged labels, decoded on its own utterances: what the
    true labels teach within a minute, the exchanged ones must not."""
    conf = ROOT / "recipes/mini/conf/control.yaml"
    cuts = tmp_path / "few.cuts.jsonl.gz"
    write_cuts(list(read_cuts(tiny_corpus / "train.cuts.jsonl.gz"))[:14], cuts)
    rates = {}
    for shuffled in ("false", "true"):
        exp = tmp_path / shuffled
        data = (f"data.train=[{cuts}]", f"data.dev=[{cuts}]", f"data.shuffle_labels={shuffled}")
        steps = ("train.global_batch_s=6", "train.epochs=45", "train.validate_epochs=45")
        for words in (
            ("train", "--config", conf, "--exp", exp, *data, *steps),
            ("decode", "--model", exp, "--cuts", cuts, "--threads", 1),
        ):
            assert main([str(word) for word in words]) == 0
        rates[shuffled] = wer(exp, "few")
    assert rates["false"] < 0.2
    assert rates["true"] > 0.9


@pytest.mark.slow
def test_control_the_mini_recipe_fails_on_shuffled_labels(tmp_path: Path) -> None:
    size = ("--systems", "sigmoid+alibi", "--hours", 2)
    recipe("mini/run.sh", "--work", tmp_path, *size, "--", "data.shuffle_labels=true")
    assert wer(tmp_path / "exp" / "sigmoid-alibi") > 0.9


needs_data = pytest.mark.skipif(
    DATA is None, reason="SIGMOID_ASR_DATA is unset: no folder with librispeech-mini"
)


SPEAKERS = {"train-clean-6": 242, "dev-clean-mini": 5, "test-clean-mini": 4}
FEW_SPEAKERS = {"train-clean-6": 5, "dev-clean-mini": 1, "test-clean-mini": 1}


def linked(folder: Path, num_speakers: dict[str, int]) -> dict[str, list[str]]:
    """The first speakers of each part; returns the lines of their transcripts."""
    lines = {}
    for part, count in num_speakers.items():
        there = Path(f"{DATA}/librispeech-mini/LibriSpeech/{part}")
        for speaker in sorted(path for path in there.iterdir() if path.is_dir())[:count]:
            shutil.copytree(speaker, folder / part / speaker.name, copy_function=os.symlink)
        texts = (path.read_text() for path in (folder / part).rglob("*.trans.txt"))
        lines[part] = [line for text in texts for line in text.splitlines()]
    return lines


@pytest.mark.parametrize(
    ("name", "position", "vocab_size"),
    [
        ("100h", "alibi", 500),
        ("960h", "alibi", 1024),
        ("960h", "relative", 1024),
        ("sigmoid-paper", "alibi", 30),
        ("sigmoid-paper", "rope", 30),
        ("sigmoid-paper", "cape", 30),
    ],
)
def test_presets_have_the_size_that_the_readme_states(
    name: str, position: str, vocab_size: int
) -> None:
    folder = ROOT / "recipes" / "librispeech"
    loaded = config.load([folder / "conf" / f"{name}.yaml"], [f"attention.position={position}"])
    shapes = weight_shapes(loaded, vocab_size)
    size = sum(math.prod(shape) for key, shape in shapes.items() if not key.startswith("norm."))
    (row,) = re.findall(rf"^\| `conf/{name}\.yaml` .*$", (folder / "README.md").read_text(), re.M)
    stated = re.findall(r"(\d+)M (?:parameters|with relative)", row)
    assert f"{size / 1e6:.0f}" == stated[position == "relative"]


@needs_data
@pytest.mark.parametrize(
    "num_speakers",
    [
        pytest.param(FEW_SPEAKERS, id="few"),
        pytest.param(SPEAKERS, id="all", marks=pytest.mark.slow),
    ],
)
def test_librispeech_runs_every_stage_on_real_speech(
    num_speakers: dict[str, int], tmp_path: Path
) -> None:
    lines = linked(tmp_path / "corpus", num_speakers)
    printed = recipe(
        "librispeech/run.sh",
        *("--corpus", tmp_path / "corpus", "--work", tmp_path),
        *("--train", "train-clean-6", "--dev", "dev-clean-mini", "--test", "test-clean-mini"),
        *("--systems", "sigmoid+relative", "--beam", 2, "--neural-epochs", 1),
        *("--config", ROOT / "recipes/librispeech/conf/small.yaml"),
        *("--", "train.num_threads=1", "data.max_utterances=30", "train.max_validate_utterances=5"),
    ).stdout
    train = lines["train-clean-6"]
    assert f"train-clean-6: {len(train)} utterances, " in printed
    assert f" hours, {num_speakers['train-clean-6']} speakers, 0 left out" in printed
    score = json.loads(
        (tmp_path / "exp/small-sigmoid-relative/decode/test-clean-mini/score.json").read_text()
    )
    num_words = sum(len(line.split()) - 1 for line in lines["test-clean-mini"])
    assert score["reference_words"] == num_words
    check_rescoring(tmp_path / "exp/small-sigmoid-relative", "test-clean-mini-neural")
    if num_speakers is SPEAKERS:
        assert (len(train), num_words) == (1790, 6048)
    assert "lowercase-apostrophe" in printed


@needs_data
@pytest.mark.slow
def test_overfit_learns_sixteen_real_utterances_by_heart(tmp_path: Path) -> None:
    """And transcribes one of them from FLAC, from 44.1 kHz stereo WAV, from MP3 and from Opus."""
    recipe(
        "librispeech/overfit.sh",
        *("--corpus", f"{DATA}/librispeech-mini", "--part", "train-clean-6", "--work", tmp_path),
    )
    for system in ("sigmoid-alibi", "softmax-relative"):
        exp = tmp_path / f"exp/overfit-{system}"
        assert wer(exp, "overfit") <= 0.05
        lines = (exp / "decode/overfit/hypotheses.jsonl").read_text().splitlines()
        known = next(u for u in map(json.loads, lines) if u["hypothesis"] == u["reference"])
        files = copies_of(known["id"], tmp_path / "audio")
        command = [Path(sys.executable).with_name("asr"), "transcribe", "--model", exp, *files]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        texts = [line.split("\t")[1] for line in printed.splitlines()]
        assert texts == [known["reference"]] * len(files)


def copies_of(utterance: str, folder: Path) -> list[Path]:
    """The same utterance as FLAC, 44.1 kHz stereo WAV, MP3 and Opus."""
    folder.mkdir(exist_ok=True)
    speaker, chapter, _ = utterance.split("-")
    source = Path(f"{DATA}/librispeech-mini/LibriSpeech/train-clean-6/{speaker}/{chapter}")
    audio, rate = soundfile.read(next(source.glob(f"{utterance}.*")), dtype="float32")
    wide = soxr.resample(audio, rate, 44100)
    names = [folder / f"{utterance}.{kind}" for kind in ("flac", "wav", "mp3", "opus")]
    soundfile.write(names[0], audio, rate)
    soundfile.write(names[1], np.stack([wide, wide], axis=1), 44100)
    soundfile.write(names[2], wide, 44100, format="MP3")
    soundfile.write(names[3], audio, rate, format="OGG", subtype="OPUS")
    return names
