"""Shared by the tests: digits, small models of them, and the command line."""

import atexit
import gc
import importlib
import os
import signal
import sys
import tempfile

import jax
import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from jaxdd import data, nn
from jaxdd.data.augment import Augment
from jaxdd.ground import stop
from jaxdd.ground.normalise import Normalisation, normalise
from jaxdd.latent import Schedule, VAEConfig, autoencoder, decoding, dit
from jaxdd.latent.vae import RANGE
from jaxdd.stages import encode
from jaxdd.stages.context import Classes, Context, Teacher
from jaxdd.stages.relabel.labelling import HardLabels
from jaxdd.students import train

# Most of the tests' time is compiling. LLVM's -O3 takes many times as long as its -O2 where many arrays are drawn, and
# XLA's older emitters of fused loops compile faster, in the versions that still have them. Read when the first device
# is asked for; processes that tests start inherit it.
_OLDER = " --xla_cpu_use_fusion_emitters=false" if jax.__version_info__ < (0, 11) else ""
_QUICK = f"--xla_backend_optimization_level=2{_OLDER}"
os.environ["XLA_FLAGS"] = f"{_QUICK} {os.environ.get('XLA_FLAGS', '')}".strip()

# The workers of a run, and the processes that tests start, share what they compile. The first process removes it.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _CACHE = tempfile.TemporaryDirectory(prefix="jaxdd-compiled-", ignore_cleanup_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)

# Without optimisation most programs take less time, see `compiled`.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
jax.config.update("jax_disable_most_optimizations", True)

# Tracing makes many objects that live, and the collector looks through them again and again.
gc.set_threshold(200_000, 50, 1000)

# The same examples every time: a failure is a change's, not the day's.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")


def pytest_collection_modifyitems(config, items):
    """Leave out the tests marked ``faults`` unless -m asks for them."""
    if "faults" in (config.option.markexpr or ""):
        return
    left_out = [item for item in items if item.get_closest_marker("faults")]
    items[:] = [item for item in items if not item.get_closest_marker("faults")]
    config.hook.pytest_deselected(items=left_out)


def pytest_terminal_summary(terminalreporter):
    """Print the table of the runs that were killed."""
    reports = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    rows = [dict(report.user_properties) for report in reports if report.when == "call"]
    rows = [row for row in rows if "kills" in row]
    if rows:
        terminalreporter.write_line("stage                    kills  refused  unequal")
    for row in sorted(rows, key=lambda row: row["stage"]):
        terminalreporter.write_line(f"{row['stage']:24} {row['kills']:5}  {row['refused']:7}  {row['unequal']:7}")


PLAIN = Augment(crop="none", flip=False)


@pytest.fixture(autouse=True)
def handlers():
    """After a test, which may run a program, signals are handled as before, and none waits."""
    numbers, hook = (signal.SIGTERM, signal.SIGINT), sys.unraisablehook
    before = [signal.getsignal(number) for number in numbers]
    yield
    stop.over()
    atexit.unregister(stop.leave)
    stop._waiting, sys.unraisablehook = None, hook
    for number, handler in zip(numbers, before):
        signal.signal(number, handler)


# Linux gives a process 65,530 memory maps, each compiled program takes several, and a process without dies.
_MOST_MAPS = 30_000


@pytest.fixture(autouse=True, scope="module")
def compiled(request):
    """The programs of a file are compiled without optimisation, which takes less time.

    A file that compares programs to the last digits sets OPTIMISED. Compiled programs are forgotten where files differ
    in this, and after a file if they are very many.
    """
    plain = not getattr(request.module, "OPTIMISED", False)
    if jax.config.read("jax_disable_most_optimizations") != plain:
        jax.clear_caches()
        jax.config.update("jax_disable_most_optimizations", plain)
    yield
    try:
        with open("/proc/self/maps") as lines:
            count = sum(1 for _ in lines)
    except OSError:  # not Linux
        return
    if count > _MOST_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def digits():
    return data.in_memory(data.load("digits"))


