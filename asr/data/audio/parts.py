"""Files that are several files one after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import BinaryIO, cast

from asr.data.audio.spliced import Spliced
from asr.data.audio.stretches import Loss, Plan, Stretch


def plan_parts(
    file: BinaryIO,
    num_bytes: int,
    end_of: Callable[[BinaryIO, int], int | None],
    plan_one: Callable[[BinaryIO, int], Plan],
) -> Plan:
    """Return how to decode a file, each of its parts as a file of its own.

    Args:
        end_of: where the part that begins at a place ends by its header; None where none begins there,
            or its header does not tell.
        plan_one: the plan of a file of one part and of so many bytes.
    """
    starts = [0]
    while (end := end_of(file, starts[-1])) is not None and end_of(file, end) is not None:
        starts.append(end)
    if len(starts) == 1:
        return plan_one(file, num_bytes)
    stretches: list[Stretch] = []
    lost: Loss | None = None
    for first, end in pairwise([*starts, num_bytes]):
        part = plan_within(file, first, end, plan_one)
        first_stretch = part.stretches[0]
        stretches.append(first_stretch if lost is None else _after(first_stretch, lost))
        stretches += part.stretches[1:]
        lost = part.end
    return Plan(stretches, lost)


def plan_within(
    file: BinaryIO, first: int, end: int, plan_one: Callable[[BinaryIO, int], Plan]
) -> Plan:
    """Return the plan for a part of a file, its spans counted in the whole."""
    inside = plan_one(cast(BinaryIO, Spliced(file, [(first, end)])), end - first)
    stretches = [
        replace(
            stretch,
            spans=[
                span if isinstance(span, bytes) else (span[0] + first, span[1] + first)
                for span in stretch.spans or [(0, end - first)]
            ],
        )
        for stretch in inside.stretches
    ]
    return Plan(stretches, inside.end)


def _after(stretch: Stretch, loss: Loss) -> Stretch:
    return replace(stretch, loss=lambda num_samples, rate: loss)
