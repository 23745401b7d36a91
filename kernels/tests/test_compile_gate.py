"""Kernels compiled for GPUs that need not be here: no spills, matrix instructions, few MUFU.

The table census.json holds the bounds and names the triton version it was made with; another
version compiles differently, so the gate holds only for that one.
"""

import json
import os
import sys
from dataclasses import replace

import pytest

triton = pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

from sigmoid_attention.triton import (  # noqa: E402
    census,
    configs,
    device,
    launch,
    machine,
    tune,
    weightings,
)
from sigmoid_attention.triton.census import Variant  # noqa: E402
from sigmoid_attention.weightings import served_by  # noqa: E402

TABLE = census.read()
# The plainest calls, which compile fastest; test_every_kernel has the others.
QUICK = (
    Variant("forward", 90, 64, "bf16", "none", False),
    Variant("forward", 80, 64, "bf16", "none", True),
    Variant("forward", 90, 64, "bf16", "relative", False),
    Variant("query", 90, 64, "bf16", "relative", False),
    Variant("key", 90, 64, "bf16", "relative", False),
    Variant("offset", 90, 64, "bf16", "relative", False),
    Variant("key", 80, 64, "fp32", "alibi", True),
    # of the other maps a kernel of each kind
    *(
        Variant(kernel, 90, 64, "bf16", "alibi", True, mode)
        for mode in weightings.MODES
        for kernel in census.KERNELS
    ),
)


def need_the_triton_of_the_table():
    if triton.__version__ != TABLE["triton"]:
        pytest.skip(f"the table is of triton {TABLE['triton']}, this is {triton.__version__}")


def check(variant):
    need_the_triton_of_the_table()
    allowed = TABLE["kernels"].get(variant.name)
    assert census.complaints(variant, census.compile_variant(variant), allowed) == []


@pytest.mark.parametrize("variant", QUICK, ids=lambda v: v.name)
def test_quick(variant):
    check(variant)


@pytest.mark.slow
@pytest.mark.parametrize("variant", census.variants(), ids=lambda v: v.name)
def test_every_kernel(variant):
    check(variant)


@pytest.mark.parametrize("name", TABLE["kernels"])
def test_the_table_itself_is_within_the_gate(name):
    known = TABLE["kernels"][name]
    variant = next(v for v in census.variants() if v.name == name)
    assert census.complaints(variant, census.Count(**known), known) == []


def test_every_variant_is_in_the_table_and_nothing_else():
    assert set(TABLE["kernels"]) == {v.name for v in census.variants()}


def test_the_weights_that_are_counted_are_the_default():
    assert launch.MODES["exact"] == census.MODES["exact"]
    weights = {v.name: v.weights for v in census.variants()}
    for name, known in TABLE["kernels"].items():
        if name.endswith("/exact") and name not in census.EXCEPTIONS:
            assert known["special_per_score"] <= (
                1.25 if census.MODES["quad"] == weights[name] else 1.5
            ), name


def test_every_map_of_the_table_is_compiled_at_every_position_and_size():
    compiled = {v.mode for v in census.variants()}
    assert set(served_by("triton")) - {"softmax", "sigmoid"} == set(weightings.MODES)
    assert set(weightings.MODES) <= compiled
    sigmoids = [v for v in census.variants() if v.mode == "exact" and v.channels in (64, 128)]
    for mode in weightings.MODES:
        same = {replace(v, mode=mode) for v in sigmoids if v.runs and v.dtype != "fp16"}
        assert same <= set(census.variants())


def test_a_map_has_tiles_of_its_own_where_the_shared_ones_spill():
    assert configs.own_row(80, "forward/128", "relu") == "forward/128/relu"
    assert configs.own_row(80, "forward/64", "relu") == "forward/64"
    assert configs.own_row(80, "forward/128", "sigmoid") == "forward/128"
    assert not [row for row in census.SPILLS if row.endswith(tuple(weightings.MODES))]


def test_exceptions_are_needed_and_of_float32_alone():
    for name, most in census.EXCEPTIONS.items():
        assert "/d128/fp32/relative/" in name
        assert 1.5 < TABLE["kernels"][name]["special_per_score"] <= most


@pytest.mark.parametrize(
    ("program", "table", "words"),
    [
        (census, "CENSUS", ["--only", "d64"]),
        (census, "CENSUS", ["--missing"]),
        (tune, "CENSUS", ["--only", "sm_90/key/64"]),
        (tune, "TABLE", ["--only", "sm_90/key/64"]),
    ],
)
def test_a_table_of_another_triton_is_not_written_in_part(
    tmp_path, monkeypatch, program, table, words
):
    path = tmp_path / "table.json"
    path.write_text(json.dumps({"triton": "0.1", "kernels": {}, "tiles": {}}))
    before = path.read_text()
    current = tmp_path / "current.json"
    current.write_text(json.dumps({"triton": triton.__version__, "kernels": {}, "tiles": {}}))
    monkeypatch.setattr(tune, "TABLE", current)
    for module in (census, tune):
        monkeypatch.setattr(module, "CENSUS", current)
        monkeypatch.setattr(module, table, path, raising=False)
    monkeypatch.setattr(sys, "argv", ["program", *words, "--write"])
    with pytest.raises(SystemExit, match=r"table\.json is of triton 0\.1, this is .*--write alone"):
        program.main()
    assert path.read_text() == before


