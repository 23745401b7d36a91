#!/usr/bin/env python
"""The first steps of several trainings in a table and a picture, from their log.jsonl.

python stability.py exp/softmax-s1 exp/none-s1 --out exp/stability
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from asr.errors import InputError
from asr.files import write_atomically
from asr.markdown import cell
from asr.pictures import as_png, new_figure
from asr.run_folder import RunFolder

COLOURS = ("#000000", "#D55E00", "#E69F00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#999999")
Points = list[tuple[int, float]]
LAST = 20


@dataclass(frozen=True)
class Run:
    """What a log says: (step, value) pairs. Of several layers the largest value counts."""

    system: str
    seed: int
    loss: Points
    output: Points
    """Norm of what attention adds to the residual."""
    share: Points
    """The same over the residual's."""
    jacobian: Points
    gradient: Points
    num_skipped: int

    @property
    def last_loss(self) -> float:
        """Mean over the last steps that were not skipped; infinite where all were."""
        finite = [value for _, value in self.loss[-LAST:] if math.isfinite(value)]
        return statistics.fmean(finite) if finite else math.inf


def read(folder: Path) -> Run:
    records = [json.loads(line) for line in RunFolder(folder).log.read_text().splitlines()]
    looked = [record for record in records if record["kind"] == "diagnose"]
    if not looked:
        raise InputError(
            f"{folder}: no 'diagnose' records; train with train.diagnose_steps above 0"
        )
    system, _, seed = folder.name.rpartition("-s")
    return Run(
        system=system,
        seed=int(seed),
        loss=[(one["step"], number(one["loss"])) for one in records if one["kind"] == "train"],
        output=largest(looked, "output_norm"),
        share=[(one["step"], share(one)) for one in looked],
        jacobian=largest(looked, "jacobian_norm"),
        gradient=[(one["step"], number(one["gradient_norm"])) for one in looked],
        num_skipped=sum(one["kind"] == "skipped" for one in records),
    )


def largest(records: Sequence[dict[str, Any]], name: str) -> Points:
    """Of the layers."""
    return [
        (one["step"], max(number(one[key]) for key in one if key.startswith(f"{name}/layer")))
        for one in records
    ]


def share(record: dict[str, Any]) -> float:
    layers = [key.partition("/")[2] for key in record if key.startswith("output_norm/")]
    return max(
        ratio(number(record[f"output_norm/{layer}"]), number(record[f"residual_norm/{layer}"]))
        for layer in layers
    )


def ratio(output: float, residual: float) -> float:
    """Infinite where either is, or there is nothing to divide by."""
    finite = math.isfinite(output) and math.isfinite(residual) and residual > 0
    return output / residual if finite else math.inf


def number(value: float | None) -> float:
    """What was not finite is infinite here."""
    return math.inf if value is None else value


HEADER = (
    "system",
    *("output / residual, step 1", "largest", "Jacobian, step 1", "largest"),
    *("gradient, step 1", "largest after 10 steps", f"loss, last {LAST} steps", "skipped"),
)


def table(runs: Sequence[Run]) -> str:
    """One line per system; over several seeds the median, and the range where it is of results."""
    lines = ["| " + " | ".join(HEADER) + " |", "|---|" + "---:|" * (len(HEADER) - 1)]
    for system in dict.fromkeys(run.system for run in runs):
        own = [run for run in runs if run.system == system]
        cells = [
            median([run.share[0][1] for run in own]),
            median([highest(run.share) for run in own]),
            median([run.jacobian[0][1] for run in own]),
            median([highest(run.jacobian) for run in own]),
            median([run.gradient[0][1] for run in own]),
            median([highest(after(run.gradient, 10)) for run in own]),
            spread([run.last_loss for run in own]),
            " ".join(str(run.num_skipped) for run in own),
        ]
        lines.append("| " + " | ".join([cell(system), *cells]) + " |")
    return "\n".join(lines) + "\n"


def highest(points: Points) -> float:
    """NaN where a run had fewer steps."""
    return max((value for _, value in points), default=math.nan)


def after(points: Points, step: int) -> Points:
    return [point for point in points if point[0] > step]


def median(values: Sequence[float]) -> str:
    middle = statistics.median(values)
    return "-" if math.isnan(middle) else f"{middle:.3g}"


def spread(values: Sequence[float]) -> str:
    middle, low, high = map(loss_text, (statistics.median(values), min(values), max(values)))
    return middle if len(values) == 1 else f"{middle} [{low}, {high}]"


