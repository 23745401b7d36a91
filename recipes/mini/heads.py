#!/usr/bin/env python
"""Comparison of heads and searches: experiments named HEADS-sSEED, decoded by several searches.

python heads.py heads/ctc-s1 heads/softmax-s1 heads/sigmoid-s1 ... --out heads.md

HEADS is ctc, or the weighting of the decoder beside CTC. Figures are means over the seeds, with an
interval for another training and another speaker; the first experiment's first search is the baseline.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asr import provenance
from asr.compare.cells import interval_text, p_text, points, rate_text
from asr.compare.comparison import TypeDifference, TypeResult, corrected
from asr.compare.contrasts import Grid, type_differences, type_results
from asr.compare.experiment import Experiment, ScoredSet, read_experiment
from asr.compare.stats.paired import group_of
from asr.compare.stats.statistics import Floats
from asr.decode.score import percent
from asr.errors import InputError
from asr.files import read_json_object, write_atomically
from asr.markdown import cell
from asr.run_folder import DecodedFolder, RunFolder

LEVEL = 0.95
# folders under decode/, in the order of the rows
SEARCHES = {
    "test": "CTC greedy",
    "test-beam": "CTC beam",
    "test-decoder": "decoder greedy",
    "test-decoder-beam": "decoder beam",
    "test-rescore": "rescoring",
    "test-joint": "joint",
}
Type = tuple[str, str]
"""(heads, search)"""


@dataclasses.dataclass(frozen=True)
class Measured:
    """Sets of every type, in the order of the rows.

    Attributes:
        names: of each set's run.
        grid: of the sets; types are called "heads, search".
        factors: mean seconds of decoding per second of audio, of each type.
        shares: of CTC, of each set, where a search mixes both heads.
    """

    names: list[str]
    grid: Grid
    factors: dict[Type, float]
    shares: dict[Type, list[float]]

    def wers(self, one: Type) -> Floats:
        """Return the word error rates of a type's runs."""
        group, columns = self.grid.group, self.grid.types[(", ".join(one),)]
        return group.errors_nm[:, columns].sum(axis=0) / group.words_n.sum()

    def runs(self, one: Type) -> list[str]:
        return [self.names[column] for column in self.grid.types.get((", ".join(one),), [])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("exp", type=Path, nargs="+", help="folders HEADS-sSEED with decoded sets")
    parser.add_argument("--made-by", default="recipes/mini/heads.sh", help="that the page names")
    parser.add_argument("--out", type=Path, required=True, help="Markdown to write, JSON beside it")
    args = parser.parse_args()
    try:
        write_page([read_experiment(folder) for folder in args.exp], args.made_by, args.out)
    except InputError as error:
        parser.exit(2, f"heads.py: error: {error}\n")


def write_page(experiments: Sequence[Experiment], made_by: str, out: Path) -> None:
    """Write the page and its data."""
    measured = measure(experiments)
    group, found = measured.grid.group, changes(measured)
    facts = {
        "command": made_by,
        "revisions": sorted({one.run.revision or "-" for one in experiments}),
        "environment": provenance.environment() | {"versions": provenance.versions()},
        "models": _models(experiments),
        "speakers": group.names_n,
        "words": group.words_n.astype(int).tolist(),
        "types": [
            {
                "heads": one[0],
                "search": one[1],
                "runs": measured.runs(one),
                "errors": group.errors_nm.T[measured.grid.types[(", ".join(one),)]]
                .astype(int)
                .tolist(),
                "real_time_factor": round(factor, 5),
                "ctc_shares": measured.shares[one],
            }
            for one, factor in measured.factors.items()
        ],
        "differences": [
            {
                "name": one.name,
                "baseline": one.baseline,
                "difference": one.difference,
                "interval": None if one.interval is None else dataclasses.asdict(one.interval),
                "p_value": one.p_value,
                "p_holm": one.p_holm,
            }
            for one in found
        ],
    }
    page = "\n".join(_page(measured, found, facts)) + "\n"
    write_atomically(out.with_suffix(".json"), json.dumps(facts, indent=1) + "\n")
    write_atomically(out, page)
    print(page)


def measure(experiments: Sequence[Experiment]) -> Measured:
    """Collect the sets of every type.

    Raises:
        InputError: an experiment of another name, or without a set.
    """
    by_type: dict[Type, list[tuple[str, Path, ScoredSet]]] = {}
    for one in experiments:
        heads, _, _ = one.folder.name.rpartition("-s")
        if not heads or not one.sets:
            raise InputError(f"{one.folder}: must be called HEADS-sSEED and have decoded sets")
        for name, search in SEARCHES.items():
            if name in one.sets:
                decoded = RunFolder(one.folder).decode / name
                of_type = by_type.setdefault((heads, search), [])
                of_type.append((one.folder.name, decoded, one.sets[name]))
    names: list[str] = []
    scored: list[ScoredSet] = []
    types: dict[tuple[str, ...], list[int]] = {}
    for key, of_type in by_type.items():
        types[(", ".join(key),)] = list(range(len(names), len(names) + len(of_type)))
        names += [name for name, _, _ in of_type]
        scored += [one for _, _, one in of_type]
    group = group_of("test", dict(enumerate(scored)))
    return Measured(
        names=names,
        grid=Grid(group, ["heads and search"], types, LEVEL),
        factors={
            key: float(np.mean([one.decoding.rtf or np.nan for _, _, one in of_type]))
            for key, of_type in by_type.items()
        },
        shares={
            key: [share for _, decoded, _ in of_type for share in _share(decoded)]
            for key, of_type in by_type.items()
        },
    )


def _share(decoded: Path) -> list[float]:
    """Return CTC's share of a decoded set's search, nothing where it has none."""
    return [
        float(value)
        for key, value in read_json_object(DecodedFolder(decoded).decoding).items()
        if key == "ctc_weight"
    ]


def changes(measured: Measured) -> list[TypeDifference]:
    """Return every type against the first, and heads against each other, corrected over all (Holm)."""
    first, *others = measured.factors
    pairs = [(one, first) for one in others]
    pairs += [
        (one, other)
        for other, one in itertools.combinations(others, 2)
        if one[1] == other[1] and other[0] != first[0]
    ]
    wanted = [(", ".join(one), ", ".join(other)) for one, other in pairs]
    found = {(one.name, one.baseline): one for one in type_differences(measured.grid)}
    return corrected([found[pair] for pair in wanted if pair in found])


def _models(experiments: Sequence[Experiment]) -> dict[str, dict[str, Any]]:
    """Return parameters and training speeds by heads."""
    models: dict[str, dict[str, Any]] = {}
    for one in experiments:
        heads, _, _ = one.folder.name.rpartition("-s")
        of = models.setdefault(heads, {"params": one.run.num_params, "train_audio_s_per_s": []})
        of["train_audio_s_per_s"].append(one.run.train_audio_s_per_s)
    return models


def _page(measured: Measured, found: Sequence[TypeDifference], facts: dict[str, Any]) -> list[str]:
    lines = [
        "# What an attention decoder brings beside CTC",
        "",
        f"`{facts['command']}`",
        "",
        f"Trained with commit {', '.join(facts['revisions'])}. {len(facts['speakers'])} speakers, "
        f"{sum(facts['words'])} words. heads: ctc alone, or the weighting of a decoder beside it.",
        "",
        "| heads | parameters | training, s of audio per s |",
        "|---|---:|---:|",
    ]
    for heads, of in facts["models"].items():
        speeds = " ".join("-" if one is None else f"{one:.0f}" for one in of["train_audio_s_per_s"])
        lines.append(f"| {cell(heads)} | {of['params'] or '-'} | {speeds} |")
    lines += [
        "",
        "Change: WER of a search minus CTC greedy's of the same training. Share: of CTC in the score, "
        "tuned on the dev part. Time: of decoding, over that of CTC greedy of the same models.",
        "",
        f"| heads | search | runs | mean WER % [{LEVEL:.0%}] | runs' WERs | change | share | time |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
        *(
            _row(measured, one, result)
            for one, result in zip(
                measured.factors, type_results(measured.grid, measured.names), strict=True
            )
        ),
        "",
        f"Differences in points of WER, over seeds and speakers; Holm's p over all {len(found)}:",
        "",
        f"| what | minus | difference | [{LEVEL:.0%}] | p | p (Holm) |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for one in found:
        texts = [one.name, one.baseline, points(one.difference), interval_text(one.interval)]
        cells = [*map(cell, texts), p_text(one.p_value), p_text(one.p_holm)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _row(measured: Measured, one: Type, result: TypeResult) -> str:
    greedy = (one[0], SEARCHES["test"])
    change, times = "-", "-"
    if one != greedy and measured.runs(greedy) == result.names:
        change = " ".join(map(points, measured.wers(one) - measured.wers(greedy)))
        times = f"{measured.factors[one] / measured.factors[greedy]:.1f}"
    cells = [*map(cell, one), str(len(result.names)), rate_text(result.wer, result.interval)]
    shares = " ".join(f"{share:.1f}" for share in measured.shares[one]) or "-"
    cells += [" ".join(map(percent, result.wers)), change, shares, times]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
