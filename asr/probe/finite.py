"""Where in a model numbers stop being finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def watch_forward(net: nn.Module, fault: dict[str, Any]) -> Iterator[None]:
    """Notes as ``fault["layer"]`` the first module that hands on a number that is not finite; nothing
    is compiled, since hooks do not see into compiled code."""

    def watcher(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def watch(module: nn.Module, inputs: Any, output: Any) -> None:
            if "layer" not in fault and not _finite(output):
                fault["layer"] = name if _finite(inputs) else f"what {name} receives"

        return watch

    named = [(name, module) for name, module in net.named_modules() if name]
    handles = [module.register_forward_hook(watcher(name)) for name, module in named]
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for handle in handles:
            handle.remove()


def _finite(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(value.isfinite().all())
    return all(_finite(item) for item in value) if isinstance(value, list | tuple) else True
