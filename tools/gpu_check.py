"""The Triton kernels on the hardware: every output and gradient against float64, in many processes.

    python tools/gpu_check.py --out check.json --processes 16 --limit-s 75
    python tools/gpu_check.py --out left.json --beyond docs/results/attention-gpu-check.json --split 3
    TRITON_INTERPRET=1 python tools/gpu_check.py --out /tmp/check.json --rehearse --processes 1

What stands in the file: each case with the errors of its tensors, what failed, what was not reached.
It is written after every case, so that a run may be cut off anywhere.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import gpu_farm

POSITIONS = ("none", "alibi", "table", "relative")
MASKS = ("none", "lens", "causal", "window", "chunk", "packed")
MIXED = ("causal lens", "chunk lens")
HALF = ("bfloat16", "float16")
Unit = dict[str, Any]


def case_of(dtype: str, d: int, position: str, mask: str, number: int, lengths: Any) -> Unit:
    """One case; lengths, strides and (for d 64, where it costs no further compilation of others) the
    shift by lot, the lot being the same in every run."""
    rng = random.Random(f"{dtype} {d} {position} {mask} {number}")
    queries = rng.choice(lengths)
    keys = queries if mask == "packed" else rng.choice(lengths)
    shifts = ("no_shift", "constant", "per_head", "sequence", "number")
    shift = "visible" if number == 0 else rng.choice(shifts)
    case = {"dtype": dtype, "d": d, "position": position, "mask": mask, "shift": shift}
    case |= {"queries": queries, "keys": keys, "strided": rng.random() < 0.5}
    name = f"{dtype} d{d} {position} {mask} {shift} {queries}x{keys}"
    return {**case, "name": name + (" strided" if case["strided"] else "")}


def units(rehearse: bool) -> list[Unit]:
    """Return the units, the most important first; no two compile the same kernel."""
    from gpu_cases import LENGTHS, REHEARSED

    lengths = REHEARSED if rehearse else LENGTHS
    out: list[Unit] = [
        {"name": f"special {dtype}", "special": dtype} for dtype in (*HALF, "float32")
    ]
    out = out[1:2] if rehearse else out  # the interpreter's bfloat16 is not to be trusted
    halves = HALF[1:] if rehearse else HALF
    out += _products((16,) if rehearse else (64, 128), halves, lengths, rehearse)
    out += _softmax(lengths, rehearse)
    out += _effective((16,) if rehearse else (64, 128), halves, lengths, rehearse)
    if not rehearse:
        out += [*_float32(), *_odd(), *_products((32, 80), halves, lengths, rehearse)]
    return out


def _products(dims: Any, dtypes: Any, lengths: Any, rehearse: bool) -> list[Unit]:
    """Positions times masks; each unit compiles one kernel of each kind."""
    out = []
    for d, dtype in itertools.product(dims, dtypes):
        some_positions = ("relative", "alibi") if rehearse else POSITIONS[::-1]
        for position, masked in itertools.product(some_positions, (True, False)):
            some = MASKS[1 :: 4 if rehearse else 1] if masked else MASKS[:1]
            found = [case_of(dtype, d, position, m, 0, lengths) for m in some]
            if d == 64:
                found += [case_of(dtype, d, position, m, 1, lengths) for m in some]
            if not masked:
                found += [case_of(dtype, d, position, "none", 0, (lengths[-1],))]
                found += [case_of(dtype, d, position, "none", 0, (lengths[0],))]
            unique = list({c["name"]: c for c in found}.values())
            out.append({"name": f"{dtype} d{d} {position} {masked}", "cases": unique})
    return out


def _effective(dims: Any, dtypes: Any, lengths: Any, rehearse: bool) -> list[Unit]:
    """Counts of keys by their biases: a term for each head and row, whose gradient slopes get too.
    Without a position the count is of the visible keys."""
    out = []
    for position, dtype, d in itertools.product(("alibi", "none"), dtypes, dims):
        masks = (*MIXED, "lens", "causal", "window") if position == "alibi" else MIXED[:1]
        for masked in (True, False):
            some = (masks[:2] if rehearse else masks) if masked else ("none",)
            found = [case_of(dtype, d, position, m, 0, lengths) for m in some]
            if not masked:
                found += [case_of(dtype, d, position, "none", 0, (lengths[-1],))]
            names = [c["name"].replace("visible", "effective") for c in found]
            cases = {
                n: {**c, "shift": "effective", "name": n} for n, c in zip(names, found, strict=True)
            }
            name = f"effective {dtype} d{d} {position} {masked}"
            out.append({"name": name, "cases": list(cases.values())})
    return out


def _float32() -> list[Unit]:
    out = []
    for position in POSITIONS:
        found = [case_of("float32", 64, position, m, 0, (129, 257)) for m in ("lens", "none")]
        out.append({"name": f"float32 {position}", "cases": found})
    return out


def _odd() -> list[Unit]:
    """One query or key, and fewer or more than a tile holds."""
    out = []
    odd = [(1, 300), (300, 1), (1, 1), (7, 40), (64, 1024), (1024, 64)]
    for position in ("none", "relative"):
        found = []
        for queries, keys in odd:
            case = case_of("bfloat16", 64, position, "lens", 0, (1,))
            sizes = {"queries": queries, "keys": keys}
            found.append({**case, **sizes, "name": f"odd {position} {queries}x{keys}"})
        out.append({"name": f"odd {position}", "cases": found})
    return out


def _softmax(lengths: Any, rehearse: bool) -> list[Unit]:
    out = []
    dtype, d = ("float16", 16) if rehearse else ("bfloat16", 64)
    for position in ("alibi",) if rehearse else POSITIONS:
        masks = ("lens",) if rehearse else MASKS[:3]
        found = [case_of(dtype, d, position, m, 0, lengths) for m in masks]
        found = [{**c, "map": "softmax", "name": "softmax " + c["name"]} for c in found]
        out.append({"name": f"softmax {position}", "cases": found})
    return out


def chosen(every: list[Unit], only: list[str], done: set[str], anew: list[str]) -> list[Unit]:
    """Units in the order of the words of `only` that their names contain, without the cases in `done`
    whose names contain no word of `anew`."""
    asked = [unit["name"] for word in only for unit in every if word in unit["name"]]
    out = []
    for unit in sorted(
        (u for u in every if u["name"] in asked), key=lambda u: asked.index(u["name"])
    ):
        cases = [
            case
            for case in unit.get("cases", ())
            if case["name"] not in done or any(word in case["name"] for word in anew)
        ]
        if "cases" not in unit or len(cases) == len(unit["cases"]):
            out.append(unit)
        elif cases:
            out.append({**unit, "cases": cases})
    return out


def passed(path: Path) -> set[str]:
    """The cases that a file of this program, or one with several of its runs, says were right."""
    whole = json.loads(path.read_text())
    runs = whole.get("runs", [whole])
    return {c["name"] for run in runs for c in run["cases"] if not c.get("failed")}


def split(units: list[Unit], most: int) -> list[Unit]:
    """Units of at most so many cases: more processes at once, which compile some kernels twice."""
    out = []
    for unit in units:
        cases = unit.get("cases", [])
        parts = [cases[i : i + most] for i in range(0, len(cases), most)] if most else [cases]
        if len(parts) < 2:
            out.append(unit)
        else:
            out += [
                {**unit, "name": f"{unit['name']} {i}", "cases": p} for i, p in enumerate(parts)
            ]
    return out


def run_unit(unit: Unit) -> None:
    """A worker's part: every case of a unit but those to be skipped."""
    import gpu_cases

    if "special" in unit:
        dtype = unit["special"]
        for kind, run in gpu_cases.SPECIAL.items():
            _one(f"{kind} {dtype}", unit["skip"], lambda run=run: run(dtype))  # type: ignore[misc]
    for case in unit.get("cases", ()):
        if case.get("map") == "softmax" and not _has_softmax(gpu_cases.DEVICE):
            continue
        _one(case["name"], unit["skip"], lambda case=case: gpu_cases.run_case(case))  # type: ignore[misc]


