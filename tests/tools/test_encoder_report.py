"""The encoders' pages: what they say in short is of the batch they name, and follows from the JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from encoder_report import markdown

RESULTS = Path(__file__).parents[2] / "docs" / "results"
ENVIRONMENT = {
    "command": "python bench.py",
    "commit": "abc1234+",
    "date": "2026-01-01",
    "python": "3.12",
    "versions": {"torch": "2.11"},
    "processor": "CPU",
    "threads": 2,
    "load_average": 4.5,
}
SIZE = {"layers": 2, "dim": 8, "heads": 2, "ff_dim": 16, "kernel": 3}


def row(name: str, position: str, times_ms: list[float], fastest_ms: list[float]) -> dict[str, Any]:
    ratios = sorted(a / b for a, b in zip(times_ms, fastest_ms, strict=True))
    middle = ratios[len(ratios) // 2]
    measured = {
        "median_ms": sorted(times_ms)[len(times_ms) // 2],
        "to": "fast peer",
        "ratio": {"low": ratios[0], "median": middle, "high": ratios[-1]},
        "times_ms": times_ms,
    }
    return {
        "name": name,
        "position": position,
        "is_ours": name.startswith("ours"),
        "parameters": 1_000_000,
        "forward": measured,
        "peak_mb": 1.0,
    }


def table(batch: int, length: int, times: dict[tuple[str, str], list[float]]) -> dict[str, Any]:
    fastest_ms = times["fast peer", "rope"]
    rows = [row(name, position, ms, fastest_ms) for (name, position), ms in times.items()]
    return {"batch": batch, "length": length, "rows": rows, "could_not_run": {}}


BATCH = {
    ("fast peer", "rope"): [100.0, 100.0, 100.0],
    ("slow peer", "relative"): [200.0, 200.0, 200.0],
    ("ours softmax relative", "relative"): [80.0, 100.0, 100.0],
    ("ours sigmoid relative", "relative"): [70.0, 80.0, 110.0],
    ("ours sigmoid alibi", "alibi"): [60.0, 60.0, 60.0],
}
SINGLE = {key: [2 * times_ms[0]] for key, times_ms in BATCH.items()}
SINGLE["fast peer", "rope"] = [100.0]


def page(tables: list[dict[str, Any]], by_length: list[dict[str, Any]]) -> str:
    result = {"environment": ENVIRONMENT, "size": SIZE, "tables": tables, "by_length": by_length}
    return markdown(result)


def test_a_summary_names_its_batch() -> None:
    text = page([table(8, 400, BATCH)], [table(1, 50, SINGLE), table(1, 60, SINGLE)])
    assert (
        "- 8 utterances of 400 frames, forward, sigmoid's time over that of the fastest of 2 peers "
        "(fast peer, position rope): relative 0.80, alibi 0.60.\n"
    ) in text
    assert (
        "- 1 utterance of 50 to 60 frames, forward, sigmoid's time over that of the fastest peer "
        "(fast peer, position rope): relative 1.40 (above 1 at each), alibi 1.20 (above 1 at each).\n"
    ) in text
    alone = page([table(8, 400, BATCH)], [])
    assert "These ratios hold for this batch" in alone
    assert "1 utterance of" not in alone
    assert "These ratios hold for this batch" not in text


def test_sigmoid_is_compared_with_softmax_and_with_the_peer_of_its_position() -> None:
    text = page([table(8, 400, BATCH)], [])
    like_for_like, same_position = text.split("\n## ")[2:4]
    # ratios of the three rounds: 0.875, 0.8 and 1.1; 0.35, 0.4 and 0.55
    assert "| 8 x 400 | relative | 3 | 0.88 [0.80, 1.10] |" in like_for_like
    assert "| 8 x 400 | relative | 3 | 0.40 [0.35, 0.55] |" in same_position
    assert "alibi" not in like_for_like + same_position  # nobody to compare it with
    assert "0.88 by position; below 1 in each of 3 rounds at 0 of 1 positions." in text


def test_one_round_has_no_interval_and_names_the_load() -> None:
    text = page([], [table(1, 50, SINGLE)])
    assert "The tables of 50 frames rest on one round each: no interval." in text
    assert "One round, in a run that began at a load average of 4.5 on 2 threads" in text
    assert "| ours sigmoid relative | relative | 1.0M | 140 | 1.40 | 1 |" in text
    assert "`+`: with local changes, not recorded" in text


def test_nothing_is_compared_without_peers() -> None:
    ours = {key: times for key, times in BATCH.items() if key[0].startswith("ours sigmoid")}
    rows = [row(name, position, ms, ms) for (name, position), ms in ours.items()]
    text = page([{"batch": 2, "length": 4, "rows": rows, "could_not_run": {}}], [])
    assert "In short" not in text
    assert "Sigmoid over" not in text


@pytest.mark.parametrize("name", ["encoder-cpu", "encoder-step-cpu", "encoder-length-cpu"])
def test_the_pages_are_what_their_json_renders_to(name: str) -> None:
    result = json.loads((RESULTS / f"{name}.json").read_text())
    assert (RESULTS / f"{name}.md").read_text() == markdown(result)
