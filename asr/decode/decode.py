"""Decoding a set: from a manifest and a model to ``hypotheses.jsonl``."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from asr.data.batches import sorted_batches
from asr.data.dataset import Utterances
from asr.data.joining import joined_from
from asr.data.loader import iterate
from asr.data.speakers import UNKNOWN_SPEAKER
from asr.data.store.manifest import read_cuts
from asr.errors import InputError, warn
from asr.files import read_json_object, write_atomically
from asr.model.folder import Model
from asr.model.stream import FrameStream
from asr.nn.encoder import Chunk
from asr.processes import Processes
from asr.run_folder import WEIGHTS, DecodedFolder
from asr.search.factory import Search, build_search
from asr.search.hypothesis import Hypothesis
from asr.search.options import GREEDY, SearchOptions
from asr.text.coverage import warn_of_references
from asr.text.tokenizer import TextProcessor
from asr.weights_sums import weights_sum

# What makes hypotheses others than those that were there, the model apart.
_WAY = ("head", "search", "beam", "lm_sha256", "neural_sha256", "ctc_weight", "chunk")


def set_name(cuts: Path) -> str:
    """``test-clean`` for ``data/test-clean.cuts.jsonl.gz`` and for ``data/test-clean.jsonl``."""
    name = cuts.name
    for suffix in (".gz", ".jsonl", ".cuts"):
        name = name.removesuffix(suffix)
    return name or cuts.name


def decode_set(
    model: Model,
    cuts: Path,
    out: Path,
    *,
    options: SearchOptions = GREEDY,
    max_batch_s: float = 300.0,
    num_workers: int = 0,
    processes: Processes | None = None,
    chunk: Chunk | None = None,
    replace: bool = True,
) -> dict[str, Any]:
    """Decodes a manifest into ``out``: ``hypotheses.jsonl`` in the manifest's order and
    ``decode.json``, which is returned. Both appear whole, at the end.

    Args:
        processes: those that share the work, each of whole batches, so that their number changes no
            result; the first one writes. By default there is one.
        chunk: decode as a stream with these chunks would (``choose_chunk``), whose latency goes into
            ``decode.json``; None: whole utterances.
        replace: also where ``out`` holds another set.

    Raises:
        InputError: no such manifest, audio that cannot be read, a folder that cannot be written or
            holds another set that is not to be replaced.
    """
    utterances = open_utterances(model, cuts)
    fingerprint = utterances.cuts.fingerprint()
    before = {} if replace else _decoded_before(out)
    _refuse_another_set(out, before, cuts, fingerprint)
    model_sha256 = weights_sum(model.folder / WEIGHTS)  # before a training can replace them
    search = build_search(options, model)
    settings = search.settings | ({} if chunk is None else _stream_settings(model, chunk))
    config = model.config
    device = model.net.device
    processes = processes or Processes(0, 1, device)
    if processes.first:
        warn_of_references(utterances.texts, model.tokenizer, str(cuts))
    begun = time.perf_counter()
    mine = _decode(model, utterances, search, max_batch_s, num_workers, processes, chunk)
    results = {index: found for part in processes.gather(mine) for index, found in part.items()}
    wall_s = time.perf_counter() - begun
    audio_s = float(utterances.durations_s.sum())
    joined = joined_from(utterances.cuts)
    summary = {
        "set": set_name(cuts),
        "cuts": str(cuts.absolute()),
        "fingerprint": fingerprint,
        "model_sha256": model_sha256,
        **({} if joined is None else {"joined": joined}),
        **settings,
        "normaliser": config.tokenizer.normaliser,
        "num_utterances": len(utterances),
        "audio_s": round(audio_s, 2),
        "wall_s": round(wall_s, 3),
        "rtf": round(wall_s / audio_s, 5),
        "device": str(device),
        "num_processes": processes.size,
        "num_threads": torch.get_num_threads(),
        "attention_backend": model.net.attention_backend(),
    }
    if processes.first:
        if before and any(before.get(name) != settings.get(name) for name in _WAY):
            warn(f"{out}: replaces what {_way(before)} had found; --out names another folder")
        _warn_of_unended({utterances.ids[index]: found[0] for index, found in results.items()})
        lines = (
            _line(model, utterances, index, found, options.num_best > 1)
            for index, found in sorted(results.items())
        )
        content = "".join(json.dumps(line) + "\n" for line in lines)
        write_atomically(DecodedFolder(out).hypotheses, content)
        write_atomically(DecodedFolder(out).decoding, json.dumps(summary, indent=2) + "\n")
    return summary


def open_utterances(model: Model, cuts: Path) -> Utterances:
    """The utterances of a manifest as a model reads them, none left out.

    Raises:
        InputError: no such manifest.
    """
    processor = TextProcessor(model.normaliser, model.tokenizer)
    return Utterances(read_cuts(cuts), processor, model.config.features.sample_rate)


def _decoded_before(out: Path) -> dict[str, Any]:
    """Return how what is in a folder was decoded; empty where nothing is."""
    there = DecodedFolder(out).decoding
    return read_json_object(there) if there.is_file() else {}


def _way(settings: dict[str, Any]) -> str:
    """Name the search of a ``decode.json``."""
    named = {"search": "", "head": "head ", "beam": "beam ", "lm": "lm ", "chunk": "chunk "}
    said = ((words, settings.get(name)) for name, words in named.items())
    return "search " + ", ".join(f"{words}{value}" for words, value in said if value is not None)


def _refuse_another_set(out: Path, before: dict[str, Any], cuts: Path, fingerprint: str) -> None:
    """InputError if ``out`` was decoded from other utterances; older files name the manifest alone."""
    if not before:
        return
    if "fingerprint" in before:
        same = before["fingerprint"] == fingerprint
    else:
        same = before.get("cuts") in (None, str(cuts), str(cuts.absolute()))
    if not same:
        raise InputError(
            f"{out}: holds another set of that name, decoded from {before.get('cuts')}; name another "
            "folder with --out, or replace it with --overwrite"
        )


def spread(durations_s: np.ndarray, count: int) -> list[int]:
    """Return at most so many indices, rising, of utterances from the shortest to the longest."""
    rising = np.argsort(durations_s, kind="stable")
    places = np.linspace(0, len(rising) - 1, min(count, len(rising))).round().astype(int)
    return sorted(int(index) for index in rising[places])


def frames_of(
    model: Model,
    utterances: Utterances,
    max_batch_s: float,
    num_workers: int = 0,
    processes: Processes | None = None,
    chunk: Chunk | None = None,
    head: str | None = None,
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """(indices, frames_btx, lens_b) of batches of similar length, all utterances in the end.

    Args:
        processes: those among which whole batches are shared; None: all batches are this one's.
        chunk: what frames may see of each other; None: everything.
        head: whose frames; None: the first one's.

    Raises:
        InputError: audio that cannot be read.
    """
    device = model.net.device
    plan = sorted_batches(utterances.durations_s, max_batch_s)
    if processes is not None:
        plan = plan[processes.rank :: processes.size]
    bar = tqdm(total=sum(map(len, plan)), desc="decoding", unit="utt", leave=False, disable=None)
    with bar, torch.inference_mode():
        for indices, batch in zip(plan, iterate(utterances, plan, num_workers), strict=True):
            waves_bn, lens_b = batch.wave_bn.to(device), batch.wave_lens_b.to(device)
            outputs = model.net(waves_bn, lens_b, chunk=chunk, head=head)
            yield [int(index) for index in indices], *outputs
            bar.update(len(indices))


def _decode(
    model: Model,
    utterances: Utterances,
    search: Search,
    max_batch_s: float,
    num_workers: int,
    processes: Processes,
    chunk: Chunk | None,
) -> dict[int, list[Hypothesis]]:
    return {
        index: hypotheses
        for indices, *outputs in frames_of(
            model, utterances, max_batch_s, num_workers, processes, chunk, search.head
        )
        for index, hypotheses in zip(indices, search(*outputs), strict=True)
    }


def _stream_settings(model: Model, chunk: Chunk) -> dict[str, Any]:
    """Return the chunks and a stream's largest latency with them, for ``decode.json``."""
    stream = FrameStream(model.net, model.config, chunk)
    size, left_chunks = chunk
    latency_s = round(stream.chunk_s + stream.lookahead_s, 4)
    return {"chunk": size, "left_chunks": left_chunks, "latency_s": latency_s}


