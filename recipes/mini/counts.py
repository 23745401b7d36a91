#!/usr/bin/env python
"""Comparison of what the n of sigmoid's shift -log n counts, by word error rates at several durations.

python counts.py counts/softmax-alibi-s1 counts/visible-alibi-s1 ... --out counts.md
python counts.py --recount counts/visible-alibi-s1 --out counts/recounted-alibi-s1

Experiments are folders called COUNT-POSITION-sSEED with a decoded set, and the same joined to durations
(asr join --to-s): softmax (no count), visible, effective, exponent (visible, with a trained exponent
per head), recounted (visible in training, in decoding an effective count that equals it at the mean
length of training). The second form makes a folder of the last kind.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sigmoid_attention import Mask, Weighting
from sigmoid_attention.counts import log_counts

from asr import config, provenance
from asr.compare.cells import interval_text, p_text, points
from asr.compare.compare import compare
from asr.compare.comparison import UnitErrors
from asr.compare.stats.hierarchical import contrast, tested
from asr.compare.stats.statistics import Floats, Interval, holm
from asr.decode.score import percent
from asr.errors import InputError
from asr.files import write_atomically
from asr.markdown import cell
from asr.model.folder import load_model, save_model
from asr.nn.attention import MultiHeadAttention
from asr.pictures import COLOURS, as_png, new_figure
from asr.run_folder import RunFolder

LEVEL = 0.95
ALONE = "alone"
COUNTS = ("softmax", "visible", "recounted", "effective", "exponent")
# (what, minus what), where both are there
PAIRS = (
    ("visible", "softmax"),
    ("recounted", "visible"),
    ("effective", "visible"),
    ("effective", "softmax"),
    ("exponent", "visible"),
    ("exponent", "softmax"),
)
Type = tuple[str, str]
"""(count, position)"""


@dataclasses.dataclass(frozen=True)
class Measured:
    """Errors (runs, speakers) of each type at each duration, and the speakers' words.

    Attributes:
        names: of the runs of each type, in the order of the rows.
    """

    durations: list[str]
    names: dict[Type, list[str]]
    errors: dict[tuple[Type, str], Floats]
    words: Floats
    speakers: list[str]


@dataclasses.dataclass(frozen=True)
class Change:
    """A difference of two types at a duration, over seeds and speakers."""

    name: str
    baseline: str
    position: str
    duration: str
    difference: float
    interval: Interval | None
    p_value: float | None
    p_holm: float | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("exp", type=Path, nargs="+", help="folders COUNT-POSITION-sSEED, decoded")
    parser.add_argument("--recount", action="store_true", help="make a folder, compare nothing")
    parser.add_argument(
        "--frames", type=int, default=67, help="of the encoder: mean length of training, --recount"
    )
    parser.add_argument("--made-by", default="recipes/mini/counts.sh", help="that the page names")
    parser.add_argument("--out", type=Path, required=True, help="page, or folder with --recount")
    args = parser.parse_args()
    try:
        if args.recount:
            if len(args.exp) != 1:
                raise InputError(f"--recount: give one folder, not {len(args.exp)}")
            recount(args.exp[0], args.frames, args.out)
        else:
            write_page(args.exp, args.made_by, args.out)
    except InputError as error:
        parser.exit(2, f"counts.py: error: {error}\n")


def recount(exp: Path, num_frames: int, out: Path) -> None:
    """Write the experiment again as one that decodes with the effective count: the same weights.

    Each head's shift moves by a constant, so that its mean over an utterance of ``num_frames`` is
    that of training: n becomes num_frames * N(n) / N(num_frames).
    """
    model = load_model(exp)
    told = model.config.attention
    plain = told.weighting == "sigmoid" and told.shift == "-log n" and not told.shift_per_head
    if not plain or told.shift_exponent or told.count == "effective" or told.position != "alibi":
        raise InputError(
            f"--recount {exp}: must be sigmoid with alibi, shift -log n, another count than effective, "
            f"no shift_per_head and no shift_exponent"
        )
    if num_frames < 1:
        raise InputError(f"--frames {num_frames}: must be at least 1")
    if out.exists():
        raise InputError(f"--out {out}: is there already")
    weights = dict(model.net.state_dict())
    for name, module in model.net.named_modules():
        if isinstance(module, MultiHeadAttention):
            x = torch.zeros(1, module.heads[0], num_frames, 1)
            _, _, bias = module.position(x, x, 0, 0)
            how = Weighting.sigmoid(n="effective")
            log_n_bht = log_counts(how, bias, Mask(), None, x, num_frames)
            weights[f"{name}.bias_h"] = log_n_bht.mean(2)[0] - math.log(num_frames)
    attention = dataclasses.replace(told, count="effective", shift_per_head=True)
    changed = dataclasses.replace(model.config, attention=attention)
    out.mkdir(parents=True, exist_ok=True)
    target = RunFolder(out)
    save_model(target.model, weights, changed, model.tokenizer)
    write_atomically(target.config, config.dump(changed))
    record = json.loads(RunFolder(exp).run.read_text())
    write_atomically(target.run, json.dumps(record | {"name": out.name}) + "\n")


def write_page(folders: Sequence[Path], made_by: str, out: Path) -> None:
    """Write the page, its picture and its JSON."""
    comparison = compare(folders)
    bare = [row.folder for row in comparison.rows if not row.sets]
    if bare:
        raise InputError(f"{bare[0]}: has no decoded set (asr decode)")
    called = {row.name: Path(row.folder).name for row in comparison.rows}
    measured = _measured(
        {called[row.name]: {ALONE: next(iter(row.sets.values())).units} for row in comparison.rows},
        [(called[one.name], one.label, one.units) for one in comparison.lengths],
    )
    found = changes(measured)
    if not found:
        raise InputError("no two counts of one position have two seeds each: nothing to compare")
    revisions = sorted({row.run.revision or "-" for row in comparison.rows})
    exponents = {folder.name: _exponents(folder) for folder in folders}
    facts = {
        "command": made_by,
        "revisions": revisions,
        "environment": provenance.environment() | {"versions": provenance.versions()},
        "speakers": measured.speakers,
        "words": measured.words.tolist(),
        "durations": measured.durations,
        "runs": {f"{w}-{p}": names for (w, p), names in measured.names.items()},
        "errors": {
            f"{w}-{p}, {duration}": errors.astype(int).tolist()
            for ((w, p), duration), errors in measured.errors.items()
        },
        "differences": [dataclasses.asdict(one) for one in found],
        "exponents": {name: values for name, values in exponents.items() if values},
    }
    page = _page(measured, found, facts, out.with_suffix(".png").name)
    write_atomically(out.with_suffix(".json"), json.dumps(facts, indent=1) + "\n")
    write_atomically(out.with_suffix(".png"), _picture(measured))
    write_atomically(out, page)
    print(page)


def _measured(
    alone: dict[str, dict[str, list[UnitErrors]]],
    joined: Sequence[tuple[str, str, list[UnitErrors]]],
) -> Measured:
    by_run = {name: dict(sets) for name, sets in alone.items()}
    for name, label, units in joined:
        by_run[name][label] = units
    names: dict[Type, list[str]] = {}
    for name in by_run:
        what, _, _ = name.rpartition("-s")
        count, _, position = what.partition("-")
        if count not in COUNTS or not position:
            raise InputError(f"{name}: must be called COUNT-POSITION-sSEED, COUNT one of {COUNTS}")
        names.setdefault((count, position), []).append(name)
    names = {
        one: names[one] for one in sorted(names, key=lambda one: (one[1], COUNTS.index(one[0])))
    }
    first = next(iter(by_run.values()))
    return Measured(
        durations=list(first),
        names=names,
        errors={
            (one, duration): np.array(
                [[unit.errors for unit in by_run[name][duration]] for name in runs], dtype=float
            )
            for one, runs in names.items()
            for duration in first
        },
        words=np.array([unit.words for unit in first[ALONE]], dtype=float),
        speakers=[unit.name for unit in first[ALONE]],
    )


def changes(measured: Measured) -> list[Change]:
    """Return every pair at every duration; Holm's correction is over all of them."""
    found = []
    for position in dict.fromkeys(position for _, position in measured.names):
        for name, baseline in PAIRS:
            pair = ((name, position), (baseline, position))
            if all(len(measured.names.get(one, ())) > 1 for one in pair):
                found += [_change(measured, *pair, duration) for duration in measured.durations]
    known = [one.p_value for one in found if one.p_value is not None]
    adjusted = iter(holm(known))
    return [
        one if one.p_value is None else dataclasses.replace(one, p_holm=next(adjusted))
        for one in found
    ]


