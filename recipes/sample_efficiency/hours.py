#!/usr/bin/env python
"""WER against hours: a table and a picture from the compare.json of each share of the data.

python hours.py exp/1of8 exp/1of4 exp/1of2 exp/1of1 --data data --out exp/hours
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from asr.data.manifest import read_cuts
from asr.evaluate.statistics import holm
from asr.evaluate.tables import points

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")


def hours_of(folder: Path, data: Path) -> float:
    """Of the manifest that this share was trained on."""
    cuts = read_cuts(data / f"train-{folder.name}.cuts.jsonl.gz")
    return sum(cut.duration for cut in cuts) / 3600


def results_of(compared: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """WER and interval per weighting: of the type, or of the one training where there is no other."""
    if compared["types"]:
        return {one["weighting"]: one for one in compared["types"]}
    return {row["run"]["weighting"]: next(iter(row["sets"].values())) for row in compared["rows"]}


def differences_of(compared: dict[str, Any]) -> list[dict[str, Any]]:
    return compared["type_differences"] or compared["differences"]


def interval(one: dict[str, Any]) -> str:
    ends = one["interval"]
    return "" if ends is None else f" [{100 * ends['low']:.2f}, {100 * ends['high']:.2f}]"


def table(shares: list[tuple[float, dict[str, Any]]]) -> str:
    weightings = list(results_of(shares[0][1]))
    header = ["hours", *(f"{word} WER % [95 %]" for word in weightings)]
    header += ["difference [95 %]", "p", "p (Holm)"]
    tested = [one["p_value"] for _, compared in shares for one in differences_of(compared)[:1]]
    adjusted = iter(holm([p for p in tested if p is not None]))
    lines = ["| " + " | ".join(header) + " |", "|" + "---:|" * len(header)]
    for hours, compared in shares:
        results, differences = results_of(compared), differences_of(compared)
        cells = [f"{hours:.2f}"]
        cells += [
            f"{100 * results[word]['wer']:.2f}{interval(results[word])}" for word in weightings
        ]
        if differences:
            one = differences[0]
            cells.append(f"{points(one['difference'])}{interval(one)}")
            if one["p_value"] is not None:
                cells += [f"{one['p_value']:.3f}", f"{next(adjusted):.3f}"]
        lines.append("| " + " | ".join([*cells, "-", "-", "-"][: len(header)]) + " |")
    return "\n".join(lines) + "\n"


def plot(shares: list[tuple[float, dict[str, Any]]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for word, colour in zip(results_of(shares[0][1]), COLOURS, strict=False):
        xs = [hours for hours, _ in shares]
        ones = [results_of(compared)[word] for _, compared in shares]
        axes.plot(xs, [100 * one["wer"] for one in ones], "-o", color=colour, label=word)
        for x, one in zip(xs, ones, strict=True):
            if one["interval"] is not None:
                ends = [100 * one["interval"][end] for end in ("low", "high")]
                axes.plot([x, x], ends, color=colour, alpha=0.5)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("hours of training speech")
    axes.set_ylabel("WER, %")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+", help="with a compare.json each")
    parser.add_argument("--data", type=Path, required=True, help="folder of the manifests")
    parser.add_argument("--out", type=Path, required=True, help="stem of the files written")
    args = parser.parse_args()
    shares = sorted(
        (
            (hours_of(folder, args.data), json.loads((folder / "compare.json").read_text()))
            for folder in args.folders
        ),
        key=lambda share: share[0],
    )
    text = table(shares)
    print(text)
    args.out.with_suffix(".md").write_text(text)
    plot(shares, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
