"""A label stream as plain arrays: what a student in any framework needs in place of the teacher and of JAX.

Step t of a stream takes a batch of images, crops, mirrors and mixes them, and has the teacher's logits of the result.
Here all of this lies in .npy files, whose first axis is the step, and stream.json says how to read them:

| file | what |
|---|---|
| images.npy | the distilled images, uint8 [n, H, W, C] |
| labels.npy, weights.npy | their classes, integers [n], and the factors of their losses, float32 [n], of mean 1 |
| rows.npy | the images of a batch, integers [steps, B] |
| boxes.npy | the crops, float32 [steps, B, 4]: top, left, height and width in units of the sides |
| flips.npy | whether the crop is mirrored left to right, bool [steps, B] |
| partners.npy | the place in the batch of the image that is mixed in, integers [steps, B] |
| pastes.npy | CutMix: the box that comes from the partner, [steps, 4]: top, bottom, left, right in pixels |
| shares.npy | the share of the image itself, float32 [steps] |
| codes.npy and scale.npy, logits.npy, or above.npy and classes.npy | the logits, see `stages.relabel.forms.encode` |

Crops are resized bilinearly to H x W, without antialiasing; samples lie at the centres of pixels. Beyond the image lie
its outermost pixels (border), or zeros after normalisation, as stream.json says.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd.data import permutations
from jaxdd.data.augment import Augment, Draws, draws
from jaxdd.data.distilled import DistilledDataset
from jaxdd.ground.errors import InputError
from jaxdd.ground.files import write_json
from jaxdd.stages.relabel.stored import Labels, check_fits

_CHUNK = 256  # steps at a time
DRAWN = ("rows", "boxes", "flips", "partners", "pastes", "shares")
"""The arrays that are drawn, and do not come from the teacher or the dataset."""


def write(folder: Path, labels: Labels, dataset: DistilledDataset, weights: str = "free") -> None:
    """Write a label stream into a new folder.

    Args:
      weights: the factors of the losses, see `DistilledDataset.loss_weights`.

    Raises:
      InputError: labels of other images, or a crop or mix of a plug-in, whose draws have no place here.
    """
    check_fits(labels, dataset, labels.stream)
    folder.mkdir()
    arrays: dict[str, np.memmap] = {}
    for steps, parts in chunks(labels, dataset):
        for name, part in parts.items():
            if name not in arrays:
                shape = labels.steps, *part.shape[1:]
                arrays[name] = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", part.dtype, shape)
            arrays[name][steps] = part
    for array in arrays.values():
        array.flush()
    for name, still in (
        ("images", dataset.pixels()),
        ("labels", _small(dataset.labels, len(dataset.class_names))),
        ("weights", dataset.loss_weights(weights)),
    ):
        np.save(folder / f"{name}.npy", still, allow_pickle=False)
    write_json(folder / "stream.json", _about(labels, dataset))


def check(labels: Labels, dataset: DistilledDataset) -> None:
    """Raise the InputError of `write`, if it would raise one."""
    check_fits(labels, dataset, labels.stream)
    next(chunks(labels, dataset))


def drawn_bytes(labels: Labels, dataset: DistilledDataset) -> int:
    """The bytes of `DRAWN` for all steps: what an export holds besides labels and images."""
    _, parts = next(chunks(labels, dataset))
    return labels.steps * sum(part[0].nbytes for name, part in parts.items() if name in DRAWN)


def chunks(labels: Labels, dataset: DistilledDataset) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Some steps [k] at a time with all arrays of them, [k, ...] each: rows, views and logits.

    Raises:
      InputError: a crop or mix whose draws have no place here.
    """
    n, shape = len(dataset.labels), (labels.batch_size, *dataset.images.shape[1:])
    order = permutations(n, labels.batch_size, labels.seed)
    key = jax.random.fold_in(jax.random.key(labels.seed), 1)
    drawn = jax.jit(jax.vmap(lambda step: draws(labels.augment, jax.random.fold_in(key, step), shape)))
    for first in range(0, labels.steps, _CHUNK):
        # One shape for all launches; what is drawn for steps beyond the last is dropped.
        count = min(_CHUNK, labels.steps - first)
        steps = np.arange(first, first + count)
        made = jax.device_get(drawn(jnp.arange(first, first + _CHUNK, dtype=jnp.int32)))
        rows = _small(np.stack([next(order) for _ in steps]), n)
        views = _views({name: array[:count] for name, array in made.items()}, labels.augment, shape)
        yield steps, {"rows": rows, **views, **labels.read(steps)}


def _views(drawn: Draws, settings: Augment, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """What `draws` drew for some steps, under the names of the files and in their units."""
    left = dict(drawn)
    views = {}
    sides = np.array(shape[1:3], np.float32)
    if "box_origin" in left:
        views["boxes"] = np.concatenate([left.pop("box_origin"), left.pop("box_size")], -1)
    if "shift" in left:
        corner = np.float32(left.pop("shift")) / sides
        views["boxes"] = np.concatenate([corner, np.ones_like(corner)], -1)
    if "flip" in left:
        views["flips"] = np.asarray(left.pop("flip"))
    if "partner" in left:
        views["partners"] = _small(left.pop("partner"), shape[0])
        views["shares"] = np.asarray(left.pop("share"))
    if "paste" in left:
        views["pastes"] = _small(left.pop("paste"), int(sides.max()) + 1)
    if left:
        words = f"`shuffle` {settings.shuffle}, `crop` {settings.crop!r} or `mix` {settings.mix!r}"
        what = f"{words} draws {', '.join(left)}"
        raise InputError(f"{what}, which has no place in an export; use the crops and mixes of jaxdd")
    return views


def _small(numbers: Any, limit: int) -> np.ndarray:
    """Integers below a limit in the smallest unsigned dtype that holds them."""
    return np.asarray(numbers).astype(np.min_scalar_type(limit - 1))


def _about(labels: Labels, dataset: DistilledDataset) -> dict[str, Any]:
    """What stream.json holds."""
    floats = lambda values: [float(value) for value in np.broadcast_to(values, dataset.images.shape[3:])]
    return {
        "steps": labels.steps, "batch_size": labels.batch_size, "epochs": labels.settings.epochs,
        "num_classes": labels.num_classes, "class_names": list(dataset.class_names), "form": labels.settings.form,
        "temperature": labels.temperature, "mean": floats(dataset.norm.mean), "std": floats(dataset.norm.std),
        "beyond_the_image": "zeros" if labels.augment.crop == "pad" else "border",
        "augment": dataclasses.asdict(labels.augment),
    }  # fmt: skip
