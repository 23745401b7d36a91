"""Compile the kernels for a GPU that need not be here, and count what came out.

    python -m sigmoid_attention.triton.census            compare with the table beside this file
    python -m sigmoid_attention.triton.census --write    make the table anew
    python -m sigmoid_attention.triton.census --missing --write    complete it

The table holds, for each shipped tile, upper bounds on registers, stack, spills and shared memory
and the instruction counts; it names the versions it was made with.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ..weightings import MAPS
from . import device, launch, weightings
from .backward import key_kernel, offset_kernel, query_kernel
from .configs import Config, choose, own_row, row_name
from .forward import forward_kernel
from .machine import loops, opcode, walk

CENSUS = Path(__file__).with_name("census.json")
KERNELS = {
    "forward": forward_kernel,
    "query": query_kernel,
    "key": key_kernel,
    "offset": offset_kernel,
}
POSITIONS = {"none": 0, "alibi": 1, "table": 2, "relative": 3}
MODES = {
    "exact": launch.MODES["exact"],
    "fast": launch.MODES["fast"],
    "separate": device.SEPARATE.value,
    "shared": device.SHARED.value,
    "quad": device.QUAD.value,
    **weightings.MODES,  # of other maps than sigmoid, each with a factor of its rows
}
# What a multiprocessor lets one program have.
MOST_SHARED = {80: 163 * 1024, 90: 227 * 1024}
MOST_REGISTERS = 255
# By how weights are computed; see ``mode_for``.
MOST_SPECIAL = {
    device.QUAD.value: 1.25,
    device.SHARED.value: 1.5,
    device.SEPARATE.value: 2.0,
    device.TANH.value: 1.0,
}
# Of other maps: an exponential and a reciprocal.
MOST_SPECIAL_OF_OTHERS = 2.0
# Kernels of plain multiply-adds over 128 channels with room for one score a thread: both threads of
# a pair compute both of its scores. Nothing else may exceed the limits.
EXCEPTIONS = {
    f"{kernel}/sm_{arch}/d128/fp32/relative/runs/exact": 3.0
    for kernel, arch in itertools.product(("forward", "query", "offset"), (80, 90))
}
# Registers spilled by rows of the table of tiles: on sm_90 at 128 channels the tile was chosen by
# time; the others are to be tuned anew since the kernels keep NaN and skip masks.
SPILLS = {
    "sm_90/forward/128": 4,
    "sm_90/forward/128/relative": 32,
    "sm_90/query/128/relative": 32,
    "sm_90/key/128/relative": 208,
    "sm_90/offset/128/relative": 3,
    "sm_80/forward/64/relative/float32": 2,
    "sm_80/forward/64/table": 42,
    "sm_80/forward/128": 6,
    "sm_80/forward/128/table": 4,
    "sm_80/query/128": 12,
    "sm_80/key/64/float32": 4,
    "sm_80/key/64/table": 21,
    "sm_80/key/64/table/float32": 8,
}


@dataclass(frozen=True)
class Variant:
    """One compiled kernel.

    runs: with runs of keys, grouped heads and the gradient of a row's bias, which is what makes the
    kernel largest; without, the plainest call.
    """

    kernel: str
    arch: int
    channels: int
    dtype: str
    position: str
    runs: bool
    mode: str = "exact"

    @property
    def name(self) -> str:
        runs = "runs" if self.runs else "full"
        parts = (self.kernel, f"sm_{self.arch}", f"d{self.channels}", self.dtype, self.position)
        return "/".join((*parts, runs, self.mode))

    @property
    def weights(self) -> int:
        """Return how weights are computed, as in a launch."""
        pairs = self.dtype == "fp32" or not launch.hopper(self.arch)
        return launch.mode_for(MODES[self.mode], self.kernel, pairs)

    @property
    def alone(self) -> str | None:
        """The map other than sigmoid that is compiled; None for sigmoid."""
        return self.mode if self.mode in weightings.MODES else None

    @property
    def row(self) -> str:
        """The row of the table of tiles that holds its tile."""
        row = row_name(self.kernel, self.channels, self.position, self.dtype == "fp32")
        return own_row(self.arch, row, self.mode)


@dataclass(frozen=True)
class Count:
    """Resources that one compiled kernel takes, and its instructions.

    The last three count along the loop over whole tiles, for each score of a lane: special
    functions and issued instructions on its longest way, and the latter on its shortest.
    """

    registers: int
    stack: int
    spills: int
    shared: int
    matrix: int
    matrix_kind: str
    special_per_score: float
    slots_per_score: float
    least_slots_per_score: float


def compile_variant(variant: Variant, config: Config | None = None) -> Count:
    """Compile one kernel with ptxas, which the triton wheel ships, and count."""
    config = config or choose(variant.arch, variant.row)
    kernel = KERNELS[variant.kernel]
    constexprs = _constexprs(variant, config, kernel.arg_names)
    signature = {name: _type(name, variant, constexprs) for name in kernel.arg_names}
    attrs = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(kernel.arg_names)
        if signature[name].startswith("*")
        or (signature[name] == "i32" and _is_stride(name) and variant.channels % 16 == 0)
    }
    source = ASTSource(kernel, signature, constexprs=constexprs, attrs=attrs)
    options = {"num_warps": config.warps, "num_stages": config.stages}
    target = GPUTarget("cuda", variant.arch, 32)
    compiled = triton.compile(source, target=target, options=options)
    return _count(compiled, variant, config)


def _constexprs(variant: Variant, config: Config, names: list[str]) -> dict[str, Any]:
    padded = triton.next_power_of_2(variant.channels)
    values = {
        "HEADS": 8,
        "GROUP": 2 if variant.runs else 1,
        "D": variant.channels,
        "DV": variant.channels,
        "BD": padded,
        "BDV": padded,
        "BM": config.bm,
        "BN": config.bn,
        "POSITION": POSITIONS[variant.position],
        "HAS_RUNS": variant.runs,
        "HAS_ROW": 0 if variant.alone else 1,
        "HAS_FACTOR": (2 if variant.runs else 1) if variant.alone else 0,
        "BOUNDED": MAPS[variant.alone or "sigmoid"].bounded,
        "NEED_ROW": variant.runs,
        # A launch makes a constant of a stride of 1, here that of terms for each row.
        **({"row_t": 1} if variant.runs else {}),
        "MODE": variant.weights,
        "ASM": True,
        "PRECISION": "ieee",
        "STEPPED": launch.stepped(variant.arch, variant.dtype == "fp32"),
    }
    return {name: value for name, value in values.items() if name in names}


def _type(name: str, variant: Variant, constexprs: dict[str, Any]) -> str:
    if name in constexprs:
        return "constexpr"
    if name in ("q", "k", "v", "o", "do", "qv", "r"):
        return "*" + variant.dtype
    if name in ("lo", "hi", "ranges", "seen"):
        return "*i32"
    if name in ("num_queries", "num_keys", "delta", "zero", "num_offsets") or _is_stride(name):
        return "i32"
    return "fp32" if name == "scale" else "*fp32"


def _is_stride(name: str) -> bool:
    return name[-2:] in ("_b", "_h", "_t") and not name.startswith(("lo", "hi"))


def _count(compiled: Any, variant: Variant, config: Config) -> Count:
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        sass = _run(tools / "nvdisasm", "-c", file.name)
        usage = _run(tools / "cuobjdump", "-res-usage", file.name)
    codes = Counter(opcode(line) for line in sass.splitlines())
    kind = "HGMMA" if codes["HGMMA"] else "HMMA"
    resources = dict(re.findall(r"(REG|STACK):(\d+)", usage))
    # Loops over cut tiles hold the masks beside; of the inner loops with products the shortest is meant.
    product = kind if codes[kind] else "FFMA"
    working = [loop for loop in loops(sass) if any(opcode(x) == product for x in loop.values())]
    ways = [walk(loop) for loop in working]
    longest, shortest = min(ways, key=lambda way: way[0].total())
    scores_per_lane = config.bm * config.bn / (32 * config.warps)
    return Count(
        registers=int(resources["REG"]),
        stack=int(resources["STACK"]),
        spills=codes["STL"] + codes["LDL"],
        shared=compiled.metadata.shared,
        matrix=codes[kind],
        matrix_kind=kind,
        special_per_score=longest["MUFU"] / scores_per_lane,
        slots_per_score=longest.total() / scores_per_lane,
        least_slots_per_score=shortest.total() / scores_per_lane,
    )


def _run(*command: Any) -> str:
    parts = [os.fspath(part) for part in command]
    return subprocess.run(parts, check=True, capture_output=True, text=True, timeout=60).stdout


def variants() -> list[Variant]:
    """Every kernel that ships: architectures, head sizes, types, positions; and the other modes.

    The plainest calls are counted where they are fastest; fp16 differs from bf16 in the conversion
    of weights only, so one position stands for all, as it does for head sizes that are no power of
    two (their loads are masked; 36 is not even a multiple of 16, so that loads are narrow).
    """
    out = []
    for arch, channels, kernel in itertools.product((90, 80), (64, 128), KERNELS):
        for position in POSITIONS:
            if kernel == "offset" and position == "none":
                continue
            out += [Variant(kernel, arch, channels, x, position, True) for x in ("bf16", "fp32")]
            if position == "none":
                out.append(Variant(kernel, arch, channels, "fp16", position, True))
            if (arch, channels) == (90, 64):
                out.append(Variant(kernel, arch, channels, "bf16", position, False))
    for arch, channels, kernel in itertools.product(
        (90, 80), (36, 80), ("forward", "query", "key")
    ):
        out.append(Variant(kernel, arch, channels, "bf16", "none", True))
    for arch, mode in itertools.product((90, 80), ("shared", "separate", "fast")):
        out.append(Variant("forward", arch, 64, "bf16", "none", True, mode))
    return out + [v for mode in weightings.MODES for v in _variants_of(mode)]


def _variants_of(mode: str) -> list[Variant]:
    """Return the variants of a map other than sigmoid, whose tiles it shares where they do not spill."""
    out = []
    for arch, channels, kernel in itertools.product((90, 80), (64, 128), KERNELS):
        for position, dtype in itertools.product(POSITIONS, ("bf16", "fp32")):
            if kernel != "offset" or position != "none":
                out.append(Variant(kernel, arch, channels, dtype, position, True, mode))
    return out


def complaints(variant: Variant, count: Count, allowed: dict[str, Any] | None) -> list[str]:
    """Return what breaks the gate: absolute limits first, then the table's own bounds."""
    out = beyond_limits(variant, count)
    if allowed is None:
        return [*out, "not in the table"]
    for name in ("registers", "stack", "spills", "shared", "special_per_score", "slots_per_score"):
        if getattr(count, name) > allowed[name] * 1.05:
            out.append(f"{name} {getattr(count, name)}; the table has {allowed[name]}")
    return out


