"""`asr compare` over the kinds of encoder: trained, decoded and compared as a user does it."""

from __future__ import annotations

import html
import itertools
import json
import re
from pathlib import Path

import pytest
from made_models import mishear

from asr import config
from asr.cli import main

SEEDS = (1, 2, 3)
(KINDS,) = (
    item.metadata["choices"]
    for key, _, item in config.walk(config.Config())
    if key == "encoder.kind"
)
# Nothing that a kind might not read.
TINY = [
    *("encoder.num_layers=1", "encoder.dim=16", "encoder.ff_dim=16", "attention.num_heads=2"),
    *("encoder.subsampling_channels=4", "tokenizer.kind=char", "train.epochs=1"),
    *("train.global_batch_s=60", "train.max_batch_s=60", "train.num_threads=1"),
    *("train.tensorboard=false", "train.average_checkpoints=1", "train.log_steps=1"),
]


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Path, three_speakers: Path
) -> list[Path]:
    """Every kind with every seed, for two steps; what such models hear is then replaced."""
    folder = tmp_path_factory.mktemp("kinds")
    data = [f"data.{part}=[{tiny_corpus}/{part}.cuts.jsonl.gz]" for part in ("train", "dev")]
    found = []
    for kind, seed in itertools.product(KINDS, SEEDS):
        exp = folder / f"{kind}-s{seed}"
        words = [f"encoder.kind={kind}", f"train.seed={seed}"]
        assert main(["train", "--exp", str(exp), *TINY, *data, *words]) == 0
        assert main(["decode", "--model", str(exp), "--cuts", str(three_speakers)]) == 0
        mishear(exp / "decode" / "test", exp.name)
        found.append(exp)
    return found


def test_kinds_are_compared_over_seeds(
    trained: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.html"
    words = ["--out", str(tmp_path), "--html", str(report), "--page", str(tmp_path / "page.md")]
    capsys.readouterr()
    assert main(["compare", *map(str, trained), *words]) == 0
    printed = capsys.readouterr().out
    content = json.loads((tmp_path / "compare.json").read_text())
    assert content["factors"] == [
        {"name": "encoder.kind", "keys": ["encoder.kind"], "levels": [*KINDS]}
    ]
    assert [(one["levels"], len(one["names"])) for one in content["types"]] == [
        ({"encoder.kind": kind}, len(SEEDS)) for kind in KINDS
    ]
    wers = {
        kind: sum(wer_of(exp) for exp in trained if exp.name.startswith(f"{kind}-")) / len(SEEDS)
        for kind in KINDS
    }
    pairs = list(itertools.combinations(KINDS, 2))
    differences = content["type_differences"]
    assert [(one["baseline"], one["name"]) for one in differences] == pairs
    for one in differences:
        by_hand = wers[one["name"]] - wers[one["baseline"]]
        assert one["difference"] == pytest.approx(by_hand)
        assert one["num_seeds"] == len(SEEDS)
        line = next(
            x for x in printed.splitlines() if x.startswith(f"{one['name']} - {one['baseline']}")
        )
        assert f"{100 * by_hand:+.2f}" in line
    assert re.search(r"^encoder\.kind +set +runs", printed, re.MULTILINE)
    assert "Differences of encoder.kind in points of WER, over seeds and speakers:" in printed

    page = html.unescape(report.read_text())
    assert "<h1>Which encoder.kind?</h1>" in page
    assert "<h2>Which encoder.kind?</h2>" in page
    answer = re.search(r'<p class="answer">(.*?)</p>', page)
    assert answer is not None
    best = min(wers, key=wers.__getitem__)
    assert best in answer[1]
    assert f"The lowest mean on test has {best} ({100 * wers[best]:.2f} %)" in page
    assert page.count('class="map"') == len(KINDS)
    kept = (tmp_path / "page.md").read_text()
    assert kept.startswith("# Comparison of encoder.kind\n")
    assert answer[1] in kept


def wer_of(exp: Path) -> float:
    return float(json.loads((exp / "decode" / "test" / "score.json").read_text())["wer"])