def _change(measured: Measured, one: Type, other: Type, duration: str) -> Change:
    value, interval, p_value = _tested(measured, {one: 1.0, other: -1.0}, duration)
    return Change(one[0], other[0], one[1], duration, value, interval, p_value)


def _tested(
    measured: Measured, signs: dict[Type, float], duration: str
) -> tuple[float, Interval | None, float | None]:
    """Return a contrast of types' mean WERs, its interval and p-value over seeds and speakers."""
    errors = [measured.errors[one, duration] for one in signs]
    weight_r = np.concatenate(
        [np.full(len(e), sign / len(e)) for e, sign in zip(errors, signs.values(), strict=True)]
    )
    type_r = [number for number, e in enumerate(errors) for _ in e]
    if min(map(len, errors)) < 2:
        wers = np.concatenate(errors).sum(axis=1) / measured.words.sum()
        return float(wers @ weight_r), None, None
    found = contrast(np.concatenate(errors)[None], measured.words[None], weight_r, type_r)
    return float(found.estimate_k[0]), *tested(found, LEVEL)


def _exponents(folder: Path) -> list[list[float]]:
    """Return the trained exponents of a model, layer by layer and head by head; none without."""
    weights = load_model(folder).net.state_dict()
    return [
        [round(float(value), 4) for value in weights[name]]
        for name in weights
        if name.endswith("exponent_h")
    ]


