"""Compiled libraries of one user, kept between processes and loaded only if nobody else wrote them.

A library's name ends in the SHA-256 sum of its content, so that a single rename puts both in place
and a file that was truncated, damaged or swapped is recognised before it is loaded: the dynamic
loader itself ends the process at such a file.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

MAX_BYTES = 1 << 26
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def cache_folder() -> Path:
    """Return the folder of this user's libraries: ``$XDG_CACHE_HOME`` or ``~/.cache``, never relative.

    It is made where it is missing. A folder of this user that others may write to is closed to them
    and emptied, since what lies in it may be theirs.

    Raises:
        OSError: it cannot be used; the message says which folder and why.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.join(_home(), ".cache")
    folder = Path(base, "sigmoid_attention")
    for part in (*reversed(folder.parents), folder):
        part.mkdir(mode=0o700, exist_ok=True)
    folder = folder.resolve()
    status = folder.stat()
    if status.st_uid != os.geteuid():
        raise PermissionError(f"{folder} belongs to another user")
    for above in folder.parents:
        mode = above.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise PermissionError(f"{folder} can be replaced: everybody may write to {above}")
    if status.st_mode & _OTHERS_WRITE:
        logger.warning("%s was writable by others: closed to them and emptied", folder)
        folder.chmod(0o700)
        for path in folder.glob("*.so"):
            path.unlink(missing_ok=True)
    return folder


def _home() -> str:
    home = os.environ.get("HOME", "")
    if not os.path.isabs(home):
        import pwd  # POSIX only, as the compiled engine

        with contextlib.suppress(KeyError):
            home = pwd.getpwuid(os.geteuid()).pw_dir
    if not os.path.isabs(home):
        raise FileNotFoundError(f"user {os.geteuid()} has no home folder")
    return home


def find_libraries(folder: Path, stem: str) -> Iterator[Path]:
    """Yield the intact libraries ``STEM-SHA256.so``; damaged ones of that stem are deleted."""
    for path in sorted(folder.glob(f"{stem}-*.so")):
        reason = _refusal(path)
        if reason is None:
            yield path
            continue
        logger.warning("%s: %s; not loaded", path, reason)
        with contextlib.suppress(OSError):
            path.unlink()


def keep_library(folder: Path, stem: str, content: bytes) -> Path:
    """Write ``STEM-SHA256.so``: there whole and on the disk, or not at all.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """
    path = folder / f"{stem}-{hashlib.sha256(content).hexdigest()}.so"
    handle, temporary = tempfile.mkstemp(prefix=".", dir=folder)
    try:
        with open(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(handle)
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    return path


def _refusal(path: Path) -> str | None:
    """Return why a library must not be loaded, or None. Reads nothing but regular files of this user."""
    try:
        # without blocking: a named pipe would wait for its writer
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        return str(error.strerror)
    with open(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            return "not a regular file"
        if status.st_uid != os.geteuid():
            return "belongs to another user"
        if status.st_mode & _OTHERS_WRITE:
            return "writable by others"
        if status.st_size > MAX_BYTES:
            return f"{status.st_size} bytes are too many"
        if hashlib.sha256(file.read()).hexdigest() != path.stem.rpartition("-")[2]:
            return "damaged: its SHA-256 sum is not the one in its name"
    return None
