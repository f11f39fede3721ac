"""The accuracies of the finished students of an unfinished comparison."""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxdd.ground import hosts
from jaxdd.ground.checkpoint import Scratch
from jaxdd.ground.errors import InputError
from jaxdd.ground.files import remove_at_once, sweep, write_json
from jaxdd.ground.locks import LOCK, locked
from jaxdd.ground.reading import read_json
from jaxdd.stages.relabel.stored import fingerprint
from jaxdd.students.evaluation import Lane


@contextlib.contextmanager
def scratch(folder: Path) -> Iterator[Scratch]:
    """A context manager for the scratch of a comparison, which is locked, and removed when the block ends well.

    In a run of several processes the first makes and removes it.

    Raises:
      InputError: another process makes the same comparison.
    """
    with contextlib.ExitStack() as stack:

        def begin() -> None:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder / LOCK, str(folder)))
            sweep(folder, alone=True)
            # What a process left that died while it removed the folder.
            sweep(folder.parent)

        hosts.first(begin)
        yield Scratch(folder)
        hosts.meet()
        if hosts.is_first():
            remove_at_once(folder)


class Finished:
    """Accuracies by what determines them, in a file of each process; without a folder, in memory only.

    Args:
      scratch: where they are kept.
      common: what all students of the comparison have in common.
    """

    def __init__(self, scratch: Scratch, *common: Any):
        self.folder, self.common = scratch.folder, [repr(part) for part in common]
        # All processes must know the same, as they share the other students among them.
        self.known: dict[str, float] = json.loads(str(hosts.first(lambda: json.dumps(self._read()))))
        self._own: dict[str, float] = dict(self.known) if hosts.is_first() else {}
        self._digests: dict[int, str] = {}

    def _read(self) -> dict[str, float]:
        found: dict[str, float] = {}
        if self.folder is None:
            return found
        for file in sorted(self.folder.glob("students-*.json")):
            with contextlib.suppress(InputError):
                found |= {name: float(value) for name, value in read_json(file).items()}
        return found

    def key(self, lane: Lane) -> str:
        """A digest of everything that determines the accuracy of a student."""
        data = lane.dataset
        if id(data) not in self._digests:
            arrays = [data.images, data.labels, data.weights, data.norm.mean, data.norm.std]
            self._digests[id(data)] = fingerprint(arrays)
        labels = lane.labels
        stored = labels and [labels.images, labels.settings, labels.seed, labels.steps, labels.stream]
        parts = [*self.common, self._digests[id(data)], lane.seed, repr(stored)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def of_rows(self, rows: Iterable[dict], keys: Sequence[str]) -> str:
        """The key of the row of some students; if one of ``rows`` has it, its accuracies are theirs."""
        together = hashlib.sha256(json.dumps(list(keys)).encode()).hexdigest()[:16]
        for row in rows:
            if row.get("key") == together and len(row["accuracies"]) == len(keys):
                self.known |= dict(zip(keys, row["accuracies"]))
        return together

    def add(self, key: str, accuracy: float) -> None:
        """Keep the accuracy of a student."""
        self.known[key] = self._own[key] = accuracy
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            process = jax.process_index() if hosts.count() > 1 else 0
            write_json(self.folder / f"students-{process}.json", self._own)
