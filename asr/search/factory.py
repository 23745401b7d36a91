"""Searches made from options: the one place that knows every search by name."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from asr.errors import InputError, warn
from asr.files import file_hash
from asr.lm.coverage import check_vocabulary
from asr.lm.load import load_word_model
from asr.lm.neural import WEIGHTS as NEURAL_WEIGHTS
from asr.lm.neural import load_neural
from asr.model.folder import Model
from asr.run_folder import CARRIED_LM
from asr.search.greedy import greedy
from asr.search.hotwords import Hotwords
from asr.search.hypothesis import Hypothesis, rows_with_nan
from asr.search.options_checks import number, path, shown, whole, word
from asr.search.prefix_beam import prefix_beam
from asr.search.rescore import rescore
from asr.search.text_score import TextScorer
from asr.search.units import Units, units_of
from asr.search.weights import DEFAULT_WEIGHTS, MAX_WEIGHT, Tuned, Weights, read_tuned
from asr.search.words import one_per_text
from asr.text.normalise import Normaliser

SEARCH_NAMES = ("greedy", "beam")

# Tokens this far below a frame's likeliest extend nothing once text is scored, too: measured on
# the mini corpus, 7 finds what 10 finds in half the time.
TOKEN_MARGIN = 8.0

DEFAULT_NEURAL_WEIGHT = 0.5

MAX_BEAM = 1_000_000

NBest = list[list[Hypothesis]]

_WEIGHT_NAMES = ("lm_weight", "word_bonus", "unknown_penalty")


@dataclass(frozen=True)
class SearchOptions:
    """Everything a user may say about a search; what only beam search has refuses greedy search.

    Attributes:
        search: greedy or beam.
        beam: prefixes that beam search keeps.
        num_best: hypotheses wanted, at most ``beam``; no two have the same words, so there may be
            fewer.
        lm: n-gram model, ARPA or KenLM's binary format; a ``str`` becomes a ``Path``, as ``neural``.
        lm_weight, word_bonus, unknown_penalty: None: as tuned for this model and this ``lm``, else
            ``DEFAULT_WEIGHTS``.
        hotwords: words and phrases to prefer; the model's normaliser is applied to them.
        hotword_bonus: natural-log bonus of each word of each of them.
        neural: folder of a neural language model that ranks the ``beam`` best anew.
        neural_weight: None: as tuned with all the others for this ``lm`` and this ``neural``, else
            ``DEFAULT_NEURAL_WEIGHT``.

    Raises:
        InputError: no such search, a value out of range.
    """

    search: str = "greedy"
    beam: int = 8
    num_best: int = 1
    lm: Path | None = None
    lm_weight: float | None = None
    word_bonus: float | None = None
    unknown_penalty: float | None = None
    hotwords: tuple[str, ...] = ()
    hotword_bonus: float = 4.0
    neural: Path | None = None
    neural_weight: float | None = None

    def __post_init__(self) -> None:
        self._check_types()
        if self.search not in SEARCH_NAMES:
            raise InputError(
                f"search {shown(self.search)}: choose one of {', '.join(SEARCH_NAMES)}"
            )
        for name in ("beam", "num_best"):
            if getattr(self, name) > MAX_BEAM:
                raise InputError(f"{name} = {getattr(self, name)}: must be at most {MAX_BEAM}")
        if self.num_best > (self.beam if self.search == "beam" else 1):
            raise InputError(
                f"num_best = {self.num_best}: greedy search finds one, beam search as many as "
                f"--beam"
            )
        if self.search != "beam" and (self.lm is not None or self.hotwords):
            raise InputError("a language model and hotwords need --search beam")
        weights = {name: getattr(self, name) for name in _WEIGHT_NAMES}
        given = [name for name, value in weights.items() if value is not None]
        if given and self.lm is None:
            raise InputError(f"{given[0]} = {weights[given[0]]:g}: means nothing without --lm")
        if self.neural is not None and self.lm is None:
            raise InputError("a neural language model ranks what a search with --lm has found")
        if self.neural is None and self.neural_weight is not None:
            raise InputError(
                f"neural_weight = {self.neural_weight:g}: means nothing without --neural"
            )
        if not abs(self.hotword_bonus) <= MAX_WEIGHT:
            raise InputError(
                f"hotword_bonus = {self.hotword_bonus}: must be a finite number of at most "
                f"{MAX_WEIGHT:g}"
            )

    def _check_types(self) -> None:
        """Make every value of the type that its field has."""
        word("search", self.search)
        values: dict[str, object] = {
            name: whole(name, getattr(self, name), 1) for name in ("beam", "num_best")
        }
        for name in ("lm", "neural"):
            given = getattr(self, name)
            values[name] = None if given is None else path(name, given)
        for name in (*_WEIGHT_NAMES, "neural_weight"):
            given = getattr(self, name)
            values[name] = None if given is None else number(name, given)
        values["hotword_bonus"] = number("hotword_bonus", self.hotword_bonus)
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


Run = Callable[[Tensor, Tensor], NBest]
"""(frames_btx, lens_b) -> per utterance its hypotheses, best first, never none."""


@dataclass(frozen=True)
class Search:
    """From a head's frames to hypotheses.

    Attributes:
        settings: everything that decides the result, for ``decode.json``.
        head: whose frames are searched.
        folder: of the model whose frames are searched.
    """

    run: Run
    settings: dict[str, Any]
    head: str
    folder: Path

    def __call__(self, frames_btx: Tensor, lens_b: Tensor) -> NBest:
        """
        Raises:
            InputError: frames that are NaN: sound never leads to them, so the model does.
        """
        try:
            return self.run(frames_btx, lens_b)
        except ValueError:  # looked for only now: a look at every number takes its time
            is_shaped = frames_btx.dim() == 3 and lens_b.shape == frames_btx.shape[:1]
            if is_shaped and rows_with_nan(frames_btx, lens_b).any():
                raise InputError(
                    f"{self.folder}: this model's outputs are NaN, so its weights or its "
                    "config.yaml (features.scale?) are damaged; train or copy it anew"
                ) from None
            raise


def build_search(options: SearchOptions, model: Model, head: str | None = None) -> Search:
    """The search that ``options`` describe.

    Args:
        model: what is searched; tuned weights may lie in its folder, hotwords go through its
            normaliser.
        head: whose frames are searched; None: the first one's.

    Raises:
        InputError: a language model that cannot be read or whose words the recogniser cannot write
            (a few of them are an ``InputWarning``), a weight out of range, tuned weights that are
            damaged, a search that the head has not.
    """
    head = head or model.net.first_head
    if (head, options.search) not in SEARCHES:
        known = ", ".join(name for of, name in SEARCHES if of == head)
        raise InputError(f"search = {options.search!r}: the {head} head has {known}")
    run, settings = SEARCHES[head, options.search](options, model)
    return Search(run, {"search": options.search} | settings, head, model.folder)


def _ctc_greedy(options: SearchOptions, model: Model) -> tuple[Run, dict[str, Any]]:
    return GREEDY_RUNS["ctc"], {"beam": None}


def _ctc_beam(options: SearchOptions, model: Model) -> tuple[Run, dict[str, Any]]:
    tokenizer, folder, normaliser = model.tokenizer, model.folder, model.normaliser
    units = units_of(tokenizer)
    settings: dict[str, Any] = {"beam": options.beam}
    if options.lm is None and not options.hotwords:
        return _beam(options, units, None, math.inf), settings

    weights, words = Weights(0.0, 0.0, 0.0), None
    if options.lm is not None:
        words = load_word_model(options.lm)
        check_vocabulary(words, options.lm, tokenizer, normaliser)
        sha256 = file_hash(options.lm)
        weights, origin = choose_weights(options, read_tuned(folder), sha256)
        settings |= {"lm": str(options.lm), "lm_sha256": sha256, "weights": origin}
        settings |= {name: getattr(weights, name) for name in _WEIGHT_NAMES}
    hotwords = None
    if options.hotwords:
        hotwords = hotwords_of(options.hotwords, options.hotword_bonus, units, normaliser)
        settings |= {"hotwords": list(options.hotwords), "hotword_bonus": options.hotword_bonus}
    scorer = TextScorer(
        units,
        words,
        weights.lm_weight,
        weights.word_bonus,
        weights.unknown_penalty,
        hotwords,
    )
    if options.neural is None:
        return _beam(options, units, scorer, TOKEN_MARGIN), settings
    neural = load_neural(options.neural, tokenizer)
    sha256 = file_hash(options.neural / NEURAL_WEIGHTS)
    second = _second_weights(options, weights, read_tuned(folder), settings["lm_sha256"], sha256)
    settings |= {"neural": str(options.neural), "neural_sha256": sha256}
    settings["rescoring"] = dataclasses.asdict(second)
    every = dataclasses.replace(options, num_best=options.beam)
    wide = _beam(every, units, scorer, TOKEN_MARGIN)

    def rescored(frames_btx: Tensor, lens_b: Tensor) -> NBest:
        found = wide(frames_btx, lens_b)
        return [rescore(several, neural, second)[: options.num_best] for several in found]

    return rescored, settings


def _second_weights(
    options: SearchOptions,
    first: Weights,
    tuned: Tuned | None,
    lm_sha256: str,
    neural_sha256: str,
) -> Weights:
    """Return the weights of the rescoring: tuned for both models, else the search's with a neural
    weight beside them."""
    weights = dataclasses.replace(first, neural_weight=DEFAULT_NEURAL_WEIGHT)
    hashes = (lm_sha256, neural_sha256)
    if tuned is not None and tuned.second and (tuned.lm_sha256, tuned.neural_sha256) == hashes:
        weights = tuned.second
    if options.neural_weight is None:
        return weights
    return dataclasses.replace(weights, neural_weight=options.neural_weight)


def choose_weights(
    options: SearchOptions, tuned: Tuned | None, lm_sha256: str
) -> tuple[Weights, str]:
    """(the weights that count, where they are from: given, tuned or default).

    Weights tuned for another language model are not used: they are of another scale.
    """
    given = {name: getattr(options, name) for name in _WEIGHT_NAMES}
    given = {name: value for name, value in given.items() if value is not None}
    if tuned is not None and tuned.lm_sha256 == lm_sha256:
        base, origin = tuned.first, "tuned"
    else:
        base, origin = DEFAULT_WEIGHTS, "default"
    return dataclasses.replace(base, **given), "given" if given else origin


def hotwords_of(
    phrases: tuple[str, ...], bonus_per_word: float, units: Units, normaliser: Normaliser
) -> Hotwords:
    """Phrases, normalised, with the same bonus for each of their words.

    Raises:
        InputError: a phrase without a letter, or with one that the recogniser never writes.
    """
    letters = set().union(*units.letters_v)
    bonuses = {}
    for phrase in phrases:
        words = normaliser(phrase).split()
        if not words:
            raise InputError(f"hotword {phrase!r}: no letters in it")
        if never := sorted(set().union(*words) - letters):
            raise InputError(f"hotword {phrase!r}: this model never writes {never[0]!r}")
        bonuses[" ".join(words)] = bonus_per_word * len(words)
    return Hotwords(bonuses)


def _beam(
    options: SearchOptions, units: Units, scorer: TextScorer | None, token_margin: float
) -> Callable[[Tensor, Tensor], NBest]:
    # several spellings of one text count as one of the num_best, so all are asked for
    num_found = 1 if options.num_best == 1 else options.beam

    def run(log_probs_btv: Tensor, lens_b: Tensor) -> NBest:
        found = prefix_beam(
            log_probs_btv,
            lens_b,
            options.beam,
            num_best=num_found,
            token_margin=token_margin,
            scorer=scorer,
        )
        return [one_per_text(several, units)[: options.num_best] for several in found]

    return run


def _greedy(log_probs_btv: Tensor, lens_b: Tensor) -> NBest:
    return [[best] for best in greedy(log_probs_btv, lens_b)]


GREEDY_RUNS: dict[str, Run] = {"ctc": _greedy}
"""The quickest search of each head, which takes no options: what validation uses."""

SEARCHES: dict[tuple[str, str], Callable[[SearchOptions, Model], tuple[Run, dict[str, Any]]]] = {
    ("ctc", "greedy"): _ctc_greedy,
    ("ctc", "beam"): _ctc_beam,
}
"""(head, name) -> from options and a model to the search and what decides its result."""
