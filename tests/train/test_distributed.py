"""Several processes give what one gives, and end together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from asr import config
from asr.evaluate.decode import decode_set
from asr.model_folder import load_model
from asr.train.checkpoint import list_checkpoints
from asr.train.loop import train

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
]
# relative to one process: what float64 and float32 leave of a sum in another order
BOUNDS = {"fp64": 1e-10, "fp32": 1e-5}


def settings(corpus: Path, *more: str) -> list[str]:
    dev = f"data.dev=[{corpus}/dev.cuts.jsonl.gz]"
    return [*SETTINGS, f"data.train=[{corpus}/train.cuts.jsonl.gz]", dev, *more]


def losses(exp: Path, kind: str) -> list[float]:
    lines = [json.loads(line) for line in (exp / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == kind]


def torchrun(num_processes: int, *words: object) -> subprocess.Popen[str]:
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", num_processes]
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, launch), "-m", "asr.cli", *map(str, words)],
        env={**os.environ, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


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
    printed = finish(torchrun(2, "train", "--exp", exp, *settings(tiny_corpus, *asked)))
    assert f"2 processes, {parallel.capitalize()}" in printed
    for kind in ("train", "valid"):
        expected, found = losses(one_process(precision), kind), losses(exp, kind)
        assert len(found) >= (50 if kind == "train" else 5)
        assert found == pytest.approx(expected, rel=BOUNDS[precision])
    assert (exp / "model" / "model.safetensors").is_file()


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
