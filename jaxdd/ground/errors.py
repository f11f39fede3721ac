"""The one exception for input that a user can mend."""


class InputError(ValueError):
    """Bad input: one line that names the value, the place and the remedy.

    The experiments print it and exit with status 2; library users catch it as a ValueError.
    """
