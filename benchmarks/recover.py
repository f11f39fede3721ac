"""Stage 3a beside PyTorch: how many images are optimised how many steps a second?

    python -m benchmarks.recover [--json FILE] [--trace FOLDER] [--model NAME --image-size N --classes C --ipc M]
    python -m benchmarks.recover --quick

One step draws a view of each class (random-resized-crop of at least 0.8 of the area, flip), passes all images through
the classifier, and takes the gradient of features and per-class BatchNorm moments to the pixels into Adam, cosine and
clipping: `jaxdd.Recover` with its defaults, and the same in PyTorch (`torch_rivals`), from the same weights, images and
goals. Before, features, logits, loss and gradient of both sides are compared in float32, and more than 0.1 % apart end
the run; the gradient may be 1 % apart in a quarter of the images. On CPU ResNet-18 with 50 and ConvNet-3 with 100
images of 32 pixels, in a few minutes; else ResNet-18 with 10 images of 10 classes at 224.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness
from benchmarks.harness import Case, Mode, Side, Work
from jaxdd import nn
from jaxdd.ground import parallel
from jaxdd.ground.measure import Measure
from jaxdd.ground.memory import Resources, compiled_bytes
from jaxdd.ground.normalise import Normalisation, normalise
from jaxdd.nn import Moments
from jaxdd.stages.images.recover import descent, fitting, loss
from jaxdd.stages.images.recover.loss import Goal, RecoverSettings

CPU = [Case("resnet18", 32, 10, 5), Case("convnet3", 32, 10, 10)]
GPU = [Case("resnet18", 224, 10, 10)]
QUICK = [Case("convnet3", 16, 10, 2)]
NORM = Normalisation(np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225]))
SETTINGS = RecoverSettings()
COUNTED = "convolutions and matrix products of the classifier, forward and backward to the pixels"


class Problem(NamedTuple):
    """What all sides work on."""

    variables: dict
    goal: Goal
    start: jax.Array


def problem(case: Case) -> Problem:
    """All drawn on the host."""
    model, rng = harness.classifier(case), np.random.default_rng(1)
    variables = harness.drawn(lambda key: model.init(key, case.image_shape))
    image = jax.ShapeDtypeStruct((1, *case.image_shape), jnp.float32)
    out = jax.eval_shape(model.apply, variables, image)
    normal = lambda *shape: rng.standard_normal(shape, np.float32)
    share = lambda *shape: 0.5 + rng.random(shape, np.float32)
    widths = {name: layer.mean.shape[1] for name, layer in out.moments.items()}
    layers = {name: Moments(0.1 * normal(case.classes, n), share(case.classes, n)) for name, n in widths.items()}
    weights = share(case.classes, case.ipc)
    points = np.abs(normal(case.classes, case.ipc, out.features.shape[1]))
    atoms = Measure(points, weights / weights.sum(1, keepdims=True))
    variance = np.float32(out.features.shape[1])
    goal = jax.tree.map(jnp.asarray, Goal(np.arange(case.classes), atoms, points.mean(1), layers, variance))
    start = normalise(NORM, harness.pictures(case, case.batch))
    start = jnp.asarray(start, jnp.float32).reshape(case.classes, case.ipc, *case.image_shape)
    return Problem(variables, goal, start)


def ours(case: Case, compute: str, shared: Problem) -> Side:
    """As `chunks.run` does it: on CPU some classes after others, on an accelerator all, many steps a launch."""
    resources = Resources(devices=tuple(jax.local_devices()[:1]))
    local, apply = resources.mesh, harness.classifier(case, compute).apply
    placement = fitting.Placement(local, resources.bytes_per_device, total=case.classes)
    class_shape = (case.ipc, *case.image_shape)
    fused, each = fitting.plan(apply, shared.variables, class_shape, case.classes, placement)
    solver = descent.recovery(apply, jax.random.key(0), NORM, SETTINGS, 1, local)
    variables = parallel.put(shared.variables, local, parallel.SAME)
    groups = parallel.chunks(case.classes, each)
    goal_at = fitting.shardings(solver, SETTINGS, local)[1]
    goals = [jax.device_put(fitting.rows_of(shared.goal, rows, SETTINGS), goal_at) for rows in groups]
    states = [solver.init(parallel.put(np.asarray(shared.start)[np.maximum(rows, 0)], local)) for rows in groups]
    planned = compiled_bytes(solver.program(variables, states[0], goals[0], count=fused).lower().compile())

    def advance(steps):
        for k, part in enumerate(goals):
            for count in [fused] * (steps // fused) + [1] * (steps % fused):
                states[k], _ = solver.step(variables, states[k], part, count=count)
        jax.block_until_ready(states)

    return Side("ours", harness.turns(advance), planned)


def work(case: Case, variables: dict) -> int:
    """Operations of one step, by the plain model: what is folded, fused or computed twice changes nothing here."""

    def gradient(images):
        def outputs(x):
            out = harness.classifier(case).apply(variables, x)
            return out.features, out.moments

        out, pullback = jax.vjp(outputs, images)
        return pullback(out)

    return harness.flops(gradient, jax.ShapeDtypeStruct((case.batch, *case.image_shape), jnp.float32))


def check(torch_rivals, case: Case) -> None:
    """Both sides compute the same."""
    case = case._replace(classes=min(case.classes, 3), ipc=min(case.ipc, 2))
    shared = problem(case)
    apply = nn.get(case.model, case.classes, case.image_size).apply

    def value_of(images):
        terms = loss.terms(apply, shared.variables, images, shared.goal, SETTINGS)
        out = apply(shared.variables, images.reshape(-1, *case.image_shape))
        return loss.total(terms, SETTINGS).sum(), (out.features, out.logits)

    with torch_rivals.full_precision():
        (value, (features, logits)), gradient = jax.jit(jax.value_and_grad(value_of, has_aux=True))(shared.start)
        rival = torch_rivals.Recovery(case, shared, NORM, SETTINGS, Mode("float32"))
        theirs = rival.loss(rival.images)
        theirs.backward()
        host = lambda x: x.detach().cpu().numpy()
        out = [host(x) for x in rival.net(rival.images)]
    harness.check_close("features", features, out[1])
    harness.check_close("logits", logits, out[0])
    harness.check_close("loss", value, host(theirs))
    of_pixels = host(rival.images.grad).transpose(0, 2, 3, 1)
    # A ReLU whose input is zero up to rounding may lie on the other side. That moves the gradient of its image by more.
    mine, theirs_ = (np.asarray(x).reshape(len(of_pixels), -1) for x in (gradient, of_pixels))
    apart = np.linalg.norm(mine - theirs_, axis=1) / np.linalg.norm(mine, axis=1)
    usual = np.argsort(apart)[: len(apart) * 3 // 4]
    harness.check_close("gradient of three quarters of the images", mine[usual], theirs_[usual])
    harness.check_close("gradient", mine, theirs_, 1e-2)


def theirs(torch_rivals, case: Case, compute: str, shared: Problem, name: str, compile: bool) -> Side:
    rival = torch_rivals.Recovery(case, shared, NORM, SETTINGS, Mode(compute, compile))
    return Side(name, torch_rivals.seconds(rival.step))


def main() -> None:
    flags = harness.parser(__doc__).parse_args()
    chosen = harness.cases(flags, CPU, GPU, QUICK)
    compute, torch_rivals = harness.dtype(flags), harness.rivals(flags)
    rows = []
    for case in chosen:
        shared = problem(case)
        mine = functools.partial(ours, case, compute, shared)
        others = harness.variants(torch_rivals, functools.partial(theirs, torch_rivals, case, compute, shared))
        same = functools.partial(check, torch_rivals, case)
        timings = harness.measure(mine, others, flags, same, torch_rivals and torch_rivals.memory)
        peak = harness.matmul_peak(flags.quick)
        counted = Work("recover", case, compute, work(case, shared.variables), case.batch)
        rows += harness.rows(counted, timings, peak)
        harness.write(flags.json, rows)
        jax.clear_caches()
    harness.show(rows, COUNTED)


if __name__ == "__main__":
    harness.entry(main)
