"""The real train images as an encoder sees them: this process's share, in batches that fit the memory, kept on disk."""

import hashlib
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from jaxdd import data
from jaxdd.data import Source
from jaxdd.ground import hosts, parallel
from jaxdd.ground.errors import InputError
from jaxdd.ground.files import atomic
from jaxdd.ground.memory import budget, forward_bytes
from jaxdd.ground.normalise import Normalisation
from jaxdd.nn import Apply, Moments, Variables
from jaxdd.stages import encode
from jaxdd.stages.encode import Encoded
from jaxdd.stages.relabel.stored import fingerprint
from jaxdd.workspace.real_data import pass_size

# Larger features are encoded anew rather than kept.
_KEPT_BYTES = 2**28
# Images that are compared before kept features are believed.
_PROBES = 16

Encoder = tuple[Apply, Variables, Normalisation]


def local_rows(source: Source, mesh: Mesh, together: int = 1) -> list[np.ndarray]:
    """The train images of each class of this process, see `parallel.local_classes`.

    Raises:
      InputError: there are fewer classes, or groups of ``together`` classes, than processes.
    """
    classes = parallel.local_classes(len(source.class_names), mesh, together)
    processes = len({device.process_index for device in mesh.devices.flat})
    if processes * together >= len(source.class_names) + together:
        raise InputError(
            f"{processes} processes share {len(source.class_names)} classes, of which {together} stay together; start "
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
    """The train split through an encoder, in batches that fit the memory.

    Args:
      encoder: (apply, variables, normalisation of its images).
      rows: of this process's classes; default: `local_rows`. On CPU no batch holds images of two classes, so that a
        class's features and moments are the same bytes whichever classes are encoded here.
      mesh: default: all devices of all hosts.
    """
    apply, variables, norm = encoder
    mesh = mesh or parallel.mesh()
    rows = local_rows(source, mesh) if rows is None else rows
    image = jax.ShapeDtypeStruct((1, *source.image_shape), np.float32)
    most = max(np.bincount(source.labels["train"], minlength=1))
    if jax.default_backend() != "cpu":
        rows = [np.concatenate(rows)]
        most = len(rows[0])
    # As few and as full batches as the largest class needs.
    fits = max(1, min(pass_size(), budget(jax.local_devices(), memory_bytes) // forward_bytes(apply, variables, image)))
    size = -(-most // -(-most // fits))
    batches = data.batches(source, "train", size, rows)
    total = sum(-(-len(part) // size) for part in rows)
    return encode.encode(apply, variables, norm, batches, len(source.class_names), total, mesh)


def kept_or_encoded(encoder: Encoder, source: Source, cache: Path) -> Encoded:
    """`encode_train` of all classes in this process, read from ``cache`` where the same was encoded before.

    What is kept belongs to the encoder's variables, the labels, some images that are compared, and the device. Features
    of more than 256 MiB are not kept.
    """
    local = parallel.mesh(jax.local_devices())
    rows = local_rows(source, local)
    count, dim = len(source.labels["train"]), _dim(encoder, source)
    if hosts.count() > 1 or 4 * count * dim > _KEPT_BYTES:
        return encode_train(encoder, source, rows, local)
    place = cache / f"{_identity(encoder, source)}.npz"
    if place.is_file():
        return _load(place)
    encoded = encode_train(encoder, source, rows, local)
    cache.mkdir(parents=True, exist_ok=True)
    _save(place, encoded)
    return encoded


def _dim(encoder: Encoder, source: Source) -> int:
    image = jax.ShapeDtypeStruct((1, *source.image_shape), np.float32)
    return jax.eval_shape(encoder[0], encoder[1], image).features.shape[-1]


def _identity(encoder: Encoder, source: Source) -> str:
    labels = np.asarray(source.labels["train"])
    probes = source.read("train", np.linspace(0, len(labels) - 1, min(_PROBES, len(labels))).astype(int))
    norm = [np.asarray(part, np.float32) for part in encoder[2]]
    parts = fingerprint([encoder[1], norm, labels, probes]), jax.devices()[0].device_kind, jax.__version__
    out = jax.eval_shape(encoder[0], encoder[1], jax.ShapeDtypeStruct((1, *source.image_shape), np.float32))
    return hashlib.sha256(repr((*parts, source.image_shape, str(out))).encode()).hexdigest()[:16]


def _save(place: Path, encoded: Encoded) -> None:
    arrays = {name: getattr(encoded, name) for name in ("features", "labels", "counts")}
    for layer, moments in encoded.moments.items():
        arrays |= {f"mean/{layer}": moments.mean, f"var/{layer}": moments.var}
    with atomic(place) as aside, open(aside, "wb") as file:
        np.savez(file, variance=np.float64(encoded.variance), **arrays)


def _load(place: Path) -> Encoded:
    with np.load(place, allow_pickle=False) as file:
        layers = [name.removeprefix("mean/") for name in file.files if name.startswith("mean/")]
        moments = {layer: Moments(file[f"mean/{layer}"], file[f"var/{layer}"]) for layer in layers}
        return Encoded(file["features"], file["labels"], file["counts"], moments, float(file["variance"]))
