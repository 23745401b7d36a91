"""SIGTERM and SIGINT: training finishes its step, writes a checkpoint and leaves."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_STATUS = 75
"""Of a training that was asked to stop and can go on: EX_TEMPFAIL of sysexits.h, "try again"."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(Exception):
    """Training was asked to stop; its checkpoint is written."""


class StopRequest:
    """Whether someone asked.

    Attributes:
        asked: true from the first signal on. A second Ctrl-C interrupts at once; a second SIGTERM
            changes nothing, for launchers send it to all and torchrun once more to each.
    """

    def __init__(self) -> None:
        self.asked = False


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Listens to the signals while in here; what they did before, they do afterwards."""
    request = StopRequest()
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def listen(number: int, frame: FrameType | None) -> None:
        request.asked = True
        signal.signal(signal.SIGINT, before[signal.SIGINT])

    for number in _SIGNALS:
        signal.signal(number, listen)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
