"""Does a trained model keep what is promised of every model here: the result of an utterance depends on
its samples alone, not on padding, batch, order, on how a stream is cut, or on who computes attention.

Everything is computed twice. In float32, as decoding does, differently shaped layers round differently,
so a small difference says little; in float64 rounding is gone and any leak stands out.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr.config.rules import sees_past_only
from asr.decode.decode import open_utterances, spread
from asr.errors import InputError
from asr.examine.certify_decoder import decoder_trials
from asr.examine.trials import Run, Trial, backend_trials
from asr.files import file_hash
from asr.model.folder import WEIGHTS, Model
from asr.model.recogniser import Recogniser
from asr.model.stream import PAST_ONLY_SIZE, FrameStream
from asr.nn.attention import attentions
from asr.nn.encoder import Chunk
from asr.search.factory import GREEDY_RUNS

# Largest difference within a frame that counts as rounding; of CTC's, natural logarithms.
MOST = {"float32": 1e-3, "float64": 1e-8}
HOLDS, FAILS, NOT_APPLICABLE = "holds", "FAILS", "not applicable"

# Samples that a stream gets at once: no multiple of a hop, so windows are cut everywhere.
_FED_SAMPLES = 1237


@dataclass(frozen=True)
class Line:
    """Result of a trial.

    Attributes:
        largest: by precision, the largest difference within a frame; not finite where numbers of
            frames differ or something is not a number.
        texts_equal: transcripts (see ``Trial.read``) that are the same in every precision; of
            ``num_texts``.
    """

    property: str
    what: str
    verdict: str
    reason: str = ""
    largest: dict[str, float] = field(default_factory=dict)
    texts_equal: int = 0
    num_texts: int = 0


@dataclass(frozen=True)
class Certificate:
    """Results of all trials of a model.

    Attributes:
        weights_sha256: of the model's weights.
        ids, durations_s: of the utterances.
    """

    model: str
    weights_sha256: str
    cuts: str
    device: str
    attention_backend: str
    ids: list[str]
    durations_s: list[float]
    lines: list[Line]

    @property
    def certified(self) -> bool:
        """Tell whether everything that is promised holds."""
        return all(line.verdict != FAILS for line in self.lines)


@torch.inference_mode()
def certify(model: Model, cuts: Path, num_utterances: int = 8) -> Certificate:
    """Tries a model on utterances of a manifest, spread over its durations.

    Raises:
        InputError: no such manifest, audio that cannot be read, or fewer than two utterances that are
            long enough for a frame.
    """
    device = model.net.device
    utterances = open_utterances(model, cuts)
    chosen = spread(utterances.durations_s, num_utterances)
    examples = [utterances[0, int(index)] for index in chosen]
    waves = [torch.from_numpy(example.wave_n).to(device) for example in examples]
    num_frames = [model.net.num_output_frames(len(wave_n)) for wave_n in waves]
    if sum(count > 0 for count in num_frames) < 2:
        raise InputError(f"{cuts}: certify needs at least two utterances with a frame each")
    nets = {"float32": model.net, "float64": copy.deepcopy(model.net).double()}
    # TF32 on a GPU rounds so coarsely that a leak could hide in it
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        trials = [*_trials(model, waves)]
        if "attention" in model.net.heads:
            # an utterance without a frame is never searched
            long = [i for i, count in enumerate(num_frames) if count > 0]
            references = [examples[i].tokens_u.tolist() for i in long]

            def of_decoder(net: Recogniser) -> list[Tensor]:
                return [frames(net, [waves[i]], head="attention")[0] for i in long]

            trials += decoder_trials(model.net, of_decoder, references)
        lines = [_judge(trial, nets, model) for trial in trials]
    return Certificate(
        model=str(model.folder),
        weights_sha256=file_hash(model.folder / WEIGHTS),
        cuts=str(cuts),
        device=str(device),
        attention_backend=model.net.attention_backend(),
        ids=[utterances.ids[int(index)] for index in chosen],
        durations_s=[round(float(utterances.durations_s[index]), 3) for index in chosen],
        lines=lines,
    )


def _trials(model: Model, waves: Sequence[Tensor]) -> Iterator[Trial]:
    rate, longest = model.config.features.sample_rate, max(len(wave_n) for wave_n in waves)
    everyone = range(len(waves))

    def padded(most: int, extra: int, value: float = 0.0) -> Run:
        return lambda net: [
            frames(net, [wave_n], max(most, len(wave_n) + extra), value)[0] for wave_n in waves
        ]

    def batched(*batches: Sequence[int]) -> Run:
        """Every utterance, computed in these batches."""

        def run(net: Recogniser) -> list[Tensor]:
            found: dict[int, Tensor] = {}
            for batch in batches:
                found |= zip(batch, frames(net, [waves[i] for i in batch]), strict=True)
            return [found[i] for i in everyone]

        return run

    alone, together, half_s = cache(padded(0, 0)), cache(batched(everyone)), rate // 2
    yield Trial("padding", "half a second of silence after each", padded(0, half_s), alone)
    yield Trial("padding", "each silent up to the longest one", padded(longest, 0), alone)
    yield Trial("padding", "half a second of NaN after each", padded(0, half_s, math.nan), alone)
    by_length = sorted(everyone, key=lambda i: len(waves[i]))
    pairs = [sorted({by_length[i], by_length[~i]}) for i in range((len(waves) + 1) // 2)]
    yield Trial("batch", "all in one against each alone", together, alone)
    yield Trial("batch", "pairs of long and short against each alone", batched(*pairs), alone)
    yield Trial("order", "one batch, reversed", batched(everyone[::-1]), together)
    yield Trial("order", "one batch, by length", batched(by_length), together)
    yield from _chunk_trials(model, waves)
    yield from backend_trials("", lambda net: attentions(net.encoder), model.net, batched(everyone))


def frames(
    net: Recogniser,
    waves: Sequence[Tensor],
    num_samples: int = 0,
    padding: float = 0.0,
    chunk: Chunk | None = None,
    head: str | None = None,
) -> list[Tensor]:
    """frames_tx of each utterance of a batch, padded to ``num_samples`` at least."""
    longest = max(num_samples, *(len(wave_n) for wave_n in waves))
    wave_bn = torch.full((len(waves), longest), padding, dtype=net.dtype, device=net.device)
    for row_n, wave_n in zip(wave_bn, waves, strict=True):
        row_n[: len(wave_n)] = wave_n
    lens_b = torch.tensor([len(wave_n) for wave_n in waves], device=wave_bn.device)
    frames_btx, lens_b = net(wave_bn, lens_b, chunk=chunk, head=head)
    return [row_tx[:length] for row_tx, length in zip(frames_btx, lens_b.tolist(), strict=True)]


def _chunk_trials(model: Model, waves: Sequence[Tensor]) -> Iterator[Trial]:
    encoder = model.config.encoder
    chunks: list[Chunk] = [
        (size, None if left < 0 else left)
        for size in encoder.chunk_sizes
        if size
        for left in encoder.left_chunks
    ]
    # who sees the past only promises more: what the whole file gives without chunks
    past_only = not chunks and sees_past_only(model.config)
    if past_only:
        chunks = [(PAST_ONLY_SIZE, None)]
    if not chunks:
        reason = f"trained without chunks (encoder.chunk_sizes = {encoder.chunk_sizes})"
        yield Trial("chunking", "a stream against the whole file", reason=reason)
    for chunk in chunks:
        size, left = chunk
        before = "all" if left is None else left
        what = f"a stream against the whole file, chunks of {size} frames, {before} before"
        try:
            FrameStream(model.net, model.config, chunk)
        except InputError as error:
            yield Trial("chunking", what, reason=str(error))
            continue

        def streamed(net: Recogniser, chunk: Chunk = chunk) -> list[Tensor]:
            return [_stream(net, model, wave_n, chunk) for wave_n in waves]

        def whole(
            net: Recogniser, chunk: Chunk | None = None if past_only else chunk
        ) -> list[Tensor]:
            return [frames(net, [wave_n], chunk=chunk)[0] for wave_n in waves]

        yield Trial("chunking", what, streamed, whole)


def _stream(net: Recogniser, model: Model, wave_n: Tensor, chunk: Chunk) -> Tensor:
    stream = FrameStream(net, model.config, chunk)
    return torch.cat([*(stream.feed(part) for part in wave_n.split(_FED_SAMPLES)), stream.finish()])


def _judge(trial: Trial, nets: dict[str, Recogniser], model: Model) -> Line:
    if trial.run is None or trial.expected is None:
        return Line(trial.property, trial.what, NOT_APPLICABLE, trial.reason)
    read = trial.read or _transcripts
    largest: dict[str, float] = {}
    equal: list[bool] = []
    for name in trial.dtypes:
        got, expected = trial.run(nets[name]), trial.expected(nets[name])
        largest[name] = largest_difference(got, expected)
        left, right = (read(model.net, found) for found in (got, expected))
        same = [a == b for a, b in zip(left, right, strict=True)]
        equal = [a and b for a, b in zip(equal or same, same, strict=True)]
    # written so that a NaN, which compares as false, fails
    within = all(value <= MOST[name] for name, value in largest.items())
    verdict = HOLDS if within and all(equal) else FAILS
    return Line(trial.property, trial.what, verdict, "", largest, sum(equal), len(equal))


def largest_difference(got: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the largest difference over all utterances.

    Infinite where numbers of frames differ, NaN where anything is NaN.
    """
    if any(a.shape != b.shape for a, b in zip(got, expected, strict=True)):
        return math.inf
    differences = [(a - b).abs().flatten() for a, b in zip(got, expected, strict=True)]
    return float(torch.cat(differences).max())


def _transcripts(net: Recogniser, frames_btx: Sequence[Tensor]) -> list[object]:
    """Return the tokens that the greedy search finds; None in frames that are not finite."""
    found: list[object] = [None] * len(frames_btx)
    rows = [i for i, row_tx in enumerate(frames_btx) if bool(row_tx.isfinite().all())]
    if rows:
        lens_b = torch.tensor([len(frames_btx[i]) for i in rows])
        several = pad_sequence([frames_btx[i].to(net.dtype).cpu() for i in rows], batch_first=True)
        for i, (best,) in zip(rows, GREEDY_RUNS[net.first_head](net)(several, lens_b), strict=True):
            found[i] = best.tokens
    return found
