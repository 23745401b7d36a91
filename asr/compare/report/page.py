"""The report as one HTML file without scripts; each number says where it stands in compare.json."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from asr.compare.cells import p_text, points
from asr.compare.comparison import Comparison
from asr.compare.contrasts import known_mean
from asr.compare.factors import WEIGHTING, many_of, one_of
from asr.compare.report import figures
from asr.compare.report.alignments import alignments
from asr.compare.report.elements import (
    digits,
    escaped,
    html_figure,
    html_panels,
    html_table,
    interval_cell,
    level_head,
    number,
    or_dash,
    tested_cells,
)
from asr.compare.report.gather import Contents
from asr.compare.report.verdict import verdict
from asr.compare.tables import comparison_files, legend_lines, other_factors
from asr.config import Config, walk
from asr.decode.score import percent
from asr.files import Files
from asr.wer import CER


def report_files(contents: Contents, path: Path) -> Files:
    """The page, and ``compare.json`` and ``compare.md`` beside it."""
    return {**comparison_files(contents.comparison, path.parent), path: report_html(contents)}


def report_html(contents: Contents) -> str:
    comparison, metric = contents.comparison, contents.comparison.metric
    sections = [
        _verdict(comparison),
        _types(comparison),
        _systems(comparison),
        _differences(comparison),
        _cost(comparison),
        _lengths(comparison),
        _pictures(contents),
        alignments(contents),
        _maps(contents),
        _notes(contents),
    ]
    css = resources.files("asr.compare.report").joinpath("page.css").read_text("utf-8")
    sets = ", ".join(comparison.set_names) or "nothing decoded"
    factors = [factor.name for factor in comparison.factors if len(factor.levels) > 1]
    title = escaped(f"Which {' and '.join(factors)}?" if factors else "How good is it?")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{title}</title>'
        f"<style>{css}</style></head>\n<body>\n<h1>{title}</h1>"
        f'<p class="soft">{len(comparison.rows)} systems on {escaped(sets)}.{_meaning(comparison)} '
        f"The {metric.long} ({metric.label}) is the share of {metric.units} that come out wrong, left "
        "out or invented; "
        "lower is better.</p>\n"
        + "\n".join(section for section in sections if section)
        + "\n</body></html>\n"
    )


def _meaning(comparison: Comparison) -> str:
    """Say what the systems differ in, as the configuration explains it."""
    helps = {key: item.metadata["help"] for key, _, item in walk(Config())}
    keys = [key for factor in comparison.factors if len(factor.levels) > 1 for key in factor.keys]
    told = [f"{key} ({helps[key]})" if key in helps else key for key in keys]
    seed = " and the seed" if comparison.types else ""
    return f" They differ in {escaped(', '.join(told))}{seed}." if told else ""


def _verdict(comparison: Comparison) -> str:
    found = verdict(comparison)
    reasons = "".join(f"<p>{escaped(reason)}</p>" for reason in found.reasons)
    return (
        f'<section class="verdict"><p class="answer">{escaped(found.answer)}</p>{reasons}</section>'
    )


def _types(comparison: Comparison) -> str:
    if not comparison.types:
        return ""
    metric = comparison.metric
    several = ["set"] if len(comparison.set_names) > 1 else []
    rows = [
        [
            *map(escaped, one.levels.values()),
            *(escaped(one.set_name) for _ in several),
            f"{len(one.names)}",
            number(f"types.{k}.{metric.name}", "percent", percent(one.wer)),
            interval_cell(f"types.{k}.interval", one.interval),
            number(f"types.{k}.train_audio_s_per_s", "4 digits", digits(one.train_audio_s_per_s)),
            number(f"types.{k}.rtf", "4 digits", digits(one.rtf)),
        ]
        for k, one in enumerate(comparison.types)
    ]
    factors = [factor.name for factor in comparison.factors]
    header = [*factors, *several, "seeds", f"mean {metric.label} %", level_head(comparison)]
    parts = [
        f"<h2>Types</h2><p>Mean {metric.long} over trainings that differ in the seed "
        "alone; the interval is for another training and other speakers.</p>",
        html_figure(figures.types(comparison), ""),
        html_table([*header, "train s/s", "RTF"], rows, num_text=len(factors) + len(several)),
    ]
    tables = {factor: _type_differences(comparison, factor) for factor in factors}
    for factor, table in tables.items():
        if not table:
            continue
        caption = "Left of 0: the first-named is better."
        if factor != WEIGHTING:
            caption = (
                f"Points of {metric.label} above the {one_of(factor)} with the fewest errors. Each "
                "interval is of its pair by itself; the answer above corrects for the number of pairs, "
                "so one that just misses 0 may be chance all the same."
            )
            table = (
                f"<details><summary>Every two {escaped(many_of(factor))}</summary>{table}</details>"
            )
        picture = html_figure(figures.factor_differences(comparison, factor), caption)
        parts.append(f"<h2>Which {escaped(factor)}?</h2>{picture}{table}")
        parts.append(_interactions(comparison, factor))
    return "".join(parts)


def _interactions(comparison: Comparison, factor: str, of_lengths: bool = False) -> str:
    """Return the tables of a factor's interactions and of what deviates, empty where none is tested."""
    key = "length_interactions" if of_lengths else "interactions"
    found = comparison.length_interactions if of_lengths else comparison.interactions
    parts = []
    for over in dict.fromkeys(one.over for one in found if one.factor == factor):
        rows = [
            [
                escaped(f"{one.name} − {one.baseline}"),
                escaped(" ".join(one.levels)),
                number(f"{key}.{k}.set_name", "text", one.set_name),
                number(f"{key}.{k}.f", "4 digits", digits(one.f)),
                number(f"{key}.{k}.df1", "count", str(one.df1)),
                number(f"{key}.{k}.df2", "4 digits", digits(one.df2)),
                number(f"{key}.{k}.p_value", "p", p_text(one.p_value)),
                number(f"{key}.{k}.p_holm", "p", p_text(one.p_holm)),
            ]
            for k, one in enumerate(found)
            if (one.factor, one.over) == (factor, over)
        ]
        header = ["what", many_of(over), "duration" if of_lengths else "set", "F", "df"]
        one, many = escaped(one_of(over)), escaped(many_of(over))
        parts.append(
            f"<h2>Does that depend on the {one}?</h2><p>Welch’s analysis of variance of a difference of "
            f"two {escaped(many_of(factor))} over the {many}; below it that difference at one {one}, "
            "less its mean at the others.</p>"
            + html_table([*header, "df of errors", "p", "p (Holm)"], rows, num_text=3)
            + _type_differences(comparison, factor, over, of_lengths)
        )
    return "".join(parts)


