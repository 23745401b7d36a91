"""The report as one HTML file without scripts; each number says where it stands in compare.json."""

from __future__ import annotations

import html
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from asr.evaluate.comparison import Comparison, Difference, TypeDifference
from asr.evaluate.report import figures
from asr.evaluate.report.gather import Contents, Heard
from asr.evaluate.report.verdict import verdict
from asr.evaluate.score import percent
from asr.evaluate.statistics import Interval
from asr.evaluate.tables import comparison_files, legend_lines, p_text, points, within_text
from asr.files import Files
from asr.wer import Edit, Op


def report_files(contents: Contents, path: Path) -> Files:
    """The page, and ``compare.json`` and ``compare.md`` beside it."""
    return {**comparison_files(contents.comparison, path.parent), path: report_html(contents)}


def report_html(contents: Contents) -> str:
    comparison = contents.comparison
    sections = [
        _verdict(comparison),
        _types(comparison),
        _systems(comparison),
        _differences(comparison),
        _cost(comparison),
        _lengths(comparison),
        _pictures(contents),
        _utterances(contents),
        _maps(contents),
        _notes(contents),
    ]
    css = resources.files("asr.evaluate.report").joinpath("page.css").read_text("utf-8")
    sets = ", ".join(comparison.set_names) or "nothing decoded"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,"><title>Which attention?</title>'
        f"<style>{css}</style></head>\n<body>\n<h1>Which attention?</h1>"
        f'<p class="soft">{len(comparison.rows)} systems, word error rates on {_text(sets)}</p>\n'
        + "\n".join(section for section in sections if section)
        + "\n</body></html>\n"
    )


def number(path: str, kind: str, text: str) -> str:
    """A figure of compare.json: where it stands there, and how it is shown (percent, points, …)."""
    return f'<span data-json="{_text(path)}" data-as="{kind}">{_text(text)}</span>'


def _verdict(comparison: Comparison) -> str:
    found = verdict(comparison)
    reasons = "".join(f"<p>{_text(reason)}</p>" for reason in found.reasons)
    return (
        f'<section class="verdict"><p class="answer">{_text(found.answer)}</p>{reasons}</section>'
    )


def _types(comparison: Comparison) -> str:
    if not comparison.types:
        return ""
    rows = [
        [
            _text(one.weighting),
            _text(one.position),
            _text(one.set_name),
            f"{len(one.names)}",
            number(f"types.{k}.wer", "percent", percent(one.wer)),
            _interval(f"types.{k}.interval", one.interval),
        ]
        for k, one in enumerate(comparison.types)
    ]
    header = ["weighting", "position", "set", "seeds", "mean WER %", _level(comparison)]
    parts = [
        "<h2>Attention types</h2><p>Mean word error rate over trainings that differ in the seed "
        "alone; the interval is for another training and other speakers.</p>",
        _figure(figures.types(comparison), ""),
        _table(header, rows, num_text=3),
    ]
    if comparison.type_differences:
        parts += ["<h2>Differences between types</h2>", _type_differences(comparison)]
    return "".join(parts)


def _type_differences(comparison: Comparison) -> str:
    header = ["what", "within", "set", "seeds", "difference", _level(comparison), "p", "p (Holm)"]
    rows = [
        [
            _text(f"{one.name} − {one.baseline}"),
            _text(within_text(one)),
            _text(one.set_name),
            number(f"type_differences.{k}.num_seeds", "count", str(one.num_seeds)),
            *_tested(f"type_differences.{k}", one),
        ]
        for k, one in enumerate(comparison.type_differences)
    ]
    return _figure(
        figures.type_differences(comparison), "Left of 0: the first-named is better."
    ) + (_table(header, rows, num_text=3))


def _tested(path: str, one: Difference | TypeDifference) -> list[str]:
    """Difference, interval, p and Holm's p."""
    return [
        number(f"{path}.difference", "points", points(one.difference)),
        _interval(f"{path}.interval", one.interval, signed=True),
        number(f"{path}.p_value", "p", p_text(one.p_value)),
        number(f"{path}.p_holm", "p", p_text(one.p_holm)),
    ]


