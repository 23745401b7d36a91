"""Factors of `asr compare`: options that are not read, follow from others, or are lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_experiments import seeds_with

from asr.compare.compare import compare


def test_options_that_a_kind_does_not_read_make_no_difference(tmp_path: Path) -> None:
    folders = []
    for kind, kernel in (("conformer", 15), ("transformer", 31)):
        settings = {"encoder.kind": kind, "encoder.conv_kernel": kernel}
        folders += seeds_with(tmp_path, kind, 0.2, settings, encoder=kind)
    assert [factor.keys for factor in compare(folders).factors] == [["encoder.kind"]]
    settings = {"encoder.kind": "conformer", "encoder.conv_kernel": 31}
    folders += seeds_with(tmp_path, "wide", 0.2, settings, encoder="conformer")
    (factor,) = compare(folders).factors
    assert factor.levels == ["conformer+conv_kernel=15", "transformer", "conformer+conv_kernel=31"]


def test_options_that_a_front_end_does_not_read_make_no_difference(tmp_path: Path) -> None:
    folders = []
    for kind, scale in (("kaldi", 1.0), ("whisper", 32768.0)):
        folders += seeds_with(
            tmp_path, kind, 0.2, {"features.kind": kind, "features.scale": scale}, weighting=kind
        )
    (factor,) = compare(folders).factors
    assert factor.keys == ["attention.weighting", "features.kind"]


def test_options_of_a_head_that_is_not_there_make_no_difference(tmp_path: Path) -> None:
    folders = [
        *seeds_with(tmp_path, "ctc", 0.1, {"model.heads": ["ctc"]}),
        *seeds_with(tmp_path, "other", 0.2, {"model.heads": ["other"], "ctc.consistency": 0.2}, 2),
        *seeds_with(tmp_path, "same", 0.2, {"model.heads": ["other"], "ctc.consistency": 0.0}, 2),
    ]
    comparison = compare(folders)
    assert [factor.keys for factor in comparison.factors] == [["model.heads"]]
    assert {len(one.names) for one in comparison.types} <= {2, 3}
    assert not [note for note in comparison.notes if "ctc.consistency" in note]


def test_an_option_that_follows_from_another_is_not_named_beside_it(tmp_path: Path) -> None:
    """As many heads of keys as of queries, a width that is six times the encoder's."""
    folders = []
    for heads, dim in ((2, 32), (4, 64), (2, 64)):
        settings = {"attention.num_heads": heads, "encoder.dim": dim}
        settings |= {"encoder.kind": "ebranchformer", "attention.num_kv_heads": 0}
        folders += seeds_with(tmp_path, f"{heads}-{dim}", 0.2, settings, encoder="ebranchformer")
    names = [factor.name for factor in compare(folders).factors]
    assert names == ["attention.num_heads", "encoder.dim"]


def test_what_may_differ_freely_is_no_factor(tmp_path: Path) -> None:
    one = {"train.num_threads": 1, "data.num_workers": 0, "attention.backend": "reference"}
    other = {"train.num_threads": 4, "data.num_workers": 3, "train.compile": True}
    other |= {"attention.num_kv_heads": 4}  # which is as many as there are heads
    folders = seeds_with(tmp_path, "a", 0.2, one, weighting="softmax")
    folders += seeds_with(tmp_path, "b", 0.2, other, weighting="relu")
    assert [factor.keys for factor in compare(folders).factors] == [["attention.weighting"]]


def test_an_option_of_one_map_says_nothing_of_the_others(tmp_path: Path) -> None:
    folders = []
    for name, weighting, power, rate in (
        ("s", "sigmoid", 3, 0.2),
        ("p3", "polynomial", 3, 0.3),
        ("p5", "polynomial", 5, 0.1),
    ):
        settings = {"attention.weighting": weighting, "attention.power": power}
        folders += seeds_with(tmp_path, name, rate, settings, weighting=weighting)
    comparison = compare(folders)
    assert [one.name for one in comparison.factors] == ["weighting+attention.power"]
    assert [one.label for one in comparison.types] == [
        "sigmoid",
        "polynomial+power=3",
        "polynomial+power=5",
    ]


