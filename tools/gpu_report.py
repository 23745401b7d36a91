"""From gpu_bench.py's file a page and a plot of attention on a GPU.

    python tools/gpu_report.py table.json docs/results/attention-gpu     # .md and .png
    python tools/gpu_report.py table.json OUT --modes modes.json --check check.json

Ratios are to FlashAttention 2 as PyTorch carries it at the same shape in the same run.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

Row = dict[str, Any]
HEAD = (
    "| B, H, T, d | contender | forward ms | ratio | TFLOP/s | backward ms | ratio | TFLOP/s "
    "| error | MB |",
    "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
)
FLASH = "sdpa flash"
TITLES = {
    "plain": "Every frame sees every frame",
    "causal": "Causal",
    "alibi": "ALiBi",
    "relative": "Transformer-XL's relative positions",
    "ragged": "Utterances of 30 to 100 % of the length",
    "table": "A learned bias per offset",
    "ragged alibi": "ALiBi, utterances of 30 to 100 %",
    "ragged relative": "Relative positions, utterances of 30 to 100 %",
}
NOTES = {
    "causal": "Half the pairs are counted.",
    "alibi": "The slopes are fixed but for `slopes too`. FlashAttention 2 has no ALiBi here and stands "
    "for what plain softmax takes; `efficient` and `cudnn` add a matrix of biases that was made before.",
    "relative": "`sdpa efficient` is what toolkits do: the matrix of query times position, shifted, "
    "then given as a bias. Our gradients are also those of u, v and r. Two products are counted, "
    "although there are three.",
    "ragged": "Only pairs of valid frames are counted. `sdpa flash` computes the padding too; `varlen "
    "flash` has the utterances one after the other, packing them not counted.",
}


def key(row: Row) -> tuple[str, tuple[int, ...]]:
    return row["part"], tuple(row["shape"])


def flash_times(rows: list[Row]) -> dict[tuple[str, tuple[int, ...]], Row]:
    """FlashAttention's row of each part and shape."""
    return {key(r): r for r in rows if r["contender"] == FLASH and "backward" in r}


def cells(row: Row, flash: Row | None) -> list[str]:
    """Times, ratios, rates, error and memory of a row."""
    out = []
    for what in ("forward", "backward"):
        if what not in row:
            out += ["", "", ""]
            continue
        ratio = f"{row[what]['ms'] / flash[what]['ms']:.2f}" if flash else ""
        mark = "" if row[what]["graph"] else "*"
        out += [f"{row[what]['ms']:.3f}{mark}", ratio, f"{row[what + '_tflops']:.0f}"]
    memory = row.get("total_mb")
    return [*out, f"{row['error']:.1e}", "" if memory is None else f"{memory:.0f}"]


def table(part: str, rows: list[Row]) -> list[str]:
    """One part of the page."""
    flash = flash_times(rows)
    mine = [r for r in rows if r["part"] == part and "forward" in r]
    if not mine:
        return []
    lines = [f"## {TITLES.get(part, part)}", ""]
    if part in NOTES:
        lines += [NOTES[part], ""]
    lines += [
        *HEAD,
    ]
    shapes = sorted({tuple(r["shape"]) for r in mine}, key=lambda s: (s[3], s[2]))
    for shape in shapes:
        label = ", ".join(map(str, shape))
        for row in [r for r in mine if tuple(r["shape"]) == shape]:
            words = [label, row["contender"], *cells(row, flash.get(key(row)))]
            lines.append("| " + " | ".join(words) + " |")
            label = ""
    return [*lines, ""]


def refusals(whole: dict[str, Any]) -> list[str]:
    found: dict[tuple[str, str, str], list[str]] = {}
    for row in whole["rows"]:
        if "refused" in row:
            where = (row["part"], row["contender"], row["refused"])
            found.setdefault(where, []).append(str(row["shape"][2]))
    lines = [
        f"- {part}, {contender} ({', '.join(dict.fromkeys(t))} frames): {why}"
        for (part, contender, why), t in found.items()
    ]
    lines += [f"- not reached: {' '.join(name.split())}" for name in whole["not_reached"]]
    return ["## Could not run", "", *lines, ""] if lines else []


def modes_lines(whole: dict[str, Any]) -> list[str]:
    rows = [r for r in whole["rows"] if "forward" in r]
    flash = flash_times(rows)
    lines = [
        "## Ways to compute a weight",
        "",
        *HEAD,
    ]
    for row in rows:
        words = [", ".join(map(str, row["shape"])), row.get("mode", row["contender"])]
        lines.append("| " + " | ".join(words + cells(row, flash.get(key(row)))) + " |")
    return [*lines, ""]