def beyond_limits(variant: Variant, count: Count) -> list[str]:
    """The limits that every kernel keeps, whatever the table says."""
    out = []
    spills = SPILLS.get(f"sm_{variant.arch}/{variant.row}", 0)
    if count.spills > spills or count.stack > 4 * spills:
        out.append(
            f"{count.spills} spills, {count.stack} bytes of stack; allowed {spills or 'none'}"
        )
    if count.registers > MOST_REGISTERS:
        out.append(f"{count.registers} registers; allowed {MOST_REGISTERS}")
    if count.shared > MOST_SHARED[variant.arch]:
        out.append(f"{count.shared} bytes shared; allowed {MOST_SHARED[variant.arch]}")
    half = variant.dtype != "fp32"
    if half and not count.matrix:
        out.append("no matrix instructions")
    if half and variant.arch == 90 and count.matrix_kind != "HGMMA":
        out.append("no HGMMA")
    # Groups of warps that hold the same scores show as twice the special functions.
    most = EXCEPTIONS.get(variant.name, MOST_SPECIAL.get(variant.weights, MOST_SPECIAL_OF_OTHERS))
    if count.special_per_score > most + 0.05:
        out.append(f"{count.special_per_score:.2f} special per score; allowed {most}")
    return out


def read() -> dict[str, Any]:
    """The table: {"triton": version, "kernels": {name: count}}; an empty one where there is none."""
    if not CENSUS.exists():
        return {"triton": triton.__version__, "kernels": {}}
    loaded: dict[str, Any] = json.loads(CENSUS.read_text())
    return loaded


