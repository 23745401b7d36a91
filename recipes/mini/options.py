#!/usr/bin/env python
"""Effect of each option: a table of experiments named OPTION-sSEED, the first option the baseline.

python options.py runs/baseline-s1 runs/baseline-s2 runs/cr-ctc-s1 runs/cr-ctc-s2 --out options.md

The figures are those that `asr compare` has for types: the mean over the seeds, with an
interval for another training and another speaker.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from asr.compare.cells import interval_text, p_text, points
from asr.compare.comparison import TypeDifference, TypeResult, corrected
from asr.compare.contrasts import Grid, type_differences, type_results
from asr.compare.experiment import Experiment, read_experiment
from asr.compare.stats.paired import group_of
from asr.decode.score import percent
from asr.files import write_atomically
from asr.markdown import cell

LEVEL = 0.95


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("exp", type=Path, nargs="+", help="folders OPTION-sSEED with decoded sets")
    parser.add_argument("--out", type=Path, required=True, help="Markdown to write")
    args = parser.parse_args()
    content = report([read_experiment(folder) for folder in args.exp])
    write_atomically(args.out, content)
    print(content)


def report(experiments: list[Experiment]) -> str:
    lines = [f"Runs of commit {', '.join(sorted({e.run.revision or '-' for e in experiments}))}."]
    sets = sorted(set.intersection(*(set(one.sets) for one in experiments)))
    for name, rows in zip(sets, tables(experiments, sets), strict=True):
        lines += ["", f"{name}:", "", *rows]
    return "\n".join(lines) + "\n"


def tables(experiments: list[Experiment], sets: list[str]) -> list[list[str]]:
    """One for each set, options in the order in which they first occur; Holm's correction is over all
    of them, since a reader looks at all of them."""
    options: dict[tuple[str, ...], list[int]] = {}
    for column, one in enumerate(experiments):
        option, _, _ = one.folder.name.rpartition("-s")
        options.setdefault((option,), []).append(column)
    names = [one.folder.name for one in experiments]
    baseline = names[0].rpartition("-s")[0]
    scored = [{k: one.sets[name] for k, one in enumerate(experiments)} for name in sets]
    grids = [
        Grid(group_of(name, members), ["option"], options, LEVEL)
        for name, members in zip(sets, scored, strict=True)
    ]
    differences = [one for grid in grids for one in type_differences(grid)]
    differences = corrected([one for one in differences if one.baseline == baseline])
    return [
        _table(
            type_results(grid, names),
            {one.name: one for one in differences if one.set_name == grid.group.set_name},
        )
        for grid in grids
    ]


def _table(results: list[TypeResult], differences: dict[str, TypeDifference]) -> list[str]:
    lines = [
        f"| option | runs | mean WER % [{100 * LEVEL:g} %] | runs' WERs | difference | p | p (Holm) |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for result in results:
        cells = [
            cell(result.first),
            str(len(result.names)),
            f"{percent(result.wer)} {interval_text(result.interval)}",
            " ".join(map(percent, result.wers)),
        ]
        found = differences.get(result.first)
        if found is None:
            cells += ["-", "-", "-"]
        else:
            ends = interval_text(found.interval)
            cells += [f"{points(found.difference)} {ends}", p_text(found.p_value)]
            cells.append(p_text(found.p_holm))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    main()
