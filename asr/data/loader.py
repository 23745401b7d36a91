"""Batches read ahead, by a thread or by other processes, and what happens when something cannot be read.

PyTorch's DataLoader is not used: when one of its workers dies it raises from a signal handler, in the
middle of whatever the main process was computing, and does not say what the worker was reading.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import signal
import sys
import traceback
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait

import numpy as np
import torch
from torch import multiprocessing

from asr.data.audio.samples import AudioError
from asr.data.dataset import Utterances
from asr.data.examples import Batch, Example, collate
from asr.data.store.manifest import LeftOut
from asr.errors import InputError

# Batches that the thread or each worker has to do or has done before they are asked for.
AHEAD = 2
# This many deaths without a batch in between are no accident.
MAX_DEATHS_IN_A_ROW = 20
# Deaths over one utterance before it is given up: the first may have had another cause.
DEATHS_PER_UTTERANCE = 2

_JOIN_TIMEOUT_S = 10.0

# Importing takes seconds: the server does it once, for every worker of every loader.
if sys.platform == "win32":
    _START = multiprocessing.get_context("spawn")
else:
    _START = multiprocessing.get_context("forkserver")
_START.set_forkserver_preload(["asr.data.loader"])


@dataclass(frozen=True)
class _Task:
    """A batch to read; nobody reads its ``deadly`` utterances any more."""

    number: int
    epoch: int
    indices: list[int]
    deadly: frozenset[int] = frozenset()


@dataclass(frozen=True)
class _Failure:
    """Traceback of a worker's failure that is no fault of the data."""

    trace: str


class Loader:
    """A reader of batches ahead: in a thread, or in processes that live as long as the loader.

    A thread is enough as long as one core reads faster than the model computes: decoding and
    resampling do not hold the interpreter. It costs neither a start nor memory.

    Where ``max_unreadable`` is None an utterance that cannot be read is an error. Else it costs that
    utterance: it is missing from its batch and named in the batch's ``left_out``, until more than
    this share of all utterances was lost (a share above 0 always allows one). A batch may so become
    empty.

    Attributes:
        left_out: utterances that could not be read so far, by id.
        num_deaths: worker processes that died so far. Each is replaced and its work done again, so
            that a kill costs nothing; an utterance over which two died counts as unreadable.
    """

    def __init__(
        self,
        dataset: Utterances,
        num_workers: int = 0,
        pin_memory: bool = False,
        max_unreadable: float | None = None,
    ) -> None:
        """
        Args:
            num_workers: processes; 0 is a thread of this one. They are no forks of this one, which
                holds CUDA or threads and could hang, but of a server that has imported all they need.
            pin_memory: hand out batches in page-locked memory.
            max_unreadable: the share of the utterances that may be lost; None: none.
        """
        self._dataset = dataset
        self._num_workers = num_workers
        self._pin_memory = pin_memory
        self._max_unreadable = max_unreadable
        self._workers: list[_Worker] = []
        self._numbers = itertools.count()
        self._deaths: Counter[int] = Counter()
        self._deaths_in_a_row = 0
        self.num_deaths = 0
        self.left_out: dict[str, LeftOut] = {}

    def epoch(self, epoch: int, batches: Iterable[Sequence[int] | np.ndarray]) -> Iterator[Batch]:
        """The batches in their order, whatever iterable they come from; an empty one stays empty.

        Raises:
            InputError: audio that cannot be read, or too much of it; see the class.
        """
        tasks = (_Task(next(self._numbers), epoch, [int(i) for i in batch]) for batch in batches)
        for batch in self._by_workers(tasks) if self._num_workers else self._by_thread(tasks):
            self._count(batch.left_out)
            yield batch.pin_memory() if self._pin_memory else batch

    def _by_thread(self, tasks: Iterator[_Task]) -> Iterator[Batch]:
        thread = ThreadPoolExecutor(1, "loader")

        def submit(count: int) -> Iterator[Future[Batch]]:
            for task in itertools.islice(tasks, count):
                yield thread.submit(_read, self._dataset, task, ctypes.c_longlong())

        try:
            waiting = deque(submit(AHEAD))
            while waiting:
                batch = waiting.popleft().result()
                waiting.extend(submit(1))
                yield batch
        finally:  # also where an epoch is broken off
            thread.shutdown(cancel_futures=True)

    def _by_workers(self, tasks: Iterator[_Task]) -> Iterator[Batch]:
        """Hands out a few tasks more than were asked for; their results come back in order."""
        while len(self._workers) < self._num_workers:
            self._workers.append(_Worker(self._dataset))
        for worker in self._workers:
            worker.todo.clear()  # what an epoch that was broken off left behind
        waiting: deque[int] = deque()
        done: dict[int, Batch] = {}
        while True:
            for task in itertools.islice(tasks, AHEAD * self._num_workers - len(waiting)):
                waiting.append(task.number)
                min(self._workers, key=lambda worker: len(worker.todo)).give(task)
            if not waiting:
                return
            while waiting[0] not in done:
                self._receive(done)
            yield done.pop(waiting.popleft())

    def _receive(self, done: dict[int, Batch]) -> None:
        """Waits until a worker has read a batch or died."""
        ready = wait([worker.connection for worker in self._workers])
        for place, worker in enumerate(self._workers):
            if worker.connection not in ready:
                continue
            try:
                number, result = worker.connection.recv()
            except (EOFError, OSError):  # OSError: it died before its tensors were fetched
                self._workers[place] = self._replace(worker)
                continue
            if isinstance(result, _Failure):
                raise RuntimeError(f"a loader worker failed:\n{result.trace}")
            self._deaths_in_a_row = 0
            if worker.todo and worker.todo[0].number == number:
                worker.todo.popleft()
                done[number] = result

    def _replace(self, dead: _Worker) -> _Worker:
        """A new worker with the dead one's tasks."""
        self.num_deaths += 1
        self._deaths_in_a_row += 1
        if self._deaths_in_a_row > MAX_DEATHS_IN_A_ROW:
            dead.process.join(_JOIN_TIMEOUT_S)
            raise InputError(
                f"loader workers die again and again (exit status {dead.process.exitcode}): "
                f"is there memory, and shared memory (/dev/shm), for data.num_workers = "
                f"{self._num_workers}?"
            )
        self._deaths[dead.reading.value] += 1
        deadly = {i for i, count in self._deaths.items() if count >= DEATHS_PER_UTTERANCE}
        fresh = _Worker(self._dataset)
        for task in dead.todo:
            fresh.give(replace(task, deadly=frozenset(deadly.intersection(task.indices))))
        return fresh

    def _count(self, left_out: Sequence[LeftOut]) -> None:
        if not left_out:
            return
        if self._max_unreadable is None:
            raise InputError(left_out[0].detail)
        self.left_out.update((item.id, item) for item in left_out)
        allowed = self._max_unreadable * len(self._dataset)
        if len(self.left_out) > (max(allowed, 1.0) if allowed else 0.0):
            raise InputError(
                f"{len(self.left_out)} of {len(self._dataset)} utterances could not be read, more than "
                f"data.max_unreadable = {self._max_unreadable:g} allows: see to the storage or raise "
                f"it; the last: {left_out[-1].detail}"
            )


