"""Reading and writing small files of results, with errors that a user can act on."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import io
import json
import math
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from asr.errors import InputError

Files = dict[Path, str | bytes]
"""What is to be written, and where."""

# Of Linux' renameat2, the latter also of macOS' renamex_np.
_HERE, _SWAP = -100, 2
# Of a file's name, which may have 255 bytes, in the name of its unfinished version.
_PREFIX_CHARS = 40
MOST_PACKED = 300  # times its size that a compressed file may hold
_unfinished: set[Path] = set()
_UNPACKED_ANYHOW = 16 << 20  # bytes that take no time worth a bound

_KIND_NAMES = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "an object",
    list: "a list",
}


def read_json_object(path: Path, max_bytes: int | None = None) -> dict[str, Any]:
    """A file that holds one JSON object.

    Raises:
        InputError: it cannot be read, is larger than ``max_bytes``, is not JSON or not an object.
    """
    if max_bytes is not None and path.is_file() and path.stat().st_size > max_bytes:
        raise InputError(f"{path}: {path.stat().st_size} bytes, more than {max_bytes}")
    return parse_object(read_text(path), str(path))


def required(content: dict[str, Any], key: str, kind: type, where: str) -> Any:
    """``content[key]``, or InputError where it is missing or not a ``kind``."""
    value = field(content, key, kind, where)
    if value is None:
        raise InputError(f"{where}: no {key!r}")
    return value


def field(content: dict[str, Any], key: str, kind: type, where: str) -> Any:
    """``content.get(key)``, or InputError where it is not a ``kind`` (float takes int; finite)."""
    value = content.get(key)
    if value is None:
        return None
    # NaN is on no side of a bound
    small = not isinstance(value, (int, float)) or abs(value) <= sys.float_info.max
    if small and kind is float and type(value) is int:
        return float(value)
    if not small or type(value) is not kind:
        raise InputError(f"{where}: {key!r} is {shown(value)}, expected {_KIND_NAMES[kind]}")
    if isinstance(value, str) and not is_unicode(value):
        raise InputError(f"{where}: {key!r} is {value!r}, which is half a character (a surrogate)")
    return value


def shown(value: Any) -> str:
    """Spell a stranger's value in a message: its beginning where it is long."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def is_unicode(text: str) -> bool:
    """False for half a character, and for a file name whose bytes are not UTF-8: Python spells both
    with surrogates, which no file of ours can hold."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def parse_object(text: str, where: str) -> dict[str, Any]:
    """A text that is one JSON object, or InputError."""
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON: {error.msg} (column {error.colno})") from None
    except (
        ValueError,
        RecursionError,
    ):  # what Python's reader does not take, though JSON allows it
        raise InputError(f"{where}: a number too long, or lists too deep, to be read") from None
    if not isinstance(content, dict):
        raise InputError(f"{where}: expected an object {{…}}, found {type(content).__name__}")
    return content


def spell_out(text: str) -> str:
    """``text`` with backslashes in place of what UTF-8 cannot hold: bytes of a file name that is not
    UTF-8, which Python spells as halves of characters; in the C locale it does so with all others."""
    if not is_unicode(text):
        with contextlib.suppress(UnicodeError):
            return os.fsencode(text).decode()
    return text.encode("utf-8", "backslashreplace").decode()


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading that is one: no pipe that waits for ever, no device without an end.

    Raises:
        OSError: it cannot be opened, or is no regular file; ``strerror`` says so.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "a folder, a pipe or a device, not a file", str(path))
    return os.fdopen(handle, "rb")


def read_bytes(path: Path) -> bytes:
    """Read a regular file whole.

    Raises:
        OSError: see ``open_regular``.
    """
    with open_regular(path) as file:
        return file.read()


def most_unpacked(path: Path) -> int:
    """Return to how many bytes a compressed file may unpack before it is refused: text compresses to a
    fifth or a tenth, and little needs no bound.

    Raises:
        OSError: it is not there.
    """
    return max(_UNPACKED_ANYHOW, MOST_PACKED * path.stat().st_size)


def read_text(path: Path, pipes: bool = False) -> str:
    """Read a UTF-8 file, or InputError. ``pipes``: the user named it, so it may be ``<(...)`` too."""
    try:
        file = path.open("rb") if pipes else open_regular(path)
        with io.TextIOWrapper(file, encoding="utf-8") as text:
            return text.read()
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text") from None


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where they are missing, or InputError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot make this folder: {error.strerror}") from None


def check_writable(folder: Path) -> None:
    """Make a folder where it is missing, or InputError, also where it takes no files."""
    make_folder(folder)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{folder}: cannot write into this folder: {error.strerror}") from None


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file (text as UTF-8), and its folder where missing: there whole or not at all.

    Raises:
        InputError: the folder cannot be made or written to, or the disk is full.
    """
    make_folder(path.parent)
    try:
        with unfinished(path) as temporary:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise InputError(f"{path}: cannot write: {error.strerror}") from None
    except UnicodeEncodeError:
        raise InputError(f"{path}: cannot write: half a character in it (a surrogate)") from None


@contextlib.contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """Yield a new file beside ``path`` to write to; renamed at the end, or gone after an error."""
    _check_replaceable(path)
    # a part of the name, or the longest that a file may have would be too long here
    prefix = f".{path.name[:_PREFIX_CHARS]}."
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix)
    os.close(handle)
    temporary = Path(name)
    _unfinished.add(temporary)
    try:
        yield temporary
        # mkstemp makes files for the owner's eyes only; results are read by others.
        temporary.chmod(0o666 & ~umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        _unfinished.discard(temporary)


def remove_unfinished() -> None:
    """Remove what ``unfinished`` has made and not renamed yet: this process is about to end."""
    for temporary in list(_unfinished):
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _check_replaceable(path: Path) -> None:
    """Refuse what a renamed file would take the place of: devices, pipes, links to open files.

    Other links are replaced, not followed: in a stranger's folder they may point anywhere.

    Raises:
        OSError: it is something else than a file.
    """
    with contextlib.suppress(FileNotFoundError):
        is_open_file = path.is_symlink() and os.readlink(path).startswith("/proc/")
        if is_open_file or not stat.S_ISREG(path.stat().st_mode):
            raise OSError(errno.EINVAL, "a folder, a pipe or a device, not a file", str(path))


def write_all(files: Files) -> None:
    """Write files that belong together, each whole; none where a folder cannot be made.

    Raises:
        InputError: a folder cannot be made or written to, or the disk is full.
    """
    for path in files:
        make_folder(path.parent)
    for path, content in files.items():
        write_atomically(path, content)


def exchange(first: Path, second: Path) -> None:
    """Swap two files or folders of one file system, so that at each moment both names are there.

    Raises:
        OSError: the operating system or the file system (some of networks) cannot.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    names = (os.fsencode(first), os.fsencode(second))
    try:
        if sys.platform == "darwin":
            failed = libc.renamex_np(*names, _SWAP)
        else:
            failed = libc.renameat2(_HERE, names[0], _HERE, names[1], _SWAP)
    except AttributeError:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
    if failed:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(second))


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content.

    Raises:
        InputError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open_regular(path) as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror}") from None
    return digest.hexdigest()


def finite(value: Any) -> Any:
    """The same dicts, lists and values, None in place of numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def umask() -> int:
    """Return what this process takes from the mode of the files that it makes."""
    current = os.umask(0)
    os.umask(current)
    return current
