"""Options of a search, checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from asr.errors import InputError, warn
from asr.files import file_hash
from asr.run_folder import CARRIED_LM
from asr.search.options_checks import number, path, shown, whole, word
from asr.search.weights import MAX_WEIGHT, read_tuned

SEARCH_NAMES = ("greedy", "beam", "rescore", "joint")

CTC_WEIGHTS = {"rescore": 0.5, "joint": 0.3}
"""CTC's share of the score where nothing is said, by search: as usual for such models."""

DEFAULT_BEAM = 8
DEFAULT_HOTWORD_BONUS = 4.0
MAX_BEAM = 1_000_000

WEIGHT_NAMES = ("lm_weight", "word_bonus", "unknown_penalty")


@dataclass(frozen=True)
class SearchOptions:
    """Options of a search; those that only beam search has are refused with greedy search.

    Attributes:
        search: greedy or beam, of the first head that has it; rescore: CTC's beam search, whose
            ``beam`` best the attention decoder ranks; joint: token by token, by both heads.
        beam: hypotheses that a search keeps, see ``width``; greedy search has none.
        num_best: hypotheses wanted, at most ``width``; no two have the same words, so there may be
            fewer.
        lm: n-gram model, ARPA or KenLM's binary format; a ``str`` becomes a ``Path``, as ``neural``.
        lm_weight, word_bonus, unknown_penalty: None: as tuned for this model and this ``lm``, else
            ``DEFAULT_WEIGHTS``.
        hotwords: words and phrases to prefer; the model's normaliser is applied to them.
        hotword_bonus: natural-log bonus of each word of each of them; None: see ``bonus_per_word``.
        neural: folder of a neural language model that ranks the ``beam`` best anew.
        neural_weight: None: as tuned with all the others for this ``lm`` and this ``neural``, else
            ``DEFAULT_NEURAL_WEIGHT``.
        ctc_weight: CTC's share of the score in rescore and joint, from 0 to 1; the decoder's is the
            rest. None: ``CTC_WEIGHTS``.
        head: whose search it is; None: the model's first head that has one of this name.

    Raises:
        InputError: no such search, a value out of range.
    """

    search: str = "greedy"
    beam: int | None = None
    num_best: int = 1
    lm: Path | None = None
    lm_weight: float | None = None
    word_bonus: float | None = None
    unknown_penalty: float | None = None
    hotwords: tuple[str, ...] = ()
    hotword_bonus: float | None = None
    neural: Path | None = None
    neural_weight: float | None = None
    ctc_weight: float | None = None
    head: str | None = None

    def __post_init__(self) -> None:
        self._check_types()
        if self.search not in SEARCH_NAMES:
            raise InputError(
                f"search {shown(self.search)}: choose one of {', '.join(SEARCH_NAMES)}"
            )
        for name in ("beam", "num_best"):
            value = getattr(self, name)
            if value is not None and value > MAX_BEAM:
                raise InputError(f"{name} = {value}: must be at most {MAX_BEAM}")
        if self.search == "greedy" and self.beam is not None:
            raise InputError(f"beam = {self.beam}: greedy search has no beam; choose --search beam")
        if self.num_best > self.width:
            most = "greedy search finds one" if self.search == "greedy" else f"--beam {self.width}"
            raise InputError(f"num_best = {self.num_best}: too many, {most}")
        if self.search == "greedy" and (self.lm is not None or self.hotwords):
            raise InputError(
                "a language model and hotwords need --search beam, or rescore or joint with an "
                "attention head"
            )
        weights = {name: getattr(self, name) for name in WEIGHT_NAMES}
        given = [name for name, value in weights.items() if value is not None]
        if given and self.lm is None:
            raise InputError(f"{given[0]} = {weights[given[0]]:g}: means nothing without --lm")
        if self.neural is not None and self.search not in ("beam", "rescore"):
            raise InputError(f"--neural works with --search beam and rescore, not {self.search}")
        if self.neural is not None and self.lm is None:
            raise InputError("a neural language model ranks what a search with --lm has found")
        if self.neural is None and self.neural_weight is not None:
            raise InputError(
                f"neural_weight = {self.neural_weight:g}: means nothing without --neural"
            )
        if self.ctc_weight is not None:
            if self.search not in CTC_WEIGHTS:
                raise InputError(
                    f"ctc_weight = {self.ctc_weight:g}: only {' and '.join(CTC_WEIGHTS)} read it"
                )
            if not 0.0 <= self.ctc_weight <= 1.0:
                raise InputError(f"ctc_weight = {self.ctc_weight:g}: must be from 0 to 1")
        if self.hotword_bonus is not None:
            if not abs(self.hotword_bonus) <= MAX_WEIGHT:
                raise InputError(
                    f"hotword_bonus = {self.hotword_bonus}: must be a finite number of at most "
                    f"{MAX_WEIGHT:g}"
                )
            if not self.hotwords:
                raise InputError(
                    f"hotword_bonus = {self.hotword_bonus:g}: means nothing without --hotwords"
                )

    @property
    def width(self) -> int:
        """Hypotheses that the search keeps: greedy search one, others ``DEFAULT_BEAM`` unsaid."""
        return 1 if self.search == "greedy" else self.beam or DEFAULT_BEAM

    @property
    def bonus_per_word(self) -> float:
        """Natural-log bonus of each word of a hotword."""
        return DEFAULT_HOTWORD_BONUS if self.hotword_bonus is None else self.hotword_bonus

    def _check_types(self) -> None:
        """Make every value of the type that its field has."""
        word("search", self.search)
        if self.head is not None:
            word("head", self.head)
        values: dict[str, object] = {"num_best": whole("num_best", self.num_best, 1)}
        values["beam"] = None if self.beam is None else whole("beam", self.beam, 1)
        for name in ("lm", "neural"):
            given = getattr(self, name)
            values[name] = None if given is None else path(name, given)
        for name in (*WEIGHT_NAMES, "neural_weight", "ctc_weight", "hotword_bonus"):
            given = getattr(self, name)
            values[name] = None if given is None else number(name, given)
        if isinstance(self.hotwords, str):
            raise InputError(f"hotwords = {self.hotwords!r}: must be phrases, ({self.hotwords!r},)")
        if not isinstance(self.hotwords, (tuple, list)):
            raise InputError(f"hotwords = {shown(self.hotwords)}: must be phrases, ('a word',)")
        values["hotwords"] = tuple(word("a hotword", phrase) for phrase in self.hotwords)
        for name, value in values.items():
            object.__setattr__(self, name, value)


GREEDY = SearchOptions()


def carried_search(folder: Path) -> SearchOptions:
    """Return how a model is searched where nobody says how: by beam search with the language model
    that its folder carries, with the beam of its tuning, or greedily where it carries none.

    Raises:
        InputError: its tuned weights are damaged.
    """
    lm = folder / CARRIED_LM
    if not lm.exists():
        return GREEDY
    tuned = read_tuned(folder)
    if tuned is not None and lm.is_file() and tuned.lm_sha256 != file_hash(lm):
        warn(f"{folder}: its weights were tuned for another {CARRIED_LM}: run asr tune again")
        tuned = None
    return (
        SearchOptions("beam", lm=lm) if tuned is None else SearchOptions("beam", tuned.beam, lm=lm)
    )
