"""The answer in plain words: which attention to use, how sure that is, why, and at what cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from asr.evaluate.attention_types import CLAIM_RUNS, from_best_position, known_mean, widest
from asr.evaluate.comparison import Comparison, Difference, TypeDifference, TypeResult
from asr.evaluate.statistics import Interval, holm
from asr.evaluate.tables import points, within_text

_ALPHA = 0.05


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
    durations = list(dict.fromkeys(f"{one.length_s:g} s" for one in comparison.lengths))
    short, long = durations[0], durations[-1]
    if not comparison.length_differences:
        rates = {(one.name, f"{one.length_s:g} s"): one.wer for one in comparison.lengths}
        names = list(dict.fromkeys(name for name, _ in rates))
        changes = [f"{name} {_change(rates[name, short], rates[name, long])}" for name in names]
        why = "There is one attention type: nothing to compare it with."
        if not comparison.length_types:
            why = "Each system is one training: this says nothing yet about attention types."
        return Verdict(f"Word error rates at {short} and at {long}: {'; '.join(changes)}.", [why])
    overall = widest(comparison.length_differences, "weighting")
    alone = _at_one_position(comparison.length_differences)
    answers = [_answer(one, f"At {long}") for one in overall if one.set_name == long]
    answers += [
        _answer(one, f"With {place} at {long}") for one, place in alone if one.set_name == long
    ]
    reasons = [_reason(one, f"At {one.set_name}") for one in overall]
    reasons += [_reason(one, f"With {place} alone, at {one.set_name},") for one, place in alone]
    if any(one.kind == "position" for one in comparison.length_differences):
        answer, reason = _positions(comparison.length_differences, long, f"At {long}")
        answers.append(answer)
        reasons.append(reason)
    by_type = {
        (one.weighting, one.position, one.set_name): one.wer for one in comparison.length_types
    }
    kinds = list(dict.fromkeys((w, p) for w, p, _ in by_type))
    ranked = sorted(kinds, key=lambda kind: by_type[kind[0], kind[1], long])
    for said, (w, p) in (("Lowest", ranked[0]), ("Highest", ranked[-1])):
        change = _change(by_type[w, p, short], by_type[w, p, long])
        reasons.append(f"{said} at {long}: {w} with {_said(p)} ({short} and {long}: {change}).")
    return Verdict(" ".join(answers), [*reasons, *_few_seeds(comparison.length_types)])


def _change(before: float, after: float) -> str:
    return f"{100 * before:.2f} % and {100 * after:.2f} %"


def _of_types(comparison: Comparison) -> Verdict:
    overall = widest(comparison.type_differences, "weighting")
    alone = _at_one_position(comparison.type_differences)
    set_names = list(dict.fromkeys(one.set_name for one in comparison.type_differences))
    answers, reasons = [], []
    for set_name in set_names:
        where = f"On {set_name}" if len(set_names) > 1 else ""
        here = [one for one in overall if one.set_name == set_name]
        exceptions = [(one, place) for one, place in alone if one.set_name == set_name]
        answers += [_answer(one, where) for one in here]
        answers += [
            _answer(one, f"With {place}{f' on {set_name}' if where else ''}")
            for one, place in exceptions
        ]
        reasons += [_reason(one, f"On {set_name}") for one in here]
        reasons += [
            _reason(one, f"With {place} alone, on {set_name},") for one, place in exceptions
        ]
        if any((o.kind, o.set_name) == ("position", set_name) for o in comparison.type_differences):
            answer, reason = _positions(comparison.type_differences, set_name, where)
            answers.append(answer)
            reasons.append(reason)
    reasons.append(_best_text(comparison))
    return Verdict(
        " ".join(answers),
        [*reasons, *_cost(comparison), *_few_seeds(comparison.types)],
    )


def _at_one_position(differences: Sequence[TypeDifference]) -> list[tuple[TypeDifference, str]]:
    """(weightings that differ at one position whatever they do on average, that position)."""
    overall = widest(differences, "weighting")
    return [
        (one, _said(within_text(one)))
        for one in differences
        if one.kind == "weighting" and one not in overall and _certain(one)
    ]


def _positions(differences: Sequence[TypeDifference], set_name: str, where: str) -> tuple[str, str]:
    """(which positions to use, by how much the others are worse)."""
    best, others = from_best_position(differences, set_name)
    worse = [one for one in others if _certain(one) and one.difference > 0]
    better = [_said(one.name) for one in others if _certain(one) and one.difference < 0]
    alike = [_said(one.name) for one in others if not _certain(one)]
    if better:  # which takes unequal weightings
        text = f"no position is ahead of every other: over what they share {_listed(better)} "
        text += f"{'makes' if len(better) == 1 else 'make'} fewer errors than {_said(best)}"
    elif not worse:
        text = f"no position can be told from {_said(best)}, which makes the fewest errors here"
    else:
        text = f"for the position, {_claim(others)} {_said(best)}"
        if alike:
            text += f", or {_listed(alike, 'or')}, which cannot be told from it"
        text += f"; {_listed([_said(one.name) for one in worse])} "
        text += "makes more errors" if len(worse) == 1 else "make more errors"
    compared = {best, *(one.name for one in others)}
    here = [one for one in differences if (one.kind, one.set_name) == ("position", set_name)]
    apart = {
        name: None for one in here for name in (one.baseline, one.name) if name not in compared
    }
    if apart:
        text += f"; nothing is said of {_listed([_said(name) for name in apart])}, which shares no "
        text += f"weighting with {_said(best)}"
    shown = "; ".join(
        f"{_said(one.name)} {points(one.difference)}"
        + (
            f" [{points(one.interval.low)}, {points(one.interval.high)}]"
            if one.interval is not None
            else ""
        )
        for one in others
    )
    reason = f"Points of word error rate above {_said(best)}, on {set_name}, each pair by itself: "
    return _sentence(text, where), f"{reason}{shown}."


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
        real = [one for one in here if _certain(one)]
        shown = sorted(real or here, key=lambda one: one.difference)[:5]
        reasons += [_reason(one, f"On {set_name}") for one in shown]
    reasons.append(
        "Each system is one training: another seed of the same attention may come out elsewhere, so "
        "this says nothing yet about attention types. Train each with several seeds for that."
    )
    return Verdict(" ".join(answers), reasons)


def _answer_of(differences: Sequence[Difference], where: str) -> str:
    """On systems of one set."""
    real = [one for one in differences if _certain(one)]
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
        if p_value <= _ALPHA
    ]
    return f"; of these alone, {_listed(told)} (MAPSSWE)" if told else ""


def _certain(one: Difference | TypeDifference) -> bool:
    return one.p_holm is not None and one.p_holm <= _ALPHA


def _answer(one: TypeDifference, where: str) -> str:
    if not _certain(one):
        text = f"cannot tell {one.name} from {one.baseline}"
        if one.p_value is not None and one.p_value <= _ALPHA:
            better = one.name if one.difference < 0 else one.baseline
            text += (
                f" once the number of comparisons counts, though by itself this leans to {better}"
            )
        elif one.interval is not None:
            most = _points(_largest(one.interval))
            text += (
                f": nothing here speaks for either, and up to {most} points between them would fit"
            )
        else:
            text += ": nothing here speaks for either"
    else:
        better, worse = (one.name, one.baseline) if one.difference < 0 else (one.baseline, one.name)
        text = f"{_claim([one])} {better} rather than {worse}"
    return _sentence(text, where)


def _claim(differences: Sequence[TypeDifference]) -> str:
    """How sure so many seeds can be."""
    return "use" if min(one.num_seeds for one in differences) >= CLAIM_RUNS else "it points to"


def _said(position: str) -> str:
    """A position in a sentence, where `none` would mean nobody."""
    return "no position at all" if position == "none" else position


def _listed(names: Sequence[str], last: str = "and") -> str:
    return f" {last} ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _sentence(text: str, where: str) -> str:
    return f"{where}, {text}." if where else f"{text[0].upper()}{text[1:]}."


def _largest(interval: Interval) -> float:
    return max(abs(interval.low), abs(interval.high))


def _points(value: float) -> str:
    return f"{100 * value:.2f}"


def _reason(one: Difference | TypeDifference, where: str) -> str:
    side = "lower" if one.difference < 0 else "higher"
    text = (
        f"{where} the word error rate of {one.name} is {_points(abs(one.difference))} points {side} "
        f"than that of {one.baseline}"
    )
    if isinstance(one, TypeDifference) and len(one.within) > 1:
        text += f" ({within_text(one)})"
    if one.interval is not None:
        text += (
            f"; by itself, anything from {points(one.interval.low)} to {points(one.interval.high)} "
            f"would fit as well"
        )
    if one.p_holm is not None:
        chance = "<0.001" if one.p_holm < 0.001 else f"{one.p_holm:.3f}"
        text += f" (corrected p {'' if chance.startswith('<') else '= '}{chance}"
        text += ": that is more than chance)" if _certain(one) else ": chance would do it)"
    return text + "."


def _best_text(comparison: Comparison) -> str:
    """The lowest mean; how much that is luck."""
    set_name = comparison.types[0].set_name
    types = [one for one in comparison.types if one.set_name == set_name]
    best = min(types, key=lambda one: one.wer)
    return (
        f"The lowest mean on {set_name} has {best.weighting} with {_said(best.position)} "
        f"({100 * best.wer:.2f} %); being the lowest of {len(types)} is in part luck."
    )


def _cost(comparison: Comparison) -> list[str]:
    """What each weighting's trainings and decodings took, where that is known."""
    set_name = comparison.types[0].set_name
    types = [one for one in comparison.types if one.set_name == set_name]
    parts = []
    for weighting in dict.fromkeys(one.weighting for one in types):
        speed = known_mean([o.train_audio_s_per_s for o in types if o.weighting == weighting])
        rtf = known_mean([one.rtf for one in types if one.weighting == weighting])
        known = [f"trains on {speed:.4g} s of audio per second"] if speed is not None else []
        known += [f"decodes {1 / rtf:.4g} s per second"] if rtf else []
        if known:
            parts.append(f"{weighting} {' and '.join(known)}")
    return [f"Cost: {'; '.join(parts)}."] if parts else []