@pytest.mark.parametrize("there", [False, True])
def test_the_whole_table_is_made_anew(tmp_path, monkeypatch, there):
    """From nothing, or in place of one that another triton made; and completed, where it was cut."""
    path = tmp_path / "table.json"
    if there:
        path.write_text(json.dumps({"triton": "0.1", "kernels": {QUICK[1].name: {}}}))
    monkeypatch.setattr(census, "CENSUS", path)
    monkeypatch.setattr(census, "variants", lambda: QUICK[:1])
    monkeypatch.setattr(sys, "argv", ["census", "--write", *([] if there else ["--missing"])])
    assert census.main() == 0
    made = json.loads(path.read_text())
    assert made["triton"] == triton.__version__
    assert set(made["kernels"]) == {QUICK[0].name}


def test_all_tiles_are_found_anew(tmp_path, monkeypatch):
    need_the_triton_of_the_table()
    tiles, counts = tmp_path / "tiles.json", tmp_path / "counts.json"
    old = {"how": "by hand", "triton": "0.1", "tiles": {"90": {"offset/64/relative": [1, 1, 1, 1]}}}
    tiles.write_text(json.dumps(old))
    counts.write_text(json.dumps({"triton": "0.1", "kernels": {QUICK[0].name: {}}}))
    monkeypatch.setattr(tune, "TABLE", tiles)
    for module in (census, tune):
        monkeypatch.setattr(module, "CENSUS", counts)
        monkeypatch.setattr(module, "variants", lambda: [QUICK[5]])
    monkeypatch.setattr(sys, "argv", ["tune", "--write"])
    assert tune.main() == 0
    made, counted = json.loads(tiles.read_text()), json.loads(counts.read_text())
    assert made["triton"] == counted["triton"] == triton.__version__
    # the compiler that is installed chooses what is shipped, and counts what is in the table
    assert made["tiles"]["90"] == {QUICK[5].row: configs.table()["90"][QUICK[5].row]}
    assert counted["kernels"].keys() == {QUICK[5].name}
    found = census.Count(**counted["kernels"][QUICK[5].name])
    assert census.complaints(QUICK[5], found, TABLE["kernels"][QUICK[5].name]) == []


@pytest.mark.parametrize("kernel", census.KERNELS)
def test_scores_go_in_fours_where_rounding_hides_the_rest(kernel):
    exact = launch.MODES["exact"]
    fours = device.SHARED.value if kernel == "offset" else device.QUAD.value
    assert launch.mode_for(exact, kernel, pairs=False) == fours
    assert launch.mode_for(exact, kernel, pairs=True) == device.SHARED.value
    assert launch.mode_for(launch.MODES["fast"], kernel, pairs=True) == device.TANH.value


def test_the_forward_issues_little_for_a_score():
    """The sum that bounds it: what matrix products at d = 64 leave time for is 8."""
    need_the_triton_of_the_table()
    count = census.compile_variant(QUICK[0])
    assert count.slots_per_score < 9
    assert count.least_slots_per_score <= count.slots_per_score


def test_instructions_are_counted_along_the_longest_and_the_shortest_way():
    sass = """
.L_x_1:
        /*0010*/                   FADD R1, R1, R2 ;
        /*0020*/              @P0 BRA `(.L_x_2) ;
        /*0030*/                   MUFU.RCP R1, R1 ;
        /*0040*/                   FMUL R1, R1, R2 ;
.L_x_2:
        /*0050*/              @!P1 BRA `(.L_x_1) ;
        /*0060*/                   EXIT ;
"""
    (loop,) = machine.loops(sass)
    longest, shortest = machine.walk(loop)
    assert longest == {"FADD": 1, "BRA": 2, "MUFU": 1, "FMUL": 1}
    assert shortest == {"FADD": 1, "BRA": 2}


def test_every_shipped_tile_is_in_the_table():
    shipped = {(int(arch), row) for arch, rows in configs.table().items() for row in rows}
    assert shipped == {(v.arch, v.row) for v in census.variants()}


@pytest.mark.parametrize("capability", [75, 80, 86, 89, 90, 100])
def test_every_device_finds_a_tile(capability):
    for kernel in configs.KERNELS:
        for channels in (32, 64, 80, 128):
            for position in ("none", "alibi", "table", "relative"):
                for wide in (False, True):
                    row = configs.row_name(kernel, channels, position, wide)
                    assert configs.choose(capability, row).warps in (4, 8)
