"""Stage 1: real images -> features of every image and BatchNorm input moments of every class, in one pass."""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd.nn.batchnorm import Moments, merge, pool, pool_by_label
from jaxdd.nn.classifier import Apply, Variables
from jaxdd.normalise import Normalisation, normalise
from jaxdd.progress import progress


class MomentState(NamedTuple):
    """Running moments of each class; `init` and `step` below make it an accumulator whose result is `moments`."""

    counts: jax.Array  # [C], images seen
    moments: dict[str, Moments]  # layer -> [C, ch]


class Encoded(NamedTuple):
    """What the later stages know of the real data."""

    features: np.ndarray  # [n, d] float32, penultimate features (or latents), in the order of the batches
    labels: np.ndarray  # [n] int32
    counts: jax.Array  # [C] float32, images of each class
    moments: dict[str, Moments]  # layer -> mean and total variance of its input, [C, ch]


def init(apply: Apply, variables: Variables, image_shape: tuple[int, int, int], num_classes: int) -> MomentState:
    """The accumulator before any image."""
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    layers = jax.eval_shape(apply, variables, image).moments
    empty = jax.tree.map(lambda m: jnp.zeros((num_classes, m.shape[-1])), layers)
    return MomentState(jnp.zeros(num_classes), empty)


def step(
    apply: Apply,
    variables: Variables,
    state: MomentState,
    images: jax.Array,
    labels: jax.Array,
    valid: jax.Array,
) -> tuple[MomentState, jax.Array]:
    """Take in a batch: images [N, H, W, C] normalised, labels [N], valid [N] (0 for padding) -> (state, features).

    The moments of the union follow exactly from those of the parts (`merge`), so the batch size changes nothing but
    rounding; averaging variances over batches, by contrast, would drop the variance between batches.
    """
    out = apply(variables, images)
    num_classes = state.counts.shape[0]
    counts = jax.ops.segment_sum(valid, labels, num_classes)
    moments = {
        name: merge(state.moments[name], state.counts, pool_by_label(layer, valid, labels, num_classes), counts)
        for name, layer in out.moments.items()
    }
    return MomentState(state.counts + counts, moments), out.features


def encode(
    apply: Apply,
    variables: Variables,
    norm: Normalisation,
    batches: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]],
    num_classes: int,
    total: int | None = None,
) -> Encoded:
    """One pass over batches of (images uint8 [N, H, W, C], labels [N], valid [N]) of one shape.

    Memory: features of all images on the host, one batch and [C, ch] a layer on the device.
    """

    @jax.jit
    def jitted(variables, state, images, labels, valid):
        return step(apply, variables, state, normalise(norm, images), labels, valid)

    state, features, kept = None, [], []
    for images, labels, valid in progress(batches, "encode real images", total):
        if state is None:
            state = init(apply, variables, images.shape[1:], num_classes)
        state, out = jitted(variables, state, images, labels, valid)
        features.append(np.asarray(out)[valid > 0])
        kept.append(labels[valid > 0])
    return Encoded(np.concatenate(features), np.concatenate(kept), *state)


def global_moments(encoded: Encoded) -> dict[str, Moments]:
    """Moments of all images together: layer -> [ch]. What a layer's running averages estimate (SRe2L)."""
    return {name: pool(layer, encoded.counts) for name, layer in encoded.moments.items()}


def feature_variance(features: np.ndarray) -> float:
    """E ||f - E f||^2 over the rows of [n, d], the unit of feature distances; 1 for constant features."""
    # Two passes in float64 accumulators; the array itself stays float32.
    centred = features - features.mean(0, dtype=np.float64).astype(np.float32)
    variance = float(np.einsum("nd,nd->", centred, centred, dtype=np.float64) / len(features))
    return variance if variance > 0 else 1.0
