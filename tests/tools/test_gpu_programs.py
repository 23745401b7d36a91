"""The programs of tools/gpu.sh: who is dealt what, what outlives a crash, what the page says."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import gpu_bench
import gpu_check
import gpu_contenders
import gpu_farm
import gpu_held
import gpu_report
import gpu_tune
import pytest
import torch

WORKER = """
import os, sys, time
sys.path.insert(0, {tools!r})
import gpu_farm

def run(unit):
    for name in unit["cases"]:
        if name in unit["skip"]:
            continue
        gpu_farm.begin(name)
        if name == "crash":
            print("why it crashed", file=sys.stderr, flush=True)
            os._exit(3)
        if name == "hang":
            time.sleep(60)
        failed = gpu_farm.FATAL if name == "poison" else ""
        gpu_farm.end({{"name": name, "failed": failed, "process": os.getpid()}})

gpu_farm.work(run)
"""


def farm(tmp_path: Path, limit_s: float = 60.0) -> gpu_farm.Farm:
    program = tmp_path / "worker.py"
    program.write_text(WORKER.format(tools=str(Path(gpu_farm.__file__).parent)))
    return gpu_farm.Farm([sys.executable, str(program)], 1, limit_s, first_s=20.0, case_s=2.0)


def test_what_a_crash_a_hang_and_a_lost_context_leave(tmp_path: Path) -> None:
    dealer = farm(tmp_path)
    units = [
        {"name": "first", "cases": ["a", "crash", "b", "hang", "c"]},
        {"name": "second", "cases": ["poison", "d"]},
    ]
    records = {r["name"]: r for r in dealer.run(units)}
    assert list(records) == ["a", "crash", "b", "hang", "c", "poison", "d"]
    assert "died" in records["crash"]["failed"]
    assert "why it crashed" in records["crash"]["failed"]
    assert "not finished in time" in records["hang"]["failed"]
    assert [n for n, r in records.items() if r["failed"]] == ["crash", "hang", "poison"]
    assert records["poison"]["process"] != records["d"]["process"]
    assert records["c"]["process"] == records["poison"]["process"]
    assert not dealer.left_over


def test_what_was_not_reached_is_named(tmp_path: Path) -> None:
    dealer = farm(tmp_path, limit_s=2.0)
    dealer.first_s = 60.0
    records = dealer.run([{"name": "one", "cases": ["hang"]}, {"name": "two", "cases": ["a"]}])
    assert records == []
    assert dealer.left_over == ["hang", "two"]


def test_no_two_units_of_the_check_compile_the_same_kernel() -> None:
    units = gpu_check.units(rehearse=False)
    names = [case["name"] for unit in units for case in unit.get("cases", ())]
    assert len(names) == len(set(names))
    kernels = [
        (c["dtype"], c["d"], c["position"], c["mask"] == "none")
        for unit in units
        if unit["name"].startswith(("bfloat16", "float16", "float32"))
        for c in unit["cases"][:1]
    ]
    assert len(kernels) == len(set(kernels)) == 2 * 4 * 4 * 2 + 4
    assert units == gpu_check.units(rehearse=False)  # the same lot in every run


def test_what_is_left_of_the_check() -> None:
    units = gpu_check.units(rehearse=False)
    (last,) = (unit for unit in units if unit["name"] == "odd relative")
    names = [case["name"] for case in last["cases"]]
    done = set(names[1:])
    only = [units[5]["name"], last["name"]]
    left = gpu_check.chosen(units, only, done, anew=[names[-1]])
    assert [unit["name"] for unit in left] == only
    assert left[0] == units[5]
    assert [case["name"] for case in left[1]["cases"]] == [names[0], names[-1]]
    assert gpu_check.chosen(units, [last["name"]], set(names), anew=[]) == []
    special = gpu_check.chosen(units, ["special float16"], set(names), anew=[])
    assert gpu_check.split(special, 2) == special
    parts = gpu_check.split(left, 2)
    assert [c for u in parts for c in u["cases"]] == [c for u in left for c in u["cases"]]
    assert max(len(u["cases"]) for u in parts) == 2
    assert len({u["name"] for u in parts}) == len(parts)


def test_cases_that_passed_are_read_from_one_run_or_several(tmp_path: Path) -> None:
    cases = [{"name": "a", "failed": ""}, {"name": "b", "failed": "off"}]
    one, several = tmp_path / "one.json", tmp_path / "several.json"
    gpu_farm.write(one, {"cases": cases})
    gpu_farm.write(several, {"runs": [{"cases": cases}, {"cases": [{"name": "c", "failed": ""}]}]})
    assert gpu_check.passed(one) == {"a"}
    assert gpu_check.passed(several) == {"a", "c"}


def test_a_wrong_result_is_named() -> None:
    case = {"name": "x", "dtype": "float16"}
    exact = {"o": torch.ones(4, dtype=torch.float64)}
    good, off = {"o": torch.ones(4)}, {"o": torch.tensor([1.0, 1.0, 1.0, 1.1])}
    from gpu_cases import judge

    assert judge(case, good, (good, good), exact, {})["failed"] == ""
    assert "o off by 0.05 (allowed 0.002)" in judge(case, off, (off, off), exact, {})["failed"]
    assert judge(case, off, (off, off), exact, off)["failed"] == ""  # no worse than plain
    assert "differs between two runs" in judge(case, good, (good, off), exact, {})["failed"]
    nan = {"o": torch.full((4,), float("nan"))}
    assert "not finite" in judge(case, nan, (good, good), exact, {})["failed"]


def asked(**more: Any) -> argparse.Namespace:
    usual: dict[str, Any] = {"modes": False, "parts": list(gpu_contenders.PARTS), "dims": [64, 128]}
    usual |= {"lengths": None, "quick": False, "only": [""], "rehearse": False, "dtype": "bfloat16"}
    usual |= {"held": False}
    return argparse.Namespace(**(usual | more))


def test_rows_of_the_table() -> None:
    rows = gpu_bench.rows(asked())
    assert rows[0][1] == gpu_contenders.Shape(16, 16, 1024, 64)
    assert {(s.t, s.d) for _, s, _ in rows} == {
        (t, d) for t in (512, 1024, 2048, 4096, 16384, 65536) for d in (64, 128)
    }
    assert all(s.b * s.h * s.t * s.d >= 16_000 * 16 * 64 for _, s, _ in rows)
    assert rows[-1][2].name == "flex"
    with_flash = {(p, str(s)) for p, s, c in rows if c.name == gpu_report.FLASH}
    assert {(p, str(s)) for p, s, _ in rows} == with_flash  # what each ratio needs
    quick = gpu_bench.rows(asked(quick=True))
    assert {s.t for _, s, _ in quick} == set(gpu_contenders.FEW)


def test_held_rows_come_in_the_order_of_the_lengths_that_are_given() -> None:
    rows = gpu_bench.rows(asked(held=True, lengths=[4096, 65536, 1024], parts=["alibi", "causal"]))
    assert list(dict.fromkeys(s.t for _, s, _ in rows)) == [4096, 65536, 1024]
    assert "flex" in [c.name for p, s, c in rows if p == "alibi" and s.t == 4096]
    late = gpu_bench.rows(asked(lengths=[4096, 65536], parts=["alibi"]))
    assert [c.name for _, _, c in late][-2:] == ["flex softmax", "flex"]


HELD_WORKER = """
import os, sys, time
sys.path.insert(0, {tools!r})
import gpu_farm

