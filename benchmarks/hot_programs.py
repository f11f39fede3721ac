"""The hot programs at the papers' sizes, with shapes in the place of all arrays, for any row of devices.

ImageNet-1K: 1,000 classes of about 1,300 images. WMDD recovers with a ResNet-18 at 224 pixels; SRe2L with global
moments. DDOQ encodes and decodes with Stable Diffusion (512 pixels, 4 x 64 x 64 latents) or DiT-XL/2 (256 pixels).
Students are ResNet-18s that learn a teacher's answers by batches of 100.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxdd import nn
from jaxdd.data.distilled import DistilledDataset
from jaxdd.ground import parallel
from jaxdd.ground.measure import Measure
from jaxdd.ground.memory import Resources
from jaxdd.ground.normalise import Normalisation
from jaxdd.ground.programs import Program
from jaxdd.ground.tracing import shapes_of, struct
from jaxdd.latent import decoding, diffusion, dit, unet, vae
from jaxdd.latent.decoding import LatentModel
from jaxdd.latent.diffusion import Sampling
from jaxdd.nn.batchnorm import Moments
from jaxdd.stages import encode
from jaxdd.stages.context import Teacher
from jaxdd.stages.images.recover import fitting
from jaxdd.stages.images.recover.fitting import Placement
from jaxdd.stages.images.recover.loss import Goal, RecoverSettings
from jaxdd.stages.relabel import storing
from jaxdd.stages.relabel.labelling import HardLabels
from jaxdd.stages.relabel.stored import LabelSettings
from jaxdd.stages.summarize import SUMMARIZERS, solver
from jaxdd.students import lanes, train
from jaxdd.students.evaluation import student_trainer
from jaxdd.students.lanes import Form, Lanes
from jaxdd.students.protocol import named
from jaxdd.students.train import TrainSettings

NORM = Normalisation(np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225]))
CLASSES = 1000
POINTS = 1300  # of a class


class Built(NamedTuple):
    """A program on some devices.

    Attributes:
      program: with shapes and shardings.
      units: what one launch does on one chip, counted in the unit of its `Hot`.
    """

    program: Program
    units: int


class Hot(NamedTuple):
    """A program to compile.

    Attributes:
      name: short, for the table.
      unit: what `Built.units` counts.
      build: (row of devices, bytes of memory of one) -> `Built`.
      many: whether it is also compiled for the chips of one host of a large slice.
    """

    name: str
    unit: str
    build: Callable[[Mesh, int], Built]
    many: bool = False


def compute(local: Mesh) -> str | None:
    """The dtype in which networks compute on these devices by default."""
    return "bfloat16" if parallel.has_bfloat16(local.devices.flat[0]) else None


def teacher(model: str, size: int, local: Mesh, classes: int = CLASSES) -> Teacher:
    """A classifier with the shapes of its variables."""
    net = nn.get(model, classes, size, dtype=compute(local))
    return Teacher(net.apply, jax.eval_shape(lambda key: net.init(key, (size, size, 3)), jax.random.key(0)), NORM)


def goal(net: Teacher, size: int, classes: int, ipc: int, per_class: bool) -> Goal:
    """A goal of zeros, which take no memory."""
    out = shapes_of(net.apply, net.variables, struct(1, size, size, 3))
    zeros = lambda *shape: np.broadcast_to(np.float32(0), shape)
    d = out.features.shape[1]
    lead = (classes,) if per_class else ()
    moments = {name: Moments(*[zeros(*lead, layer.mean.shape[1])] * 2) for name, layer in out.moments.items()}
    atoms = Measure(zeros(classes, ipc, d), zeros(classes, ipc))
    return Goal(np.zeros(classes, np.int32), atoms, zeros(classes, d), moments, np.float32(1))


def recover(
    model: str, size: int, classes: int, ipc: int, local: Mesh, memory_bytes: int, settings: RecoverSettings
) -> Built:
    """Recovery of ``classes`` classes on each chip, in the launches that `chunks` takes."""
    net, chips = teacher(model, size, local), local.devices.size
    group = 1 if settings.per_class else classes
    placement = Placement(local, memory_bytes, group).beside(classes * chips)
    what = goal(net, size, classes * chips, ipc, settings.per_class)
    fitted = fitting.fitted(jax.random.key(0), net, settings, what, (ipc, size, size, 3), placement)
    return Built(fitted.program, fitted.size * group * ipc * fitted.program.static["count"])


def encoded(apply: Any, variables: Any, size: int, batch: int, local: Mesh, memory_bytes: int) -> Built:
    """A batch of ``batch`` images on each chip."""
    program = encode.program(apply, variables, (size, size, 3), batch * local.devices.size, CLASSES, local)
    return Built(program, batch)


def summarized(name: str, d: int, m: int, held: bool, local: Mesh, memory_bytes: int) -> Built:
    """As many classes at a time as the stage takes."""
    chosen, chips = SUMMARIZERS.find(name)(), local.devices.size
    size = solver.chunk_size((POINTS, d, m), CLASSES, memory_bytes * chips, local, chosen.copies)
    return Built(solver.program(chosen, (POINTS, d, m), size, held, local), size // chips)


def latent_dtype(local: Mesh) -> Any:
    """`compute` as the latent models take it."""
    return jnp.bfloat16 if compute(local) else None


def autoencoder(size: int, local: Mesh) -> LatentModel:
    """The autoencoder of Stable Diffusion and DiT-XL/2 for images of a size, with the shapes of its variables."""
    config = vae.VAEConfig(sample_size=size)
    model = vae.autoencoder(config, latent_dtype(local))
    variables = jax.eval_shape(lambda key: model.init(key, (size, size, 3)), jax.random.key(0))
    return LatentModel(model, variables, (size, size, 3))


def decoded(kind: str, sampling: Sampling, local: Mesh, memory_bytes: int) -> Built:
    """As many atoms as the stage takes, by DiT-XL/2 at 256 pixels or Stable Diffusion's UNet at 512."""
    if kind == "dit":
        net, size, schedule = dit.denoiser(dit.DiTConfig(), latent_dtype(local)), 256, diffusion.Schedule()
    else:
        net, size = unet.denoiser(unet.UNetConfig(), CLASSES, latent_dtype(local)), 512
        schedule = diffusion.STABLE_DIFFUSION
    variables = jax.eval_shape(net.init, jax.random.key(0))
    model = autoencoder(size, local)._replace(denoiser=net, variables=variables, schedule=schedule)
    resources = Resources(memory_bytes * local.devices.size, tuple(local.devices.flat))
    size = decoding.batch_size(model, CLASSES, 10, resources)
    return Built(decoding.program(model, sampling, (224, 224, 3), size, local), size // local.devices.size)


class Students(NamedTuple):
    """The training of some students."""

    model: str = "resnet18"
    size: int = 224
    classes: int = CLASSES
    ipc: int = 10
    together: int = 1  # on a chip
    protocol: str = "wmdd"


def students(what: Students, local: Mesh, memory_bytes: int) -> Built:
    """Twenty steps of ``what.together`` students on each chip, with their images on the chip if they fit."""
    net, protocol = teacher(what.model, what.size, local, what.classes), named(what.protocol)
    n = what.classes * what.ipc
    model = nn.get(what.model, what.classes, what.size, dtype=compute(local))
    trainer = student_trainer(model, protocol, net.apply, _dataset(what, n))
    batch = min(protocol.train.batch_size, n)
    resident = n * what.size**2 * 3 * 4 < memory_bytes // 2
    count = 20 if resident else 1
    form = Form(1, n if resident else batch, (what.size, what.size, 3), what.classes)
    seeds = [0] * (what.together * local.devices.size)
    context = shapes_of(nn.fold, net.variables) if protocol.labels.asks_teacher else None
    work = Lanes(seeds, seeds, batch, protocol.train.steps(n) if resident else 1)
    program = lanes.program(trainer, form, work, count, context, local)
    return Built(program, what.together * batch * count)


def trained(model: str, size: int, classes: int, batch: int, local: Mesh, memory_bytes: int) -> Built:
    """A step on real images, whose batch the chips divide."""
    net = nn.get(model, classes, size, dtype=compute(local))
    trainer = train.trainer(net, TrainSettings(batch_size=batch), 1000, HardLabels().criterion(), NORM)
    program = train.work("train", trainer, (size, size, 3), (batch, classes, 1000), "", local).program
    return Built(program, batch // local.devices.size)


def _dataset(what: Students, n: int) -> DistilledDataset:
    """A distilled dataset of zeros, which take no memory."""
    zeros = lambda *shape: np.broadcast_to(np.float32(0), shape)
    names = tuple(map(str, range(what.classes)))
    labels = np.repeat(np.arange(what.classes, dtype=np.int32), n // what.classes)
    images = zeros(n, what.size, what.size, 3)
    return DistilledDataset(images, labels, np.ones(n, np.float32), names, NORM, {})


def labels(model: str, size: int, local: Mesh, memory_bytes: int) -> Built:
    """A batch of the labels that are stored."""
    stream = named("wmdd").stream(CLASSES * 10)
    program = storing.program(teacher(model, size, local), stream, LabelSettings(), (size, size, 3), local)
    return Built(program, stream.batch_size)


SRE2L = RecoverSettings(feature_weight=0.0, cross_entropy_weight=1.0, moments="global", start="noise")
DDOQ = Sampling(steps=50, strength=0.7, guidance=8.0)
DIT = Sampling(steps=50, strength=0.5, guidance=4.0)


def _recover(model: str, classes: int, ipc: int, settings: RecoverSettings = RecoverSettings()) -> Any:  # noqa: B008
    return lambda local, memory: recover(model, 224, classes, ipc, local, memory, replace(settings, steps=400))


def _encode(model: str, local: Mesh, memory_bytes: int) -> Built:
    net = teacher(model, 224, local)
    return encoded(net.apply, net.variables, 224, 250, local, memory_bytes)


def _encode_latents(local: Mesh, memory_bytes: int) -> Built:
    model = autoencoder(512, local)
    return encoded(decoding.encoder(model), model.vae_variables, 512, 8, local, memory_bytes)


HOT = (
    Hot("recover resnet18, IPC 10", "image steps", _recover("resnet18", 10, 10), True),
    Hot("recover resnet18, IPC 50", "image steps", _recover("resnet18", 2, 50)),
    Hot("recover resnet50, IPC 10", "image steps", _recover("resnet50", 10, 10)),
    Hot("recover resnet18, global moments", "image steps", _recover("resnet18", 100, 1, SRE2L)),
    Hot("encode resnet18", "images", partial(_encode, "resnet18"), True),
    Hot("encode latents", "images", _encode_latents),
    *(
        Hot(f"{name}, {where}, {m} atoms", "classes", partial(summarized, name, d, m, held))
        for name, held in (("quantization", False), ("barycenter", True), ("clvq", False), ("sinkhorn", True))
        for where, d, m in (("features", 512, 10), ("features", 512, 50), ("latents", 16384, 10))
    ),
    Hot("decode DiT-XL/2", "images", partial(decoded, "dit", DIT)),
    Hot("decode Stable Diffusion", "images", partial(decoded, "sd", DDOQ)),
    *(
        Hot(f"students resnet18, {count}", "image steps", partial(students, Students(together=count)), count == 1)
        for count in (1, 16)
    ),
    Hot("labels resnet18", "images", partial(labels, "resnet18", 224)),
    Hot("teacher resnet18", "images", partial(trained, "resnet18", 224, CLASSES, 256), True),
)


def _small(local: Mesh, memory_bytes: int) -> Built:
    return recover("convnet3", 32, 2, 10, local, memory_bytes, RecoverSettings(steps=400))


def _small_encode(local: Mesh, memory_bytes: int) -> Built:
    net = teacher("convnet3", 32, local, 10)
    program = encode.program(net.apply, net.variables, (32, 32, 3), 20 * local.devices.size, 10, local)
    return Built(program, 20)


SMALL = (
    Hot("recover convnet3 at 32, IPC 10", "image steps", _small, True),
    Hot("encode convnet3 at 32", "images", _small_encode),
    Hot("quantization, features, 10 atoms", "classes", partial(summarized, "quantization", 128, 10, False)),
    Hot(
        "students convnet3 at 32",
        "image steps",
        partial(students, Students("convnet3", 32, 10, 10, 1, "soft")),
    ),
    Hot("teacher convnet3 at 32", "images", partial(trained, "convnet3", 32, 10, 128), True),
)


def selected(words: Sequence[str], quick: bool) -> list[Hot]:
    """The programs with one of the words in their names, or all; only small ones if ``quick``."""
    return [hot for hot in (SMALL if quick else HOT) if not words or any(word in hot.name for word in words)]


def refused(error: Exception) -> str:
    """Why a program does not fit or is refused by the compiler, in a line: that is a finding, and is in its row."""
    return " ".join(str(error).split())[:300]
