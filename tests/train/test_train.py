"""Training as a user runs it: it learns, it goes on, and it says what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jiwer
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from asr import config
from asr.compare.experiment import read_experiment
from asr.decode.decode import decode_set
from asr.errors import InputError
from asr.model.folder import load_model
from asr.train import record
from asr.train.checkpoint import average_weights, choose_steps, list_checkpoints, write_file
from asr.train.optimizer import build_optimizer, learning_rate
from asr.train.run import Options, train

TINY = [
    "encoder.num_layers=1",
    "encoder.dim=32",
    "encoder.ff_dim=48",
    "encoder.conv_kernel=5",
    "encoder.subsampling_channels=4",
    "encoder.dropout=0.1",
    "tokenizer.kind=char",
    "train.global_batch_s=12",
    "train.max_batch_s=12",
    "train.num_threads=1",
    "train.tensorboard=false",
    "train.average_checkpoints=2",
    "train.log_steps=1",
]


def data(corpus: Path) -> list[str]:
    return [
        f"data.train=[{corpus}/train.cuts.jsonl.gz]",
        f"data.dev=[{corpus}/dev.cuts.jsonl.gz]",
    ]


def records(exp: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (exp / "log.jsonl").read_text().splitlines()]


def test_loss_falls_and_the_run_says_what_it_was(
    tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [*TINY, *data(tiny_corpus), "train.epochs=8", "optimizer.lr=0.005"]
    train(config.load([], settings), tmp_path / "exp", Options(command="asr train"))
    losses = [r["loss"] for r in records(tmp_path / "exp") if r["kind"] == "train"]
    assert losses[-1] < 0.8 * losses[0]
    printed = capsys.readouterr().out
    for word in (
        "parameters",
        "sigmoid + alibi",
        "backend",
        "padding",
        "normaliser",
        "SpecAugment",
    ):
        assert word in printed
    run = json.loads((tmp_path / "exp" / "run.json").read_text())
    assert run["weighting"] == "sigmoid"
    assert run["train_audio_s_per_s"] > 0
    assert run["seed"] == 1
    # an earlier run is never overwritten, and never continued as something else
    with pytest.raises(InputError, match="holds a run already"):
        train(config.load([], settings), tmp_path / "exp")
    for change, message in (
        ("train.epochs=7", r"train\.epochs was 8, now 7"),
        ("encoder.dropout=0.3", r"encoder\.dropout was \S+, now 0\.3"),
    ):
        with pytest.raises(InputError, match=message):
            train(config.load([], [*settings, change]), tmp_path / "exp", Options(resume=True))


def test_how_a_step_is_cut_into_batches_changes_nothing(tiny_corpus: Path, tmp_path: Path) -> None:
    """A global batch in seconds means the same on a machine that computes it in pieces."""
    losses = []
    for max_batch_s in (24, 6):
        settings = [
            *TINY,
            *data(tiny_corpus),
            "train.epochs=2",
            "encoder.dropout=0",
            "train.global_batch_s=24",
            f"train.max_batch_s={max_batch_s}",
        ]
        exp = tmp_path / str(max_batch_s)
        train(config.load([], settings), exp)
        losses.append([r["loss"] for r in records(exp) if r["kind"] == "train"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("overrides", [["data.train=[]"], ["data.train=[nowhere.jsonl.gz]"]])
def test_missing_data_is_refused(tmp_path: Path, overrides: list[str]) -> None:
    with pytest.raises(InputError, match=r"data\.train|nowhere"):
        train(config.load([], overrides), tmp_path / "exp")


def test_learning_rate_warms_up_and_decays() -> None:
    optimizer = config.load(
        [], ["optimizer.lr=1.0", "optimizer.warmup_fraction=0.1", "optimizer.final_lr_fraction=0.0"]
    ).optimizer
    rates = [learning_rate(step, 100, optimizer) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * i for i in range(1, 11)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0.0)


def test_weight_decay_spares_norms_and_biases() -> None:
    from asr.model.recogniser import Recogniser

    cfg = config.load([], [*TINY, "attention.position=relative"])
    net = Recogniser(cfg, 10)
    groups = build_optimizer(net, cfg.optimizer).param_groups
    names = {id(p): name for name, p in net.named_parameters()}
    decayed = {names[id(p)] for p in groups[0]["params"]}
    kept = {names[id(p)] for p in groups[1]["params"]}
    assert decayed | kept == set(names.values())
    assert groups[0]["weight_decay"] == 0.01
    assert groups[1]["weight_decay"] == 0.0
    assert "heads.ctc.linear.weight" in decayed
    assert all(
        name.endswith(".weight") and "norm" not in name for name in decayed if "ff_" not in name
    )
    assert {"heads.ctc.linear.bias", "encoder.layers.0.norm.weight"} <= kept
    assert any(name.endswith("u_hd") for name in kept)


def test_choosing_and_averaging_checkpoints(tmp_path: Path) -> None:
    wers = {1: 0.5, 2: 0.3, 3: 0.3, 4: 0.4}
    assert choose_steps(wers, 2, "best") == [2, 3]
    assert choose_steps(wers, 1, "best") == [3]
    assert choose_steps(wers, 3, "last") == [2, 3, 4]
    assert choose_steps(wers, 9, "last") == [1, 2, 3, 4]
    for step, value in ((1, 1.0), (2, 4.0)):
        write_file(
            tmp_path,
            step,
            {"model": {"w": torch.tensor([value]), "n": torch.tensor(3)}, "average": {}},
        )
    mean = average_weights(list(list_checkpoints(tmp_path).values()))
    assert mean["w"].item() == 2.5
    assert mean["n"].item() == 3
    # an unfinished file is no checkpoint
    (tmp_path / "step-00000003.tmp").write_bytes(b"half")
    assert list(list_checkpoints(tmp_path)) == [1, 2]


@pytest.fixture(scope="module")
def validated(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was validated often; its best weights by characters are not those by words."""
    exp = tmp_path_factory.mktemp("validated") / "exp"
    more = ["train.epochs=3", "train.average_checkpoints=1"]
    settings = [*TINY, *data(tiny_corpus), *more, "train.best_by=cer", "train.tensorboard=true"]
    train(config.load([], settings), exp)
    return exp


