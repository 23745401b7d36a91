"""The one exception that means "your input is wrong", as opposed to "our code is wrong"."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line that says what was wrong, where, and what would be right; the command
    line prints it without a traceback and exits with status 2.
    """