def loss_text(loss: float) -> str:
    return f"{loss:.2f}" if math.isfinite(loss) else "diverged"


def legend(runs: Sequence[Run]) -> str:
    """A system's name, and whether its trainings diverged."""
    diverged = sum(not math.isfinite(run.last_loss) for run in runs)
    if not diverged:
        return runs[0].system
    return f"{runs[0].system} (diverged{f', {diverged} of {len(runs)}' if len(runs) > 1 else ''})"


def plot(runs: Sequence[Run], path: Path) -> None:
    figure = new_figure(11, 7.5)
    panels = figure.subplots(2, 2, sharex=True).flatten()
    systems = list(dict.fromkeys(run.system for run in runs))
    for axes, name, title, scale in zip(
        panels,
        ("loss", "output", "gradient", "jacobian"),
        (
            "training loss per token",
            "norm of attention's output, largest layer",
            "gradient norm",
            "Jacobian norm of attention, largest layer",
        ),
        ("linear", "log", "log", "log"),
        strict=True,
    ):
        for run in runs:
            points = [point for point in getattr(run, name) if math.isfinite(point[1])]
            if name == "loss":
                points = smoothed(points)
            colour = COLOURS[systems.index(run.system) % len(COLOURS)]
            own = [one for one in runs if one.system == run.system]
            label = legend(own) if run is own[0] else None
            xs, ys = [step for step, _ in points], [value for _, value in points]
            # nothing finite is no line, but still a name
            axes.plot(xs, ys, color=colour, label=label, linewidth=1.2)
        axes.set_yscale(scale)
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.25)
    for axes in panels[2:]:
        axes.set_xlabel("step")
    # a run that diverges leaves the picture and leaves the others readable
    begun = [value for run in runs for _, value in run.loss[:1] if math.isfinite(value)]
    if begun:
        panels[0].set_ylim(0, 1.2 * max(begun))
    panels[0].legend(frameon=False, fontsize=8)
    write_atomically(path, as_png(figure))


def smoothed(points: Points, width: int = 5) -> Points:
    """Means of so many steps."""
    return [
        (points[k][0], statistics.fmean(value for _, value in points[k : k + width]))
        for k in range(0, len(points) - width + 1, width)
    ]


def text(runs: Sequence[Run], folders: Sequence[Path], picture: str, made_by: str) -> str:
    """The page: what was run, the table, what its columns are."""
    config = yaml.safe_load(RunFolder(folders[0]).config.read_text())
    record = json.loads(RunFolder(folders[0]).run.read_text())
    commits = {json.loads(RunFolder(folder).run.read_text())["commit"] for folder in folders}
    encoder, optimizer = config["encoder"], config["optimizer"]
    steps = max(len(run.loss) for run in runs)
    return f"""# Sigmoid's first steps, and what steadies them

`{made_by}`, commit {", ".join(sorted(map(str, commits)))}: a {encoder["kind"]} of \
{encoder["num_layers"]} x {encoder["dim"]} ({record["num_params"]:,} parameters), position \
{config["attention"]["position"]} but for `alibi`, {steps} steps of \
{config["train"]["global_batch_s"]:g} s of synthetic speech, learning rate {optimizer["lr"]:g} after \
{optimizer["warmup_fraction"] * steps:.0f} steps of warm-up, gradients not clipped, seeds \
{sorted({run.seed for run in runs})}.

![loss, norms of output, gradient and Jacobian over the steps]({picture})

{table(runs)}
- `none`, `constant` (-5), `log-n`: sigmoid's shift; `none+X`: without a shift, with the remedy X alone.
- Figures per layer are those of the layer where they are largest; over several seeds the median, of the
  loss with its range, of the skipped steps each seed's. What each is: [diagnostics](../diagnostics.md).
- A skipped step is one whose loss or gradient was not finite; `diverged`: so were the last {LAST} steps
  all; `inf`: a figure that was not finite.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+", help="experiments, SYSTEM-sSEED each")
    parser.add_argument("--out", type=Path, required=True, help="stem of the files written")
    parser.add_argument("--made-by", default="recipes/stability/run.sh", help="as the page says")
    args = parser.parse_args()
    try:
        runs = [read(folder) for folder in args.folders]
    except InputError as error:
        parser.exit(2, f"stability.py: error: {error}\n")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    picture = args.out.with_suffix(".png")
    plot(runs, picture)
    page = text(runs, args.folders, picture.name, args.made_by)
    args.out.with_suffix(".md").write_text(page)
    print(table(runs))


if __name__ == "__main__":
    main()
