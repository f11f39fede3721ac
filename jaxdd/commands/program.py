"""One way to run a program: parse its flags, call it, end with one line where the input is bad."""

import atexit
import contextlib
import dataclasses
import io
import os
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from jaxdd import planning
from jaxdd.commands import failures, flags
from jaxdd.ground import dry, hosts, stop
from jaxdd.ground.errors import DivergenceError, InputError, one_line
from jaxdd.ground.memory import keep_freed
from jaxdd.ground.programs import Work
from jaxdd.ground.progress import discard, say, worded


def run(
    main: Callable[[Any], None],
    default: Callable[[list[str]], Any],
    arguments: list[str] | None = None,
    several: bool = False,
    plan: Callable[[Any], list[Work]] | None = None,
) -> None:
    """Parse every field of the dataclass that ``default(arguments)`` returns as a flag and call ``main``.

    `InputError` becomes one line on stderr, in which parameters are called by their flags, and exit status 2. So does a
    failure of the machine, such as a full disk, and a `DivergenceError`, with exit status 3. On SIGTERM and
    Ctrl-C what is computed so far is kept; the exit status is 143 or 130. If nobody reads the output any more, as after
    ``| head``, it is 141, and nothing is printed. A closed stdout or stderr takes everything.

    Args:
      arguments: default: those of the command line.
      several: whether ``main`` shares its work among the processes of a run, where there are several.
      plan: what ``main`` would do with a config. With ``--dry-run`` this is printed as a table, and nothing is done;
        ``--on v5e-8`` does the same for a machine that is not there.
    """
    config = None
    try:
        arguments = _begun(arguments)
        request, arguments = flags.dry_run(arguments)
        config = default(arguments)
        config = _parsed(config, arguments, main.__module__)
        hosts.join()
        stop.heed()
        if hosts.count() > 1 and not several:
            raise InputError(f"this program runs in one process, not in {hosts.count()}; start it once")
        with worded(partial(flags.as_flags, config=config)):
            if request is None:
                main(config)
            else:
                _print_plan(plan, config, request)
        # A full disk may refuse results only now.
        sys.stdout.flush()
        # The others would take a process that left earlier for dead.
        if hosts.count() > 1:
            hosts.part()
    except stop.Stopped as error:
        stop.over()
        say("stopped; the same command goes on from what is kept")
        atexit.register(stop.leave, error.status)
        _stop(error.status)
    except (InputError, DivergenceError) as error:
        _refuse(str(error), config, 2 if isinstance(error, InputError) else 3)
    except BrokenPipeError:
        # The status of a process that SIGPIPE ends, as most programs are that write to a closed pipe.
        discard(sys.stdout)
        _stop(141)
    except (Exception, KeyboardInterrupt) as error:
        failure = failures.line(error)
        if failure:
            _refuse(failure, config)
        if hosts.count() == 1:
            raise
        traceback.print_exc()
        _stop(1)


def _begun(arguments: list[str] | None) -> list[str]:
    """The arguments without plug-ins, which are imported, after the process is set up."""
    keep_freed()
    _open_closed()
    # A name may hold what the terminal cannot show.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    return flags.load_plugins(sys.argv[1:] if arguments is None else arguments)


def _parsed(config: Any, arguments: list[str], module: str) -> Any:
    """What `flags.parse` returns; its help, after which it exits, is written here, where failures are handled."""
    room, _, name = module.rpartition(".")
    try:
        title = f"jaxdd {name}" if room == "jaxdd.programs" else None
        return flags.parse(config, arguments, sys.modules[module].__doc__, title)
    finally:
        sys.stdout.flush()


def _print_plan(plan: Callable[[Any], list[Work]] | None, config: Any, request: flags.DryRun) -> None:
    """Print what a program would do."""
    if plan is None:
        raise InputError("this program cannot plan; run it without --dry-run")
    if hosts.count() > 1:
        raise InputError("a plan is for one process; start it once, with `on` for another machine")
    begun, started = time.perf_counter(), time.process_time()  # the latter counts from the start of the process
    chip = request.machine.chip if request.machine else None
    with dry.run(chip.memory_bytes if chip else None):
        # Where there is bfloat16, networks compute in it.
        works = plan(_computing(config) if chip and chip.has_bfloat16 else config)
        opening = started + time.perf_counter() - begun
        text = "nothing to compute; this takes seconds"
        if works:
            text = planning.text(planning.made(works, request.machine, opening))
    print(flags.as_flags(text, config))


def _computing(config: Any) -> Any:
    """A config in which bfloat16 takes the place of "auto" as the dtype of networks, at any depth."""
    changes: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if item.name == "compute" and value == "auto":
            changes[item.name] = "bfloat16"
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            changes[item.name] = _computing(value)
    return dataclasses.replace(config, **changes)


def _open_closed() -> None:
    """Put a stream to nowhere in place of a standard one if the program was started without it.

    Otherwise the next file that is opened would take its number, and what libraries in C print would go into it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115


def _refuse(message: str, config: Any, status: int = 2) -> NoReturn:
    say(f"error: {one_line(flags.as_flags(message, config))}")
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    _stop(status)


def _stop(status: int) -> NoReturn:
    if hosts.count() > 1:
        # The exit of one of several processes would wait for the others, which never come.
        hosts.leave(status)
    sys.exit(status)