def main() -> int:
    """Compile what is asked for; 0 if the gate holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--write", action="store_true", help="enter what is compiled in the table")
    parser.add_argument("--only", default="", help="variants whose name contains this")
    parser.add_argument("--missing", action="store_true", help="variants that the table lacks")
    args = parser.parse_args()
    if args.write and (args.only or args.missing):
        refuse_other_version(CENSUS)
    elif args.write:
        write_table({})
    known = read()["kernels"]
    compiled, bad = 0, 0
    for variant in variants():
        if args.only not in variant.name or (args.missing and variant.name in known):
            continue
        count = compile_variant(variant)
        if args.write:
            known = enter({variant.name: count})
        wrong = complaints(variant, count, known.get(variant.name))
        compiled, bad = compiled + 1, bad + bool(wrong)
        tile = choose(variant.arch, variant.row)
        print(variant.name, tile, count, *wrong, sep="\n    ", flush=True)
    print(f"{compiled} compiled, {bad} beyond a bound")
    return int(bad > 0)


def enter(counts: dict[str, Count]) -> dict[str, Any]:
    """Put counts in the table, which keeps the order of variants() and holds nothing else."""
    refuse_other_version(CENSUS)
    known = read()["kernels"] | {name: asdict(count) for name, count in counts.items()}
    kernels = {v.name: known[v.name] for v in variants() if v.name in known}
    write_table(kernels)
    return kernels


def write_table(kernels: dict[str, Any]) -> None:
    """The whole table, as made with this triton."""
    text = json.dumps({"triton": triton.__version__, "kernels": kernels}, indent=1)
    CENSUS.write_text(text + "\n")


def refuse_other_version(path: Path) -> None:
    """A table names one triton: what another one made cannot stay beside what is new.

    Raises:
        SystemExit: with what to do instead.
    """
    made_with = json.loads(path.read_text())["triton"] if path.exists() else triton.__version__
    if made_with != triton.__version__:
        raise SystemExit(
            f"{path.name} is of triton {made_with}, this is {triton.__version__}: make it anew, "
            "with --write alone"
        )


if __name__ == "__main__":
    sys.exit(main())
