"""A file of results to which each evaluation adds its rows. Nothing that was measured is lost."""

import json
from pathlib import Path

from jaxdd.ground import hosts
from jaxdd.ground.files import write_json
from jaxdd.ground.progress import log
from jaxdd.students import rows


class KeptRows:
    """The rows of a file, and those that are added.

    Rows that no longer fit, see `rows.joined`, go with all others of the file as it was into a numbered file beside it.

    Args:
      place: the file, which need not exist.

    Raises:
      InputError: the file is damaged.
    """

    def __init__(self, place: Path):
        self.place = place
        # All processes must know the same, as they share the students that are left among them.
        read = lambda: json.dumps(rows.read(place) if place.is_file() else [])
        self.before: list[dict] = json.loads(str(hosts.first(read)))
        self._set_aside = False

    def add(self, new: list[dict]) -> None:
        """Write the file with these rows, which are all of an evaluation so far."""
        if not hosts.is_first():
            return
        kept, aside = rows.joined(self.before, new)
        if aside and not self._set_aside:
            other = self._free_place()
            write_json(other, self.before)
            many = f"{len(aside)} row{'s' * (len(aside) > 1)}"
            log(f"{self.place} had {many} of students that were trained otherwise; as it was, it is {other.name} now")
            self._set_aside = True
        write_json(self.place, kept)

    def _free_place(self) -> Path:
        number = 1
        while (place := self.place.with_name(f"{self.place.stem}.{number}{self.place.suffix}")).exists():
            number += 1
        return place
