"""The encode stage: real images -> features of each image and BatchNorm input moments of each class, in one pass."""

from collections import deque
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from jaxdd.ground import hosts, parallel
from jaxdd.ground.errors import DivergenceError, InputError
from jaxdd.ground.measure import Groups
from jaxdd.ground.normalise import Normalisation, normalise
from jaxdd.ground.programs import Program
from jaxdd.ground.progress import Bar, progress
from jaxdd.ground.registry import Registry
from jaxdd.ground.tracing import shapes_of, struct
from jaxdd.latent.decoding import LatentModel, encoder
from jaxdd.latent.vae import RANGE
from jaxdd.nn.batchnorm import Moments, merge, pool, pool_by_label
from jaxdd.nn.classifier import Apply, Variables

SHORTER = "a lower `image_size`"


class Space(NamedTuple):
    """A space in which classes can be summarized, and the encoder into it.

    Attributes:
      needs: the models that it uses: a subset of {"teacher", "autoencoder", "denoiser"}.
      encoder: (teacher or None, latent model or None) -> (apply, variables, normalisation of its input images).
    """

    needs: frozenset[str]
    encoder: Callable[[Any, LatentModel | None], tuple[Apply, Variables, Normalisation]]


def _latent_encoder(teacher: Any, latent: LatentModel | None) -> tuple[Apply, Variables, Normalisation]:
    """The encoder of a latent model; InputError without one."""
    if latent is None:
        raise InputError("the space of latents needs a latent model; give `latent`")
    return encoder(latent), latent.vae_variables, RANGE


SPACES = Registry("space")
SPACES.register("features", Space(frozenset({"teacher"}), lambda teacher, latent: teacher[:3]))
SPACES.register("latents", Space(frozenset({"autoencoder"}), _latent_encoder))


class MomentState(NamedTuple):
    """Running moments of each class: the accumulator of `init` and `step`, whose result is `moments`.

    Means are accumulated about the mean of the first batch of a class. Far from zero, the rounding of many sums would
    move them.
    """

    counts: jax.Array  # [C], images seen
    origins: dict[str, jax.Array]  # layer -> [C, ch], the mean of the first batch with images of the class
    about: dict[str, Moments]  # layer -> [C, ch], with means relative to the origin

    @property
    def moments(self) -> dict[str, Moments]:
        """Layer -> mean and total variance of its input, [C, ch] each."""
        return {name: Moments(layer.mean + self.origins[name], layer.var) for name, layer in self.about.items()}


class Encoded(NamedTuple):
    """What the later stages know about the real data."""

    features: np.ndarray  # [n, d] float32, penultimate features (or latents), in the order of the batches
    labels: np.ndarray  # [n] int32
    counts: np.ndarray  # [C] float32, images of each class
    moments: dict[str, Moments]  # layer -> mean and total variance of its input, [C, ch]
    variance: float  # of the features, E ||f - E f||^2


def init(apply: Apply, variables: Variables, image_shape: tuple[int, int, int], num_classes: int) -> MomentState:
    """The accumulator before any image."""
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    layers = shapes_of(apply, variables, image).moments
    empty = jax.tree.map(lambda m: jnp.zeros((num_classes, m.shape[-1]), jnp.float32), layers)
    origins = {name: layer.mean for name, layer in empty.items()}
    return MomentState(jnp.zeros(num_classes, jnp.float32), origins, empty)


def step(
    apply: Apply,
    variables: Variables,
    state: MomentState,
    images: jax.Array,
    labels: jax.Array,
    valid: jax.Array,
) -> tuple[MomentState, jax.Array]:
    """Add a batch: images [N, H, W, C] normalised, labels [N], valid [N] (0 for padding) -> (state, features).

    The moments of a union follow exactly from those of its parts (`merge`), so the batch size affects only rounding.
    Averaging the variances of batches would lose the variance between batches.
    """
    out = apply(variables, images)
    num_classes = state.counts.shape[0]
    counts = jax.ops.segment_sum(valid, labels, num_classes)
    begun, origins, about = state.counts[:, None] > 0, {}, {}
    for name, layer in out.moments.items():
        first = pool_by_label(layer, valid, labels, num_classes).mean
        origins[name] = jnp.where(begun, state.origins[name], first)
        near = Moments(layer.mean - origins[name][labels], layer.var)
        about[name] = merge(state.about[name], state.counts, pool_by_label(near, valid, labels, num_classes), counts)
    return MomentState(state.counts + counts, origins, about), out.features