def _systems(comparison: Comparison) -> str:
    header = ["system", "weighting", "position", "set", "WER %", _level(comparison)]
    header += ["S", "D", "I", "words", "params", "train s/s", "RTF", "seed"]
    rows = []
    for k, row in enumerate(comparison.rows):
        run = f"rows.{k}.run"
        for name, result in row.sets.items():
            at = f"rows.{k}.sets.{name}"
            counts = result.counts
            rows.append(
                [
                    _text(row.name),
                    _text(row.run.weighting or "-"),
                    _text(row.run.position or "-"),
                    _text(name),
                    number(
                        f"{at}.wer", "percent", "-" if result.wer is None else percent(result.wer)
                    ),
                    _interval(f"{at}.interval", result.interval),
                    number(f"{at}.counts.substitutions", "count", str(counts.substitutions)),
                    number(f"{at}.counts.deletions", "count", str(counts.deletions)),
                    number(f"{at}.counts.insertions", "count", str(counts.insertions)),
                    number(f"{at}.counts.reference_words", "count", str(counts.reference_words)),
                    number(f"{run}.num_params", "count", _or_dash(row.run.num_params)),
                    number(
                        f"{run}.train_audio_s_per_s",
                        "4 digits",
                        _digits(row.run.train_audio_s_per_s),
                    ),
                    number(f"{at}.rtf", "4 digits", _digits(result.rtf)),
                    number(f"{run}.seed", "count", _or_dash(row.run.seed)),
                ]
            )
    picture = "" if comparison.types else _figure(figures.systems(comparison), "")
    table = _table(header, rows, num_text=4)
    if comparison.types:
        table = f"<details><summary>{len(rows)} single trainings</summary>{table}</details>"
    return f"<h2>Systems</h2>{picture}{table}" if rows else ""


def _differences(comparison: Comparison) -> str:
    if not comparison.differences:
        return ""
    header = ["system", "set", "difference", _level(comparison), "p", "p (Holm)", "p (MAPSSWE)"]
    rows = [
        [
            _text(one.name),
            _text(one.set_name),
            *_tested(f"differences.{k}", one),
            number(
                f"differences.{k}.mapsswe.p_value",
                "p",
                p_text(None if one.mapsswe is None else one.mapsswe.p_value),
            ),
        ]
        for k, one in enumerate(comparison.differences)
    ]
    base = comparison.differences[0].baseline
    table = _table(header, rows, num_text=2)
    if comparison.types:
        return (
            f"<details><summary>Single trainings against {_text(base)}</summary>{table}</details>"
        )
    caption = f"WER minus that of {base}, in points; left of 0 is better."
    return f"<h2>Differences</h2>{_figure(figures.differences(comparison), caption)}{table}"


def _lengths(comparison: Comparison) -> str:
    if not comparison.lengths:
        return ""
    parts = [
        "<h2>Longer audio</h2><p>Each speaker's utterances joined end to end and decoded whole: the "
        "same words at every duration. Nothing of that length was heard in training unless the "
        "training data has it.</p>",
        _panels(figures.lengths(comparison), "WER by joined duration, with intervals."),
    ]
    if comparison.length_differences:
        caption = "Left of 0: the first-named makes fewer errors at that duration."
        rows = [
            [
                _text(f"{one.name} − {one.baseline}"),
                _text(within_text(one)),
                number(f"length_differences.{k}.set_name", "text", one.set_name),
                number(f"length_differences.{k}.num_seeds", "count", str(one.num_seeds)),
                *_tested(f"length_differences.{k}", one),
            ]
            for k, one in enumerate(comparison.length_differences)
        ]
        header = ["what", "within", "duration", "seeds", "difference", _level(comparison), "p"]
        table = _table([*header, "p (Holm)"], rows, num_text=3)
        parts += [
            _figure(figures.length_differences(comparison), caption),
            f"<details><summary>Every difference</summary>{table}</details>",
        ]
    return "".join(parts) + _length_systems(comparison)


def _length_systems(comparison: Comparison) -> str:
    header = [
        "system",
        "joined to s",
        "mean s",
        "WER %",
        _level(comparison),
        "difference",
        "p (Holm)",
    ]
    rows = []
    for k, one in enumerate(comparison.lengths):
        at = f"lengths.{k}"
        difference = "-" if one.difference is None else points(one.difference)
        rows.append(
            [
                _text(one.name),
                number(f"{at}.length_s", "4 digits", _digits(one.length_s)),
                number(f"{at}.mean_duration_s", "4 digits", _digits(one.mean_duration_s)),
                number(f"{at}.wer", "percent", percent(one.wer)),
                _interval(f"{at}.interval", one.interval),
                number(f"{at}.difference", "points", difference),
                number(f"{at}.p_holm", "p", p_text(one.p_holm)),
            ]
        )
    table = _table(header, rows, num_text=1)
    return f"<details><summary>Single trainings</summary>{table}</details>"


def _pictures(contents: Contents) -> str:
    training = _figure(
        figures.losses(contents), "Loss on the training data (lines) and on the dev data (dashed)."
    ) + _figure(figures.dev_wers(contents), "Word error rate on the dev data while training.")
    parts = [f"<h2>Training</h2>{training}"] if training else []
    for title, by, caption in (
        ("Short and long utterances", "length", "WER by length of the utterance."),
        ("Noise", "noise", "WER by signal-to-noise ratio."),
    ):
        pictures = figures.by_part(contents.comparison, by)
        if pictures:
            parts.append(f"<h2>{title}</h2>{_panels(pictures, caption)}")
    return "".join(parts)


def _cost(comparison: Comparison) -> str:
    picture = figures.throughput(comparison)
    caption = (
        "Lower and further right is better. Speeds were measured on the machine that trained, "
        "whatever else it did."
    )
    return f"<h2>Accuracy against speed</h2>{_figure(picture, caption)}" if picture else ""


