"""A comparison as a table for the terminal, as Markdown and as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asr import markdown
from asr.compare.cells import (
    NONE,
    Table,
    as_columns,
    interval_text,
    markdown_items,
    markdown_lines,
    markdown_tables,
    p_text,
    points,
    rate_text,
    short_count,
    units_text,
)
from asr.compare.comparison import (
    Comparison,
    Difference,
    Interaction,
    Row,
    SetResult,
    TypeDifference,
)
from asr.compare.factors import many_of, of_all, one_of
from asr.decode.score import percent
from asr.files import Files
from asr.printable import printable
from asr.wer import CER, WER, Metric

_TRAIN = "train: seconds of audio per second of training, beside whatever else the machine did."
_HOLM = "p (Holm): corrected for the number of comparisons in its table; intervals are not."


def format_terminal(comparison: Comparison) -> str:
    """The tables as plain text in columns, then the notes."""
    parts = [set_lines(comparison), as_columns(systems_table(comparison, repeat=False))]
    if comparison.differences:
        caption = printable(difference_caption(comparison))
        parts += [caption, as_columns(system_differences(comparison))]
    tables = (character_tables, type_tables, length_tables)
    for caption, table in [one for make in tables for one in make(comparison)]:
        parts += [printable(caption), as_columns(table)]
    parts.append("\n".join(map(printable, [*legend_lines(comparison), *comparison.notes])))
    return "\n\n".join(parts)


def format_markdown(comparison: Comparison) -> str:
    """The tables as Markdown, every cell filled, and WER by length and by noise."""
    tables = [("", systems_table(comparison, repeat=True))]
    if comparison.differences:
        tables.append((difference_caption(comparison), system_differences(comparison)))
    for make in (character_tables, type_tables, length_tables, _part_tables):
        tables += make(comparison)
    parts = [markdown_lines(set_lines(comparison)), *markdown_tables(tables)]
    parts.append(markdown_items([*comparison.notes, *legend_lines(comparison)]))
    commands = [(row.name, row.run.command) for row in comparison.rows if row.run.command]
    lines = [
        f"- {markdown.text_line(printable(name))}: {markdown.code(printable(text))}"
        for name, text in commands
    ]
    if lines:
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def comparison_as_json(comparison: Comparison) -> dict[str, Any]:
    """Everything at full precision; rates are fractions, ``cer`` where the metric is that."""
    metric = comparison.metric
    reference, rate = f"reference_{metric.units}", metric.name
    names = {"wer": rate, "wers": f"{rate}s", "words": metric.units, "reference_words": reference}
    content = _as_json(comparison, names)
    del content["metric"]
    if metric is not WER:
        content["metric"] = metric.name
    for row, row_content in zip(comparison.rows, content["rows"], strict=True):
        for name, result in row.sets.items():
            row_content["sets"][name]["counts"]["errors"] = result.counts.errors
    return content


def _as_json(value: Any, names: dict[str, str]) -> Any:
    """Return ``dataclasses.asdict`` with other names of fields; keys of dicts stay."""
    if dataclasses.is_dataclass(value):
        return {
            names.get(item.name, item.name): _as_json(getattr(value, item.name), names)
            for item in dataclasses.fields(value)
        }
    if isinstance(value, dict):
        return {key: _as_json(one, names) for key, one in value.items()}
    return [_as_json(one, names) for one in value] if isinstance(value, list) else value


def comparison_files(comparison: Comparison, out: Path) -> Files:
    """``compare.md`` and ``compare.json`` in a folder."""
    content = json.dumps(comparison_as_json(comparison), indent=2, allow_nan=False)
    return {
        out / "compare.md": format_markdown(comparison),
        out / "compare.json": content + "\n",
    }


def systems_table(comparison: Comparison, repeat: bool) -> Table:
    """One line per system and set; the set is a column only where there are several."""
    set_names = comparison.set_names
    interval = f"{comparison.metric.label} % [{100 * comparison.level:g} %]"
    several = ["set"] if len(set_names) > 1 else []
    factors = other_factors(comparison)
    header = ["system", "weighting", "position", "encoder", *factors, "params", *several, interval]
    header += ["S/D/I", "RTF", "train", "commit", "seed"]
    rows = []
    for row in comparison.rows:
        before, after = _run_cells(row, factors)
        for number, (set_name, result) in enumerate(row.sets.items() or [(NONE, None)]):
            if number and not repeat:
                before, after = [""] * len(before), [""] * len(after)
            rows.append([*before, *([set_name] if several else []), *_set_cells(result), *after])
    return Table(header, rows, ["weighting", "position", *factors])


def other_factors(comparison: Comparison) -> list[str]:
    """Factors of types that a table of systems has no column for."""
    own = (["attention.weighting"], ["attention.position"], ["encoder.kind"])
    return [one.name for one in comparison.factors if comparison.types and one.keys not in own]


def _run_cells(row: Row, factors: Sequence[str]) -> tuple[list[str], list[str]]:
    """Cells left and right of the test set's."""
    run = row.run
    before = [row.name, run.weighting or NONE, run.position or NONE, run.encoder or NONE]
    before += [row.levels.get(factor, NONE) for factor in factors]
    before.append(NONE if run.num_params is None else short_count(run.num_params))
    after = [
        NONE if run.train_audio_s_per_s is None else f"{run.train_audio_s_per_s:.4g}",
        run.revision or NONE,
        NONE if run.seed is None else str(run.seed),
    ]
    return before, after