class _Worker:
    """A process that reads batches one after the other.

    Attributes:
        todo: tasks given and not yet answered; the first is the one it is at.
        reading: index of the utterance it is at (shared memory, so a death leaves it), or -1.
    """

    def __init__(self, dataset: Utterances) -> None:
        self.connection, theirs = _START.Pipe()
        self.reading = _START.RawValue(ctypes.c_longlong, -1)
        self.todo: deque[_Task] = deque()
        self.process = _START.Process(
            target=_work, args=(dataset, theirs, self.reading), daemon=True
        )
        self.process.start()
        theirs.close()  # so that its death ends the connection

    def give(self, task: _Task) -> None:
        self.todo.append(task)
        # To a dead worker: whoever receives finds out, and its successor gets the task.
        with contextlib.suppress(OSError):
            self.connection.send(task)


def _work(dataset: Utterances, connection: Connection, reading: ctypes.c_longlong) -> None:
    """A worker process' life, until its loader is gone."""
    torch.set_num_threads(1)
    # Ctrl-C reaches every process of a terminal; the main process decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(EOFError, OSError):
        while True:
            task = connection.recv()
            try:
                result: Batch | _Failure = _read(dataset, task, reading)
            except Exception:
                result = _Failure(traceback.format_exc())
            connection.send((task.number, result))


def _read(dataset: Utterances, task: _Task, reading: ctypes.c_longlong) -> Batch:
    examples: list[Example] = []
    left_out: list[LeftOut] = []
    for index in task.indices:
        if index in task.deadly:
            name = dataset.ids[index]
            reason = "loader workers died reading it"
            left_out.append(LeftOut(name, reason, f"{name}: {reason}"))
            continue
        reading.value = index
        try:
            examples.append(dataset[task.epoch, index])
        except InputError as error:
            reason = error.reason if isinstance(error, AudioError) else "unreadable audio"
            left_out.append(LeftOut(dataset.ids[index], reason, str(error)))
    reading.value = -1
    return collate(examples, dataset.sample_rate, left_out)


def iterate(
    dataset: Utterances, batches: Iterable[np.ndarray], num_workers: int = 0, epoch: int = 0
) -> Iterator[Batch]:
    """``Loader`` for a single pass in which every utterance must be readable."""
    yield from Loader(dataset, num_workers).epoch(epoch, batches)
