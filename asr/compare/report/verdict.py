"""The answer in plain words: which level of a factor to use, how sure that is, why, and at what cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from asr.compare.cells import points
from asr.compare.comparison import (
    Comparison,
    Difference,
    Interaction,
    TypeDifference,
    TypeResult,
)
from asr.compare.contrasts import CLAIM_RUNS, SIGNIFICANT, from_best, is_significant, widest
from asr.compare.factors import WEIGHTING, many_of, of_all, one_of
from asr.compare.interactions import significant_interactions
from asr.compare.report.sentences import (
    answer,
    claim,
    corrected_p,
    listed,
    reason,
    said,
    sentence,
    the_factor,
    type_in_words,
)
from asr.compare.stats.statistics import holm
from asr.wer import Metric


@dataclass(frozen=True)
class Verdict:
    """Answer of a comparison, and its reasons.

    Attributes:
        answer: one or a few sentences.
        reasons: sentences; plain text.
    """

    answer: str
    reasons: list[str]


def verdict(comparison: Comparison) -> Verdict:
    """Answer from the tests' corrected p-values; claim nothing that they do not show."""
    if comparison.type_differences:
        return _of_types(comparison)
    if comparison.differences:
        return _of_systems(comparison)
    return Verdict(
        "Nothing to compare yet.",
        ["Decode at least two systems on the same set; train types with several seeds."],
    )


def length_verdict(comparison: Comparison) -> Verdict:
    """Say whether the answer holds for longer audio, where lengths were compared."""
    durations = list(dict.fromkeys(one.label for one in comparison.lengths))
    long = durations[-1]
    ends = list(dict.fromkeys((durations[0], long)))
    if not comparison.length_differences:
        rates = {(one.name, one.label): one.wer for one in comparison.lengths}
        names = list(dict.fromkeys(name for name, _ in rates))
        changes = [f"{name} {_rates(*(rates[name, end] for end in ends))}" for name in names]
        why = "There is one type: nothing to compare it with."
        if not comparison.length_types:
            why = (
                f"Each system is one training: this says nothing yet about {_factors(comparison)}."
            )
        rate = comparison.metric.long.capitalize()
        return Verdict(f"{rate}s at {' and at '.join(ends)}: {'; '.join(changes)}.", [why])
    answers: list[str] = []
    reasons: list[str] = []
    tested = (comparison.length_differences, comparison.length_interactions)
    for duration in durations:
        found, because = _of_set(*tested, duration, f"At {duration}", True, comparison.metric)
        if duration == long:
            answers, reasons = found, [*reasons, *because]
        else:
            reasons += [one for one in because if not one.startswith(_POINTS)]
    wers = {(one.label, one.set_name): one.wer for one in comparison.length_types}
    ranked = sorted(
        (one for one in comparison.length_types if one.set_name == long), key=lambda one: one.wer
    )
    for end, one in (("Lowest", ranked[0]), ("Highest", ranked[-1])):
        change = _rates(*(wers[one.label, at] for at in ends))
        change = f"{' and '.join(ends)}: {change}" if len(ends) > 1 else change
        reasons.append(f"{end} at {long}: {type_in_words(one)} ({change}).")
    return Verdict(" ".join(answers), [*reasons, *_few_seeds(comparison.length_types)])


def _rates(*wers: float) -> str:
    return " and ".join(f"{100 * wer:.2f} %" for wer in wers)


def _of_types(comparison: Comparison) -> Verdict:
    differences = comparison.type_differences
    set_names = list(dict.fromkeys(one.set_name for one in differences))
    answers, reasons = [], []
    for set_name in set_names:
        tested = (differences, comparison.interactions)
        named = len(set_names) > 1
        found, why = _of_set(*tested, set_name, f"On {set_name}", named, comparison.metric)
        answers += found
        reasons += why
    reasons.append(_best_text(comparison))
    return Verdict(
        " ".join(answers),
        [*reasons, *_cost(comparison), *_few_seeds(comparison.types)],
    )


