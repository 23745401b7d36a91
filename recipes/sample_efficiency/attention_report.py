"""Page and picture of the attention simulation, from its JSON alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from curves import Array, Estimate, estimate, means, number, ratio_at, resamples, size_at, slopes
from run_record import stated

from asr.files import write_atomically
from asr.pictures import as_png, new_figure

LEVELS = [0.4, 0.3, 0.2, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001]
FROM = 1024  # sequences from which slopes are taken
COLOURS = {"softmax": "#0072B2", "sigmoid": "#D55E00"}  # of the student
OVER = "one head too many"


class Results:
    """Curves of all crossings over the same bootstrap samples."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.sizes: list[int] = content["sizes"]
        self.found: dict[str, dict[str, Any]] = content["results"]
        self.setting: dict[str, Any] = content["setting"]
        self.parameters: dict[str, int] = content["parameters"]
        self.repetitions = len(next(iter(self.found.values()))["excess"])
        index_br = resamples(self.repetitions)
        self.curves = {
            name: means(np.array(one["excess"]), index_br) for name, one in self.found.items()
        }

    def curve(self, teacher: str, student: str, kind: str = OVER) -> Array:
        return self.curves[f"{teacher} teacher, {student} student, {kind}"]

    def ratio(self, over: tuple[str, str], under: tuple[str, str], level: float) -> Estimate | None:
        """N of one crossing (teacher, student) over N of another at equal excess error."""
        return ratio_at(self.sizes, self.curve(*over), self.curve(*under), level)

    def expected(self, one: dict[str, Any], size: int) -> float:
        """sigma^2 p / (outputs of N sequences)."""
        num = self.parameters[str(one["extra"])]
        return self.setting["noise"] ** 2 * num / (size * self.setting["channels"])


SAME = ("sigmoid", "sigmoid"), ("softmax", "softmax")
RATIOS = {
    "sigmoid on sigmoid / softmax on softmax": SAME,
    "softmax teacher: sigmoid / softmax student": (("softmax", "sigmoid"), ("softmax", "softmax")),
    "sigmoid teacher: softmax / sigmoid student": (("sigmoid", "softmax"), ("sigmoid", "sigmoid")),
}


# --- tables -------------------------------------------------------------------------------------


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    rule = "|---|" + "---:|" * (len(header) - 1)
    return [f"| {' | '.join(header)} |", rule, *(f"| {' | '.join(row)} |" for row in rows), ""]


def errors_table(results: Results) -> list[str]:
    header = ["teacher, student", *(f"N = {size}" for size in results.sizes), f"slope, N >= {FROM}"]
    late = [place for place, size in enumerate(results.sizes) if size >= FROM]
    rows = []
    for name, curve in results.curves.items():
        cells = [estimate(curve[:, place]).text() for place in range(len(results.sizes))]
        slope = "-"
        if len(late) > 1:
            late_sizes = [results.sizes[place] for place in late]
            slope = estimate(slopes(late_sizes, curve[:, late])).fixed()
        rows.append([name, *cells, slope])
    return table(header, rows)


def sizes_table(results: Results) -> list[str]:
    names = [name for name in results.curves if name.endswith(OVER)]
    rows = []
    for level in LEVELS:
        cells = [size_text(results, results.curves[name], level) for name in names]
        if any("[" in cell for cell in cells):
            rows.append([number(level, 1), *cells])
    short = [name.removesuffix(f", {OVER}") for name in names]
    return table(["excess error", *short], rows)


def size_text(results: Results, curve: Array, level: float) -> str:
    found_b = size_at(results.sizes, curve, level)
    if np.isnan(found_b[0]):
        return f"below {results.sizes[0]}"
    if np.isinf(found_b[0]):
        return f"above {results.sizes[-1]}"
    known = found_b[1:][~np.isnan(found_b[1:])]
    return Estimate.of(float(found_b[0]), known).text(3)


