"""Publishing and fetching a model, against a stand-in for the hub that speaks its protocol.

huggingface.co itself is never contacted.
"""

from __future__ import annotations

import importlib.util
import json
import pickle
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from asr import config
from asr.cli import main
from asr.errors import InputError
from asr.model.folder import load_model, save_model
from asr.model.recogniser import Recogniser
from asr.share import hub
from asr.share.card import CardOptions
from asr.text.tokenizer import train_tokenizer

TINY = ["encoder.num_layers=1", "encoder.dim=32", "encoder.ff_dim=32", "tokenizer.kind=char"]
FILES = {"config.yaml", "model.safetensors", "tokenizer.json", "README.md"}


def _hub_server() -> object:
    path = Path(__file__).with_name("hub_server.py")
    spec = importlib.util.spec_from_file_location("hub_server", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["hub_server"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment with an untrained model and a decoded set of two words, one of them wrong."""
    cfg = config.load([], [*TINY, "data.train=[/home/me/secret/train.cuts.jsonl.gz]"])
    tokenizer = train_tokenizer(["the quick brown fox jumps over a lazy dog"], cfg.tokenizer)
    torch.manual_seed(0)
    exp = tmp_path_factory.mktemp("hub") / "my-model"
    save_model(exp / "model", Recogniser(cfg, tokenizer.vocab_size).state_dict(), cfg, tokenizer)
    (exp / "run.json").write_text(json.dumps({"train_hours": 1.5, "commit": "abc", "seed": 7}))
    decoded = exp / "decode" / "test"
    decoded.mkdir(parents=True)
    line = {"id": "1", "speaker": "a", "duration_s": 1.0, "reference": "a fox", "hypothesis": "a b"}
    (decoded / "hypotheses.jsonl").write_text(json.dumps(line) + "\n")
    (decoded / "decode.json").write_text('{"set": "test", "normaliser": "none"}')
    assert main(["score", str(decoded)]) == 0
    return exp


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[object]:
    pytest.importorskip("huggingface_hub", reason="extra `hub` not installed")
    from huggingface_hub import constants

    served = _hub_server().Hub()  # type: ignore[attr-defined]
    monkeypatch.setattr(constants, "ENDPOINT", served.url)
    template = f"{served.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield served
    served.close()


def front_matter(card: str) -> dict[str, object]:
    return yaml.safe_load(card.split("---\n")[1])


def same_weights(a: Path, b: Path) -> bool:
    first, second = load_model(a).net.state_dict(), load_model(b).net.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_push_then_pull_gives_the_same_model(model: Path, server, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    words = ["--license", "cc-by-4.0", "--language", "en", "--private"]
    assert main(["push", str(model), "someone/asr", *words]) == 0
    assert set(server.repos["someone/asr"]) == FILES
    assert any("/objects/" in request for request in server.requests)  # the weights went by LFS
    assert main(["pull", "someone/asr", "--out", str(tmp_path / "pulled")]) == 0
    assert {path.name for path in (tmp_path / "pulled").iterdir()} == FILES
    assert same_weights(model, tmp_path / "pulled")
    assert (tmp_path / "pulled").stat().st_mode == (
        tmp_path / "pulled"
    ).parent.stat().st_mode | 0o055
    assert [path.name for path in tmp_path.iterdir()] == ["pulled"]


@pytest.mark.parametrize(
    ("heads", "search"),
    [
        ("ctc,attention", ["--search", "joint", "--beam", "3"]),
        ("attention", ["--search", "beam", "--beam", "3"]),
    ],
)
def test_a_pulled_decoder_finds_what_it_found_before(  # type: ignore[no-untyped-def]
    server, tiny_corpus: Path, tmp_path: Path, heads: str, search: list[str]
) -> None:
    own = ["decoder.num_layers=1", "decoder.ff_dim=32", "decoder.cross_weighting=sigmoid"]
    cfg = config.load([], [*TINY, *own, f"model.heads=[{heads}]"])
    tokenizer = train_tokenizer(["the quick brown fox jumps over a lazy dog"], cfg.tokenizer)
    torch.manual_seed(0)
    net = Recogniser(cfg, tokenizer.vocab_size)
    with torch.no_grad():
        net.head("attention").decoder.output.weight.mul_(5)
    save_model(tmp_path / "exp" / "model", net.state_dict(), cfg, tokenizer)
    assert main(["push", str(tmp_path / "exp"), "someone/decoder"]) == 0
    assert main(["pull", "someone/decoder", "--out", str(tmp_path / "pulled")]) == 0
    assert same_weights(tmp_path / "exp", tmp_path / "pulled")
    found = []
    for name in ("exp", "pulled"):
        cuts = ("--cuts", tiny_corpus / "test.cuts.jsonl.gz", "--out", tmp_path / f"by-{name}")
        words = ["decode", "--model", tmp_path / name, *cuts, "--threads", "1", *search]
        assert main([str(word) for word in words]) == 0
        found.append((tmp_path / f"by-{name}" / "hypotheses.jsonl").read_text())
    assert found[0] == found[1]
    assert all(json.loads(line)["hypothesis"] for line in found[0].splitlines())
    assert "| decoder | 1 layers, softmax weighting, sinusoidal position, sigmoid across |" in (
        (tmp_path / "pulled" / "README.md").read_text()
    )


def test_the_card_tells_what_the_model_is_and_nothing_private(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "shared"
    hub.push(model, str(target), CardOptions("mit", "en"))
    card = (target / "README.md").read_text()
    meta = front_matter(card)
    assert (meta["license"], meta["language"]) == ("mit", "en")
    assert meta["pipeline_tag"] == "automatic-speech-recognition"
    assert "| attention | sigmoid weighting, alibi position |" in card
    assert "| trained on | train (1.5 hours) |" in card
    assert "| test | 2 | 50.00 | - | none |" in card
    num_params = sum(p.numel() for p in load_model(model).net.parameters() if p.requires_grad)
    assert f"| parameters | {num_params:,} |" in card
    for path in target.iterdir():
        assert b"secret" not in path.read_bytes(), path.name
    hub.push(model / "model", str(tmp_path / "bare"), CardOptions())
    card = (tmp_path / "bare" / "README.md").read_text()
    assert front_matter(card)["license"] == "unknown"
    assert "None were measured" in card


def test_a_shared_folder_works_like_the_hub(model: Path, tmp_path: Path) -> None:
    assert main(["push", str(model), str(tmp_path / "shared")]) == 0
    assert main(["pull", str(tmp_path / "shared"), "--out", str(tmp_path / "mine")]) == 0
    assert same_weights(model, tmp_path / "mine")


Bad = pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("pytorch_model.bin", pickle.dumps({"a": 1}), "no part of a model"),
        ("modeling.py", b"import os", "no part of a model"),
        ("../../escape.yaml", b"x", "no part of a model"),
        ("sub/config.yaml", b"x", "no part of a model"),
        ("config.yaml", b"x" * (1 << 21), "more than the"),
        ("config.yaml", b"encoder: {dim: 31}", "encoder.dim"),
        ("config.yaml", b"data: {train: ['${oc.env:HOME}']}", "interpolation"),
        ("model.safetensors", pickle.dumps({"a": 1}), "damaged"),
        ("model.safetensors", None, "model.safetensors is missing"),
        ("tokenizer.json", b"{}", "not a character tokenizer"),
        ("tokenizer.model", b"xx", "holds both"),
    ],
)


@Bad
def test_what_is_no_model_is_refused(  # type: ignore[no-untyped-def]
    model: Path, server, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    name: str, content: bytes | None, words: str,
) -> None:  # fmt: skip
    files = server.add("a/b", model / "model")
    if content is None:
        del files[name]
    else:
        files[name] = content
    out = tmp_path / "out"
    assert main(["pull", "a/b", "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert words in error
    assert not any(tmp_path.iterdir())
    if words == "no part of a model":  # said before anything was fetched
        assert not any("resolve" in request for request in server.requests)


def test_sizes_and_sums_are_checked(  # type: ignore[no-untyped-def]
    model: Path, server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add("a/b", model / "model")
    server.announced["config.yaml"] = 7
    with pytest.raises(InputError, match=r"config\.yaml: \d+ bytes came, 7 were announced"):
        hub.pull("a/b", tmp_path / "out")
    path = tmp_path / "x"
    path.write_bytes(b"other")
    with pytest.raises(InputError, match="SHA-256"):
        hub._check_download(path, 5, "0" * 64, "x")


def test_hub_errors_are_one_line(  # type: ignore[no-untyped-def]
    model: Path, server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match="a/none: the hub answers 404"):
        hub.pull("a/none", out)
    server.add("a/b", model / "model")
    with pytest.raises(InputError, match="the hub answers 404"):
        hub.pull("a/b", out, revision="v9")
    server.token = "hf_secret"
    with pytest.raises(InputError, match=r"401.*hf auth login"):
        hub.push(model, "a/b", CardOptions())
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert hub.push(model, "a/c", CardOptions()) == f"{server.url}/a/c"
    from huggingface_hub import constants

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, but nobody listens
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
    with pytest.raises(InputError, match="cannot be reached"):
        hub.pull("a/b", out)
    assert not any(tmp_path.iterdir())


def test_targets_that_exist_or_are_none(model: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for call in (
        lambda: hub.push(model, str(tmp_path / "there"), CardOptions()),
        lambda: hub.pull(str(model), tmp_path / "there"),
    ):
        with pytest.raises(InputError, match="exists already"):
            call()
    with pytest.raises(InputError, match="give OWNER/NAME"):
        hub.push(model, "just-a-name", CardOptions())
    with pytest.raises(InputError, match="no such model folder"):
        hub.pull(str(tmp_path / "nowhere"), tmp_path / "out")


def test_without_the_extra_it_is_named(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install sigmoid-asr\[hub\]"):
        hub.pull("a/b", tmp_path / "out")
