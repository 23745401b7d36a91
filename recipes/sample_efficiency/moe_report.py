"""Page and picture of the mixture-of-experts simulation, from its JSON alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from curves import DRAWS, Array, Estimate, slopes
from run_record import stated

from asr.files import write_atomically
from asr.pictures import as_png, new_figure

MEASURES = {
    "voronoi": "Voronoi loss",
    "experts": "experts' error",
    "equivalent": "nearest equivalent",
    "function": "function",
}
NOTES = """\
- Voronoi loss: each fitted expert belongs to the true one that is nearest. For softmax, and for \
sigmoid where the gate of the expert that is fitted twice is constant (sparse): what the weights of \
each cell miss, and the weighted differences of gates and experts, squared where two fitted experts \
share a cell. For dense sigmoid: the differences, unsquared, from the nearest set of three experts that \
gives the true function; bounded: from the best three experts that the box holds (`voronoi.py`).
- Information: rank of J'J / n at the answer, out of the number of parameters that are free there, and \
its least eigenvalue. Parameters that the box holds are not free. A rate of -1/2 rests on full rank for \
exact fits and for dense sigmoid with one too many. With a free box the third expert of the dense \
answer is 0, its gate is not determined (three parameters), and the theory promises nothing: such rows \
are marked. For softmax and sparse sigmoid with one too many the theory allows for the missing rank.
- Bounded: every expert of the box has an offset of at least 1.5 and a gate with c >= 0 and |A|, |b| <= \
2, so none is 0 or vanishes. The answer is then the nearest function of three experts, which differs \
from the true one; losses and the function's error are distances from this answer, and the Hessian of \
the mean squared error is positive definite there (`curvature` in the JSON). The box holds {held} of 15 \
parameters (linear, tanh), so the rate is that of the others. Box (one of three tried) and truths (of \
50 to 140 random ones per box and kind of expert) were chosen for the condition of that matrix; in the \
others it is too ill-conditioned for a rate to show at these n.
- The losses are not the same yardstick: dense sigmoid's takes the nearest equivalent answer, softmax's \
the truth. With linear experts softmax has equivalent answers too (two experts behind the same gate \
count as their mean): the column `nearest equivalent` takes them. Nor is the function the same. Only \
slopes compare, and the function's error.
- Experts' error: of the experts alone, unsquared, weighted by their gates for softmax and sparse \
sigmoid. The theory's claim that sigmoid needs less data is about this column with one expert too many: \
-1/2 for dense sigmoid, -1/4 (tanh) or slower (linear) for softmax.
- The theory's rates bound the error from above: a faster slope does not contradict them, a slower one \
may be of n that are too small.
- "Slower than any": the theory says that no power of n bounds the worst case over all truths. One \
truth can be learnt faster.
- Parameters stay in [-5, 5] (bounded: in its box). With one too many the fit is the best of three \
starts near the answer, otherwise that of one."""


def slope(sizes: list[int], errors_sr: Array, seed: int = 1) -> Estimate:
    """Slope of log median error against log n; sizes have independent data and are drawn apart."""
    rng = np.random.default_rng(seed)
    count = errors_sr.shape[1]
    medians_bs = np.stack(
        [np.median(row[rng.integers(count, size=(DRAWS, count))], axis=1) for row in errors_sr], 1
    )
    own = float(slopes(sizes, np.median(errors_sr, axis=1)[None])[0])
    return Estimate.of(own, slopes(sizes, medians_bs))


def all_slopes(content: dict[str, Any]) -> dict[str, dict[str, Estimate]]:
    return {
        name: {kind: slope(content["sizes"], np.array(one[kind])) for kind in MEASURES}
        for name, one in content["results"].items()
    }


def slopes_table(content: dict[str, Any], found: dict[str, dict[str, Estimate]]) -> list[str]:
    sizes = content["sizes"]
    lines = [
        f"| gate, experts, fit | information | {' | '.join(MEASURES.values())} | "
        f"Voronoi loss at n = {sizes[-1]} |",
        "|---|---:|" + "---:|" * (len(MEASURES) + 1),
    ]
    for name, one in content["results"].items():
        matrix = one["information"]
        rank = f"{matrix['rank']} of {matrix['free']}"
        if matrix["rank"] == matrix["free"]:
            rank += f", {matrix['least']:.1e}"
        cells = []
        for kind in MEASURES:
            says = {**one["theory"], "function": "-1/2"}.get(kind)
            theory = "" if says is None else f" ({says})"
            cells.append(found[name][kind].fixed() + theory)
        last = float(np.median(one["voronoi"][-1]))
        lines.append(f"| {name} | {rank} | {' | '.join(cells)} | {last:.2g} |")
    return lines


def findings(content: dict[str, Any], found: dict[str, dict[str, Estimate]]) -> list[str]:
    """One sentence per row of which the theory names a rate, and one for the rest."""
    lines, silent, slower = [], [], []
    for name, one in content["results"].items():
        if one["theory"]["voronoi"] == "nothing":
            silent.append(f"{name} (loss {found[name]['voronoi'].fixed()})")
        elif "slower" in one["theory"]["voronoi"]:
            slower.append(f"{name} (experts {found[name]['experts'].fixed()})")
        else:
            parts = [
                f"{MEASURES[kind]} {found[name][kind].fixed()}, "
                f"{against(found[name][kind], one['theory'][kind])}"
                for kind in ("voronoi", "experts")
            ]
            lines.append(f"- {name}: {'; '.join(parts)}.")
    if slower:
        lines.append(f"- The theory names no rate but a worst case for {'; '.join(slower)}.")
    if silent:
        lines.append(f"- The theory promises nothing for {'; '.join(silent)}.")
    lines += contrasts(found)
    values = [one["function"].value for one in found.values()]
    lines.append(f"- The function is learnt at {min(values):.2f} to {max(values):.2f} in all rows.")
    return lines


def contrasts(found: dict[str, dict[str, Estimate]]) -> list[str]:
    """The theory's contrast of softmax and sigmoid, in the experts' error with one too many."""
    lines = []
    for experts in ("linear", "tanh"):
        names = (f"softmax, {experts}", f"sigmoid, bounded, {experts}")
        rows = [found.get(f"{name} experts, one too many") for name in names]
        if rows[0] is not None and rows[1] is not None:
            soft, sig = (row["experts"] for row in rows if row is not None)
            apart = soft.low > sig.high or sig.low > soft.high
            lines.append(
                f"- One {experts} expert too many, experts' error: softmax {soft.fixed()}, bounded "
                f"sigmoid {sig.fixed()}; the intervals {'are apart' if apart else 'overlap'}. The two "
                "have different boxes, truths and answers."
            )
    return lines


def against(found: Estimate, says: str) -> str:
    """Whether the interval holds the theory's rate ("-1/2")."""
    top, bottom = says.split("/")
    rate = int(top) / int(bottom)
    if found.low <= rate <= found.high:
        return f"which holds the theory's {says}"
    return f"{'faster' if found.high < rate else 'slower'} than the theory's {says}"