def _of_set(
    differences: Sequence[TypeDifference],
    tested: Sequence[Interaction],
    set_name: str,
    at: str,
    named: bool,
    metric: Metric,
) -> tuple[list[str], list[str]]:
    """(answers, reasons) of one set, such as "On test"; ``named``: answers say it too."""
    here = [one for one in differences if one.set_name == set_name and not one.contrast]
    significant = significant_interactions(tested, set_name)
    answers, reasons = [], []
    for factor in dict.fromkeys(one.factor for one in here):
        own = [one for one in here if one.factor == factor]
        asked = _of_pairs if _by_pairs(factor, significant) else _of_ranks
        found, why = asked(own, significant, at, named, metric)
        answers += found
        reasons += why
    return answers, reasons


def _by_pairs(factor: str, significant: Sequence[Interaction]) -> bool:
    """Tell whether each two levels get an answer of their own, or all are ranked.

    The weighting is the question that is asked for its own sake; and where a difference depends on
    another factor there is no one rank.
    """
    return factor == WEIGHTING or any(one.factor == factor for one in significant)


def _of_pairs(
    own: Sequence[TypeDifference],
    significant: Sequence[Interaction],
    at: str,
    named: bool,
    metric: Metric,
) -> tuple[list[str], list[str]]:
    beside = f"{at[0].lower()}{at[1:]}"
    where, also = (at, f" {beside}") if named else ("", "")
    num_places = len({place for one in own for place in one.within})
    answers, reasons = [], []
    for one in widest(own, own[0].factor):
        pair = (one.name, one.baseline)
        places = [o for o in own if (o.name, o.baseline) == pair and o.over]
        depending = [
            o for o in significant if (o.factor, o.name, o.baseline) == (one.factor, *pair)
        ]
        if depending:
            for interaction in depending:
                at_levels = [o for o in places if o.over == interaction.over]
                answers.append(_depends(interaction, at_levels, where))
                reasons.append(_interaction(interaction, beside))
                reasons += [
                    reason(o, f"With {said(o.scope)}, {beside},", metric) for o in at_levels
                ]
            continue
        if len(one.within) == 1 and num_places > 1:  # of a pair that shares one place only
            place = said(one.scope)
            answers.append(answer(one, f"With {place}{also}"))
            reasons.append(reason(one, f"With {place}, {beside},", metric))
            continue
        exceptions = [(o, said(o.scope)) for o in places if is_significant(o)]
        answers.append(answer(one, where))
        answers += [answer(o, f"With {place}{also}") for o, place in exceptions]
        reasons.append(reason(one, at, metric))
        reasons += [reason(o, f"With {place} alone, {beside},", metric) for o, place in exceptions]
    return answers, reasons


def _of_ranks(
    own: Sequence[TypeDifference],
    significant: Sequence[Interaction],
    at: str,
    named: bool,
    metric: Metric,
) -> tuple[list[str], list[str]]:
    """Rank all levels; where another factor's difference depends on them, at each of its levels."""
    factor = own[0].factor
    beside = f"{at[0].lower()}{at[1:]}"
    where, also = (at, f" {beside}") if named else ("", "")
    scopes = [(widest(own, factor), where)]
    if depending := {one.factor for one in significant if one.over == factor}:
        levels = dict.fromkeys((o, one.held[o]) for one in own for o in depending if o in one.held)
        scopes = [
            (
                [o for o in own if o.over in ("", other) and o.held.get(other) == level],
                f"With {said(level)}{also}",
            )
            for other, level in levels
        ]
    found = [_ranks(of_scope, beside, beginning, metric) for of_scope, beginning in scopes]
    return [one for one, _ in found], [why for _, why in found]


