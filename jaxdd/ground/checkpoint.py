"""Pytrees of arrays on disk, through Orbax.

A checkpoint is written to a temporary place and renamed, so a crash leaves the previous one or none.
"""

import errno
import hashlib
import logging
import math
import os
import re
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from jaxdd.ground.errors import InputError
from jaxdd.ground.files import remove_at_once


def save(path: Path | str, tree: Any) -> None:
    """Write a pytree of arrays as an Orbax checkpoint at ``path``, replacing what is there.

    Raises:
      OSError: the system refuses to write, for example because the disk is full.
    """
    if jax.process_count() > 1:
        # Orbax refuses an array on a device of a single process, but writes one in host memory.
        tree = jax.device_get(tree)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
    place = next(parent for parent in Path(path).absolute().parents if parent.is_dir())
    if shutil.disk_usage(place).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    # Orbax logs the traceback of a write that failed, and raises an error that holds the system's only as text.
    logger, level = logging.getLogger("absl"), logging.getLogger("absl").level
    logger.setLevel(logging.CRITICAL)
    try:
        with _checkpointer() as checkpointer:
            checkpointer.save(Path(path).absolute(), tree, force=True)
    except (ValueError, OSError) as error:
        refused = re.search(r"os_error_code='(\d+)'", str(error))
        number = int(refused.group(1)) if refused else getattr(error, "errno", None)
        if number:
            raise OSError(number, os.strerror(number), str(path)) from None
        raise
    finally:
        logger.setLevel(level)


def load(path: Path | str, like: Any) -> Any:
    """Read a checkpoint with the structure, shapes and dtypes of ``like`` (arrays or `jax.ShapeDtypeStruct`).

    Raises:
      InputError: there is no checkpoint, or its tree does not match.
    """
    if not Path(path).is_dir():
        raise InputError(f"no checkpoint at {path}; give the folder that was written by a training run")
    # A checkpoint records the sharding of its arrays. All are loaded to one device here, whatever machine wrote it.
    place = SingleDeviceSharding(jax.local_devices()[0])
    return _read(Path(path), jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), like))


def _read(path: Path, like: Any) -> Any:
    """A checkpoint as arrays of NumPy where ``like`` has such, and of JAX elsewhere; InputError if it does not fit."""
    try:
        _check_shapes(path.absolute(), like)
        with _checkpointer() as checkpointer:
            return checkpointer.restore(path.absolute(), like)
    except (ValueError, KeyError, FileNotFoundError) as error:
        raise InputError(f"the checkpoint at {path} does not fit the model: {str(error).splitlines()[0]}") from error


def _check_shapes(path: Path, like: Any) -> None:
    """Raise ValueError if an array of a checkpoint has another shape than in ``like``.

    Orbax finds that only while it reads, and then leaves tasks behind that print stack traces when they are collected.
    Its own list of shapes loses memory for each array, in TensorStore 0.1.86.
    """
    import tensorstore

    for place, leaf in jax.tree_util.tree_leaves_with_path(like):
        name = jax.tree_util.keystr(place, simple=True, separator=".")
        tree = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{path}/"}, "path": f"{name}/"}
        try:
            shape = tensorstore.open({"driver": "zarr", "kvstore": tree}, open=True).result().shape
        except (ValueError, OSError):
            return  # damaged or of another structure, which the reader words better
        if shape != leaf.shape:
            raise ValueError(f"{name} has shape {list(shape)} instead of {list(leaf.shape)}")


def _packed(tree: Any) -> dict[str, np.ndarray]:
    """All arrays of a pytree copied into one, and a digest of their bytes and of the structure.

    Orbax takes as long, and TensorStore loses as much memory, for a small array as for a large one.
    """
    leaves = [np.asarray(leaf).reshape(-1).view(np.uint8) for leaf in jax.tree.leaves(jax.device_get(tree))]
    arrays = np.concatenate(leaves)
    return {"arrays": arrays, "digest": _digest(tree, arrays)}


def _unpacked(packed: dict[str, np.ndarray], like: Any) -> Any:
    """The inverse of `_packed`: arrays of NumPy in the structure of ``like``; InputError if it has another digest."""
    if not np.array_equal(packed["digest"], _digest(like, packed["arrays"])):
        raise InputError("a checkpoint is damaged or of another computation; remove it")
    leaves, form = jax.tree.flatten(like)
    parts = np.split(packed["arrays"], np.cumsum([_bytes(leaf) for leaf in leaves])[:-1])
    # Copies begin at an address that suits their dtype.
    return jax.tree.unflatten(form, [part.copy().view(leaf.dtype).reshape(leaf.shape)
                                     for part, leaf in zip(parts, leaves)])  # fmt: skip


