"""Results of bench_attention.py: on the terminal, as JSON, as Markdown and as a plot."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench_contenders import Shape


@dataclass
class Row:
    """What was measured of one contender at one shape; times in ms, memory in MB."""

    name: str
    forward_ms: float
    total_ms: float | None
    forward_tflops: float
    total_tflops: float | None
    relative_error: float
    extra_mb: float
    times_forward: list[float] = field(default_factory=list)
    times_total: list[float] = field(default_factory=list)


@dataclass
class Result:
    """All rows of one shape, and why others are missing."""

    shape: Shape
    rows: list[Row]
    could_not_run: dict[str, str]


def show(result: Result) -> None:
    """One table on the terminal; ratios are to the first row."""
    print(f"\n{asdict(result.shape)}")
    print(f"{'':42}{'fwd ms':>9}{'ratio':>7}{'f+b ms':>9}{'ratio':>7}{'error':>9}{'MB':>8}")
    first = result.rows[0]
    for row in result.rows:
        both, ratio = "-", "-"
        if row.total_ms is not None:
            both = f"{row.total_ms:.2f}"
            ratio = f"{row.total_ms / first.total_ms:.2f}" if first.total_ms else "-"
        print(
            f"{row.name:42}{row.forward_ms:9.2f}{row.forward_ms / first.forward_ms:7.2f}"
            f"{both:>9}{ratio:>7}{row.relative_error:9.1e}{row.extra_mb:8.1f}"
        )
    for name, reason in result.could_not_run.items():
        print(f"{name:42}could not run: {reason}")


def write(
    prefix: Path, env: dict[str, Any], roof: float, results: list[Result], verdicts: list[str]
) -> None:
    """prefix.json, prefix.md and prefix.png."""
    whole = {
        "environment": env,
        "roof_tflops": roof,
        "verdicts": verdicts,
        "results": [asdict(result) for result in results],
    }
    prefix.parent.mkdir(parents=True, exist_ok=True)
    prefix.with_suffix(".json").write_text(json.dumps(whole, indent=1) + "\n")
    prefix.with_suffix(".md").write_text(markdown(env, roof, results, verdicts))
    if len({result.shape.t for result in results}) > 1:
        plot(prefix.with_suffix(".png"), roof, results)


def markdown(env: dict[str, Any], roof: float, results: list[Result], verdicts: list[str]) -> str:
    """A table a reader can check against the gates, and what it says of them."""
    where = env["gpu"] or f"{env['processor']}, {env['threads']} threads"
    versions = [f"{name} {version}" for name, version in env["versions"].items() if version]
    lines = [
        f"# Attention on {where}",
        "",
        f"    {env['command']}",
        "",
        f"Commit {env['commit']}, {env['date']}; Python {env['python']}, {', '.join(versions)}; "
        f"{env['dtype']}; load average before the run {env['load_average']}. "
        "Medians of interleaved rounds; ratios are to the first row of a shape in the same run, "
        "below 1 is faster; error is the largest difference from float64 over the largest output; "
        "MB is the peak of extra memory. Rates count two products forward and seven in all. "
        f"Roof: {roof * 1e3:.4g} GFLOP/s.",
        "",
        "| B, H, T, d | contender | forward ms | ratio | GFLOP/s | forward + backward ms | ratio "
        "| GFLOP/s | error | MB |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for result in results:
        shape, first = result.shape, result.rows[0]
        label = f"{shape.b}, {shape.h}, {shape.t}, {shape.d}"
        for row in result.rows:
            both = "| | | "
            if row.total_ms is not None and row.total_tflops is not None:
                ratio = f"{row.total_ms / first.total_ms:.2f}" if first.total_ms else ""
                both = f"| {row.total_ms:.2f} | {ratio} | {row.total_tflops * 1e3:.4g} "
            lines.append(
                f"| {label} | {row.name} | {row.forward_ms:.2f} "
                f"| {row.forward_ms / first.forward_ms:.2f} | {row.forward_tflops * 1e3:.4g} "
                f"{both}| {row.relative_error:.1e} | {row.extra_mb:.1f} |"
            )
            label = ""
    frames: dict[tuple[str, str], list[str]] = {}
    for result in results:
        for failure in result.could_not_run.items():
            frames.setdefault(failure, []).append(str(result.shape.t))
    lines += ["", "Could not run:" if frames else "Everything ran.", ""]
    lines += [f"- {name} ({', '.join(t)} frames): {why}" for (name, why), t in frames.items()]
    if verdicts:
        lines += ["", "Bounds of this path:", "", *(f"- {line}" for line in verdicts)]
    return "\n".join(lines) + "\n"


def plot(path: Path, roof: float, results: list[Result]) -> None:
    """Rates of the forward, and of forward and backward, under the roof."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, both = plt.subplots(1, 2, figsize=(13, 5), sharey=True)
    names = list(dict.fromkeys(row.name for result in results for row in result.rows))
    for axes, rate in zip(both, ("forward_tflops", "total_tflops"), strict=True):
        for name in names:
            points = [
                (result.shape.t, getattr(row, rate) * 1e3)
                for result in results
                for row in result.rows
                if row.name == name and getattr(row, rate) is not None
            ]
            if points:
                axes.plot(*zip(*sorted(points), strict=True), marker="o", label=name)
        axes.axhline(roof * 1e3, linestyle="--", color="black", label="roof")
        lengths = sorted({result.shape.t for result in results})
        axes.set(xscale="log", xlabel="frames")
        axes.set_xticks(lengths, [str(length) for length in lengths])
        axes.set_xticks([], minor=True)
    both[0].set(ylabel="GFLOP/s", title="forward")
    both[1].set(title="forward + backward")
    both[0].legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
