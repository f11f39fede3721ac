"""The exceptions that end a program with one line: input that the user can correct, and runs that diverge."""


class InputError(ValueError):
    """Bad input. The message is one line that names the value, the place and the remedy.

    The programs print it and exit with status 2. Library users can catch it as a ValueError.
    """


class DivergenceError(RuntimeError):
    """A computation without a usable result: numbers that are not finite, losses that blew up, saturated images.

    The message is one line that names the stage, the class, student or layer, the step and a remedy. Nothing of what
    diverged is kept; what was finished before is. The programs print the line and exit with status 3.
    """
