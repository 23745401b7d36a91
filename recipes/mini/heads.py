#!/usr/bin/env python
"""Comparison of heads and searches: experiments named HEADS-sSEED, decoded by several searches.

python heads.py heads/ctc-s1 heads/softmax-s1 heads/sigmoid-s1 ... --out heads.md

HEADS is ctc, or the weighting of the decoder beside CTC. Figures are means over the seeds, with an
interval for another training and another speaker; the first experiment's first search is the baseline.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asr import provenance
from asr.compare.cells import interval_text, p_text, points, rate_text
from asr.compare.experiment import Experiment, ScoredSet, read_experiment
from asr.compare.stats.hierarchical import contrast, tested
from asr.compare.stats.paired import group_of
from asr.compare.stats.statistics import Floats, Interval, holm
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
    """Errors (runs, speakers) of each type and the speakers' words.

    Attributes:
        names: of the runs of each type, in the order of the rows.
        factors: mean seconds of decoding per second of audio, of each type.
        shares: of CTC, of each run, where a search mixes both heads.
    """

    names: dict[Type, list[str]]
    errors: dict[Type, Floats]
    words: Floats
    speakers: list[str]
    factors: dict[Type, float]
    shares: dict[Type, list[float]]


@dataclasses.dataclass(frozen=True)
class Change:
    """A difference of two types' mean WERs, over seeds and speakers."""

    name: str
    baseline: str
    difference: float
    interval: Interval | None
    p_value: float | None
    p_holm: float | None = None


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
    found = changes(measured)
    facts = {
        "command": made_by,
        "revisions": sorted({one.run.revision or "-" for one in experiments}),
        "environment": provenance.environment() | {"versions": provenance.versions()},
        "models": _models(experiments),
        "speakers": measured.speakers,
        "words": measured.words.astype(int).tolist(),
        "types": [
            {
                "heads": one[0],
                "search": one[1],
                "runs": names,
                "errors": measured.errors[one].astype(int).tolist(),
                "real_time_factor": round(measured.factors[one], 5),
                "ctc_shares": measured.shares[one],
            }
            for one, names in measured.names.items()
        ],
        "differences": [dataclasses.asdict(one) for one in found],
    }
    page = "\n".join(_page(measured, found, facts)) + "\n"
    write_atomically(out.with_suffix(".json"), json.dumps(facts, indent=1) + "\n")
    write_atomically(out, page)
    print(page)


def measure(experiments: Sequence[Experiment]) -> Measured:
    """Collect the errors of every type.

    Raises:
        InputError: an experiment of another name, or without a set that others of its heads have.
    """
    scored: dict[Type, list[ScoredSet]] = {}
    names: dict[Type, list[str]] = {}
    shares: dict[Type, list[float]] = {}
    for one in experiments:
        heads, _, _ = one.folder.name.rpartition("-s")
        if not heads or not one.sets:
            raise InputError(f"{one.folder}: must be called HEADS-sSEED and have decoded sets")
        for folder, search in SEARCHES.items():
            if folder in one.sets:
                scored.setdefault((heads, search), []).append(one.sets[folder])
                names.setdefault((heads, search), []).append(one.folder.name)
                shares.setdefault((heads, search), []).extend(
                    _share(RunFolder(one.folder).decode / folder)
                )
    columns = [(key, one) for key, several in scored.items() for one in several]
    group = group_of("test", {number: one for number, (_, one) in enumerate(columns)})
    errors: dict[Type, list[Floats]] = {}
    for number, (key, _) in enumerate(columns):
        errors.setdefault(key, []).append(group.errors_nm[:, group.column(number)])
    return Measured(
        names=names,
        errors={key: np.array(several) for key, several in errors.items()},
        words=group.words_n,
        speakers=group.names_n,
        factors={
            key: float(np.mean([one.decoding.rtf or np.nan for one in several]))
            for key, several in scored.items()
        },
        shares=shares,
    )


def _share(decoded: Path) -> list[float]:
    """Return CTC's share of a decoded set's search, nothing where it has none."""
    return [
        float(value)
        for key, value in read_json_object(DecodedFolder(decoded).decoding).items()
        if key == "ctc_weight"
    ]


def changes(measured: Measured) -> list[Change]:
    """Return every type against the first, and heads against each other, corrected over all (Holm)."""
    types = list(measured.names)
    pairs = [(one, types[0]) for one in types[1:]]
    pairs += [
        (one, other)
        for at, other in enumerate(types)
        for one in types[at + 1 :]
        if one[1] == other[1] and other[0] != types[0][0]
    ]
    found = []
    for one, other in pairs:
        value, interval, p_value = _tested(measured, {one: 1.0, other: -1.0})
        found.append(Change(", ".join(one), ", ".join(other), value, interval, p_value))
    known = [one.p_value for one in found if one.p_value is not None]
    adjusted = iter(holm(known))
    return [
        one if one.p_value is None else dataclasses.replace(one, p_holm=next(adjusted))
        for one in found
    ]


def _tested(
    measured: Measured, signs: dict[Type, float]
) -> tuple[float, Interval | None, float | None]:
    """Return a contrast of types' mean WERs, its interval and p-value over seeds and speakers."""
    errors = [measured.errors[one] for one in signs]
    weight_r = np.concatenate(
        [np.full(len(e), sign / len(e)) for e, sign in zip(errors, signs.values(), strict=True)]
    )
    if min(map(len, errors)) < 2:
        wers = np.concatenate(errors).sum(axis=1) / measured.words.sum()
        return float(wers @ weight_r), None, None
    type_r = [number for number, e in enumerate(errors) for _ in e]
    found = contrast(np.concatenate(errors)[None], measured.words[None], weight_r, type_r)
    return float(found.estimate_k[0]), *tested(found, LEVEL)


def _models(experiments: Sequence[Experiment]) -> dict[str, dict[str, Any]]:
    """Return parameters and training speeds by heads."""
    models: dict[str, dict[str, Any]] = {}
    for one in experiments:
        heads, _, _ = one.folder.name.rpartition("-s")
        of = models.setdefault(heads, {"params": one.run.num_params, "train_audio_s_per_s": []})
        of["train_audio_s_per_s"].append(one.run.train_audio_s_per_s)
    return models


def _page(measured: Measured, found: Sequence[Change], facts: dict[str, Any]) -> list[str]:
    lines = [
        "# What an attention decoder brings beside CTC",
        "",
        f"`{facts['command']}`",
        "",
        f"Trained with commit {', '.join(facts['revisions'])}. {len(measured.speakers)} speakers, "
        f"{int(measured.words.sum())} words. heads: ctc alone, or the weighting of a decoder beside it.",
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
        *(_row(measured, one) for one in measured.names),
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


def _row(measured: Measured, one: Type) -> str:
    wers = measured.errors[one].sum(axis=1) / measured.words.sum()
    value, interval, _ = _tested(measured, {one: 1.0})
    greedy = (one[0], SEARCHES["test"])
    change, times = "-", "-"
    if one != greedy and measured.names.get(greedy) == measured.names[one]:
        own = wers - measured.errors[greedy].sum(axis=1) / measured.words.sum()
        change = " ".join(map(points, own))
        times = f"{measured.factors[one] / measured.factors[greedy]:.1f}"
    cells = [*map(cell, one), str(len(wers)), rate_text(value, interval)]
    shares = " ".join(f"{share:.1f}" for share in measured.shares[one]) or "-"
    cells += [" ".join(map(percent, wers)), change, shares, times]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
