"""A run that an older version began goes on as if nothing had happened."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from older_folders import unpack_format_1

from asr import config
from asr.compare.experiment import read_experiment
from asr.config import Config
from asr.errors import InputError
from asr.formats import FORMAT, is_old
from asr.model.folder import load_model
from asr.model.recogniser import weight_shapes
from asr.train.checkpoint import average_weights, list_checkpoints
from asr.train.initialise import read_start
from asr.train.run import Options, train


def settings(exp: Path, corpus: Path, *more: str) -> Config:
    """Those of the run, with its data where it lies here."""
    data = [f"data.{part}=[{corpus}/{part}.cuts.jsonl.gz]" for part in ("train", "dev")]
    return config.load([exp / "config.yaml"], [*data, *more], follow_base=False)


def losses(exp: Path) -> dict[tuple[str, int], float]:
    lines = [json.loads(line) for line in (exp / "log.jsonl").read_text().splitlines()]
    return {(line["kind"], line["step"]): line["loss"] for line in lines if "loss" in line}


@pytest.mark.parametrize("kind", ["plain", "sharded"])
def test_a_run_of_format_1_goes_on_with_its_losses(
    kind: str, tiny_corpus: Path, tmp_path: Path
) -> None:
    exp = unpack_format_1(tmp_path) / kind
    (begun,) = list_checkpoints(exp / "checkpoints").values()
    assert begun.is_dir() == (kind == "sharded")
    before = losses(exp)
    loaded = settings(exp, tiny_corpus)
    assert loaded.ctc.consistency == 0.2
    # the data has moved, and a run as old as this has not written down what it held
    text = (exp / "config.yaml").read_text().replace("- corpus/", f"- {tiny_corpus}/")
    (exp / "config.yaml").write_text(text)
    train(loaded, exp, Options(resume=True))

    record = json.loads((exp / "run.json").read_text())
    assert [start["after_step"] for start in record["resumed"]] == [11]
    assert losses(exp) == pytest.approx(before, rel=1e-5)
    assert len([step for of, step in before if of == "train" and step > 11]) == 11
    assert yaml.safe_load((exp / "config.yaml").read_text())["format"] == FORMAT

    # its checkpoints are of both formats now, its model is of the new one
    both = list_checkpoints(exp / "checkpoints")
    vocab_size = load_model(exp).tokenizer.vocab_size
    for own in (False, True):
        mean = average_weights([*both.values()], own)
        assert mean.keys() == weight_shapes(loaded, vocab_size).keys()
    own = torch.load(both[22], weights_only=True)["model"]
    assert not any(map(is_old, own))
    assert read_experiment(exp).settings["ctc.consistency"] == 0.2


def test_a_training_starts_from_weights_of_format_1(tiny_corpus: Path, tmp_path: Path) -> None:
    made = unpack_format_1(tmp_path) / "made"
    start = read_start(made, config.load([made / "model" / "config.yaml"], follow_base=False))
    assert start.weights.keys() == load_model(made).net.state_dict().keys()


def test_another_value_is_named_by_its_name_today(tiny_corpus: Path, tmp_path: Path) -> None:
    exp = unpack_format_1(tmp_path) / "plain"
    with pytest.raises(InputError, match=r"ctc\.consistency was 0\.2, now 0\.3"):
        train(settings(exp, tiny_corpus, "ctc.consistency=0.3"), exp, Options(resume=True))
