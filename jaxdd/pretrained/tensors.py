"""Conversion between the tensors of safetensors files and the leaves of Flax variables.

The path of a leaf, joined by dots, is the name of its tensor. Convolution kernels are [h, w, in, out] in Flax and
[out, in, h, w] in the files; linear kernels are [in, out] and [out, in].
"""

import contextlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from jaxdd.ground import reading
from jaxdd.ground.errors import InputError, shown
from jaxdd.ground.files import atomic
from jaxdd.nn.classifier import Variables
from jaxdd.pretrained.hub import read_json

Shape = tuple[int, ...]
# Buffers that are determined by the config, and an unused counter.
_IGNORED = re.compile(r"(^|\.)(pos_embed|position_ids|num_batches_tracked)$")
_KINDS = {"kernel": "weight", "scale": "weight", "embedding": "weight", "mean": "running_mean", "var": "running_var"}
_SHOWN = 10
# Quantized weights have scales of their own, which are not read.
_FLOATING = ("F64", "F32", "F16", "BF16")


class Stored(NamedTuple):
    """The file and the shape of a tensor."""

    file: Path
    shape: Shape


def dotted(path: tuple[str, ...]) -> str:
    """The name of a leaf's tensor: its path without the collection, joined by dots."""
    *modules, kind = path[1:]
    return ".".join((*modules, _KINDS.get(kind, kind)))


class Naming(NamedTuple):
    """The relation between the tensor names of a kind of model and the paths of its leaves."""

    of: Callable[[tuple[str, ...]], str] = dotted
    """From the path of a leaf to the name of its tensor."""
    rename: Callable[[str], str] = lambda name: name
    """From a name in a file to a name of `of`. Tensors with the same new name must be equal."""
    shapes: Mapping[str, Shape] = {}
    """The shapes [out, in, h, w] of tensors that store a linear kernel as a convolution."""
    copies: Callable[[str], tuple[str, ...]] = lambda name: (name,)
    """From a name of `of` to the names under which the tensor is written."""


def tensors(folder: Path) -> dict[str, Stored]:
    """The tensors in the safetensors file of a folder, or in the shards of its index; their content is not read.

    Raises:
      InputError: there is no such file or more than one, a file is damaged, a shard is missing or lies elsewhere, or a
        tensor is not floating.
    """
    contents: dict[str, Stored] = {}
    for file in _files(folder):
        contents |= tensors_of(file)
    return contents


def tensors_of(file: Path) -> dict[str, Stored]:
    """The tensors in one safetensors file; their content is not read.

    Raises:
      InputError: the file is missing or damaged, or a tensor is not floating.
    """
    contents: dict[str, Stored] = {}
    with _opened(file) as handle:
        for name in handle.keys():  # noqa: SIM118  a handle is no mapping
            part = handle.get_slice(name)
            if part.get_dtype() not in _FLOATING and not _IGNORED.search(name):
                raise InputError(f"{file}: {shown(name)} has dtype {part.get_dtype()}; give floating weights, "
                                 f"{', '.join(_FLOATING)}")  # fmt: skip
            contents[name] = Stored(file, tuple(part.get_shape()))
    return contents


def _files(folder):
    for stem in ("diffusion_pytorch_model", "model", "diffusion_pytorch_model.fp16", "model.fp16"):
        if (folder / f"{stem}.safetensors").is_file():
            return [folder / f"{stem}.safetensors"]
        index = folder / f"{stem}.safetensors.index.json"
        if index.is_file():
            shards = read_json(index).get("weight_map")
            if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
                raise InputError(f"{index} has no weight_map from tensors to files; download it again")
            return [_shard(index, name) for name in sorted(set(shards.values()))]
    files = sorted(folder.glob("*.safetensors"))
    if len(files) == 1:
        return files
    if files:
        raise InputError(f"{folder} holds {', '.join(f.name for f in files)}; name the right one model.safetensors")
    pickles = sorted(f.name for kind in ("bin", "pt", "pth", "ckpt") for f in folder.glob(f"*.{kind}"))
    if pickles:
        raise InputError(
            f"{folder} holds only {', '.join(pickles)}, and pickles are never read, as they can run code; "
            "give the weights as safetensors"
        )
    raise InputError(f"no *.safetensors in {folder}; give the weights in that format (pickles are never read)")


def _shard(index, name):
    """A file that an index names; InputError if it lies elsewhere, as a file from a stranger must not choose it."""
    folder = index.parent.resolve()
    # The cache of the hub links each file of a snapshot to the blobs of its repository.
    allowed = [folder, *(parent.parent / "blobs" for parent in folder.parents if parent.name == "snapshots")]
    if any(name.startswith(start) for start in ("/", ".")) or len(Path(name).parts) != 1 or not name.isprintable():
        raise InputError(f"{index} names {shown(name)}, which is no file in its folder; download it again")
    place = (folder / name).resolve()
    if not any(place.is_relative_to(parent) for parent in allowed):
        raise InputError(f"{index} names {shown(name)}, a link out of its folder; download it again")
    return index.parent / name


