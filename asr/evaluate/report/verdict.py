"""The answer in plain words: which attention to use, how sure that is, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from asr.evaluate.attention_types import CLAIM_RUNS
from asr.evaluate.comparison import Comparison, Difference, TypeDifference
from asr.evaluate.tables import within_text

_ALPHA = 0.05


@dataclass(frozen=True)
class Verdict:
    """Attributes:
    answer: one sentence.
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


def _of_types(comparison: Comparison) -> Verdict:
    weightings = [one for one in comparison.type_differences if one.kind == "weighting"]
    positions = [one for one in comparison.type_differences if one.kind == "position"]
    overall = [one for one in weightings if _widest(one, weightings)]
    answers = [_answer(one) for one in overall] or [_answer(one) for one in positions]
    reasons = [_reason(one) for one in overall]
    split = [one for one in weightings if one not in overall and _certain(one)]
    reasons += [f"At {within_text(one)} alone: {_reason(one)}" for one in split]
    real = [one for one in positions if _certain(one)]
    if positions:
        reasons.append(_positions_text(positions, real))
    reasons.append(_best_text(comparison))
    seeds = min(one.num_seeds for one in comparison.type_differences)
    if seeds < CLAIM_RUNS:
        reasons.append(
            f"Each type was trained with {seeds} seeds; below {CLAIM_RUNS} this is an indication, "
            f"not a claim."
        )
    return Verdict(" ".join(answers), reasons)


def _widest(one: TypeDifference, all_of_them: Sequence[TypeDifference]) -> bool:
    """Over the most positions of its pair of weightings."""
    same = [o for o in all_of_them if (o.name, o.set_name) == (one.name, one.set_name)]
    return one is max(same, key=lambda o: len(o.within))


def _of_systems(comparison: Comparison) -> Verdict:
    real = [one for one in comparison.differences if _certain(one)]
    if not real:
        answer = (
            f"Cannot tell: no system differs from {comparison.differences[0].baseline} by more than "
            f"chance would make it."
        )
    else:
        best = min(real, key=lambda one: one.difference)
        better = best.difference < 0
        answer = (
            f"{best.name} makes {'fewer' if better else 'more'} errors than {best.baseline}."
            if len(real) == 1
            else f"{len(real)} of {len(comparison.differences)} systems differ from {best.baseline}"
            + (f"; {best.name} is the best of them." if better else ", all for the worse.")
        )
    reasons = [_reason(one) for one in sorted(real or comparison.differences, key=_difference)[:5]]
    reasons.append(
        "Each system is one training: another seed of the same attention may come out elsewhere, so "
        "this says nothing yet about attention types. Train each with several seeds for that."
    )
    return Verdict(answer, reasons)


def _difference(one: Difference) -> float:
    return one.difference


def _certain(one: Difference | TypeDifference) -> bool:
    return one.p_holm is not None and one.p_holm <= _ALPHA


def _answer(one: TypeDifference) -> str:
    if not _certain(one):
        return f"Cannot tell {one.name} from {one.baseline}: use either."
    better, worse = (one.name, one.baseline) if one.difference < 0 else (one.baseline, one.name)
    if one.num_seeds < CLAIM_RUNS:
        return f"It points to {better} rather than {worse}."
    return f"Use {better} rather than {worse}."


def _reason(one: Difference | TypeDifference) -> str:
    side = "lower" if one.difference < 0 else "higher"
    text = (
        f"On {one.set_name} the word error rate of {one.name} is {100 * abs(one.difference):.2f} "
        f"points {side} than that of {one.baseline}"
    )
    if one.interval is not None:
        text += (
            f"; anything from {100 * one.interval.low:+.2f} to {100 * one.interval.high:+.2f} "
            f"would fit as well"
        )
    if one.p_holm is not None:
        chance = "<0.001" if one.p_holm < 0.001 else f"{one.p_holm:.3f}"
        text += f" (corrected p {'' if chance.startswith('<') else '= '}{chance}"
        text += ": that is more than chance)" if _certain(one) else ": chance would do it)"
    return text + "."


def _positions_text(positions: Sequence[TypeDifference], real: Sequence[TypeDifference]) -> str:
    base = positions[0].baseline
    if not real:
        return f"No position differs from {base} by more than chance."
    better = [one.name for one in real if one.difference < 0]
    worse = [one.name for one in real if one.difference > 0]
    parts = [f"better than {base}: {', '.join(better)}"] if better else []
    parts += [f"worse than {base}: {', '.join(worse)}"] if worse else []
    return f"Positions that differ from {base} by more than chance: {'; '.join(parts)}."


def _best_text(comparison: Comparison) -> str:
    """The lowest mean, and those whose interval holds it."""
    set_name = comparison.types[0].set_name
    types = [one for one in comparison.types if one.set_name == set_name]
    best = min(types, key=lambda one: one.wer)
    return (
        f"The lowest mean on {set_name} has {best.weighting} with {best.position} "
        f"({100 * best.wer:.2f} %); being the lowest of {len(types)} is in part luck."
    )
