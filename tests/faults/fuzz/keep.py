"""Keep the smallest inputs of a search: PYTHONPATH=.:tests python -m faults.fuzz.keep [target ...].

For each way in which a reader ends, that is the line that refused the input and the line of a library that made it do
so, the smallest input that leads there is kept, up to a few kilobytes for each target. Findings are kept as they are.
"""

import hashlib
import importlib
import shutil
import sys
import traceback

from faults.fuzz import rules
from faults.fuzz.__main__ import NAMES, OUT

MOST = 20_000


def main(names: list[str]) -> None:
    for name in names or NAMES:
        target = importlib.import_module(f"faults.fuzz.{name}").TARGET
        found = [place.read_bytes() for place in sorted((OUT / name).glob("*.input"))]
        tried = [place.read_bytes() for place in (OUT / name / "corpus").glob("*")]
        kept, ways, seeds = {*found, *target.kept()}, set(), target.seeds()
        with rules.folder() as folder:
            for data in [*sorted(kept), *seeds]:
                ways.add(way(target, folder, data))
            for data in sorted(tried, key=lambda data: (len(data), data)):
                if sum(map(len, kept)) + len(data) > MOST:
                    break
                if (here := way(target, folder, data)) not in ways:
                    ways.add(here)
                    kept.add(data)
        place = rules.KEPT / name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        for data in kept:
            (place / hashlib.sha256(data).hexdigest()[:12]).write_bytes(data)
        print(f"{name}: {len(kept)} inputs of {sum(map(len, kept))} bytes")


def way(target, folder, data) -> tuple:
    """The lines at which a reader and what it calls raised their errors; empty for a value."""
    try:
        target.read(folder, data)
    except Exception as error:
        chain = [error]
        while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None:
            chain.append(inner)
        ends = [traceback.extract_tb(one.__traceback__)[-1] for one in chain]
        return tuple((end.filename, end.lineno) for end in ends)
    return ()


if __name__ == "__main__":
    main(sys.argv[1:])
