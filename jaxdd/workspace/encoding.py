"""Encode the real train images: the share of this process, in batches that fit in memory, cached on disk."""

import hashlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxdd import data
from jaxdd.data import Source
from jaxdd.ground import hosts, parallel
from jaxdd.ground.errors import InputError
from jaxdd.ground.files import atomic, read_arrays
from jaxdd.ground.memory import budget, forward_bytes
from jaxdd.ground.normalise import Normalisation
from jaxdd.ground.programs import Work
from jaxdd.ground.tracing import dtypes_of, shapes_of
from jaxdd.nn import Apply, Moments, Variables
from jaxdd.stages import encode
from jaxdd.stages.encode import Encoded
from jaxdd.stages.relabel.stored import fingerprint
from jaxdd.workspace.real_data import content, pass_size

# Larger features are not cached.
_KEPT_BYTES = 2**28

Encoder = tuple[Apply, Variables, Normalisation]


def local_rows(source: Source, mesh: Mesh, together: int = 1) -> list[np.ndarray]:
    """The rows of the train images of each class of this process, see `parallel.local_classes`.

    Raises:
      InputError: there are fewer classes, or groups of ``together`` classes, than processes.
    """
    classes = parallel.local_classes(len(source.class_names), mesh, together)
    processes = len({device.process_index for device in mesh.devices.flat})
    if processes * together >= len(source.class_names) + together:
        raise InputError(
            f"{processes} processes cannot share {len(source.class_names)} classes in groups of {together}; start "
            "fewer processes"
        )
    rows = data.class_indices(source)
    return [rows[c] for c in classes]


def encode_train(
    encoder: Encoder,
    source: Source,
    rows: list[np.ndarray] | None = None,
    mesh: Mesh | None = None,
    memory_bytes: int = 4 * 2**30,
) -> Encoded:
    """Encode the train split in batches that fit in memory.

    Args:
      encoder: (apply, variables, normalisation of its images).
      rows: the rows of each class of this process; default: `local_rows`. On CPU no batch holds images of two classes,
        so the features and moments of a class are byte-identical whichever classes are encoded here.
      mesh: default: all devices of all hosts.
    """
    apply, variables, norm = encoder
    mesh = mesh or parallel.mesh()
    rows = local_rows(source, mesh) if rows is None else rows
    most = int(np.bincount(source.labels["train"], minlength=1).max())
    if jax.default_backend() != "cpu":
        rows = [np.concatenate(rows)]
        most = len(rows[0])
    size = _batch_size(encoder, source, most, memory_bytes)
    batches = data.batches(source, "train", size, rows)
    total = sum(-(-len(part) // size) for part in rows)
    return encode.encode(apply, variables, norm, batches, len(source.class_names), total, mesh)


def _batch_size(encoder: Encoder, source: Source, most: int, memory_bytes: int) -> int:
    """The images of a batch, where ``most`` images come one after the other.

    There are as few batches as possible, all about equally full.
    """
    bytes_each = forward_bytes(encoder[0], encoder[1], _image(source))
    fits = max(1, min(pass_size(), budget(jax.local_devices(), memory_bytes) // bytes_each))
    return -(-most // -(-most // fits))


def work(encoder: Encoder, source: Source, memory_bytes: int = 4 * 2**30) -> Work:
    """The work of `encode_train` of all classes in this process."""
    counts = np.bincount(source.labels["train"])
    if jax.default_backend() != "cpu":
        counts = counts.sum(keepdims=True)
    local, size = parallel.mesh(jax.local_devices()), _batch_size(encoder, source, int(counts.max()), memory_bytes)
    size = -(-size // local.devices.size) * local.devices.size
    classes, images = len(source.class_names), int(counts.sum())
    planned = encode.program(encoder[0], encoder[1], source.image_shape, size, classes, local)
    batches, width = int((-(-counts // size)).sum()), _output(encoder, source).features.shape[-1]
    # The features of all batches, and the array that they are joined to.
    return Work("encode real images", "images", images, 1, batches, 1, planned, 250, encode.SHORTER,
                host_bytes=2 * 4 * images * width, busy=0.3)  # fmt: skip


def kept_or_encoded(encoder: Encoder, source: Source, cache: Path) -> Encoded:
    """`encode_train` of all classes in this process, read from the folder ``cache`` if it was computed before.

    The cache is keyed by the encoder's variables, the labels, the images (see `real_data.content`) and the device.
    Features of more than 256 MiB are not cached.
    """
    local = parallel.mesh(jax.local_devices())
    rows = local_rows(source, local)
    place = kept_place(encoder, source, cache)
    if place is not None and place.is_file():
        return _load(place)
    encoded = encode_train(encoder, source, rows, local)
    if place is None:
        return encoded
    cache.mkdir(parents=True, exist_ok=True)
    _save(place, encoded)
    return encoded


def kept_place(encoder: Encoder, source: Source, cache: Path) -> Path | None:
    """The file in ``cache`` for the encoded images; None where they are not kept."""
    count, dim = len(source.labels["train"]), _output(encoder, source).features.shape[-1]
    if hosts.count() > 1 or 4 * count * dim > _KEPT_BYTES:
        return None
    return cache / f"{_identity(encoder, source)}.npz"


def _image(source: Source) -> jax.ShapeDtypeStruct:
    """The shape of one image of a source."""
    return jax.ShapeDtypeStruct((1, *source.image_shape), np.float32)


def _output(encoder: Encoder, source: Source) -> Any:
    """The encoder's `Output` for one image, as shapes."""
    return shapes_of(encoder[0], encoder[1], _image(source))


def _identity(encoder: Encoder, source: Source) -> str:
    """A digest of everything that determines the encoded images."""
    norm = [np.asarray(part, np.float32) for part in encoder[2]]
    parts = fingerprint([encoder[1], norm]), content(source, "train"), jax.devices()[0].device_kind, jax.__version__
    # The same variables give other features in another dtype.
    shapes = str(_output(encoder, source)), sorted(map(str, dtypes_of(encoder[0], encoder[1], _image(source))))
    return hashlib.sha256(repr((*parts, shapes)).encode()).hexdigest()[:16]


def _save(place: Path, encoded: Encoded) -> None:
    arrays: dict[str, Any] = {name: getattr(encoded, name) for name in ("features", "labels", "counts")}
    for layer, moments in encoded.moments.items():
        arrays |= {f"mean/{layer}": moments.mean, f"var/{layer}": moments.var}
    with atomic(place) as partial_file, open(partial_file, "wb") as file:
        np.savez(file, variance=np.float64(encoded.variance), **arrays)


def _load(place: Path) -> Encoded:
    file = read_arrays(place, ("features", "labels", "counts", "variance"))
    layers = [name.removeprefix("mean/") for name in file if name.startswith("mean/")]
    moments = {layer: Moments(file[f"mean/{layer}"], file[f"var/{layer}"]) for layer in layers}
    return Encoded(file["features"], file["labels"], file["counts"], moments, float(file["variance"]))