def held_of(content: dict[str, Any]) -> str:
    """How many parameters the bounded box holds, in the order of the rows."""
    rows = [one for one in content["results"].values() if one["setting"]["regime"] == "bounded"]
    return " and ".join(str(15 - one["information"]["free"]) for one in rows) or "none"


def page(content: dict[str, Any], name: str) -> str:
    sizes, found = content["sizes"], all_slopes(content)
    repetitions = len(next(iter(content["results"].values()))["voronoi"][0])
    return "\n".join(
        [
            "# Experts behind softmax and sigmoid gates: error against data",
            "",
            f"`{content['run']['command']}`",
            "",
            stated(content["run"]),
            "",
            f"Slopes of the log median error over {repetitions} repetitions against log n, n = "
            f"{', '.join(map(str, sizes))}, noise {content['noise']}, with 95 % bootstrap intervals; in "
            "parentheses what the theory says.",
            "",
            *slopes_table(content, found),
            "",
            f"![errors against n]({name}.png)",
            "",
            "## What was found",
            "",
            *findings(content, found),
            "",
            "## How to read it",
            "",
            NOTES.format(held=held_of(content)),
            "",
        ]
    )


def picture(content: dict[str, Any]) -> Any:
    colours = {"softmax dense": "#0072B2", "sigmoid dense": "#D55E00", "sigmoid sparse": "#009E73"}
    figure = new_figure(13, 5.6)
    panels = figure.subplots(1, 3)
    for axes, kind in zip(panels, ("voronoi", "experts", "function"), strict=True):
        for name, one in content["results"].items():
            own = one["setting"]
            style = "-" if own["fitted"] == 2 else "--"
            style += "o" if own["experts"] == "linear" else "s"
            colour = colours.get(f"{own['gate']} {own['regime']}", "#000000")
            medians = np.median(np.array(one[kind]), axis=1)
            axes.loglog(content["sizes"], medians, style, color=colour, label=name, markersize=4)
        axes.set(xlabel="n", title=f"{MEASURES[kind]}, median")
        axes.set_xticks(content["sizes"], [str(size) for size in content["sizes"]])
        axes.set_xticks([], minor=True)
        axes.grid(alpha=0.25)
    handles, labels = panels[0].get_legend_handles_labels()
    place = {"loc": "outside lower center", "ncols": 3, "handlelength": 4}
    figure.legend(handles, labels, frameon=False, fontsize=8, **place)
    return figure


def write_page(content: dict[str, Any], out: Path) -> None:
    write_atomically(out.with_suffix(".md"), page(content, out.name))
    write_atomically(out.with_suffix(".png"), as_png(picture(content)))
