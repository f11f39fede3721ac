"""Files of PyTorch, whose pickle is changed inside of a sound archive or with it, as distilled images."""

import io
import zipfile
from pathlib import Path

from faults.fuzz import mutate
from faults.fuzz.rules import Target
from source_helpers import zipped

from jaxdd.data.foreign import open_distilled

GOLDEN = Path(__file__).parents[2] / "golden" / "foreign"
NAMES = ("dict.pt", "dc.pt", "parameter.pt", "brain.pt", "views.pt", "half.pth")


def seeds():
    return [(GOLDEN / name).read_bytes() for name in NAMES]


def inside(rng, data):
    """A file with another pickle, and the same storages."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
            storages = [parts[f"data/{k}"] for k in range(sum(name.startswith("data/") for name in parts))]
            return zipped(mutate.raw(rng, parts["data.pkl"]), storages)
    except (zipfile.BadZipFile, KeyError, RuntimeError, NotImplementedError, EOFError, ValueError, OSError):
        return mutate.raw(rng, data)


def read(folder, data):
    place = folder / "a.pt"
    place.write_bytes(data)
    dataset = open_distilled(place, image_norm="mnist", argmax=True)
    assert len(dataset.images) == len(dataset.labels)


TARGET = Target("tensors", seeds, mutate.either(inside, mutate.raw), read)
