"""Fewer tiles for the package triton_sigmoid to choose among, and a quicker choice."""

from __future__ import annotations

from typing import Any

FEW_TILES = ((128, 32, 4, 3), (128, 64, 4, 3), (64, 64, 4, 3), (64, 64, 4, 2), (64, 32, 4, 3))
TILE_AT = -1


def few_tiles(package: Any) -> None:
    """Leave the package those of its tiles that may win here, for it tries all at each length, a tenth
    of a second each; TILE_AT leaves one, so that many processes compile."""
    for module in (package.sigmoid_triton_dense, package.sigmoid_triton_padded):
        for name in dir(module):
            kernel = getattr(module, name)
            if not (name.endswith("_kernel") and hasattr(kernel, "configs")):
                continue
            kernel.every = getattr(kernel, "every", kernel.configs)
            its = {
                (c.kwargs["BLOCK_M"], c.kwargs["BLOCK_N"], c.num_warps, c.num_stages): c
                for c in kernel.every
            }
            few = [its[tile] for tile in FEW_TILES if tile in its]
            kernel.configs = few if TILE_AT < 0 else few[TILE_AT % len(few) :][:1]
            if TILE_AT >= 0:
                kernel.cache.clear()
            kernel.do_bench = quick_bench


def quick_bench(run: Any, quantiles: Any = None, **_: Any) -> Any:
    """Time a tile in a tenth of the usual time."""
    import triton

    return triton.testing.do_bench(run, warmup=2, rep=8, quantiles=quantiles)