def check_lines(whole: dict[str, Any]) -> list[str]:
    failed = [c for c in whole["cases"] if c.get("failed")]
    lines = [
        "## Correctness on this card",
        "",
        f"{len(whole['cases'])} cases against float64 on the same inputs, {len(failed)} failed, "
        f"{len(whole['not_reached'])} not reached. Worst ||got - exact|| / ||exact||:",
        "",
        "| type | " + " | ".join(names := tensor_names(whole)) + " |",
        "|---|" + "---:|" * len(names),
    ]
    for dtype in sorted({c["dtype"] for c in whole["cases"] if "tensors" in c}):
        worst = []
        for name in names:
            some = [
                c["tensors"][name]["norm"]
                for c in whole["cases"]
                if c.get("dtype") == dtype and name in c.get("tensors", {})
            ]
            worst.append(f"{max(some):.1e}" if some else "")
        lines.append(f"| {dtype} | " + " | ".join(worst) + " |")
    return [*lines, "", *(f"- failed: {c['name']}: {c['failed']}" for c in failed), ""]


def tensor_names(whole: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(n for c in whole["cases"] for n in c.get("tensors", {})))


def markdown(whole: dict[str, Any], more: list[str]) -> str:
    env = whole["environment"]
    versions = [f"{name} {version}" for name, version in env["versions"].items() if version]
    roofs = whole["roofs"]
    product = max((r["product_tflops"] for r in roofs), default=float("nan"))
    copy = max((r["copy_tb_per_s"] for r in roofs), default=float("nan"))
    lines = [
        f"# Attention on {whole['gpu']}",
        "",
        f"    {env['command']}",
        "",
        f"Commit {env['commit']}, {env['date']}; Python {env['python']}, {', '.join(versions)}; "
        f"{whole['dtype'].removeprefix('torch.')}. Each time is the median of seven replays of a CUDA "
        "graph of up to 20 calls, by events (`*`: calls in a loop, no graph); forward is the public "
        "call, backward the gradients alone. TFLOP/s count two products of the pairs that are seen, "
        "five in the backward. Ratios are to FlashAttention 2 (`sdpa flash`, softmax, no positions) "
        "in the same run, below 1 is faster. Error is ||got - exact|| / ||exact|| of the first 64 "
        "rows against float64; MB the peak of extra memory of a forward and backward. An 8192 x "
        f"8192 x 8192 product runs at {product:.0f} TFLOP/s, a copy at {copy:.2f} TB/s.",
        "",
    ]
    for part in dict.fromkeys(r["part"] for r in whole["rows"]):
        lines += table(part, whole["rows"])
    return "\n".join([*lines, *more, *refusals(whole)]).rstrip() + "\n"


def plot(path: Path, whole: dict[str, Any]) -> None:
    """Rates over lengths: forward above, backward below, one column per head size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = [
        r for r in whole["rows"] if "backward" in r and r["part"] in ("plain", "causal", "alibi")
    ]
    dims = sorted({r["shape"][3] for r in rows})
    roof = max((r["product_tflops"] for r in whole["roofs"]), default=0.0)
    figure, grid = plt.subplots(
        2, max(1, len(dims)), figsize=(6.5 * max(1, len(dims)), 9), squeeze=False, sharey=True
    )
    styles = {"plain": "-", "causal": "--", "alibi": ":"}
    contenders = list(dict.fromkeys(r["contender"] for r in rows))
    for line, what in enumerate(("forward", "backward")):
        for column, d in enumerate(dims):
            axes = grid[line][column]
            for (part, style), contender in [(p, c) for p in styles.items() for c in contenders]:
                # FlashAttention has no ALiBi; its row there repeats the plain one
                if part != "plain" and contender not in ("ours", FLASH)[: 1 + (part == "causal")]:
                    continue
                points = sorted(
                    (r["shape"][2], r[what + "_tflops"])
                    for r in rows
                    if (r["part"], r["contender"], r["shape"][3]) == (part, contender, d)
                )
                if points:
                    color = f"C{contenders.index(contender)}"
                    label = contender if part == "plain" else f"{contender}, {part}"
                    how = {"linestyle": style, "color": color, "label": label}
                    axes.plot(*zip(*points, strict=True), marker="o", **how)
            axes.axhline(roof, linestyle="-.", color="black", label="8192^3 product")
            axes.set(xscale="log", title=f"{what}, d = {d}", xlabel="frames", ylabel="TFLOP/s")
            lengths = sorted({r["shape"][2] for r in rows})
            axes.set_xticks(lengths, [str(n) for n in lengths])
            axes.set_xticks([], minor=True)
    lines = {line.get_label(): line for axes in grid.flat for line in axes.get_lines()}
    figure.legend(lines.values(), lines.keys(), loc="lower center", ncols=5, fontsize=9)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("table", type=Path)
    parser.add_argument("out", type=Path, help="OUT.md and OUT.png are written")
    parser.add_argument("--modes", type=Path)
    parser.add_argument("--check", type=Path)
    args = parser.parse_args()
    whole = json.loads(args.table.read_text())
    more = []
    if args.modes:
        more += modes_lines(json.loads(args.modes.read_text()))
    if args.check:
        more += check_lines(json.loads(args.check.read_text()))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.with_suffix(".md").write_text(markdown(whole, more))
    plot(args.out.with_suffix(".png"), whole)


if __name__ == "__main__":
    main()