@pytest.fixture(scope="session")
def teacher(digits):
    """A ConvNet-3 of width 8 on 8x8 digits."""
    model = nn.get("convnet3", 10, 8, width=8)
    norm = Normalisation(*data.statistics(digits))
    settings = train.TrainSettings(
        epochs=8, batch_size=64, optimizer="sgd", learning_rate=0.1, weight_decay=5e-4, augment=PLAIN
    )
    steps = settings.steps(len(digits.labels["train"]))
    trainer = train.trainer(model, settings, steps, HardLabels().criterion(), norm)
    ones = np.ones(64, np.float32)
    batches = ((x, train.one_hot(y, 10), ones) for x, y in data.shuffled(digits, "train", 64, 0))
    state = trainer.init(jax.random.key(0), digits.image_shape)
    state, _ = train.fit(trainer.step, state, jax.random.key(1), batches, steps)
    return Teacher(model.apply, state.variables, norm)


@pytest.fixture(scope="session")
def classes(digits, teacher):
    """All train digits as that teacher sees them."""
    batches = data.batches(digits, "train", 479)
    encoded = encode.encode(teacher.apply, teacher.variables, teacher.norm, batches, 10)
    read = lambda rows: np.asarray(normalise(teacher.norm, digits.read("train", rows)))
    return Classes.of(encoded, read, digits.image_shape)


def drawn(init, seed):
    """Variables of the shapes that ``init`` makes, drawn on the host: nothing is compiled and nothing is zero."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        scale = 1 / np.sqrt(np.prod(leaf.shape[:-1])) if len(leaf.shape) > 1 else 0.1
        return (scale * rng.normal(size=leaf.shape) + (len(leaf.shape) == 1)).astype(np.float32)

    return jax.tree.map(draw, jax.eval_shape(init, jax.random.key(0)))


@pytest.fixture(scope="session")
def latent():
    """An untrained autoencoder, from 8x8x1 to 4x4x2, and a small untrained denoiser."""
    vae = autoencoder(VAEConfig(1, 2, (8, 16), 1, 8, 0.5, 8))
    net = dit.denoiser(dit.DiTConfig(2, 8, 1, 2, 2, 4, 4, 10))
    weights = drawn(lambda key: vae.init(key, (8, 8, 1)), 0)
    return decoding.LatentModel(vae, weights, (8, 8, 1), net, drawn(net.init, 1), Schedule(), None)


@pytest.fixture(scope="session")
def latent_classes(digits, latent, classes):
    """All train digits as that autoencoder sees them."""
    batches = data.batches(digits, "train", 479)
    encoded = encode.encode(decoding.encoder(latent), latent.vae_variables, RANGE, batches, 10)
    return Classes.of(encoded, classes.images, classes.image_shape)


@pytest.fixture(scope="session")
def context(teacher, classes):
    """That teacher and those digits, for recipes of the feature space; mirroring is off for digits."""
    return Context(teacher, classes, flip=False)


@pytest.fixture(scope="session")
def latent_context(teacher, latent_classes, latent):
    """The same for recipes of the latent space."""
    return Context(teacher, latent_classes, latent, flip=False)


@pytest.fixture
def program(capfd):
    """(name, *arguments) -> (status, stdout, stderr) of ``jaxdd <name>``, in this process."""

    def call(name, *arguments):
        module = importlib.import_module(f"jaxdd.programs.{name}")
        status = 0
        try:
            module.cli([*map(str, arguments)])
        except SystemExit as exit:
            status = exit.code
        return status, *capfd.readouterr()

    return call


def contents(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def refused(program, tmp_path):
    """A call that must end in status 2 and one line on stderr, which it returns, and leave the disk alone."""

    def check(*arguments):
        before = contents(tmp_path)
        status, out, err = program(*arguments)
        assert status == 2, err
        assert out == ""
        lines = err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: "), err
        assert contents(tmp_path) == before
        return lines[0]

    return check


@pytest.fixture
def folder(tmp_path):
    """Two classes of four train and two test images of 8x8 pixels."""
    root, rng = tmp_path / "data", np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for name in ("cat", "dog"):
            place = root / split / name
            place.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(place / f"{i}.png")
    return root


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A run folder with images, a teacher, stored labels and results, as the programs leave it; not to be changed."""
    from bad_inputs import make_run

    return make_run(tmp_path_factory.mktemp("finished") / "run")
