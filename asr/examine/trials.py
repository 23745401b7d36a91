"""Trials of a certificate: what is computed twice, and must be equal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from sigmoid_attention.dispatch import BACKENDS, refusal
from torch import Tensor

from asr.model.recogniser import Recogniser
from asr.nn.attention import Attending

DTYPES = {"float32": torch.float32, "float64": torch.float64}

Run = Callable[[Recogniser], list[Tensor]]
"""A model, in one precision -> what is compared of each utterance: frames_tx of a head, or the
log-probabilities (u, v) that a decoder gives for a transcript."""

Read = Callable[[Recogniser, Sequence[Tensor]], list[object]]
"""A model and results of a ``Run`` -> what would be written of each utterance."""


@dataclass(frozen=True)
class Trial:
    """One thing that must change nothing: what is computed, and what it must be equal to.

    Attributes:
        reason: why there is nothing to compute; empty where there is.
        dtypes: the precisions in which it can be.
        read: None: what the greedy search finds in frames.
    """

    property: str
    what: str
    run: Run | None = None
    expected: Run | None = None
    reason: str = ""
    dtypes: tuple[str, ...] = tuple(DTYPES)
    read: Read | None = None


def backend_trials(
    what: str,
    modules: Callable[[Recogniser], Sequence[Attending]],
    net: Recogniser,
    run: Run,
    read: Read | None = None,
) -> Iterator[Trial]:
    """Try every backend that can serve these modules against the reference.

    Args:
        what: the name of the modules, for each line.
        modules: of one weighting.
        net: decides which backends can.
    """

    def by(backend: str) -> Run:
        def run_by(net: Recogniser) -> list[Tensor]:
            before = [module.backend for module in modules(net)]
            try:
                for module in modules(net):
                    module.use(backend)
                return run(net)
            finally:
                for module, chosen in zip(modules(net), before, strict=True):
                    module.use(chosen)

        return run_by

    weighting, reference = modules(net)[0].weighting, cache(by("reference"))
    for backend in BACKENDS:
        if backend in ("auto", "reference"):
            continue
        reasons = {
            name: refusal(backend, weighting, net.device, dtype) for name, dtype in DTYPES.items()
        }
        serving = tuple(name for name, reason in reasons.items() if reason is None)
        line = f"{what}{backend} against reference, one batch"
        if serving:
            yield Trial("backend", line, by(backend), reference, dtypes=serving, read=read)
        else:
            yield Trial("backend", line, reason=f"{reasons['float32']}")