def _type_differences(
    comparison: Comparison, factor: str, over: str = "", of_lengths: bool = False
) -> str:
    """The table of a factor, or of its contrasts over another; empty where there are none."""
    key = "length_differences" if of_lengths else "type_differences"
    differences = comparison.length_differences if of_lengths else comparison.type_differences
    rows = [
        [
            escaped(f"{one.name} − {one.baseline}"),
            escaped(one.scope or "-"),
            number(f"{key}.{k}.set_name", "text", one.set_name),
            number(f"{key}.{k}.num_seeds", "count", str(one.num_seeds)),
            *tested_cells(f"{key}.{k}", one),
        ]
        for k, one in enumerate(differences)
        if one.factor == factor
        and (one.contrast and one.over == over if over else not one.contrast)
    ]
    if not rows:
        return ""
    header = ["what", "within", "duration" if of_lengths else "set", "seeds", "difference"]
    return html_table([*header, level_head(comparison), "p", "p (Holm)"], rows, num_text=3)


def _systems(comparison: Comparison) -> str:
    factors, metric = other_factors(comparison), comparison.metric
    header = ["system", "weighting", "position", "encoder", *factors, "set", f"{metric.label} %"]
    header += [level_head(comparison), *([] if metric is CER else ["CER %"]), "S", "D", "I"]
    header += [metric.units, "params", "train s/s", "RTF", "seed"]
    rows, units = [], f"counts.reference_{metric.units}"
    for k, row in enumerate(comparison.rows):
        run = f"rows.{k}.run"
        for name, result in row.sets.items():
            at = f"rows.{k}.sets.{name}"
            counts, speed = result.counts, row.run.train_audio_s_per_s
            rows.append(
                [
                    escaped(row.name),
                    escaped(row.run.weighting or "-"),
                    escaped(row.run.position or "-"),
                    escaped(row.run.encoder or "-"),
                    *(escaped(row.levels.get(factor, "-")) for factor in factors),
                    escaped(name),
                    _rate(f"{at}.{metric.name}", result.wer),
                    interval_cell(f"{at}.interval", result.interval),
                    *([] if metric is CER else [_rate(f"{at}.cer", result.cer)]),
                    number(f"{at}.counts.substitutions", "count", str(counts.substitutions)),
                    number(f"{at}.counts.deletions", "count", str(counts.deletions)),
                    number(f"{at}.counts.insertions", "count", str(counts.insertions)),
                    number(f"{at}.{units}", "count", str(counts.reference_words)),
                    number(f"{run}.num_params", "count", or_dash(row.run.num_params)),
                    number(f"{run}.train_audio_s_per_s", "4 digits", digits(speed)),
                    number(f"{at}.rtf", "4 digits", digits(result.rtf)),
                    number(f"{run}.seed", "count", or_dash(row.run.seed)),
                ]
            )
    picture = "" if comparison.types else html_figure(figures.systems(comparison), "")
    table = html_table(header, rows, num_text=5 + len(factors))
    if comparison.types:
        table = f"<details><summary>{len(rows)} single trainings</summary>{table}</details>"
    return f"<h2>Systems</h2>{picture}{table}" if rows else ""


