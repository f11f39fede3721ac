"""The same pictures in every format of datasets, for the tests of sources and of distilled images."""

import io
import json
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = {"a": ("0.png", "1.png", "10.png"), "b, ü": ("a b.png", "x.png"), "c'd": ("Ü.png",)}
"""The files of each class, sorted; odd names, as people have them."""


def pictures(channels, side=8, seed=0):
    """Three classes of a few small pictures: {split: [(class name, file name, pixels)]}, sorted as folders are."""
    rng = np.random.default_rng(seed)
    shape = (side, side) if channels == 1 else (side, side, channels)
    draw = lambda: rng.integers(0, 256, shape, np.uint8)
    return {
        split: [(label, name, draw()) for label, names in NAMES.items() for name in names] for split in ("train", "val")
    }


def png(pixels, form="PNG", **settings):
    """The bytes of an image file."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, form, **settings)
    return content.getvalue()


def as_folder(root, found):
    for split, rows in found.items():
        for label, name, pixels in rows:
            place = Path(root, split, label, name)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(png(pixels))
    return root


def as_rows(rows):
    """The columns of a table of the library `datasets`."""
    names = list(NAMES)
    return {
        "image": [{"bytes": png(pixels), "path": name} for _, name, pixels in rows],
        "label": [names.index(label) for label, _, _ in rows],
    }


def as_table(rows, columns=("image", "label"), **more):
    import datasets

    features = datasets.Features(
        {columns[0]: datasets.Image(), columns[1]: datasets.ClassLabel(names=list(NAMES)), **more}
    )
    held = as_rows(rows)
    return datasets.Dataset.from_dict({columns[0]: held["image"], columns[1]: held["label"]}, features=features)


def as_parquet(root, found):
    """What a clone of a repository of the hub looks like."""
    (root / "data").mkdir(parents=True)
    for split, rows in found.items():
        name = {"val": "validation"}.get(split, split)
        as_table(rows).to_parquet(root / "data" / f"{name}-00000-of-00001.parquet")
    return root


def as_arrow(root, found):
    import datasets

    datasets.DatasetDict({split: as_table(rows) for split, rows in found.items()}).save_to_disk(root)
    return root


def tar(place, files):
    """An archive of files by name: bytes, or a `tarfile.TarInfo`."""
    with tarfile.open(place, "w") as archive:
        for name, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return place


def as_shards(root, found, label="cls"):
    """Two shards of train images and one of others, with classes.txt."""
    root.mkdir(parents=True)
    names = list(NAMES)
    (root / "classes.txt").write_text("\n".join(names) + "\n")
    for split, rows in found.items():
        files = []
        for number, (name, file, pixels) in enumerate(rows):
            k = names.index(name)
            content = {"cls": f"{k}\n".encode(), "json": json.dumps({"label": k, "file": file}).encode()}[label]
            files.append({f"{split}/{number:04d}.PNG": png(pixels), f"{split}/{number:04d}.{label}": content})
        parts = np.array_split(np.arange(len(files)), 2 if split == "train" else 1)
        for number, part in enumerate(parts):
            merged = {key: value for k in part for key, value in files[k].items()}
            tar(root / f"{split}-{number:06d}.tar", merged)
    return root


def stacked(rows):
    return np.stack([pixels for _, _, pixels in rows]), np.array([list(NAMES).index(name) for name, _, _ in rows])


def as_npz(root, found):
    arrays = {}
    for split, rows in found.items():
        arrays[f"{split}_images"], labels = stacked(rows)
        arrays[f"{split}_labels"] = labels[:, None].astype(np.uint8)
    root.parent.mkdir(parents=True, exist_ok=True)
    np.savez(root, class_names=list(NAMES), **arrays)
    return root


def as_npy(root, found):
    root.mkdir(parents=True)
    for split, rows in found.items():
        images, labels = stacked(rows)
        np.save(root / f"x_{split}.npy", images)
        np.save(root / f"y_{split}.npy", labels)
    (root / "classes.txt").write_text("\n".join(NAMES))
    return root


def zipped(pickled, storages=(), **settings):
    """A file of PyTorch with this pickle and these bytes of storages."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", **settings) as archive:
        archive.writestr("a/data.pkl", pickled)
        for number, storage in enumerate(storages):
            archive.writestr(f"a/data/{number}", storage)
    return content.getvalue()


def tensor(size, stride, offset=0, count=4, key="0", kind="Float"):
    """The part of a pickle that describes a tensor."""
    name, number, start, shape, steps = (pickle.dumps(part, 2)[2:-1] for part in (key, count, offset, size, stride))
    storage = b"X\x07\0\0\0storagectorch\n" + f"{kind}Storage\n".encode() + name + b"X\x03\0\0\0cpu" + number
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(("
    return call + storage + b"tQ" + start + shape + steps + b"\x89ccollections\nOrderedDict\n)RtR"


def as_torch(place, **arrays):
    """A dict of tensors, float32 or int64, as `torch.save` writes it."""
    inside, storages = b"", []
    for number, (name, array) in enumerate(arrays.items()):
        kind = {"f": "Float", "i": "Long"}[array.dtype.kind]
        stride = tuple(step // array.itemsize for step in np.ascontiguousarray(array).strides)
        inside += pickle.dumps(name, 2)[2:-1] + tensor(array.shape, stride, 0, array.size, str(number), kind)
        storages.append(array.tobytes())
    place.write_bytes(zipped(b"\x80\x02}(" + inside + b"u.", storages))
    return place
