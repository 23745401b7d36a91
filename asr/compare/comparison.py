"""The result of comparing experiments: what the table, the Markdown and the JSON are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from asr.compare.experiment import Run
from asr.compare.stats.mapsswe import Mapsswe
from asr.compare.stats.statistics import Interval, holm
from asr.wer import WER, ErrorCounts, Metric


@dataclass(frozen=True)
class UnitErrors:
    """A speaker's (or, where too few are known, an utterance's) errors and reference words."""

    name: str
    errors: int
    words: int


@dataclass(frozen=True)
class SetResult:
    """One system on one test set.

    Attributes:
        wer: a fraction, None without reference words; cer: the same of characters.
        interval: of the WER, None where there are too few units with errors for one.
        unit: what is independent of each other, ``speaker`` or ``utterance``.
        method: of the interval, ``bootstrap``, ``t``, or ``exact`` where no or all words are wrong.
        num_speakers: 0 where none is known.
        units: errors and words of each unit, what intervals and p-values are made of.
        rtf: seconds of decoding per second of audio.
        attention_backend: what computed attention then; None where it is not recorded.
    """

    counts: ErrorCounts
    wer: float | None
    cer: float | None
    interval: Interval | None
    unit: str
    method: str
    num_utterances: int
    num_speakers: int
    units: list[UnitErrors]
    normaliser: str
    search: str | None
    beam: int | None
    rtf: float | None
    device: str | None
    attention_backend: str | None = None


@dataclass(frozen=True)
class Factor:
    """An option in which trainings differ, or several options that always vary together.

    Attributes:
        keys: of the configuration.
        levels: as they are shown, in the order of the experiments.
    """

    name: str
    keys: list[str]
    levels: list[str]


class OfLevels:
    """Names of what has a level of each factor, ``levels``, in the order of the factors."""

    levels: dict[str, str]

    @property
    def label(self) -> str:
        return " ".join(self.levels.values())

    @property
    def first(self) -> str:
        """The level of the first factor: a colour, or a line's name."""
        return next(iter(self.levels.values()), "-")

    @property
    def rest(self) -> str:
        """The levels of the others: a panel's title."""
        return " ".join([*self.levels.values()][1:])


@dataclass(frozen=True)
class Row(OfLevels):
    """One system; sets by name; ``levels`` by factor, empty where its options are not known."""

    name: str
    folder: str
    run: Run
    levels: dict[str, str]
    sets: dict[str, SetResult]


@dataclass(frozen=True)
class Difference:
    """A system's WER minus the first system's on the same utterances, as fractions.

    Attributes:
        p_value: two-sided, of no difference; of this one comparison.
        p_holm: the same after Holm's correction for all differences of the table.
        better_share: share of the bootstrap's resamples in which the system had fewer errors.
        method: of the interval, ``random signs``, ``all signs`` or ``t``, where the p-value is of all
            signs too.
        mapsswe: the matched-pairs sentence-segment test of the same pair.
    """

    name: str
    baseline: str
    set_name: str
    difference: float
    interval: Interval | None
    p_value: float | None
    p_holm: float | None
    better_share: float | None
    unit: str
    method: str
    mapsswe: Mapsswe | None


@dataclass(frozen=True)
class TypeResult(OfLevels):
    """Runs that are alike in all but the seed.

    Attributes:
        levels: by factor.
        wer: the mean over the runs; interval: for another training and other units.
        wers: of each run, in the order of ``names``.
        train_audio_s_per_s, rtf: means over the runs that say so.
    """

    levels: dict[str, str]
    set_name: str
    names: list[str]
    wers: list[float]
    wer: float
    interval: Interval | None
    train_audio_s_per_s: float | None = None
    rtf: float | None = None