def _set_cells(result: SetResult | None) -> list[str]:
    if result is None:
        return [NONE, NONE, NONE]
    counts = result.counts
    wer = NONE if result.wer is None else percent(result.wer)
    return [
        f"{wer} {interval_text(result.interval)}".rstrip(),
        f"{counts.substitutions}/{counts.deletions}/{counts.insertions}",
        NONE if result.rtf is None else f"{result.rtf:.4f}",
    ]


def system_differences(comparison: Comparison) -> Table:
    header = ["system", "set", "difference", f"[{100 * comparison.level:g} %]", "p"]
    header += ["p (Holm)", "p (MAPSSWE)", "better in"]
    return Table(header, [_difference_cells(one) for one in comparison.differences])


def _difference_cells(one: Difference) -> list[str]:
    better = NONE if one.better_share is None else f"{100 * one.better_share:.1f} %"
    segments = None if one.mapsswe is None else one.mapsswe.p_value
    tests = [p_text(one.p_value), p_text(one.p_holm), p_text(segments)]
    return [
        one.name,
        one.set_name,
        points(one.difference),
        interval_text(one.interval),
        *tests,
        better,
    ]


def character_tables(comparison: Comparison) -> list[tuple[str, Table]]:
    """Character error rates, a column per set; none where no set has any, or they are everywhere."""
    names = comparison.set_names
    rates = [{name: result.cer for name, result in row.sets.items()} for row in comparison.rows]
    if comparison.metric is CER or all(rate is None for row in rates for rate in row.values()):
        return []
    cells = [[row.get(name) for name in names] for row in rates]
    rows = [
        [row.name, *(NONE if rate is None else percent(rate) for rate in line)]
        for row, line in zip(comparison.rows, cells, strict=True)
    ]
    return [("Character error rate, %:", Table(["system", *names], rows))]


def type_tables(comparison: Comparison) -> list[tuple[str, Table]]:
    """Types and their differences, with captions; none where no type was trained twice."""
    level = f"[{100 * comparison.level:g} %]"
    tables = []
    if comparison.types:
        factors = [factor.name for factor in comparison.factors]
        label = comparison.metric.label
        header = [*factors, "set", "runs", f"mean {label} % {level}", f"runs' {label}s"]
        header += ["train", "RTF"]
        rows = [
            [
                *one.levels.values(),
                one.set_name,
                str(len(one.names)),
                rate_text(one.wer, one.interval),
                " ".join(percent(wer) for wer in one.wers),
                NONE if one.train_audio_s_per_s is None else f"{one.train_audio_s_per_s:.4g}",
                NONE if one.rtf is None else f"{one.rtf:.4f}",
            ]
            for one in comparison.types
        ]
        caption = "Types, over the seeds of their trainings:"
        tables.append((caption, Table(header, rows, factors)))
    found = (comparison.type_differences, comparison.interactions)
    return [*tables, *_type_differences(*found, "set", level, comparison.metric)]


