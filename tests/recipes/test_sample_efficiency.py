"""The data-efficiency recipe: stages, table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from made_experiments import seeds_of

from asr.compare.compare import compare
from asr.compare.tables import comparison_as_json

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


def compared(words: list[str], wer: float, differences: list[tuple[str, str, float, float]]) -> str:
    """A compare.json: types of these weightings; (name, baseline, difference, p) of some."""
    ends = {"low": 0.1, "high": 0.2}
    types = [
        {
            "levels": {"weighting": word},
            "wer": wer,
            "interval": ends,
            "names": [],
            "set_name": "test",
        }
        for word in words
    ]
    found = [
        dict(zip(("name", "baseline", "difference", "p_value"), one, strict=True))
        | {"factor": "weighting", "interval": ends}
        for one in differences
    ]
    return json.dumps({"types": types, "type_differences": found})


def hours_table(tmp_path: Path, tiny_corpus: Path, by_share: dict[int, str]) -> list[str]:
    """The lines that hours.py writes; the half share is the corpus's test part, in the tests."""
    data = tmp_path / "data"
    data.mkdir()
    for share, content in by_share.items():
        cuts = (tiny_corpus / {2: "test", 1: "train"}[share]).with_suffix(".cuts.jsonl.gz")
        (data / f"train-1of{share}.cuts.jsonl.gz").write_bytes(cuts.read_bytes())
        folder = tmp_path / f"1of{share}"
        folder.mkdir(exist_ok=True)
        (folder / "compare.json").write_text(content)
    words = [*(tmp_path / f"1of{share}" for share in sorted(by_share)), "--data", data]
    words += ["--out", tmp_path / "hours"]
    subprocess.run([sys.executable, RECIPE / "hours.py", *words], check=True)
    assert (tmp_path / "hours.png").stat().st_size > 1000
    return (tmp_path / "hours.md").read_text().splitlines()


def test_table_and_picture_of_hours(tmp_path: Path, tiny_corpus: Path) -> None:
    both = ["softmax", "sigmoid"]
    by_share = {
        2: compared(both, 0.15, [("sigmoid", "softmax", 0.0, 0.25)]),
        1: compared(both, 0.16, [("sigmoid", "softmax", -0.01, 0.03)]),
    }
    lines = hours_table(tmp_path, tiny_corpus, by_share)
    header = "| hours | softmax WER % [95 %] | sigmoid WER % [95 %] | sigmoid - softmax [95 %] |"
    assert lines[0] == f"{header} p | p (Holm) |"
    assert lines[2].split(" | ")[1:] == [
        "15.00 [10.00, 20.00]",
        "15.00 [10.00, 20.00]",
        "+0.00 [10.00, 20.00]",
        "0.250",
        "0.250 |",
    ]
    assert "| 16.00 [10.00" in lines[3]
    assert lines[3].endswith("| 0.030 | 0.060 |")  # Holm: the smaller of two, doubled


def test_hours_of_three_weightings_have_every_difference(tmp_path: Path, tiny_corpus: Path) -> None:
    three = ["softmax", "sigmoid", "relu"]
    differences = [
        ("sigmoid", "softmax", 0.01, 0.0001),
        ("relu", "softmax", 0.02, 0.5),
        ("relu", "sigmoid", 0.03, 0.2),
    ]
    by_share = {
        2: compared(three[:2], 0.15, differences[:1]),
        1: compared(three, 0.16, differences),
    }
    lines = hours_table(tmp_path, tiny_corpus, by_share)
    header, few, all_ = ([cell.strip() for cell in lines[k].split("|")[1:-1]] for k in (0, 2, 3))
    assert [cell for cell in header if " - " in cell] == [
        "sigmoid - softmax [95 %]",
        "relu - softmax [95 %]",
        "relu - sigmoid [95 %]",
    ]
    # Holm over four differences: 4 x 0.0001, then 3 x that of the other share, then twice 0.2
    assert few[4:] == ["+1.00 [10.00, 20.00]", "<0.001", "<0.001", *["-"] * 6]
    assert all_[4:7] == ["+1.00 [10.00, 20.00]", "<0.001", "<0.001"]
    assert all_[7:] == [
        "+2.00 [10.00, 20.00]",
        "0.500",
        "0.500",
        "+3.00 [10.00, 20.00]",
        "0.200",
        "0.400",
    ]


def test_the_difference_may_change_with_the_hours(tmp_path: Path, tiny_corpus: Path) -> None:
    """Equal with all the data, far apart with half of it; the estimate by hand."""
    rates = {(2, "softmax"): 0.1, (2, "sigmoid"): 0.5, (1, "softmax"): 0.1, (1, "sigmoid"): 0.1}
    wers: dict[tuple[int, str], float] = {}
    by_share = {}
    for share in (2, 1):
        folders = [
            exp
            for word in ("softmax", "sigmoid")
            for exp in seeds_of(tmp_path / f"1of{share}", word, "alibi", rates[share, word])
        ]
        comparison = compare(folders)
        wers |= {(share, one.levels["weighting"]): one.wer for one in comparison.types}
        by_share[share] = json.dumps(comparison_as_json(comparison))
    *_, line = hours_table(tmp_path, tiny_corpus, by_share)
    by_hand = wers[2, "sigmoid"] - wers[2, "softmax"] - wers[1, "sigmoid"] + wers[1, "softmax"]
    assert line.startswith(f"- sigmoid - softmax: {100 * by_hand:+.2f} points [")
    low, high = (float(end) for end in line.split("[")[1].split("]")[0].split(", "))
    assert 10 < low < 100 * by_hand < high
    assert "], p < 0.001, with " in line


def test_one_share_has_nothing_to_change_from(tmp_path: Path, tiny_corpus: Path) -> None:
    folders = [
        exp
        for word in ("softmax", "sigmoid")
        for exp in seeds_of(tmp_path / "1of1", word, "alibi", 0.2)
    ]
    content = json.dumps(comparison_as_json(compare(folders)))
    lines = hours_table(tmp_path, tiny_corpus, {1: content})
    assert len(lines) == 3
    assert "Change of" not in "".join(lines)


def test_hours_of_single_trainings_say_which_minus_which(tmp_path: Path, tiny_corpus: Path) -> None:
    rows = [
        {
            "name": f"{word}-s1",
            "run": {"weighting": word},
            "sets": {"test": {"wer": wer, "interval": None}},
        }
        for word, wer in (("softmax", 0.3), ("sigmoid", None), ("relu", 0.2))
    ]
    differences = [
        {"name": f"{word}-s1", "baseline": "softmax-s1", "p_value": p, "difference": -0.1}
        | {"interval": None}
        for word, p in (("sigmoid", None), ("relu", 0.5))
    ]
    content = {"types": [], "type_differences": [], "rows": rows, "differences": differences}
    lines = hours_table(tmp_path, tiny_corpus, {1: json.dumps(content)})
    assert "| sigmoid - softmax [95 %] | p | p (Holm) | relu - softmax [95 %] |" in lines[0]
    assert lines[2].endswith("| 30.00 | - | 20.00 | -10.00 | - | - | -10.00 | 0.500 | 0.500 |")
