"""A run goes on with the data and options it began with, whatever they are called."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lhotse.cut import Cut

from asr import config
from asr.cli import main
from asr.data.store import index
from asr.data.store.index import open_cuts
from asr.data.store.manifest import read_cuts, write_cuts
from asr.errors import InputError, InputWarning
from asr.train.run import Options, train

TINY = [
    "encoder.num_layers=1",
    "encoder.dim=16",
    "encoder.ff_dim=16",
    "encoder.conv_kernel=5",
    "encoder.subsampling_channels=4",
    "attention.num_heads=2",
    "tokenizer.kind=char",
    "train.global_batch_s=30",
    "train.max_batch_s=30",
    "train.num_threads=1",
    "train.tensorboard=false",
]


def go_on(exp: Path, cuts: Path, *more: str) -> dict[str, Any]:
    manifests = [f"data.{part}=[{cuts}]" for part in ("train", "dev")]
    options = [*TINY, *manifests, "train.epochs=1", *more]
    train(config.load([], options), exp, Options(resume=True))
    return json.loads((exp / "run.json").read_text())


def files(exp: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in exp.rglob("*") if path.is_file()}


@pytest.fixture
def cuts(tiny_corpus: Path, tmp_path: Path) -> Path:
    path = tmp_path / "data" / "few.cuts.jsonl.gz"
    write_cuts(list(read_cuts(tiny_corpus / "test.cuts.jsonl.gz"))[:4], path)
    return path


@pytest.fixture
def exp(cuts: Path, tmp_path: Path) -> Path:
    go_on(tmp_path / "exp", cuts)
    return tmp_path / "exp"


def test_a_folder_of_something_else_is_not_emptied(cuts: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "exp" / "tokenizer" / "thesis.txt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("mine")
    with pytest.raises(InputError, match=r"holds 'thesis\.txt', which no run wrote"):
        go_on(tmp_path / "exp", cuts)
    assert files(tmp_path / "exp") == {theirs: b"mine"}


def test_other_data_at_the_same_path_is_refused(exp: Path, cuts: Path) -> None:
    before = files(exp)
    write_cuts(list(read_cuts(cuts))[:3], cuts)
    with pytest.raises(InputError, match=r"data.dev held 4 utterances, now 3 .*the same data"):
        go_on(exp, cuts, "train.epochs=2")
    assert files(exp) == before


def test_another_text_is_other_data(exp: Path, cuts: Path) -> None:
    changed = list(read_cuts(cuts))
    changed[2].supervisions[0].text += " MORE"
    other = cuts.with_name("other.cuts.jsonl.gz")
    write_cuts(changed, other)
    with pytest.raises(InputError, match=r"data.train held 4 others"):
        go_on(exp, cuts, f"data.train=[{other}]", "train.epochs=2")


def test_the_same_data_by_another_name_goes_on(
    exp: Path, cuts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = cuts.with_name("plain.jsonl")
    plain.write_bytes(gzip.decompress(cuts.read_bytes()))
    monkeypatch.chdir(cuts.parent)
    record = go_on(exp, Path("plain.jsonl"), "train.epochs=2")
    assert record["resumed"]


def test_a_relative_path_from_another_folder_is_what_lies_there(
    exp: Path, cuts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(cuts.parent)
    go_on(exp, Path(cuts.name), "train.epochs=2")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    write_cuts(list(read_cuts(cuts))[1:], Path(cuts.name))
    with pytest.raises(InputError, match=r"now 3"):
        go_on(exp, Path(cuts.name), "train.epochs=3")


def test_what_changes_no_result_may_change(exp: Path, cuts: Path) -> None:
    more = [
        "data.num_workers=1",
        "data.cache_mb=10",
        "train.log_steps=3",
        "train.checkpoint_steps=2",
    ]
    go_on(exp, cuts, "train.epochs=2", *more)
    assert config.load([exp / "config.yaml"]).data.num_workers == 1


def test_what_changes_the_result_is_refused(exp: Path, cuts: Path) -> None:
    before = files(exp)
    with pytest.raises(InputError, match=r"encoder.dropout was 0.1, now 0.2$"):
        go_on(exp, cuts, "train.epochs=2", "encoder.dropout=0.2", "data.num_workers=1")
    assert files(exp) == before


def test_more_epochs_and_another_rate_are_taken_and_told(
    exp: Path, cuts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = go_on(exp, cuts, "train.epochs=3", "optimizer.lr=0.0005")
    printed = capsys.readouterr().out
    assert "changed     optimizer.lr was 0.001, now 0.0005: from step 2 on" in printed
    assert "changed     train.epochs was 1, now 3: from step 2 on" in printed
    assert record["epochs"] == 3
    (start,) = record["resumed"]
    assert start["changed"] == {"train.epochs": [1, 3], "optimizer.lr": [0.001, 0.0005]}
    lines = [json.loads(line) for line in (exp / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "valid"] == [1, 2, 3]
    with pytest.raises(InputError, match=r"was 3, now 2: a run can only be made longer"):
        go_on(exp, cuts, "train.epochs=2", "optimizer.lr=0.0005")


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        # one step an epoch, of which one was done; the new schedule is that of the whole run
        (["train.epochs=4"], [1.0, 0.7525, 0.2575]),
        (["train.epochs=6", "optimizer.warmup_fraction=0.5"], [2 / 3, 1.0, 1.0, 0.7525, 0.2575]),
        (["train.epochs=3", "optimizer.schedule=constant", "optimizer.lr=1e-5"], [0.01, 0.01]),
        (
            ["train.epochs=5", "optimizer.schedule=linear", "optimizer.final_lr_fraction=0.2"],
            [1.0, 0.8, 0.6, 0.4],
        ),
    ],
)
def test_the_rate_is_that_of_the_new_schedule(
    exp: Path,
    cuts: Path,
    more: list[str],
    expected: list[float],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Expected: in thousandths, computed by hand from the formulas of warm-up, cosine and line."""
    record = go_on(exp, cuts, *more)
    assert f"learning rate {expected[0] / 1000:.3g} in step 2\n" in capsys.readouterr().out
    lines = [json.loads(line) for line in (exp / "log.jsonl").read_text().splitlines()]
    rates = [line["lr"] for line in lines if line["kind"] == "train"][1:]
    assert rates == pytest.approx([thousandths / 1000 for thousandths in expected])
    assert set(record["resumed"][0]["changed"]) == {word.partition("=")[0] for word in more}


