"""Files of PyTorch (.pt, .pth) with tensors, read without PyTorch; no code of a file is run."""

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from jaxdd.data.torch_pickle import Storage, load
from jaxdd.ground.errors import InputError
from jaxdd.ground.files import open_regular

_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_LONGEST = 2**26
_LIMIT = 8 * 2**30
_MOST_MEMBERS = 100_000


def read(path: Path) -> Any:
    """The value that `torch.save` wrote: tensors as arrays of NumPy, in lists, tuples and dicts.

    Dtypes are those of the tensors, and float32 for bfloat16. Arrays are read-only.

    Raises:
      InputError: no regular file, one that is damaged or too large, one of another or an old format, or one that holds
        anything but tensors, numbers and text.
    """
    try:
        with open_regular(path) as file:
            beginning = file.read(len(_LEGACY))
            if not beginning.startswith(b"PK"):
                raise InputError(_no_zip(path, beginning))
            file.seek(0)
            with zipfile.ZipFile(file) as archive:
                return _value(archive, os.fstat(file.fileno()).st_size)
    except (InputError, MemoryError):
        raise
    # Damage anywhere in a zip file or a pickle raises many types, which their modules do not list.
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
        raise InputError(f"{path} cannot be read: {reason or type(error).__name__}; save only tensors, numbers and "
                         "text in it, in dicts and lists, with torch.save") from None  # fmt: skip


def _no_zip(path: Path, beginning: bytes) -> str:
    if beginning == _LEGACY:
        return (f"{path} is in the format of PyTorch before 1.6, a pickle, which is never read; save it again: "
                f"torch.save(torch.load({path.name!r}, weights_only=True), {path.name!r})")  # fmt: skip
    return f"{path} is no file of torch.save; give one, or the images as an .npz file or as a folder of PNG files"


def _value(archive: zipfile.ZipFile, size: int) -> Any:
    entries = archive.infolist()
    if len(entries) > _MOST_MEMBERS:
        raise ValueError(f"it has {len(entries)} members")
    members = {entry.filename: entry for entry in entries}
    pickles = [name for name in members if name.endswith("/data.pkl")]
    if len(members) < len(entries) or len(pickles) != 1:
        raise ValueError("it has no data.pkl of its own")
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size for entry in entries):
        raise ValueError("its members are compressed, which torch.save does not do")
    total = sum(entry.file_size for entry in entries)
    # Members that lie over each other could be many times the file.
    if total > min(size, _LIMIT):
        raise ValueError(f"its members should take {total} bytes, and it has {size}")
    pickle = members[pickles[0]]
    if pickle.file_size > _LONGEST:
        raise ValueError(f"its pickle takes {pickle.file_size} bytes")
    root = pickles[0].removesuffix("data.pkl")
    order = archive.read(f"{root}byteorder") if f"{root}byteorder" in members else b"little"
    storages: dict[Storage, np.ndarray] = {}

    def read_storage(storage: Storage) -> np.ndarray:
        if storage not in storages:
            entry = members.get(f"{root}data/{storage.key}")
            needed = storage.elements * storage.dtype.itemsize
            if entry is None or entry.file_size < needed:
                raise ValueError(
                    f"a storage should take {needed} bytes, but {entry.file_size if entry else 0} are there"
                )
            dtype = storage.dtype.newbyteorder(">" if order == b"big" else "<")
            array = np.frombuffer(archive.read(entry), dtype, storage.elements)
            storages[storage] = array.astype(storage.dtype, copy=False)
        return storages[storage]

    return load(archive.read(pickle), read_storage)
