"""Modules as their shapes alone: nothing is allocated and nothing is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class _NoInitialisation(TorchFunctionMode):
    """Leaves out what fills tensors: drawing normal numbers on the device "meta" would import PyTorch's
    compiler, which takes seconds."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        # methods of tensors have no module
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


@contextmanager
def outlines() -> Iterator[None]:
    """Give the modules that are made within shapes and no numbers."""
    with torch.device("meta"), _NoInitialisation():
        yield