def _utterances(contents: Contents) -> str:
    if not contents.heard or contents.pair is None:
        return ""
    intro = (
        f"<h2>Where they differ most</h2><p>Utterances of {_text(contents.set_name or '')} on which "
        f"{_text(contents.pair[0])} and {_text(contents.pair[1])} differ by most errors. Struck "
        f"through: missed; underlined: invented; coloured: heard as another word.</p>"
    )
    return intro + "".join(_heard(one, contents.pair) for one in contents.heard)


def _heard(one: Heard, names: Sequence[str]) -> str:
    reference = " ".join(edit.reference for edit in one.edits[0] if edit.reference is not None)
    audio = (
        f'<audio controls preload="none" src="{one.audio}"></audio>'
        if one.audio
        else f'<p class="small">no audio: {_text(one.why_silent or "")}</p>'
    )
    words = "".join(
        f'<p class="words"><b>{_text(name)}, {errors} errors</b>{_edits(edits)}</p>'
        for name, errors, edits in zip(names, one.errors, one.edits, strict=True)
    )
    return (
        f'<div class="pair"><div class="small">{_text(one.id)}, speaker {_text(one.speaker)}, '
        f'{one.duration_s:.1f} s</div>{audio}<p class="words"><b>said</b>{_text(reference)}</p>'
        f"{words}</div>"
    )


def _edits(edits: Sequence[Edit]) -> str:
    words = []
    for edit in edits:
        if edit.op is Op.DELETION:
            words.append(f"<del>{_text(edit.reference or '')}</del>")
        elif edit.op is Op.INSERTION:
            words.append(f"<ins>{_text(edit.hypothesis or '')}</ins>")
        elif edit.op is Op.SUBSTITUTION:
            words.append(f'<span class="wrong">{_text(edit.hypothesis or "")}</span>')
        else:
            words.append(_text(edit.hypothesis or ""))
    return " ".join(words) or "(nothing)"


def _maps(contents: Contents) -> str:
    if not contents.maps:
        return ""
    cards = "".join(
        f'<figure class="map"><img src="{one.image}" alt="attention weights of {_text(one.name)}">'
        f"<figcaption>{_text(one.weighting)} {_text(one.position)}<br>mean row sum "
        f"{one.row_sum:.2f}</figcaption></figure>"
        for one in contents.maps
    )
    return (
        "<h2>What attention looks at</h2><p>One square per head, a row of squares per layer (at most "
        f"four of each), in utterance {_text(contents.map_utterance or '')}: time runs right for "
        "what is looked at and down for what looks. Dark is much weight, as a share of the square's "
        f'largest; softmax rows sum to 1, others need not.</p><div class="maps">{cards}</div>'
    )


def _notes(contents: Contents) -> str:
    comparison = contents.comparison
    notes = [*comparison.notes, *contents.notes, *legend_lines(comparison)]
    items = "".join(f"<li>{_text(note)}</li>" for note in notes)
    commands = "".join(
        f"<li>{_text(row.name)} (commit {_text((row.run.commit or '-')[:7])}): "
        f"<code>{_text(row.run.command)}</code></li>"
        for row in comparison.rows
        if row.run.command
    )
    made = f"<details><summary>Commands</summary><ul>{commands}</ul></details>" if commands else ""
    return f'<h2>How to read this</h2><ul class="small">{items}</ul><div class="small">{made}</div>'


def _interval(path: str, interval: Interval | None, signed: bool = False) -> str:
    if interval is None:
        return "-"
    show = points if signed else percent
    kind = "points" if signed else "percent"
    low = number(f"{path}.low", kind, show(interval.low))
    return f"[{low}, {number(f'{path}.high', kind, show(interval.high))}]"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], num_text: int) -> str:
    """The first ``num_text`` columns hold text; cells are HTML."""

    def line(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(
            f"<{tag}{' class=text' if k < num_text else ''}>{cell}</{tag}>"
            for k, cell in enumerate(cells)
        )

    head = line("th", [_text(name) for name in header])
    return (
        f'<div class="scroll"><table>{head}{"".join(line("td", row) for row in rows)}</table></div>'
    )


def _figure(picture: str, caption: str) -> str:
    return f"<figure>{picture}<figcaption>{_text(caption)}</figcaption></figure>" if picture else ""


def _panels(panels: Sequence[figures.Panel], caption: str) -> str:
    """Pictures side by side where there is room."""
    cells = "".join(
        (f'<div><p class="small">{_text(title)}</p>{picture}</div>' if title else picture)
        for title, picture in panels
    )
    if len(panels) > 1:
        cells = f'<div class="panels">{cells}</div>'
    return _figure(cells, caption)


def _level(comparison: Comparison) -> str:
    return f"[{100 * comparison.level:g} %]"


def _or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)


def _digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _text(text: str) -> str:
    return html.escape(text, quote=True)
