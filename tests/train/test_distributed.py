"""Several processes give what one gives, and end together."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import pytest
import torch
from older_folders import unpack_format_1
from safetensors.torch import load_file

from asr import config
from asr.cli import main
from asr.decode.decode import decode_set
from asr.model.folder import load_model
from asr.train.checkpoint import list_checkpoints
from asr.train.run import train

ROOT = Path(__file__).parents[2]

# 55 steps; most of them in two batches, the last ones in fewer than there are processes
SETTINGS = [
    "encoder.num_layers=1",
    "encoder.dim=32",
    "encoder.ff_dim=48",
    "encoder.conv_kernel=5",
    "encoder.subsampling_channels=4",
    "encoder.dropout=0",
    "augment.speed_factors=[0.9,1.0,1.1]",
    "tokenizer.kind=char",
    "train.epochs=5",
    "train.global_batch_s=8",
    "train.max_batch_s=5",
    "train.validate_steps=10",
    "train.num_threads=1",
    "train.tensorboard=false",
    "train.average_checkpoints=2",
    "train.log_steps=1",
    "train.ema_decay=0.9",  # validation and the model are the average's
]
# relative to one process: what float64 and float32 leave of a sum in another order
BOUNDS = {"fp64": 1e-10, "fp32": 1e-5}


def settings(corpus: Path, *more: str) -> list[str]:
    dev = f"data.dev=[{corpus}/dev.cuts.jsonl.gz]"
    return [*SETTINGS, f"data.train=[{corpus}/train.cuts.jsonl.gz]", dev, *more]


def losses(exp: Path, kind: str) -> list[float]:
    lines = [json.loads(line) for line in (exp / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == kind]


def torchrun(
    num_processes: int, *words: object, before: Callable[[], None] | None = None
) -> subprocess.Popen[str]:
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", num_processes]
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, launch), "-m", "asr.cli", *map(str, words)],
        env={
            **os.environ,
            "PYTHONSAFEPATH": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",  # truncated where ``before`` limits files
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=before,
    )


def forked(num_processes: int, folder: Path, *words: object) -> list[str]:
    """What ``torchrun`` would start, from this process, which has imported everything already; what
    each of them printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = {}
    for rank in range(num_processes):
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                os.environ |= {
                    "TORCHELASTIC_RUN_ID": "forked",
                    "RANK": str(rank),
                    "WORLD_SIZE": str(num_processes),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                }
                signal.alarm(300)
                with (folder / f"{rank}.txt").open("w") as file, redirect_stdout(file):
                    code = main([str(word) for word in words])
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        started[rank] = pid
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in started.values()]
    printed = [(folder / f"{rank}.txt").read_text() for rank in started]
    assert codes == [0] * num_processes, printed
    return printed


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def one_process(
    tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """From a precision to the experiment of one process, trained when it is asked for first."""
    folder = tmp_path_factory.mktemp("one")

    def experiment(precision: str) -> Path:
        exp = folder / precision
        if not exp.exists():
            train(config.load([], settings(tiny_corpus, f"train.precision={precision}")), exp)
        return exp

    return experiment


@pytest.mark.parametrize(
    ("parallel", "precision"),
    [
        ("ddp", "fp64"),
        pytest.param("fsdp", "fp64", marks=pytest.mark.slow),
        pytest.param("ddp", "fp32", marks=pytest.mark.slow),
        pytest.param("fsdp", "fp32", marks=pytest.mark.slow),
    ],
)
def test_two_processes_have_the_losses_of_one(
    parallel: str,
    precision: str,
    one_process: Callable[[str], Path],
    tiny_corpus: Path,
    tmp_path: Path,
) -> None:
    exp = tmp_path / "exp"
    asked = (f"train.parallel={parallel}", f"train.precision={precision}")
    words = ("train", "--exp", exp, *settings(tiny_corpus, *asked))
    first, second = forked(2, tmp_path, *words)
    assert f"2 processes, {parallel.capitalize()}" in first
    assert second == ""
    for kind in ("train", "valid"):
        expected, found = losses(one_process(precision), kind), losses(exp, kind)
        assert len(found) >= (50 if kind == "train" else 5)
        assert found == pytest.approx(expected, rel=BOUNDS[precision])
    ours, theirs = (
        load_file(e / "model" / "model.safetensors") for e in (exp, one_process(precision))
    )
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        bound = 100 * BOUNDS[precision]  # Adam's steps have one size, whatever the gradient's
        torch.testing.assert_close(value, theirs[name], rtol=bound, atol=bound, msg=name)


@pytest.mark.parametrize("first", ["one", "two"])
def test_sharded_and_whole_checkpoints_are_read_by_either(
    first: str, tiny_corpus: Path, tmp_path: Path
) -> None:
    """FSDP of two processes goes on where one process was, and the other way round."""
    short = (
        *("train.precision=fp64", "train.epochs=1", "train.validate_steps=4"),
        *("train.average_checkpoints=9", "train.parallel=fsdp"),
    )
    options = settings(tiny_corpus, *short)
    whole, exp = tmp_path / "whole", tmp_path / "exp"
    train(config.load([], options), whole)

    def run(how: str) -> None:
        words = ["train", "--exp", exp, "--resume", *options]
        if how == "two":
            forked(2, tmp_path, *words)
        else:
            assert main([str(word) for word in words]) == 0

    run(first)
    steps = list_checkpoints(exp / "checkpoints")
    assert all(path.is_dir() == (first == "two") for path in steps.values())
    for step in list(steps)[1:]:
        shutil.rmtree(steps[step]) if steps[step].is_dir() else steps[step].unlink()
    shutil.rmtree(exp / "model")
    run("one" if first == "two" else "two")
    record = json.loads((exp / "run.json").read_text())
    assert [start["after_step"] for start in record["resumed"]] == [4]
    for kind in ("train", "valid"):
        assert losses(exp, kind) == pytest.approx(losses(whole, kind), rel=BOUNDS["fp64"])
    ours, theirs = (load_file(e / "model" / "model.safetensors") for e in (exp, whole))
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-8, atol=1e-8, msg=name)


