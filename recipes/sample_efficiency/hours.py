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
from asr.evaluate.curves import as_png, new_figure
from asr.evaluate.statistics import holm
from asr.evaluate.tables import p_text, points
from asr.files import write_atomically

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


def differences_of(compared: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """By (weighting, the one that it is measured against)."""
    if compared["type_differences"]:
        found = [one for one in compared["type_differences"] if one["kind"] == "weighting"]
        return {(one["name"], one["baseline"]): one for one in found}
    weighting = {row["name"]: row["run"]["weighting"] for row in compared["rows"]}
    return {
        (weighting[one["name"]], weighting[one["baseline"]]): one for one in compared["differences"]
    }


def interval(one: dict[str, Any]) -> str:
    ends = one["interval"]
    return "" if ends is None else f" [{100 * ends['low']:.2f}, {100 * ends['high']:.2f}]"


def table(shares: list[tuple[float, dict[str, Any]]]) -> str:
    """One line per share; Holm's correction is over all differences of the table."""
    all_results = [results_of(compared) for _, compared in shares]
    all_differences = [differences_of(compared) for _, compared in shares]
    weightings = list(dict.fromkeys(word for results in all_results for word in results))
    pairs = list(dict.fromkeys(pair for differences in all_differences for pair in differences))
    header = ["hours", *(f"{word} WER % [95 %]" for word in weightings)]
    for name, baseline in pairs:
        header += [f"{name} - {baseline} [95 %]", "p", "p (Holm)"]
    p_values = {
        (row, pair): one["p_value"]
        for row, differences in enumerate(all_differences)
        for pair, one in differences.items()
        if one["p_value"] is not None
    }
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    lines = ["| " + " | ".join(header) + " |", "|" + "---:|" * len(header)]
    for row, (hours, _) in enumerate(shares):
        results, differences = all_results[row], all_differences[row]
        cells = [f"{hours:.2f}"]
        for word in weightings:
            cells.append(rate(results[word]) if word in results else "-")
        for pair in pairs:
            one = differences.get(pair)
            cells.append("-" if one is None else f"{points(one['difference'])}{interval(one)}")
            cells += [p_text(p_values.get((row, pair))), p_text(adjusted.get((row, pair)))]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def rate(one: dict[str, Any]) -> str:
    return "-" if one["wer"] is None else f"{100 * one['wer']:.2f}{interval(one)}"


def plot(shares: list[tuple[float, dict[str, Any]]], path: Path) -> None:
    figure = new_figure(6, 4)
    axes = figure.subplots()
    found = [(hours, results_of(compared)) for hours, compared in shares]
    weightings = dict.fromkeys(word for _, results in found for word in results)
    for number, word in enumerate(weightings):
        colour = COLOURS[number % len(COLOURS)]
        ones = [(hours, results[word]) for hours, results in found if word in results]
        ones = [(hours, one) for hours, one in ones if one["wer"] is not None]
        xs, ys = [hours for hours, _ in ones], [100 * one["wer"] for _, one in ones]
        axes.plot(xs, ys, "-o", color=colour, label=word)
        for x, one in ones:
            if one["interval"] is not None:
                ends = [100 * one["interval"][end] for end in ("low", "high")]
                axes.plot([x, x], ends, color=colour, alpha=0.5)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("hours of training speech")
    axes.set_ylabel("WER, %")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    write_atomically(path, as_png(figure))


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