def _opened(file):
    # A name that no file can have is no file, whereas Path.exists would raise an error.
    if os.path.exists(file):
        reading.check_regular(file, "download it again")
    try:
        return safe_open(file, framework="numpy")
    except FileNotFoundError as error:
        raise InputError(f"{file} is missing, one of the files of its index; download it again") from error
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} is damaged or no safetensors file ({error}); download it again") from error


def fill(like: Any, contents: Mapping[str, Stored], naming: Naming, place: Path) -> Variables:
    """Read variables of the structure ``like`` as NumPy float32 arrays.

    Args:
      like: nested dicts whose leaves have a shape, such as a result of `jax.eval_shape`.
      contents: the stored tensors, see `tensors`.
      naming: the relation of their names to the leaves.
      place: the place of the weights, for error messages.

    Raises:
      InputError: tensors are missing, unexpected or of another shape; copies of a tensor differ; values
        are not finite; a file is damaged.
    """
    sources: dict[str, list[str]] = {}
    for name in contents:
        if not _IGNORED.search(name):
            sources.setdefault(naming.rename(name), []).append(name)
    leaves = {naming.of(path): (path, leaf.shape) for path, leaf in flatten_dict(like).items()}
    expected = {name: published(name, *leaf, naming) for name, leaf in leaves.items()}
    shapes = {name: contents[names[0]].shape for name, names in sources.items()}
    _check(expected, shapes, f"the weights in {place}")
    filled = {}
    with contextlib.ExitStack() as stack:
        handles = {file: stack.enter_context(_opened(file)) for file in {stored.file for stored in contents.values()}}
        for name, (path, shape) in leaves.items():
            first, *others = (handles[contents[source].file].get_tensor(source) for source in sources[name])
            for source, other in zip(sources[name][1:], others):
                if not np.array_equal(first, other):
                    raise InputError(
                        f"{place}: {source} differs from {sources[name][0]}, but the model has one of both; "
                        "use weights whose blocks share it"
                    )
            first = first.astype(np.float32)
            if not np.isfinite(first).all() or (path[-1] == "var" and (first < 0).any()):
                what = "a negative variance" if np.isfinite(first).all() else "NaN or infinite values"
                raise InputError(f"{place}: {sources[name][0]} has {what}; download it again, or use other weights")
            filled[path] = _to_leaf(first, path, shape)
    return unflatten_dict(filled)


def write(file: Path, like: Any, variables: Variables, naming: Naming) -> None:
    """The inverse of `fill`: write one safetensors file, atomically.

    Raises:
      InputError: ``variables`` are not of the structure ``like``.
    """
    like, leaves = flatten_dict(like), flatten_dict(variables)
    _check({".".join(p): tuple(leaf.shape) for p, leaf in like.items()},
           {".".join(p): tuple(leaf.shape) for p, leaf in leaves.items()}, f"the variables for {file}")  # fmt: skip
    stored: dict[str, np.ndarray] = {}
    for path, leaf in leaves.items():
        name = naming.of(path)
        tensor = _from_leaf(np.asarray(leaf, np.float32), path, published(name, path, leaf.shape, naming))
        stored |= dict.fromkeys(naming.copies(name), tensor)
    with atomic(file) as place:
        place.write_bytes(save(stored, metadata={"format": "pt"}))


def published(name: str, path: tuple[str, ...], shape: Shape, naming: Naming) -> Shape:
    """The shape of the tensor of a leaf."""
    if name in naming.shapes:
        return naming.shapes[name]
    if path[-1] != "kernel":
        return tuple(shape)
    return (shape[-1], shape[-2], *shape[:-2])


def _to_leaf(tensor, path, shape):
    if path[-1] == "kernel":
        tensor = tensor.reshape(*tensor.shape, *(1,) * (4 - tensor.ndim)).transpose(2, 3, 1, 0)
    return np.ascontiguousarray(tensor.reshape(shape))


def _from_leaf(leaf, path, shape):
    if path[-1] == "kernel":
        out, into, *side = shape
        leaf = leaf.reshape(*(side or (1, 1)), into, out).transpose(3, 2, 0, 1)
    return np.ascontiguousarray(leaf.reshape(shape))


def _check(expected, present, what):
    """Raise InputError unless the expected and the present shapes, by name, agree."""
    missing = [f"{name} {_show(expected[name])}" for name in expected if name not in present]
    extra = [f"{name} {_show(present[name])}" for name in present if name not in expected]
    wrong = [f"{name} {_show(present[name])} instead of {_show(expected[name])}" for name in expected
             if name in present and _linear(present[name]) != _linear(expected[name])]  # fmt: skip
    parts = [f"{kind} {_some(names)}" for kind, names in
             (("missing", missing), ("unexpected", extra), ("wrong shape", wrong)) if names]  # fmt: skip
    if parts:
        raise InputError(f"{what} do not fit the model: {'; '.join(parts)}; give weights and config of the same model")


def _linear(shape):
    """The shape without 1x1 convolution axes: such a convolution stores the same numbers as a linear layer."""
    return shape[:2] if shape[2:] == (1, 1) else shape


def _some(names):
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _show(shape):
    return "[" + ", ".join(map(str, shape)) + "]"
