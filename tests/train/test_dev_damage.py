"""Dev utterances that cannot be read cost themselves, and no validation costs a step."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lhotse.cut import Cut

from asr import config
from asr.data.store.manifest import read_cuts, write_cuts
from asr.errors import InputError
from asr.train.checkpoint import list_checkpoints, read_file
from asr.train.run import Options, train

SETTINGS = [
    "encoder.num_layers=1",
    "encoder.dim=32",
    "encoder.ff_dim=32",
    "encoder.conv_kernel=5",
    "encoder.subsampling_channels=4",
    "tokenizer.kind=char",
    "train.epochs=2",
    "train.global_batch_s=30",
    "train.max_batch_s=30",
    "train.num_threads=1",
    "train.tensorboard=false",
]


def records(exp: Path, kind: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (exp / "log.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == kind]


@pytest.fixture
def dev(tiny_corpus: Path, tmp_path: Path) -> list[Cut]:
    """A dev part whose files are the test's own."""
    cuts = list(read_cuts(tiny_corpus / "dev.cuts.jsonl.gz"))
    for cut in cuts:
        source = cut.recording.sources[0]
        source.source = shutil.copy(source.source, tmp_path)
    write_cuts(cuts, tmp_path / "dev.cuts.jsonl.gz")
    return cuts


def run(corpus: Path, root: Path, *more: str, resume: bool = False) -> None:
    manifests = [
        f"data.train=[{corpus}/train.cuts.jsonl.gz]",
        f"data.dev=[{root}/dev.cuts.jsonl.gz]",
    ]
    loaded = config.load([], [*SETTINGS, *manifests, *more])
    train(loaded, root / "exp", Options(resume=resume))


def path_of(cut: Cut) -> Path:
    return Path(cut.recording.sources[0].source)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize("damage", [Path.unlink, truncate])
@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_dev_utterance_costs_itself(
    damage: Callable[[Path], None],
    workers: int,
    dev: list[Cut],
    tiny_corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(path_of(dev[1]))
    run(tiny_corpus, tmp_path, f"data.num_workers={workers}")
    exp = tmp_path / "exp"
    assert (exp / "model" / "model.safetensors").is_file()
    valid = records(exp, "valid")
    assert [line["num_left_out"] for line in valid] == [1, 1]
    named = [record["utterances"][0]["id"] for record in records(exp, "left out")]
    assert named == [dev[1].id] * 2
    assert "of 3 of 4 utterances" in capsys.readouterr().out
    # the same as without that utterance
    write_cuts([cut for cut in dev if cut.id != dev[1].id], tmp_path / "dev.cuts.jsonl.gz")
    (tmp_path / "exp").rename(tmp_path / "damaged")
    run(tiny_corpus, tmp_path, f"data.num_workers={workers}")
    for whole, damaged in zip(records(exp, "valid"), valid, strict=True):
        assert (whole["wer"], whole["loss"]) == pytest.approx((damaged["wer"], damaged["loss"]))


def test_a_validation_that_fails_costs_no_step(
    dev: list[Cut], tiny_corpus: Path, tmp_path: Path
) -> None:
    """The checkpoint is there, and the run goes on when the files are back."""
    for cut in dev[:2]:
        path_of(cut).rename(path_of(cut).with_suffix(".away"))
    exp = tmp_path / "exp"
    for resume in (False, True):
        with pytest.raises(InputError, match=r"2 of 4 utterances .* data\.max_unreadable"):
            run(tiny_corpus, tmp_path, "train.validate_steps=2", resume=resume)
        assert list(list_checkpoints(exp / "checkpoints")) == [2]
    for cut in dev[:2]:
        path_of(cut).with_suffix(".away").rename(path_of(cut))
    run(tiny_corpus, tmp_path, "train.validate_steps=2", resume=True)
    steps = [line["step"] for line in records(exp, "valid")]
    assert steps == sorted(set(steps))
    assert steps[0] == 2
    newest = list_checkpoints(exp / "checkpoints")
    assert read_file(newest[max(newest)])["other"]["progress"]["wers"].keys() >= {2}


def test_a_dev_part_of_which_nothing_can_be_read(
    dev: list[Cut], tiny_corpus: Path, tmp_path: Path
) -> None:
    """No WER of 0 that would be the best."""
    for cut in dev:
        path_of(cut).unlink()
    with pytest.raises(InputError, match=r"data\.dev: not one utterance could be read"):
        run(tiny_corpus, tmp_path, "data.max_unreadable=1.0")
    assert list_checkpoints(tmp_path / "exp" / "checkpoints")