def _has_softmax(device: str) -> bool:
    import torch
    from sigmoid_attention import Weighting, resolve

    try:
        resolve(Weighting.softmax(), None, None, device, torch.bfloat16, "triton")
    except ValueError:
        return False
    return True


def _one(name: str, skip: list[str], run: Any) -> None:
    if name in skip:
        return
    gpu_farm.begin(name)
    start = time.perf_counter()
    try:
        record = run()
    except Exception as problem:
        lines = [line for line in str(problem).splitlines() if line.strip()] or [""]
        what = f"{type(problem).__name__}: {lines[0][:300]}"
        record = {"failed": f"{gpu_farm.FATAL}, {what}" if gpu_farm.poisoned(problem) else what}
    gpu_farm.end({**record, "name": name, "seconds": time.perf_counter() - start})


def summary(records: list[dict[str, Any]], left_over: list[str]) -> list[str]:
    """Worst errors per type and tensor, then what failed."""
    worst: dict[tuple[str, str], tuple[float, str]] = {}
    ratio: dict[tuple[str, str], float] = {}
    for record in records:
        for name, found in record.get("tensors", {}).items():
            key = (record["dtype"], name)
            if not found["norm"] <= worst.get(key, (0.0, ""))[0]:
                worst[key] = (found["norm"], record["name"])
            if found.get("plain"):
                ratio[key] = max(ratio.get(key, 0.0), found["norm"] / found["plain"])
    lines = [f"{'':10}{'tensor':9}{'worst':>9}{'of plain':>10}  where"]
    for (dtype, name), (error, where) in sorted(worst.items()):
        beside = f"{ratio[dtype, name]:10.2f}" if (dtype, name) in ratio else " " * 10
        lines.append(f"{dtype:10}{name:9}{error:9.1e}{beside}  {where}")
    for record in records:
        if "tensors" not in record and not record.get("failed"):
            figures = {k: v for k, v in record.items() if isinstance(v, float) and k != "seconds"}
            lines.append(
                f"{record['name']}: " + ", ".join(f"{k} {v:.1e}" for k, v in figures.items())
            )
    failed = [record for record in records if record.get("failed")]
    lines.append(f"{len(records)} cases, {len(failed)} failed, {len(left_over)} not reached")
    lines += [f"FAILED {r['name']}: {r['failed'][:160]}" for r in failed[:60]]
    if left_over:
        lines.append("not reached: " + "; ".join(left_over[:30]))
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--out", type=Path)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--limit-s", type=float, default=90.0)
    parser.add_argument(
        "--only",
        nargs="+",
        default=[""],
        help="units whose name contains one of these, in this order",
    )
    parser.add_argument("--beyond", type=Path, help="leave out cases that passed in this file")
    parser.add_argument(
        "--anew", nargs="+", default=[], help="but those whose name contains one of these"
    )
    parser.add_argument("--split", type=int, default=0, help="most cases of a unit (0: any number)")
    parser.add_argument("--rehearse", action="store_true", help="tiny cases, for the interpreter")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        gpu_farm.work(run_unit)
        return 0
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    began = time.monotonic()
    done = passed(args.beyond) if args.beyond else set()
    todo = split(chosen(units(args.rehearse), args.only, done, args.anew), args.split)
    command, slow = [sys.executable, __file__, "--worker"], 5.0 if args.rehearse else 1.0
    farm = gpu_farm.Farm(command, args.processes, args.limit_s, 60.0 * slow, 20.0 * slow)
    if args.out:
        farm.on_record = lambda some: gpu_farm.write(args.out, {"cut_off": True, "cases": some})
    records = farm.run(todo)
    lines = summary(records, farm.left_over)
    lines.append(f"{time.monotonic() - began:.0f} s in {args.processes} processes")
    print(*lines, sep="\n", flush=True)
    if args.out:
        whole = {"summary": lines, "not_reached": farm.left_over, "cases": records}
        gpu_farm.write(args.out, whole)
    return int(bool(farm.left_over) or any(r.get("failed") for r in records))


if __name__ == "__main__":
    sys.exit(main())
