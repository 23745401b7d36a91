"""The data-efficiency recipe: simulation against autograd and known slopes, stages, table."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "sample_efficiency"


@pytest.fixture(scope="module")
def moe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("moe", RECIPE / "moe.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["moe"] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("gate", ["softmax", "sigmoid"])
@pytest.mark.parametrize("experts", ["linear", "tanh"])
def test_outputs_and_derivatives(moe: ModuleType, gate: str, experts: str) -> None:
    setting = moe.Setting(gate, experts, 3)
    torch.manual_seed(1)
    theta, x = torch.randn(2, 27, dtype=torch.float64), torch.randn(2, 5, 2, dtype=torch.float64)
    y_rn, j_rnp = moe.outputs(setting, theta, x)
    # by the formula, one point
    rows, (u, v) = theta[1].view(3, 9), x[1, 4]
    scores = [r[0] * u * u + r[1] * u * v + r[2] * v * v + r[3] * u + r[4] * v + r[5] for r in rows]
    gates = torch.stack(scores)
    gates = gates.softmax(0) if gate == "softmax" else gates.sigmoid()
    heard = torch.stack([r[6] * u + r[7] * v + r[8] for r in rows])
    expected = (gates * (heard.tanh() if experts == "tanh" else heard)).sum()
    assert y_rn[1, 4] == pytest.approx(float(expected))
    by_autograd = torch.autograd.functional.jacobian(lambda t: moe.outputs(setting, t, x)[0], theta)
    for r in range(2):
        torch.testing.assert_close(j_rnp[r], by_autograd[r, :, r])


def test_fit_finds_the_truth(moe: ModuleType) -> None:
    """Exactly specified, with 4000 points the experts are within a few standard errors."""
    for gate in ("softmax", "sigmoid"):
        found = moe.simulate(moe.Setting(gate, "linear", 2), 4000, 4, seed=2)
        assert max(found["expert"]) < 0.1
        assert max(found["function"]) < 0.02


def test_slope_of_known_errors(moe: ModuleType) -> None:
    sizes = [100, 1000, 10000]
    rng = np.random.default_rng(0)
    errors_sr = np.array([n**-0.5 * np.exp(rng.normal(0, 0.1, size=40)) for n in sizes])
    value, low, high = moe.slope(sizes, errors_sr, 1)
    assert low < -0.5 < high
    assert value == pytest.approx(-0.5, abs=0.03)
    assert high - low < 0.1


def test_stages_keep_the_number_of_steps() -> None:
    run = subprocess.run(
        [RECIPE / "run.sh", "--dry-run"], capture_output=True, text=True, check=True
    )
    trainings = [line for line in run.stdout.splitlines() if line.startswith(" asr train")]
    assert len(trainings) == 2 * 4 * 3
    for share in (8, 4, 2, 1):
        own = [line for line in trainings if f"train-1of{share}.cuts" in line]
        assert len(own) == 6
        assert all(f"train.epochs={share} " in line for line in own)


def test_table_and_picture_of_hours(tmp_path: Path, tiny_corpus: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for k, share in enumerate((2, 1)):
        (data / f"train-1of{share}.cuts.jsonl.gz").write_bytes(
            (tiny_corpus / ("test" if k == 0 else "train"))
            .with_suffix(".cuts.jsonl.gz")
            .read_bytes()
        )
        ends = {"low": 0.1, "high": 0.2}
        types = [
            {"weighting": word, "wer": 0.15 + k / 100, "interval": ends}
            for word in ("softmax", "sigmoid")
        ]
        difference = {"difference": -0.01 * k, "interval": ends, "p_value": 0.25}
        folder = tmp_path / f"1of{share}"
        folder.mkdir()
        content = {"types": types, "type_differences": [difference]}
        (folder / "compare.json").write_text(json.dumps(content))
    words = [tmp_path / "1of1", tmp_path / "1of2", "--data", data, "--out", tmp_path / "hours"]
    subprocess.run([sys.executable, RECIPE / "hours.py", *words], check=True)
    lines = (tmp_path / "hours.md").read_text().splitlines()
    assert lines[2].split(" | ")[1:] == [
        "15.00 [10.00, 20.00]",
        "15.00 [10.00, 20.00]",
        "+0.00 [10.00, 20.00]",
        "0.250 |",
    ]
    assert "| 16.00 [10.00" in lines[3]
    assert (tmp_path / "hours.png").stat().st_size > 1000
