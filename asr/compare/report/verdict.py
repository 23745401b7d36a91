"""The answer in plain words: which level of a factor to use, how sure that is, why, and at what cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from asr.compare.cells import points
from asr.compare.comparison import (
    Comparison,
    Difference,
    Interaction,
    OfLevels,
    TypeDifference,
    TypeResult,
)
from asr.compare.contrasts import CLAIM_RUNS, SIGNIFICANT, from_best, is_significant, widest
from asr.compare.factors import WEIGHTING, many_of, one_of
from asr.compare.interactions import significant_interactions
from asr.compare.stats.statistics import holm


@dataclass(frozen=True)
class Verdict:
    """Attributes:
    answer: one or a few sentences.
    reasons: sentences; plain text.
    """

    answer: str
    reasons: list[str]


def verdict(comparison: Comparison) -> Verdict:
    """From the tests' corrected p-values; nothing is claimed that they do not show."""
    if comparison.type_differences:
        return _of_types(comparison)
    if comparison.differences:
        return _of_systems(comparison)
    return Verdict(
        "Nothing to compare yet.",
        ["Decode at least two systems on the same set; train types with several seeds."],
    )


def length_verdict(comparison: Comparison) -> Verdict:
    """Whether it stays so for longer audio, where lengths were compared."""
    durations = list(dict.fromkeys(one.label for one in comparison.lengths))
    short, long = durations[0], durations[-1]
    if not comparison.length_differences:
        rates = {(one.name, one.label): one.wer for one in comparison.lengths}
        names = list(dict.fromkeys(name for name, _ in rates))
        changes = [f"{name} {_change(rates[name, short], rates[name, long])}" for name in names]
        why = "There is one type: nothing to compare it with."
        if not comparison.length_types:
            why = (
                f"Each system is one training: this says nothing yet about {_factors(comparison)}."
            )
        return Verdict(f"Word error rates at {short} and at {long}: {'; '.join(changes)}.", [why])
    answers: list[str] = []
    reasons: list[str] = []
    tested = (comparison.length_differences, comparison.length_interactions)
    for duration in durations:
        found, because = _of_set(*tested, duration, f"At {duration}", True)
        if duration == long:
            answers, reasons = found, [*reasons, *because]
        else:
            reasons += [one for one in because if not one.startswith(_POINTS)]
    wers = {(one.label, one.set_name): one.wer for one in comparison.length_types}
    ranked = sorted(
        (one for one in comparison.length_types if one.set_name == long), key=lambda one: one.wer
    )
    for said, one in (("Lowest", ranked[0]), ("Highest", ranked[-1])):
        change = _change(wers[one.label, short], one.wer)
        reasons.append(f"{said} at {long}: {_type(one)} ({short} and {long}: {change}).")
    return Verdict(" ".join(answers), [*reasons, *_few_seeds(comparison.length_types)])


def _change(before: float, after: float) -> str:
    return f"{100 * before:.2f} % and {100 * after:.2f} %"


def _of_types(comparison: Comparison) -> Verdict:
    differences = comparison.type_differences
    set_names = list(dict.fromkeys(one.set_name for one in differences))
    answers, reasons = [], []
    for set_name in set_names:
        tested = (differences, comparison.interactions)
        said, why = _of_set(*tested, set_name, f"On {set_name}", len(set_names) > 1)
        answers += said
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
) -> tuple[list[str], list[str]]:
    """(answers, reasons) of one set, such as "On test"; ``named``: answers say it too."""
    here = [one for one in differences if one.set_name == set_name and not one.contrast]
    significant = significant_interactions(tested, set_name)
    answers, reasons = [], []
    for factor in dict.fromkeys(one.factor for one in here):
        own = [one for one in here if one.factor == factor]
        found = (_of_pairs, _of_ranks)[not by_pairs(factor, significant)]
        said, why = found(own, significant, at, named)
        answers += said
        reasons += why
    return answers, reasons


def by_pairs(factor: str, significant: Sequence[Interaction]) -> bool:
    """Tell whether each two levels get an answer of their own, or all are ranked.

    The weighting is the question that is asked for its own sake; and where a difference depends on
    another factor there is no one rank.
    """
    return factor == WEIGHTING or any(one.factor == factor for one in significant)


