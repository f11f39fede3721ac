"""Distil a dataset: real images in, a few weighted images per class out.

    python -m experiments.distill --method wmdd --dataset digits --ipc 1 --out runs/x
    python -m experiments.distill --method ddoq --dataset digits --ipc 10 --out runs/y

Trains a teacher first unless `--teacher` names one (or one of the same settings lies in the `teachers` folder beside
the output); for methods of the latent space likewise an autoencoder and a denoiser, unless `--latent.place` names some.
Digits take half a minute on two cores with wmdd, six minutes with ddoq, once its models are there 14 seconds.
Published, with ResNet-18 at 10 images per class and soft labels: WMDD reaches 64.8 % on ImageNette, 41.8 % on
Tiny-ImageNet and 38.2 % on ImageNet-1K; DDOQ with Stable Diffusion 33.1 % on ImageNet-1K, with DiT-XL/2 53.0 %.
"""

import dataclasses
import json
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, NamedTuple

import jax
import numpy as np
import tyro
from jax.sharding import Mesh

from experiments import cli, latents, run_page, teachers
from jaxdd import methods
from jaxdd.data import Source, distilled
from jaxdd.data.distilled import DistilledDataset
from jaxdd.ground import hosts, parallel
from jaxdd.ground.errors import InputError
from jaxdd.ground.files import aside
from jaxdd.ground.measure import Measure
from jaxdd.ground.normalise import normalise
from jaxdd.reports import tables as report
from jaxdd.stages import encode
from jaxdd.stages.images.decode import LatentModel
from jaxdd.students import evaluation as evaluate


@dataclass(frozen=True)
class DistillConfig(teachers.TeacherConfig):
    method: str = "wmdd"
    """wmdd, ce-class, wmdd-global, ce-global, mmd, dm, sre2l, ddoq, d4m, rded, medoid, random, herding or kcenter;
    decides the defaults of the flags below."""
    ipc: int = 1
    """Images per class."""
    out: Path = Path("runs/distilled")
    """The run folder; must be new or empty."""
    teacher: Path | None = None
    """Folder of a teacher that experiments.squeeze wrote."""
    latent: latents.LatentConfig = field(default_factory=latents.LatentConfig)
    recipe: Annotated[methods.Recipe, tyro.conf.arg(name="")] = field(default_factory=methods.Recipe)


def default(arguments: list[str]) -> DistillConfig:
    """The config of the method that ``--method`` names."""
    name = DistillConfig.method
    for flag, value in zip(arguments, [*arguments[1:], None]):
        if flag == "--method" and value is not None:
            name = value
        elif flag.startswith("--method="):
            name = flag.removeprefix("--method=")
    return DistillConfig(method=name, recipe=methods.recipe(name))


def encode_real(
    teacher: teachers.Teacher, source: Source, mesh: Mesh | None = None, together: int = 1
) -> methods.Classes:
    """Stage 1 on the train split with the teacher, and the way back from its rows to images.

    mesh: of which this process has a share, and so of the classes; default: its own devices, so that it has all.
    """
    model, variables, norm, _ = teacher
    mesh = mesh or parallel.mesh(jax.local_devices())
    rows = teachers.own_rows(source, mesh, together)
    encoded = teachers.encode_train(model.apply, variables, norm, source, rows=rows, mesh=mesh)
    return with_images(encoded, teacher, source, np.concatenate(rows))


def with_images(
    encoded: encode.Encoded, teacher: teachers.Teacher, source: Source, rows: np.ndarray
) -> methods.Classes:
    """The encoded ``rows`` of the train split with their images."""
    read = lambda chosen: np.asarray(normalise(teacher.norm, source.read("train", rows[chosen])))
    return methods.Classes(encoded, read, source.image_shape)


