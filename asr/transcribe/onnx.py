"""A model as one ONNX file: waveforms in, log-probabilities out, any batch and any length.

The filterbank goes along, as one strided convolution: mean removal, pre-emphasis, window and Fourier
transform of a frame are linear, so a matrix does all of them. Attention goes as the full-matrix
reference; the fused operators are PyTorch's alone.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr.config.kinds import FRONT_ENDS
from asr.errors import InputError
from asr.files import file_hash, make_folder, read_json_object, required, write_atomically
from asr.model.folder import WEIGHTS, Model, load_model
from asr.model.recogniser import Recogniser
from asr.run_folder import RunFolder
from asr.search.words import START_SHIFT_S
from asr.text.tokenizer import BLANK, UNKNOWN, UNKNOWN_TEXT

OPSET = 18
FORMAT = "sigmoid-asr onnx 1"
INPUTS, OUTPUTS = ("wave", "wave_lens"), ("log_probs", "frames")
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


# More than a frame with its subsampling needs.
_PADDING_SAMPLES = 3200


class _Exported(nn.Module):
    def __init__(self, net: Recogniser):
        super().__init__()
        self.features = net.features.in_convolutions()
        self.net = net

    def forward(self, wave_bn: Tensor, wave_lens_b: Tensor) -> tuple[Tensor, Tensor]:
        # so that there is a frame to compute, however short the sound; its length says it is none
        wave_bn = F.pad(wave_bn, (0, _PADDING_SAMPLES))
        feats_btf, feat_lens_b = self.features(wave_bn, wave_lens_b)
        feats_btf = self.net.norm(feats_btf, feat_lens_b)
        encoded_btd, lens_b = self.net.encoder(feats_btf, feat_lens_b)
        return self.net.head("ctc").frames(encoded_btd), lens_b


def export_onnx(folder: Path, out: Path) -> list[str]:
    """Write the CTC head of the model of ``folder`` as ``out``; return the heads that are left out.

    Its inputs are ``wave`` (b, n) float32 at the model's rate, zeros behind each utterance, and
    ``wave_lens`` (b) int64; its outputs ``log_probs`` (b, t, v) and ``frames`` (b); its properties
    those of ``metadata``.

    Raises:
        InputError: no such model, one without a CTC head, a package is missing, features that cannot
            be exported.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"export needs {', '.join(missing)}: pip install sigmoid-asr[onnx]")
    model = load_model(folder, "cpu", backend="reference")
    model.net.head("ctc")  # refuses a model without one
    kind = model.config.features.kind
    if not FRONT_ENDS[kind].exports:
        known = ", ".join(name for name, one in FRONT_ENDS.items() if one.exports)
        raise InputError(f"features.kind = {kind}: not exported; train with {known}")
    exported = _Exported(model.net).eval()
    rate = model.config.features.sample_rate
    wave_bn = 0.1 * torch.randn(3, 2 * rate, generator=torch.Generator().manual_seed(0))
    lens_b = torch.tensor([2 * rate, rate, rate + 77])
    batch, samples = torch.export.Dim("batch"), torch.export.Dim("samples")
    make_folder(out.parent)  # before the work of exporting
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's, about its own workings
        program = torch.onnx.export(
            exported,
            (wave_bn, lens_b),
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            dynamic_shapes=({0: batch, 1: samples}, {0: batch}),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # dynamo's exporter returns what it made
    proto = program.model_proto
    strip_origins(proto)
    for key, value in metadata(model, folder).items():
        proto.metadata_props.add(key=key, value=value)
    write_atomically(out, proto.SerializeToString())
    return [name for name in model.net.heads if name != "ctc"]


def strip_origins(proto: Any) -> None:
    """Clear what the exporter notes of where each part of a graph came from, at any depth.

    Those are stack traces, which hold the paths of the machine that exported.
    """
    from google.protobuf.message import Message

    for field, value in proto.ListFields():
        if field.name in ("doc_string", "metadata_props"):
            proto.ClearField(field.name)
        elif field.type == field.TYPE_MESSAGE:
            for part in [value] if isinstance(value, Message) else value:
                strip_origins(part)


def metadata(model: Model, folder: Path) -> dict[str, str]:
    """Return what turns log-probabilities into text and times, for a reader that has the file alone.

    The likeliest tokens' pieces in a row, repeats merged, are the text, with ``▁`` for a space; a
    word begins ``word_start_shift_s`` after the first frame of its first token.

    Args:
        folder: model or experiment folder; an experiment knows the commit it was trained at.

    Raises:
        InputError: the experiment's run.json is damaged.
    """
    features = model.config.features
    pieces = model.tokenizer.pieces
    pieces[BLANK], pieces[UNKNOWN] = "", UNKNOWN_TEXT
    found = {
        "format": FORMAT,
        "model": folder.resolve().name,
        "weights_sha256": file_hash(model.folder / WEIGHTS),
        "tokens": json.dumps(pieces, ensure_ascii=False),
        "blank": str(BLANK),
        "normaliser": model.config.tokenizer.normaliser,
        "sample_rate": str(features.sample_rate),
        "seconds_per_frame": str(
            model.net.features.hop * model.net.subsampling / features.sample_rate
        ),
        "word_start_shift_s": str(START_SHIFT_S),
    }
    record = RunFolder(folder).run
    if record.is_file():
        run = read_json_object(record)
        found["commit"] = required(run, "commit", str, str(record))
    return found
