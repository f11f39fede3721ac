"""The exception for input that the user can correct."""


class InputError(ValueError):
    """Bad input. The message is one line that names the value, the place and the remedy.

    The programs print it and exit with status 2. Library users can catch it as a ValueError.
    """
