"""``sigmoid-asr`` and ``sigmoid-attention``: what each holds, and how one mends what the other takes.

Environments are real ones, which see torch and the rest behind themselves and take nothing from a
network; ``tools/kernels_alone.sh`` makes empty ones.
"""

from __future__ import annotations

import email
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from dataclasses import dataclass
from email.message import Message
from importlib.util import find_spec
from pathlib import Path

import pytest
import sigmoid_attention

import asr
from asr.distributions import LOST, REPAIR, describe, mixed

ROOT = Path(__file__).parents[1]
KERNELS = ROOT / "kernels"
PACKAGE = "sigmoid_attention"
IGNORED = ("__pycache__", "*.egg-info", "build", "dist", ".*_cache", ".hypothesis")
SITE = Path(sysconfig.get_paths()["purelib"])
# In a process of its own: setuptools puts itself in the place of distutils.
BUILD = """
import sys
from setuptools import build_meta
out = sys.argv[1]
build_meta.build_wheel(out)
build_meta.build_sdist(out)
"""
ONE_CALL = """
import sys
from importlib.util import find_spec
import torch
from sigmoid_attention import Weighting, attend
q = torch.randn(1, 2, 5, 8, requires_grad=True)
attend(q, q, q, weighting=Weighting.sigmoid()).sum().backward()
assert q.grad.isfinite().all()
print(find_spec("asr"), sorted({"lhotse", "sentencepiece"} & set(sys.modules)))
"""

pytestmark = pytest.mark.skipif(find_spec("setuptools") is None, reason="setuptools: not installed")


def files_below(folder: Path) -> dict[str, bytes]:
    """The files that a checkout would hold: contents by path, compiled ones left out."""
    hidden = shutil.ignore_patterns(*IGNORED)
    found = {}
    for parent, folders, names in os.walk(folder):
        ignored = hidden(parent, [*folders, *names])
        folders[:] = [name for name in folders if name not in ignored]
        for name in set(names) - ignored:
            path = Path(parent, name)
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


@dataclass(frozen=True)
class Built:
    source: Path
    wheels: dict[str, Path]
    sdists: dict[str, Path]

    def contents(self, name: str) -> dict[str, bytes]:
        with zipfile.ZipFile(self.wheels[name]) as wheel:
            return {path: wheel.read(path) for path in wheel.namelist()}

    def metadata(self, name: str) -> Message:
        (path,) = (path for path in self.contents(name) if path.endswith("/METADATA"))
        return email.message_from_bytes(self.contents(name)[path])


def build(folder: Path, out: Path) -> tuple[Path, Path]:
    """Return wheel and sdist of a source folder."""
    subprocess.run([sys.executable, "-c", BUILD, out], cwd=folder, check=True, capture_output=True)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    source = tmp_path_factory.mktemp("source")
    for folder in ("asr", "kernels"):
        ignored = shutil.ignore_patterns(*IGNORED)
        shutil.copytree(ROOT / folder, source / folder, ignore=ignored)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    made = {
        name: build(folder, tmp_path_factory.mktemp(name))
        for name, folder in (("sigmoid-attention", source / "kernels"), ("sigmoid-asr", source))
    }
    wheels, sdists = ({name: both[i] for name, both in made.items()} for i in (0, 1))
    return Built(source, wheels, sdists)


def test_one_version(built: Built) -> None:
    assert sigmoid_attention.__version__ == asr.__version__
    for name in REPAIR:
        assert built.metadata(name)["Version"] == asr.__version__
        assert built.metadata(name)["Name"] == name
    assert f"## {asr.__version__} " in (KERNELS / "CHANGELOG.md").read_text()


