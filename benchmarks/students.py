"""Stages 4 and 5 beside PyTorch: how many images do the students of several seeds see a second?

    python -m benchmarks.students [--json FILE] [--trace FOLDER] [--model NAME --image-size N --classes C --ipc M]
    python -m benchmarks.students --quick

A step trains each of three students on all C x M images: random-resized-crop, flip, CutMix, the teacher's answer on the
result, KL at T = 20, weights, AdamW under a cosine; student and teacher are of the same architecture. Ours is
`jaxdd.students`, PyTorch (`torch_rivals`) trains one student after the other, as is usual. Images are in memory on both
sides. Before, both sides' answers and the loss of a student in training mode are compared in float32, and more than
0.1 % apart end the run.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness
from benchmarks.harness import Case, Mode, Side, Work
from benchmarks.recover import NORM
from jaxdd.data import permutations
from jaxdd.data.distilled import DistilledDataset
from jaxdd.ground import losses, parallel
from jaxdd.ground.memory import compiled_bytes
from jaxdd.ground.normalise import normalise
from jaxdd.students import lanes, train
from jaxdd.students.evaluation import student_trainer
from jaxdd.students.protocol import SOFT, Protocol

CPU = [Case("resnet18", 32, 10, 5), Case("convnet3", 32, 10, 10)]
GPU = [Case("resnet18", 224, 10, 10)]
QUICK = [Case("convnet3", 16, 10, 2)]
SEEDS = 3
COUNTED = "convolutions and matrix products of the teacher forward, of the students forward and backward to the weights"
_EPOCHS = 100_000  # never ends while it is timed


def problem(case: Case) -> tuple[dict, DistilledDataset]:
    """The teacher's variables and a dataset of weighted images."""
    model, rng = harness.classifier(case), np.random.default_rng(3)
    variables = harness.drawn(lambda key: model.init(key, case.image_shape))
    images = np.asarray(normalise(NORM, jnp.asarray(harness.pictures(case, case.batch))))
    labels = np.repeat(np.arange(case.classes, dtype=np.int32), case.ipc)
    weights = 0.5 + rng.random((case.classes, case.ipc)).astype(np.float32)
    weights = (weights / weights.sum(1, keepdims=True)).reshape(-1)
    names = tuple(map(str, range(case.classes)))
    return variables, DistilledDataset(images, labels, weights, names, NORM, {})


def protocol(case: Case) -> Protocol:
    settings = dataclasses.replace(SOFT.train, epochs=_EPOCHS, batch_size=case.batch)
    return dataclasses.replace(SOFT, train=settings)


def ours(case: Case, compute: str, variables: dict, dataset: DistilledDataset) -> Side:
    model, settings = harness.classifier(case, compute), protocol(case)
    trainer = student_trainer(model, settings, model.apply, dataset)
    local = parallel.mesh(jax.local_devices()[:1])
    each, fused = (1, 1) if parallel.is_cpu(local) else (SEEDS, 20)
    programs = lanes.programs(trainer, case.image_shape, local, each > 1, parallel.SAME)
    targets = train.one_hot(dataset.labels, case.classes)
    pool = lanes.Pool(dataset.images[None], targets[None], dataset.loss_weights(settings.weights)[None])
    pool = parallel.put(pool, local, parallel.SAME)
    context = parallel.put(trainer.prepare(variables), local, parallel.SAME)
    order = permutations(case.batch, case.batch, 0)
    order = np.stack([np.stack([next(order) for _ in range(fused)])] * each).astype(np.int32)
    keys = jnp.split(jnp.stack([jax.random.key(seed) for seed in range(SEEDS)]), SEEDS // each)
    inputs = [parallel.put((some, np.zeros(each, np.int32), order), local) for some in keys]
    states = [programs.init(parallel.put(some, local)) for some in keys]
    planned = compiled_bytes(programs.launch.lower(states[0], context, pool, *inputs[0], count=fused).compile())

    def advance(steps):
        for k, some in enumerate(inputs):
            for count in [fused] * (steps // fused) + [1] * (steps % fused):
                states[k], _ = programs.launch(states[k], context, pool, *some, count=count)
        jax.block_until_ready(states)

    return Side("ours", harness.turns(advance), planned)


def theirs(
    torch_rivals, case: Case, compute: str, variables: dict, dataset: DistilledDataset, name: str, compile: bool
) -> Side:
    settings = protocol(case)
    total = settings.train.steps(case.batch)
    arguments = (case, torch_rivals.Pair(variables, variables), dataset, settings, total, Mode(compute, compile))
    students = [torch_rivals.Student(*arguments) for _ in range(SEEDS)]

    def advance(steps):
        for student in students:
            for _ in range(steps):
                student.step()
        torch_rivals.wait()

    return Side(name, harness.turns(advance))


def work(case: Case, variables: dict) -> int:
    """Operations of a step of all students, by the plain models."""
    model = harness.classifier(case)

    def gradient(params, images):
        teacher = model.apply(variables, images).logits
        loss = lambda params: (model.apply_train({**variables, "params": params}, images)[0] - teacher).sum()
        return jax.grad(loss)(params)

    image = jax.ShapeDtypeStruct((case.batch, *case.image_shape), jnp.float32)
    return SEEDS * harness.flops(gradient, variables["params"], image)


def check(torch_rivals, case: Case) -> None:
    """Both sides compute the same, from weights of their own for student and teacher."""
    case = case._replace(classes=min(case.classes, 4), ipc=min(case.ipc, 4))
    model, settings = harness.classifier(case), protocol(case)
    variables, dataset = problem(case)
    student = harness.drawn(lambda key: model.init(key, case.image_shape), 1)

    @jax.jit
    def answers(variables, student, images, weights):
        wanted, answer = model.apply(variables, images).logits, model.apply_train(student, images)[0]
        return wanted, answer, (weights * losses.distillation(answer, wanted, settings.labels.temperature)).mean()

    with torch_rivals.full_precision():
        mine = answers(variables, student, dataset.images, dataset.loss_weights(settings.weights))
        pair = torch_rivals.Pair(student, variables)
        rival = torch_rivals.Student(case, pair, dataset, settings, 1, Mode("float32"))
        other = rival.teacher(rival.images)[0], rival.net(rival.images)[0], rival.loss(rival.images, rival.weights)
    for what, a, b in zip(("the teacher's logits", "the student's logits", "the loss"), mine, other):
        harness.check_close(what, a, b.detach().cpu().numpy())


def main() -> None:
    flags = harness.parser(__doc__).parse_args()
    chosen = harness.cases(flags, CPU, GPU, QUICK)
    compute, torch_rivals = harness.dtype(flags), harness.rivals(flags)
    rows = []
    for case in chosen:
        variables, dataset = problem(case)
        mine = functools.partial(ours, case, compute, variables, dataset)
        rival = functools.partial(theirs, torch_rivals, case, compute, variables, dataset)
        same = functools.partial(check, torch_rivals, case)
        others = harness.variants(torch_rivals, rival)
        timings = harness.measure(mine, others, flags, same, torch_rivals and torch_rivals.memory)
        peak = harness.matmul_peak(flags.quick)
        counted = Work("students", case, compute, work(case, variables), SEEDS * case.batch)
        rows += harness.rows(counted, timings, peak, seeds=SEEDS)
        harness.write(flags.json, rows)
        jax.clear_caches()
    harness.show(rows, COUNTED)


if __name__ == "__main__":
    harness.entry(main)
