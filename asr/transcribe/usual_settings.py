"""NumPy's and PyTorch's own settings, whatever the program around has set for itself.

All is done for the calling thread alone. PyTorch's default type, which is the whole process's, is not
touched: what computes names its types.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import numpy as np
import torch

Item = TypeVar("Item")


@contextmanager
def usual_settings() -> Iterator[None]:
    """Reset NumPy's handling of floating-point errors, and PyTorch's default device.

    Leave it before control goes back to the caller: not around a ``yield`` of a generator.
    """
    with ExitStack() as stack:
        # NumPy's own: some -inf and denormal numbers are expected
        stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        # costs some microseconds for each operation
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


def each_in_usual_settings(items: Iterator[Item]) -> Iterator[Item]:
    """The same items, each computed within ``usual_settings``."""
    while True:
        with usual_settings():
            try:
                item = next(items)
            except StopIteration:
                return
        yield item
