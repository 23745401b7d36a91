"""Run a command in a forked process: what happens to it does not happen to this one."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from asr.cli import main

CRASHED = 70  # EX_SOFTWARE: an exception that the command does not handle


@dataclass(frozen=True)
class Ending:
    """How a command ended: its exit status (negative: the signal that killed it) and its stderr."""

    code: int
    error: str


def run_forked(
    words: Sequence[object], seconds: int, before: Callable[[], object] = lambda: None
) -> Ending:
    """Run ``asr WORDS`` in a process that has everything imported already; its stdout is dropped.

    Args:
        seconds: SIGALRM kills the process after that.
        before: runs there first: limits, signals.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()  # not a file: its size would be limited too
    pid = os.fork()
    if pid == 0:
        code = CRASHED
        try:
            os.close(reader)
            os.dup2(writer, 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
            sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
            # under a limit of file sizes it would be truncated, here and in what this starts
            sys.dont_write_bytecode = True
            os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
            signal.alarm(seconds)
            before()
            code = main([str(word) for word in words])
        except SystemExit as stop:
            code = int(stop.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        error = pipe.read().decode(errors="replace")
    _, status = os.waitpid(pid, 0)
    return Ending(os.waitstatus_to_exitcode(status), error)
