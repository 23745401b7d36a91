"""The stability recipe: its stages, and its table from logs written by hand."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

RECIPE = Path(__file__).parents[2] / "recipes" / "stability"


def test_systems_differ_in_their_remedy_alone() -> None:
    run = [RECIPE / "run.sh", "--dry-run", "--seeds", "1 2"]
    printed = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    trainings = [line for line in printed.splitlines() if line.startswith(" asr train")]
    assert len(trainings) == len(set(trainings)) == 8 * 2
    remedies = {
        "softmax": "attention.weighting=softmax",
        "none+layer-scale": "attention.shift=none encoder.layer_scale=0.1",
        "none+qk-norm": "attention.shift=none attention.qk_norm=true",
        "none+hybrid-norm": "attention.shift=none attention.output_norm=true",
        "none+alibi": "attention.shift=none attention.position=alibi",
        "log-n": r"attention.shift=-log\ n",
    }
    for system, words in remedies.items():
        (line,) = [line for line in trainings if f"/{system}-s1 " in line]
        assert f" {words} optimizer.lr=0.003 train.seed=1" in line
    unknown = [RECIPE / "run.sh", "--dry-run", "--systems", "none+luck"]
    refused = subprocess.run(unknown, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "no system of the name 'luck'" in refused.stderr


def write_run(
    folder: Path, outputs: list[float], losses: list[float | None], num_skipped: int
) -> None:
    """Two layers, of which the second has the given norms; looked at every tenth step."""
    folder.mkdir()
    records: list[dict[str, object]] = [
        {"kind": "train", "step": step, "loss": loss} for step, loss in enumerate(losses, start=1)
    ]
    for k, output in enumerate(outputs):
        looked = {"gradient_norm": 10.0 + k, "residual_norm/layer1": 4.0, "output_norm/layer1": 1.0}
        looked |= {"residual_norm/layer2": 2.0, "output_norm/layer2": output}
        looked |= {"jacobian_norm/layer1": 3.0, "jacobian_norm/layer2": 2 * output}
        records.append({"kind": "diagnose", "step": 1 + 10 * k, **looked})
    records += [{"kind": "skipped", "step": 1, "loss": "nan"}] * num_skipped
    (folder / "log.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    (folder / "run.json").write_text(json.dumps({"commit": "abc1234", "num_params": 1234}))
    words = "encoder: {kind: transformer, num_layers: 2, dim: 8}\nattention: {position: alibi}\n"
    words += "optimizer: {lr: 0.1, warmup_fraction: 0.5}\ntrain: {global_batch_s: 5.0}\n"
    (folder / "config.yaml").write_text(words)


def test_table_and_picture_of_logs(tmp_path: Path) -> None:
    write_run(tmp_path / "log-n-s1", [8.0, 2.0], [5.0] * 10 + [3.0] * 20, 0)
    write_run(tmp_path / "none-s1", [40.0, 100.0], [5.0] * 10 + [4.0] * 20, 2)
    write_run(tmp_path / "none-s2", [60.0, 20.0], [5.0] * 10 + [6.0] * 20, 7)
    folders = [tmp_path / name for name in ("log-n-s1", "none-s1", "none-s2")]
    command = [sys.executable, RECIPE / "stability.py", *folders, "--out", tmp_path / "out" / "s"]
    command += ["--made-by", "recipes/stability/run.sh --seeds '1 2'"]
    subprocess.run(command, check=True, capture_output=True)
    page = (tmp_path / "out" / "s.md").read_text()
    rows = {
        line.split(" | ")[0][2:]: line[2:-2].split(" | ")[1:]
        for line in page.splitlines()
        if line.startswith("| ")
    }
    # output over residual at step 1, largest; Jacobian; gradient at step 1, after 10; loss; skipped
    assert rows["log-n"] == ["4", "4", "16", "16", "10", "11", "3.00", "0"]
    assert rows["none"] == ["25", "40", "100", "160", "10", "11", "5.00 [4.00, 6.00]", "2 7"]
    assert "2 x 8 (1,234 parameters)" in page
    assert "seeds [1, 2]" in page
    assert "`recipes/stability/run.sh --seeds '1 2'`, commit abc1234:" in page
    assert (tmp_path / "out" / "s.png").stat().st_size > 1000


def test_steps_that_were_skipped_have_no_loss(tmp_path: Path) -> None:
    write_run(tmp_path / "none-s1", [1.0, 1.0], [5.0] * 10 + [2.0, None] * 10, 10)
    write_run(tmp_path / "log-n-s1", [1.0, 1.0], [5.0] * 10 + [None] * 20, 20)
    folders = [tmp_path / name for name in ("none-s1", "log-n-s1")]
    command = [sys.executable, RECIPE / "stability.py", *folders, "--out", tmp_path / "s"]
    subprocess.run(command, check=True, capture_output=True)
    page = (tmp_path / "s.md").read_text()
    assert "| 2.00 | 10 |" in page
    assert "| diverged | 20 |" in page


def test_a_system_that_diverged_at_once_is_said_to_have_diverged(tmp_path: Path) -> None:
    """No loss at the first step; no step with a loss; no record of a loss; nothing finite at all."""
    write_run(tmp_path / "log-n-s1", [1.0, 1.0], [5.0] * 10 + [2.0] * 20, 0)
    write_run(tmp_path / "none-s1", [1.0, 1.0], [None] + [5.0] * 29, 1)
    write_run(tmp_path / "none-s2", [1.0, 1.0], [None] * 30, 30)
    write_run(tmp_path / "none+alibi-s1", [1.0, 1.0], [], 30)
    write_run(tmp_path / "constant-s1", [1.0], [None] * 30, 30)
    log = tmp_path / "constant-s1" / "log.jsonl"
    log.write_text(re.sub(r'(_norm[^:]*": )[0-9.]+', r"\1null", log.read_text()))
    names = ("none-s1", "none-s2", "none+alibi-s1", "constant-s1", "log-n-s1")
    for chosen in (names, names[1:4]):  # with a sound one, and without
        folders = [tmp_path / name for name in chosen]
        command = [sys.executable, RECIPE / "stability.py", *folders, "--out", tmp_path / "s"]
        subprocess.run(command, check=True, capture_output=True)
    page = (tmp_path / "s.md").read_text()
    assert "| diverged | 30 |" in page
    assert "| constant | inf | inf | inf | inf | inf |" in page
    spec = importlib.util.spec_from_file_location("stability", RECIPE / "stability.py")
    assert spec is not None
    assert spec.loader is not None
    stability = importlib.util.module_from_spec(spec)
    sys.modules["stability"] = stability
    spec.loader.exec_module(stability)
    runs = [stability.read(tmp_path / name) for name in names]
    assert stability.legend(runs[:2]) == "none (diverged, 1 of 2)"
    assert stability.legend(runs[2:3]) == "none+alibi (diverged)"
    assert stability.legend(runs[4:]) == "log-n"
    assert stability.spread([5.0, math.inf, 4.0]) == "5.00 [4.00, diverged]"


def test_a_log_without_a_look_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "none-s1", [], [5.0] * 30, 0)
    command = [
        sys.executable,
        RECIPE / "stability.py",
        tmp_path / "none-s1",
        "--out",
        tmp_path / "s",
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "no 'diagnose' records; train with train.diagnose_steps above 0" in run.stderr
    assert not list(tmp_path.glob("s.*"))


@pytest.mark.slow
def test_the_recipe_end_to_end(tmp_path: Path) -> None:
    words = [RECIPE / "run.sh", "--work", tmp_path, "--hours", 0.02, "--dev", 2, "--test", 2]
    words += ["--systems", "none log-n+qk-norm", "--min-s", 1, "--", "encoder.num_layers=1"]
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    subprocess.run(list(map(str, words)), check=True, env=environment)
    page = (tmp_path / "exp" / "stability.md").read_text()
    assert "| none |" in page
    assert "| log-n+qk-norm |" in page
