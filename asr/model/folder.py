"""The model folder: ``model.safetensors``, ``config.yaml`` and the tokenizer; enough to decode anywhere.

There is no pickle in it and its configuration cannot interpolate, so a stranger's folder can neither
run code nor read the environment.
"""

from __future__ import annotations

import difflib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from asr import box
from asr import config as configuration
from asr.config import Config
from asr.errors import InputError
from asr.files import exchange, make_folder
from asr.formats import upgrade_name
from asr.model.recogniser import Recogniser, check_finite, weight_shapes
from asr.run_folder import CARD, CARRIED_LM, CONFIG, SEARCH_WEIGHTS, WEIGHTS, RunFolder
from asr.text.normalise import Normaliser, get_normaliser
from asr.text.tokenizer import Tokenizer, load_tokenizer, tokenizer_file
from asr.weights_file import WeightsFile, int8_weights, write_weights


@dataclass(frozen=True)
class Model:
    """A model with what decoding needs."""

    net: Recogniser
    tokenizer: Tokenizer
    config: Config
    folder: Path

    @property
    def normaliser(self) -> Normaliser:
        """The normaliser that its training texts went through, and what its users' texts must."""
        return get_normaliser(self.config.tokenizer.normaliser)


def save_model(
    folder: Path, weights: dict[str, Tensor], config: Config, tokenizer: Tokenizer
) -> None:
    """Writes the folder whole or not at all; an older one is replaced.

    Raises:
        InputError: it cannot be written.
    """
    contiguous = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    with new_folder(folder, replace=True) as temporary:
        fill_folder(temporary, contiguous, config, tokenizer)


def fill_folder(
    folder: Path, weights: dict[str, Tensor], config: Config, tokenizer: Tokenizer
) -> None:
    """Write a model into an empty folder, the weights last: they carry the sums of the other files."""
    (folder / CONFIG).write_text(configuration.dump(config), encoding="utf-8")
    tokenizer.save(folder)
    write_weights(folder / WEIGHTS, weights, [folder / CONFIG, tokenizer_file(folder)])


def save_int8(path: Path, out: Path) -> None:
    """Write the model of ``path`` as a new folder, its matrices in 8 bits (``asr.weights_file``).

    Its card goes along, since licences and attributions stand there, and the language model that it
    carries.

    Raises:
        InputError: no such model, or ``out`` exists or cannot be written.
    """
    model = load_model(path)
    weights = WeightsFile(model.folder / WEIGHTS, upgrade_name).load_stored()
    with new_folder(out) as temporary:
        fill_folder(temporary, int8_weights(weights), model.config, model.tokenizer)
        if (model.folder / CARD).is_file():
            shutil.copyfile(model.folder / CARD, temporary / CARD)
        copy_carried(model.folder, temporary)


def copy_carried(source: Path, out: Path) -> None:
    """Copy the language model that a model folder carries, and its weights, if it carries one."""
    if not (source / CARRIED_LM).is_file():
        return
    for name in (CARRIED_LM, SEARCH_WEIGHTS):
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)


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
        if folder.exists():
            _swap(filled, folder)
        else:
            os.replace(filled, folder)
            shutil.rmtree(_older(folder), ignore_errors=True)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise InputError(f"{folder}: cannot write: {reason}") from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _swap(filled: Path, folder: Path) -> None:
    """Put a folder in another's place and delete that; a kill leaves one of them to be found."""
    try:
        exchange(filled, folder)
        return
    except OSError:  # not on every file system
        older = _older(folder)
    shutil.rmtree(older, ignore_errors=True)
    os.replace(folder, older)
    os.replace(filled, folder)
    shutil.rmtree(older, ignore_errors=True)


def _there(folder: Path) -> Path:
    return folder if folder.exists() or not _older(folder).is_dir() else _older(folder)


def _older(folder: Path) -> Path:
    """Name where a folder is while another one takes its place."""
    return folder.parent / f".{folder.name}.old"


def find_model(path: Path) -> Path:
    """The model folder that ``path`` is or names, or that the experiment ``path`` holds.

    The name of a model in the package (``asr.box``) is taken for it where nothing of that name exists.

    Raises:
        InputError: there is none, or a file is missing from it.
    """
    path = _there(path)
    if str(path) in box.NAMES and not path.exists():
        return box.folder(str(path))
    run = RunFolder(path)
    if not path.is_dir():
        meant = difflib.get_close_matches(str(path), box.NAMES, n=1)
        hint = f"; did you mean {meant[0]}, which comes with the package?" if meant else ""
        what = "a file; a model is a folder" if path.is_file() else "no such model folder"
        raise InputError(f"{path}: {what}{hint}")
    inside = _there(run.model)
    folder = inside if (inside / CONFIG).is_file() else path
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            hint = "; training writes it at its end" if run.checkpoints.is_dir() else ""
            raise InputError(f"{folder}: not a model folder: {name} is missing{hint}")
    return folder


@contextmanager
def _float32_by_default() -> Iterator[None]:
    """Make PyTorch's modules in float32, whatever the program around has chosen."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def load_model(path: Path, device: str | torch.device = "cpu", backend: str | None = None) -> Model:
    """Reads a model folder, or an experiment folder that has one, ready to decode.

    ``backend`` overrides the attention backend the model was trained with; by default each machine
    chooses its own ("auto").

    Raises:
        InputError: a file is missing or damaged, or the weights are not finite or not those of the
            configuration.
    """
    folder = find_model(path)
    backend_choice = [f"attention.backend={backend or 'auto'}"]
    config = configuration.load([folder / CONFIG], backend_choice, follow_base=False)
    weights = WeightsFile(folder / WEIGHTS, upgrade_name)
    tokenizer = load_tokenizer(folder)
    # before the model is built: what the configuration asks for is bounded by the file's size
    weights.check_shapes(weight_shapes(config, tokenizer.vocab_size), folder / CONFIG)
    for beside in (folder / CONFIG, tokenizer_file(folder)):
        weights.check_beside(beside)
    try:
        with _float32_by_default():
            net = Recogniser(config, tokenizer.vocab_size)
    except (RuntimeError, MemoryError, OverflowError) as error:
        raise InputError(
            f"{folder / CONFIG}: no such model can be built: {str(error).splitlines()[0]}"
        ) from None
    net.load_state_dict(weights.load())
    check_finite(net, folder)
    return Model(net.to(device).eval(), tokenizer, config, folder)