def encode(
    apply: Apply,
    variables: Variables,
    norm: Normalisation,
    batches: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]],
    num_classes: int,
    total: int | None = None,
    mesh: Mesh | None = None,
) -> Encoded:
    """Encode batches of (images uint8 [N, H, W, C], labels [N], valid [N]), all of one shape, in one pass.

    The batch is sharded over the devices of this process in ``mesh`` (default: `parallel.mesh()`). Each device
    accumulates its own moments, and one reduction over all devices of all hosts merges them at the end. In a run of
    several processes each process passes the images of its own classes (`parallel.local_classes`) and gets their
    features; counts, moments and variance cover all classes.

    Memory: the host holds the features of all images; a device holds two batches and [C, ch] per layer.

    Raises:
      InputError: there is no batch.
      DivergenceError: features or moments that are not finite, or equal features of all images.
    """
    mesh = mesh or parallel.mesh()
    local = mesh.local_mesh
    devices = local.devices.size
    step = _step(apply, local)
    same = parallel.put(variables, local, parallel.SAME)
    norm = parallel.put(Normalisation(jnp.asarray(norm.mean), jnp.asarray(norm.std)), local, parallel.SAME)
    state: MomentState | None = None
    fetched: list[np.ndarray] = []
    kept: list[np.ndarray] = []
    pending: deque[tuple[jax.Array, np.ndarray]] = deque()

    def fetch() -> None:
        out, valid = pending.popleft()
        fetched.append(np.asarray(out)[: len(valid)][valid > 0])

    for images, labels, valid in progress(batches, Bar("encode real images", SHORTER), total):
        if state is None:
            one = init(apply, variables, images.shape[1:], num_classes)
            state = parallel.put(jax.tree.map(lambda x: jnp.stack([x] * devices), one), local)
        # If the devices do not divide the batch, pad it with images of zero weight.
        rows = np.minimum(np.arange(-(-len(labels) // devices) * devices), len(labels) - 1)
        weights = np.where(np.arange(len(rows)) < len(labels), valid[rows], np.float32(0))
        state, out = step(same, norm, state, *parallel.put((images[rows], labels[rows], weights), local))
        pending.append((out, valid))
        kept.append(labels[valid > 0])
        # Fetch features while the next batches are computed.
        if len(pending) > 2:
            fetch()
    while pending:
        fetch()
    if state is None:
        raise InputError("no images to encode; give at least one batch")
    features = np.concatenate(fetched)
    everywhere = hosts.everywhere if mesh.is_multi_process else _stacked_alone
    labels, (counts, moments) = np.concatenate(kept), _reduced(state, mesh)
    _check(features, labels, moments)
    return Encoded(features, labels, counts, moments, feature_variance(features, everywhere))


def _check(features: np.ndarray, labels: np.ndarray, moments: dict[str, Moments]) -> None:
    """Raise DivergenceError for features [n, d] or moments, layer -> [C, ch], that say nothing about the images."""
    remedy = "the encoder has diverged or does not suit these images; use another teacher or latent model"
    # A sum is not finite where any of its terms is not; it takes no memory.
    if not np.isfinite(features.sum(dtype=np.float64)):
        row = int(np.argmin(np.isfinite(features).all(1)))
        label = labels[row]
        place = int((labels[:row] == label).sum())
        raise DivergenceError(f"encode: features of image {place} of class {label} are not finite; {remedy}")
    for name, layer in moments.items():
        finite = np.isfinite(layer.mean).all(1) & np.isfinite(layer.var).all(1)
        if not finite.all():
            raise DivergenceError(
                f"encode: moments of layer {name} are not finite in class {int(np.argmin(finite))}; {remedy}"
            )
    # The first and the last row are of different classes in all but odd cases, and so are hardly ever equal.
    equal = lambda some: np.ptp(some, 0).max(initial=0.0) <= 1e-5 * np.abs(some).max(initial=0.0)
    if labels[0] != labels[-1] and equal(features[[0, -1]]) and equal(features):
        raise DivergenceError(f"encode: the features of all {len(features)} images are equal; {remedy}")


def program(
    apply: Apply, variables: Variables, image_shape: tuple[int, int, int], size: int, num_classes: int, local: Mesh
) -> Program:
    """The step on a batch of ``size`` images in total, which the devices divide."""
    devices = local.devices.size
    one = init(apply, variables, image_shape, num_classes)
    state = jax.tree.map(lambda x: struct(devices, *x.shape, dtype=x.dtype), one)
    batch = state, struct(size, *image_shape, dtype=np.uint8), struct(size, dtype=np.int32), struct(size)
    norm = Normalisation(*[struct(image_shape[2])] * 2)
    at = lambda tree, spec: parallel.shapes(tree, NamedSharding(local, spec))
    arguments = *at((variables, norm), parallel.SAME), *at(batch, parallel.EACH)
    return Program(_step(apply, local), arguments)


@lru_cache(maxsize=8)
def _step(apply: Apply, local: Mesh):
    """One batch on the devices of this process."""

    def one(variables, norm, state, images, labels, valid):
        state = jax.tree.map(lambda x: x[0], state)
        state, features = step(apply, variables, state, normalise(norm, images), labels, valid)
        return jax.tree.map(lambda x: x[None], state), features

    specs = (parallel.SAME, parallel.SAME, *[parallel.EACH] * 4)
    return jax.jit(parallel.sharded(one, local, specs), donate_argnums=2)


def _reduced(state: MomentState, mesh: Mesh) -> tuple[np.ndarray, dict[str, Moments]]:
    """Counts and moments of all devices, [D, C, ...], merged to [C, ...]: the only cross-device communication."""
    each = NamedSharding(mesh, parallel.EACH)
    state = jax.tree.map(lambda x: jax.make_array_from_process_local_data(each, np.asarray(x)), state)
    counts, moments = jax.tree.map(np.asarray, _merged(mesh)(state))
    return counts, moments


@lru_cache(maxsize=8)
def _merged(mesh: Mesh):
    def merged(state):
        group = lambda moments: pool(jax.tree.map(lambda x: x.swapaxes(0, 1), moments), state.counts.T)
        return state.counts.sum(0), {name: group(layer) for name, layer in state.moments.items()}

    return jax.jit(merged, out_shardings=NamedSharding(mesh, parallel.SAME))


def global_moments(encoded: Encoded) -> dict[str, Moments]:
    """Moments of all images together: layer -> [ch]. The running averages of a layer estimate these (SRe2L)."""
    return {name: pool(layer, encoded.counts) for name, layer in encoded.moments.items()}


def class_means(encoded: Encoded, groups: Groups, classes: np.ndarray) -> np.ndarray:
    """Mean features of the real images of some classes [k], float32 [k, d]; ``encoded`` must hold their features."""
    mean = lambda c: encoded.features[groups.rows(c)].mean(0, dtype=np.float64)
    return np.stack([mean(c) for c in classes]).astype(np.float32)


def is_constant(encoded: Encoded) -> bool:
    """Whether all images have equal features, whose variance is therefore replaced by 1."""
    return encoded.variance == 1.0 and not np.ptp(encoded.features, 0).any()


def _stacked_alone(values: np.ndarray) -> np.ndarray:
    """`hosts.everywhere` of a single process: the values with a leading axis of length 1."""
    return np.asarray(values)[None]


def feature_variance(features: np.ndarray, everywhere: Callable[[np.ndarray], np.ndarray] = _stacked_alone) -> float:
    """E ||f - E f||^2 over the rows of [n, d], the unit of feature distances; 1 for constant features.

    Args:
      everywhere: stacks the value of every process (`hosts.everywhere`), if each process has a part of the rows.
    """
    # Two passes with float64 accumulators; the array itself stays float32.
    count = everywhere(np.array(len(features), np.float64)).sum()
    mean = everywhere(features.sum(0, dtype=np.float64)).sum(0) / count
    centred = features - mean.astype(np.float32)
    variance = float(everywhere(np.einsum("nd,nd->", centred, centred, dtype=np.float64)).sum() / count)
    return variance if variance > 0 else 1.0


@lru_cache(maxsize=8)
def featuring(apply: Apply) -> Callable[[Variables, Any], jax.Array]:
    """The function from a classifier's variables and normalised images [N, H, W, ch] to features [N, d], compiled."""
    return jax.jit(lambda variables, images: apply(variables, images).features)
