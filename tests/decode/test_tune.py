"""Weights from a development set: the grid against direct choice, and the commands end to end."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import jiwer
import numpy as np
import pytest
import torch

from asr import config
from asr.cli import main
from asr.decode.tune import LM_WEIGHTS, UNKNOWN_PENALTIES, WORD_BONUSES, Lists
from asr.model.folder import save_model
from asr.model.recogniser import Recogniser
from asr.search.hypothesis import Hypothesis, ScoreParts
from asr.search.weights import read_tuned
from asr.text.tokenizer import train_tokenizer
from asr.wer import CER


def hypothesis(number: int, acoustic: float, lm: float, words: int, unknown: int) -> Hypothesis:
    return Hypothesis((number,), 0.0, (0,), ScoreParts(acoustic, lm, words, unknown, 0.0))


def test_the_grid_finds_the_fewest_errors() -> None:
    rng = np.random.default_rng(0)
    references = ["a b c d"] * 30
    lists = Lists(references)
    table: list[list[tuple[ScoreParts, int]]] = []
    for index in range(30):
        row = []
        for number in range(rng.integers(2, 7)):
            errors = int(rng.integers(0, 4))
            text = " ".join(["x"] * errors + ["a", "b", "c", "d"][errors:])
            # the language model knows better than the sound does
            parts = (-rng.gamma(3.0), -4.0 * errors - rng.gamma(2.0), int(rng.integers(3, 6)))
            one = hypothesis(number, *parts, int(rng.integers(0, 2)))
            lists.add(index, [one], [text])
            assert one.parts is not None
            row.append((one.parts, errors))
        table.append(row)

    def errors_at(lm: float, bonus: float, penalty: float) -> int:
        def score(parts: ScoreParts) -> float:
            weighted = lm * parts.lm + bonus * parts.num_words - penalty * parts.num_unknown
            return parts.acoustic + weighted

        return sum(max(row, key=lambda item: score(item[0]))[1] for row in table)

    found = lists.best_weights()
    counts = {
        weights: errors_at(*weights)
        for weights in itertools.product(LM_WEIGHTS[::3], WORD_BONUSES[::4], UNKNOWN_PENALTIES[::2])
    }
    at_found = errors_at(found.lm_weight, found.word_bonus, found.unknown_penalty)
    assert at_found < counts[0.0, -1.0, 0.0]
    assert at_found <= min(counts.values()) + 1


def test_lists_keep_the_better_sum_and_count_the_best_ones_errors() -> None:
    lists = Lists(["a b", "c"])
    first = [hypothesis(1, -3.0, -1.0, 2, 0), hypothesis(2, -4.0, -1.0, 2, 0)]
    assert lists.add(0, first, ["a x", "a b"]) == 1
    assert lists.add(0, [hypothesis(1, -2.0, -1.0, 2, 0)], ["a x"]) == 1
    assert lists.add(0, [hypothesis(1, -9.0, -1.0, 2, 0)], ["a x"]) == 1
    assert lists.add(1, [hypothesis(3, -1.0, -1.0, 1, 0)], ["c"]) == 0
    assert lists.num_words == 3
    assert lists._found[0][(1,)].parts.acoustic == -2.0
    assert [len(found) for found in lists._found] == [2, 1]


def test_lists_of_characters_are_chosen_by_wrong_characters() -> None:
    """By words both texts have one error; by characters the language model's is right but for one."""
    lists = Lists(["今天天气很好"], CER)
    found = [hypothesis(1, -3.0, -9.0, 1, 0), hypothesis(2, -4.0, -1.0, 1, 0)]
    assert lists.add(0, found, ["今", "今天天汽很好"]) == 5
    assert lists.num_words == 6
    assert lists.errors_with(lists.best_weights()) == 1


