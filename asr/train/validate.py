"""Loss and greedy WER on the dev part."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch

from asr.data.batches import sorted_batches
from asr.data.dataset import Batch, Utterances
from asr.model import Recogniser, ctc_loss
from asr.processes import Processes
from asr.search.greedy import greedy
from asr.search.hypothesis import rows_with_nan
from asr.text.tokenizer import Tokenizer
from asr.train.step import silence
from asr.wer import ErrorCounts, count_errors


def share_of_dev(dev: Utterances, max_batch_s: float, processes: Processes) -> list[np.ndarray]:
    """This process' batches of the dev part; all get equally many, so some may be empty."""
    plan = sorted_batches(dev.durations_s, max_batch_s)
    while len(plan) % processes.size:
        plan.append(np.array([], dtype=np.int64))
    return plan[processes.rank :: processes.size]


@torch.no_grad()
def validate(
    net: Recogniser,
    batches: Iterable[Batch],
    tokenizer: Tokenizer,
    processes: Processes,
) -> tuple[float | None, float]:
    """(loss per token, word error rate as a fraction) of greedy decoding, over all processes.

    An utterance whose output is not finite has no words; the loss is over the others, None where there
    are none. Without a reference word the error rate counts as infinite.
    """
    net.eval()
    device = processes.device
    loss, num_tokens = 0.0, 0
    errors = ErrorCounts(0, 0, 0, 0, 0)
    for given in batches:
        batch = given if len(given) else silence(given)
        log_probs_btv, lens_b = net(batch.wave_bn.to(device), batch.wave_lens_b.to(device))
        token_lens_b = batch.token_lens_b.to(device)
        loss_b = ctc_loss(log_probs_btv, lens_b, batch.tokens_bu.to(device), token_lens_b)
        if not len(given):
            continue
        # a transcript that does not fit its frames has an infinite loss; its errors count all the same
        loss += float(loss_b[loss_b.isfinite()].sum())
        num_tokens += int(token_lens_b[loss_b.isfinite()].sum())
        lens_b = lens_b.where(~rows_with_nan(log_probs_btv, lens_b), 0)
        for text, best in zip(batch.texts, greedy(log_probs_btv, lens_b), strict=True):
            errors += count_errors(text.split(), tokenizer.decode(best.tokens).split())
    everyones = processes.gather((loss, num_tokens, errors))
    total = sum((part[2] for part in everyones), ErrorCounts())
    num_tokens = sum(part[1] for part in everyones)
    loss = sum(part[0] for part in everyones)
    return (
        loss / num_tokens if num_tokens else None,
        total.wer if total.reference_words else math.inf,
    )
