"""Who may import whom: the one page of the design, checked over the real import statements."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Low to high: a module may import from its own row and from the rows above it in this list.
RANKS = [
    ["sigmoid_attention"],
    [
        "asr",
        "asr.box",
        "asr.columns",
        "asr.distributions",
        "asr.errors",
        "asr.files",
        "asr.formats",
        "asr.locks",
        "asr.markdown",
        "asr.pictures",
        "asr.printable",
        "asr.processes",
        "asr.provenance",
        "asr.run_folder",
        "asr.runtime",
        "asr.stderr",
        "asr.weights_file",
        "asr.weights_sums",
        "asr.wer",
    ],
    ["asr.config"],
    ["asr.nn", "asr.text"],
    ["asr.heads"],
    ["asr.data.draws", "asr.data.speakers"],
    ["asr.data.audio"],
    ["asr.data.store"],
    ["asr.model", "asr.data.corpora", "asr.data"],
    ["asr.probe", "asr.search", "asr.lm"],
    ["asr.train", "asr.decode", "asr.transcribe", "asr.compare", "asr.examine"],
    ["asr.api", "asr.share", "asr.doctor"],
    ["asr.commands"],
    ["asr.cli"],
]
# Neighbours that do not see each other: the first, and all in it, imports nothing of the second.
EVALUATION = ("asr.decode", "asr.transcribe", "asr.compare", "asr.examine")
APART = [
    ("asr.nn", "asr.text"),
    ("asr.text", "asr.nn"),
    ("asr.model", "asr.data"),
    ("asr.data", "asr.model"),
    ("asr.lm", "asr.search"),
    ("asr.search", "asr.probe"),
    ("asr.probe", "asr.search"),
    *(("asr.train", name) for name in EVALUATION),
    *((name, "asr.train") for name in EVALUATION),
    *(("asr.transcribe", name) for name in ("asr.decode", "asr.compare", "asr.examine")),
    *(("asr.decode", name) for name in ("asr.compare", "asr.examine")),
    ("asr.compare", "asr.examine"),
    ("asr.examine", "asr.compare"),
]
# Comparing reads what decoding wrote: none of its modules leads to one of these, by whatever way.
NOT_TO_COMPARE = ("asr.model", "asr.search", "asr.lm", "asr.probe", "asr.decode.decode")


def lies_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def package_of(module: str) -> str:
    return max((name for row in RANKS for name in row if lies_in(module, name)), key=len)


def modules() -> dict[str, Path]:
    """Every module of ours by its name."""
    found = {}
    for folder in (ROOT / "asr", ROOT / "kernels/sigmoid_attention"):
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder.parent).with_suffix("").parts
            found[".".join(part for part in parts if part != "__init__")] = path
    return found


@functools.cache
def imports() -> list[tuple[str, str]]:
    """(importer, module imported), wherever in the importer the statement stands."""
    found = []
    known = modules()
    for module, path in known.items():
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = resolve_name("." * node.level + (node.module or ""), package)
                inside = [f"{base}.{alias.name}" for alias in node.names]
                names = [name if name in known else base for name in inside]
            found += [(module, name) for name in dict.fromkeys(names) if name in known]
    assert len(found) > len(known)
    return found


def rank(module: str) -> int:
    package = package_of(module)
    return next(i for i, row in enumerate(RANKS) if package in row)


def test_nobody_imports_upwards_or_sideways() -> None:
    for importer, imported in imports():
        assert rank(imported) <= rank(importer), f"{importer} imports {imported}, which is above it"
        for below, other in APART:
            assert not (lies_in(importer, below) and lies_in(imported, other)), (
                f"{importer} imports {imported}"
            )
        if importer.startswith("sigmoid_attention"):
            assert not imported.startswith("asr")


def test_comparing_leads_to_no_model_and_no_search() -> None:
    leads_to: dict[str, set[str]] = {}
    for importer, imported in imports():
        leads_to.setdefault(importer, set()).add(imported)
    reached = {module for module in modules() if lies_in(module, "asr.compare")}
    waiting = [*reached]
    while waiting:
        found = leads_to.get(waiting.pop(), set()) - reached
        reached |= found
        waiting += found
    wrong = {m for m in reached if any(lies_in(m, name) for name in NOT_TO_COMPARE)}
    assert not wrong
    assert "asr.decode.decoded" in reached


def test_no_circle_of_imports() -> None:
    """Whichever module is imported first, none waits for itself."""
    graph: dict[str, set[str]] = {}
    for importer, imported in imports():
        if not lies_in(importer, imported):  # a package that is loaded already
            graph.setdefault(importer, set()).add(imported)
    TopologicalSorter(graph).prepare()  # raises CycleError, which names them


def test_config_imports_nothing_of_ours_but_its_own_parts() -> None:
    imported = {name for importer, name in imports() if package_of(importer) == "asr.config"}
    assert {name for name in imported if package_of(name) != "asr.config"} == {
        "asr.errors",
        "asr.formats",
        "sigmoid_attention.weightings",
    }


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
for module in ("asr.cli", "sigmoid_attention", "asr.api", "asr.train.run"):
    importlib.import_module(module)
    print(module, [name for name in {heavy} if name in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [line.split(" ", 1)[1] for line in run.stdout.splitlines()] == ["[]"] * 4, run.stdout


def test_shapes_of_models_are_found_without_the_compiler() -> None:
    code = """
import sys
from asr.config import load
from asr.lm.neural import NeuralConfig, NeuralLm
from asr.model.recogniser import weight_shapes
from asr.nn.outline import outlines
print(len(weight_shapes(load(overrides=["model.heads=[ctc,attention]"]), 30)))
with outlines():
    print(len(NeuralLm(NeuralConfig(("a", "b", "c"))).state_dict()))
print("torch._dynamo" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heads, lm, compiler = run.stdout.split()
    assert min(int(heads), int(lm)) > 1
    assert compiler == "False"


def test_the_configuration_and_its_table_of_weightings_need_no_torch() -> None:
    code = "import asr.config, sys; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
