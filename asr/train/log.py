"""What training writes down: ``log.jsonl`` always, TensorBoard series beside it."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from asr.files import write_atomically


class TrainingLog:
    """Appends records to ``EXP/log.jsonl``; numbers also go to ``EXP/tensorboard``.

    A record is one line with ``kind`` ("train", "valid", "skipped"), ``step`` and numbers. On resume
    the lines after the checkpoint's step are cut off, so each step appears once.
    """

    def __init__(self, exp: Path, tensorboard: bool, resume_step: int):
        self.path = exp / "log.jsonl"
        kept = [line for line in self._lines() if json.loads(line)["step"] <= resume_step]
        write_atomically(self.path, "".join(kept) if resume_step else "")
        self._file = self.path.open("a", encoding="utf-8")
        self._writer = (
            SummaryWriter(str(exp / "tensorboard"), purge_step=resume_step + 1)
            if tensorboard
            else None
        )

    def _lines(self) -> list[str]:
        if not self.path.is_file():
            return []
        with self.path.open(encoding="utf-8") as file:
            # a kill may have left the last line unfinished
            return [line for line in file if line.endswith("\n")]

    def write(self, kind: str, step: int, **values: Any) -> None:
        """One record."""
        self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self._file.flush()
        if self._writer is not None:
            for name, value in values.items():
                if isinstance(value, float):
                    self._writer.add_scalar(f"{kind}/{name}", value, step)

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if self._writer is not None:
            self._writer.close()
