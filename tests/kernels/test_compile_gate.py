"""Kernels compiled for GPUs that need not be here: no spills, matrix instructions, few MUFU.

The table census.json holds the bounds and names the triton version it was made with; another
version compiles differently, so the gate holds only for that one.
"""

import os

import pytest

triton = pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

from sigmoid_attention.triton import census, configs, device, launch  # noqa: E402
from sigmoid_attention.triton.census import Variant  # noqa: E402

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
)


def check(variant):
    if triton.__version__ != TABLE["triton"]:
        pytest.skip(f"the table is of triton {TABLE['triton']}, this is {triton.__version__}")
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
    assert launch.MODES["exact"] == census.MODES["mixed"]
    for name, known in TABLE["kernels"].items():
        if name.endswith("/mixed") and name not in census.EXCEPTIONS:
            assert known["special_per_score"] <= 1.0, name


def test_exceptions_are_needed_and_of_the_backward_in_float32_alone():
    for name, most in census.EXCEPTIONS.items():
        assert not name.startswith("forward/")
        assert "/d128/fp32/relative/" in name
        assert 1.0 < TABLE["kernels"][name]["special_per_score"] <= most


@pytest.mark.parametrize(
    ("kernel", "tile", "mode"),
    [
        ("forward", (16, 16, 8), "POLYNOMIAL"),
        ("query", (16, 16, 8), "MIXED"),
        ("forward", (16, 16, 4), "MIXED"),
        ("query", (64, 64, 8), "MIXED"),
    ],
)
def test_a_thread_with_one_score_pairs_it_with_none(kernel, tile, mode):
    bm, bn, warps = tile
    config = configs.Config(bm, bn, warps, 1)
    assert launch.mode_for(device.MIXED.value, kernel, config) == getattr(device, mode).value
    assert launch.mode_for(device.TANH.value, kernel, config) == device.TANH.value


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