def test_a_sharded_run_of_format_1_goes_on_with_its_losses(
    tiny_corpus: Path, tmp_path: Path
) -> None:
    exp = unpack_format_1(tmp_path) / "sharded"
    before = losses(exp, "train")
    text = (exp / "config.yaml").read_text().replace("- corpus/", f"- {tiny_corpus}/")
    (exp / "config.yaml").write_text(text)
    forked(2, tmp_path, "train", "--exp", exp, "--resume", "--config", exp / "config.yaml")
    assert len(before) == 22
    assert losses(exp, "train") == pytest.approx(before, rel=1e-5)
    assert [path.is_dir() for path in list_checkpoints(exp / "checkpoints").values()] == [True] * 2


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_processes_that_are_told_to_stop_go_on_where_they_were(
    parallel: str, one_process: Callable[[str], Path], tiny_corpus: Path, tmp_path: Path
) -> None:
    exp = tmp_path / "exp"
    asked = (f"train.parallel={parallel}", "train.precision=fp64", "train.checkpoint_steps=3")
    words = ("train", "--exp", exp, "--resume", *settings(tiny_corpus, *asked))
    process = torchrun(2, *words)
    wait_for_step(process, exp, 6)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "stopped after step" in printed
    finish(torchrun(2, *words))
    assert losses(exp, "train") == pytest.approx(
        losses(one_process("fp64"), "train"), rel=BOUNDS["fp64"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("step_s", [6, 0.1])
def test_processes_find_the_layer_at_fault_together(
    parallel: str, step_s: float, tiny_corpus: Path, tmp_path: Path
) -> None:
    """A step of 0.1 s is one utterance: the second process has none."""
    exp = tmp_path / "exp"
    asked = (f"train.parallel={parallel}", "features.scale=1e30", "train.max_skipped=3")
    asked += (f"train.global_batch_s={step_s}",)
    process = torchrun(2, "train", "--exp", exp, *settings(tiny_corpus, *asked))
    printed, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "3 steps in a row were not finite" in printed
    lines = [json.loads(line) for line in (exp / "log.jsonl").read_text().splitlines()]
    skipped = [line for line in lines if line["kind"] == "skipped"]
    assert [line["step"] for line in skipped] == [1, 2, 3]
    for line in skipped:
        assert line["faults"][0]["layer"] == "features"
        if step_s > 1:
            assert line["faults"][1]["layer"] == "features"
        # each process names its own
        named = [name for fault in line["faults"] for name in fault["utterances"]]
        assert named == line["utterances"]


@pytest.mark.slow
def test_a_sharded_checkpoint_that_the_disk_has_no_room_for(
    tiny_corpus: Path, tmp_path: Path
) -> None:
    exp = tmp_path / "exp"
    asked = ("train.parallel=fsdp", "train.checkpoint_steps=1")
    # half of a shard: Python turns the limit's signal into an error, as of a full disk
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (100_000, 100_000))
    process = torchrun(1, "train", "--exp", exp, *settings(tiny_corpus, *asked), before=limit)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "asr: error: " in printed
    assert "step-00000001.sharded: cannot write this checkpoint: " in printed
    assert list((exp / "checkpoints").iterdir()) == []


@pytest.mark.slow
def test_a_damaged_sharded_checkpoint_is_named(tiny_corpus: Path, tmp_path: Path) -> None:
    exp = tmp_path / "exp"
    words = ("train", "--exp", exp, "--resume", *settings(tiny_corpus, "train.parallel=fsdp"))
    finish(torchrun(1, *words, "train.epochs=1"))
    for shard in (exp / "checkpoints").glob("*.sharded/*.distcp"):
        shard.write_bytes(shard.read_bytes()[:1000])
    printed, _ = torchrun(1, *words, "train.epochs=1").communicate(timeout=120)
    assert "damaged checkpoint" in printed


@pytest.mark.slow
def test_four_processes_end_with_the_reason_when_one_is_killed(
    tiny_corpus: Path, tmp_path: Path
) -> None:
    exp = tmp_path / "exp"
    asked = ("train.checkpoint_steps=2", "train.epochs=500")
    process = torchrun(4, "train", "--exp", exp, *settings(tiny_corpus, *asked))
    wait_for_step(process, exp, 4)
    workers = children(process.pid)
    assert len(workers) == 4
    os.kill(workers[2], signal.SIGKILL)
    printed, _ = process.communicate(timeout=60)  # within a minute, or this fails
    assert process.returncode != 0
    assert "Signal 9 (SIGKILL)" in printed
    assert f"pid: {workers[2]}" in printed
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


@pytest.mark.slow
def test_the_slurm_script_requeues_itself_and_goes_on(
    one_process: Callable[[str], Path], tiny_corpus: Path, tmp_path: Path
) -> None:
    """With stand-ins for `srun` and `scontrol`: there is no Slurm here. torchrun is the real one."""
    tools, exp = tmp_path / "bin", tmp_path / "exp"
    tools.mkdir()
    requeued = tmp_path / "requeued"
    for name, text in (
        ("srun", 'exec "$@"'),
        ("scontrol", f'if [ "$1" = show ]; then echo localhost; else echo "$2" >>{requeued}; fi'),
    ):
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tools}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "PYTHONSAFEPATH": "1",
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_GPUS_ON_NODE": "2",
    }
    asked = settings(tiny_corpus, "train.precision=fp64", "train.checkpoint_steps=3")

    def submit() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [ROOT / "recipes/librispeech/slurm.sbatch", exp, *asked],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    job = submit()
    wait_for_step(job, exp, 6)
    job.send_signal(signal.SIGTERM)
    finish(job)
    assert requeued.read_text() == f"{os.getpid()}\n"
    assert not (exp / "model").exists()
    finish(submit())
    assert requeued.read_text().count("\n") == 1
    assert losses(exp, "train") == pytest.approx(
        losses(one_process("fp64"), "train"), rel=BOUNDS["fp64"]
    )


def wait_for_step(process: subprocess.Popen[str], exp: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while max(list_checkpoints(exp / "checkpoints"), default=0) < step:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)


def children(parent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def test_decoding_in_two_processes_writes_the_bytes_of_one(
    one_process: Callable[[str], Path], tiny_corpus: Path, tmp_path: Path
) -> None:
    exp, cuts = one_process("fp64"), tiny_corpus / "test.cuts.jsonl.gz"
    # 6 utterances in batches of one or two
    decode_set(load_model(exp), cuts, tmp_path / "one", max_batch_s=6)
    words = ("--max-batch-s", 6, "--threads", 1, "--device", "cpu", "--out", tmp_path / "two")
    printed = finish(torchrun(2, "decode", "--model", exp, "--cuts", cuts, *words))
    assert printed.count("6 utterances") == 1
    written = [(tmp_path / name / "hypotheses.jsonl").read_bytes() for name in ("one", "two")]
    assert written[0] == written[1]
    described = [
        json.loads((tmp_path / name / "decode.json").read_text()) for name in ("one", "two")
    ]
    assert [each["num_processes"] for each in described] == [1, 2]
    for each in described:
        for key in ("wall_s", "rtf", "num_processes"):
            del each[key]
    assert described[0] == described[1]
