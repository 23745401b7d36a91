"""Python's compiled files: a process under limits must not write them, and all must be whole.

CPython (before 3.12.8 and 3.13.1) does not notice that a disk took only a part of a ``.pyc``, and from
then on every import of that module fails, in whatever process.
"""

from __future__ import annotations

import marshal
from collections.abc import Iterable, Iterator
from pathlib import Path

HEADER_BYTES = 16  # magic number, flags, time or hash, size


def damaged_bytecode(folders: Iterable[Path]) -> Iterator[Path]:
    """Yield the ``.pyc`` files below ``folders`` that Python could not load."""
    for folder in folders:
        for path in sorted(folder.rglob("__pycache__/*.pyc")):
            try:
                content = path.read_bytes()
                whole = len(content) >= HEADER_BYTES and marshal.loads(content[HEADER_BYTES:])
            except FileNotFoundError:  # another process replaces it
                continue
            except (EOFError, ValueError, TypeError):
                whole = False
            if not whole:
                yield path