def _of_pairs(
    own: Sequence[TypeDifference], significant: Sequence[Interaction], at: str, named: bool
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
                reasons += [_reason(o, f"With {_said(o.scope)}, {beside},") for o in at_levels]
            continue
        if len(one.within) == 1 and num_places > 1:  # of a pair that shares one place only
            place = _said(one.scope)
            answers.append(_answer(one, f"With {place}{also}"))
            reasons.append(_reason(one, f"With {place}, {beside},"))
            continue
        exceptions = [(o, _said(o.scope)) for o in places if is_significant(o)]
        answers.append(_answer(one, where))
        answers += [_answer(o, f"With {place}{also}") for o, place in exceptions]
        reasons.append(_reason(one, at))
        reasons += [_reason(o, f"With {place} alone, {beside},") for o, place in exceptions]
    return answers, reasons


def _of_ranks(
    own: Sequence[TypeDifference], significant: Sequence[Interaction], at: str, named: bool
) -> tuple[list[str], list[str]]:
    """Rank all levels; where another factor's difference depends on them, at each of its levels."""
    factor = own[0].factor
    beside = f"{at[0].lower()}{at[1:]}"
    where, also = (at, f" {beside}") if named else ("", "")
    scopes = [(widest(own, factor), where)]
    if depending := {one.factor for one in significant if one.over == factor}:
        levels = dict.fromkeys((one.over, one.at) for one in own if one.over in depending)
        scopes = [
            ([one for one in own if (one.over, one.at) == level], f"With {_said(level[1])}{also}")
            for level in levels
        ]
    found = [_ranks(of_scope, beside, beginning) for of_scope, beginning in scopes]
    return [answer for answer, _ in found], [reason for _, reason in found]


def _depends(tested: Interaction, places: Sequence[TypeDifference], where: str) -> str:
    """The answer where a difference is not the same at all levels of another factor."""
    name, baseline = tested.name, tested.baseline
    text = (
        f"how {name} compares with {baseline} depends on {_the(tested.over)} (a significant "
        f"interaction), so their mean over {many_of(tested.over)} answers nothing"
    )
    for sign, better, worse in ((-1, name, baseline), (1, baseline, name)):
        there = [o for o in places if is_significant(o) and o.difference * sign > 0]
        if there:
            named = _listed([_said(o.scope) for o in there])
            text += f"; with {named} {_claim(there)} {better} rather than {worse}"
    alike = [_said(o.scope) for o in places if not is_significant(o)]
    if alike:
        text += f"; with {_listed(alike)} no difference is significant after correction"
    return _sentence(text, where)


def _interaction(one: Interaction, beside: str) -> str:
    test = "F" if one.df1 == 1 else "Welch's F"  # of one difference it is the square of a t
    return (
        f"Interaction {beside}: {one.name} minus {one.baseline} is not the same at all "
        f"{len(one.levels)} {many_of(one.over)} ({test}({one.df1}, {one.df2:.1f}) = {one.f:.1f}, "
        f"corrected p {_p_text(one)})."
    )


_POINTS = "Points of word error rate above "


def _ranks(differences: Sequence[TypeDifference], beside: str, where: str) -> tuple[str, str]:
    """(which levels make more errors than another, by how much)"""
    factor = differences[0].factor
    best, others = from_best(differences)
    worse = [one for one in others if is_significant(one) and one.difference > 0]
    better = [_said(one.name) for one in others if is_significant(one) and one.difference < 0]
    alike = [_said(one.name) for one in others if not is_significant(one)]
    more = "makes more errors" if len(worse) == 1 else "make more errors"
    if better:  # which takes unequal levels of the other factors
        text = (
            f"no {one_of(factor)} is ahead of every other: over what they share {_listed(better)} "
        )
        text += f"{'makes' if len(better) == 1 else 'make'} fewer errors than {_said(best)}"
    elif not worse:
        text = f"no {one_of(factor)} differs significantly from {_said(best)}, which makes the "
        text += "fewest errors here"
    elif alike:
        text = f"of the {many_of(factor)}, {_listed([_said(one.name) for one in worse])} {more} "
        text += (
            f"than {_said(best)}; between that and {_listed(alike)} no difference is significant"
        )
    else:
        text = f"for {_the(factor)}, {_claim(others)} {_said(best)}; "
        text += f"{_listed([_said(one.name) for one in worse])} {more}"
    compared = {best, *(one.name for one in others)}
    apart = {
        name: None
        for one in differences
        for name in (one.baseline, one.name)
        if name not in compared
    }
    if apart:
        text += f"; nothing is said of {_listed([_said(name) for name in apart])}, which shares no "
        text += f"level of the other factors with {_said(best)}"
    shown = "; ".join(
        f"{_said(one.name)} {points(one.difference)}"
        + (
            f" [{points(one.interval.low)}, {points(one.interval.high)}]"
            if one.interval is not None
            else ""
        )
        for one in others
    )
    scopes = {one.at or (one.scope if len(one.within) == 1 else "") for one in differences}
    held = scopes.pop() if len(scopes) == 1 else ""
    within = f" with {_said(held)}" if held else ""
    answer = _sentence(text, where)
    if not worse and not better and len(others) == 1:
        answer = _answer(others[0], where)
    return answer, f"{_POINTS}{_said(best)}{within}, {beside}, each pair by itself: {shown}."


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
        reasons += [_reason(one, f"On {set_name}") for one in shown]
    reasons.append(
        f"Each system is one training: another seed of the same configuration may come out elsewhere, "
        f"so this says nothing yet about {_factors(comparison)}. Train each with several seeds for that."
    )
    return Verdict(" ".join(answers), reasons)


def _answer_of(differences: Sequence[Difference], where: str) -> str:
    """On systems of one set."""
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
    """What MAPSSWE, which asks of nobody else, says where labels are too few to be exchanged."""
    known = [one for one in differences if one.mapsswe is not None]
    p_values = holm([one.mapsswe.p_value for one in known if one.mapsswe is not None])
    told = [
        f"{one.name} makes {'fewer' if one.difference < 0 else 'more'} errors than {one.baseline}"
        for one, p_value in zip(known, p_values, strict=True)
        if p_value <= SIGNIFICANT
    ]
    return f"; of these alone, {_listed(told)} (MAPSSWE)" if told else ""


def _answer(one: TypeDifference, where: str) -> str:
    if is_significant(one):
        better, worse = (one.name, one.baseline) if one.difference < 0 else (one.baseline, one.name)
        return _sentence(f"{_claim([one])} {better} rather than {worse}", where)
    text = f"no significant difference between {one.name} and {one.baseline}"
    if one.p_value is not None and one.p_value <= SIGNIFICANT:
        better = one.name if one.difference < 0 else one.baseline
        text += f" after correction for the number of comparisons; by itself this favours {better}"
    elif one.interval is not None:
        ends = (points(one.interval.low), points(one.interval.high))
        text += f": anything from {ends[0]} to {ends[1]} points would fit"
    return _sentence(text, where)


def _claim(differences: Sequence[TypeDifference]) -> str:
    """How sure so many seeds can be."""
    return "use" if min(one.num_seeds for one in differences) >= CLAIM_RUNS else "it points to"


def _said(levels: str) -> str:
    """Levels in a sentence, where the position `none` would mean nobody."""
    return " ".join("no position at all" if one == "none" else one for one in levels.split(" "))


def _type(one: OfLevels) -> str:
    first, *others = map(_said, one.levels.values())
    return f"{first} with {_listed(others)}" if others else first


def _the(factor: str) -> str:
    return factor if "." in factor else f"the {factor}"


def _factors(comparison: Comparison) -> str:
    """What the systems differ in, as far as their configurations tell."""
    return (
        _listed([many_of(one.name) for one in comparison.factors if len(one.levels) > 1]) or "types"
    )


def _listed(names: Sequence[str], last: str = "and") -> str:
    return f" {last} ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _sentence(text: str, where: str) -> str:
    return f"{where}, {text}." if where else f"{text[0].upper()}{text[1:]}."


def _points(value: float) -> str:
    return f"{100 * value:.2f}"


def _reason(one: Difference | TypeDifference, where: str) -> str:
    side = "lower" if one.difference < 0 else "higher"
    text = (
        f"{where} the word error rate of {one.name} is {_points(abs(one.difference))} points {side} "
        f"than that of {one.baseline}"
    )
    if isinstance(one, TypeDifference) and len(one.within) > 1:
        text += f" ({one.scope})"
    if one.interval is not None:
        text += (
            f"; by itself, anything from {points(one.interval.low)} to {points(one.interval.high)} "
            f"would fit as well"
        )
    if one.p_holm is not None:
        text += f" (corrected p {_p_text(one)}: {'' if is_significant(one) else 'not '}significant)"
    return text + "."


def _p_text(one: Difference | TypeDifference | Interaction) -> str:
    assert one.p_holm is not None
    return "<0.001" if one.p_holm < 0.001 else f"= {one.p_holm:.3f}"


def _best_text(comparison: Comparison) -> str:
    """The lowest mean; how much that is luck."""
    set_name = comparison.types[0].set_name
    types = [one for one in comparison.types if one.set_name == set_name]
    best = min(types, key=lambda one: one.wer)
    return (
        f"The lowest mean on {set_name} has {_type(best)} "
        f"({100 * best.wer:.2f} %); being the lowest of {len(types)} is in part luck."
    )


def _cost(comparison: Comparison) -> list[str]:
    """What trainings and decodings of each level of the first factor took: the range over runs."""
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
