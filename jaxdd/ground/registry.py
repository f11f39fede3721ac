"""Registries of the choices at a stage, to which any module can add."""

import difflib
import importlib
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from jaxdd.ground.errors import InputError, shown

_Entry = TypeVar("_Entry")

# Import paths that the user allowed in this process.
_TRUSTED: set[str] = set()


def trust(path: str) -> None:
    """Allow ``package.module:Name`` to be imported when a file names it."""
    _TRUSTED.add(path)


class Registry(Mapping[str, Any]):
    """The choices of one kind, by name.

        @SUMMARIZERS.register("mean")
        @dataclass(frozen=True)
        class Mean(Summarizer): ...

    A command line may name a choice as ``package.module:Name``, which `load` imports. Names that are read from a file
    go through `find`, which imports nothing, so that a file from an untrusted source cannot run code.

    Attributes:
      kind: the noun for a choice in error messages.
      holds: the type that an imported choice must be an instance of, also an abstract one such as Callable; None
        any.
      home: the module that registers the entries of this package, if it is another one than that of the registry. It
        is imported when they are first looked for.
      few: whether messages about an unknown name list all entries, instead of the most similar ones.
    """

    def __init__(self, kind: str, holds: Any = None, home: str | None = None, few: bool = False):
        self.kind, self.holds, self.home, self.few = kind, holds, home, few
        self._known: dict[str, Any] = {}

    @property
    def _entries(self) -> dict[str, Any]:
        if self.home is not None:
            home, self.home = self.home, None
            importlib.import_module(home)
        return self._known

    def __getitem__(self, name: str) -> Any:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def register(self, name: str, entry: Any = None) -> Any:
        """Add an entry under a name; without an entry, return a decorator that adds the decorated object.

        Raises:
          ValueError: the name belongs to another entry, or contains a colon, which marks an import path.
        """
        if entry is None:
            return lambda entry: self.register(name, entry)
        if ":" in name:
            raise ValueError(f"{self.kind} name {name!r} has a colon; leave it out")
        return self._add(name, entry)

    def find(self, name: str) -> Any:
        """The entry of a registered name.

        Raises:
          InputError: no such name; the message lists the most similar ones, or all if none is similar or they are
            `few`.
        """
        if not isinstance(name, str):
            raise InputError(f"{self.kind} {shown(name)} is no name; use {' or '.join(self._entries)}")
        if name in self._entries:
            return self._entries[name]
        if name in _TRUSTED:
            return self._imported(name)
        if ":" in name:
            raise InputError(
                f"{self.kind} {shown(name)} is not registered, and a name read from a file is never imported; if you "
                f"trust it, import it first with `plugin` {name[:200]}"
            )
        near = [] if self.few else difflib.get_close_matches(name[:100], self._entries, 3, 0.6)
        raise InputError(f"unknown {self.kind} {shown(name)}; use {' or '.join(near or self._entries)}")

    def load(self, name: str) -> Any:
        """Like `find`, but import ``package.module:Name`` and register it under that path. For command lines only.

        Raises:
          InputError: no such name, module or attribute, or an attribute of another type.
        """
        if ":" not in name or name in self._entries:
            return self.find(name)
        return self._imported(name)

    def name_of(self, choice: Any) -> str:
        """The name of an entry, or of the class of an instance; ``module:Name`` if it is not registered."""
        for name, entry in self._entries.items():
            if choice is entry or (isinstance(entry, type) and type(choice) is entry):
                return name
        kind = choice if isinstance(choice, type) else type(choice)
        return f"{kind.__module__}:{kind.__qualname__}"

    def _imported(self, name: str) -> Any:
        entry = imported(name)
        if self.holds and not isinstance(entry, self.holds):
            raise InputError(f"{self.kind} {name!r} is a {type(entry).__name__}; name a {self.holds.__name__}")
        return self._add(name, entry)

    def _add(self, name: str, entry: _Entry) -> _Entry:
        known = self._entries.get(name, entry)
        # A reloaded module, as in a notebook, replaces its earlier entries.
        where = lambda one: (getattr(one, "__module__", None), getattr(one, "__qualname__", None))
        if known is not entry and where(known) != where(entry):
            raise ValueError(f"{self.kind} {name!r} is registered already; choose another name")
        self._entries[name] = entry
        return entry


def imported(path: str) -> Any:
    """Import ``package.module:Name``.

    Raises:
      InputError: no such module or attribute.
    """
    place, _, name = path.partition(":")
    try:
        module = importlib.import_module(place)
    except (ImportError, ValueError, TypeError) as error:
        raise InputError(f"cannot import {path!r}: {error}; give package.module:Name") from error
    if not hasattr(module, name):
        raise InputError(f"module {place} has no {name!r}; give package.module:Name")
    return getattr(module, name)