def _digest(tree: Any, arrays: np.ndarray) -> np.ndarray:
    form = [(jax.tree_util.keystr(place), np.shape(leaf), str(leaf.dtype))
            for place, leaf in jax.tree_util.tree_leaves_with_path(tree)]  # fmt: skip
    return np.frombuffer(hashlib.sha256(repr(form).encode() + hashlib.sha256(arrays.data).digest()).digest(), np.uint8)


def _bytes(leaf: Any) -> int:
    return math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize


class Checkpoints:
    """Checkpoints of one long computation, written in the background, of which the last is kept.

        checkpoints = Checkpoints(folder, identity)
        step, tree = checkpoints.latest(lambda step: like) or (0, start)
        with checkpoints:
            ...
            if checkpoints.is_due():
                checkpoints.save(step, tree)
        checkpoints.clear()

    At the end of the block the last one is on the disk, so nothing is written any more.

    Args:
      folder: where they lie; None keeps none.
      identity: everything that determines the computation, as a text. Those of others in the same folder are ignored.
      seconds: the time between two of them.
    """

    def __init__(self, folder: Path | None, identity: str = "", seconds: float = 30.0):
        self.folder, self.seconds = folder, seconds
        self.name = hashlib.sha256(identity.encode()).hexdigest()[:16]
        self._since, self._pool = time.monotonic(), ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            self.flush()
        except OSError:
            # What ended the block comes first.
            if kind is None:
                raise

    def latest(self, like: Callable[[int], Any]) -> tuple[int, Any] | None:
        """The step and the tree of the last checkpoint, in NumPy, or None.

        Args:
          like: from a step to arrays or `jax.ShapeDtypeStruct` of the tree's structure.
        """
        if self.folder is None:
            return None
        for step in sorted(self._steps(), reverse=True):
            tree = like(step)
            size = sum(map(_bytes, jax.tree.leaves(tree)))
            empty = {"arrays": np.empty(size, np.uint8), "digest": np.empty(32, np.uint8)}
            try:
                return step, _unpacked(_read(self._place(step), empty), tree)
            except InputError:  # by another version, or damaged: begin anew
                shutil.rmtree(self._place(step), ignore_errors=True)
        return None

    def is_due(self) -> bool:
        """Whether it is time for another one."""
        return self.folder is not None and time.monotonic() - self._since > self.seconds

    def save(self, step: int, tree: Any, wait: bool = False) -> None:
        """Write a checkpoint of the tree at a step; ``wait``: return when it is on the disk.

        The arrays are copied first, so the computation may go on and overwrite its own.

        Raises:
          OSError: the one before could not be written.
        """
        if self.folder is None:
            return
        self.flush()
        packed = _packed(tree)
        self._since = time.monotonic()
        self._writing = self._pool.submit(self._write, step, packed)
        if wait:
            self.flush()

    def flush(self) -> None:
        """Wait until what was saved is on the disk.

        Raises:
          OSError: it could not be written.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def clear(self) -> None:
        """Remove all checkpoints of the computation, which is finished."""
        self.flush()
        for step in self._steps():
            remove_at_once(self._place(step))

    def _write(self, step: int, packed: dict[str, np.ndarray]) -> None:
        assert self.folder is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        save(self._place(step), packed)
        for older in self._steps():
            if older != step:
                remove_at_once(self._place(older))

    def _steps(self) -> list[int]:
        if self.folder is None or not self.folder.is_dir():
            return []
        names = (re.fullmatch(rf"{self.name}-(\d+)", entry.name) for entry in self.folder.iterdir())
        return [int(name.group(1)) for name in names if name]

    def _place(self, step: int) -> Path:
        assert self.folder is not None
        return self.folder / f"{self.name}-{step}"


class Scratch(NamedTuple):
    """Where unfinished work keeps its checkpoints.

    Attributes:
      folder: the folder; None keeps none.
      identity: everything that determines the work and is not the same for all in the folder, as a text.
    """

    folder: Path | None = None
    identity: str = ""

    def checkpoints(self, part: str) -> Checkpoints:
        """The checkpoints of one part of the work."""
        return Checkpoints(self.folder, f"{self.identity} {part}")


def _checkpointer():
    import orbax.checkpoint as ocp

    if jax.process_count() == 1:
        return ocp.StandardCheckpointer()
    # Each process reads and writes its own checkpoints, without waiting for the others.
    process = jax.process_index()
    options = ocp.options.MultiprocessingOptions(process, {process}, f"process{process}")
    return ocp.StandardCheckpointer(multiprocessing_options=options)