held = {{}}

def run(unit):
    name = unit["name"]
    gpu_farm.begin(name)
    failed = "no such thing" if name == "refused" else ""
    if unit["step"] == "prepare":
        if name == "crash":
            os._exit(3)
        held[name] = os.getpid()
        gpu_farm.end({{"name": name, "failed": failed}})
    else:
        failed = gpu_farm.FATAL if name == "poison" else ""
        gpu_farm.end({{"name": name, "failed": failed, "row": {{"from": held[name]}}}})

gpu_farm.work(run)
"""


def test_what_is_timed_by_the_process_that_compiled_it(tmp_path: Path) -> None:
    program = tmp_path / "worker.py"
    program.write_text(HELD_WORKER.format(tools=str(Path(gpu_farm.__file__).parent)))
    pool = gpu_held.Pool([sys.executable, str(program)], 1)
    names = ["before", "crash", "refused", "a", "poison", "b"]
    pool.prepare([{"name": name, "contender": name} for name in names], 30.0)
    assert list(pool.held) == ["a", "poison", "b"]
    assert pool.failed["before"] == gpu_held.LOST
    assert pool.failed["refused"] == "no such thing"
    assert "died" in pool.failed["crash"]
    rows = [pool.measure({"name": name}, 10.0) for name in ("a", "poison")]
    assert rows[0]["row"] == rows[1]["row"]
    assert pool.failed["b"] == gpu_held.LOST
    assert not pool.held
    pool.stop()


def test_what_would_end_late_is_not_begun(tmp_path: Path) -> None:
    program = tmp_path / "worker.py"
    program.write_text(HELD_WORKER.format(tools=str(Path(gpu_farm.__file__).parent)))
    pool = gpu_held.Pool([sys.executable, str(program)], 1, took_s={"slow": 60.0})
    units = [{"name": "long", "contender": "slow"}, {"name": "short", "contender": "quick"}]
    pool.prepare(units, 30.0)
    assert list(pool.held) == ["short"]
    assert pool.left_over == ["long"]
    pool.stop()


def test_what_is_compiled_beforehand() -> None:
    units = gpu_bench.units(asked())
    assert len({u["name"] for u in units}) == len(units)
    ours = {(u["part"], u["shape"][3]) for u in units if u["contender"] == "ours"}
    assert ours == {(p, d) for p in gpu_contenders.PARTS for d in (64, 128)}


@pytest.mark.parametrize("part", gpu_contenders.PARTS)
def test_contenders_agree_with_float64(part: str) -> None:
    scene = gpu_contenders.Scene(part, gpu_contenders.Shape(2, 2, 20, 16), "cpu", torch.float32)
    run = 0
    for contender in gpu_contenders.contenders(part):
        if contender.name in ("sdpa flash", "full matrix"):
            call = contender.make(scene)
            *tensors, _ = gpu_contenders.arranged(scene, contender.layout)
            o = gpu_contenders.back(scene, call(*tensors[:3]), contender.layout)
            assert gpu_contenders.error_against_float64(scene, contender, o) < 1e-5
            run += 1
    assert run


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("part", ["plain", "causal", "alibi"])
def test_flex_attention_is_what_it_is_timed_against(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda f, **_: f)
    scene = gpu_contenders.Scene(part, gpu_contenders.Shape(2, 2, 20, 16), "cpu", torch.float32)
    found = [c for c in gpu_contenders.contenders(part) if c.name.startswith("flex")]
    assert [c.name for c in found] == ["flex softmax", "flex"][: 1 if part == "causal" else 2]
    for contender in found:
        o = contender.make(scene)(scene.q, scene.k, scene.v)
        assert gpu_contenders.error_against_float64(scene, contender, o) < 1e-5


def test_toolkits_relative_attention_is_transformer_xl(monkeypatch: pytest.MonkeyPatch) -> None:
    import contextlib

    monkeypatch.setattr(gpu_contenders, "sdpa_kernel", lambda backend: contextlib.nullcontext())
    shape = gpu_contenders.Shape(2, 2, 20, 16)
    scene = gpu_contenders.Scene("relative", shape, "cpu", torch.float32)
    contender = next(c for c in gpu_contenders.contenders("relative") if c.name == "sdpa efficient")
    o = contender.make(scene)(scene.q, scene.k, scene.v, *contender.extra(scene))
    assert gpu_contenders.error_against_float64(scene, contender, o) < 1e-5


def test_the_tile_that_serves_all_its_kernels_best_is_taken() -> None:
    def row(part: str, tile: list[int], ms: float | None) -> dict[str, Any]:
        return {"row": "key/64", "part": part, "tile": tile, "frames": 1024, "ms": ms}

    rows = [
        row("plain", [64, 64, 4, 2], 1.0),
        row("ragged", [64, 64, 4, 2], 3.0),
        row("plain", [32, 64, 4, 2], 1.2),
        row("ragged", [32, 64, 4, 2], 2.0),
        row("plain", [16, 64, 4, 2], 0.9),  # with masks it did not compile
        row("ragged", [16, 64, 4, 2], None),
    ]
    found = gpu_tune.best(rows)["key/64"]
    assert found["tile"] == [32, 64, 4, 2]
    assert list(found["over_the_best"]) == ["32 64 4 2", "64 64 4 2"]


def timed(part: str, contender: str, ms: float, **more: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"part": part, "contender": contender, "shape": [16, 16, 1024, 64]}
    row |= {"forward": {"ms": ms, "graph": True}, "backward": {"ms": 3 * ms, "graph": False}}
    row |= {"forward_tflops": 400.0, "backward_tflops": 300.0, "error": 2e-3, "total_mb": 96.0}
    return row | more


def test_the_page_and_its_plot(tmp_path: Path) -> None:
    rows = [
        timed("plain", "ours", 0.15),
        timed("plain", "sdpa flash", 0.2),
        {"part": "plain", "contender": "flex", "shape": [4, 16, 4096, 64], "refused": "E: no"},
    ]
    env = {"command": "c", "commit": "d", "date": "e", "python": "3", "versions": {"torch": "2"}}
    roofs = [{"product_tflops": 790.0, "copy_tb_per_s": 3.0}]
    whole = {"environment": env, "gpu": "H", "dtype": "torch.bfloat16", "roofs": roofs}
    whole |= {"rows": rows, "not_reached": ["plain x"]}
    page = gpu_report.markdown(whole, [])
    ours = "| 16, 16, 1024, 64 | ours | 0.150 | 0.75 | 400 | 0.450* | 0.75 | 300 | 2.0e-03 | 96 |"
    assert ours in page
    assert "- plain, flex (4096 frames): E: no" in page
    assert "- not reached: plain x" in page
    gpu_report.plot(tmp_path / "page.png", whole)
    assert (tmp_path / "page.png").stat().st_size > 1000
