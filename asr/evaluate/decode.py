"""Decoding a set: from a manifest and a model to ``hypotheses.jsonl``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from asr.config import DataConfig
from asr.data.batches import sorted_batches
from asr.data.dataset import Utterances, iterate
from asr.data.manifest import MANIFEST_SUFFIX, read_cuts
from asr.errors import InputError
from asr.files import write_atomically
from asr.model_folder import Model
from asr.search.greedy import greedy
from asr.search.hypothesis import Hypothesis
from asr.search.prefix_beam import prefix_beam
from asr.text.normalise import get_normaliser

Search = Callable[[Tensor, Tensor], list[Hypothesis]]

SEARCHES = ("greedy", "beam")


def choose_search(name: str, beam: int) -> Search:
    """Greedy or prefix beam search: (log-probabilities, lengths) -> one hypothesis per utterance.

    Raises:
        InputError: no such search, or a beam below 1.
    """
    if name == "greedy":
        return greedy
    if name != "beam":
        raise InputError(f"search {name!r}: choose one of {', '.join(SEARCHES)}")
    if beam < 1:
        raise InputError(f"beam = {beam}: must be at least 1")
    return lambda log_probs_btv, lens_b: [
        best[0] for best in prefix_beam(log_probs_btv, lens_b, beam=beam)
    ]


def set_name(cuts: Path) -> str:
    """``test-clean`` for ``data/test-clean.cuts.jsonl.gz``."""
    return cuts.name.removesuffix(MANIFEST_SUFFIX) or cuts.name


def decode_set(
    model: Model,
    cuts: Path,
    out: Path,
    *,
    search: str = "greedy",
    beam: int = 8,
    max_batch_s: float = 300.0,
    num_workers: int = 0,
) -> dict[str, Any]:
    """Decodes a manifest into ``out``: ``hypotheses.jsonl`` in the manifest's order and
    ``decode.json``, which is returned. Both appear whole, at the end.

    Raises:
        InputError: no such manifest, audio that cannot be read, a folder that cannot be written.
    """
    run_search = choose_search(search, beam)
    config = model.config
    utterances = Utterances(
        read_cuts(cuts),
        tokenizer=model.tokenizer,
        normaliser=get_normaliser(config.tokenizer.normaliser),
        sample_rate=config.features.sample_rate,
        data=DataConfig(),
        seed=0,
        train=False,
    )
    begun = time.perf_counter()
    results = _decode(model, utterances, run_search, max_batch_s, num_workers)
    wall_s = time.perf_counter() - begun
    audio_s = float(utterances.durations_s.sum())
    summary = {
        "set": set_name(cuts),
        "cuts": str(cuts),
        "search": search,
        "beam": beam if search == "beam" else None,
        "normaliser": config.tokenizer.normaliser,
        "num_utterances": len(utterances),
        "audio_s": round(audio_s, 2),
        "wall_s": round(wall_s, 3),
        "rtf": round(wall_s / audio_s, 5),
        "device": str(next(model.net.parameters()).device),
        "num_threads": torch.get_num_threads(),
        "attention_backend": model.net.attention_backend(),
    }
    lines = [
        {
            "id": utterances.ids[index],
            "speaker": utterances.speakers[index],
            "duration_s": round(float(utterances.durations_s[index]), 4),
            "reference": utterances.texts[index],
            "hypothesis": text,
            "score": round(score, 4),
        }
        for index, (text, score) in sorted(results.items())
    ]
    hypotheses = "".join(json.dumps(line) + "\n" for line in lines)
    write_atomically(out / "hypotheses.jsonl", hypotheses)
    write_atomically(out / "decode.json", json.dumps(summary, indent=2) + "\n")
    return summary


@torch.inference_mode()
def _decode(
    model: Model, utterances: Utterances, search: Search, max_batch_s: float, num_workers: int
) -> dict[int, tuple[str, float]]:
    device = next(model.net.parameters()).device
    plan = sorted_batches(utterances.durations_s, max_batch_s)
    results = {}
    bar = tqdm(total=len(utterances), desc="decoding", unit="utt", leave=False, disable=None)
    with bar:
        for indices, batch in zip(plan, iterate(utterances, plan, num_workers), strict=True):
            log_probs_btv, lens_b = model.net(
                batch.wave_bn.to(device), batch.wave_lens_b.to(device)
            )
            for index, best in zip(indices, search(log_probs_btv, lens_b), strict=True):
                results[int(index)] = (model.tokenizer.decode(best.tokens), best.score)
            bar.update(len(indices))
    return results
