"""Shards of time on several gloo processes against one process that holds everything."""

import os
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from sigmoid_attention import (
    Mask,
    PositionBias,
    Weighting,
    attend,
    attend_context_parallel,
)

BATCH, HEADS, SHARD, D = 2, 2, 7, 4
CASES = {
    "visible": lambda b: Weighting.sigmoid(bias_h=b),
    "sequence": lambda b: Weighting.sigmoid(n="sequence", bias_h=b),
    "constant": lambda b: Weighting.sigmoid(shift=-2.0, bias_h=b),
    "effective": lambda b: Weighting.sigmoid(n="effective", exponent_h=b),
}


def problem(size):
    g = torch.Generator().manual_seed(3)
    shape = (BATCH, HEADS, SHARD * size, D)
    tensors = [torch.randn(shape, generator=g, dtype=torch.float64) for _ in range(4)]
    biases = [torch.rand(HEADS, generator=g, dtype=torch.float64) for _ in range(2)]
    masks = {
        "none": None,
        "lens": Mask(
            key_lens=torch.tensor([SHARD * size, SHARD + 2]),
            query_lens=torch.tensor([SHARD * size - 1, SHARD]),
        ),
        "causal": Mask(causal=True),
        "window": Mask(window=(3, 5)),
        "chunk": Mask(chunk=(4, 1)),
    }
    return tensors, biases, masks


def place(kind, slopes, frames):
    """A position bias whose tensors all come from one parameter, so that its gradient counts."""
    if kind == "alibi":
        return PositionBias.alibi(slopes)
    g = torch.Generator().manual_seed(4)
    if kind == "table":
        table = torch.randn(HEADS, 9, generator=g, dtype=torch.float64)
        return PositionBias.table(table * slopes[:, None], 4)
    u, v = (torch.randn(HEADS, D, generator=g, dtype=torch.float64) for _ in range(2))
    r = torch.randn(HEADS, 2 * frames - 1, D, generator=g, dtype=torch.float64)
    ours = (x * slopes[:, None] for x in (u, v))
    return PositionBias.relative(*ours, r * slopes[:, None, None], frames - 1)


def run(function, weighting, mask, kind, frames, tensors, biases):
    q, k, v, do = tensors
    leaves = [x.clone().requires_grad_() for x in (q, k, v, *biases)]
    position = place(kind, leaves[4], frames)
    how = {"weighting": CASES[weighting](leaves[3]), "position": position, "mask": mask}
    o = function(*leaves[:3], **how)
    o.backward(do)
    return [o.detach(), *(x.grad for x in leaves)]


def process(rank, size, rendezvous):
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=size)
    torch.set_num_threads(1)
    tensors, biases, masks = problem(size)
    mine = [x.chunk(size, 2)[rank] for x in tensors]
    cases = [(weighting, mask, "alibi") for weighting in CASES for mask in masks]
    cases += [
        (weighting, mask, kind)
        for mask in ("lens", "chunk")
        for weighting, kind in (
            ("visible", "table"),
            ("visible", "relative"),
            ("effective", "table"),
        )
    ]
    for weighting, mask, kind in cases:
        how = (weighting, masks[mask], kind, SHARD * size)
        got = run(attend_context_parallel, *how, mine, biases)
        whole = run(attend, *how, tensors, biases)
        shares = [x.chunk(size, 2)[rank] for x in whole[:4]]
        for a, b in zip(got, [*shares, *whole[4:]], strict=True):
            torch.testing.assert_close(a, b)
    refuse(mine, rank)
    dist.destroy_process_group()


def refuse(mine, rank):
    q = mine[0]
    with pytest.raises(ValueError, match="weighting: got 'softmax'"):
        attend_context_parallel(q, q, q, weighting=Weighting.softmax())
    packed = Mask(cu_seqlens=torch.tensor([0, SHARD]))
    with pytest.raises(ValueError, match="mask: got cu_seqlens"):
        attend_context_parallel(q, q, q, weighting=Weighting.sigmoid(), mask=packed)
    k = q[:, :, : SHARD - rank]
    with pytest.raises(ValueError, match="allowed: the same on each"):
        attend_context_parallel(q, k, k, weighting=Weighting.sigmoid())


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_shards_add_up_forward_and_backward(size, tmp_path):
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), *sys.path]))
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    rest = [str(size), str(tmp_path / "rendezvous")]
    processes = [
        subprocess.Popen([sys.executable, __file__, str(rank), *rest], env=env)
        for rank in range(size)
    ]
    assert [p.wait(timeout=200) for p in processes] == [0] * size


if __name__ == "__main__":
    process(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
