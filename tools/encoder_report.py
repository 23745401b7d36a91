"""The Markdown of bench_encoder's result."""

from __future__ import annotations

from typing import Any

HEADER = """# Conformer encoders on the CPU

    {command}

Commit {commit}, {date}; Python {python}, {versions}; {processor}, {threads} threads, load average
before the run {load_average}; float32.

{layers} layers of width {dim}, {heads} heads, feed-forwards of {ff_dim}, convolutions of {kernel}
frames; blocks only, utterances of equal length, no dropout. Forward: evaluation mode without
gradients; forward + backward: training mode; update: fused AdamW. Contenders are interleaved, each
once a round. A ratio is the time over that of the fastest peer (marked 1.00) in the same round:
median [quartiles over rounds]; below 1 is faster than every peer.
"""

# What a row may hold, and its column.
MEASURES = {
    "forward": "forward ms",
    "total": "forward + backward ms",
    "update": "forward + backward + update ms",
}


def markdown(result: dict[str, Any]) -> str:
    """The whole page."""
    env = dict(result["environment"])
    versions = {name: version for name, version in env.pop("versions").items() if version}
    known = ", ".join(f"{name} {version}" for name, version in versions.items())
    parts = [HEADER.format(**env, versions=known, **result["size"])]
    for table in result["tables"]:
        parts.append(f"## {table['batch']} utterances of {table['length']} frames\n")
        parts.append(_table(table, with_memory=False))
    if result["by_length"]:
        parts.append("## One utterance, by length\n\nMemory: the peak of a forward + backward.\n")
    for table in result["by_length"]:
        parts.append(f"### {table['length']} frames\n")
        own = table.get("environment", env)
        if own["command"] != env["command"]:
            parts.append(
                f"Measured by itself: `{own['command']}`, commit {own['commit'][:7]}, load average "
                f"before it {own['load_average']}.\n"
            )
        parts.append(_table(table, with_memory=True))
    return "\n".join(parts)


def _table(table: dict[str, Any], with_memory: bool) -> str:
    measured = [what for what in MEASURES if table["rows"] and what in table["rows"][0]]
    columns = ["", "position", "parameters"]
    columns += [column for what in measured for column in (MEASURES[what], "ratio")]
    columns += ["memory MB"] if with_memory else []
    lines = ["| " + " | ".join(columns) + " |", "|---|---|" + "---:|" * (len(columns) - 2)]
    if not table["rows"]:
        lines = []
    for row in table["rows"]:
        cells = [row["name"], row["position"], f"{row['parameters'] / 1e6:.1f}M"]
        for what in measured:
            ratio = row[what]["ratio"]
            cells.append(f"{row[what]['median_ms']:.0f}")
            cells.append(f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]")
        cells += [f"{row['peak_mb']:.0f}"] if with_memory else []
        lines.append("| " + " | ".join(cells) + " |")
    for name, reason in table["could_not_run"].items():
        lines.append(f"\nCould not run: {name}: {reason}.")
    return "\n".join(lines) + "\n"
