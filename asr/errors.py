"""What means "your input is wrong", as opposed to "our code is wrong"."""

from __future__ import annotations

import warnings


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line that says what was wrong, where, and what would be right; the command
    line prints it without a traceback and exits with status 2.
    """


class InputWarning(UserWarning):
    """Something the user gave can be used, and may not do what was meant.

    The command line prints it as a line of standard error; Python programs see a warning.
    """


def warn(message: str) -> None:
    """Issue an ``InputWarning`` on behalf of the caller."""
    warnings.warn(message, InputWarning, stacklevel=2)
