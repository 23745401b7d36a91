#!/usr/bin/env python
"""WER against hours: a table and a picture from the compare.json of each share of the data.

python hours.py exp/1of8 exp/1of4 exp/1of2 exp/1of1 --data data --out exp/hours
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asr.compare.cells import interval_text, p_text, points
from asr.compare.experiment import ScoredSet, read_experiment
from asr.compare.stats.hierarchical import contrast, tested
from asr.compare.stats.paired import group_of
from asr.compare.stats.statistics import Interval, holm
from asr.data.store.manifest import read_cuts
from asr.files import write_atomically
from asr.markdown import cell
from asr.pictures import COLOURS, as_png, new_figure


@dataclass(frozen=True)
class Share:
    """A part of the training data, and what was trained on it.

    Attributes:
        hours: of the manifest that was trained on.
        compared: the compare.json of its trainings.
    """

    folder: Path
    hours: float
    compared: dict[str, Any]

    def runs(self, weighting: str) -> list[ScoredSet]:
        """Return each training's test set."""
        return [
            read_experiment(self.folder / name).sets[one["set_name"]]
            for one in self.compared["types"]
            if one["levels"]["weighting"] == weighting
            for name in one["names"]
        ]


def read_share(folder: Path, data: Path) -> Share:
    cuts = read_cuts(data / f"train-{folder.name}.cuts.jsonl.gz")
    hours = sum(cut.duration for cut in cuts) / 3600
    return Share(folder, hours, json.loads((folder / "compare.json").read_text()))


def results_of(compared: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """WER and interval per weighting: of the type, or of the one training where there is no other."""
    if compared["types"]:
        return {one["levels"]["weighting"]: one for one in compared["types"]}
    return {row["run"]["weighting"]: next(iter(row["sets"].values())) for row in compared["rows"]}


def differences_of(compared: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the differences by (weighting, the one that it is measured against)."""
    if compared["type_differences"]:
        found = [one for one in compared["type_differences"] if one["factor"] == "weighting"]
        return {(one["name"], one["baseline"]): one for one in found}
    weighting = {row["name"]: row["run"]["weighting"] for row in compared["rows"]}
    return {
        (weighting[one["name"]], weighting[one["baseline"]]): one for one in compared["differences"]
    }


def interval(one: dict[str, Any]) -> str:
    ends = one["interval"]
    return "" if ends is None else f" {interval_text(Interval(**ends))}"


def table(shares: list[Share]) -> str:
    """One line per share; Holm's correction is over all differences of the table."""
    all_results = [results_of(share.compared) for share in shares]
    all_differences = [differences_of(share.compared) for share in shares]
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
    lines = ["| " + " | ".join(map(cell, header)) + " |", "|" + "---:|" * len(header)]
    for row, share in enumerate(shares):
        results, differences = all_results[row], all_differences[row]
        cells = [f"{share.hours:.2f}"]
        for word in weightings:
            cells.append(rate(results[word]) if word in results else "-")
        for pair in pairs:
            one = differences.get(pair)
            cells.append("-" if one is None else f"{points(one['difference'])}{interval(one)}")
            cells += [p_text(p_values.get((row, pair))), p_text(adjusted.get((row, pair)))]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def changes(shares: list[Share]) -> str:
    """Report how much further apart two weightings are with the fewest hours than with the most.

    A contrast of four types, each trained with several seeds, on the same utterances; empty for
    one amount of data, or where a weighting was trained once.
    """
    if len(shares) < 2:
        return ""
    small, large = shares[0], shares[-1]
    pairs = [
        pair for pair in differences_of(small.compared) if pair in differences_of(large.compared)
    ]
    lines = []
    for name, baseline in pairs:
        signs = {(0, name): 1.0, (0, baseline): -1.0, (1, name): -1.0, (1, baseline): 1.0}
        runs = [(small, large)[k].runs(word) for k, word in signs]
        if min(map(len, runs)) < 2:
            continue
        group = group_of("", dict(enumerate(one for of_type in runs for one in of_type)))
        weight_r = [
            sign / len(of_type)
            for sign, of_type in zip(signs.values(), runs, strict=True)
            for _ in of_type
        ]
        type_r = [number for number, of_type in enumerate(runs) for _ in of_type]
        found = contrast(group.errors_nm.T[None], group.words_n[None], np.array(weight_r), type_r)
        ends, p_value = tested(found, 0.95)
        text = f"{name} - {baseline}: {points(float(found.estimate_k[0]))} points "
        text += f"{interval_text(ends)}, p = {p_text(p_value)}".strip().replace("= <", "< ")
        lines.append(f"- {text}, with {small.hours:.2f} hours as against {large.hours:.2f}.")
    return "\n".join(["", "Change of the difference:", "", *lines]) + "\n" if lines else ""


def rate(one: dict[str, Any]) -> str:
    return "-" if one["wer"] is None else f"{100 * one['wer']:.2f}{interval(one)}"


def plot(shares: list[Share], path: Path) -> None:
    figure = new_figure(6, 4)
    axes = figure.subplots()
    found = [(share.hours, results_of(share.compared)) for share in shares]
    weightings = dict.fromkeys(word for _, results in found for word in results)
    for number, word in enumerate(weightings):
        colour = COLOURS[number % len(COLOURS)]
        ones = [(hours, results[word]) for hours, results in found if word in results]
        ones = [(hours, one) for hours, one in ones if one["wer"] is not None]
        aside = 1 + 0.03 * (number - (len(weightings) - 1) / 2)  # or intervals hide each other
        ones = [(hours * aside, one) for hours, one in ones]
        xs, ys = [hours for hours, _ in ones], [100 * one["wer"] for _, one in ones]
        axes.plot(xs, ys, "-o", color=colour, label=word)
        for x, one in ones:
            if one["interval"] is not None:
                ends = [100 * one["interval"][end] for end in ("low", "high")]
                axes.plot([x, x], ends, color=colour, alpha=0.5)
    axes.set_xscale("log", base=2)
    axes.set_xticks([hours for hours, _ in found], [f"{hours:.3g}" for hours, _ in found])
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
        (read_share(folder, args.data) for folder in args.folders), key=lambda share: share.hours
    )
    text = table(shares) + changes(shares)
    print(text)
    args.out.with_suffix(".md").write_text(text)
    plot(shares, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