def _warn_of_unended(best: dict[str, Hypothesis]) -> None:
    """Warn of transcripts that the decoder did not end."""
    unended: dict[str, list[str]] = {}
    for name, hypothesis in sorted(best.items()):
        if hypothesis.stopped:
            unended.setdefault(hypothesis.stopped, []).append(name)
    for why, names in unended.items():
        warn(f"{len(names)} of {len(best)} transcripts were ended by the search: {why}: {names[0]}")


def _line(
    model: Model, utterances: Utterances, index: int, found: list[Hypothesis], several: bool
) -> dict[str, Any]:
    """Return an utterance's line of ``hypotheses.jsonl``; with ``several``, with all that was found."""
    nbest = [_described(model, one, "text") for one in found] if several else []
    return {
        "id": utterances.ids[index],
        "speaker": utterances.speakers[index] or UNKNOWN_SPEAKER,
        "duration_s": round(float(utterances.durations_s[index]), 4),
        "reference": utterances.texts[index],
        **_described(model, found[0], "hypothesis"),
        **({"nbest": nbest} if several else {}),
    }


def _described(model: Model, hypothesis: Hypothesis, key: str) -> dict[str, Any]:
    """A hypothesis for JSON, with the parts of its score where it has any."""
    parts = {} if hypothesis.parts is None else dataclasses.asdict(hypothesis.parts)
    return {
        key: model.tokenizer.decode(hypothesis.tokens),
        "score": round(hypothesis.score, 4),
        **{name: round(value, 4) for name, value in parts.items() if value is not None},
    }