def test_validation_reports_the_error_rates_of_the_decoded_dev_part(
    validated: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    run = json.loads((validated / "run.json").read_text())
    (chosen,) = run["averaged_steps"]
    (valid,) = (r for r in records(validated) if (r["kind"], r["step"]) == ("valid", chosen))
    decode_set(load_model(validated), tiny_corpus / "dev.cuts.jsonl.gz", tmp_path)
    lines = map(json.loads, (tmp_path / "hypotheses.jsonl").read_text().splitlines())
    pairs = [(line["reference"], line["hypothesis"]) for line in lines]
    references, hypotheses = map(list, zip(*pairs, strict=True))
    assert valid["cer"] == pytest.approx(jiwer.cer(references, hypotheses))
    assert valid["wer"] == pytest.approx(jiwer.wer(references, hypotheses))
    assert 0 < valid["cer"] < 1
    events = EventAccumulator(str(validated / "tensorboard")).Reload()
    series = {one.step: one.value for one in events.Scalars("valid/cer")}
    assert series[chosen] == pytest.approx(valid["cer"])


def test_the_best_weights_may_be_those_with_the_fewest_wrong_characters(validated: Path) -> None:
    found = [r for r in records(validated) if r["kind"] == "valid"]
    best = {
        of: min(found, key=lambda r: (r[of], -r["step"]))["step"] for of in ("loss", "wer", "cer")
    }
    assert best["cer"] != best["wer"]
    assert json.loads((validated / "run.json").read_text())["averaged_steps"] == [best["cer"]]
    assert best["cer"] in list_checkpoints(validated / "checkpoints")


def test_a_resumed_run_says_what_made_which_steps(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exp = tmp_path / "exp"
    cfg = config.load([], [*TINY, *data(tiny_corpus), "train.epochs=2"])

    def run_from(revision: str, dirty: bool) -> dict[str, Any]:
        monkeypatch.setattr(record, "commit", lambda: (revision, dirty))
        monkeypatch.setattr(record, "uncommitted", lambda: f"what {revision} has not")
        train(cfg, exp, Options(resume=True, command=f"asr train --of {revision}"))
        return json.loads((exp / "run.json").read_text())

    begun = run_from("aaaaaaaaaa", False)
    assert "resumed" not in begun
    assert not (exp / "uncommitted.diff").exists()
    # a finished run is not made by whoever looks at it once more
    assert run_from("bbbbbbbbbb", True) == begun
    steps = list_checkpoints(exp / "checkpoints")
    first = min(steps)
    for step in set(steps) - {first}:
        steps[step].unlink()
    ended = run_from("cccccccccc", True)
    assert (ended["commit"], ended["command"]) == ("aaaaaaaaaa", "asr train --of aaaaaaaaaa")
    (going_on,) = ended["resumed"]
    assert going_on["after_step"] == first
    assert going_on["commit"] == "cccccccccc"
    assert going_on["command"] == "asr train --of cccccccccc"
    assert (exp / going_on["diff"]).read_text() == "what cccccccccc has not"
    assert read_experiment(exp).run.revision == "aaaaaaa, ccccccc+"
