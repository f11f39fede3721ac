"""Pytrees of arrays on disk, through Orbax.

A checkpoint is written to a temporary place and renamed, so a crash leaves the previous one or none.
"""

import errno
import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any

import jax
from jax.sharding import SingleDeviceSharding

from jaxdd.ground.errors import InputError


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
    here = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)
    try:
        with _checkpointer() as checkpointer:
            return checkpointer.restore(Path(path).absolute(), jax.tree.map(here, like))
    except (ValueError, KeyError, FileNotFoundError) as error:
        raise InputError(f"the checkpoint at {path} does not fit the model: {str(error).splitlines()[0]}") from error


def _checkpointer():
    import orbax.checkpoint as ocp

    if jax.process_count() == 1:
        return ocp.StandardCheckpointer()
    # Each process reads and writes its own checkpoints, without waiting for the others.
    process = jax.process_index()
    options = ocp.options.MultiprocessingOptions(process, {process}, f"process{process}")
    return ocp.StandardCheckpointer(multiprocessing_options=options)
