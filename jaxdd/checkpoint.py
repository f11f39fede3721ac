"""Pytrees of arrays on disk, through Orbax: written aside and renamed, so a crash leaves the old one or none."""

from pathlib import Path
from typing import Any

from jaxdd.errors import InputError


def save(path: Path | str, tree: Any) -> None:
    """Write a pytree of arrays as an Orbax checkpoint at ``path``, replacing what is there."""
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(Path(path).absolute(), tree, force=True)


def load(path: Path | str, like: Any) -> Any:
    """Read a checkpoint with the structure, shapes and dtypes of ``like`` (arrays or `jax.ShapeDtypeStruct`).

    Raises:
      InputError: there is no checkpoint, or its tree does not match.
    """
    import orbax.checkpoint as ocp

    if not Path(path).is_dir():
        raise InputError(f"no checkpoint at {path}; give the folder that was written by a training run")
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(Path(path).absolute(), like)
    except (ValueError, KeyError, FileNotFoundError) as error:
        raise InputError(f"the checkpoint at {path} does not fit the model: {str(error).splitlines()[0]}") from error
