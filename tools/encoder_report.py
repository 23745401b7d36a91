"""The Markdown of bench_encoder's result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from measure import quartiles

HEADER = """# Conformer encoders on the CPU

    {command}

Commit {commit}{local}, {date}; Python {python}, {versions}; {processor}, {threads} threads, load average
before the run {load_average}; float32.

{layers} layers of width {dim}, {heads} heads, feed-forwards of {ff_dim}, convolutions of {kernel}
frames; blocks only, utterances of equal length, no dropout. {how}. Contenders are interleaved, each
once a round. A ratio is the time over that of the fastest peer (marked 1.00) in the same round:
median [quartiles over rounds]; below 1 is faster than every peer, above 1 slower
than the fastest. One round alone has no interval.
"""

LOCAL = " (`+`: with local changes, not recorded)"

# What a row may hold: the word for it, its column, and how it is measured.
MEASURES = {
    "forward": ("forward", "forward: evaluation mode without gradients"),
    "total": ("forward + backward", "forward + backward: training mode"),
    "update": (
        "forward + backward + update",
        "forward + backward + update: training mode, fused AdamW",
    ),
}

LIKE_FOR_LIKE = """## Sigmoid over softmax, the rest alike

Our sigmoid over our softmax, same position and same round: median [least, most over the rounds].
"""

SAME_POSITION = """## Sigmoid over the fastest peer of the same position

Our sigmoid over the fastest peer that has the same position: median [least, most over the rounds].
"""

Row = dict[str, Any]
Table = dict[str, Any]


def markdown(result: dict[str, Any]) -> str:
    """Return the whole page."""
    env = dict(result["environment"])
    versions = {name: version for name, version in env.pop("versions").items() if version}
    known = ", ".join(f"{name} {version}" for name, version in versions.items())
    tables, by_length = result["tables"], result["by_length"]
    measured = _measures([row for table in [*tables, *by_length] for row in table["rows"]])
    how = "; ".join(MEASURES[what][1] for what in measured)
    parts = [
        HEADER.format(
            **env,
            local=LOCAL if env["commit"].endswith("+") else "",
            versions=known,
            how=how[:1].upper() + how[1:],
            **result["size"],
        )
    ]
    short = list(_in_short(tables, by_length))
    if short:
        parts.append("## In short\n")
        parts.append("\n".join(short) + "\n")
    parts += _compared([*tables, *by_length])
    for table in tables:
        parts.append(f"## {_where(table)}\n")
        parts.append(_table(table, with_memory=False))
    if by_length:
        parts.append("## One utterance, by length\n\nMemory: the peak of a forward + backward.\n")
    for table in by_length:
        parts.append(f"### {table['length']} frames\n")
        own = table.get("environment", env)
        if own["command"] != env["command"]:
            commit = own["commit"][:7] + ("+" if own["commit"].endswith("+") else "")
            parts.append(
                f"Measured by itself: `{own['command']}`, commit {commit}"
                f"{LOCAL if commit.endswith('+') else ''}, load average before it "
                f"{own['load_average']}.\n"
            )
        if _num_rounds(table) == 1:
            parts.append(
                f"One round, in a run that began at a load average of {own['load_average']} on "
                f"{own['threads']} threads: no interval.\n"
            )
        parts.append(_table(table, with_memory=True))
    return "\n".join(parts)


def _in_short(tables: Sequence[Table], by_length: Sequence[Table]) -> Iterator[str]:
    """Say as list items how our sigmoid compares with the fastest peer and with our softmax.

    Each item names its batch, because the ratio depends on it.
    """
    for table in filter(_has_both, tables):
        for what in _measures(table["rows"]):
            ratios = ", ".join(
                f"{row['position']} {row[what]['ratio']['median']:.2f}"
                for row in filter(_is_sigmoid, table["rows"])
            )
            num_peers = sum(not row["is_ours"] for row in table["rows"])
            yield (
                f"- {_where(table)}, {MEASURES[what][0]}, sigmoid's time over that of the fastest of "
                f"{num_peers} peers ({_fastest(table, what)}): {ratios}."
            )
    for table in tables:
        for what in _measures(table["rows"]):
            pairs = [
                _ratios(row, softmax, what)
                for row in filter(_is_sigmoid, table["rows"])
                if (softmax := _softmax(table, row, what))
            ]
            if pairs:
                below = sum(max(ratios) < 1 for ratios in pairs)
                yield (
                    f"- {_where(table)}, {MEASURES[what][0]}, sigmoid's time over softmax's in the "
                    f"same code: {_range([quartiles(ratios)[1] for ratios in pairs])} by position; "
                    f"below 1 in each of {_num_rounds(table)} rounds at {below} of {len(pairs)} "
                    "positions."
                )
    single = list(filter(_has_both, by_length))
    for what in _measures([row for table in single for row in table["rows"]]):
        found: dict[str, list[float]] = {}
        for table in single:
            for row in filter(_is_sigmoid, table["rows"]):
                found.setdefault(row["position"], []).append(row[what]["ratio"]["median"])
        ratios = ", ".join(
            f"{position} {_range(values)}{' (above 1 at each)' if min(values) > 1 else ''}"
            for position, values in found.items()
        )
        peers = " or ".join(dict.fromkeys(_fastest(table, what) for table in single))
        yield (
            f"- 1 utterance of {single[0]['length']} to {single[-1]['length']} frames, "
            f"{MEASURES[what][0]}, sigmoid's time over that of the fastest peer ({peers}): "
            f"{ratios}."
        )
    lonely = [
        str(table["length"]) for table in by_length if table["rows"] and _num_rounds(table) == 1
    ]
    if lonely:
        yield f"- The tables of {', '.join(lonely)} frames rest on one round each: no interval."
    if any(map(_has_both, tables)) and not by_length:
        yield (
            "- These ratios hold for this batch; those of one utterance are others "
            "(`docs/results/encoder-length-cpu.md`)."
        )


def _has_both(table: Table) -> bool:
    """Whether there are peers and our sigmoid to compare them with."""
    rows = table["rows"]
    return any(map(_is_sigmoid, rows)) and not all(row["is_ours"] for row in rows)


def _where(table: Table) -> str:
    return f"{table['batch']} utterances of {table['length']} frames"


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def _compared(tables: Sequence[Table]) -> list[str]:
    """The sections that compare like with like; nothing where there is nothing to compare."""
    parts = []
    for text, other_of in ((LIKE_FOR_LIKE, _softmax), (SAME_POSITION, _peer)):
        lines = []
        measured = _measures([row for table in tables for row in table["rows"]])
        for table in tables:
            for row in filter(_is_sigmoid, table["rows"]):
                others = {what: other_of(table, row, what) for what in measured if what in row}
                cells = [
                    _over(_ratios(row, other, what)) if (other := others.get(what)) else "-"
                    for what in measured
                ]
                if any(others.values()):
                    where = f"{table['batch']} x {table['length']}"
                    head = [where, row["position"], str(_num_rounds(table))]
                    lines.append("| " + " | ".join([*head, *cells]) + " |")
        if lines:
            columns = ["utterances x frames", "position", "rounds"]
            columns += [MEASURES[what][0] for what in measured]
            rule = "|---|---|" + "---:|" * (len(columns) - 2)
            parts += [text, "\n".join(["| " + " | ".join(columns) + " |", rule, *lines]) + "\n"]
    return parts


def _softmax(table: Table, row: Row, what: str) -> Row | None:
    """The row that differs from this one in its weighting alone."""
    name = row["name"].replace("sigmoid", "softmax")
    return next((one for one in table["rows"] if one["name"] == name and what in one), None)


def _peer(table: Table, row: Row, what: str) -> Row | None:
    """The fastest peer that has this row's position."""
    peers = [
        one
        for one in table["rows"]
        if not one["is_ours"] and one["position"] == row["position"] and what in one
    ]
    return min(peers, key=lambda one: float(one[what]["median_ms"]), default=None)


