"""Who may import whom: the one page of the design, checked over the real import statements."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Low to high: a module may import from its own row and from the rows above it in this list.
RANKS = [
    ["sigmoid_attention"],
    [
        "asr",
        "asr.errors",
        "asr.files",
        "asr.locks",
        "asr.markdown",
        "asr.printable",
        "asr.processes",
        "asr.provenance",
        "asr.runtime",
        "asr.stderr",
        "asr.weights_file",
        "asr.wer",
    ],
    ["asr.config"],
    ["asr.nn", "asr.text"],
    ["asr.model", "asr.data"],
    ["asr.probe", "asr.search", "asr.lm"],
    ["asr.train", "asr.decode", "asr.transcribe", "asr.compare", "asr.examine"],
    ["asr.api", "asr.share", "asr.doctor"],
    ["asr.commands"],
    ["asr.cli"],
]
# Neighbours that do not see each other: the first imports nothing of the second.
APART = [
    ("asr.nn", "asr.text"),
    ("asr.text", "asr.nn"),
    ("asr.model", "asr.data"),
    ("asr.data", "asr.model"),
    ("asr.lm", "asr.search"),
    ("asr.search", "asr.probe"),
    ("asr.probe", "asr.search"),
    *(
        ("asr.train", name)
        for name in ("asr.decode", "asr.transcribe", "asr.compare", "asr.examine")
    ),
    *(
        (name, "asr.train")
        for name in ("asr.decode", "asr.transcribe", "asr.compare", "asr.examine")
    ),
    ("asr.transcribe", "asr.decode"),
    ("asr.transcribe", "asr.compare"),
    ("asr.transcribe", "asr.examine"),
    ("asr.decode", "asr.compare"),
    ("asr.decode", "asr.examine"),
    ("asr.compare", "asr.examine"),
]


def package_of(module: str) -> str:
    known = [
        name for row in RANKS for name in row if module == name or module.startswith(name + ".")
    ]
    return max(known, key=len)


def imports() -> list[tuple[str, str]]:
    found = []
    for folder, prefix in ((ROOT / "asr", "asr"), (ROOT / "kernels/sigmoid_attention", "")):
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder.parent).with_suffix("").parts
            module = ".".join(part for part in parts if part != "__init__")
            for node in ast.walk(ast.parse(path.read_text())):
                names: list[str] = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.level == 0:
                    names = [node.module or ""]
                    if node.module == "asr":
                        names = [f"asr.{alias.name}" for alias in node.names]
                ours = ("asr", "sigmoid_attention")
                found += [(module, name) for name in names if name.split(".")[0] in ours]
        assert prefix == "" or found
    return found


def rank(module: str) -> int:
    package = package_of(module)
    return next(i for i, row in enumerate(RANKS) if package in row)


def test_nobody_imports_upwards_or_sideways() -> None:
    for importer, imported in imports():
        assert rank(imported) <= rank(importer), f"{importer} imports {imported}, which is above it"
        for below, other in APART:
            assert not (package_of(importer) == below and package_of(imported) == other), (
                f"{importer} imports {imported}"
            )
        if importer.startswith("sigmoid_attention"):
            assert not imported.startswith("asr")


def test_config_imports_nothing_of_ours_but_its_own_parts() -> None:
    imported = {name for importer, name in imports() if package_of(importer) == "asr.config"}
    assert {name for name in imported if package_of(name) != "asr.config"} == {"asr.errors"}


def test_attention_library_works_where_asr_cannot_be_imported() -> None:
    code = """
import sys
sys.modules["asr"] = None
import torch
from sigmoid_attention import Weighting, attend
q = torch.randn(1, 2, 5, 8)
assert attend(q, q, q, weighting=Weighting.sigmoid()).shape == q.shape
try:
    import asr
except ImportError:
    print("blocked")
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "blocked", run.stderr


def test_imports_do_not_pull_in_kernels_plotting_or_the_compiler() -> None:
    # torch.library imports the package triton by itself; our kernels must wait until they are asked for.
    # torch._dynamo alone takes as long as all the rest.
    heavy = ("sigmoid_attention.triton", "matplotlib", "torch._dynamo")
    code = f"""
import importlib, sys
for module in ("asr.cli", "sigmoid_attention", "asr.api", "asr.train.loop"):
    importlib.import_module(module)
    print(module, [name for name in {heavy} if name in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [line.split(" ", 1)[1] for line in run.stdout.splitlines()] == ["[]"] * 4, run.stdout
