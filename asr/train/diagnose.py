"""`asr diagnose` while training: the same numbers of a few utterances of a step, as series."""

from __future__ import annotations

from collections.abc import Sequence

from asr.config import TrainConfig
from asr.data.examples import Batch
from asr.model.recogniser import Recogniser
from asr.probe.diagnostics import diagnose, series
from asr.train.step import part_of

NUM_UTTERANCES = 4


def diagnosis_due(train: TrainConfig, step: int) -> bool:
    """Tell whether a step, counted from 1, is diagnosed: the first, and every so many after it."""
    return train.diagnose_steps > 0 and (step - 1) % train.diagnose_steps == 0


def diagnose_step(
    net: Recogniser, batches: Sequence[Batch]
) -> dict[str, float | str | None] | None:
    """Diagnose the first utterances of a step, with the weights before it; None where it has none.

    In a pass of its own, in the weights' own precision and without augmentation; training goes on to
    the same bits as without it.
    """
    batch = next((batch for batch in batches if len(batch)), None)
    if batch is None:
        return None
    few = part_of(batch, 0, min(NUM_UTTERANCES, len(batch)))
    return series(diagnose(net, few.to(net.device)))
