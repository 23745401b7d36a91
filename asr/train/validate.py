"""Loss and greedy WER on the dev part."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from asr.data.dataset import Batch
from asr.model import Recogniser, ctc_loss
from asr.search.greedy import greedy
from asr.text.tokenizer import Tokenizer
from asr.wer import ErrorCounts, count_errors


@torch.inference_mode()
def validate(
    net: Recogniser,
    batches: Iterable[Batch],
    tokenizer: Tokenizer,
    device: torch.device,
) -> tuple[float, float]:
    """(loss per token, word error rate as a fraction) of greedy decoding."""
    net.eval()
    loss, num_tokens = 0.0, 0
    errors = ErrorCounts(0, 0, 0, 0, 0)
    for batch in batches:
        log_probs_btv, lens_b = net(batch.wave_bn.to(device), batch.wave_lens_b.to(device))
        token_lens_b = batch.token_lens_b.to(device)
        loss_b = ctc_loss(log_probs_btv, lens_b, batch.tokens_bu.to(device), token_lens_b)
        # a transcript that does not fit its frames has an infinite loss; its errors count all the same
        loss += float(loss_b[loss_b.isfinite()].sum())
        num_tokens += int(token_lens_b[loss_b.isfinite()].sum())
        for text, best in zip(batch.texts, greedy(log_probs_btv, lens_b), strict=True):
            errors += count_errors(text.split(), tokenizer.decode(best.tokens).split())
    return loss / max(num_tokens, 1), errors.wer
