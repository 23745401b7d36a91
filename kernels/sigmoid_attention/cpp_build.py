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
import shutil
import subprocess
import tempfile
from pathlib import Path

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("attention.cpp")
INCLUDED = Path(__file__).with_name("products.cpp")
FLAGS = [
    *("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math"),
    *("-fopenmp", "-shared", "-fPIC"),
]
TIMEOUT_S = 120


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled engine, or None with the reason logged once."""
    reason = _unavailable()
    if reason:
        logger.info("C++ engine not used: %s; pure torch serves", reason)
        return None
    path = _cache_folder() / f"attention-{_fingerprint()}.so"
    try:
        if not path.exists():
            _compile(path)
        loaded = ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError) as error:
        details = getattr(error, "stderr", None) or error
        logger.warning("C++ engine not used: %s; pure torch serves", details)
        return None
    for name in ("sigmoid_attention_forward", "sigmoid_attention_backward"):
        getattr(loaded, name).argtypes = [ctypes.c_void_p]
        getattr(loaded, name).restype = None
    loaded.sigmoid_attention_vector_length.restype = ctypes.c_int64
    logger.info("C++ engine loaded from %s", path)
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


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "sigmoid_attention"


def _fingerprint() -> str:
    """Source, flags, compiler and processor: what the built code depends on."""
    processor = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        processor = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    compiler = os.path.realpath(_compiler() or "")
    parts = [SOURCE.read_text(), INCLUDED.read_text(), " ".join(FLAGS), compiler, processor]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def command(source: str | Path, built: str | Path) -> list[str]:
    """The compiler's command line for a shared library."""
    return [str(_compiler()), *FLAGS, str(source), "-o", str(built)]


def _compile(path: Path) -> None:
    """Build beside the target and move it there, so that two processes cannot meet half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        built = os.path.join(folder, "attention.so")
        subprocess.run(
            command(SOURCE, built), check=True, capture_output=True, text=True, timeout=TIMEOUT_S
        )
        os.replace(built, path)
