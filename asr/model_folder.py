"""The model folder: ``model.safetensors``, ``config.yaml`` and the tokenizer; enough to decode anywhere.

There is no pickle in it and its configuration cannot interpolate, so a stranger's folder can neither
run code nor read the environment.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from asr import config as configuration
from asr.config import Config
from asr.errors import InputError
from asr.files import make_folder
from asr.model import Recogniser
from asr.text.normalise import Normaliser, get_normaliser
from asr.text.tokenizer import Tokenizer, load_tokenizer

WEIGHTS, CONFIG = "model.safetensors", "config.yaml"
# A model card for people, which `asr push` writes; nothing reads it.
CARD = "README.md"


@dataclass(frozen=True)
class Model:
    """What decoding needs."""

    net: Recogniser
    tokenizer: Tokenizer
    config: Config
    folder: Path

    @property
    def normaliser(self) -> Normaliser:
        """What its training texts went through, and what its users' texts must."""
        return get_normaliser(self.config.tokenizer.normaliser)


def save_model(
    folder: Path, weights: dict[str, Tensor], config: Config, tokenizer: Tokenizer
) -> None:
    """Writes the folder whole or not at all; an older one is replaced.

    Raises:
        InputError: it cannot be written.
    """
    with new_folder(folder, replace=True) as temporary:
        contiguous = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
        save_file(contiguous, temporary / WEIGHTS)
        (temporary / CONFIG).write_text(configuration.dump(config), encoding="utf-8")
        tokenizer.save(temporary)


@contextmanager
def new_folder(folder: Path, replace: bool = False) -> Iterator[Path]:
    """A folder to fill, which becomes ``folder`` when the block ends well and else disappears.

    Args:
        replace: put it in the place of an older one, which is there until the new one is complete.

    Raises:
        InputError: ``folder`` exists and is not to be replaced, or cannot be written.
    """
    if folder.exists() and not replace:
        raise InputError(f"{folder}: exists already; name another folder or remove it")
    make_folder(folder.parent)
    temporary = None
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        filled = temporary / "new"
        filled.mkdir()
        yield filled
        if folder.exists() and not _exchange(filled, folder):
            os.replace(folder, temporary / "old")
        if filled.exists() and not folder.exists():
            os.replace(filled, folder)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise InputError(f"{folder}: cannot write: {reason}") from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _exchange(left: Path, right: Path) -> bool:
    """Swap two folders in one step, so that a kill never finds neither; False where the system or the
    file system cannot (Linux can on its own file systems)."""
    if sys.platform != "linux":
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # glibc before 2.28
        return False
    return renameat2(here, os.fsencode(left), here, os.fsencode(right), exchange) == 0


def find_model(path: Path) -> Path:
    """The model folder that ``path`` is, or that the experiment ``path`` holds.

    Raises:
        InputError: there is none, or a file is missing from it.
    """
    if not path.is_dir():
        raise InputError(f"{path}: no such model folder")
    folder = path / "model" if (path / "model" / CONFIG).is_file() else path
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            hint = "; training writes it at its end" if (path / "checkpoints").is_dir() else ""
            raise InputError(f"{folder}: not a model folder: {name} is missing{hint}")
    return folder


def load_model(path: Path, device: str | torch.device = "cpu", backend: str | None = None) -> Model:
    """Reads a model folder, or an experiment folder that has one, ready to decode.

    ``backend`` overrides the attention backend the model was trained with; by default each machine
    chooses its own ("auto").

    Raises:
        InputError: a file is missing or damaged, or the weights are not those of the configuration.
    """
    folder = find_model(path)
    backend_choice = [f"attention.backend={backend or 'auto'}"]
    config = configuration.load([folder / CONFIG], backend_choice, follow_base=False)
    tokenizer = load_tokenizer(folder)
    try:
        net = Recogniser(config, tokenizer.vocab_size)
    except (RuntimeError, MemoryError, OverflowError) as error:
        raise InputError(
            f"{folder / CONFIG}: no such model can be built: {str(error).splitlines()[0]}"
        ) from None
    try:
        weights = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{folder / WEIGHTS}: damaged: {error}") from None
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        first = " ".join(str(error).splitlines()[1:2]).strip() or str(error).splitlines()[0]
        raise InputError(
            f"{folder / WEIGHTS}: not the weights of {folder / CONFIG}: {first}"
        ) from None
    return Model(net.to(device).eval(), tokenizer, config, folder)
