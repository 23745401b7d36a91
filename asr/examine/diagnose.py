"""`asr diagnose`: what attention does in a trained model, on utterances of a manifest."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from asr.columns import in_columns
from asr.config import Config
from asr.data.examples import collate
from asr.decode.decode import open_utterances, spread
from asr.errors import InputError
from asr.examine.attention_maps import CrossMaps, cross_maps
from asr.files import finite
from asr.model.folder import Model
from asr.probe.diagnostics import NEAR_FRAMES, Diagnosis, Layer, diagnose

_HEADER = (
    *("layer", "head", "entropy", "of uniform", "row sum", "largest", "logit", "near"),
    *("output/residual", "gradient", "Jacobian"),
)


@dataclass(frozen=True)
class Report:
    """Diagnosis of a model.

    Attributes:
        what: weighting and position, of the encoder and of an attention decoder.
        near_frames: how many on both sides count as near.
        frame_s: seconds of one.
        across: what a decoder's cross-attention looks at in the first utterance; None: there is none.
    """

    model: str
    cuts: str
    what: str
    ids: list[str]
    near_frames: int
    frame_s: float
    diagnosis: Diagnosis
    across: CrossMaps | None = None


def diagnose_set(
    model: Model, cuts: Path, num_utterances: int = 4, near_frames: int = NEAR_FRAMES
) -> Report:
    """Diagnose utterances of a manifest, spread over its durations, in one batch.

    Raises:
        InputError: no such manifest, audio that cannot be read, or no utterance is long enough for a
            frame.
    """
    utterances = open_utterances(model, cuts)
    examples = [utterances[0, i] for i in spread(utterances.durations_s, num_utterances)]
    net, features = model.net, model.config.features
    heard = [example for example in examples if net.num_output_frames(len(example.wave_n)) > 0]
    if not heard:
        raise InputError(f"{cuts}: no utterance is long enough for a frame")
    batch = collate(heard, features.sample_rate).to(net.device)
    return Report(
        model=str(model.folder),
        cuts=str(cuts),
        what=_what(model.config),
        ids=list(batch.ids),
        near_frames=near_frames,
        frame_s=net.features.hop * net.subsampling / features.sample_rate,
        diagnosis=diagnose(net, batch, near_frames),
        across=cross_maps(model, heard[0].wave_n, heard[0].tokens_u.tolist()),
    )


def _what(config: Config) -> str:
    attention, decoder = config.attention, config.decoder
    what = f"{attention.weighting} + {attention.position}"
    if "attention" in config.model.heads:
        what += (
            f", decoder {decoder.weighting} + {decoder.position}, across {decoder.cross_weighting}"
        )
    return what


def format_report(report: Report) -> str:
    """A line per head; what is of a whole layer stands in the line of its first head."""
    diagnosis = report.diagnosis
    near_s = report.near_frames * report.frame_s
    return "\n".join(
        [
            f"{report.model}: {report.what}, {len(report.ids)} utterances of {report.cuts}, "
            f"loss {_figure(diagnosis.loss)} per token",
            "",
            in_columns([_HEADER, *_rows(diagnosis.layers)], left=()),
            "",
            f"near: share of the weight within {report.near_frames} frames ({near_s:.2f} s; in a "
            "decoder tokens) on both sides; gradient: of the loss per token (in a decoder of its own) "
            "with respect to attention's parameters, all parameters: "
            f"{_figure(diagnosis.gradient_norm)}",
            f"overflow: {diagnosis.overflow or 'none, every number is finite'}",
        ]
    )


def _rows(layers: list[Layer]) -> Iterator[tuple[str, ...]]:
    for layer in layers:
        of_layer = (
            _figure(layer.output_share),
            _figure(layer.gradient_norm),
            _figure(layer.jacobian_norm),
        )
        for place, head in enumerate(layer.heads, start=1):
            figures = (_figure(value) for value in asdict(head).values())
            first = place == 1
            yield (
                *(layer.name.removeprefix("layer") if first else "", str(place), *figures),
                *(of_layer if first else ("", "", "")),
            )


def _figure(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "-"


def report_as_json(report: Report) -> dict[str, Any]:
    """Every figure at full precision; what is not finite is null."""
    content: dict[str, Any] = finite(asdict(replace(report, across=None)))
    del content["across"]
    return content
