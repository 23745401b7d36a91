"""One process at a time writes into a folder: a lock that ends with the process that holds it."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from asr.errors import InputError
from asr.files import make_folder
from asr.stderr import tell

# What flock says of a file system that has no locks, such as NFS without its lock daemon.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF)


@contextlib.contextmanager
def locked(folder: Path, name: str = "") -> Iterator[None]:
    """Hold ``folder``, made if missing, for this process until the block ends.

    The lock is a flock of a hidden file, which the kernel releases when the process dies, however it
    does. Where the file system has none a warning goes to stderr and the block runs all the same. An
    empty folder that was made for the lock is removed again.

    Args:
        name: of what is written there, where several processes may write different things.

    Raises:
        InputError: another process holds it; the folder cannot be made or written to.
    """
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    make_folder(folder)
    path = folder / (f".{name[:60]}.lock" if name else ".lock")
    try:
        handle = _take(path)
        try:
            yield
        finally:
            if handle is not None:
                with contextlib.suppress(OSError):
                    path.unlink()  # before the lock is released, see _take
                os.close(handle)
    finally:
        with contextlib.suppress(OSError):  # not empty
            for parent in made:
                parent.rmdir()


def _take(path: Path) -> int | None:
    """An open file that holds the lock; None where there are no locks."""
    if sys.platform == "win32":
        return None
    import fcntl

    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise InputError(f"{path}: cannot write: {error.strerror}") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(handle, 200, 0).decode(errors="replace")
            os.close(handle)
            if error.errno in _NO_LOCKS:
                tell(
                    "warning",
                    f"{path.parent}: this file system has no locks ({error.strerror}); two processes "
                    "that write here would damage each other",
                )
                return None
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise InputError(f"{path}: cannot lock: {error.strerror}") from None
            who = f" ({' '.join(holder.split())})" if holder.strip() else ""
            raise InputError(
                f"{path.parent}: another process{who} writes into this folder; wait for its end "
                "or name another folder"
            ) from None
        if _is_at(handle, path):
            with contextlib.suppress(OSError):  # a full disk; it only tells others who it is
                os.truncate(handle, 0)
                os.pwrite(handle, f"pid {os.getpid()} on {socket.gethostname()}"[:38].encode(), 0)
            return handle
        os.close(handle)  # its holder removed it in between


def _is_at(handle: int, path: Path) -> bool:
    try:
        there, ours = path.stat(), os.fstat(handle)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)
