"""What command-line programs share: flags from typed configs, plug-ins, errors as one line."""

from jaxdd.commands.flags import flag_value
from jaxdd.commands.program import run

__all__ = ["flag_value", "run"]