def ratios_table(results: Results) -> list[str]:
    rows = []
    for level in LEVELS:
        found = [results.ratio(*pair, level) for pair in RATIOS.values()]
        if any(one is not None for one in found):
            pairs = zip(found, RATIOS.values(), strict=True)
            rows.append(
                [number(level, 1), *(ratio_text(results, one, pair, level) for one, pair in pairs)]
            )
    return table(["excess error", *RATIOS], rows)


def ratio_text(
    results: Results,
    found: Estimate | None,
    pair: tuple[tuple[str, str], tuple[str, str]],
    level: float,
) -> str:
    if found is None:
        return "-"
    if np.isfinite(found.value):
        return found.fixed()
    least = results.sizes[-1] / float(size_at(results.sizes, results.curve(*pair[1]), level)[0])
    return f"above {number(max(least, 1.0))}: not reached"


def checks_table(results: Results) -> list[str]:
    header = ["student", "check", *(f"N = {size}" for size in results.sizes)]
    rows = []
    for name, one in results.found.items():
        excess = np.array(one["excess"])
        rows.append([name, "training error / noise variance", *average(one["training"])])
        if one["teacher"] == one["student"]:
            ratio = [
                number(float(excess[:, place].mean()) / results.expected(one, size))
                for place, size in enumerate(results.sizes)
            ]
            num = results.parameters[str(one["extra"])]
            rows.append(["", f"mean excess error / (sigma^2 p / 4N), p = {num}", *ratio])
            rows.append(
                ["", "sum of squares below the teacher's, sigma^2", *average(one["gain"], 3)]
            )
            rows.append(["", "missed optima (mean sigma^2 above)", *missed(results, one)])
        rows.append(["", "second best start, sigma^2 above", *seconds(results, one)])
    return table(header, rows)


def average(values: list[list[float]], digits: int = 4) -> list[str]:
    return [number(float(value), digits) for value in np.mean(values, axis=0)]


def outputs_of(results: Results, count: int) -> Array:
    return np.array(results.sizes[:count]) * results.setting["channels"]


def missed(results: Results, one: dict[str, Any]) -> list[str]:
    """How often a fit that starts at the teacher has a sum of squares lower by a noise variance, and the
    mean of all differences."""
    better = np.array(one["oracle"])
    worse_rs = (np.array(one["training"])[:, : better.shape[1]] - better) * outputs_of(
        results, better.shape[1]
    )
    cells = [
        f"{count} of {len(better)} ({mean:+.1f})"
        for count, mean in zip((worse_rs > 1).sum(0), worse_rs.mean(0), strict=True)
    ]
    return cells + ["-"] * (len(results.sizes) - len(cells))


def seconds(results: Results, one: dict[str, Any]) -> list[str]:
    second = np.array(one["second"])
    above_rs = second - np.array(one["training"])[:, : second.shape[1]]
    cells = np.median(above_rs * outputs_of(results, second.shape[1]), axis=0)
    return [number(float(value)) for value in cells] + ["-"] * (len(results.sizes) - len(cells))


# --- words --------------------------------------------------------------------------------------


def findings(results: Results) -> list[str]:
    lines = [same_weighting(results)]
    for teacher, other in (("softmax", "sigmoid"), ("sigmoid", "softmax")):
        lines.append(other_weighting(results, teacher, other))
    floors = results.curve("softmax", "sigmoid")[:, -1] / results.curve("sigmoid", "softmax")[:, -1]
    lines.append(
        "- The two floors belong to different functions. That of the sigmoid student is "
        f"{estimate(floors).fixed()} times that of the softmax student."
    )
    low, high = (estimate(results.curve(*pair)[:, -1]) for pair in (SAME[1], SAME[0]))
    lines.append(
        f"- At N = {results.sizes[-1]} the excess error is {low.text()} for softmax on softmax and "
        f"{high.text()} for sigmoid on sigmoid."
    )
    return lines