def _type_differences(
    differences: Sequence[TypeDifference],
    interactions: Sequence[Interaction],
    set_is: str,
    level: str,
    metric: Metric,
) -> list[tuple[str, Table]]:
    """Tables of interactions, each factor's differences and contrasts, as Holm's correction goes."""
    header = ["what", "within", set_is, "seeds", "difference", level, "p", "p (Holm)", "df"]
    tables = []
    for factor, over in dict.fromkeys((one.factor, one.over) for one in interactions):
        chosen = [one for one in interactions if (one.factor, one.over) == (factor, over)]
        caption = (
            f"Interaction: Welch's analysis of variance of differences of {of_all(factor)} over "
        )
        tables.append((f"{caption}{many_of(over)}:", _interaction_table(chosen, set_is)))
    plain = [one for one in differences if not one.contrast]
    captions = {(factor, ""): "" for factor in dict.fromkeys(one.factor for one in plain)}
    for factor, over in dict.fromkeys((o.factor, o.over) for o in differences if o.contrast):
        what = f" at one {one_of(over)}, less their mean at the other {many_of(over)},"
        captions[factor, over] = what
    for (factor, over), what in captions.items():
        rows = [
            [
                f"{one.name} - {one.baseline}",
                one.scope or NONE,
                one.set_name,
                str(one.num_seeds),
                points(one.difference),
                interval_text(one.interval),
                p_text(one.p_value),
                p_text(one.p_holm),
                NONE if one.df is None else f"{one.df:.1f}",
            ]
            for one in differences
            if one.factor == factor
            and (one.contrast and one.over == over if over else not one.contrast)
        ]
        caption = (
            f"Differences of {of_all(factor)}{what} in points of {metric.label}, over seeds and "
        )
        tables.append((f"{caption}{units_text(differences)}:", Table(header, rows)))
    return tables


def _interaction_table(interactions: Sequence[Interaction], set_is: str) -> Table:
    over = many_of(interactions[0].over)
    header = ["what", over, set_is, "F", "df", "df of errors", "p", "p (Holm)"]
    rows = [
        [
            f"{one.name} - {one.baseline}",
            " ".join(one.levels),
            one.set_name,
            f"{one.f:.2f}",
            str(one.df1),
            f"{one.df2:.1f}",
            p_text(one.p_value),
            p_text(one.p_holm),
        ]
        for one in interactions
    ]
    return Table(header, rows, [over])


def length_tables(comparison: Comparison) -> list[tuple[str, Table]]:
    """WER by joined duration: of types and their differences where there are types, of systems."""
    if not comparison.lengths:
        return []
    header = lengths = list(dict.fromkeys(one.label for one in comparison.lengths))
    label = comparison.metric.label
    caption = f"{label} % on a speaker's utterances joined to a mean duration and decoded whole"
    caption += f" ({comparison.lengths[0].search})"
    tables = []
    if comparison.length_types:
        factors = [factor.name for factor in comparison.factors]
        rates = {
            (one.label, one.set_name): rate_text(one.wer, one.interval)
            for one in comparison.length_types
        }
        types = {one.label: [*one.levels.values()] for one in comparison.length_types}
        rows = [[*cells, *(rates[one, name] for name in lengths)] for one, cells in types.items()]
        table = Table([*factors, *header], rows, factors)
        tables.append((f"{caption}, mean of the seeds:", table))
    level = f"[{100 * comparison.level:g} %]"
    found = (comparison.length_differences, comparison.length_interactions)
    tables += _type_differences(*found, "duration", level, comparison.metric)
    rows = [
        [
            name,
            *(rate_text(one.wer, one.interval) for one in comparison.lengths if one.name == name),
        ]
        for name in dict.fromkeys(one.name for one in comparison.lengths)
    ]
    return [*tables, (f"{caption}:", Table(["system", *header], rows))]


