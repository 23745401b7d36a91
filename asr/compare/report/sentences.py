"""Sentences of a verdict on types: what a difference says, how sure that is, and by how much."""

from __future__ import annotations

from collections.abc import Sequence

from asr.compare.cells import points
from asr.compare.comparison import Difference, Interaction, OfLevels, TypeDifference
from asr.compare.contrasts import CLAIM_RUNS, SIGNIFICANT, is_significant
from asr.wer import Metric


def said(levels: str) -> str:
    """Levels in a sentence, where the position `none` would mean nobody."""
    return " ".join("no position at all" if one == "none" else one for one in levels.split(" "))


def type_in_words(one: OfLevels) -> str:
    """``softmax with rope``"""
    first, *others = map(said, one.levels.values())
    return f"{first} with {listed(others)}" if others else first


def the_factor(factor: str) -> str:
    return factor if "." in factor else f"the {factor}"


def listed(names: Sequence[str], last: str = "and") -> str:
    return f" {last} ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def sentence(text: str, where: str) -> str:
    return f"{where}, {text}." if where else f"{text[0].upper()}{text[1:]}."


def claim(differences: Sequence[TypeDifference]) -> str:
    """Say how sure so many seeds can be."""
    return "use" if min(one.num_seeds for one in differences) >= CLAIM_RUNS else "it points to"


def answer(one: TypeDifference, where: str) -> str:
    """Say which of two levels to use, or that no difference is significant."""
    name, baseline = said(one.name), said(one.baseline)
    if is_significant(one):
        better, worse = (name, baseline) if one.difference < 0 else (baseline, name)
        return sentence(f"{claim([one])} {better} rather than {worse}", where)
    text = f"no significant difference between {name} and {baseline}"
    if one.p_value is not None and one.p_value <= SIGNIFICANT:
        better = name if one.difference < 0 else baseline
        text += f" after correction for the number of comparisons; by itself this favours {better}"
    elif one.interval is not None:
        ends = (points(one.interval.low), points(one.interval.high))
        text += f": anything from {ends[0]} to {ends[1]} points would fit"
    return sentence(text, where)


def reason(one: Difference | TypeDifference, where: str, metric: Metric) -> str:
    """Say by how much two levels, or systems, differ."""
    side = "lower" if one.difference < 0 else "higher"
    names = [one.name, one.baseline]
    if isinstance(one, TypeDifference):
        names = [*map(said, names)]
    apart = (
        f"{100 * abs(one.difference):.2f} points {side} than" if one.difference else "the same as"
    )
    text = f"{where} the {metric.long} of {names[0]} is {apart} that of {names[1]}"
    if isinstance(one, TypeDifference) and len(one.within) > 1:
        text += f" ({one.scope})"
    if one.interval is not None:
        text += (
            f"; by itself, anything from {points(one.interval.low)} to {points(one.interval.high)} "
            f"would fit as well"
        )
    if one.p_holm is not None:
        text += (
            f" (corrected p {corrected_p(one)}: {'' if is_significant(one) else 'not '}significant)"
        )
    return text + "."


def corrected_p(one: Difference | TypeDifference | Interaction) -> str:
    """``= 0.012``, ``<0.001``"""
    assert one.p_holm is not None
    return "<0.001" if one.p_holm < 0.001 else f"= {one.p_holm:.3f}"
