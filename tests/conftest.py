"""Shared by all tests. One thread: on tiny problems waiting for another thread costs more."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from asr.data.synthetic.corpus import prepare_synthetic

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A minute and a half of synthetic speech: ``train``, ``dev`` and ``test`` manifests."""
    out = tmp_path_factory.mktemp("tiny")
    prepare_synthetic(out, hours=0.025, seed=3, num_jobs=1, num_dev=4, num_test=6)
    return out
