"""Searches made from options: the one place that knows every search by name."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from asr.errors import InputError
from asr.files import file_hash
from asr.heads.attention_decoder import AttentionDecoder
from asr.heads.base import Head
from asr.lm.coverage import check_vocabulary
from asr.lm.load import load_word_model
from asr.lm.neural import WEIGHTS as NEURAL_WEIGHTS
from asr.lm.neural import load_neural
from asr.model.folder import Model
from asr.model.recogniser import Recogniser
from asr.search.attention import decoder_run, rescored_run
from asr.search.best_alignment import placed
from asr.search.cross_alignment import cross_spans
from asr.search.greedy import greedy
from asr.search.hotwords import Hotwords
from asr.search.hypothesis import Hypothesis, NBest, Run, rows_with_nan
from asr.search.options import CTC_WEIGHTS, WEIGHT_NAMES, SearchOptions
from asr.search.prefix_beam import prefix_beam
from asr.search.rescore import rescore
from asr.search.text_score import TextScorer
from asr.search.units import Units, units_of
from asr.search.weights import BEAM, DEFAULT_WEIGHTS, Tuned, Weights, read_tuned, tuned_name
from asr.search.words import Word, one_per_text, words_at, words_of
from asr.text.normalise import Normaliser

# Tokens this far below a frame's likeliest extend nothing once text is scored, too: measured on
# the mini corpus, 7 finds what 10 finds in half the time.
TOKEN_MARGIN = 8.0

DEFAULT_NEURAL_WEIGHT = 0.5


@dataclass(frozen=True)
class Search:
    """Search for hypotheses in a head's frames.

    Attributes:
        settings: everything that decides the result, for ``decode.json``.
        head: whose frames are searched.
        net, folder: of the model whose frames are searched.
    """

    run: Run
    settings: dict[str, Any]
    head: str
    net: Recogniser
    folder: Path

    @property
    def num_channels(self) -> int:
        """Channels of the frames that are searched."""
        return self.net.head(self.head).num_channels

    @property
    def aligner(self) -> str | None:
        """The name of the head that places tokens on frames; None: the model has none."""
        found = (one for one in (self.head, *self.net.heads) if not self.net.head(one).reads_whole)
        return next(found, None)

    @torch.no_grad()
    def _aligned(self, aligner: str, frames_btx: Tensor) -> Tensor:
        """The aligner's frames, made of those that are searched."""
        if aligner == self.head:
            return frames_btx
        return self.net.head(aligner).frames(frames_btx.to(self.net.device)).float().cpu()

    def labels(self, frames_tx: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return ``Head.labels`` of the aligner for frames that are searched; -1 without one."""
        if self.aligner is None:
            return np.full(len(frames_tx), -1)
        found = self._aligned(self.aligner, torch.from_numpy(frames_tx)[None])[0].numpy()
        return self.net.head(self.aligner).labels(found)

    def words(
        self, frames_tx: Tensor, found: Hypothesis, units: Units, frame_s: float
    ) -> list[Word]:
        """Return the words of a hypothesis in the frames that were searched, by the aligner, or by the
        decoder's cross-attention."""
        if self.aligner is not None:
            aligned_tx = self._aligned(self.aligner, frames_tx[None])[0].numpy()
            return words_of(found, aligned_tx, units, frame_s)
        spans = cross_spans(_decoder(self.net), frames_tx, found.tokens)
        return words_at(found.tokens, spans, len(frames_tx) * frame_s, units, frame_s)

    def quick(self) -> Search:
        """Return the aligner's quickest search in the same frames.

        Raises:
            InputError: the model has none.
        """
        aligner = self.aligner
        if aligner is None:
            raise InputError(
                f"{self.folder}: model.heads = {[*self.net.heads]}: a stream's partial results need a "
                "head that places words in time; train with model.heads=[ctc,attention]"
            )
        run = GREEDY_RUNS[aligner](self.net)

        def quick(frames_btx: Tensor, lens_b: Tensor) -> NBest:
            return run(self._aligned(aligner, frames_btx), lens_b)

        return dataclasses.replace(self, run=quick, settings={"search": "greedy", "beam": None})

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
    heads, asked = [*model.net.heads], head or options.head
    if asked is not None:
        model.net.head(asked)  # must exist
    having = [one for one in heads if (one, options.search) in SEARCHES]
    found = asked or (having[0] if having else heads[0])
    if (found, options.search) not in SEARCHES:
        known = ", ".join(name for of, name in SEARCHES if of == found)
        others = [of for of, name in SEARCHES if name == options.search]
        without = f"; {options.search} is of {others[0]}, model.heads = {heads}"
        raise InputError(
            f"search = {options.search!r}: the {found} head has {known}{without if others else ''}"
        )
    run, settings = SEARCHES[found, options.search](options, model)
    if found != model.net.first_head:
        settings = {"head": found} | settings
    return Search(run, {"search": options.search} | settings, found, model.net, model.folder)


def _ctc_greedy(options: SearchOptions, model: Model) -> tuple[Run, dict[str, Any]]:
    return GREEDY_RUNS["ctc"](model.net), {"beam": None}


def _ctc_beam(options: SearchOptions, model: Model) -> tuple[Run, dict[str, Any]]:
    run, settings = _unplaced_beam(options, model, _choose(options, model, BEAM))
    return lambda frames_btx, lens_b: placed(run(frames_btx, lens_b), frames_btx, lens_b), settings


def _unplaced_beam(
    options: SearchOptions, model: Model, chosen: _Chosen
) -> tuple[Run, dict[str, Any]]:
    """CTC's beam search, whose hypotheses have no frames."""
    scorer, settings = _text(options, model, chosen)
    units = units_of(model.tokenizer)
    margin = math.inf if scorer is None else TOKEN_MARGIN
    if options.neural is None:
        return _beam(options, units, scorer, margin), settings
    neural = load_neural(options.neural, model.tokenizer)
    sha256 = file_hash(options.neural / NEURAL_WEIGHTS)
    second = _second_weights(options, chosen, sha256)
    settings |= {"neural": str(options.neural), "neural_sha256": sha256}
    weights = dataclasses.asdict(second)
    settings["rescoring"] = {name: weights[name] for name in (*WEIGHT_NAMES, "neural_weight")}
    every = dataclasses.replace(options, num_best=options.width)
    wide = _beam(every, units, scorer, margin)

    def rescored(frames_btx: Tensor, lens_b: Tensor) -> NBest:
        found = wide(frames_btx, lens_b)
        return [rescore(several, neural, second)[: options.num_best] for several in found]

    return rescored, settings


def _attention_greedy(options: SearchOptions, model: Model) -> tuple[Run, dict[str, Any]]:
    return GREEDY_RUNS["attention"](model.net), {"beam": None}


def _attention_beam(options: SearchOptions, model: Model) -> tuple[Run, dict[str, Any]]:
    return _by_tokens(options, model, _choose(options, model, tuned_name("attention", "beam")))


def _joint(options: SearchOptions, model: Model) -> tuple[Run, dict[str, Any]]:
    _beside_ctc(options, model)
    return _by_tokens(options, model, _choose(options, model, options.search))


def _by_tokens(options: SearchOptions, model: Model, chosen: _Chosen) -> tuple[Run, dict[str, Any]]:
    if options.neural is not None:
        raise InputError("--neural ranks what CTC's beam search has found: it needs --search beam")
    scorer, settings = _text(options, model, chosen)
    units, num_found = units_of(model.tokenizer), _num_found(options)
    head, share = _decoder(model.net), chosen.weights.ctc_weight or 0.0
    run = decoder_run(head, _ctc(model.net), share, options.width, num_found, scorer)
    return _one_per_text(run, units, options.num_best), settings


def _rescore(options: SearchOptions, model: Model) -> tuple[Run, dict[str, Any]]:
    ctc, chosen = _beside_ctc(options, model), _choose(options, model, options.search)
    every = dataclasses.replace(options, num_best=options.width)
    first, settings = _unplaced_beam(every, model, chosen)
    assert chosen.weights.ctc_weight is not None
    head, share = _decoder(model.net), chosen.weights.ctc_weight
    return rescored_run(head, ctc, share, first, options.num_best), settings


def _beside_ctc(options: SearchOptions, model: Model) -> Head:
    """Return CTC's head, or say that this search needs it."""
    if "ctc" in model.net.heads:
        return model.net.head("ctc")
    raise InputError(
        f"search = {options.search!r}: this model has no ctc head: model.heads = {[*model.net.heads]}; "
        "its searches are greedy and beam"
    )


@dataclass(frozen=True)
class _Chosen:
    """Weights of a search, where they are from, and what they were chosen by."""

    weights: Weights
    origin: str
    tuned: Tuned | None
    lm_sha256: str | None


def _choose(options: SearchOptions, model: Model, name: str) -> _Chosen:
    """Choose the weights of a search; name: under which they are tuned."""
    lm_sha256 = None if options.lm is None else file_hash(options.lm)
    has_weights = options.lm is not None or options.search in CTC_WEIGHTS
    tuned = read_tuned(model.folder, name) if has_weights else None
    return _Chosen(*choose_weights(options, tuned, lm_sha256), tuned, lm_sha256)


def _text(
    options: SearchOptions, model: Model, chosen: _Chosen
) -> tuple[TextScorer | None, dict[str, Any]]:
    """Return what prefixes are worth as text, None where nothing is said of it; and the settings."""
    tokenizer, normaliser = model.tokenizer, model.normaliser
    units = units_of(tokenizer)
    settings: dict[str, Any] = {"beam": options.width}
    if chosen.weights.ctc_weight is not None:
        settings |= {"weights": chosen.origin, "ctc_weight": chosen.weights.ctc_weight}
    if options.lm is None and not options.hotwords:
        return None, settings
    weights, words = Weights(0.0, 0.0, 0.0), None
    if options.lm is not None:
        words = load_word_model(options.lm)
        check_vocabulary(words, options.lm, tokenizer, normaliser)
        weights = chosen.weights
        settings |= {"lm": str(options.lm), "lm_sha256": chosen.lm_sha256}
        settings |= {"weights": chosen.origin}
        settings |= {name: getattr(weights, name) for name in WEIGHT_NAMES}
    hotwords = None
    if options.hotwords:
        bonus = options.bonus_per_word
        hotwords = hotwords_of(options.hotwords, bonus, units, normaliser)
        settings |= {"hotwords": list(options.hotwords), "hotword_bonus": bonus}
    scorer = TextScorer(
        units,
        words,
        weights.lm_weight,
        weights.word_bonus,
        weights.unknown_penalty,
        hotwords,
    )
    return scorer, settings


def _second_weights(options: SearchOptions, chosen: _Chosen, neural_sha256: str) -> Weights:
    """Return the weights of the rescoring: tuned for both models, else the search's with a neural
    weight beside them."""
    weights = dataclasses.replace(
        chosen.weights, neural_weight=DEFAULT_NEURAL_WEIGHT, ctc_weight=None
    )
    tuned, hashes = chosen.tuned, (chosen.lm_sha256, neural_sha256)
    if tuned is not None and tuned.second and (tuned.lm_sha256, tuned.neural_sha256) == hashes:
        weights = tuned.second
    if options.neural_weight is None:
        return weights
    return dataclasses.replace(weights, neural_weight=options.neural_weight)


def choose_weights(
    options: SearchOptions, tuned: Tuned | None, lm_sha256: str | None
) -> tuple[Weights, str]:
    """(the weights that count, where they are from: given, tuned or default).

    Weights tuned for another language model are not used: they are of another scale.
    """
    given = {name: getattr(options, name) for name in (*WEIGHT_NAMES, "ctc_weight")}
    given = {name: value for name, value in given.items() if value is not None}
    if tuned is not None and tuned.lm_sha256 == lm_sha256:
        base, origin = tuned.first, "tuned"
    else:
        base = dataclasses.replace(DEFAULT_WEIGHTS, ctc_weight=CTC_WEIGHTS.get(options.search))
        origin = "default"
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


def _num_found(options: SearchOptions) -> int:
    # several spellings of one text count as one of the num_best, so all are asked for
    return 1 if options.num_best == 1 else options.width


def _beam(
    options: SearchOptions, units: Units, scorer: TextScorer | None, token_margin: float
) -> Run:
    def run(log_probs_btv: Tensor, lens_b: Tensor) -> NBest:
        return prefix_beam(
            log_probs_btv,
            lens_b,
            options.width,
            num_best=_num_found(options),
            token_margin=token_margin,
            scorer=scorer,
            has_frames=False,
        )

    return _one_per_text(run, units, options.num_best)


def _one_per_text(run: Run, units: Units, num_best: int) -> Run:
    return lambda frames_btx, lens_b: [
        one_per_text(several, units)[:num_best] for several in run(frames_btx, lens_b)
    ]


def _greedy(log_probs_btv: Tensor, lens_b: Tensor) -> NBest:
    return [[best] for best in greedy(log_probs_btv, lens_b)]


def _decoder(net: Recogniser) -> AttentionDecoder:
    return cast(AttentionDecoder, net.head("attention"))


def _ctc(net: Recogniser) -> Head | None:
    return net.head("ctc") if "ctc" in net.heads else None


GREEDY_RUNS: dict[str, Callable[[Recogniser], Run]] = {
    "ctc": lambda net: _greedy,
    "attention": lambda net: decoder_run(_decoder(net), _ctc(net), 0.0, beam=1),
}
"""The quickest search of each head, which takes no options: what validation uses."""

SEARCHES: dict[tuple[str, str], Callable[[SearchOptions, Model], tuple[Run, dict[str, Any]]]] = {
    ("ctc", "greedy"): _ctc_greedy,
    ("ctc", "beam"): _ctc_beam,
    ("attention", "greedy"): _attention_greedy,
    ("attention", "beam"): _attention_beam,
    ("attention", "rescore"): _rescore,
    ("attention", "joint"): _joint,
}
"""(head, name) -> from options and a model to the search and what decides its result."""
