"""The compiled engine's cache: what is damaged, of others or writable by others is not loaded."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import sigmoid_attention

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler here")

# The modules under test need nothing of the package, whose import takes two seconds.
PROGRAM = f"""
import json, logging, sys, types
package = types.ModuleType("sigmoid_attention")
package.__path__ = [{os.path.dirname(str(sigmoid_attention.__file__))!r}]
sys.modules["sigmoid_attention"] = package
from sigmoid_attention import cpp_build
logging.basicConfig()
compiled = []
real = cpp_build._compile
cpp_build._compile = lambda built: (compiled.append(1), real(built))
cpp_build.TIMEOUT_S = float(sys.argv[1])
found = cpp_build.engine()
length = found.library and found.library.sigmoid_attention_vector_length()
print(json.dumps([found.state, length, len(compiled)]))
"""


@dataclass(frozen=True)
class Loaded:
    """What one process made of the cache."""

    state: str
    vector_length: int | None
    num_compiled: int
    log: str

    @property
    def works(self) -> bool:
        return bool(self.vector_length)


def start(
    home: Path, program: str = PROGRAM, timeout_s: float = 120, **environment: str
) -> subprocess.Popen:
    cwd = home / "cwd"
    cwd.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", program, str(timeout_s)],
        env={"PATH": os.environ["PATH"], "HOME": str(home), **environment},
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> Loaded:
    out, log = process.communicate()
    assert process.returncode == 0, (process.returncode, log)
    return Loaded(*json.loads(out), log)


def script(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\nfor last; do :; done\n{body}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with the engine in its cache."""
    home = tmp_path_factory.mktemp("home")
    first = finish(start(home))
    assert first.works
    assert first.num_compiled == 1
    assert first.state == f"C++ engine compiled, kept as {library_of(home)}"
    return home