def _ratios(row: Row, other: Row, what: str) -> list[float]:
    """Divide the times of two rows round by round."""
    times_ms, others_ms = row[what]["times_ms"], other[what]["times_ms"]
    return [a / b for a, b in zip(times_ms, others_ms, strict=True)]


def _over(ratios: Sequence[float]) -> str:
    """Format the median, and the range where there are several rounds."""
    middle = f"{quartiles(ratios)[1]:.2f}"
    return middle if len(ratios) == 1 else f"{middle} [{min(ratios):.2f}, {max(ratios):.2f}]"


def _is_sigmoid(row: Row) -> bool:
    return bool(row["is_ours"]) and "sigmoid" in row["name"]


def _fastest(table: Table, what: str) -> str:
    """The peer that the ratios of a table are to, and its position."""
    name = table["rows"][0][what]["to"]
    (position,) = (row["position"] for row in table["rows"] if row["name"] == name)
    return f"{name}, position {position}"


def _measures(rows: Sequence[Row]) -> list[str]:
    return [what for what in MEASURES if any(what in row for row in rows)]


def _num_rounds(table: Table) -> int:
    return max(
        (len(row[what]["times_ms"]) for row in table["rows"] for what in MEASURES if what in row),
        default=0,
    )


def _table(table: Table, with_memory: bool) -> str:
    measured = _measures(table["rows"])
    columns = ["", "position", "parameters"]
    columns += [column for what in measured for column in (f"{MEASURES[what][0]} ms", "ratio")]
    columns += ["memory MB"] if with_memory else []
    lines = ["| " + " | ".join(columns) + " |", "|---|---|" + "---:|" * (len(columns) - 2)]
    if not table["rows"]:
        lines = []
    for row in table["rows"]:
        cells = [row["name"], row["position"], f"{row['parameters'] / 1e6:.1f}M"]
        for what in measured:
            ratio = row[what]["ratio"]
            interval = f" [{ratio['low']:.2f}, {ratio['high']:.2f}]"
            cells.append(f"{row[what]['median_ms']:.0f}")
            cells.append(
                f"{ratio['median']:.2f}" + (interval if len(row[what]["times_ms"]) > 1 else "")
            )
        cells += [f"{row['peak_mb']:.0f}"] if with_memory else []
        lines.append("| " + " | ".join(cells) + " |")
    for name, reason in table["could_not_run"].items():
        lines.append(f"\nCould not run: {name}: {reason}.")
    return "\n".join(lines) + "\n"