def _page(
    measured: Measured, found: Sequence[Change], facts: dict[str, object], picture: str
) -> str:
    num = int(measured.words.sum())
    lines = [
        "# What n counts in sigmoid's shift -log n",
        "",
        f"`{facts['command']}`",
        "",
        f"Trained with commit {', '.join(map(str, facts['revisions']))}. "  # type: ignore[call-overload]
        f"{len(measured.speakers)} speakers, {num} words, greedy search. Each duration has the same "
        f"words: a speaker's utterances joined to it (the mean is the column's name) and decoded whole.",
        "",
        "- softmax: no count. visible: n is the number of keys that a row sees. effective: n is the sum "
        "of exp(position bias) over them, by head.",
        "- recounted: the weights of visible, decoded with an effective count, scaled by head to be n "
        "at the mean length of training; nothing trained.",
        "- exponent: visible, and the shift is -a log n with a trained a for each head.",
        "",
        f"![WER against duration]({picture})",
        "",
        "WER % [95 %], over seeds and speakers:",
        "",
        *_table(
            ["n", "position", "runs", *measured.durations],
            [_type_row(measured, one) for one in measured.names],
            3,
        ),
        "",
        f"Differences in points of WER [95 %], p and Holm's p over all {len(found)} of them:",
        "",
        *_table(
            ["what", "position", "duration", "difference", "[95 %]", "p", "p (Holm)"],
            [_change_row(one) for one in found],
            3,
        ),
    ]
    exponents = facts["exponents"]
    assert isinstance(exponents, dict)
    if exponents:
        lines += ["", "Trained exponents, mean over heads and seeds, by layer:", ""]
        lines += _exponent_lines(measured, exponents)
    return "\n".join(lines) + "\n"


def _type_row(measured: Measured, one: Type) -> list[str]:
    row = [*one, str(len(measured.names[one]))]
    for duration in measured.durations:
        value, interval, _ = _tested(measured, {one: 1.0}, duration)
        row.append(f"{percent(value)} {interval_text(interval)}".rstrip())
    return row


def _change_row(one: Change) -> list[str]:
    row = [f"{one.name} - {one.baseline}", one.position, one.duration, points(one.difference)]
    return [*row, interval_text(one.interval), p_text(one.p_value), p_text(one.p_holm)]


def _exponent_lines(measured: Measured, exponents: dict[str, list[list[float]]]) -> list[str]:
    lines = []
    for (count, position), names in measured.names.items():
        known = [exponents[name] for name in names if name in exponents]
        if known:
            layers = np.array(known)
            means = ", ".join(f"{value:.2f}" for value in layers.mean(axis=(0, 2)))
            ends = f"{layers.min():.2f} to {layers.max():.2f}"
            lines.append(f"- {count}, {position}: {means} (heads from {ends})")
    return lines


def _table(header: list[str], rows: list[list[str]], num_text: int) -> list[str]:
    ruler = ["---"] * num_text + ["---:"] * (len(header) - num_text)
    return [
        "| " + " | ".join(map(cell, header)) + " |",
        "|" + "|".join(ruler) + "|",
        *("| " + " | ".join(map(cell, row)) + " |" for row in rows),
    ]


def _picture(measured: Measured) -> bytes:
    positions = list(dict.fromkeys(position for _, position in measured.names))
    figure = new_figure(1.5 + 2.6 * len(positions), 3.6)
    panels = figure.subplots(1, len(positions), sharey=True, squeeze=False)[0]
    places = np.arange(len(measured.durations))
    for axes, position in zip(panels, positions, strict=True):
        for number, count in enumerate(COUNTS):
            one = (count, position)
            if one not in measured.names:
                continue
            rates = [_tested(measured, {one: 1.0}, duration) for duration in measured.durations]
            aside = places + 0.06 * (number - 2)  # or intervals hide each other
            axes.plot(
                aside, [100 * r[0] for r in rates], "-o", color=COLOURS[number], label=count, ms=3
            )
            for x, (_, interval, _) in zip(aside, rates, strict=True):
                if interval is not None:
                    ends = [100 * interval.low, 100 * interval.high]
                    axes.plot([x, x], ends, color=COLOURS[number], alpha=0.4)
        axes.set_title(position)
        axes.set_xticks(places, measured.durations, fontsize=8)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=8)
    panels[0].set_ylabel("WER, %")
    panels[0].set_ylim(bottom=0)
    return as_png(figure)


if __name__ == "__main__":
    main()
