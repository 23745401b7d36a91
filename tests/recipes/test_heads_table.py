"""recipes/mini/heads.py: heads and searches against CTC's greedy search."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from made_experiments import write_decoded, write_experiment

from asr.compare.cells import points
from asr.compare.experiment import read_experiment
from asr.errors import InputError

PROGRAM = Path(__file__).parents[2] / "recipes" / "mini" / "heads.py"
RATES = {
    "test": 0.3,
    "test-beam": 0.29,
    "test-decoder": 0.35,
    "test-rescore": 0.2,
    "test-joint": 0.18,
}


@pytest.fixture(scope="module")
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mini_heads", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look
    spec.loader.exec_module(module)
    return module


def test_rows_and_differences_are_those_of_the_sets(program: ModuleType, tmp_path: Path) -> None:
    experiments, wers = [], {}
    for heads in ("ctc", "softmax", "sigmoid"):
        for seed in (1, 2, 3):
            exp = write_experiment(tmp_path / f"{heads}-s{seed}", seed=seed, num_params=len(heads))
            for number, (name, rate) in enumerate(RATES.items()):
                if heads == "ctc" and number > 1:
                    continue
                by_two = {"ctc_weight": seed / 10} if number > 2 else {}
                rtf = 0.01 * (1 + number)
                place = 10 * seed + number + 100 * len(heads)
                write_decoded(exp, name, rate, seed=place, rtf=rtf, **by_two)
                found = json.loads((exp / "decode" / name / "score.json").read_text())
                wers[exp.name, name] = found["wer"]
            experiments.append(read_experiment(exp))
    out = tmp_path / "heads.md"
    program.write_page(experiments, "recipes/mini/heads.sh", out)
    rows = [line.strip("| ").split(" | ") for line in out.read_text().splitlines() if "|" in line]
    table = {tuple(row[:2]): row for row in rows if len(row) == 8}
    assert len(table) == 1 + 2 + 5 + 5
    joint = table["sigmoid", "joint"]
    own = [wers[f"sigmoid-s{seed}", "test-joint"] for seed in (1, 2, 3)]
    greedy = [wers[f"sigmoid-s{seed}", "test"] for seed in (1, 2, 3)]
    assert joint[2:5:2] == ["3", " ".join(f"{100 * wer:.2f}" for wer in own)]
    changes = [points(one - other) for one, other in zip(own, greedy, strict=True)]
    assert joint[5:] == [" ".join(changes), "0.1 0.2 0.3", "5.0"]
    assert table["ctc", "CTC greedy"][5:] == ["-", "-", "-"]

    facts = json.loads(out.with_suffix(".json").read_text())
    differences = {(one["name"], one["baseline"]): one for one in facts["differences"]}
    base = [wers[f"ctc-s{seed}", "test"] for seed in (1, 2, 3)]
    found = differences["sigmoid, joint", "ctc, CTC greedy"]
    assert found["difference"] == pytest.approx(sum(own) / 3 - sum(base) / 3)
    other = [wers[f"softmax-s{seed}", "test-joint"] for seed in (1, 2, 3)]
    found = differences["sigmoid, joint", "softmax, joint"]
    assert found["difference"] == pytest.approx(sum(own) / 3 - sum(other) / 3)
    assert len(differences) == 11 + 5
    assert all(one["p_holm"] >= one["p_value"] for one in differences.values())


def test_what_is_no_such_experiment_is_refused(program: ModuleType, tmp_path: Path) -> None:
    exp = write_experiment(tmp_path / "ctc-s1")
    with pytest.raises(InputError, match="must be called HEADS-sSEED and have decoded sets"):
        program.write_page([read_experiment(exp)], "heads.sh", tmp_path / "heads.md")
