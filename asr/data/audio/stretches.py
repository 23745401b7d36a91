"""What the modules that know a format say about a file: stretches that libsndfile decodes whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from asr.data.audio.spliced import Span


@dataclass(frozen=True)
class Loss:
    """Samples that are missing before whatever follows.

    Attributes:
        message: what is wrong, without the name of the file.
        num_samples: how many, at the file's rate; None where nobody can know.
    """

    message: str
    num_samples: int | None = None


@dataclass(frozen=True)
class Stretch:
    """Bytes that are a file of their own, decoded from its first sample to its last.

    Attributes:
        spans: the bytes; None is the whole file.
        loss: of (number of samples, rate) that the stretch decodes to: what is missing before it.
        num_samples: that it must give, where the format's own count is better than libsndfile's.
        tolerance: as many may be missing at its end without a word.
    """

    spans: Sequence[Span] | None = None
    loss: Callable[[int, int], Loss | None] = lambda num_samples, rate: None
    num_samples: int | None = None
    tolerance: int = 0


@dataclass(frozen=True)
class Plan:
    """Stretches in order; ``end`` is what is missing after the last."""

    stretches: Sequence[Stretch] = (Stretch(),)
    end: Loss | None = None


WHOLE = Plan()
