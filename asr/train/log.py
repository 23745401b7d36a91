"""What training writes down: ``log.jsonl`` always, TensorBoard beside it, others by a file of one's
own."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from torch.utils.tensorboard import SummaryWriter

from asr.errors import InputError
from asr.run_folder import RunFolder


class Tracker(Protocol):
    """Receives what ``log.jsonl`` receives. A file given as ``asr train --tracker FILE.py`` defines
    ``tracker(run)``, which gets the contents of ``run.json`` and returns one of these."""

    def record(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """One record: "train", "valid", "skipped" and so on."""

    def close(self) -> None:
        """The run ended, well or not."""


class TensorBoard:
    """Numbers as series ``kind/name`` under ``EXP/tensorboard``."""

    def __init__(self, exp: RunFolder, resume_step: int):
        self._writer = SummaryWriter(str(exp.tensorboard), purge_step=resume_step + 1)

    def record(self, kind: str, step: int, values: dict[str, Any]) -> None:
        for name, value in values.items():
            if isinstance(value, float):
                self._writer.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        self._writer.close()


def load_tracker(path: Path, run: dict[str, Any]) -> Tracker:
    """Runs the user's file and its ``tracker(run)``.

    Raises:
        InputError: no such file, or no ``tracker`` in it.
    """
    spec = importlib.util.spec_from_file_location("tracker_of_the_user", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise InputError(f"--tracker {path}: no such Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    make = vars(module).get("tracker")
    if not callable(make):
        raise InputError(f"--tracker {path}: it must define a function tracker(run)")
    return make(run)


class TrainingLog:
    """Appends records to ``EXP/log.jsonl`` and hands them to the trackers.

    A record is one line with ``kind``, ``step`` and values. On resume the file is cut to the length
    that it had at the checkpoint, so that each step appears once.
    """

    def __init__(self, exp: RunFolder, resume_bytes: int, trackers: Sequence[Tracker] = ()):
        """
        Raises:
            InputError: the file is shorter than the checkpoint says: it was changed meanwhile.
        """
        path = exp.log
        there = path.stat().st_size if path.exists() else 0
        if there < resume_bytes:
            raise InputError(
                f"{path}: {there} bytes, but {resume_bytes} when the checkpoint was written; "
                "put the file back"
            )
        self._file = path.open("ab")
        self._file.truncate(resume_bytes)
        self._file.seek(0, os.SEEK_END)
        self._trackers = list(trackers)

    def write(self, kind: str, step: int, **values: Any) -> None:
        """One record."""
        line = json.dumps({"kind": kind, "step": step, **values}) + "\n"
        self._file.write(line.encode())
        self._file.flush()
        for tracker in self._trackers:
            tracker.record(kind, step, values)

    def num_bytes(self) -> int:
        """The file's length, all of it on the disk: for the checkpoint."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        for tracker in self._trackers:
            tracker.close()


class NoLog(TrainingLog):
    """That of every process but the first: what it would write, the first one writes."""

    def __init__(self) -> None:
        pass

    def write(self, kind: str, step: int, **values: Any) -> None:
        pass

    def num_bytes(self) -> int:
        return 0

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass
