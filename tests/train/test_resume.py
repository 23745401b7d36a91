"""Killed at any moment and resumed, a run ends with the bits of one that was left alone."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from asr import config
from asr.errors import InputError
from asr.processes import alone
from asr.train.checkpoint import (
    FileStore,
    ShardedStore,
    State,
    average_weights,
    list_checkpoints,
    read_file,
)
from asr.train.run import Options, train

# Everything that has a state: dropout, speeds, SpecAugment, a moving average, a window of the log, more
# checkpoints than are kept, validation in the middle of an epoch, and a checkpoint every other step.
SETTINGS = [
    "encoder.num_layers=1",
    "encoder.dim=32",
    "encoder.ff_dim=48",
    "encoder.conv_kernel=5",
    "encoder.subsampling_channels=4",
    "encoder.dropout=0.1",
    "augment.speed_factors=[0.9,1.0,1.1]",
    "tokenizer.kind=char",
    "train.epochs=5",
    "train.global_batch_s=8",
    "train.max_batch_s=9",
    "train.num_threads=1",
    "train.tensorboard=false",
    "train.average_checkpoints=2",
    "train.log_steps=3",
    "train.validate_steps=7",
    "train.checkpoint_steps=2",
    "train.checkpoint_minutes=0",
    "train.ema_decay=0.9",
]

spawn = multiprocessing.get_context("forkserver")
spawn.set_forkserver_preload(["asr.train.run", "torch._dynamo"])  # the optimiser imports that


def settings(corpus: Path, *more: str) -> list[str]:
    dev = f"data.dev=[{corpus}/dev.cuts.jsonl.gz]"
    return [*SETTINGS, f"data.train=[{corpus}/train.cuts.jsonl.gz]", dev, *more]


def records(exp: Path) -> list[dict[str, Any]]:
    """The log without what depends on the clock."""
    clock = ("audio_s_per_s", "waiting", "wall_s")
    lines = [json.loads(line) for line in (exp / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in clock} for line in lines]


def assert_same(left: Any, right: Any, where: str) -> None:
    """Nested states, bit for bit."""
    assert type(left) is type(right), where
    if isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key in left:
            assert_same(left[key], right[key], f"{where}.{key}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), where
        for index, pair in enumerate(zip(left, right, strict=True)):
            assert_same(*pair, f"{where}[{index}]")
    elif isinstance(left, torch.Tensor):
        assert torch.equal(left, right), where
    else:
        assert left == right, where


def assert_same_run(whole: Path, killed: Path) -> None:
    first, second = (load_file(exp / "model" / "model.safetensors") for exp in (whole, killed))
    assert_same(first, second, "model")
    left, right = (list_checkpoints(exp / "checkpoints") for exp in (whole, killed))
    assert list(left) == list(right)
    for step in left:
        states = [read_file(paths[step]) for paths in (left, right)]
        for state in states:
            del state["other"]["log_bytes"]  # the clock's numbers differ in length
            del state["other"]["progress"]["wall_s"]
        assert_same(*states, f"step {step}")
    assert records(whole) == records(killed)
    steps = [record["step"] for record in records(killed) if record["kind"] == "train"]
    assert steps == sorted(set(steps))


def after(delay_s: float) -> Callable[[Path], bool]:
    due_s = time.monotonic() + delay_s
    return lambda exp: time.monotonic() > due_s


def while_a_checkpoint_is_written(exp: Path) -> bool:
    return any((exp / "checkpoints").glob("*.tmp"))


def kill_when(exp: Path, settings: list[str], due: Callable[[Path], bool]) -> bool:
    """Starts or resumes the run and kills it; false if it came to its end before."""
    cfg = config.load([], settings)
    process = spawn.Process(target=train, args=(cfg, exp, Options(resume=True)))
    process.start()
    deadline = time.monotonic() + 120
    while process.is_alive() and not due(exp):
        assert time.monotonic() < deadline
        time.sleep(0.0005)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


@pytest.fixture(scope="module")
def whole(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    exp = tmp_path_factory.mktemp("whole") / "exp"
    train(config.load([], settings(tiny_corpus)), exp)
    return exp


def test_a_killed_run_resumes_to_the_same_bits(
    whole: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    exp = tmp_path / "killed"
    for due in (while_a_checkpoint_is_written, after(2.0), while_a_checkpoint_is_written):
        kill_when(exp, settings(tiny_corpus), due)
    train(config.load([], settings(tiny_corpus)), exp, Options(resume=True))
    assert_same_run(whole, exp)


@pytest.mark.slow
def test_twenty_kills_at_any_moment_and_within_writes(tiny_corpus: Path, tmp_path: Path) -> None:
    longer = settings(tiny_corpus, "train.epochs=60")
    train(config.load([], longer), tmp_path / "whole")
    exp = tmp_path / "killed"
    rng = random.Random(20)
    killed = within_a_write = 0
    while killed < 20:
        # at any moment from the first import on, and every other time within a write
        due = after(rng.uniform(0.1, 4.0)) if killed % 2 else while_a_checkpoint_is_written
        assert kill_when(exp, longer, due), f"at its end after {killed} kills"
        killed += 1
        within_a_write += while_a_checkpoint_is_written(exp)
    assert within_a_write > 0
    train(config.load([], longer), exp, Options(resume=True))
    assert_same_run(tmp_path / "whole", exp)


def test_kills_while_writing_leave_the_checkpoint_before(tiny_corpus: Path, tmp_path: Path) -> None:
    """Not by luck: the write itself is cut short at each of its bytes' thirds."""
    exp = tmp_path / "exp"
    train(config.load([], settings(tiny_corpus, "train.epochs=1")), exp)
    newest, path = max(list_checkpoints(exp / "checkpoints").items())
    content = path.read_bytes()
    for share in (0, 1, 2):
        path.with_name("step-00009999.tmp").write_bytes(content[: len(content) * share // 3])
        assert max(list_checkpoints(exp / "checkpoints")) == newest
    path.write_bytes(content[: len(content) // 3])
    with pytest.raises(InputError, match="damaged checkpoint"):
        read_file(path)


@pytest.mark.parametrize(
    ("damaged", "length"), [("*.distcp", 100), (".metadata", 100), (".metadata", 0)]
)
def test_a_damaged_sharded_checkpoint_gets_one_line(
    tmp_path: Path, damaged: str, length: int
) -> None:
    net = nn.Linear(30, 10)
    state = State(net, torch.optim.AdamW(net.parameters()), {})
    store = ShardedStore(tmp_path, alone("cpu"))
    store.save(1, state, {})
    (path,) = list_checkpoints(tmp_path).values()
    for name, value in average_weights([path]).items():
        assert torch.equal(value, net.state_dict()[name])
    (file,) = path.glob(damaged)
    file.write_bytes(file.read_bytes()[:length])
    for read in (lambda: store.restore(1, state), lambda: average_weights([path])):
        with pytest.raises(
            InputError, match=r"step-00000001\.sharded: damaged checkpoint: ."
        ) as raised:
            read()
        assert "\n" not in str(raised.value)


def test_any_flipped_bit_of_a_sharded_checkpoints_index_gets_one_line(tmp_path: Path) -> None:
    """Its index is a pickle, and what reading a damaged one raises can be anything."""
    net = nn.Linear(30, 10)
    state = State(net, torch.optim.AdamW(net.parameters()), {})
    ShardedStore(tmp_path, alone("cpu")).save(1, state, {})
    (path,) = list_checkpoints(tmp_path).values()
    index = path / ".metadata"
    content = index.read_bytes()
    rng = random.Random(1)
    complaints = []
    for _ in range(200):
        flipped = bytearray(content)
        flipped[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        index.write_bytes(flipped)
        try:
            average_weights([path])
        except InputError as error:
            complaints.append(str(error))
    assert len(complaints) > 50  # the others hit what the weights do not need
    for line in complaints:
        assert "step-00000001.sharded: damaged checkpoint: " in line
        assert "\n" not in line


def trained_state(seed: int) -> State:
    torch.manual_seed(seed)
    net = nn.Linear(30, 10)
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.randn(4, 30)).square().sum().backward()
    optimizer.step()
    return State(net, optimizer, {"weight": torch.randn(10, 30)})


def tensors_of(state: State, other: dict[str, Any]) -> list[Any]:
    moments = [
        value for of_one in state.optimizer.state.values() for _, value in sorted(of_one.items())
    ]
    return [*state.net.state_dict().values(), *moments, state.average["weight"], other]


@pytest.mark.parametrize("kind", [FileStore, ShardedStore])
def test_one_flipped_bit_of_a_checkpoint_is_an_error_or_changes_nothing(
    tmp_path: Path, kind: type[FileStore | ShardedStore]
) -> None:
    store = kind(tmp_path, alone("cpu"))
    store.save(1, trained_state(0), {"epoch": 3, "rng": [1, 2]})
    (path,) = list_checkpoints(tmp_path).values()
    whole = trained_state(1)
    expected = tensors_of(whole, store.restore(1, whole))
    rng = random.Random(kind.__name__)
    num_refused = 0
    for _ in range(150):
        file = rng.choice(sorted(path.iterdir())) if path.is_dir() else path
        content = file.read_bytes()
        flipped = bytearray(content)
        flipped[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(flipped)
        found = trained_state(2)
        try:
            parts = tensors_of(found, store.restore(1, found))
        except InputError as error:
            num_refused += path.name in str(error) and "\n" not in str(error)
        else:
            assert parts[-1] == expected[-1]
            for one, other in zip(parts[:-1], expected[:-1], strict=True):
                assert torch.equal(one, other)
        file.write_bytes(content)
    assert num_refused > 100


def test_a_sharded_checkpoint_without_sums_is_read_and_one_without_a_file_is_not(
    tmp_path: Path,
) -> None:
    store = ShardedStore(tmp_path, alone("cpu"))
    store.save(1, trained_state(0), {"epoch": 3})
    (path,) = list_checkpoints(tmp_path).values()
    (path / "more.txt").touch()
    with pytest.raises(
        InputError, match=r"step-00000001\.sharded: .*not what was written: more\.txt"
    ):
        store.restore(1, trained_state(1))
    (path / "sha256.json").unlink()
    assert store.restore(1, trained_state(1)) == {"epoch": 3}


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_leaves_a_checkpoint_and_an_exit_status_of_its_own(
    number: signal.Signals, whole: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    exp = tmp_path / "exp"
    words = [sys.executable, "-m", "asr.cli", "train", "--exp", str(exp), *settings(tiny_corpus)]
    process = subprocess.Popen(
        words, env={**os.environ, "PYTHONSAFEPATH": "1"}, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not list_checkpoints(exp / "checkpoints"):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert "stopped after step" in errors
    stopped_at = int(errors.split("stopped after step")[1].split(";")[0])
    assert max(list_checkpoints(exp / "checkpoints")) == stopped_at
    train(config.load([], settings(tiny_corpus)), exp, Options(resume=True))
    assert_same_run(whole, exp)


def test_a_checkpoint_by_the_clock(tiny_corpus: Path, tmp_path: Path) -> None:
    often = ("train.checkpoint_steps=0", "train.checkpoint_minutes=1e-9", "train.epochs=1")
    exp = tmp_path / "exp"
    train(config.load([], settings(tiny_corpus, *often)), exp)
    assert max(list_checkpoints(exp / "checkpoints")) == max(r["step"] for r in records(exp))


def test_a_log_that_lost_lines_is_noticed(tiny_corpus: Path, tmp_path: Path) -> None:
    exp = tmp_path / "exp"
    cfg = config.load([], settings(tiny_corpus, "train.epochs=1"))
    train(cfg, exp)
    (exp / "log.jsonl").write_text("")
    with pytest.raises(InputError, match=r"log\.jsonl: 0 bytes"):
        train(cfg, exp, Options(resume=True))
