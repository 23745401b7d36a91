"""recipes/mini/options.py: every option against the first."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from made_experiments import write_decoded, write_experiment

from asr.compare.cells import points
from asr.compare.experiment import read_experiment

PROGRAM = Path(__file__).parents[2] / "recipes" / "mini" / "options.py"


def test_differences_are_from_the_first_option(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("mini_options", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    wers: dict[str, list[float]] = {}
    experiments = []
    for option, rate in (("baseline", 0.3), ("better", 0.27), ("best", 0.25), ("worse", 0.33)):
        for seed in (1, 2, 3):
            exp = write_experiment(tmp_path / f"{option}-s{seed}", seed=seed)
            write_decoded(exp, "test", rate, seed=seed)
            write_decoded(exp, "noisy", 0.3 if option == "worse" else rate, seed=9 + seed)
            experiments.append(read_experiment(exp))
            found = json.loads((exp / "decode" / "test" / "score.json").read_text())
            wers.setdefault(option, []).append(found["wer"])
    noisy, test = program.tables(experiments, ["noisy", "test"])
    rows = [line.strip("| ").split(" | ") for line in test[2:]]
    means = {option: sum(found) / 3 for option, found in wers.items()}
    assert [row[0].strip("| ") for row in rows] == list(wers)
    assert rows[0][4] == "-"
    for option, row in zip(list(wers)[1:], rows[1:], strict=True):
        assert row[4].split()[0] == points(means[option] - means["baseline"])
    # Holm's correction is over both tables
    texts = [line.strip("| ").split(" | ") for table in (noisy, test) for line in table[3:]]
    p_values = sorted((p_of(row[5]), p_of(row[6])) for row in texts)
    assert p_values[0][1] == pytest.approx(len(texts) * p_values[0][0], abs=0.004)
    assert all(p <= adjusted for p, adjusted in p_values)


def p_of(cell: str) -> float:
    return float(cell.lstrip("< "))
