"""What is published names nothing of the machine that it was made on, and is text where it is text."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from asr import config
from asr.cli import main
from asr.config import Config
from asr.model.folder import load_model, save_model
from asr.model.recogniser import Recogniser
from asr.share.card import CardOptions
from asr.share.hub import push, without_free_texts
from asr.text.tokenizer import train_tokenizer

TINY = ["encoder.num_layers=1", "encoder.dim=32", "encoder.ff_dim=32"]
SECRET = "/home/somebody/secret"
# Of a name in a stranger's folder of results: a page must show it and do nothing else with it.
HOSTILE = "<script>alert(1)</script> ![x](http://127.0.0.1/x) | `a` \n\n# b"


def texts_of(cfg: Config) -> list[tuple[str, str]]:
    """(option, type) of every option that may hold any text."""
    return [
        (key, str(item.type))
        for key, _, item in config.walk(cfg)
        if item.metadata["choices"] is None and "str" in str(item.type) and key != "model.heads"
    ]


def full_of_paths() -> Config:
    cfg = config.load([], [*TINY, "tokenizer.kind=bpe", "tokenizer.vocab_size=32"])
    sections = {}
    for section in dataclasses.fields(cfg):
        part = getattr(cfg, section.name)
        mine = {
            key.partition(".")[2]: [f"{SECRET}/{key}"] if kind.startswith("list") else SECRET
            for key, kind in texts_of(cfg)
            if key.startswith(f"{section.name}.")
        }
        sections[section.name] = dataclasses.replace(part, **mine)
    return Config(**sections)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    exp = tmp_path_factory.mktemp("somebody") / "my-model"
    cfg = full_of_paths()
    tokenizer = train_tokenizer(["the quick brown fox jumps over a lazy dog"] * 9, cfg.tokenizer)
    torch.manual_seed(0)
    net = Recogniser(cfg, tokenizer.vocab_size)
    save_model(exp / "model", net.state_dict(), cfg, tokenizer)
    run = {
        "train_hours": 1.5,
        "commit": HOSTILE,
        "seed": 7,
        "command": f"asr train {SECRET} {HOSTILE}",
    }
    (exp / "run.json").write_text(json.dumps(run))
    decoded = exp / "decode" / "test"
    decoded.mkdir(parents=True)
    lines = [
        {"id": f"{n}", "speaker": HOSTILE, "duration_s": 1.0, "reference": "a fox", "hypothesis": "a b"}
        for n in range(4)
    ]  # fmt: skip
    (decoded / "hypotheses.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = {"set": "test", "normaliser": "none", "cuts": f"{SECRET}/test", "search": HOSTILE}
    (decoded / "decode.json").write_text(json.dumps(told))
    assert main(["score", str(decoded)]) == 0
    return exp


def test_every_free_text_of_a_configuration_is_left_behind() -> None:
    cfg = full_of_paths()
    keys = [key for key, _ in texts_of(cfg)]
    assert {"data.train", "data.index_folder", "augment.noises", "augment.rooms"} <= set(keys)
    assert config.dump(cfg).count(SECRET) == len(keys)
    public = without_free_texts(cfg)
    assert "somebody" not in config.dump(public)
    different = [
        key
        for (key, old, _), (_, new, _) in zip(config.walk(cfg), config.walk(public), strict=True)
        if old != new
    ]
    assert different == keys, "all else is as it was"


def test_no_published_file_names_a_folder_of_the_machine(experiment: Path, tmp_path: Path) -> None:
    target = tmp_path / "shared" / "model"
    push(experiment, str(target), CardOptions("mit", "en"))
    for path in target.iterdir():
        content = path.read_bytes()
        for private in (b"somebody", b"secret", str(tmp_path).encode(), str(Path.home()).encode()):
            assert private not in content, path.name
    assert "asr pull ./model --out model" in (target / "README.md").read_text()
    load_model(target)


def test_an_exported_graph_forgets_where_it_came_from_at_any_depth() -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("google.protobuf")
    from asr.transcribe.onnx import strip_origins

    def note(message: Any) -> Any:
        message.doc_string = SECRET
        message.metadata_props.add(key="pkg.torch.onnx.stack_trace", value=f"{SECRET}/a.py")
        return message

    def graph(*nodes: Any) -> Any:
        value = note(onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1]))
        weight = note(onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [1], [0.5]))
        return note(
            onnx.helper.make_graph(nodes, "g", [value], [value], [weight], value_info=[value])
        )

    inner = note(onnx.helper.make_node("Neg", ["x"], ["y"]))
    branch = note(onnx.helper.make_node("If", ["c"], ["y"], then_branch=graph(inner)))
    branch.attribute[0].doc_string = SECRET
    opset = [onnx.helper.make_opsetid("", 18)]
    function = note(onnx.helper.make_function("d", "f", ["x"], ["y"], [branch], opset))
    model = note(onnx.helper.make_model(graph(branch), functions=[function], opset_imports=opset))
    assert model.SerializeToString().count(SECRET.encode()) > 20
    strip_origins(model)
    assert SECRET.encode() not in model.SerializeToString()
    assert model.graph.node[0].attribute[0].g.initializer[0].float_data == [0.5]


@pytest.mark.slow
def test_an_exported_model_names_no_folder(experiment: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    onnx = pytest.importorskip("onnx")
    path = tmp_path / "m.onnx"
    assert main(["export", "--model", str(experiment), "--out", str(path)]) == 0
    content = path.read_bytes()
    for private in (b"somebody", b"secret", str(tmp_path).encode(), str(Path.home()).encode()):
        assert private not in content
    assert not re.findall(rb"[\w./-]*/[\w.-]+\.py\b", content)
    for folder in (Path(torch.__file__).parents[2], Path(config.__file__).parents[1], Path.cwd()):
        assert str(folder).encode() not in content
    assert {item.key for item in onnx.load(path).metadata_props} >= {"format", "tokens"}


def test_pages_show_what_strangers_wrote_as_text(experiment: Path, tmp_path: Path) -> None:
    renderer = pytest.importorskip("markdown_it", reason="markdown-it-py not installed")
    names = [tmp_path / f"{n}{HOSTILE.replace('/', '-')}" for n in range(2)]
    for name in names:
        shutil.copytree(experiment, name)
    out = tmp_path / "out"
    results, page = tmp_path / "RESULTS.md", tmp_path / "page.md"
    words = ["compare", *map(str, names), "--out", str(out), "--results", str(results)]
    assert main([*words, "--page", str(page)]) == 0
    push(experiment, str(tmp_path / "model"), CardOptions())
    for path in (out / "compare.md", results, page, tmp_path / "model" / "README.md"):
        text = path.read_text()
        assert "script" in text or path.parent.name == "model"
        markdown = renderer.MarkdownIt("commonmark", {"html": True}).enable("table")
        shown = markdown.render(text)
        made = set(re.findall(r"<(\w+)", shown))
        assert made <= {
            "h1",
            "h2",
            "p",
            "table",
            "thead",
            "tbody",
            "tr",
            "th",
            "td",
            "ul",
            "li",
        } | {*("code", "pre", "strong", "img", "hr")}, path.name
        assert shown.count("<img") == (1 if path == page else 0), path.name
        assert "<a" not in shown
        assert shown.count("<h1>") <= 1
