"""Lines on standard error: whole, one each, and never the end of what they are about."""

from __future__ import annotations

import contextlib
import os
import sys

from asr.printable import printable


def tell(kind: str, message: object) -> None:
    """Print ``asr: KIND: MESSAGE`` as one line in which nothing steers a terminal.

    Where standard error takes nothing (a full disk, a reader that went away) the line is lost, and so
    are those that follow: what the command does counts for more.
    """
    line = f"asr: {kind}: " if kind else "asr: "
    try:
        print(line + printable(" ".join(str(message).split())), file=sys.stderr, flush=True)
    except (OSError, ValueError):
        # what is left in the buffer would turn the exit status into 120
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