def same_weighting(results: Results) -> str:
    """Ratio of N, sigmoid on sigmoid over softmax on softmax, in words."""
    found = {level: results.ratio(*SAME, level) for level in LEVELS}
    known = {level: one for level, one in found.items() if one is not None}
    if not known:
        return "- Same weighting: the curves share no level."
    values = [one.value for one in known.values()]
    below = [level for level, one in known.items() if one.high < 1]
    above = [level for level, one in known.items() if one.low > 1]
    parts = []
    if below:
        parts.append(f"lies below 1 (sigmoid needs less) at {listed(below)}")
    if above:
        parts.append(f"lies above 1 (softmax needs less) at {listed(above)}")
    rest = [level for level in known if level not in below + above]
    if rest:
        parts.append(f"holds 1 at {listed(rest)}")
    return (
        "- Same weighting of teacher and student: at equal excess error sigmoid on sigmoid needs "
        f"{min(values):.2f} to {max(values):.2f} times the N of softmax on softmax. The interval "
        f"{', and '.join(parts)} (one interval per level, not corrected for their number)."
    )


def listed(levels: list[float]) -> str:
    return ", ".join(number(level, 1) for level in levels)


def other_weighting(results: Results, teacher: str, other: str) -> str:
    pair = (teacher, other), (teacher, teacher)
    reached = [
        (level, one)
        for level in LEVELS
        if (one := results.ratio(*pair, level)) is not None and np.isfinite(one.value)
    ]
    last = estimate(results.curve(teacher, other)[:, -1])
    before = estimate(results.curve(teacher, other)[:, -1] / results.curve(teacher, other)[:, -2])
    level = f"{last.text()} of the teacher's variance at N = {results.sizes[-1]}"
    words = f"- {teacher.capitalize()} teacher: the {other} student's excess error is {level}, "
    words += f"{before.fixed()} times that at N = {results.sizes[-2]}"
    if reached:
        last_level, one = reached[-1]
        words += (
            f". At an excess error of {number(last_level, 1)} it needs {one.fixed()} times the N of "
            f"the {teacher} student"
        )
    return words + "; lower levels of the table are out of its reach at every N tried."


SETUP = """\
Teacher: a single attention layer with {heads} heads of dimension {head_dim} over {keys} tokens of \
dimension {channels} (standard normal), random weights, scores of standard deviation {score_std}; the \
same weights behind softmax and behind sigmoid with shift -log n, outputs scaled to variance 1. \
Observed: one row of self-attention per sequence (the output at the first token, {channels} numbers) \
with noise of standard deviation {noise}. Student: a layer with one head more (or as many: exact), \
fitted by least squares (Levenberg-Marquardt, {starts} random starts up to 1024 sequences; larger N \
continue the best fits). Excess error: mean squared difference from the teacher's noiseless output on \
{fresh} fresh sequences. Teacher's weights, sequences and noise are shared by all crossings of a \
repetition; smaller N are the first sequences of larger ones. Curves are geometric means over \
{repetitions} repetitions, with 95 % bootstrap intervals over whole repetitions."""

CHECKS = """\
An exact student at its optimum has an excess error of sigma^2 p / (4N) for large N, p the dimension of \
its functions, and a sum of squares p noise variances below the teacher's. With a head too many p is \
only nominal: the teacher is a singular point. A missed optimum: a fit that starts at the teacher ends \
more than a noise variance lower. In parentheses the mean of the best fit's sum of squares minus that \
of the fit from the teacher; where negative, the random starts found the lower one."""

LIMITS = """\
- One size of layer, one law of inputs, one noise level, one spread of scores. The floor of a student \
with the other weighting depends on all of them, and more heads would lower it.
- Softmax and sigmoid teachers are different functions (same weights, same output variance), so \
"sigmoid on sigmoid / softmax on softmax" compares two tasks, not two students of one task.
- With a head too many the sum of squares has several local minima and degenerate valleys. The table \
of checks says how often a start at the teacher finds a lower one than the random starts did.
- Slopes below -1 with a head too many are of fits that still approach their asymptote, and at large N \
the fits also gain less on the noise because more of them miss an optimum.
- Excess error of the function is measured, not the error of single experts, about which the theory's \
claim is ([moe.md](moe.md))."""


