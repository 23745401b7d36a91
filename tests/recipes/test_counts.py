"""recipes/mini/counts.py: differences of counts, and weights decoded with another count."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_models import decode, decode_joined, mishear, write_run
from sigmoid_attention import Mask, Weighting, attend

from asr.data.store.manifest import read_cuts, write_cuts
from asr.errors import InputError
from asr.model.folder import load_model, save_model
from asr.nn.attention import attentions

PROGRAM = Path(__file__).parents[2] / "recipes" / "mini" / "counts.py"


@pytest.fixture(scope="module")
def program() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("mini_counts", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def test_differences_and_their_correction(program: types.ModuleType) -> None:
    rng = np.random.default_rng(0)
    rates = {"softmax": 0.2, "visible": 0.4, "recounted": 0.22, "effective": 0.2}
    names = {(count, "alibi"): [f"{count}-alibi-s{seed}" for seed in (1, 2, 3)] for count in rates}
    errors = {
        (one, duration): rng.binomial(300, rates[one[0]], size=(3, 12)).astype(float)
        for one in names
        for duration in ("alone", "60 s")
    }
    words = np.full(12, 300.0)
    measured = program.Measured(
        ["alone", "60 s"], names, errors, words, [f"s{k}" for k in range(12)]
    )
    found = program.changes(measured)
    pairs = [(one.name, one.baseline) for one in found if one.duration == "60 s"]
    assert pairs == [pair for pair in program.PAIRS if set(pair) <= set(rates)]
    for one in found:
        wers = [
            errors[(count, "alibi"), one.duration].sum() / words.sum() / 3
            for count in (one.name, one.baseline)
        ]
        assert one.difference == pytest.approx(wers[0] - wers[1])
        assert one.interval.low < one.difference < one.interval.high
        assert one.p_value <= one.p_holm
        large = "visible" in (one.name, one.baseline)
        assert (one.p_holm < 0.05) == large
    lowest = min(found, key=lambda one: one.p_value)
    assert lowest.p_holm == pytest.approx(min(1.0, len(found) * lowest.p_value))


def test_recounted_weights_compute_the_same_at_the_length_of_training(
    program: types.ModuleType, tmp_path: Path
) -> None:
    """On average over the rows of such an utterance the shift of each head is -log n, as before."""
    new = write_run(tmp_path, "sigmoid", "alibi", 1)
    with pytest.raises(
        InputError, match=r"must be sigmoid with alibi, .* another count than effec"
    ):
        program.recount(new, 67, tmp_path / "recounted")
    model = load_model(new)
    attention = replace(model.config.attention, count="visible")
    exp = tmp_path / "visible"
    old = replace(model.config, attention=attention)
    save_model(exp / "model", model.net.state_dict(), old, model.tokenizer)
    (exp / "run.json").write_text((new / "run.json").read_text())
    program.recount(exp, 67, tmp_path / "recounted")
    with pytest.raises(InputError, match="recounted: is there already"):
        program.recount(exp, 67, tmp_path / "recounted")
    with pytest.raises(InputError, match="--frames 0: must be at least 1"):
        program.recount(exp, 0, tmp_path / "other")
    before, after = load_model(exp), load_model(tmp_path / "recounted")
    assert after.config.attention.count == "effective"
    assert json.loads((tmp_path / "recounted" / "run.json").read_text())["name"] == "recounted"
    for layer in attentions(after.net):
        assert layer.bias_h is not None
        _, _, bias = layer.position(torch.zeros(1, 2, 67, 1), torch.zeros(1, 2, 67, 1), 0, 0)
        # one key of a large value: o / v is its weight, and the logarithm of p / (1 - p) the score
        q, k = torch.zeros(1, 2, 67, 1), torch.zeros(1, 2, 67, 1)
        v = torch.eye(67).expand(1, 2, 67, 67)
        p = attend(q, k, v, weighting=layer.trained_weighting(), position=bias, mask=Mask())
        own = torch.diagonal(p[0], dim1=1, dim2=2).logit()
        torch.testing.assert_close(own.mean(1), torch.full((2,), -math.log(67)), atol=1e-4, rtol=0)
    others = {name for name in after.net.state_dict() if not name.endswith("bias_h")}
    for name in others:
        torch.testing.assert_close(after.net.state_dict()[name], before.net.state_dict()[name])
    assert Weighting.sigmoid().n == "visible"


@pytest.mark.slow
def test_a_page_from_folders(program: types.ModuleType, tmp_path: Path, tiny_corpus: Path) -> None:
    pytest.importorskip("matplotlib")
    cuts = list(read_cuts(tiny_corpus / "test.cuts.jsonl.gz"))
    for number, cut in enumerate(cuts):
        cut.supervisions[0].speaker = f"s{number // 2}"
    manifest = tmp_path / "test.cuts.jsonl.gz"
    write_cuts(cuts, manifest)
    folders = []
    for count, weighting in (("softmax", "softmax"), ("visible", "sigmoid")):
        for seed in (1, 2):
            exp = write_run(tmp_path, weighting, "alibi", seed)
            exp = exp.rename(tmp_path / f"{count}-alibi-s{seed}")
            record = json.loads((exp / "run.json").read_text())
            (exp / "run.json").write_text(json.dumps(record | {"name": exp.name}))
            decode(exp, manifest, exp / "decode" / "test")
            folders.append(exp)
    out = tmp_path / "counts.md"
    decode_joined(folders, manifest, [1.0, 60.0, 120.0])
    for joined in [joined for exp in folders for joined in (exp / "decode").glob("test-*s")]:
        mishear(joined, str(joined))
    program.write_page(folders, "recipes/mini/counts.sh --hours '0.5'", out)
    page, content = out.read_text(), json.loads(out.with_suffix(".json").read_text())
    assert content["durations"] == ["alone", "2.54 s", "5.09 s"]
    assert content["speakers"] == ["s0", "s1", "s2"]
    for name, errors in content["errors"].items():
        shown = 100 * np.sum(errors) / 2 / sum(content["words"])
        count, position = name.split(", ")[0].split("-")
        assert re.search(rf"\| {count} \| {position} \| 2 \|.* {shown:.2f} \[", page)
    assert "visible - softmax" in page
    assert "](counts.png)" in page
    assert out.with_suffix(".png").stat().st_size > 10_000
    assert str(tmp_path) not in page
