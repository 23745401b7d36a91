"""Loss and greedy WER and CER on the dev part."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch

from asr.data.batches import sorted_batches
from asr.data.dataset import Utterances
from asr.data.examples import Batch
from asr.data.store.manifest import LeftOut
from asr.errors import InputError
from asr.model.recogniser import Recogniser
from asr.processes import Processes
from asr.search.factory import GREEDY_RUNS
from asr.search.hypothesis import rows_with_nan
from asr.text.tokenizer import Tokenizer
from asr.train.step import silence
from asr.wer import METRICS, edit_distance


def share_of_dev(dev: Utterances, max_batch_s: float, processes: Processes) -> list[np.ndarray]:
    """This process' batches of the dev part; all get equally many, so some may be empty."""
    plan = sorted_batches(dev.durations_s, max_batch_s)
    while len(plan) % processes.size:
        plan.append(np.array([], dtype=np.int64))
    return plan[processes.rank :: processes.size]


class Validation(NamedTuple):
    """Result of a validation, over all processes.

    Attributes:
        loss: per token, None where no utterance has a finite one.
        wer, cer: word and character error rates as fractions.
        left_out: utterances that could not be read; loss and error rates are over the others.
    """

    loss: float | None
    wer: float
    cer: float
    left_out: tuple[LeftOut, ...]


@torch.no_grad()
def validate(
    net: Recogniser,
    batches: Iterable[Batch],
    tokenizer: Tokenizer,
    processes: Processes,
) -> Validation:
    """Decode greedily and count errors.

    An utterance whose output is not finite has no words; the loss is over the others.
    Without a reference word the error rates count as infinite.

    Raises:
        InputError: no utterance could be read.
    """
    net.eval()
    device = processes.device
    search = GREEDY_RUNS[net.first_head](net)
    loss, num_tokens, num_read = 0.0, 0, 0
    left_out: list[LeftOut] = []
    counts = dict.fromkeys(METRICS, (0, 0))  # errors, reference units
    for given in batches:
        left_out += given.left_out
        num_read += len(given)
        batch = given if len(given) else silence(given)
        frames_btx, lens_b = net(batch.wave_bn.to(device), batch.wave_lens_b.to(device))
        token_lens_b = batch.token_lens_b.to(device)
        tokens_bu = batch.tokens_bu.to(device)
        loss_b = net.head().loss_of_frames(frames_btx, lens_b, tokens_bu, token_lens_b)
        if not len(given):
            continue
        # a transcript that does not fit its frames has an infinite loss; its errors count all the same
        loss += float(loss_b[loss_b.isfinite()].sum())
        num_tokens += int(token_lens_b[loss_b.isfinite()].sum())
        lens_b = lens_b.where(~rows_with_nan(frames_btx, lens_b), 0)
        for text, best in zip(batch.texts, search(frames_btx, lens_b), strict=True):
            heard = tokenizer.decode(best[0].tokens)
            for name, metric in METRICS.items():
                reference = metric.split(text)
                errors, length = counts[name]
                errors += edit_distance(reference, metric.split(heard))
                counts[name] = (errors, length + len(reference))
    everyones = processes.gather((loss, num_tokens, counts, left_out, num_read))
    losses, tokens, counted, unread, read = zip(*everyones, strict=True)
    missing = tuple(item for items in unread for item in items)
    if not sum(read):
        first = f": {missing[0].detail}" if missing else ""
        raise InputError(f"data.dev: not one utterance could be read{first}")
    num_tokens = sum(tokens)
    rates = {name: _rate([one[name] for one in counted]) for name in METRICS}
    mean = sum(losses) / num_tokens if num_tokens else None
    return Validation(mean, rates["wer"], rates["cer"], missing)


def _rate(counts: Iterable[tuple[int, int]]) -> float:
    errors, lengths = zip(*counts, strict=True)
    return sum(errors) / sum(lengths) if sum(lengths) else math.inf
