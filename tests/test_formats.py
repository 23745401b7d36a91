"""What older versions wrote means what it meant."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from older_folders import unpack_format_1
from safetensors.torch import load_file, save_file

from asr import box
from asr.config import CtcConfig, dump, load
from asr.decode.decode import decode_set
from asr.errors import InputError, InputWarning
from asr.formats import FORMAT, OPTIONS, is_old, renamed_in, upgrade_options, upgrade_weights
from asr.model.folder import load_model, save_int8
from asr.search.options import SearchOptions
from asr.share.card import CardOptions
from asr.share.hub import push
from asr.weights_file import WeightsFile

OLD = """
encoder: {intermediate_ctc: [2], intermediate_ctc_weight: 0.25, num_layers: 3}
train: {cr_ctc: 0.2}
"""


def test_old_options_have_their_new_names(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text(OLD)
    with pytest.warns(InputWarning, match=r"old.yaml: encoder.intermediate_ctc is called ctc\.int"):
        config = load([tmp_path / "old.yaml"])
    with warnings.catch_warnings():  # of a file that a program wrote
        warnings.simplefilter("error")
        assert load([tmp_path / "old.yaml"], follow_base=False) == config
    assert config.ctc.intermediate_layers == [2]
    assert (config.ctc.intermediate_weight, config.ctc.consistency) == (0.25, 0.2)
    (tmp_path / "new.yaml").write_text(dump(config))
    assert f"format: {FORMAT}" in dump(config)
    assert load([tmp_path / "new.yaml"], follow_base=False) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("format: 3", "format 3: this version reads 1 to 2"),
        ("format: yes", "format true: this version reads"),
        ("format:", "format null: this version reads"),
        ("ctc: 5\ntrain: {cr_ctc: 0.1}", "ctc: expected keys and values, got 5"),
        ("format: 2\n" + OLD, "encoder.intermediate_ctc is called ctc.intermediate_layers now"),
        (
            OLD + "ctc: {consistency: 0.1}",
            "train.cr_ctc is called ctc.consistency now; give it once",
        ),
    ],
)
def test_refusals(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        load([tmp_path / "x.yaml"])


def test_the_command_of_an_older_run_goes_on() -> None:
    words = ["encoder.intermediate_ctc=[2]", "train.cr_ctc=0.2", "encoder.num_layers=3"]
    with pytest.warns(InputWarning) as told:
        config = load([], words)
    assert [str(one.message) for one in told] == [
        "override 'encoder.intermediate_ctc=[2]': encoder.intermediate_ctc is called "
        "ctc.intermediate_layers now",
        "override 'train.cr_ctc=0.2': train.cr_ctc is called ctc.consistency now",
    ]
    assert (config.ctc.intermediate_layers, config.ctc.consistency) == ([2], 0.2)
    with pytest.warns(InputWarning), pytest.raises(InputError, match=r"ctc\.consistency = -1"):
        load([], ["train.cr_ctc=-1"])


def test_a_section_without_a_line_takes_the_option(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("train: {cr_ctc: 0.2}\nctc:\n")
    assert load([tmp_path / "x.yaml"], follow_base=False).ctc.consistency == 0.2


def test_the_page_has_every_old_name_beside_the_one_of_today() -> None:
    page = (Path(__file__).parents[1] / "docs" / "formats.md").read_text(encoding="utf-8")
    for old, new in OPTIONS.items():
        assert f"| `{old}` | `{new}` |" in page


def test_content_stays_as_it_is() -> None:
    content = {"encoder": {"intermediate_ctc": [1]}, "train": None}
    upgrade_options(content, "x")
    assert content == {"encoder": {"intermediate_ctc": [1]}, "train": None}


def test_weights_go_there_and_back() -> None:
    value = torch.zeros(2)
    new = upgrade_weights({"head.weight": value, "encoder.norm.bias": value, "headless": value})
    assert list(new) == ["heads.ctc.linear.weight", "encoder.norm.bias", "headless"]
    tree = {"model": new, "groups": [{"params": list(new)}], "step": 3}
    old = renamed_in(tree, old=True)
    assert old["groups"][0]["params"] == ["head.weight", "encoder.norm.bias", "headless"]
    assert old["model"]["head.weight"] is value
    assert renamed_in(old, old=False) == tree


@pytest.fixture(scope="module")
def format_1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders that the package wrote before formats had a number."""
    return unpack_format_1(tmp_path_factory.mktemp("format-1"))


@pytest.mark.parametrize("search", ["greedy", "beam"])
def test_a_model_folder_of_format_1_decodes_to_the_same_text(
    search: str, format_1: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    made = format_1 / "made"
    assert "head.weight" in WeightsFile(made / "model" / "model.safetensors").shapes
    model = load_model(made)
    assert model.config.ctc == CtcConfig([1], 0.4, 0.2)
    cuts = tiny_corpus / "test.cuts.jsonl.gz"
    decode_set(model, cuts, tmp_path / "out", options=SearchOptions(search=search))
    assert texts(tmp_path / "out") == texts(made / search)
    assert len("".join(texts(made / search).values())) > 50


def texts(folder: Path) -> dict[str, str]:
    lines = (folder / "hypotheses.jsonl").read_text().splitlines()
    return {line["id"]: line["hypothesis"] for line in map(json.loads, lines)}


def test_what_is_published_of_an_old_folder_is_of_this_format(
    format_1: Path, tmp_path: Path
) -> None:
    push(format_1 / "made", str(tmp_path / "new"), CardOptions())
    check_is_of_this_format(tmp_path / "new")
    found, expected = (
        load_model(x).net.state_dict() for x in (tmp_path / "new", format_1 / "made")
    )
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def check_is_of_this_format(folder: Path) -> None:
    assert yaml.safe_load((folder / "config.yaml").read_text())["format"] == FORMAT
    assert not any(map(is_old, WeightsFile(folder / "model.safetensors").load_stored()))


def test_an_old_folder_in_8_bits_is_copied_into_this_format(tmp_path: Path) -> None:
    """The model in the box is of format 1, scales of its head among the weights."""
    old = WeightsFile(box.folder(box.DEFAULT) / "model.safetensors").load_stored()
    assert "head.weight.int8_scale" in old
    save_int8(box.folder(box.DEFAULT), tmp_path / "new")
    check_is_of_this_format(tmp_path / "new")
    new = WeightsFile(tmp_path / "new" / "model.safetensors").load_stored()
    assert torch.equal(new["heads.ctc.linear.weight"], old["head.weight"])


@pytest.mark.parametrize("shape_differs", [False, True])
def test_a_weight_by_both_its_names_is_refused(tmp_path: Path, shape_differs: bool) -> None:
    folder = unpack_format_1(tmp_path) / "made" / "model"
    weights = load_file(folder / "model.safetensors")
    twin = weights["head.bias"] + 1
    weights["heads.ctc.linear.bias"] = torch.cat([twin, twin]) if shape_differs else twin
    save_file(weights, folder / "model.safetensors")
    message = r"damaged: head\.bias and heads\.ctc\.linear\.bias are one weight"
    with pytest.raises(InputError, match=message):
        load_model(folder)
    with pytest.raises(InputError, match=r"head\.bias and heads\.ctc\.linear\.bias are one weight"):
        upgrade_weights(weights)