def test_a_window_is_a_factor_and_a_run_from_before_there_were_any_has_none(tmp_path: Path) -> None:
    folders = seeds_with(tmp_path, "before", 0.3, {})
    folders += seeds_with(tmp_path, "window", 0.1, {"attention.window": 8})
    comparison = compare(folders)
    assert [one.keys for one in comparison.factors] == [["attention.window"]]
    assert [one.label for one in comparison.types] == ["window=0", "window=8"]


@pytest.mark.parametrize(
    "settings",
    [
        {"tokenizer.kind": "char", "tokenizer.vocab_size": 300},
        {"encoder.left_chunks": [4]},
        {"ctc.intermediate_weight": 0.5},
        {"attention.weighting": "relu", "attention.row_scale": "1/n"},
        {"encoder.kind": "ebranchformer", "encoder.cgmlp_dim": 6 * 256},
    ],
)
def test_what_nothing_reads_or_a_default_says_already_is_no_factor(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    *same, (key, _) = settings.items()
    words = {"weighting": "relu"} if key == "attention.row_scale" else {}
    folders = seeds_with(tmp_path, "a", 0.3, dict(same), **words)
    folders += seeds_with(tmp_path, "b", 0.1, settings, **words)
    assert key not in str([one.keys for one in compare(folders).factors])


def test_an_option_that_follows_from_two_others_is_no_factor(tmp_path: Path) -> None:
    """Chunks take causal convolutions of the kinds that have convolutions."""
    folders = []
    for kind in ("conformer", "ebranchformer", "transformer"):
        for chunks in ([], [0, 8]):
            settings: dict[str, Any] = {"encoder.kind": kind, "encoder.chunk_sizes": chunks}
            if kind != "transformer":
                settings["encoder.causal"] = bool(chunks)
            name, rate = f"{kind}{len(chunks)}", 0.2 if chunks else 0.3
            folders += seeds_with(tmp_path, name, rate, settings, encoder=kind)
    comparison = compare(folders)
    assert [one.name for one in comparison.factors] == ["encoder.kind", "encoder.chunk_sizes"]
    assert [
        one
        for one in comparison.notes
        if one.startswith("encoder.causal follows from encoder.kind and encoder.chunk_sizes")
    ]
    (chunked,) = (
        one
        for one in comparison.type_differences
        if one.factor == "encoder.chunk_sizes" and not one.over
    )
    assert len(chunked.within) == 3


def test_heads_are_named_as_they_are_said(tmp_path: Path) -> None:
    folders = seeds_with(tmp_path, "alone", 0.3, {"model.heads": ["ctc"]})
    folders += seeds_with(tmp_path, "both", 0.2, {"model.heads": ["ctc", "attention"]})
    comparison = compare(folders)
    names = [row.levels["model.heads"] for row in comparison.rows]
    assert names == ["heads=ctc"] * 3 + ["heads=ctc,attention"] * 3
    (found,) = (one for one in comparison.type_differences if one.factor == "model.heads")
    assert {found.name, found.baseline} == {"heads=ctc", "heads=ctc,attention"}


def test_an_option_whose_name_several_sections_have_is_named_with_its_own(tmp_path: Path) -> None:
    heads = {"model.heads": ["ctc", "attention"]}
    folders = seeds_with(tmp_path, "less", 0.3, heads | {"decoder.weight": 0.3})
    folders += seeds_with(tmp_path, "more", 0.2, heads | {"decoder.weight": 0.7})
    names = [row.levels["decoder.weight"] for row in compare(folders).rows]
    assert names == ["decoder.weight=0.3"] * 3 + ["decoder.weight=0.7"] * 3