def page(content: dict[str, Any], results: Results, name: str) -> str:
    setup = SETUP.format(**results.setting, repetitions=results.repetitions)
    return "\n".join(
        [
            "# How much data do softmax and sigmoid attention need?",
            "",
            f"`{content['run']['command']}`",
            "",
            stated(content["run"]),
            "",
            setup,
            "",
            "## What was found",
            "",
            *findings(results),
            "",
            f"![excess error and ratio of N]({name}.png)",
            "",
            "## Ratio of N at equal excess error",
            "",
            f"All students with {OVER}. Not reached: the student's curve stays above this error up to "
            f"N = {results.sizes[-1]}.",
            "",
            *ratios_table(results),
            "## Excess error",
            "",
            *errors_table(results),
            "## N at equal excess error",
            "",
            *sizes_table(results),
            "## Checks of the fits",
            "",
            CHECKS,
            "",
            *checks_table(results),
            "## Limits",
            "",
            LIMITS,
            "",
        ]
    )


def picture(results: Results) -> Any:
    figure = new_figure(12, 5)
    left, right = figure.subplots(1, 2)
    for teacher, line in (("softmax", "-o"), ("sigmoid", "--s")):
        for student, colour in COLOURS.items():
            curve = results.curve(teacher, student)
            low, high = np.quantile(curve[1:], [0.025, 0.975], axis=0)
            label = f"{teacher} teacher, {student} student"
            left.loglog(results.sizes, curve[0], line, color=colour, label=label, markersize=4)
            left.fill_between(results.sizes, low, high, color=colour, alpha=0.15, linewidth=0)
    for weighting, mark in (("softmax", "o"), ("sigmoid", "s")):
        points = results.curve(weighting, weighting, "exact")[0]
        style = {"mfc": "none", "color": COLOURS[weighting], "markersize": 6 if mark == "o" else 4}
        left.loglog(
            results.sizes, points, mark, label=f"{weighting} on {weighting}, exact", **style
        )
    exact = next(one for one in results.found.values() if not one["extra"])
    bound = [results.expected(exact, size) for size in results.sizes]
    left.loglog(results.sizes, bound, ":", color="#555555", label="exact student: sigma² p / 4N")
    left.set(
        ylabel="excess error",
        xlabel="N, training sequences",
        title="Excess error (filled: one head too many)",
    )
    for (label, pair), colour in zip(
        RATIOS.items(), ("#000000", "#D55E00", "#0072B2"), strict=True
    ):
        draw_ratio(right, results, label, pair, colour)
    right.axhline(1, color="#999999", linewidth=0.8)
    right.set(xscale="log", yscale="log", xlabel="excess error")
    right.set_title("Ratio of N at equal error; right of a dotted line N is not reached")
    right.invert_xaxis()
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=8)
    return figure


def draw_ratio(
    axes: Any,
    results: Results,
    label: str,
    pair: tuple[tuple[str, str], tuple[str, str]],
    colour: str,
) -> None:
    """Ratio with its band where it is finite; beyond, where N is not reached, nothing is drawn."""
    top, bottom = results.curve(*pair[1])[0, [0, -1]]
    levels, found = [], []
    for level in np.geomspace(top, bottom, 60)[1:-1]:
        one = results.ratio(*pair, float(level))
        if one is not None and np.isfinite([one.value, one.low, one.high]).all():
            levels.append(level)
            found.append(one)
    if not found:
        return
    axes.plot(levels, [one.value for one in found], color=colour, label=label)
    lows, highs = [one.low for one in found], [one.high for one in found]
    axes.fill_between(levels, lows, highs, color=colour, alpha=0.15, linewidth=0)
    if levels[-1] > 1.5 * bottom:
        axes.axvline(levels[-1], color=colour, linestyle=":", linewidth=1)


def write_page(content: dict[str, Any], out: Path) -> None:
    results = Results(content)
    write_atomically(out.with_suffix(".md"), page(content, results, out.name))
    write_atomically(out.with_suffix(".png"), as_png(picture(results)))
