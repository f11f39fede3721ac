"""The exceptions that end a program with one line: input that the user can correct, and runs that diverge."""


class InputError(ValueError):
    """Bad input. The message is one line that names the value, the place and the remedy.

    The programs print it and exit with status 2. Library users can catch it as a ValueError. What cannot be printed,
    such as a line break in a name that a file holds, is escaped.
    """

    def __init__(self, message: str = ""):
        super().__init__(_escaped(message))


class DivergenceError(RuntimeError):
    """A computation without a usable result: numbers that are not finite, losses that blew up, saturated images.

    The message is one line that names the stage, the class, student or layer, the step and a remedy. Nothing of what
    diverged is kept; what was finished before is. The programs print the line and exit with status 3.
    """


def shown(value: object, most: int = 80) -> str:
    """A value as a short piece of a message: its `repr`, cut after ``most`` characters."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write an integer of more than 4,300 digits.
        text = "a number of thousands of digits"
    return text if len(text) <= most else f"{text[:most]}..."


def one_line(text: str, most: int = 2000) -> str:
    """A message as one line that a terminal can print: other characters are escaped, and a long one is cut."""
    text = _escaped(text)
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)