def _part_tables(comparison: Comparison) -> list[tuple[str, Table]]:
    tables = []
    for by in ("length", "noise"):
        parts = [part for part in comparison.parts if part.by == by]
        if not parts:
            continue
        labels = list(dict.fromkeys((part.set_name, part.label) for part in parts))
        several = len({set_name for set_name, _ in labels}) > 1
        header = ["system", *(f"{name} {label}" if several else label for name, label in labels)]
        rows = []
        for row in comparison.rows:
            cells = []
            for key in labels:
                found = [
                    part.wers[row.name]
                    for part in parts
                    if (part.set_name, part.label) == key and row.name in part.wers
                ]
                cells.append(NONE if not found or found[0] is None else percent(found[0]))
            rows.append([row.name, *cells])
        tables.append((f"{comparison.metric.label} % by {by}:", Table(header, rows)))
    return tables


def set_lines(comparison: Comparison) -> str:
    """Say which sets, how large, how normalised and how decoded."""
    lines = []
    for set_name in comparison.set_names:
        results = [row.sets[set_name] for row in comparison.rows if set_name in row.sets]
        first = results[0]
        normalisers = sorted({result.normaliser for result in results})
        searches = sorted({_search(result) for result in results})
        speakers = f"{first.num_speakers} speakers" if first.num_speakers else "no known speakers"
        line = (
            f"{set_name}: {first.num_utterances} utterances, {speakers}, "
            f"{first.counts.reference_words} {comparison.metric.units}; "
            f"normaliser {' / '.join(normalisers)}; search {' / '.join(searches)}"
        )
        lines.append(printable(line))
    return "\n".join(lines) or "Nothing decoded yet."


def _search(result: SetResult) -> str:
    name = result.search or NONE
    return name if result.beam is None else f"{name} {result.beam}"


def difference_caption(comparison: Comparison) -> str:
    baseline = comparison.differences[0].baseline
    return f"{comparison.metric.label} minus that of {baseline}, in points, on the same utterances:"


def legend_lines(comparison: Comparison) -> list[str]:
    """Explain what the columns mean, where there is something to explain."""
    units = {
        (name, result.unit, result.method)
        for row in comparison.rows
        for name, result in row.sets.items()
    }
    lines = []
    if units:
        lines += [_method_line(comparison, *unit) for unit in sorted(units)]
        lines.append(
            f"S/D/I: substituted, deleted, inserted {comparison.metric.units}. RTF: decoding time over "
            "audio time."
        )
    lines.append(f"{_TRAIN} commit +: with local changes.")
    if comparison.differences:
        lines.append("p: share of all exchanges of labels whose difference is as large.")
        lines.append("MAPSSWE: NIST's matched-pairs sentence-segment test, blind to speakers.")
        lines.append("better in: share of the resamples in which the system had fewer errors.")
    if max(len(comparison.differences), len(comparison.type_differences)) > 1:
        lines.append(_HOLM)
    if comparison.type_differences:
        lines.append(_types_line(comparison.type_differences))
    return lines


def type_legend_lines(comparison: Comparison) -> list[str]:
    """Explain what the columns of the types' tables mean, alone."""
    differences = [*comparison.type_differences, *comparison.length_differences]
    level = f"[{100 * comparison.level:g} %]"
    return [
        f"{_types_line(differences)} {level}: for another training and other "
        f"{units_text(differences)}.",
        _HOLM,
        f"{_TRAIN} RTF: decoding time over audio time.",
    ]


def _types_line(differences: Sequence[TypeDifference]) -> str:
    units = units_text(differences)
    return f"Types: t over seeds and {units}, both taken as samples (docs/statistics.md)."


def _method_line(comparison: Comparison, set_name: str, unit: str, method: str) -> str:
    level, units = f"[{100 * comparison.level:g} %]", comparison.metric.units
    if method == "exact":
        return (
            f"{level} of a system with no or all {units} of {set_name} wrong: Clopper-Pearson, "
            f"{units} taken as independent."
        )
    if method == "t":
        return (
            f"{level}: Student's t over {unit}s of {set_name}; p, and {level} of a difference over six "
            f"or more: all exchanges of labels."
        )
    return (
        f"{level}: studentised bootstrap, {comparison.num_resamples} resamples of {unit}s of "
        f"{set_name} (seed {comparison.seed})."
    )