def test_a_finished_run_says_so(exp: Path, cuts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = (exp / "model" / "model.safetensors").read_bytes()
    go_on(exp, cuts)
    assert "finished    the one epoch is trained; train.epochs=2 goes on" in capsys.readouterr().out
    assert (exp / "model" / "model.safetensors").read_bytes() == weights
    before = files(exp)
    with pytest.raises(InputError) as caught:
        go_on(exp, cuts, "optimizer.schedule=linear")
    assert str(caught.value) == (
        f"{exp}: optimizer.schedule was 'cosine', now 'linear': of no effect, as the one epoch is "
        "trained; train.epochs=2 goes on to twice as many"
    )
    assert files(exp) == before


def test_what_nobody_says_stays_as_it_was(exp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither the options of before nor the data need be repeated, and no default slips in."""
    words = ["train", "--exp", str(exp), "--resume", "train.epochs=2"]
    assert main(words) == 0
    assert "changed     train.epochs was 1, now 2" in capsys.readouterr().out
    (start,) = json.loads((exp / "run.json").read_text())["resumed"]
    assert start["changed"] == {"train.epochs": [1, 2]}
    assert main([*words, "encoder.dropout=0.2"]) == 2
    assert "encoder.dropout was 0.1, now 0.2" in capsys.readouterr().err


def test_a_run_of_an_older_version_compares_paths(exp: Path, cuts: Path) -> None:
    record = json.loads((exp / "run.json").read_text())
    del record["data"]
    (exp / "run.json").write_text(json.dumps(record))
    go_on(exp, cuts, "train.epochs=2")
    with pytest.raises(InputError, match=r"data.train was .*few.cuts.* now .*other"):
        go_on(exp, cuts, "train.epochs=2", f"data.train=[{cuts.with_name('other.jsonl')}]")


def test_every_option_says_what_becomes_of_it() -> None:
    kinds = {key: item.metadata["on_resume"] for key, _, item in config.walk(config.Config())}
    assert set(kinds.values()) == {config.FIXED, config.FREE, config.REPORTED, config.CONTENT}
    free = {key.split(".")[0] for key, kind in kinds.items() if kind == config.FREE}
    assert free == {"data", "attention", "train"}
    assert kinds["train.seed"] == kinds["train.precision"] == config.FIXED


def shift(cut: Cut) -> None:
    cut.start += 0.01


def respell(cut: Cut) -> None:
    cut.supervisions[0].text += "S"


def rename(cut: Cut) -> None:
    cut.id += "x"


def shorten(cut: Cut) -> None:
    cut.duration -= 0.01


@pytest.mark.parametrize("change", [shift, respell, rename, shorten])
def test_fingerprints_of_lists_and_indices(
    change: Callable[[Cut], None], cuts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = open_cuts([cuts]).fingerprint()
    moved = list(read_cuts(cuts))
    for cut in moved:
        cut.recording.sources[0].source = "/elsewhere/" + cut.id
    write_cuts(moved, tmp_path / "moved.cuts.jsonl.gz")
    write_cuts(moved[::-1], tmp_path / "turned.cuts.jsonl.gz")
    change(moved[1])
    write_cuts(moved, tmp_path / "changed.cuts.jsonl.gz")
    for above in (1 << 20, 0):  # in memory, by an index
        monkeypatch.setattr(index, "INDEX_ABOVE_BYTES", above)
        assert open_cuts([tmp_path / "moved.cuts.jsonl.gz"]).fingerprint() == own
        for name in ("turned", "changed"):
            table = open_cuts([tmp_path / f"{name}.cuts.jsonl.gz"])
            assert table.fingerprint() != own
            assert table.fingerprint() == table.fingerprint()


def test_a_manifest_given_twice_is_told(cuts: Path, tmp_path: Path) -> None:
    with pytest.warns(InputWarning, match=r"data.train: 4 utterances are in it more than once"):
        go_on(tmp_path / "exp", cuts, f"data.train=[{cuts},{cuts}]")
    with pytest.warns(InputWarning, match=r"data.dev: 4 utterances are in it more than once"):
        go_on(tmp_path / "dev", cuts, f"data.dev=[{cuts},{cuts}]")
