"""docs/adding-a-variant.md holds changes to this tree: each must apply, and do what the page says."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "adding-a-variant.md"


def change(section: str) -> str:
    """The diff in the section of the page with this heading."""
    text = PAGE.read_text(encoding="utf-8").split(f"\n## {section}\n")[1].split("\n## ")[0]
    return text.split("```diff\n")[1].split("```")[0]


def changed_tree(section: str, tmp_path: Path) -> Path:
    """A copy of the tree with the section's change in it."""
    for name in ("asr", "kernels", "tests", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    patch = ["patch", "--strip=1", "--fuzz=0", "--directory", str(tmp_path)]
    if shutil.which("patch") is None:
        pytest.skip("the program `patch` is not installed")
    done = subprocess.run(patch, input=change(section), text=True, check=True, capture_output=True)
    assert "offset" not in done.stdout, f"run tools/renumber_changes.py:\n{done.stdout}"
    return tmp_path


def run(tree: Path, *command: str, **variables: str) -> str:
    path = os.pathsep.join([str(tree), str(tree / "kernels")])
    environment = {**os.environ, **variables, "PYTHONPATH": path}
    environment.pop("PYTHONSAFEPATH", None)
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=tree, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


WEIGHTING = "A weighting: `cosine`"


def test_a_weighting_takes_two_places_and_its_word_is_known(tmp_path: Path) -> None:
    assert change(WEIGHTING).count("\n+++ ") == 2
    tree = changed_tree(WEIGHTING, tmp_path)
    config = run(tree, "asr.cli", "config", "attention.weighting=cosine")
    assert "attention.weighting = 'cosine'" in config


FUSED = "A fused weighting: `softsign`"


def test_a_fused_weighting_takes_four_places_and_its_word_is_known(tmp_path: Path) -> None:
    assert change(FUSED).count("\n+++ ") == 4
    tree = changed_tree(FUSED, tmp_path)
    options = ["attention.weighting=softsign", "attention.backend=triton"]
    assert "attention.weighting = 'softsign'" in run(tree, "asr.cli", "config", *options)


@pytest.mark.slow
def test_a_fused_weighting_passes_its_tests_in_every_engine(tmp_path: Path) -> None:
    tree = changed_tree(FUSED, tmp_path)
    options = "-q -p no:cacheprovider -m not\\ slow -k softsign -rA"
    pytest_of = ("pytest", *shlex.split(options))
    rows = ["test_backends.py", "test_weightings.py", "test_empty.py", "test_loop_warning.py"]
    said = run(tree, *pytest_of, *(f"kernels/tests/{name}" for name in rows))
    for one in ("torch[many-", "cpp["):  # both beside the reference
        assert (
            f"PASSED kernels/tests/test_backends.py::test_blockwise_{one}softsign-relative" in said
        )
    assert "passed" in run(tree, *pytest_of, "tests/test_variants.py")
    if find_spec("triton") is None:
        pytest.skip("triton is not installed: neither interpreted nor compiled")
    rows = ["test_triton.py", "test_triton_backward.py"]
    interpreted = [f"kernels/tests/{name}" for name in rows]
    said = run(tree, *pytest_of, *interpreted, TRITON_INTERPRET="1")
    ran = "kernels/tests/test_triton.py::test_positions_and_masks[relative-lens-softsign]"
    assert f"PASSED {ran}" in said
    census = ("sigmoid_attention.triton.census", "--only", "sm_90/d64/bf16/alibi/runs/softsign")
    assert "4 compiled, 0 beyond a bound" in run(tree, *census, "--write")


ENCODER = "An encoder: `squeezeformer`"


def test_an_encoder_takes_one_new_file_and_its_entries(tmp_path: Path) -> None:
    diff = change(ENCODER)
    assert diff.count("\n+++ ") == 4
    assert diff.count("\n--- /dev/null") == 1
    tree = changed_tree(ENCODER, tmp_path)
    said = run(tree, "asr.cli", "config", "encoder.kind=squeezeformer", "encoder.causal=true")
    assert "encoder.kind = 'squeezeformer'" in said
    test = "tests/nn/test_layers.py::test_a_kind_reads_the_options_that_it_declares_and_no_other"
    assert "1 passed" in run(
        tree, "pytest", "-q", "-p", "no:cacheprovider", f"{test}[squeezeformer]"
    )


HEAD = "A head: `monotonic`"


def test_a_head_takes_a_new_file_an_entry_and_its_search(tmp_path: Path) -> None:
    diff = change(HEAD)
    files = [line.removeprefix("+++ b/") for line in diff.splitlines() if line.startswith("+++ ")]
    assert [file for file in files if file.startswith("asr/heads/")] == [
        "asr/heads/monotonic.py",
        "asr/heads/table.py",
    ]
    tree = changed_tree(HEAD, tmp_path)
    said = run(tree, "pytest", "-q", "-p", "no:cacheprovider", "tests/heads", "-k", "monotonic")
    assert "3 passed" in said


@pytest.mark.slow
def test_a_model_with_that_head_is_trained_and_decoded(tmp_path: Path, tiny_corpus: Path) -> None:
    tree = changed_tree(HEAD, tmp_path)
    manifests = [f"data.{part}=[{tiny_corpus / part}.cuts.jsonl.gz]" for part in ("train", "dev")]
    size = ["encoder.num_layers=1", "encoder.dim=16", "encoder.ff_dim=16", "attention.num_heads=2"]
    rest = ["tokenizer.kind=char", "encoder.subsampling_channels=2", "train.epochs=1"]
    words = ["--exp", str(tmp_path / "exp"), "model.heads=[monotonic]", *manifests, *size, *rest]
    run(tree, "asr.cli", "train", *words, "train.global_batch_s=20", "train.max_batch_s=20")
    test = str(tiny_corpus / "test.cuts.jsonl.gz")
    model, out = str(tmp_path / "exp"), tmp_path / "decoded"
    run(tree, "asr.cli", "decode", "--model", model, "--cuts", test, "--out", str(out))
    assert len((out / "hyp.trn").read_text().splitlines()) == 6
    for command in (["align", "--cuts", test], ["export"]):
        words = [*command, "--model", model, "--out", str(tmp_path / "out.onnx")]
        with pytest.raises(AssertionError, match="asr: error: this model has no ctc head"):
            run(tree, "asr.cli", *words)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("section", "rows"),
    [
        (WEIGHTING, ["kernels/tests/test_backends.py", "tests/test_variants.py"]),
        (ENCODER, ["tests/test_variants.py", "tests/model/test_streaming.py"]),
    ],
)
def test_a_variant_passes_the_tests_of_all(section: str, rows: list[str], tmp_path: Path) -> None:
    tree, word = changed_tree(section, tmp_path), section.split("`")[1]
    said = run(tree, "pytest", "-q", "-p", "no:cacheprovider", *rows, "-k", word)
    assert "passed" in said
    assert "failed" not in said
