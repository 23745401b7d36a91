"""The neural language model: exact probabilities, what it learns, and what becomes of n-best lists."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path

import pytest
import torch
import yaml

from asr import config
from asr.cli import main
from asr.config import TokenizerConfig
from asr.errors import InputError
from asr.lm.neural import NeuralConfig, NeuralLm, load_neural, save_neural, train_neural
from asr.model.folder import save_model
from asr.model.recogniser import Recogniser
from asr.search.hypothesis import Hypothesis, ScoreParts
from asr.search.rescore import rescore
from asr.search.weights import Weights, read_tuned
from asr.text.tokenizer import train_tokenizer

PIECES = ("<blank>", "⁇", "a", "b")


def random_model(seed: int) -> NeuralLm:
    torch.manual_seed(seed)
    model = NeuralLm(NeuralConfig(PIECES, dim=8))
    torch.nn.init.normal_(model.bias_v)
    return model.eval()


def by_steps(model: NeuralLm, tokens: tuple[int, ...]) -> float:
    """One token at a time, with the state carried over: as a language model is defined."""
    state, total = None, 0.0
    with torch.inference_mode():
        for given, wanted in itertools.pairwise((0, *tokens, 0)):
            hidden, state = model.lstm(model.embedding(torch.tensor([[given]])), state)
            logits_v = model.embedding.weight @ hidden[0, 0] + model.bias_v
            total += float(logits_v.double().softmax(0)[wanted].log())
    return total


def test_scores_are_those_of_one_token_at_a_time() -> None:
    model = random_model(0)
    sequences = [(), (2,), (3, 2, 2, 3, 1), (2, 3)]
    expected = [by_steps(model, tokens) for tokens in sequences]
    assert model.score(sequences) == pytest.approx(expected, abs=1e-5)  # batched and padded
    assert model.score([]) == []


def test_probabilities_of_all_sequences_add_up() -> None:
    model = random_model(1)
    every = [t for length in range(5) for t in itertools.product((1, 2, 3), repeat=length)]
    ended = sum(math.exp(score) for score in model.score(every))
    # what is left is the probability that more than four tokens come
    longer = 0.0
    for tokens in itertools.product((1, 2, 3), repeat=4):
        with torch.inference_mode():
            log_probs_uv = model(torch.tensor([[0, *tokens]]))[0]
        said = sum(float(log_probs_uv[u, token]) for u, token in enumerate(tokens))
        longer += math.exp(said) * (1 - math.exp(float(log_probs_uv[4, 0])))
    assert ended + longer == pytest.approx(1, abs=1e-5)


def test_it_learns_the_probabilities_of_its_text() -> None:
    sequences = [(2, 3, 3)] * 30 + [(3, 2)] * 10
    model = train_neural(sequences, NeuralConfig(PIECES, dim=16, dropout=0.0), epochs=80, lr=0.05)
    found = model.score([(2, 3, 3), (3, 2), (2, 2)])
    assert found[0] == pytest.approx(math.log(0.75), abs=0.1)
    assert found[1] == pytest.approx(math.log(0.25), abs=0.2)
    assert found[2] < -3


def test_the_same_training_gives_the_same_model(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["ab ba"], TokenizerConfig(kind="char"))
    settings = NeuralConfig(tuple(tokenizer.pieces), dim=8)
    sequences = [tokenizer.encode(text) for text in ("ab", "ba ab", "a")]
    first, second = (train_neural(sequences, settings, epochs=2) for _ in range(2))
    assert first.score(sequences) == second.score(sequences)
    save_neural(first, tmp_path / "lm")
    assert load_neural(tmp_path / "lm", tokenizer).score(sequences) == first.score(sequences)
    other = train_tokenizer(["abc"], TokenizerConfig(kind="char"))
    with pytest.raises(InputError, match="trained for another tokenizer"):
        load_neural(tmp_path / "lm", other)
    (tmp_path / "lm" / "lm.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match="damaged"):
        load_neural(tmp_path / "lm", tokenizer)
    with pytest.raises(InputError, match="there is no text"):
        train_neural([()], settings)


def test_rescoring_orders_by_the_weighted_sum() -> None:
    model = random_model(2)
    weights = Weights(0.5, 1.0, 3.0, neural_weight=2.0)
    lists = [
        Hypothesis(tokens, 0.0, (0,) * len(tokens), ScoreParts(acoustic, -2.0 * i, 2, i % 2, 0.5))
        for i, (tokens, acoustic) in enumerate([((2, 3), -1.0), ((3,), -0.5), ((2, 2, 2), -0.1)])
    ]
    found = rescore(lists, model, weights)
    for one in found:
        assert one.parts is not None
        before = next(other for other in lists if other.tokens == one.tokens)
        assert dataclasses.replace(one.parts, neural=0.0) == before.parts
        assert one.parts.neural == pytest.approx(by_steps(model, one.tokens), abs=1e-5)
        parts = one.parts
        expected = parts.acoustic + 0.5 * parts.lm + 2 - 3 * parts.num_unknown + 0.5
        assert one.score == pytest.approx(expected + 2 * parts.neural)
    scores = [one.score for one in found]
    assert scores == sorted(scores, reverse=True)


def test_trained_tuned_and_taken_by_decoding(
    tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: object) -> str:
        assert main([str(word) for word in words]) == 0
        return capsys.readouterr().out

    cfg = config.load(
        [], ["encoder.num_layers=1", "encoder.dim=32", "encoder.ff_dim=32", "tokenizer.kind=char"]
    )
    tokenizer = train_tokenizer(["the quick brown fox jumps over a lazy dog"], cfg.tokenizer)
    torch.manual_seed(0)
    exp, lm, neural = tmp_path / "exp", tmp_path / "lm.arpa", tmp_path / "neural"
    save_model(exp / "model", Recogniser(cfg, tokenizer.vocab_size).state_dict(), cfg, tokenizer)
    text = ("--text", tiny_corpus / "train.cuts.jsonl.gz")
    run("lm", "train", *text, "--out", lm)
    run("lm", "train-neural", *text, "--model", exp, "--out", neural, "--epochs", 1, "--dim", 16)
    both = ("--lm", lm, "--neural", neural, "--beam", 3, "--search", "beam", "--threads", 1)
    dev, test = tiny_corpus / "dev.cuts.jsonl.gz", tiny_corpus / "test.cuts.jsonl.gz"
    assert "ranked anew" in run("tune", "--model", exp, "--cuts", dev, *both)
    tuned = read_tuned(exp / "model")
    assert tuned is not None
    assert tuned.second is not None
    run("decode", "--model", exp, "--cuts", test, "--out", tmp_path / "out", *both)
    settings = json.loads((tmp_path / "out" / "decode.json").read_text())
    written = yaml.safe_load((exp / "model" / "search.yaml").read_text())
    assert tuned.second.ctc_weight is None
    assert settings["rescoring"] == written["second"]
    assert settings["rescoring"] | {"ctc_weight": None} == dataclasses.asdict(tuned.second)
    # the development set decodes to the word error rate that tuning told
    run("decode", "--model", exp, "--cuts", dev, "--out", tmp_path / "dev", *both)
    score = json.loads((tmp_path / "dev" / "score.json").read_text())
    assert score["wer"] == pytest.approx(tuned.wer)