def make(
    name: str,
    recipe: methods.Recipe,
    ipc: int,
    seed: int,
    source: Source,
    teacher: teachers.Teacher,
    classes: methods.Classes,
    memory_gib: float,
    latent: LatentModel | None = None,
    parts: Path | None = None,
) -> tuple[DistilledDataset, methods.Result] | None:
    """Stages 2 and 3, and the record of how it was done.

    parts: a folder for finished classes, where those of an earlier start or of another process are found, too. Of
      several processes each fills in its own classes and the first returns all of them, the others None.
    """
    started = time.perf_counter()
    num_classes = len(source.class_names)
    own = np.arange(num_classes)
    if parts:
        together = methods.together(recipe, num_classes, ipc)
        own = _missing(parts, parallel.own(num_classes, parallel.mesh(), together), together)
    steps = methods.distill_parts(
        jax.random.fold_in(jax.random.key(seed), 2),
        recipe,
        ipc,
        teacher.model.apply,
        teacher.variables,
        teacher.norm,
        classes,
        int(memory_gib * 2**30),
        latent,
        own,
    )
    if parts is None:
        result = methods.joined(steps)
    else:
        for part in steps if len(own) else ():
            _keep(parts, part)
        hosts.meet()
        if not hosts.is_first():
            return None
        result = methods.joined(_kept(parts, c) for c in range(num_classes))
    dataset = DistilledDataset(
        images=result.images.reshape(-1, *source.image_shape),
        labels=np.repeat(np.arange(num_classes, dtype=np.int32), ipc),
        weights=np.asarray(result.atoms.weights, np.float32).reshape(-1),
        class_names=source.class_names,
        norm=teacher.norm,
        provenance={
            "method": name,
            "dataset": teachers.short_name(source),
            "ipc": ipc,
            "seed": seed,
            "recipe": dataclasses.asdict(recipe),
            "teacher": {k: teacher.info[k] for k in ("model", "width", "stem", "accuracy", "holdout", "seed")},
            "device": jax.devices()[0].device_kind,
            "jax": jax.__version__,
        },
    )
    seconds = time.perf_counter() - started
    seen = evaluate.recognised(teacher.model.apply, teacher.variables, dataset)
    dataset.provenance["recognised"] = seen
    cli.log(f"{name}: {len(dataset.labels)} images in {seconds:.0f} s; the teacher knows {100 * seen:.1f} % of them")
    return dataset, result


def _part(parts: Path, c: int) -> Path:
    return parts / f"{c:05d}.npz"


