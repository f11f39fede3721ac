"""The methods as data: a method is a choice of function at each stage, and `distill` is their one composition.

images --encode--> class measures --summarize--> atoms and weights --recover | decode--> images

Only crops go straight from images to images.
"""

import difflib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linear_sum_assignment

from jaxdd import ot
from jaxdd.ground import parallel
from jaxdd.ground.errors import InputError
from jaxdd.ground.measure import Measure
from jaxdd.ground.memory import budget
from jaxdd.ground.normalise import Normalisation
from jaxdd.latent import diffusion
from jaxdd.latent.diffusion import Sampling
from jaxdd.nn.classifier import Apply, Variables
from jaxdd.stages.encode import Encoded, class_means, global_moments
from jaxdd.stages.images import crops
from jaxdd.stages.images.crops import CropSettings
from jaxdd.stages.images.decode import LatentModel, decode
from jaxdd.stages.images.recover import chunks as chunked
from jaxdd.stages.images.recover import descent as recover
from jaxdd.stages.images.recover.descent import Goal, RecoverSettings
from jaxdd.stages.summarize.coreset import CORESETS
from jaxdd.stages.summarize.solve import SOLVERS, class_keys, summarize


@dataclass(frozen=True)
class Recipe:
    """What a method does at each stage."""

    space: str = "features"
    """Where the classes are summarized: the teacher's "features" or an autoencoder's "latents"."""
    atoms: str = "barycenter"
    """A solver of `summarize` ("barycenter", "quantization", "clvq"), real images' features ("random", "herding",
    "kcenter") or "none" (labels only)."""
    weights: str = "free"
    """What the images weigh: as the solver finds ("free"), in proportion to the root of that ("sqrt"), or "uniform";
    the barycenter then puts its atoms where equal weights want them, a quantizer only forgets its masses. Real images
    and "none" have equal ones whatever this says."""
    images: str = "recover"
    """"recover" (optimise pixels), "diffusion" (noise and denoise the latents, decode), "vae" (decode them as they
    are), "real" (the nearest real image to each atom, all different) or "crops" (the best of real images, no atoms)."""
    recover: RecoverSettings = field(default_factory=RecoverSettings)
    diffusion: Sampling = field(default_factory=Sampling)
    crops: CropSettings = field(default_factory=CropSettings)


# Of the masses that a solver finds.
_POWERS = {"free": 1.0, "sqrt": 0.5, "uniform": 0.0}
_TERMS = ("feature_weight", "moment_weight", "cross_entropy_weight", "mean_weight")
_CROSS_ENTROPY = RecoverSettings(feature_weight=0.0, cross_entropy_weight=1.0)
_SRE2L = replace(_CROSS_ENTROPY, moments="global", weighted_moments=False, start="noise", steps=2000)
_MEANS = RecoverSettings(feature_weight=0.0, mean_weight=1.0)
RECIPES = {
    # Liu et al. 2025 (arXiv 2311.18531): Wasserstein barycenter of features, per-class BatchNorm moments.
    "wmdd": Recipe(atoms="barycenter", images="recover"),
    # Yin et al. 2023 (arXiv 2306.13092): cross-entropy and global moments, from noise.
    "sre2l": Recipe(atoms="none", images="recover", recover=_SRE2L),
    # Tan and Slade 2025 (arXiv 2501.07681): optimal quantization of latents, decoded by diffusion, tempered masses.
    "ddoq": Recipe(space="latents", atoms="quantization", weights="sqrt", images="diffusion"),
    # Su et al. 2024 (arXiv 2407.15138): the same without weights.
    "d4m": Recipe(space="latents", atoms="quantization", weights="uniform", images="diffusion"),
    # The ablation of Liu et al. 2025, with wmdd: {Wasserstein, cross-entropy} x {moments of the class, of all classes}.
    # All four have the same atoms, weights, start and steps, so that only the terms of the loss differ.
    "ce-class": Recipe(recover=_CROSS_ENTROPY),
    "wmdd-global": Recipe(recover=RecoverSettings(moments="global")),
    "ce-global": Recipe(recover=replace(_CROSS_ENTROPY, moments="global")),
    # Zhao and Bilen 2023 (arXiv 2110.04181): mean features alone, of the teacher instead of many random networks.
    "dm": Recipe(atoms="random", weights="uniform", recover=replace(_MEANS, moment_weight=0.0)),
    # The other side of Figure 4 of Liu et al. 2025: mean features instead of the barycenter, with the class's moments.
    "mmd": Recipe(atoms="random", weights="uniform", recover=_MEANS),
    # Sun et al. 2024 (arXiv 2312.03526): crops of real images that the teacher is sure of, nothing optimised.
    "rded": Recipe(atoms="none", weights="uniform", images="crops"),
    # Coresets: the real images nearest to the atoms, or any.
    "medoid": Recipe(atoms="barycenter", images="real"),
    "random": Recipe(atoms="random", images="real"),
    # Welling 2009 (ICML): means; Sener and Savarese 2018 (arXiv 1708.00489): nothing is far from a chosen image.
    "herding": Recipe(atoms="herding", weights="uniform", images="real"),
    "kcenter": Recipe(atoms="kcenter", weights="uniform", images="real"),
}


