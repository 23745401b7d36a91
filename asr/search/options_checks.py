"""Checks of values that Python programs give as options: each returns the value as Python's own type."""

from __future__ import annotations

import math
import numbers
import os
from pathlib import Path

import numpy as np

from asr.box import path_of
from asr.errors import InputError

_LONGEST_SHOWN = 60


def shown(value: object) -> str:
    """Return how a message shows a value of any type: on one line, and not all of a long one."""
    text = " ".join(repr(value).split())
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "..."


def number(name: str, value: object) -> float:
    """Return a finite number of any type as a float.

    Raises:
        InputError: it is none; ``True`` is none either.
    """
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        try:
            found = float(value)
        except OverflowError:
            found = math.inf
        if math.isfinite(found):
            return found
    raise InputError(f"{name} = {shown(value)}: must be a finite number")


def positive(name: str, value: object) -> float:
    """Return a finite number above 0, see ``number``.

    Raises:
        InputError: it is none.
    """
    found = number(name, value)
    if found <= 0:
        raise InputError(f"{name} = {shown(value)}: must be above 0")
    return found


def whole(name: str, value: object, least: int | None = None) -> int:
    """Return a whole number of any integer type as an int.

    Raises:
        InputError: it is none (``8.0`` and ``True`` are none), or below ``least``.
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise InputError(f"{name} = {shown(value)}: must be a whole number (int)")
    if least is not None and value < least:
        raise InputError(f"{name} = {shown(value)}: must be at least {least}")
    return int(value)


def switch(name: str, value: object) -> bool:
    """Return a truth value.

    Raises:
        InputError: neither True nor False.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise InputError(f"{name} = {shown(value)}: must be True or False")
    return bool(value)


def word(name: str, value: object) -> str:
    """Return a text.

    Raises:
        InputError: it is none.
    """
    if not isinstance(value, str):
        raise InputError(f"{name} = {shown(value)}: must be a text (str)")
    return value


def path(name: str, value: object) -> Path:
    """Return a path, given as one or as a text.

    Raises:
        InputError: it is neither.
    """
    found = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(found, str):
        raise InputError(f"{name} = {shown(value)}: must be a path (str or Path)")
    return path_of(found) if isinstance(value, str) else Path(found)
