"""Stage 1: real images -> features of every image and BatchNorm input moments of every class, in one pass."""

from collections import deque
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from jaxdd.ground import hosts, parallel
from jaxdd.ground.errors import InputError
from jaxdd.ground.measure import Groups
from jaxdd.ground.normalise import Normalisation, normalise
from jaxdd.ground.progress import progress
from jaxdd.ground.registry import Registry
from jaxdd.latent.decoding import LatentModel, encoder
from jaxdd.latent.vae import RANGE
from jaxdd.nn.batchnorm import Moments, merge, pool, pool_by_label
from jaxdd.nn.classifier import Apply, Variables


class Space(NamedTuple):
    """Where classes can be summarized, and what encodes their images.

    Attributes:
      needs: the models that it uses, of "teacher", "autoencoder" and "denoiser".
      encoder: (teacher or None, latent model or None) -> (apply, variables, normalisation of the images that it takes).
    """

    needs: frozenset[str]
    encoder: Callable[[Any, LatentModel | None], tuple[Apply, Variables, Normalisation]]


SPACES = Registry("space")
SPACES.register("features", Space(frozenset({"teacher"}), lambda teacher, latent: teacher[:3]))
SPACES.register(
    "latents",
    Space(frozenset({"autoencoder"}), lambda teacher, latent: (encoder(latent), latent.vae_variables, RANGE)),
)


class MomentState(NamedTuple):
    """Running moments of each class; `init` and `step` below make it an accumulator whose result is `moments`."""

    counts: jax.Array  # [C], images seen
    moments: dict[str, Moments]  # layer -> [C, ch]


class Encoded(NamedTuple):
    """What the later stages know of the real data."""

    features: np.ndarray  # [n, d] float32, penultimate features (or latents), in the order of the batches
    labels: np.ndarray  # [n] int32
    counts: np.ndarray  # [C] float32, images of each class
    moments: dict[str, Moments]  # layer -> mean and total variance of its input, [C, ch]
    variance: float  # of the features, E ||f - E f||^2


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
    mesh: Mesh | None = None,
) -> Encoded:
    """One pass over batches of (images uint8 [N, H, W, C], labels [N], valid [N]) of one shape.

    The batch is sharded over this process's devices of the mesh (default: `parallel.mesh()`), each of which keeps
    moments of its own; one reduction at the end, over all devices of all hosts, merges them. In a run of several
    processes each gives the images of its own classes (`parallel.local_classes`) and gets their features; counts,
    moments and variance are of all classes.

    Memory: features of all images on the host; on a device two batches and [C, ch] a layer.

    Raises:
      InputError: no batch at all.
    """
    mesh = mesh or parallel.mesh()
    local = mesh.local_mesh
    devices = local.devices.size
    program = _program(apply, local)
    same = parallel.put(variables, local, parallel.SAME)
    norm = parallel.put(Normalisation(*map(jnp.asarray, norm)), local, parallel.SAME)
    state, features, kept, pending = None, [], [], deque()

    def fetch():
        out, valid = pending.popleft()
        features.append(np.asarray(out)[: len(valid)][valid > 0])

    for images, labels, valid in progress(batches, "encode real images", total):
        if state is None:
            one = init(apply, variables, images.shape[1:], num_classes)
            state = parallel.put(jax.tree.map(lambda x: jnp.stack([x] * devices), one), local)
        # Repeats without weight where the devices do not divide the batch.
        rows = np.minimum(np.arange(-(-len(labels) // devices) * devices), len(labels) - 1)
        weights = np.where(np.arange(len(rows)) < len(labels), valid[rows], np.float32(0))
        state, out = program(same, norm, state, *parallel.put((images[rows], labels[rows], weights), local))
        pending.append((out, valid))
        kept.append(labels[valid > 0])
        # Features are fetched while the next batches are computed.
        if len(pending) > 2:
            fetch()
    while pending:
        fetch()
    if state is None:
        raise InputError("no images to encode; give at least one batch")
    features = np.concatenate(features)
    everywhere = hosts.everywhere if mesh.is_multi_process else lambda values: np.asarray(values)[None]
    return Encoded(features, np.concatenate(kept), *_reduced(state, mesh), feature_variance(features, everywhere))


@lru_cache(maxsize=8)
def _program(apply: Apply, local: Mesh):
    """One batch on the devices of this process."""

    def one(variables, norm, state, images, labels, valid):
        state = jax.tree.map(lambda x: x[0], state)
        state, features = step(apply, variables, state, normalise(norm, images), labels, valid)
        return jax.tree.map(lambda x: x[None], state), features

    specs = (parallel.SAME, parallel.SAME, *[parallel.EACH] * 4)
    return jax.jit(parallel.sharded(one, local, specs), donate_argnums=2)


def _reduced(state: MomentState, mesh: Mesh) -> MomentState:
    """The moments of all devices, [D, C, ...], merged to [C, ...]: the one place where numbers cross devices."""
    each = NamedSharding(mesh, parallel.EACH)
    state = jax.tree.map(lambda x: jax.make_array_from_process_local_data(each, np.asarray(x)), state)
    return jax.tree.map(np.asarray, _merged(mesh)(state))


@lru_cache(maxsize=8)
def _merged(mesh: Mesh):
    def merged(state):
        group = lambda moments: pool(jax.tree.map(lambda x: x.swapaxes(0, 1), moments), state.counts.T)
        return MomentState(state.counts.sum(0), {name: group(layer) for name, layer in state.moments.items()})

    return jax.jit(merged, out_shardings=NamedSharding(mesh, parallel.SAME))


def global_moments(encoded: Encoded) -> dict[str, Moments]:
    """Moments of all images together: layer -> [ch]. What a layer's running averages estimate (SRe2L)."""
    return {name: pool(layer, encoded.counts) for name, layer in encoded.moments.items()}


def class_means(encoded: Encoded, groups: Groups, classes: np.ndarray) -> np.ndarray:
    """Mean features of the real images of some classes [k] whose features are here, float32 [k, d]."""
    mean = lambda c: encoded.features[groups.rows(c)].mean(0, dtype=np.float64)
    return np.stack([mean(c) for c in classes]).astype(np.float32)


def feature_variance(
    features: np.ndarray, everywhere: Callable[[np.ndarray], np.ndarray] = lambda values: np.asarray(values)[None]
) -> float:
    """E ||f - E f||^2 over the rows of [n, d], the unit of feature distances; 1 for constant features.

    everywhere: stacks a value of every process (`hosts.everywhere`), if the rows are shared among them.
    """
    # Two passes in float64 accumulators; the array itself stays float32.
    count = everywhere(np.float64(len(features))).sum()
    mean = everywhere(features.sum(0, dtype=np.float64)).sum(0) / count
    centred = features - mean.astype(np.float32)
    variance = float(everywhere(np.einsum("nd,nd->", centred, centred, dtype=np.float64)).sum() / count)
    return variance if variance > 0 else 1.0