def _depends(tested: Interaction, places: Sequence[TypeDifference], where: str) -> str:
    """The answer where a difference is not the same at all levels of another factor."""
    name, baseline = tested.name, tested.baseline
    text = (
        f"how {name} compares with {baseline} depends on {the_factor(tested.over)} (a significant "
        f"interaction), so their mean over {many_of(tested.over)} answers nothing"
    )
    for sign, better, worse in ((-1, name, baseline), (1, baseline, name)):
        there = [o for o in places if is_significant(o) and o.difference * sign > 0]
        if there:
            named = listed([said(o.scope) for o in there])
            text += f"; with {named} {claim(there)} {better} rather than {worse}"
    alike = [said(o.scope) for o in places if not is_significant(o)]
    if alike:
        text += f"; with {listed(alike)} no difference is significant after correction"
    return sentence(text, where)


def _interaction(one: Interaction, beside: str) -> str:
    test = "F" if one.df1 == 1 else "Welch's F"  # of one difference it is the square of a t
    return (
        f"Interaction {beside}: {one.name} minus {one.baseline} is not the same at all "
        f"{len(one.levels)} {many_of(one.over)} ({test}({one.df1}, {one.df2:.1f}) = {one.f:.1f}, "
        f"corrected p {corrected_p(one)})."
    )


_POINTS = "Points of "


def _ranks(
    differences: Sequence[TypeDifference], beside: str, where: str, metric: Metric
) -> tuple[str, str]:
    """(which levels make more errors than another, by how much)"""
    factor = differences[0].factor
    best, others = from_best(differences)
    worse = [one for one in others if is_significant(one) and one.difference > 0]
    better = [said(one.name) for one in others if is_significant(one) and one.difference < 0]
    alike = [said(one.name) for one in others if not is_significant(one)]
    more = "makes more errors" if len(worse) == 1 else "make more errors"
    if better:  # which takes unequal levels of the other factors
        text = (
            f"no {one_of(factor)} is ahead of every other: over what they share {listed(better)} "
        )
        text += f"{'makes' if len(better) == 1 else 'make'} fewer errors than {said(best)}"
    elif not worse:
        text = f"no {one_of(factor)} differs significantly from {said(best)}, which makes the "
        text += "fewest errors here"
    elif alike:
        text = f"of the {many_of(factor)}, {listed([said(one.name) for one in worse])} {more} "
        text += f"than {said(best)}; between that and {listed(alike)} no difference is significant"
    else:
        text = f"for {the_factor(factor)}, {claim(others)} {said(best)}; "
        text += f"{listed([said(one.name) for one in worse])} {more}"
    compared = {best, *(one.name for one in others)}
    apart = {
        name: None
        for one in differences
        for name in (one.baseline, one.name)
        if name not in compared
    }
    if apart:
        text += f"; nothing is said of {listed([said(name) for name in apart])}, which shares no "
        text += f"level of the other factors with {said(best)}"
    alone = not worse and not better and len(others) == 1
    held = [
        said(level)
        for other, level in differences[0].held.items()
        if all(one.held.get(other) == level for one in differences)
    ]
    within = f" with {listed(held)}" if held else ""
    if held and not alone and held[0] not in where:
        text += f", all of it{within}"
    shown = "; ".join(map(_above, others))
    return (
        answer(others[0], where) if alone else sentence(text, where),
        f"{_POINTS}{metric.long} above {said(best)}{within}, {beside}, each pair by itself: {shown}.",
    )


def _above(one: TypeDifference) -> str:
    ends = one.interval
    interval = "" if ends is None else f" [{points(ends.low)}, {points(ends.high)}]"
    return f"{said(one.name)} {points(one.difference)}{interval}"


def _few_seeds(types: Sequence[TypeResult]) -> list[str]:
    seeds = sorted({len(one.names) for one in types})
    if seeds[0] >= CLAIM_RUNS:
        return []
    trained = f"Each type was trained with {seeds[0]} seeds"
    if len(seeds) > 1:
        trained = f"Types were trained with {seeds[0]} to {seeds[-1]} seeds"
    return [f"{trained}; below {CLAIM_RUNS} this is an indication, not a claim."]