@dataclass(frozen=True)
class TypeDifference:
    """Mean WER of one level of a factor minus another's, over seeds and speakers (or utterances).

    Attributes:
        factor: what differs; name, baseline: its levels.
        over: another factor, where the difference is taken at one level of it; empty where it is the
            mean over all that both levels have in common.
        held: levels of other factors that are the same throughout, by factor; ``over`` is among them.
        contrast: the difference at the level of ``over``, minus the mean of the same at its others.
        within: levels of the other factors, which are the same on both sides; several where a mean is
            compared. scope: the same in words.
        num_seeds: the fewest runs of any type that takes part.
        standard_error: of the difference; df: degrees of freedom of the t test; both None where nothing
            varies.
        seed_error, unit_error: standard errors from seeds alone and from speakers alone.
    """

    factor: str
    name: str
    baseline: str
    over: str
    held: dict[str, str]
    contrast: bool
    within: list[str]
    scope: str
    set_name: str
    difference: float
    interval: Interval | None
    p_value: float | None
    p_holm: float | None
    standard_error: float | None
    df: float | None
    num_seeds: int
    unit: str
    seed_error: float
    unit_error: float

    @property
    def at(self) -> str:
        """The level of ``over``."""
        return self.held.get(self.over, "")


@dataclass(frozen=True)
class Interaction:
    """Test of whether the difference of two levels of a factor depends on another factor, on one set.

    Attributes:
        factor: what differs; name, baseline: its levels.
        over: the other factor; levels: those that both have; without those at which nothing varies, if
            it does at two or more.
        f: Welch's F of the differences at ``levels``; df1, df2: its degrees of freedom.
        p_value: of one difference at all levels; p_holm: corrected over all pairs and sets.
    """

    factor: str
    name: str
    baseline: str
    over: str
    levels: list[str]
    set_name: str
    f: float
    df1: int
    df2: float
    p_value: float
    p_holm: float | None


@dataclass(frozen=True)
class Part:
    """Some utterances of a set and each system's WER on them, None without reference words.

    Attributes:
        by: ``length``, ``speaker`` or ``noise``; label: which, for a reader.
        low, high: bounds of what they are sorted by (seconds, dB), None for a speaker.
    """

    set_name: str
    by: str
    label: str
    low: float | None
    high: float | None
    num_utterances: int
    reference_words: int
    wers: dict[str, float | None]


@dataclass(frozen=True)
class LengthResult:
    """A system on utterances joined to a duration, and its difference from the first system there.

    Attributes:
        label: of the duration; length_s: what they were joined to; mean_duration_s: what came out.
        units: errors and words of each unit.
        p_holm: corrected over all systems and durations.
        set_name: of the decoded set; normaliser, search: how it was decoded.
    """

    name: str
    label: str
    length_s: float
    mean_duration_s: float
    num_utterances: int
    units: list[UnitErrors]
    wer: float
    interval: Interval | None
    difference: float | None
    p_value: float | None
    p_holm: float | None
    set_name: str = ""
    normaliser: str = ""
    search: str = ""


@dataclass(frozen=True)
class Comparison:
    """Result of a comparison of systems.

    Attributes:
        differences: paired ones; a pair whose utterances differ has a note instead.
        factors: in which the trainings differ, seed apart.
        types: of those trained at least twice, and their differences and interactions.
        parts: WER by length, speaker and noise.
        lengths: WER on joined utterances, where they were asked for; ``length_types``,
            ``length_differences`` and ``length_interactions`` are of types there, their set is the
            duration.
        notes: what a reader must know before believing the table, most important first.
        metric: what every error rate here is of, whatever its field is called; ``words`` are its units.
    """

    rows: list[Row]
    factors: list[Factor]
    differences: list[Difference]
    types: list[TypeResult]
    type_differences: list[TypeDifference]
    interactions: list[Interaction]
    parts: list[Part]
    lengths: list[LengthResult]
    length_types: list[TypeResult]
    length_differences: list[TypeDifference]
    length_interactions: list[Interaction]
    notes: list[str]
    level: float
    num_resamples: int
    seed: int
    metric: Metric = WER

    @property
    def set_names(self) -> list[str]:
        """Every test set of any system, in sorted order."""
        return sorted({name for row in self.rows for name in row.sets})


AnyDifference = TypeVar("AnyDifference", Difference, TypeDifference, Interaction)


def corrected(differences: Sequence[AnyDifference]) -> list[AnyDifference]:
    """Apply Holm's correction over all differences that have a p-value."""
    known = [one.p_value for one in differences if one.p_value is not None]
    adjusted = iter(holm(known))
    return [
        one if one.p_value is None else replace(one, p_holm=next(adjusted)) for one in differences
    ]