def test_the_wheel_alone_is_the_package_its_metadata_and_its_licence(built: Built) -> None:
    contents = built.contents("sigmoid-attention")
    package = files_below(KERNELS / "sigmoid_attention")
    assert {"attention.cpp", "triton/census.json", "triton/forward.py", "py.typed"} <= set(package)
    info = f"sigmoid_attention-{asr.__version__}.dist-info"
    described = {"METADATA", "RECORD", "WHEEL", "top_level.txt", "licenses/LICENSE"}
    assert set(contents) == {
        *(f"sigmoid_attention/{path}" for path in package),
        *(f"{info}/{path}" for path in described),
    }
    for path, content in package.items():
        assert contents[f"sigmoid_attention/{path}"] == content
    assert contents[f"{info}/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()


def test_the_whole_carries_the_same_modules(built: Built) -> None:
    alone, whole = (
        {path: held for path, held in built.contents(name).items() if path.split("/")[0] == PACKAGE}
        for name in ("sigmoid-attention", "sigmoid-asr")
    )
    assert alone == whole
    assert {path.split("/")[0] for path in built.contents("sigmoid-asr")} == {
        *("asr", "sigmoid_attention", f"sigmoid_asr-{asr.__version__}.dist-info")
    }


def test_it_needs_torch_and_triton_and_nothing_else(built: Built) -> None:
    alone, whole = (
        {re.sub(r"[\s\"']", "", text) for text in built.metadata(name).get_all("Requires-Dist")}
        for name in ("sigmoid-attention", "sigmoid-asr")
    )
    needed = {text for text in alone if "extra==" not in text}
    assert {re.split("[^a-z]", text)[0] for text in needed} == {"torch", "triton"}
    assert [text for text in needed if text.endswith(";platform_system==Linux")]
    assert needed <= whole
    pythons = {built.metadata(name)["Requires-Python"] for name in REPAIR}
    assert pythons == {">=3.10"}


def test_the_sdist_holds_what_its_folder_holds(built: Built) -> None:
    with tarfile.open(built.sdists["sigmoid-attention"]) as archive:
        names = {entry.name.partition("/")[2] for entry in archive.getmembers() if entry.isfile()}
    made = {name for name in names if name.startswith("sigmoid_attention.egg-info/")}
    assert names - made == {*files_below(KERNELS), "PKG-INFO", "setup.cfg"}
    assert {"tests/conftest.py", "tests/support/interpreter.py"} <= names


class Environment:
    """A virtual environment that sees the packages of this one behind its own."""

    def __init__(self, folder: Path):
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        scripts = Path(sysconfig.get_path("scripts", vars={"base": str(folder)}))
        self.folder, self.scripts = folder, scripts
        (site,) = folder.glob("lib/python*/site-packages")
        (site / "behind.pth").write_text(f"{SITE}\n")
        self.site = site

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        hidden = ("PYTHONPATH", "PIP_USER", "VIRTUAL_ENV")
        kept = {name: value for name, value in os.environ.items() if name not in hidden}
        environment = {
            **kept,
            "SIGMOID_ATTENTION_CPP": "0",
            "PIP_NO_INDEX": "1",
            "PIP_NO_COMPILE": "1",
        }
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True
        )

    def pip(self, *words: str | Path) -> None:
        done = self.run(sys.executable, "-m", "pip", "--python", self.scripts / "python", *words)
        assert done.returncode == 0, done.stdout + done.stderr

    def install(self, wheel: Path) -> None:
        self.pip("install", "--quiet", "--no-deps", wheel)

    def repair(self, name: str, source: Path) -> None:
        """The command that users are told, from a checkout."""
        program, verb, *words = REPAIR[name].split()
        assert program == "pip"
        self.pip(verb, "--no-build-isolation", *words[:-1], source / words[-1])

    def python(self, code: str) -> str:
        done = self.run(self.scripts / "python", "-c", code)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def described(self) -> list[str]:
        """The lines of ``asr doctor`` on sigmoid_attention, without where it lies."""
        code = f"from asr.distributions import describe; print(*describe('{PACKAGE}'), sep='\\n')"
        first, *rest = self.python(code).splitlines()
        start = f"sigmoid_attention imported from {self.site.resolve() / PACKAGE}, "
        assert first.startswith(start)
        # of an older version, the editable installation behind the environment may be named
        here = [line for line in rest if "installed elsewhere" not in line]
        return [first.removeprefix(start), *here]


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    if find_spec("pip") is None:
        pytest.skip("pip: not installed")
    if (SITE / "sigmoid_attention").exists():
        pytest.skip(
            "sigmoid_attention is installed here, and would be seen behind every environment"
        )
    return Environment(tmp_path / "venv")


def test_alone_it_computes_and_brings_nothing_else(built: Built, environment: Environment) -> None:
    environment.install(built.wheels["sigmoid-attention"])
    assert environment.python(ONE_CALL) == "None []"
    installed = {path.name for path in environment.site.glob("*.dist-info")}
    assert installed == {f"sigmoid_attention-{asr.__version__}.dist-info"}