def recipe(name: str) -> Recipe:
    """The recipe of a method; InputError with the nearest names if there is none."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, 3, 0.3)
        raise InputError(f"unknown method {name!r}; nearest: {', '.join(near or RECIPES)}")
    return RECIPES[name]


class Classes(NamedTuple):
    """The encoded real data and how to get at its images."""

    encoded: Encoded
    images: Callable[[np.ndarray], np.ndarray]  # indices into the encoded rows -> normalised float32 images
    image_shape: tuple[int, int, int]


class Result(NamedTuple):
    """What a method makes of some classes, with the evidence."""

    images: np.ndarray  # [C, m, H, W, ch] float32, normalised space
    atoms: Measure  # points [C, m, d], weights [C, m]
    costs: np.ndarray  # [C, rounds] W2^2 along the solver's rounds; empty where nothing was solved
    curve: dict[str, np.ndarray]  # the terms of the recover loss, [steps, C] each; empty without recover
    classes: np.ndarray  # [C], which classes these are


def joined(parts: Iterable[Result]) -> Result:
    """Results of different classes as one, in the order of the classes."""
    parts = sorted(parts, key=lambda part: part.classes[0])
    steps = max((len(values) for part in parts for values in part.curve.values()), default=0)
    # A part that stopped early stays at its last loss.
    pad = lambda values: np.pad(values, ((0, steps - len(values)), (0, 0)), "edge")
    curve = {name: np.concatenate([pad(part.curve[name]) for part in parts], 1) for name in parts[0].curve}
    rows = lambda *arrays: np.concatenate(arrays)
    first, *rest = [part._replace(curve={}) for part in parts]
    return jax.tree.map(rows, first, *rest)._replace(curve=curve)


def check(name: str, ipc: int, settings: Recipe, labels: np.ndarray, class_names: tuple[str, ...]) -> None:
    """Raise InputError for a setting that does not exist, and for a class with fewer real images than are needed."""
    for what, value, choices in (
        ("space", settings.space, ("features", "latents")),
        ("atoms", settings.atoms, (*SOLVERS, "random", *CORESETS, "none")),
        ("weights", settings.weights, tuple(_POWERS)),
        ("images", settings.images, ("recover", "diffusion", "vae", "real", "crops")),
        ("recover.moments", settings.recover.moments, ("class", "global")),
        ("recover.start", settings.recover.start, ("real", "noise")),
        ("recover.schedule", settings.recover.schedule, ("cosine", "plateau")),
        ("recover.remat", settings.recover.remat, ("auto", "always", "never")),
    ):
        if value not in choices:
            raise InputError(f"unknown --{what} {value!r} for {name}; use {' or '.join(choices)}")
    recovered, cropped = settings.images == "recover", settings.images == "crops"
    if cropped and (settings.atoms != "none" or settings.space != "features"):
        raise InputError("--images crops are chosen by the teacher, not by atoms; use --atoms none --space features")
    if settings.atoms == "none" and not cropped and (not recovered or settings.recover.feature_weight):
        raise InputError(f"--atoms none gives {name} nothing to match; use --images recover --recover.feature-weight 0")
    if recovered and not any(getattr(settings.recover, term) for term in _TERMS):
        raise InputError(f"all terms of the recover loss of {name} weigh 0; use --recover.feature-weight 1")
    if settings.images in ("diffusion", "vae") and settings.space != "latents":
        raise InputError(
            f"--images {settings.images} decodes latents; use --space latents, or --images recover or real"
        )
    if recovered and settings.space != "features":
        raise InputError("--images recover matches features; use --space features, or --images diffusion, vae or real")
    diffusion.check(settings.diffusion, diffusion.Schedule())
    crops.check(settings.crops)
    if settings.recover.steps < 1:
        raise InputError(f"--recover.steps {settings.recover.steps} recovers nothing; use 1 or more")
    if ipc < 1:
        raise InputError(f"--ipc {ipc} is not a number of images per class; use 1 or more")
    counts = np.bincount(labels, minlength=len(class_names))
    if settings.atoms != "none" and counts.min() < ipc:
        worst = int(counts.argmin())
        raise InputError(
            f"class {class_names[worst]!r} has {counts[worst]} real images, fewer than the {ipc} per class that "
            f"{name} needs; lower --ipc or add images"
        )


def together(settings: Recipe, count: int, ipc: int) -> int:
    """How many neighbouring classes one process must have all of (`recover.group_size`)."""
    return recover.group_size(settings.recover, count, ipc)[0] if settings.images == "recover" else 1


def distill(
    key: jax.Array,
    settings: Recipe,
    ipc: int,
    apply: Apply,
    variables: Variables,
    norm: Normalisation,
    classes: Classes,
    memory_bytes: int = 4 * 2**30,
    latent: LatentModel | None = None,
) -> Result:
    """Distil to ``ipc`` images a class: summarize, then real images, recovered or decoded ones; or crops.

    Args:
      key: every draw comes from it, folded with stage, class and step.
      apply, variables: the teacher, as a pure function.
      classes: real data as encoded by that teacher, or by the latent model; unused images are never read.
      memory_bytes: of the host; classes are recovered, atoms decoded, in chunks that fit it or the accelerators.
      latent: decodes atoms, where the recipe has it so.
    """
    return joined(distill_parts(key, settings, ipc, apply, variables, norm, classes, memory_bytes, latent))


def distill_parts(
    key: jax.Array,
    settings: Recipe,
    ipc: int,
    apply: Apply,
    variables: Variables,
    norm: Normalisation,
    classes: Classes,
    memory_bytes: int = 4 * 2**30,
    latent: LatentModel | None = None,
    own: np.ndarray | None = None,
) -> Iterator[Result]:
    """`distill`, some classes at a time as they are done, so that they can be kept.

    own: the classes to distil, ascending; default: all. Whichever they are, a class comes out the same; global moments
      need groups of `together` of them undivided.
    """
    k_atoms, k_recover = jax.random.split(key)
    count = len(classes.encoded.counts)
    own = np.arange(count) if own is None else own
    devices = jax.local_devices()
    fits = budget(devices, memory_bytes)
    atoms, costs, nearest = choose(k_atoms, settings, classes.encoded, ipc, fits * len(devices), own)
    real = lambda rows: classes.images(nearest[rows].reshape(-1)).reshape(*nearest[rows].shape, *classes.image_shape)
    part = lambda rows, images, curve: Result(
        images, jax.tree.map(lambda x: np.asarray(x)[rows], atoms), costs[rows], curve, own[rows]
    )

    if settings.images == "recover":
        noise = partial(recover.noise, jax.random.fold_in(k_recover, 0), shape=(ipc, *classes.image_shape))
        from_noise = settings.recover.start == "noise" or settings.atoms == "none"
        start = (lambda rows: noise(jnp.asarray(own[rows]))) if from_noise else real
        moments = global_moments(classes.encoded)
        if settings.recover.moments == "class":
            moments = jax.tree.map(lambda x: x[own], classes.encoded.moments)
        means = class_means(classes.encoded, own)
        goal = Goal(own.astype(np.int32), atoms, means, moments, np.float32(classes.encoded.variance))
        k_views = jax.random.fold_in(k_recover, 1)
        group, each = recover.group_size(settings.recover, count, ipc)
        run = lambda goal, start: chunked.run(
            apply, variables, k_views, norm, settings.recover, goal, start, fits, group, total=count * (ipc // each)
        )
        found = run(goal, start) if each == ipc else chunked.in_slices(run, settings.recover, goal, start, group, each)
        for done in found:
            yield part(done.places, done.images, done.terms._asdict())
        return

    if settings.images == "real":
        make = real
    elif settings.images == "crops":
        given = (apply, variables, settings.crops, ipc, classes.image_shape, fits)
        condense = crops.condenser(jax.random.fold_in(k_recover, 0), *given)
        members = lambda c: np.flatnonzero(classes.encoded.labels == c)
        make = lambda rows: np.stack([condense(int(c), members(c), classes.images) for c in own[rows]])
    elif latent is None:
        raise InputError(f"images {settings.images!r} are decoded by a latent model; give latent")
    else:
        local = parallel.mesh(devices)
        weights = parallel.put((latent.vae_variables, latent.variables), local, parallel.SAME)
        latent = latent._replace(vae_variables=weights[0], variables=weights[1])
        sampling = settings.diffusion if settings.images == "diffusion" else replace(settings.diffusion, strength=0.0)
        make = lambda rows: decode(
            k_recover, latent, sampling, np.asarray(atoms.points)[rows], norm, classes.image_shape,
            memory_bytes=fits, classes=own[rows],
        )  # fmt: skip
    size = max(1, 64 * len(devices) // ipc)
    for first in range(0, len(own), size):
        rows = np.arange(first, min(first + size, len(own)))
        yield part(rows, np.asarray(make(rows)), {})


def choose(
    key: jax.Array,
    settings: Recipe,
    encoded: Encoded,
    m: int,
    memory_bytes: int = 2**30,
    own: np.ndarray | None = None,
) -> tuple[Measure, np.ndarray, np.ndarray | None]:
    """Stage 2 as the recipe wants it: each class's cloud of points -> m weighted atoms, and real images near them.

    Args:
      own: the classes wanted, ascending; default: all.

    Returns:
      the atoms; W2^2 along the rounds; for each atom a real image's index [C, m], all different and together as near
      as can be (an optimal assignment), or None where the recipe asks for no real images.
    """
    own = np.arange(len(encoded.counts)) if own is None else own
    count, dim = len(own), encoded.features.shape[1]
    uniform = np.full((count, m), 1.0 / m, np.float32)
    if settings.atoms == "none":
        return Measure(np.zeros((count, m, dim), np.float32), uniform), np.zeros((count, 0)), None
    members = [np.flatnonzero(encoded.labels == c) for c in own]
    if settings.atoms == "random" or settings.atoms in CORESETS:
        if settings.atoms == "random":
            keys = class_keys(key, own)
            places = [jax.random.choice(k, rows, (m,), replace=False) for k, rows in zip(keys, members)]
        else:
            places = [rows[CORESETS[settings.atoms](encoded.features[rows], m)] for rows in members]
        chosen = np.stack([np.asarray(rows) for rows in places])
        return Measure(encoded.features[chosen], uniform), np.zeros((count, 0)), chosen
    rows = slice(None) if sum(map(len, members)) == len(encoded.labels) else np.concatenate(members)
    solved = summarize(
        encoded.features[rows],
        np.searchsorted(own, encoded.labels[rows]),
        m,
        weights="uniform" if settings.weights == "uniform" and settings.atoms == "barycenter" else "free",
        solver=settings.atoms,
        key=key,
        num_classes=count,
        classes=own,
        rows=int(encoded.counts.max()),
        memory_bytes=memory_bytes,
    )
    nearest = None
    if settings.images == "real" or (settings.images == "recover" and settings.recover.start == "real"):
        nearest = np.stack([rows[_match(encoded.features[rows], z)] for rows, z in zip(members, solved.atoms.points)])
    tempered = solved.atoms.weights ** _POWERS[settings.weights]
    atoms = solved.atoms._replace(weights=tempered / tempered.sum(-1, keepdims=True))
    return atoms, np.asarray(solved.costs), nearest


def _match(features: np.ndarray, atoms: np.ndarray) -> np.ndarray:
    """Different rows of features [n, d] for the atoms [m, d], of least total squared distance."""
    cost = np.asarray(ot.squared_distances(jnp.asarray(atoms), jnp.asarray(features)))
    return linear_sum_assignment(cost)[1]


def with_flip(settings: Recipe, flip: bool) -> Recipe:
    """The recipe with mirrored views allowed or not."""
    return replace(settings, recover=replace(settings.recover, flip=flip))