def _of_systems(comparison: Comparison) -> Verdict:
    set_names = list(dict.fromkeys(one.set_name for one in comparison.differences))
    answers, reasons = [], []
    for set_name in set_names:
        here = [one for one in comparison.differences if one.set_name == set_name]
        answers.append(_answer_of(here, f"On {set_name}" if len(set_names) > 1 else ""))
        real = [one for one in here if is_significant(one)]
        shown = sorted(real or here, key=lambda one: one.difference)[:5]
        reasons += [reason(one, f"On {set_name}", comparison.metric) for one in shown]
    reasons.append(
        f"Each system is one training: another seed of the same configuration may come out elsewhere, "
        f"so this says nothing yet about {_factors(comparison)}. Train each with several seeds for that."
    )
    return Verdict(" ".join(answers), reasons)


def _answer_of(differences: Sequence[Difference], where: str) -> str:
    """Answer for the systems of one set."""
    real = [one for one in differences if is_significant(one)]
    baseline = differences[0].baseline
    if not real and all(one.method == "t" for one in differences):
        text = f"there are too few {differences[0].unit}s for an answer that holds for others"
        text += _of_these_alone(differences)
    elif not real:
        text = f"no system can be told from {baseline} by more than chance would make it"
    else:
        best = min(real, key=lambda one: one.difference)
        better = best.difference < 0
        if len(real) == 1:
            text = f"{best.name} makes {'fewer' if better else 'more'} errors than {baseline}"
        else:
            text = f"{len(real)} of {len(differences)} systems differ from {baseline}"
            text += f"; {best.name} is the best of them" if better else ", all for the worse"
    # a system's name keeps its case
    return (
        f"{where}, {text}." if where else f"{text[0].upper() if not real else text[0]}{text[1:]}."
    )


def _of_these_alone(differences: Sequence[Difference]) -> str:
    """Report what MAPSSWE, a test of these units alone, finds where labels are too few to exchange."""
    known = [one for one in differences if one.mapsswe is not None]
    p_values = holm([one.mapsswe.p_value for one in known if one.mapsswe is not None])
    told = [
        f"{one.name} makes {'fewer' if one.difference < 0 else 'more'} errors than {one.baseline}"
        for one, p_value in zip(known, p_values, strict=True)
        if p_value <= SIGNIFICANT
    ]
    return f"; of these alone, {listed(told)} (MAPSSWE)" if told else ""


def _factors(comparison: Comparison) -> str:
    """Name what the systems differ in, as far as their configurations tell."""
    names = [of_all(one.name) for one in comparison.factors if len(one.levels) > 1]
    return listed(names) if names else "types"


def _best_text(comparison: Comparison) -> str:
    """The lowest mean; how much that is luck."""
    set_name = comparison.types[0].set_name
    types = [one for one in comparison.types if one.set_name == set_name]
    best = min(types, key=lambda one: one.wer)
    return (
        f"The lowest mean on {set_name} has {type_in_words(best)} "
        f"({100 * best.wer:.2f} %); being the lowest of {len(types)} is in part luck."
    )


def _cost(comparison: Comparison) -> list[str]:
    """Report the cost of training and decoding at each level of the first factor: range over runs."""
    set_name = comparison.types[0].set_name
    types = [one for one in comparison.types if one.set_name == set_name]
    rows = {row.name: row for row in comparison.rows}
    parts = []
    for level in dict.fromkeys(one.first for one in types):
        runs = [rows[n] for one in types if one.first == level for n in one.names]
        trained = [row.run.train_audio_s_per_s for row in runs]
        decoded = [row.sets[set_name].rtf for row in runs]
        known = [f"trains on {_range(trained)} s of audio per second"] if _range(trained) else []
        if _range(decoded):
            known.append(f"decodes {_range([1 / rtf for rtf in decoded if rtf])} s per second")
        if known:
            parts.append(f"{level} {' and '.join(known)}")
    if not parts:
        return []
    return [
        f"Cost, lowest to highest of the runs, beside whatever else the machine did: {'; '.join(parts)}."
    ]


def _range(values: Sequence[float | None]) -> str:
    """The lowest and the highest of several known values; nothing of fewer, which show no spread."""
    known = sorted(value for value in values if value)
    return f"{known[0]:.4g} to {known[-1]:.4g}" if len(known) > 1 else ""
