"""The data-efficiency recipe: stages, table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "sample_efficiency"


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
        p_value = (0.25, 0.03)[k]
        difference = {"difference": -0.01 * k, "interval": ends, "p_value": p_value}
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
        "0.250",
        "0.250 |",
    ]
    assert "| 16.00 [10.00" in lines[3]
    assert lines[3].endswith("| 0.030 | 0.060 |")  # Holm: the smaller of two, doubled
    assert (tmp_path / "hours.png").stat().st_size > 1000
