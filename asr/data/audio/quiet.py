"""Silence for C libraries: libmpg123, inside libsndfile, prints a line to stderr per damaged frame."""

from __future__ import annotations

import ctypes
import os
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

_lock = threading.Lock()
_num_inside = 0
_before: int | None = None
_nowhere: int | None = None


@contextmanager
def quiet_c_library() -> Iterator[None]:
    """Let what C prints to stderr go nowhere; Python's stderr is another and stays.

    With other C libraries than glibc, where the stream cannot be exchanged, it does nothing.
    """
    stderr = _c_stderr()
    if stderr is None:
        yield
        return
    global _num_inside, _before
    with _lock:
        if _num_inside == 0:
            _before, stderr.value = stderr.value, _null_stream()
        _num_inside += 1
    try:
        yield
    finally:
        with _lock:
            _num_inside -= 1
            if _num_inside == 0:
                stderr.value = _before


@cache
def _c_stderr() -> ctypes.c_void_p | None:
    # elsewhere the variable has another name, or cannot be written
    if platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.c_void_p.in_dll(ctypes.CDLL(None), "stderr")


def _null_stream() -> int | None:
    global _nowhere
    if _nowhere is None:
        library = ctypes.CDLL(None)
        library.fopen.restype = ctypes.c_void_p
        _nowhere = library.fopen(os.devnull.encode(), b"we")
    return _nowhere
