"""Shards of WebDataset."""

import io
import tarfile

import numpy as np
from faults.fuzz import mutate
from faults.fuzz.rules import Target
from source_helpers import png

from jaxdd.data import load

PICTURE = png(np.arange(64, dtype=np.uint8).reshape(8, 8))
BLOCK = 512


def archive(form, **files):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=form) as shard:
        for name, part in files.items():
            member = tarfile.TarInfo(name.replace("_", "."))
            member.size, member.mtime = len(part), 0.5
            shard.addfile(member, io.BytesIO(part))
    return content.getvalue()


def seeds():
    labelled = {"a_png": PICTURE, "a_cls": b"0", "b_png": PICTURE, "b_json": b'{"label": 1, "weight": 0.5}'}
    long = {f"{'n' * 120}_png": PICTURE, f"{'n' * 120}_cls": b"0"}
    return [archive(form, **files) for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT) for files in (labelled, long)]


def headers(rng, data):
    """An archive in which the sums of the headers are right again."""
    changed = bytearray(mutate.raw(rng, data))
    for at in range(0, len(changed) - BLOCK, BLOCK):
        header = changed[at : at + BLOCK]
        if header[257:262] == b"ustar":
            changed[at + 148 : at + 156] = b"%06o\0 " % (sum(header[:148]) + 256 + sum(header[156:]))
    return bytes(changed)


def read(folder, data):
    place = folder / "a.tar"
    place.write_bytes(data)
    source = load(place, needs_test=False)
    source.read("train", np.arange(len(source.labels["train"])))


TARGET = Target("archives", seeds, mutate.either(headers, mutate.raw), read)