def test_the_share_of_ctc_is_chosen_with_its_neighbours() -> None:
    rng = np.random.default_rng(1)
    lists, rows = Lists(["a b c d"] * 40), []
    for index in range(40):
        row = []
        for number in range(4):
            errors = int(rng.integers(0, 4))
            text = " ".join(["x"] * errors + ["a", "b", "c", "d"][errors:])
            ctc, decoder = (float(-3.0 * errors + rng.normal(0, 4)) for _ in range(2))
            parts = ScoreParts(0.0, -50.0 * number, 0, 0, 0.0, ctc=ctc, decoder=decoder)
            lists.add(index, [Hypothesis((number,), 0.0, (0,), parts)], [text])
            row.append((ctc, decoder, errors))
        rows.append(row)

    def errors_at(share: float) -> int:
        return sum(
            max(row, key=lambda one: share * one[0] + (1 - share) * one[1])[2] for row in rows
        )

    shares = [0.1, 0.3, 0.5, 0.7, 0.9]
    counts = [errors_at(share) for share in shares]
    smooth = [sum(counts[min(max(k + step, 0), 4)] for step in (-1, 0, 1)) for k in range(5)]
    assert len(set(smooth)) > 1
    found = lists.best_weights(ctc_shares=shares, with_lm=False)
    assert found.ctc_weight is not None
    assert smooth[shares.index(found.ctc_weight)] == min(smooth)
    assert lists.errors_with(found) == errors_at(found.ctc_weight)
    assert found.lm_weight == 0.0


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model: its words are noise, but the same noise every time."""
    cfg = config.load(
        [], ["encoder.num_layers=1", "encoder.dim=32", "encoder.ff_dim=32", "tokenizer.kind=char"]
    )
    tokenizer = train_tokenizer(["the quick brown fox jumps over a lazy dog"], cfg.tokenizer)
    torch.manual_seed(0)
    exp = tmp_path_factory.mktemp("tune") / "exp"
    save_model(exp / "model", Recogniser(cfg, tokenizer.vocab_size).state_dict(), cfg, tokenizer)
    return exp


def test_tuned_weights_are_what_decoding_takes(
    experiment: Path, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: object) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        return code, *capsys.readouterr()

    lm = tmp_path / "lm.arpa.gz"
    assert run("lm", "train", "--text", tiny_corpus / "train.cuts.jsonl.gz", "--out", lm)[0] == 0
    dev, test = tiny_corpus / "dev.cuts.jsonl.gz", tiny_corpus / "test.cuts.jsonl.gz"
    common = ("--model", experiment, "--search", "beam", "--beam", 3, "--lm", lm, "--threads", 1)
    code, printed, _ = run("tune", *common, "--cuts", dev)
    assert code == 0
    tuned = read_tuned(experiment / "model")
    assert tuned is not None
    assert f"best on dev: WER {100 * tuned.wer:.2f} %" in printed
    written = (experiment / "model" / "search.yaml").read_text()
    assert f"\nwer: {tuned.wer}\n" in written
    assert "cer:" not in written

    copy = shutil.copytree(experiment, tmp_path / "copy")
    by_characters = ("--model", copy, *common[2:], "--metric", "cer")
    code, printed, _ = run("tune", *by_characters, "--cuts", dev)
    assert code == 0
    other = read_tuned(copy / "model")
    assert other is not None
    assert f"best on dev: CER {100 * other.wer:.2f} %" in printed
    assert f"\ncer: {other.wer}\n" in (copy / "model" / "search.yaml").read_text()
    at_best = tmp_path / "dev"
    assert run("decode", "--model", copy, *common[2:], "--cuts", dev, "--out", at_best)[0] == 0
    lines = map(json.loads, (at_best / "hypotheses.jsonl").read_text().splitlines())
    texts = [(line["reference"], line["hypothesis"]) for line in lines]
    assert other.wer == pytest.approx(jiwer.cer(*map(list, zip(*texts, strict=True))))

    out = tmp_path / "out"
    assert run("decode", *common, "--cuts", test, "--out", out, "--num-best", 2)[0] == 0
    settings = json.loads((out / "decode.json").read_text())
    assert settings["weights"] == "tuned"
    assert settings["lm_weight"] == tuned.first.lm_weight
    for line in (out / "hypotheses.jsonl").read_text().splitlines():
        content = json.loads(line)
        assert content["hypothesis"] == content["nbest"][0]["text"]
        for one in content["nbest"]:
            total = one["acoustic"] + tuned.first.lm_weight * one["lm"]
            total += tuned.first.word_bonus * one["num_words"]
            total -= tuned.first.unknown_penalty * one["num_unknown"]
            assert one["score"] == pytest.approx(total, abs=2e-3)

    code, _, error = run("tune", "--model", experiment, "--cuts", dev)
    assert code == 2
    assert "needs a language model, --lm, or" in error
