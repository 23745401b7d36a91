"""Models that come with the package: one folder each, beside this file.

A model in the box is a model folder like any other, its matrices in 8 bits. Its card (``README.md``)
says how it was trained and measured. Nothing is written here.
"""

from __future__ import annotations

from pathlib import Path

from asr.errors import InputError
from asr.run_folder import CARD, CARRIED_LM, CONFIG, SEARCH_WEIGHTS, WEIGHTS

DEFAULT = "real-en"
"""The model that ``asr transcribe`` and ``asr.load`` use where none is named."""

NAMES = (DEFAULT,)

_HERE = Path(__file__).parent
_FILES = (CONFIG, WEIGHTS, "tokenizer.model", CARD, CARRIED_LM, SEARCH_WEIGHTS)


def folder(name: str) -> Path:
    """Return the folder of a model in the box.

    Raises:
        InputError: no model of that name, or the package was not installed whole.
    """
    if name not in NAMES:
        raise InputError(f"no model {name!r} in the package; there is {', '.join(NAMES)}")
    for file in _FILES:
        path = _HERE / name / file
        if not path.is_file():
            raise InputError(
                f"model {name}: {path} is missing: install sigmoid-asr again, or name another model"
            )
    return _HERE / name


def path_of(text: str) -> Path:
    """Return the path that a text is; one with a separator (``./real-en``) is never a model's name."""
    found = Path(text)
    return found.absolute() if str(found) in NAMES and text != str(found) else found


def check_not_boxed(path: Path, instead: str) -> None:
    """Refuse a model in the box where a command would write into its folder.

    Args:
        path: of a model folder.
        instead: what to do.

    Raises:
        InputError: ``path`` lies in the box.
    """
    if _HERE.resolve() in path.resolve().parents:
        raise InputError(f"model {path.name}: nothing is written into the package; {instead}")
