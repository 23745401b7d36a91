"""Compile attention.cpp at run time, keep the result in the user's cache, and say what happened.

Nothing here is needed for a result: without a compiler the pure torch engine serves. The engine is
loaded when a backend is resolved, never at import. SIGMOID_ATTENTION_CPP=0 turns it off.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .library_cache import cache_folder, find_libraries, keep_library

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("attention.cpp")
INCLUDED = [Path(__file__).with_name(name) for name in ("products.cpp", "weightings.cpp")]
FLAGS = [
    *("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math"),
    *("-fopenmp", "-shared", "-fPIC"),
]
TIMEOUT_S = 120


@dataclass(frozen=True)
class Engine:
    """The compiled engine, or None; ``state`` says where it comes from, or why there is none."""

    library: ctypes.CDLL | None
    state: str


def library() -> ctypes.CDLL | None:
    """The compiled engine, or None; see ``engine`` for the reason."""
    return engine().library


@functools.cache
def engine() -> Engine:
    """Load the engine from the cache, or compile it; what happened is logged once."""
    reason = _unavailable()
    if reason is None:
        try:
            found = _load_or_compile()
            logger.info("%s", found.state)
            return found
        except (OSError, AttributeError) as error:
            reason = _line(error)
            logger.warning("C++ engine not used: %s; pure torch serves", reason)
    else:
        logger.info("C++ engine not used: %s; pure torch serves", reason)
    return Engine(None, f"C++ engine not used: {reason}; pure torch serves")


def _load_or_compile() -> Engine:
    stem, folder, doubt = f"attention-{_fingerprint()}", None, ""
    try:
        folder = cache_folder()
    except OSError as error:
        doubt = _line(error)
    for path in find_libraries(folder, stem) if folder else ():
        try:
            return Engine(_open(path), f"C++ engine loaded from {path}")
        except (OSError, AttributeError) as error:  # built where another C library is
            doubt = _line(error)
    # a library stays usable after its file is deleted
    with tempfile.TemporaryDirectory(
        prefix="sigmoid-attention-", ignore_cleanup_errors=True
    ) as private:
        built = Path(private, "attention.so")
        _compile(built)
        if folder:
            try:
                path = keep_library(folder, stem, built.read_bytes())
                return Engine(_open(path), f"C++ engine compiled, kept as {path}")
            except (OSError, AttributeError) as error:
                doubt = _line(error)
        return Engine(_open(built), f"C++ engine compiled for this process alone: {doubt}")


def _open(path: Path) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(path))
    for name in ("sigmoid_attention_forward", "sigmoid_attention_backward"):
        getattr(loaded, name).argtypes = [ctypes.c_void_p]
        getattr(loaded, name).restype = None
    loaded.sigmoid_attention_vector_length.restype = ctypes.c_int64
    loaded.sigmoid_attention_weighting.argtypes = [ctypes.c_char_p]
    loaded.sigmoid_attention_weighting.restype = ctypes.c_int64
    return loaded


def _unavailable() -> str | None:
    if os.environ.get("SIGMOID_ATTENTION_CPP", "1") == "0":
        return "SIGMOID_ATTENTION_CPP is 0"
    if os.name != "posix":
        return f"no build for {os.name}"
    if _compiler() is None:
        return "no C++ compiler (g++ or $CXX) on the path"
    return None


def _compiler() -> str | None:
    return shutil.which(os.environ.get("CXX", "g++"))


def _fingerprint() -> str:
    """Source, flags, compiler and processor: what the built code depends on.

    Machines that share a home folder may have different processors, and code for the instructions of
    one ends a process on the other.
    """
    processor = platform.node()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        processor = next((x for x in lines if x.startswith(("flags", "Features"))), processor)
    compiler = os.path.realpath(_compiler() or "")
    parts = [path.read_text() for path in (SOURCE, *INCLUDED)]
    parts += [" ".join(FLAGS), compiler, processor, platform.machine()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def command(source: str | Path, built: str | Path) -> list[str]:
    """The compiler's command line for a shared library."""
    return [str(_compiler()), *FLAGS, str(source), "-o", str(built)]


def _compile(built: Path) -> None:
    """
    Raises:
        OSError: the compiler cannot be run, refuses, or hangs: it is killed with all it started.
    """
    with subprocess.Popen(
        command(SOURCE, built),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as compiler:
        try:
            output, _ = compiler.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(compiler.pid, signal.SIGKILL)
            raise TimeoutError(f"{_compiler()} took more than {TIMEOUT_S} s") from None
        except BaseException:  # Ctrl-C does not reach another session
            os.killpg(compiler.pid, signal.SIGKILL)
            raise
    if compiler.returncode:
        raise OSError(f"{_compiler()} ended with {compiler.returncode}: {output}")


def _line(error: BaseException) -> str:
    """One line of at most 300 characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:297] + "..."