def _rate(path: str, rate: float | None) -> str:
    return number(path, "percent", "-" if rate is None else percent(rate))


def _differences(comparison: Comparison) -> str:
    if not comparison.differences:
        return ""
    header = ["system", "set", "difference", level_head(comparison), "p", "p (Holm)", "p (MAPSSWE)"]
    rows = [
        [
            escaped(one.name),
            escaped(one.set_name),
            *tested_cells(f"differences.{k}", one),
            number(
                f"differences.{k}.mapsswe.p_value",
                "p",
                p_text(None if one.mapsswe is None else one.mapsswe.p_value),
            ),
        ]
        for k, one in enumerate(comparison.differences)
    ]
    base = comparison.differences[0].baseline
    table = html_table(header, rows, num_text=2)
    if comparison.types:
        return (
            f"<details><summary>Single trainings against {escaped(base)}</summary>{table}</details>"
        )
    caption = f"{comparison.metric.label} minus that of {base}, in points; left of 0 is better."
    return f"<h2>Differences</h2>{html_figure(figures.differences(comparison), caption)}{table}"


def _lengths(comparison: Comparison) -> str:
    if not comparison.lengths:
        return ""
    label = comparison.metric.label
    parts = [
        "<h2>Longer audio</h2><p>Each speaker's utterances joined end to end and decoded whole "
        f"({escaped(comparison.lengths[0].search)}): the same words at every duration. Nothing of that "
        "length was heard in training unless the training data has it.</p>",
        html_panels(figures.lengths(comparison), f"{label} by joined duration, with intervals."),
    ]
    if comparison.length_differences:
        caption = "Left of 0: the first-named makes fewer errors at that duration."
        factors = [factor.name for factor in comparison.factors]
        tables = "".join(_type_differences(comparison, one, of_lengths=True) for one in factors)
        parts += [
            html_figure(figures.length_differences(comparison), caption),
            *(_interactions(comparison, one, of_lengths=True) for one in factors),
            f"<details><summary>Every difference</summary>{tables}</details>",
        ]
    return "".join(parts) + _length_systems(comparison)


def _length_systems(comparison: Comparison) -> str:
    header = [
        "system",
        "joined to s",
        "mean s",
        f"{comparison.metric.label} %",
        level_head(comparison),
        "difference",
        "p (Holm)",
    ]
    rows = []
    for k, one in enumerate(comparison.lengths):
        at = f"lengths.{k}"
        difference = "-" if one.difference is None else points(one.difference)
        rows.append(
            [
                escaped(one.name),
                number(f"{at}.length_s", "4 digits", digits(one.length_s)),
                number(f"{at}.mean_duration_s", "4 digits", digits(one.mean_duration_s)),
                number(f"{at}.{comparison.metric.name}", "percent", percent(one.wer)),
                interval_cell(f"{at}.interval", one.interval),
                number(f"{at}.difference", "points", difference),
                number(f"{at}.p_holm", "p", p_text(one.p_holm)),
            ]
        )
    table = html_table(header, rows, num_text=1)
    return f"<details><summary>Single trainings</summary>{table}</details>"


