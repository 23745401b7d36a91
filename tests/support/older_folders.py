"""Folders that older versions of the package wrote.

``format_1.tar.xz`` holds what commit 0d443e0 wrote (``make_format_1.py``): the tiniest runs, cut off
after step 11 of 22, with weights named ``head.*`` and no ``format`` in their ``config.yaml``.

    plain     one process, ``checkpoints/step-00000011.pt``
    sharded   two processes with FSDP, ``checkpoints/step-00000011.sharded``; no dropout, which each
              process draws for itself
    made      ``model`` with random weights, and ``hypotheses.jsonl`` of two searches on ``tiny_corpus``

``log.jsonl`` of the runs goes on to step 22: their losses without a stop.
"""

from __future__ import annotations

import tarfile
from pathlib import Path


def unpack_format_1(folder: Path) -> Path:
    """Unpack the folders of format 1 into ``folder``, which is returned."""
    with tarfile.open(Path(__file__).with_name("format_1.tar.xz")) as archive:
        archive.extractall(folder, filter="data")
    return folder