def test_both_together_and_either_mends_what_the_other_takes(
    built: Built, environment: Environment
) -> None:
    version = asr.__version__
    alone, whole = f"sigmoid-attention {version}", f"sigmoid-asr {version}"
    environment.install(built.wheels["sigmoid-attention"])
    environment.install(built.wheels["sigmoid-asr"])
    first, note = environment.described()
    assert {*first.removeprefix("part of ").split(" and ")} == {alone, whole}
    assert re.fullmatch(
        f"note +({alone} and {whole}|{whole} and {alone}) share these files.*", note
    )

    environment.pip("uninstall", "--yes", "--quiet", "sigmoid-attention")
    done = environment.run(environment.scripts / "asr", "doctor")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"asr: error: {LOST}\n")
    environment.repair("sigmoid-asr", built.source)
    assert environment.described() == [f"part of {whole}"]

    environment.install(built.wheels["sigmoid-attention"])
    environment.pip("uninstall", "--yes", "--quiet", "sigmoid-asr")
    assert not (environment.site / PACKAGE).exists()
    environment.repair("sigmoid-attention", built.source)
    assert files_below(environment.site / PACKAGE) == files_below(KERNELS / PACKAGE)


def test_the_later_of_two_versions_is_named(
    built: Built, environment: Environment, tmp_path: Path
) -> None:
    version = asr.__version__
    other = tmp_path / "other"
    shutil.copytree(built.source / "kernels", other, ignore=shutil.ignore_patterns(*IGNORED))
    init = other / "sigmoid_attention" / "__init__.py"
    init.write_text(init.read_text().replace(f'"{version}"', '"9.8.7"'))
    (tmp_path / "out").mkdir()
    newer, _ = build(other, tmp_path / "out")

    environment.install(built.wheels["sigmoid-asr"])
    environment.install(newer)
    first, note, overwritten = environment.described()
    assert first == "part of sigmoid-attention 9.8.7"
    assert "share these files" in note
    assert f"not the files of sigmoid_attention that sigmoid-asr {version} installed" in overwritten
    assert overwritten.endswith(REPAIR["sigmoid-asr"])
    (line,) = environment.python(
        "from asr.distributions import mixed; print(*mixed())"
    ).splitlines()
    assert f"asr is version {version} and sigmoid_attention 9.8.7" in line
    environment.repair("sigmoid-asr", built.source)
    first, _, overwritten = environment.described()
    assert first == f"part of sigmoid-asr {version}"
    assert "not the files of sigmoid_attention that sigmoid-attention 9.8.7" in overwritten
    assert overwritten.endswith(REPAIR["sigmoid-attention"])


def test_an_editable_installation_brings_what_lies_below_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, url in (("sigmoid-attention", KERNELS.as_uri()), ("sigmoid-asr", tmp_path.as_uri())):
        info = tmp_path / f"{name.replace('-', '_')}-3.2.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 3.2.1\n")
        (info / "top_level.txt").write_text("sigmoid_attention\n")
        told = json.dumps({"dir_info": {"editable": True}, "url": url})
        (info / "direct_url.json").write_text(told)
    monkeypatch.syspath_prepend(tmp_path)
    line, *notes = describe("sigmoid_attention")
    assert "sigmoid-attention 3.2.1" in line.partition("part of ")[2]
    assert "sigmoid-asr 3.2.1" not in line
    elsewhere = "sigmoid-asr 3.2.1 is installed elsewhere and not imported"
    assert [note for note in notes if note.endswith(elsewhere)]
    assert mixed() == []
    told = json.dumps({"dir_info": {"editable": True}, "url": ROOT.as_uri()})
    (tmp_path / "sigmoid_asr-3.2.1.dist-info" / "direct_url.json").write_text(told)
    line, *notes = describe("sigmoid_attention")
    assert {"sigmoid-attention 3.2.1", "sigmoid-asr 3.2.1"} <= set(
        line.partition("part of ")[2].split(" and ")
    )
    assert not [note for note in notes if "share" in note]  # neither copied its files here


def test_the_page_tells_the_commands_that_mend() -> None:
    page = (ROOT / "docs" / "distributions.md").read_text()
    for command in REPAIR.values():
        assert f"\n{command}" in page