def _pictures(contents: Contents) -> str:
    metric = contents.comparison.metric
    training = html_figure(
        figures.losses(contents), "Loss on the training data (lines) and on the dev data (dashed)."
    ) + html_figure(
        figures.dev_wers(contents), f"{metric.long.capitalize()} on the dev data while training."
    )
    parts = [f"<h2>Training</h2>{training}"] if training else []
    for title, by, caption in (
        ("Short and long utterances", "length", f"{metric.label} by length of the utterance."),
        ("Noise", "noise", f"{metric.label} by signal-to-noise ratio."),
    ):
        pictures = figures.by_part(contents.comparison, by)
        if pictures:
            parts.append(f"<h2>{title}</h2>{html_panels(pictures, caption)}")
    return "".join(parts) + _speakers(contents.comparison)


def _speakers(comparison: Comparison) -> str:
    """Error rate of each speaker, those first that are hard for most systems."""
    of_speakers = [(k, part) for k, part in enumerate(comparison.parts) if part.by == "speaker"]
    if not of_speakers:
        return ""
    names, metric = [row.name for row in comparison.rows], comparison.metric
    rows = []
    for k, part in sorted(
        of_speakers, key=lambda one: -(known_mean(list(one[1].wers.values())) or 0.0)
    ):
        cells = [escaped(part.set_name), escaped(part.label)]
        at = f"parts.{k}.reference_{metric.units}"
        cells.append(number(at, "count", str(part.reference_words)))
        for name in names:
            wer = part.wers.get(name)
            at = f"parts.{k}.{metric.name}s.{name}"
            cells.append("-" if wer is None else number(at, "percent", percent(wer)))
        rows.append(cells)
    table = html_table(["set", "speaker", metric.units, *names], rows, num_text=2)
    return f"<h2>Speakers</h2><details><summary>{metric.label} % of each</summary>{table}</details>"


def _cost(comparison: Comparison) -> str:
    picture = figures.throughput(comparison)
    caption = (
        "Lower and further right is better. Speeds were measured on the machine that trained, "
        "whatever else it did."
    )
    return f"<h2>Accuracy against speed</h2>{html_figure(picture, caption)}" if picture else ""


def _maps(contents: Contents) -> str:
    if not contents.maps:
        return ""
    cards = "".join(
        f'<figure class="map"><img src="{one.image}" alt="attention weights of {escaped(one.name)}">'
        f"<figcaption>{escaped(one.label)}<br>mean row sum "
        f"{one.row_sum:.2f}</figcaption></figure>"
        for one in contents.maps
    )
    return (
        "<h2>What attention looks at</h2><p>One square per head, a row of squares per layer (at most "
        f"four of each), in utterance {escaped(contents.map_utterance or '')}: time runs right for "
        "what is looked at and down for what looks. Dark is much weight, as a share of the square's "
        "largest; softmax rows sum to 1, others need not. Where a model has an attention decoder, its "
        "cross-attention follows below the line: the tokens that it writes down, the frames to the "
        "right.</p>"
        f'<div class="maps">{cards}</div>'
    )


def _notes(contents: Contents) -> str:
    comparison = contents.comparison
    notes = [*comparison.notes, *contents.notes, *legend_lines(comparison)]
    items = "".join(f"<li>{escaped(note)}</li>" for note in notes)
    commands = "".join(
        f"<li>{escaped(row.name)} (commit {escaped(row.run.revision or '-')}): "
        f"<code>{escaped(row.run.command)}</code></li>"
        for row in comparison.rows
        if row.run.command
    )
    made = f"<details><summary>Commands</summary><ul>{commands}</ul></details>" if commands else ""
    return f'<h2>How to read this</h2><ul class="small">{items}</ul><div class="small">{made}</div>'
