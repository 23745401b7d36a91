"""The command line: one verb per file in ``asr/commands``, each a thin call into the package."""

from __future__ import annotations

import argparse
import errno
import io
import os
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from asr import __version__
from asr.commands import (
    align,
    average,
    certify,
    compare,
    completion,
    config,
    decode,
    diagnose,
    doctor,
    export,
    join,
    lm,
    models,
    prepare,
    pull,
    push,
    score,
    shard,
    stream,
    subset,
    train,
    transcribe,
    tune,
)
from asr.commands.parser import EXAMPLES, Parser
from asr.errors import InputError, InputWarning
from asr.files import remove_unfinished
from asr.stderr import tell

# In the order of `asr --help`. Everything heavy is imported inside a command's run(), so that
# `asr --help` answers at once.
COMMANDS = (
    prepare,
    subset,
    join,
    shard,
    train,
    average,
    lm,
    decode,
    score,
    transcribe,
    stream,
    align,
    tune,
    export,
    models,
    compare,
    diagnose,
    certify,
    push,
    pull,
    config,
    completion,
    doctor,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status (2: the input was wrong)."""
    words = sys.argv[1:] if argv is None else argv
    if sys.stderr is None:  # closed: complaints would go to standard output
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # what its encoding (latin-1, ASCII) lacks costs that character, not the command
        sys.stdout.reconfigure(errors="backslashreplace")
    given = argparse.Namespace(command=shlex.join(["asr", *words]))
    args = _parser().parse_all(words, given)
    run: Callable[[argparse.Namespace], int] = args.run
    try:
        _check_outputs(args)
        with _warnings_in_one_line(), _tidy_at_sigterm():
            code = run(args)
        if sys.stdout is not None:
            sys.stdout.flush()  # while an error can still be told
        return code
    except InputError as error:
        tell("error", error)
        return 2
    except KeyboardInterrupt:
        tell("", "interrupted")
        return 130
    except BrokenPipeError:
        # the reader of our output went away, as `head` does: not an error of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except ModuleNotFoundError as error:
        if error.name != "sigmoid_attention":
            raise
        from asr.distributions import LOST  # 20 ms that no other command needs

        tell("error", LOST)
        return 2
    except OSError as error:
        # the machine's doing, not the code's: a full disk, a folder that went away, a permission
        where = f"{error.filename}: " if error.filename else ""
        tell("error", f"{where}{error.strerror or error}")
        if sys.stdout is not None and error.errno == errno.ENOSPC:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is unprinted
        return 2


# Options that name what is written; whatever else names a file is read.
_OUTPUTS = ("out", "html", "json")


def _check_outputs(args: argparse.Namespace) -> None:
    """Refuse to write over a file that is read.

    Raises:
        InputError: the two are one.
    """
    given = vars(args)
    values = [(name, one) for name, each in given.items() for one in _each(each)]
    for name, out in values:
        if name not in _OUTPUTS or not isinstance(out, Path) or not out.is_file():
            continue
        for other, path in values:
            if (
                other not in _OUTPUTS
                and isinstance(path, Path)
                and path.is_file()
                and path.samefile(out)
            ):
                raise InputError(
                    f"--{name} {out}: would be written over, and is read; name another"
                )


def _each(value: object) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


@contextmanager
def _tidy_at_sigterm() -> Iterator[None]:
    """Remove half-written files before SIGTERM ends this process, unless someone listens already."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield
        return

    def tidy(number: int, frame: FrameType | None) -> None:
        remove_unfinished()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, tidy)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    with warnings.catch_warnings():
        # once for each text, however often a command comes by
        from sigmoid_attention.weightings import LoopWarning  # where it is lost, main() says so

        warnings.simplefilter("default", InputWarning)
        warnings.simplefilter("default", LoopWarning)
        show = warnings.showwarning

        def show_one(message: Warning | str, category: type[Warning], *where: Any) -> None:
            if issubclass(category, InputWarning | LoopWarning):
                tell("warning", message)
            else:
                show(message, category, *where)

        warnings.showwarning = show_one  # type: ignore[assignment]
        yield


def _parser() -> Parser:
    parser = Parser(
        prog="asr", description="Speech recognition whose attention is a choice of two words."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.set_defaults(root=parser)
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(verbs)
    for name, example in EXAMPLES.items():
        verbs.choices[name].epilog = f"example:\n  {example}"
    return parser


if __name__ == "__main__":
    sys.exit(main())
