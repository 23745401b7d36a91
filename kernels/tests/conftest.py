"""Shared by all tests. One thread: on tiny problems waiting for another thread costs more."""

from collections.abc import Iterator

import pytest
import torch
from process_settings import process_settings

torch.set_num_threads(1)
SETTINGS = process_settings()


@pytest.fixture(autouse=True)
def leave_the_process_as_it_was() -> Iterator[None]:
    """A test that changes a setting of PyTorch for those after it fails itself, not they."""
    yield
    assert process_settings() == SETTINGS
