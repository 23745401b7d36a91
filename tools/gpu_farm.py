"""Many processes that work through units of cases, for the programs that run on a GPU.

A worker is the program itself with --worker: it reads a unit per line of standard input and calls
`begin` and `end` for each case. An illegal access poisons its process for good, and a kernel may
hang; so a worker that dies or takes too long over a case is replaced, the case is named, and the
rest of its unit goes on without it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MARK = "@@ "
FATAL = "cuda poisoned"  # a worker's word for: this process can do nothing more

Unit = dict[str, Any]
Record = dict[str, Any]


def say(**what: Any) -> None:
    """One message of a worker."""
    print(MARK + json.dumps(what), flush=True)


def begin(name: str) -> None:
    say(begin=name)


def end(record: Record) -> None:
    say(end=record)


def poisoned(problem: BaseException) -> bool:
    """Whether after this error the process's CUDA context is lost."""
    words = (
        "illegal memory access",
        "misaligned address",
        "device-side assert",
        "unspecified launch",
    )
    return any(word in str(problem) for word in words)


def work(run_unit: Callable[[Unit], None]) -> None:
    """A worker's life."""
    for line in sys.stdin:
        unit = json.loads(line)
        run_unit(unit)
        say(done=unit["name"])


@dataclass
class Worker:
    """One process and what it has said so far."""

    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    rest: bytes = b""
    errors: Any = None

    def send(self, unit: Unit) -> None:
        if self.process is None or self.process.poll() is not None:
            self.stop()
            self.errors = tempfile.TemporaryFile()  # noqa: SIM115
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(
                self.command, stdin=pipe, stdout=pipe, stderr=self.errors
            )
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(unit).encode() + b"\n")
        self.process.stdin.flush()

    def messages(self, until: Callable[[], float]) -> Iterator[dict[str, Any]]:
        """What the worker says; ends when it dies or until() has passed."""
        assert self.process is not None
        assert self.process.stdout is not None
        stream = self.process.stdout.fileno()
        while True:
            left = until() - time.monotonic()
            ready, _, _ = select.select([stream], [], [], max(0.0, left))
            if not ready:
                return
            read = os.read(stream, 1 << 16)
            if not read:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(5.0)
                return
            *lines, self.rest = (self.rest + read).split(b"\n")
            for line in lines:
                text = line.decode(errors="replace")
                if text.startswith(MARK):
                    yield json.loads(text[len(MARK) :])

    def last_words(self) -> str:
        if self.errors is None:
            return ""
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        return " | ".join(lines[-4:])[-600:]

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process, self.rest = None, b""


@dataclass
class Farm:
    """Deals units out to `processes` workers; `records` is what came back.

    first_s and case_s: what the first case of a unit (it compiles) and each other may take.
    """

    command: list[str]
    processes: int
    limit_s: float
    first_s: float = 60.0
    case_s: float = 20.0
    records: list[Record] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    on_record: Callable[[list[Record]], None] | None = None

    def run(self, units: list[Unit]) -> list[Record]:
        self.deadline = time.monotonic() + self.limit_s
        self.queue = list(units)
        self.lock = threading.Lock()
        count = min(self.processes, len(units))
        threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, self.deadline - time.monotonic()) + 5.0)
        with self.lock:
            self.left_over += [unit["name"] for unit in self.queue]
            self.queue = []
        return self.records

    def _next(self) -> Unit | None:
        with self.lock:
            if not self.queue or time.monotonic() > self.deadline:
                return None
            return self.queue.pop(0)

    def _serve(self) -> None:
        worker = Worker(self.command)
        while (unit := self._next()) is not None:
            skip: list[str] = []
            while self._run_once(worker, {**unit, "skip": skip}, skip):
                pass
        worker.stop()

    def _run_once(self, worker: Worker, unit: Unit, skip: list[str]) -> bool:
        """Whether the unit must be sent again, without those in `skip`."""
        limit = [time.monotonic() + self.first_s]
        current = ""
        try:
            worker.send(unit)
        except OSError:
            worker.stop()
            return not skip and time.monotonic() < self.deadline
        for message in worker.messages(lambda: min(limit[0], self.deadline)):
            if "begin" in message:
                current = message["begin"]
            elif "end" in message:
                record = message["end"]
                self._keep(record)
                skip.append(current)
                current = ""
                limit[0] = time.monotonic() + self.case_s
                if FATAL in record.get("failed", ""):
                    worker.stop()
                    return True
            elif "done" in message:
                return False
        late = time.monotonic() > self.deadline
        why = "not finished in time" if worker.process and worker.process.poll() is None else "died"
        worker.stop()
        words = worker.last_words()
        if late:
            with self.lock:
                self.left_over.append(current or unit["name"])
            return False
        self._keep({"name": current or unit["name"], "failed": f"process {why}: {words}"})
        skip.append(current)
        return bool(current)

    def _keep(self, record: Record) -> None:
        with self.lock:
            self.records.append(record)
            if self.on_record:
                self.on_record(self.records)


def write(path: Path, whole: dict[str, Any]) -> None:
    """At once or not at all: a run may be cut off anywhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(whole, indent=1) + "\n")
    new.replace(path)


def first_line(problem: BaseException) -> str:
    """Return the first line of what went wrong."""
    lines = [line for line in str(problem).splitlines() if line.strip()] or [""]
    return f"{type(problem).__name__}: {lines[0][:160]}"