def _missing(parts: Path, own: np.ndarray, together: int) -> np.ndarray:
    """The classes of ``own`` that are still to be done, with those that must be done with them."""
    undone = {c // together for c in own if not _part(parts, c).is_file()}
    missing = np.array([c for c in own if c // together in undone], int)
    if len(missing) < len(own):
        print(f"{len(own) - len(missing)} of {len(own)} classes are done", file=sys.stderr, flush=True)
    return missing


def _keep(parts: Path, part: methods.Result) -> None:
    """Write each class into a file of its own."""
    for k, c in enumerate(part.classes):
        with aside(_part(parts, c)) as place, open(place, "wb") as file:
            curve = {f"curve_{name}": values[:, k] for name, values in part.curve.items()}
            atoms = {"points": part.atoms.points[k], "weights": part.atoms.weights[k]}
            np.savez(file, images=part.images[k], costs=part.costs[k], **atoms, **curve)


def _kept(parts: Path, c: int) -> methods.Result:
    with np.load(_part(parts, c), allow_pickle=False) as file:
        row = lambda name: file[name][None]
        curve = {name.removeprefix("curve_"): file[name][:, None] for name in file.files if name.startswith("curve_")}
        atoms = Measure(row("points"), row("weights"))
        return methods.Result(row("images"), atoms, row("costs"), curve, np.array([c]))


def save_run(
    out: Path, config: DistillConfig, teacher: Path, dataset: DistilledDataset, result: methods.Result
) -> None:
    """Fill a run folder: config, teacher, atoms, images, the loss curve, the preview and the page."""
    cli.write_json(out / "config.json", cli.config_dict(config))
    with aside(out / "teacher") as place:
        shutil.copytree(teacher, place)
    # An open file, for a bare name would get the ending .npz.
    with aside(out / "atoms.npz") as place, open(place, "wb") as file:
        np.savez(file, points=result.atoms.points, weights=result.atoms.weights, costs=result.costs)
    lines = []
    for i, values in enumerate(zip(*result.curve.values())):
        if i % 10 == 0 or i == len(next(iter(result.curve.values()))) - 1:
            lines.append(
                json.dumps({"step": i, **{k: round(float(v.mean()), 6) for k, v in zip(result.curve, values)}})
            )
    if lines:
        cli.write_text(out / "metrics.jsonl", "\n".join(lines) + "\n")
    distilled.save(dataset, out / "distilled")
    run_page.write(out, default)
    report.preview(dataset, out / "preview.png")


class Real(NamedTuple):
    """The real data as a method sees them, and with what they were encoded if not with the teacher."""

    classes: methods.Classes
    latent: LatentModel | None = None
    name: str | None = None  # of the latent model


def encode_latents(
    teacher: teachers.Teacher,
    latent: latents.LatentConfig,
    config: teachers.TeacherConfig,
    source: Source,
    flip: bool,
    cache: Path,
    denoiser: bool,
) -> Real:
    """Stage 1 on the train split with an autoencoder, found or trained now."""
    model, found = latents.find_or_train(latent, config, source, flip, cache, denoiser)
    rows = teachers.own_rows(source, parallel.mesh())
    encoded = latents.encode_latents(model, latents.open_source(model, config, source), rows)
    return Real(with_images(encoded, teacher, source, np.concatenate(rows)), model, found.name)


def write(
    out: Path, config: DistillConfig, flip: bool, source: Source, teacher: teachers.Teacher, place: Path, real: Real
) -> DistilledDataset | None:
    """Distil as the config says into an opened run folder; of several processes all but the first return None.

    place: the teacher's folder.
    """
    recipe, shared = methods.with_flip(config.recipe, flip), (config.ipc, config.seed, source, teacher)
    made = make(config.method, recipe, *shared, real.classes, config.memory_gib, real.latent, out / cli.PARTS)
    if made is None:
        return None
    dataset, result = made
    for name in ("teacher", "distilled"):
        # Left behind where an earlier start was cut off while it wrote the last files.
        shutil.rmtree(out / name, ignore_errors=True)
    if real.name:
        dataset.provenance["latents"] = real.name
    save_run(out, config, place, dataset, result)
    shutil.rmtree(out / cli.PARTS)
    return dataset


def request(config: DistillConfig) -> dict:
    """What decides the bytes of a class: only parts of an equal request are taken up."""
    asked = cli.config_dict(config)
    del asked["memory_gib"]
    record = config.teacher / "teacher.json" if config.teacher else None
    return asked | {
        "compute": teachers.dtype_of(config.compute),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "given teacher": json.loads(record.read_text()) if record and record.is_file() else None,
    }


def main(config: DistillConfig) -> None:
    methods.recipe(config.method)  # the name must be a method's, whatever the other flags make of it
    recipe = config.recipe
    if config.ipc < 1:
        raise InputError(f"--ipc {config.ipc} is not a number of images per class; use 1 or more")
    with cli.run_folder(config.out, request(config)) as out:
        given = teachers.load_teacher(config.teacher, config.compute) if config.teacher else None
        if given:
            config = dataclasses.replace(config, **teachers.data_like(given, config))
        source, norm, flip = teachers.open_data(config)
        teachers.build(teachers.describe(config, source, norm), config.compute)
        methods.check(config.method, config.ipc, recipe, source.labels["train"], source.class_names)
        if given:
            teachers.check_fits(given, source, config.teacher)
            teacher, place = given, config.teacher
        else:
            teacher, place = teachers.find_or_train(config, source, norm, flip, config.out.parent / "teachers")
        if recipe.space == "latents":
            wanted = recipe.images == "diffusion"
            cache = config.out.parent / "latents"
            real = encode_latents(teacher, config.latent, config, source, flip, cache, wanted)
        else:
            together = methods.together(recipe, len(source.class_names), config.ipc)
            real = Real(encode_real(teacher, source, parallel.mesh(), together))
        dataset = write(out, config, flip, source, teacher, place, real)
    if dataset is None:
        return
    print(f"{config.method}: {len(dataset.labels)} images of {len(source.class_names)} classes in {config.out}")
    print(f"next: python -m experiments.evaluate {config.out}")


if __name__ == "__main__":
    cli.run(main, default, several=True)
