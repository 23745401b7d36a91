"""Calls compiled in many processes at once, which keep them until they are timed one after another.

What one process compiles with PyTorch another compiles again, at least in part, and 30 calls take
minutes so. A worker therefore prepares calls, waits, and times them when nobody else uses the card.
Its two kinds of units are told apart by `step`: "prepare" and "measure".
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import gpu_farm
from gpu_farm import Record, Unit, Worker

LOST = "the process that held it was lost"
GRACE_S = 10.0  # beyond the limit, for what was begun before it


@dataclass
class Pool:
    """`processes` workers; `held`: which worker holds what; `failed`: why others are not held."""

    command: list[str]
    processes: int
    held: dict[str, Worker] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    left_over: list[str] = field(default_factory=list)
    took_s: dict[str, float] = field(default_factory=dict)  # of each contender's last unit

    def prepare(self, units: list[Unit], limit_s: float) -> None:
        """Deal units out until all are held or the time is up; a unit whose like took so long that
        it would end late is not begun, another is."""
        self.deadline = time.monotonic() + limit_s
        self.queue = list(units)
        self.lock = threading.Lock()
        count = min(self.processes, len(units))
        self.workers = [Worker(self.command) for _ in range(count)]
        threads = [
            threading.Thread(target=self._serve, args=[w], daemon=True) for w in self.workers
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, self.deadline - time.monotonic()) + GRACE_S + 5.0)
        self.left_over += [unit["name"] for unit in self.queue]

    def measure(self, unit: Unit, limit_s: float) -> Record:
        """A held unit's record, or why there is none."""
        worker = self.held[unit["name"]]
        record = self._ask(worker, {**unit, "step": "measure"}, time.monotonic() + limit_s)
        if gpu_farm.FATAL in record.get("failed", ""):
            self._lose(worker)
        return record

    def stop(self) -> None:
        """End every worker."""
        for worker in self.workers:
            worker.stop()

    def _next(self) -> Unit | None:
        with self.lock:
            now = time.monotonic()
            for at, unit in enumerate(self.queue):
                if now + self.took_s.get(unit["contender"], 0.0) < self.deadline:
                    return self.queue.pop(at)
        return None

    def _serve(self, worker: Worker) -> None:
        while (unit := self._next()) is not None:
            record = self._ask(worker, {**unit, "step": "prepare"}, self.deadline + GRACE_S)
            with self.lock:
                self.took_s[unit["contender"]] = record.get("took_s", 0.0)
                if record.get("failed"):
                    self.failed[unit["name"]] = record["failed"]
                else:
                    self.held[unit["name"]] = worker
            if gpu_farm.FATAL in record.get("failed", ""):
                self._lose(worker)

    def _ask(self, worker: Worker, unit: Unit, until: float) -> Record:
        """What the worker answers; a poisoned, dead or late one is `FATAL`."""
        record: Record = {}
        began = time.monotonic()
        try:
            worker.send({**unit, "skip": []})
        except OSError:
            return {"failed": f"{gpu_farm.FATAL}: died: {worker.last_words()}"}
        for message in worker.messages(_constant(until)):
            if "begin" in message:
                began = time.monotonic()  # before that it imports
            elif "end" in message:
                record = {**message["end"], "took_s": time.monotonic() - began}
            elif "done" in message:
                return record
        alive = worker.process is not None and worker.process.poll() is None
        why = "not finished in time" if alive else f"died: {worker.last_words()}"
        return {"failed": f"{gpu_farm.FATAL}: process {why}"}

    def _lose(self, worker: Worker) -> None:
        worker.stop()
        with self.lock:
            for name in [name for name, holder in self.held.items() if holder is worker]:
                del self.held[name]
                self.failed[name] = LOST


def _constant(value: float) -> Callable[[], float]:
    return lambda: value