@pytest.fixture(autouse=True)
def compiler(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler that needs no time, since it has compiled this before."""
    path = tmp_path / "bin" / "g++"
    path.parent.mkdir()
    script(path, f"cp {library_of(built)} $last")
    monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def home(tmp_path: Path, compiler: None) -> Path:
    finish(start(tmp_path / "home"))
    return tmp_path / "home"


def library_of(home: Path) -> Path:
    (path,) = (home / ".cache" / "sigmoid_attention").iterdir()
    return path


def test_it_is_compiled_once_and_closed_to_others(home: Path) -> None:
    library = library_of(home)
    assert stat.S_IMODE(library.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(library.stat().st_mode) == 0o600
    again = finish(start(home))
    assert again.works
    assert again.num_compiled == 0
    assert again.state == f"C++ engine loaded from {library}"


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere.so")
    path.symlink_to(path.parent.parent / "elsewhere.so")


def give_away(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files to another user")
    os.chown(path, 65534, 65534)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate, "damaged"),
        (zero, "damaged"),
        (flip, "damaged"),
        (lambda path: os.truncate(path, 0), "damaged"),
        (lambda path: os.truncate(path, 1 << 40), "bytes are too many"),
        (lambda path: path.chmod(0o777), "writable by others"),
        (lambda path: path.chmod(0o620), "writable by others"),
        (give_away, "belongs to another user"),
        (make_pipe, "not a regular file"),
        (link, "not loaded"),
    ],
)
def test_a_library_that_cannot_be_trusted_is_compiled_anew(
    home: Path, damage: Callable[[Path], None], reason: str
) -> None:
    library = library_of(home)
    damage(library)
    mended = finish(start(home))
    assert mended.works
    assert mended.num_compiled == 1
    assert reason in mended.log
    path = library_of(home)
    assert hashlib.sha256(path.read_bytes()).hexdigest() in path.name
    assert not stat.S_IMODE(path.lstat().st_mode) & 0o022
    assert path.lstat().st_uid == os.geteuid()


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_nothing_in_a_folder_that_others_could_write_to_is_loaded(home: Path, mode: int) -> None:
    folder = library_of(home).parent
    folder.chmod(mode)
    found = finish(start(home))
    assert found.works
    assert found.num_compiled == 1
    assert "was writable by others" in found.log
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert finish(start(home)).num_compiled == 0


def test_a_folder_of_another_user_or_in_reach_of_everybody_is_not_used(home: Path) -> None:
    folder = library_of(home).parent
    before = folder.stat().st_mtime_ns
    folder.parent.chmod(0o777)
    found = finish(start(home))
    assert found.works
    assert found.state.startswith("C++ engine compiled for this process alone: ")
    assert f"everybody may write to {folder.parent}" in found.state
    folder.parent.chmod(0o755)
    give_away(folder)
    found = finish(start(home))
    assert found.works
    assert f"{folder} belongs to another user" in found.state
    assert folder.stat().st_mtime_ns == before


def unusable_cache(home: Path, kind: str) -> dict[str, str]:
    """The environment of a process whose cache cannot be written."""
    shutil.rmtree(home / ".cache")
    if kind == "a file":
        (home / ".cache").write_text("")
        return {}
    if not os.path.isdir("/proc/self"):
        pytest.skip("no file system that refuses writing to everybody")
    return {"XDG_CACHE_HOME": "/proc/self"}  # refuses root too


@pytest.mark.parametrize("kind", ["a file", "refuses"])
def test_without_a_cache_it_is_compiled_for_the_process(home: Path, kind: str) -> None:
    tmp = home / "tmp"
    tmp.mkdir()
    found = finish(start(home, TMPDIR=str(tmp), **unusable_cache(home, kind)))
    assert found.works
    assert found.state.startswith("C++ engine compiled for this process alone: ")
    assert list(tmp.iterdir()) == []


def test_the_cache_is_never_relative(home: Path) -> None:
    database = (
        f"import pwd\npwd.getpwuid = lambda uid: types.SimpleNamespace(pw_dir={str(home)!r})\n"
    )
    program = PROGRAM.replace(
        "from sigmoid_attention import", f"{database}from sigmoid_attention import"
    )
    for environment in ({"HOME": "~"}, {"HOME": ""}, {"HOME": "."}, {"XDG_CACHE_HOME": "here"}):
        found = finish(start(home, program, **environment))
        assert found.state == f"C++ engine loaded from {library_of(home)}"
    nobody = program.replace("lambda uid: ", "lambda uid: {}[uid] or ")
    found = finish(start(home, nobody, HOME="~"))
    assert found.works
    assert found.state.endswith(f"alone: user {os.geteuid()} has no home folder")
    assert list((home / "cwd").iterdir()) == []


def test_another_processor_has_a_library_of_its_own(home: Path) -> None:
    """As where two machines share a home folder."""
    program = PROGRAM.replace(
        "compiled = []",
        "from pathlib import Path\nreal_text = Path.read_text\n"
        "Path.read_text = lambda path, *a: 'flags : sse2' if str(path) == '/proc/cpuinfo'"
        " else real_text(path, *a)\ncompiled = []",
    ).replace("length = ", "length = 0 and ")
    assert finish(start(home, program)).num_compiled == 1
    assert len(list((home / ".cache" / "sigmoid_attention").iterdir())) == 2


def test_two_processes_at_once_leave_one_library(tmp_path: Path) -> None:
    both = [start(tmp_path) for _ in range(2)]
    for found in map(finish, both):
        assert found.works
    assert finish(start(tmp_path)).state.endswith(str(library_of(tmp_path)))


def test_a_process_killed_while_it_writes_leaves_nothing_that_is_loaded(tmp_path: Path) -> None:
    program = PROGRAM.replace(
        "found = ",
        "import os, signal\n"
        "sys.addaudithook(lambda event, args: event == 'os.rename'"
        " and os.kill(os.getpid(), signal.SIGKILL))\nfound = ",
    )
    killed = start(tmp_path, program)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert not list(tmp_path.rglob("attention-*.so"))
    again = finish(start(tmp_path))
    assert again.works
    assert again.num_compiled == 1


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("sleep 300 & wait", "took more than 0.5 s"),
        ("echo the disk is full >&2; exit 1", "the disk is full"),
        ("exit 0", "No such file"),
        (': > "$last"', "file too short"),
        ("kill -9 $$", "ended with -9"),
    ],
)
def test_a_compiler_that_fails_leaves_the_torch_engine(
    tmp_path: Path, body: str, reason: str
) -> None:
    timeout_s = 0.5 if "sleep" in body else 120
    found = finish(start(tmp_path, PROGRAM, timeout_s, CXX=script(tmp_path / "cxx", body)))
    assert not found.works
    assert reason in found.state
    assert found.state.startswith("C++ engine not used: ")
    assert found.state.endswith("; pure torch serves")
    assert "\n" not in found.state
