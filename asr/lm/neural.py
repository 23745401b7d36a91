"""A small neural language model over the recogniser's tokens: an LSTM that rescores n-best lists.

Mikolov et al., "Recurrent neural network based language model" (2010), with LSTM cells; input and
output share one embedding (Press and Wolf 2017).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from asr.errors import InputError
from asr.files import field, read_json_object, write_atomically
from asr.nn.outline import outlines
from asr.text.tokenizer import BLANK, Tokenizer
from asr.weights_file import WeightsFile, write_weights

WEIGHTS, CONFIG = "lm.safetensors", "lm.json"
MAX_CONFIG_BYTES = 1 << 24
# What a stranger's lm.json may ask for.
_BOUNDS = {"dim": (1, 16384), "num_layers": (1, 64)}

# The blank is never said: it stands before the first token and after the last one.
_EDGE = BLANK


@dataclass(frozen=True)
class NeuralConfig:
    """``pieces``: the tokenizer's, which is how a model knows that it belongs to a recogniser."""

    pieces: tuple[str, ...]
    dim: int = 256
    num_layers: int = 1
    dropout: float = 0.1


class NeuralLm(nn.Module):
    """``forward``: tokens (b, u) after the edge -> log-probabilities (b, u, v) of what follows each."""

    def __init__(self, config: NeuralConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(len(config.pieces), config.dim)
        nn.init.normal_(self.embedding.weight, std=config.dim**-0.5)
        self.dropout = nn.Dropout(config.dropout)
        self.lstm = nn.LSTM(config.dim, config.dim, config.num_layers, batch_first=True)
        self.bias_v = nn.Parameter(torch.zeros(len(config.pieces)))

    def forward(self, tokens_bu: Tensor) -> Tensor:
        hidden_bud, _ = self.lstm(self.dropout(self.embedding(tokens_bu)))
        logits_buv = self.dropout(hidden_bud) @ self.embedding.weight.T + self.bias_v
        return logits_buv.log_softmax(-1)

    def log_prob(self, tokens_bu: Tensor, lens_b: Tensor) -> Tensor:
        """(b) natural-log probability of each token sequence and of its end.

        Args:
            tokens_bu: padded with anything past the lengths.
            lens_b: tokens of each sequence, 0 or more.
        """
        place_u = torch.arange(tokens_bu.shape[1] + 1, device=tokens_bu.device)
        valid_bu = place_u <= lens_b[:, None]
        edge_b1 = tokens_bu.new_full((len(tokens_bu), 1), _EDGE)
        tokens_bu = torch.where(valid_bu[:, 1:], tokens_bu, _EDGE)
        inputs_bu = torch.cat([edge_b1, tokens_bu], dim=1)
        targets_bu = torch.cat([tokens_bu, edge_b1], dim=1)
        found_bu = self(inputs_bu).gather(2, targets_bu[..., None]).squeeze(2)
        return torch.where(valid_bu, found_bu, 0.0).sum(dim=1)

    @torch.inference_mode()
    def score(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        """Natural-log probability of each token sequence and of its end."""
        if not sequences:
            return []
        scores: list[float] = self.log_prob(*padded(sequences)).tolist()
        return scores


def train_neural(
    sequences: Sequence[Sequence[int]],
    config: NeuralConfig,
    *,
    epochs: int = 10,
    batch_tokens: int = 2048,
    lr: float = 3e-3,
    seed: int = 1,
    report: Callable[[str], None] = lambda line: None,
) -> NeuralLm:
    """Learns from token sequences; the same arguments give the same model on one machine.

    Raises:
        InputError: nothing to learn from.
    """
    if not any(sequences):
        raise InputError("there is no text to train a language model on")
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = NeuralLm(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr)
    batches = _batches(sequences, batch_tokens)
    num_steps = epochs * len(batches)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, num_steps, pct_start=0.1)
    for epoch in range(1, epochs + 1):
        loss_sum, num_predicted = 0.0, 0
        for number in rng.permutation(len(batches)):
            tokens_bu, lens_b = padded([sequences[index] for index in batches[number]])
            predicted = int(lens_b.sum()) + len(lens_b)
            loss = -model.log_prob(tokens_bu, lens_b).sum() / predicted
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            loss_sum, num_predicted = loss_sum + loss.item() * predicted, num_predicted + predicted
        perplexity = np.exp(loss_sum / num_predicted)
        report(f"epoch {epoch} of {epochs}: training perplexity per token {perplexity:.3f}")
    return model.eval()


def save_neural(model: NeuralLm, folder: Path) -> None:
    """``lm.json`` and, last, ``lm.safetensors``, which carries the sums of both.

    Raises:
        InputError: the folder cannot be written to.
    """
    write_atomically(folder / CONFIG, json.dumps(asdict(model.config), ensure_ascii=False) + "\n")
    unfinished = folder / f".{WEIGHTS}"
    try:
        write_weights(unfinished, model.state_dict(), [folder / CONFIG])
        os.replace(unfinished, folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise InputError(f"{folder / WEIGHTS}: cannot write: {reason}") from None
    finally:
        unfinished.unlink(missing_ok=True)


def load_neural(folder: Path, tokenizer: Tokenizer) -> NeuralLm:
    """The model of a folder, ready to score.

    Raises:
        InputError: no such model, a damaged one, or one that was trained for another tokenizer.
    """
    path = folder / CONFIG
    content = read_json_object(path, MAX_CONFIG_BYTES)
    if content.get("pieces") != tokenizer.pieces:
        raise InputError(f"{folder}: this language model was trained for another tokenizer")
    numbers = {name: field(content, name, int, str(path)) for name in _BOUNDS}
    for name, (low, high) in _BOUNDS.items():
        if numbers[name] is not None and not low <= numbers[name] <= high:
            raise InputError(f"{path}: {name} = {numbers[name]}: must be from {low} to {high}")
    given = {name: number for name, number in numbers.items() if number is not None}
    config = NeuralConfig(tuple(tokenizer.pieces), **given)
    weights = WeightsFile(folder / WEIGHTS)
    with outlines():
        weights.check_shapes(
            {name: value.shape for name, value in NeuralLm(config).state_dict().items()}, path
        )
    weights.check_beside(path)
    model = NeuralLm(config)
    model.load_state_dict(weights.load())
    return model.eval()


def _batches(sequences: Sequence[Sequence[int]], batch_tokens: int) -> list[list[int]]:
    """Sequences of similar length together, so many tokens at most."""
    batches: list[list[int]] = [[]]
    for index in sorted(range(len(sequences)), key=lambda index: len(sequences[index])):
        # the last one is the longest
        if (len(batches[-1]) + 1) * (len(sequences[index]) + 1) > batch_tokens and batches[-1]:
            batches.append([])
        batches[-1].append(index)
    return batches


def padded(sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return token sequences padded with the blank (b, u), and their lengths (b)."""
    lens_b = torch.tensor([len(sequence) for sequence in sequences])
    longest = int(lens_b.max())
    rows = [[*sequence, *[_EDGE] * (longest - len(sequence))] for sequence in sequences]
    return torch.tensor(rows, dtype=torch.long), lens_b
