"""Flags: choices and their settings, flags of earlier versions, names of modules of one's own. Nothing is trained."""

import dataclasses
import io
import itertools
import sys
from pathlib import Path

import pytest
from helpers import message

from jaxdd import commands
from jaxdd.commands import flags
from jaxdd.data import SOURCES
from jaxdd.ground import registry
from jaxdd.methods import RECIPES, Recipe
from jaxdd.nn import MODELS
from jaxdd.programs import demo, distill, evaluate, relabel, tables, train
from jaxdd.reports import ot_rates
from jaxdd.stages.images import IMAGERS, Crops, Diffusion, Nearest, Recover, Vae
from jaxdd.stages.relabel.labelling import LABELLINGS, HardLabels, SoftLabels
from jaxdd.stages.summarize import SUMMARIZERS, Barycenter, Clvq, NoAtoms, Quantization
from jaxdd.workspace import config_of, distillation

DEFAULTS = {
    "distill": distill.default,
    "evaluate": lambda _: evaluate.EvaluateConfig(),
    "relabel": lambda _: relabel.RelabelConfig(),
    "train": lambda _: train.TrainConfig(),
    "demo": lambda _: demo.DemoConfig(),
    "scores": lambda arguments: tables.default("scores", arguments),
}


def parsed(program, *arguments):
    """The config that a program makes of its arguments."""
    arguments = flags.load_plugins([str(argument) for argument in arguments])
    return flags.parse(DEFAULTS[program](arguments), arguments)


def recipe(*arguments):
    return parsed("distill", *arguments).recipe


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_complaints_are_plain_whatever_the_terminal_shows(encoding, monkeypatch):
    # By the encoding of stdout, tyro draws its frame of lines or of hyphens.
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding))
    for arguments, line in (
        (("--image-size", "1e3"), "--image-size: '1e3' is no whole number; see --help"),
        (("--ipc=x", "--width", 8), "--ipc: 'x' is no whole number; see --help"),
        (("--ipc", "None"), "--ipc: 'None' is no whole number; see --help"),
        (("--ipc", "9" * 5000), f"--ipc: '{'9' * 79}... has too many digits; see --help"),
        (("--mean", 0.5, "a"), "--mean: 'a' is no number; see --help"),
        (("--imager.learning-rate", "x"), "--imager.learning-rate: 'x' is no number; see --help"),
        (("--nonsense", 3), "unknown option --nonsense; see --help"),
        (("--out",), "--out has no value after it; see --help"),
        (("--flip", "flase"), "--flip: 'flase' is none of False, None, True; did you mean False?"),
        (("petz", "--ipc", 1), "no option takes 'petz'; see --help"),
    ):
        assert message(lambda arguments=arguments: parsed("distill", *arguments)) == line
    assert message(lambda: parsed("distill", "--flip", "maybe")) == (
        "--flip: 'maybe' is none of False, None, True; see --help"
    )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("--image-sise 64", "unknown option --image-sise; did you mean --image-size?"),
        ("--image_sise=64 --ipc 1", "unknown option --image-sise; did you mean --image-size?"),
        ("-ipc 3", "unknown option -ipc; did you mean --ipc?"),
        ("--steps 3", "unknown option --steps; did you mean --imager.steps?"),
        ("--teacher-train.epoch 3", "unknown option --teacher-train.epoch; did you mean --teacher-train.epochs?"),
        ("--learning-rte 3", "unknown option --learning-rte; did you mean --teacher-train.learning-rate or "),
        ("--dryrun", "unknown option --dryrun; did you mean --dry-run?"),
        ("--a 1 --ipcc 2", "unknown option --a; unknown option --ipcc; did you mean --ipc?"),
        ("--imager.pool 3", "option --imager.pool is one of --imager crops, and --imager is recover; see --help"),
        ("--imager.sampler x --method sre2l", "option --imager.sampler is one of --imager diffusion, and --imager is"),
    ],
)
def test_an_option_that_there_is_not_names_the_one_that_was_meant(arguments, line):
    assert message(lambda: parsed("distill", *arguments.split())).startswith(line)


def test_numbers_and_switches_are_no_unknown_options():
    config = parsed("distill", "--mean", "0.5", "--std", "1e-3", "--imager.no-flip", "--no-skip-corrupt")
    assert config.mean == (0.5,) and not config.recipe.imager.flip
    for value in ("-0.5", "-inf", "-1e3"):
        assert message(lambda value=value: parsed("distill", "--mean", value)).startswith(f"--mean {float(value)} is")
    assert parsed("evaluate", "runs/x", "-1", "--stored").runs == (Path("runs/x"), Path("-1"))


# Choices and their settings


def test_a_method_decides_the_defaults_and_flags_change_them():
    assert recipe() == RECIPES["wmdd"]
    for form in (["--method", "ddoq"], ["--method=ddoq"]):
        config = parsed("distill", *form, "--ipc", 3)
        assert config.recipe == RECIPES["ddoq"] and (config.method, config.ipc) == ("ddoq", 3)
        assert distillation.record(config) == distillation.record(config_of("ddoq", ipc=3))


def test_the_last_of_several_values_counts():
    config = parsed("distill", "--method", "wmdd", "--ipc", 2, "--method=ddoq", "--ipc=3")
    assert (config.method, config.recipe, config.ipc) == ("ddoq", RECIPES["ddoq"], 3)
    assert recipe("--imager", "vae", "--imager", "nearest").imager == Nearest()
    assert commands.flag_value(["--grid=a", "--grid", "b", "--out", "c"], "--grid") == "b"
    assert commands.flag_value(["--out", "c", "--grid"], "--grid") is None


@pytest.mark.parametrize("method", ["wmdd", "ddoq"])
@pytest.mark.parametrize("swapped", [False, True])
def test_a_summarizer_keeps_the_space_and_the_weights_of_the_method(method, swapped):
    choice, setting = ["--summarizer", "quantization"], ["--summarizer.restarts", 8]
    made = recipe(*(setting + choice if swapped else choice + setting), "--method", method)
    usual = RECIPES[method]
    same = {"space": usual.summarizer.space, "weights": usual.summarizer.weights}
    assert made == Recipe(Quantization(restarts=8, **same), usual.imager)
    assert (
        same
        == {"wmdd": {"space": "features", "weights": "free"}, "ddoq": {"space": "latents", "weights": "sqrt"}}[method]
    )


def test_settings_lie_as_deep_as_they_like():
    made = recipe("--summarizer.k-means.restarts", 9, "--summarizer.newton.levels=3", "--imager.no-flip")
    usual = Barycenter()
    deep = {"k_means": {"restarts": 9}, "newton": {"levels": 3}}
    changed = {name: dataclasses.replace(getattr(usual, name), **values) for name, values in deep.items()}
    assert made == Recipe(dataclasses.replace(usual, **changed), Recover(flip=False))


def test_a_choice_that_is_there_already_keeps_its_settings():
    assert recipe("--method", "sre2l", "--imager", "recover", "--imager.steps", 3) == Recipe(
        NoAtoms(), dataclasses.replace(RECIPES["sre2l"].imager, steps=3)
    )


def test_labels_are_chosen_inside_of_each_protocol():
    for program in ("evaluate", "relabel", "scores"):
        config = parsed(
            program, "--soft.labels", "hard", "--soft.labels.smoothing", 0.1, "--wmdd.labels.temperature", 4
        )
        assert config.soft.labels == HardLabels(smoothing=0.1)
        assert config.wmdd.labels == SoftLabels(temperature=4.0)
        assert config.ddoq == DEFAULTS[program]([]).ddoq and config.hard == DEFAULTS[program]([]).hard
        config = parsed(program, "--dd-ranking.labels=hard", "--hard.labels", "soft", "--soft.labels.temperature=5")
        assert config.dd_ranking.labels == HardLabels() and config.hard.labels == SoftLabels()
        assert config.soft.labels == SoftLabels(temperature=5.0)
        assert config.protocol("soft:plain").labels == config.soft.labels


def test_underscores_are_as_good_as_hyphens():
    written = ["--imager.learning_rate", 0.5, "--image_size=9", "--teacher_train.epochs", 2]
    assert parsed("distill", *written) == parsed("distill", *(str(part).replace("_", "-") for part in written))
    assert parsed("evaluate", "--dd_ranking.labels", "hard").dd_ranking.labels == HardLabels()


# Flags of earlier versions

# As they were, and as they are called now.
RENAMED = [
    ("--recover.steps 12", "--imager.steps 12"),
    ("--recover.steps=12 --recover.learning-rate=0.5", "--imager.steps=12 --imager.learning-rate=0.5"),
    ("--recover.min_scale 1 --recover.roll 0.1", "--imager.min-scale 1 --imager.roll 0.1"),
    ("--recover.no-flip --recover.no-weighted-moments", "--imager.no-flip --imager.no-weighted-moments"),
    ("--method sre2l --recover.weighted-moments", "--method sre2l --imager.weighted-moments"),
    ("--method medoid --images recover --recover.start noise", "--method medoid --imager recover --imager.start noise"),
    ("--atoms quantization", "--summarizer quantization"),
    ("--atoms=clvq --weights=sqrt", "--summarizer clvq --summarizer.weights sqrt"),
    ("--weights uniform", "--summarizer.weights uniform"),
    ("--method ddoq --weights w", "--method ddoq --summarizer.weights free"),
    ("--images real", "--imager nearest"),
    ("--method ddoq --images=real", "--method ddoq --imager nearest"),
    ("--method ddoq --images vae", "--method ddoq --imager vae"),
    ("--space latents --images diffusion", "--summarizer.space latents --imager diffusion"),
    ("--method ddoq --diffusion.steps 3 --diffusion.strength=0.3",
     "--method ddoq --imager.steps 3 --imager.strength 0.3"),
    ("--method d4m --diffusion.sampler x --diffusion.guidance 2",
     "--method d4m --imager.sampler x --imager.guidance 2"),
    ("--method rded --crops.pool 30 --crops.parts=4", "--method rded --imager.pool 30 --imager.parts 4"),
    ("--images crops --atoms none --crops.crops 2", "--imager crops --summarizer none --imager.crops 2"),
    ("--method ddoq --atoms barycenter --weights uniform",
     "--method ddoq --summarizer barycenter --summarizer.weights uniform"),
    # Both in one command.
    ("--atoms quantization --summarizer.restarts 8 --recover.steps=3 --imager.no-flip",
     "--summarizer quantization --summarizer.restarts 8 --imager.steps 3 --imager.no-flip"),
    ("--summarizer quantization --weights uniform --images recover --imager.steps 3",
     "--summarizer quantization --summarizer.weights uniform --imager recover --imager.steps 3"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new"), RENAMED)
def test_flags_of_earlier_versions_mean_what_they_meant(old, new):
    made = parsed("distill", *old.split())
    assert made == parsed("distill", *new.split())
    assert made.recipe != RECIPES[made.method]


def test_what_the_combinations_of_earlier_versions_are():
    assert recipe("--atoms", "quantization") == Recipe(Quantization(), Recover())
    assert recipe("--method", "ddoq", "--images", "real").imager == Nearest()
    assert recipe("--method", "ddoq", "--images", "vae", "--weights", "free") == Recipe(
        Quantization(space="latents", weights="free"), Vae()
    )
    combined = ["--method", "ddoq", "--atoms", "barycenter", "--weights", "uniform"]
    assert recipe(*combined) == Recipe(Barycenter(space="latents", weights="uniform"), Diffusion())


# The settings of each imager in the earlier version, with other values than their defaults.
OLD_SETTINGS = [
    ("wmdd", Recover(
        feature_weight=0.5, moment_weight=0.25, cross_entropy_weight=0.125, mean_weight=2.0, moments="global",
        weighted_moments=False, start="noise", steps=7, learning_rate=0.5, schedule="plateau", anneal=3, coarse=0.5,
        min_scale=0.25, flip=False, roll=0.125, remat="never",
    )),
    ("ddoq", Diffusion(sampler="ddpm", steps=7, strength=0.25, guidance=2.0, transport=0.5)),
    ("rded", Crops(pool=7, crops=3, parts=9, min_scale=0.25)),
]  # fmt: skip


@pytest.mark.parametrize(("method", "imager"), OLD_SETTINGS)
def test_every_setting_of_an_imager_has_its_old_flag(method, imager):
    head, arguments = IMAGERS.name_of(imager), []
    for item in dataclasses.fields(imager):
        flag, value = item.name.replace("_", "-"), getattr(imager, item.name)
        if value != item.default:
            arguments += [f"--{head}.no-{flag}"] if value is False else [f"--{head}.{flag}", value]
    assert recipe("--method", method, *arguments).imager == imager
    assert len(arguments) > len(dataclasses.fields(imager))


def test_protocols_of_earlier_versions():
    for program in ("evaluate", "relabel", "scores"):
        old = ["--soft.temperature", 5, "--dd-ranking.temperature=2", "--wmdd.weights", "w", "--hard.labels", "soft"]
        new = ["--soft.labels.temperature", 5, "--dd-ranking.labels.temperature", 2, "--wmdd.weights", "free"]
        assert parsed(program, *old, "--hard.temperature", 3) == parsed(
            program, *new, "--hard.labels", "soft", "--hard.labels.temperature", 3
        )
        assert parsed(program, *old).soft.labels == SoftLabels(temperature=5.0)


def test_a_flag_that_has_nothing_to_set_names_the_new_one(refused, tmp_path):
    out = ["--out", tmp_path / "x"]
    for arguments, old, new, choice in (
        (["distill", "--method", "ddoq", "--recover.steps", 3, *out], "--recover.steps", "--imager.steps", "recover"),
        (["distill", "--recover.no-flip", "--images=real", *out], "--recover.no-flip", "--imager.no-flip", "recover"),
        (["distill", "--diffusion.strength=0.3", *out], "--diffusion.strength", "--imager.strength", "diffusion"),
        (["distill", "--method", "medoid", "--crops.pool", 3, *out], "--crops.pool", "--imager.pool", "crops"),
    ):
        line = refused(*arguments)
        assert f"{old} belongs to --imager {choice}" in line and f"called {new} now" in line
    line = refused("evaluate", tmp_path, "--hard.temperature", 5)
    assert "called --hard.labels.temperature now" in line and "--hard.labels is hard" in line


def test_flags_of_other_programs_are_left_alone(program):
    # Here `space` is a field of its own, and there is no imager.
    assert flags.parse(ot_rates.OtConfig(), ["--space", "latents"]).space == "latents"
    status, _, err = program("train", "--recover.steps", 3)
    assert status == 2 and "--recover.steps" in err


# Names of one's own

MODULE = """
import dataclasses
import jaxdd


@dataclasses.dataclass(frozen=True)
class Mean(jaxdd.Summarizer):
    "Means."
    power: float = 2.0
    "Of the mean."


@dataclasses.dataclass(frozen=True)
class Needy(jaxdd.Summarizer):
    power: float = dataclasses.field(kw_only=True)


@dataclasses.dataclass(frozen=True)
class Grey(jaxdd.Recover):
    level: int = 3


@dataclasses.dataclass(frozen=True)
class Noisy(jaxdd.Labelling):
    rate: float = 0.5


def network(size):
    return jaxdd.nn.get("convnet4", size.num_classes, size.image_size, 8)


def stripes(image_size, channels):
    raise jaxdd.InputError("stripes were opened")


MINE = jaxdd.Recipe(Mean(power=3.0), jaxdd.Nearest())
"""
REGISTERS = """
@jaxdd.SUMMARIZERS.register("mean-of-{name}")
@dataclasses.dataclass(frozen=True)
class Registered(jaxdd.Summarizer):
    size: int = 1


jaxdd.RECIPES.register("method-of-{name}", jaxdd.Recipe(Registered(size=5), jaxdd.Nearest()))
"""
numbers = itertools.count()


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module that can be imported, and has not been; what it registers is forgotten afterwards."""
    name = f"module_of_flags_{next(numbers)}"
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / f"{name}.py").write_text(MODULE + REGISTERS.format(name=name))
    monkeypatch.syspath_prepend(folder)
    for names in (SUMMARIZERS, IMAGERS, LABELLINGS, RECIPES, MODELS, SOURCES):
        monkeypatch.setattr(names, "_known", dict(names._entries))
    monkeypatch.setattr(registry, "_TRUSTED", set())
    yield name
    sys.modules.pop(name, None)


def test_a_summarizer_by_its_path(module):
    for form in ([f"--summarizer={module}:Mean"], ["--summarizer", f"{module}:Mean"], ["--atoms", f"{module}:Mean"]):
        made = recipe(*form, "--summarizer.power", 4, "--method", "ddoq")
        kind = sys.modules[module].Mean
        assert made == Recipe(kind(space="latents", weights="sqrt", power=4.0), Diffusion())
    assert SUMMARIZERS.name_of(made.summarizer) == f"{module}:Mean"


def test_an_imager_by_its_path(module):
    made = recipe("--imager", f"{module}:Grey", "--imager.level", 5, "--imager.steps", 7).imager
    assert made == sys.modules[module].Grey(level=5, steps=7)
    assert recipe("--images", f"{module}:Grey").imager == sys.modules[module].Grey()


def test_labels_by_their_path(module):
    config = parsed("evaluate", "--soft.labels", f"{module}:Noisy", "--soft.labels.rate", 0.25)
    assert config.soft.labels == sys.modules[module].Noisy(rate=0.25)


def test_a_method_by_its_path(module):
    config = parsed("distill", "--method", f"{module}:MINE", "--summarizer.power", 5)
    kind = sys.modules[module].Mean
    assert config.method == f"{module}:MINE" and config.recipe == Recipe(kind(power=5.0), Nearest())
    assert RECIPES.find(f"{module}:MINE") == Recipe(kind(power=3.0), Nearest())


@pytest.mark.parametrize(
    ("program", "flag", "kind", "name"),
    [
        ("distill", "--model", MODELS, "network"),
        ("train", "--model", MODELS, "network"),
        ("demo", "--teacher.model", MODELS, "network"),
        ("evaluate", "--students", MODELS, "network"),
        ("distill", "--dataset", SOURCES, "stripes"),
        ("scores", "--dataset", SOURCES, "stripes"),
        ("evaluate", "--baselines", RECIPES, "MINE"),
        ("demo", "--methods", RECIPES, "MINE"),
    ],
)
def test_a_name_on_the_command_line_is_imported(module, program, flag, kind, name):
    path = f"{module}:{name}"
    several = flag.endswith("s")
    config = parsed(program, flag, *["random", path] if several and kind is RECIPES else [path])
    assert kind.find(path) is getattr(sys.modules[module], name)
    for part in flag.removeprefix("--").split("."):
        config = getattr(config, part)
    assert path in (config if several else [config])


def test_a_network_and_a_dataset_of_ones_own_are_used(module, refused, tmp_path):
    line = refused("train", "--dataset", f"{module}:stripes", "--out", tmp_path / "x")
    assert line == "error: stripes were opened"
    # The digits are too small for the network that it asks for.
    line = refused("train", "--model", f"{module}:network", "--out", tmp_path / "x")
    assert "convnet4" in line and "8 pixels" in line


def test_a_plug_in_registers_names(module):
    for form in (["--plugin", module], [f"--plugin={module}"]):
        assert recipe(*form, "--summarizer", f"mean-of-{module}", "--summarizer.size", 2).summarizer.size == 2
        config = parsed("distill", "--ipc", 3, *form, "--method", f"method-of-{module}")
        assert config.recipe.summarizer == sys.modules[module].Registered(size=5) and config.ipc == 3


def test_a_plug_in_may_be_a_path_and_there_may_be_several(module):
    assert module not in sys.modules
    rest = flags.load_plugins(["--plugin", f"{module}:Mean", "--ipc=3", "--plugin", "json"])
    assert rest == ["--ipc", "3"] and module in sys.modules
    # Only that path is allowed where a file names it.
    assert SUMMARIZERS.find(f"{module}:Mean") is sys.modules[module].Mean
    refusal = flags.as_flags(message(lambda: IMAGERS.find(f"{module}:Grey")), distill.default([]))
    assert f"--plugin {module}:Grey" in refusal


# Names that are not there


def test_unknown_names_are_one_line(refused, tmp_path):
    out = ["--out", tmp_path / "x"]
    for arguments, words in (
        (["distill", "--summarizer", "quantisation"], "unknown summarizer 'quantisation'; use quantization"),
        (["distill", "--atoms=quantisation"], "unknown summarizer 'quantisation'; use quantization"),
        (["distill", "--imager", "recovery"], "unknown imager 'recovery'; use recover"),
        (["distill", "--images", "pictures"], "unknown imager 'pictures'"),
        (["distill", "--method", "wmmd", "--recover.steps", 3], "unknown method 'wmmd'; use mmd or wmdd"),
        (["distill", "--method", "zzz"], "unknown method 'zzz'; use wmdd or wmdd-plus or sre2l or "),
        # Before a teacher is trained.
        (["distill", "--imager.sides", 0.875, 1], "the model takes no images of 7 pixels instead of 8"),
        (["distill", "--imager.coarse", 0.5], "the model takes no images of 4 pixels instead of 8"),
        (["distill", "--summarizer"], "--summarizer has no name after it; use barycenter, "),
        (["distill", "--space", "pixels"], "not of pixels; use --summarizer.space features"),
        (["distill", "--weights", "heavy"], "unknown --summarizer.weights 'heavy'"),
        (["train", "--model", "resnet81"], "unknown model 'resnet81'; use resnet18"),
        (["distill", "--plugin", "no_such_module_here"], "cannot import --plugin 'no_such_module_here'"),
        (["distill", "--plugin"], "cannot import --plugin '--out'"),
        (["distill", "--summarizer", "no_such_module_here:Mean"], "cannot import 'no_such_module_here:Mean'"),
        (["train", "--model", "no_such_module_here:net"], "cannot import 'no_such_module_here:net'"),
        (["distill", "--method", "json:WMDD"], "module json has no 'WMDD'; give package.module:Name"),
    ):
        assert words in refused(*arguments, *out), arguments
    # Nothing that is less like it is suggested beside the name that was meant.
    assert refused("distill", "--method", "wmddd", *out) == "error: unknown method 'wmddd'; use wmdd"
    assert "unknown labels 'firm'; use hard or soft" in refused("evaluate", tmp_path, "--soft.labels", "firm")
    assert "--soft.labels has no name after it; use hard, soft" in refused("evaluate", tmp_path, "--soft.labels")
    assert "cannot import --plugin ''" in refused("evaluate", tmp_path, "--plugin")


def test_what_is_no_such_thing_is_one_line(refused, tmp_path, module):
    out = ["--out", tmp_path / "x"]
    for arguments, *words in (
        (["--summarizer", f"{module}:MINE"], f"summarizer '{module}:MINE'", "subclass of Summarizer"),
        (["--summarizer", f"{module}:Grey"], f"summarizer '{module}:Grey'", "subclass of Summarizer"),
        (["--imager", f"{module}:Mean"], f"imager '{module}:Mean'", "subclass of Imager"),
        (["--imager", f"{module}:jaxdd"], f"imager '{module}:jaxdd'", "subclass of Imager"),
        (["--summarizer", f"{module}:Needy"], f"summarizer '{module}:Needy'", "'power'"),
        (["--method", f"{module}:Mean"], f"method '{module}:Mean' is a type", "Recipe"),
        (["--model", f"{module}:MINE"], f"model '{module}:MINE' is a Recipe", "Callable"),
        (["--dataset", f"{module}:jaxdd"], f"dataset '{module}:jaxdd' is a module", "Callable"),
    ):
        line = refused("distill", *arguments, *out)
        assert all(part in line for part in words), line


# Messages and help


def test_messages_of_the_library_carry_flags():
    config = distill.default([])
    message = "`ipc` 0 with `imager.min_scale` 2, `memory_gib`, `summarizer`, `weights`, `recipe` or `cell_masses`"
    assert flags.as_flags(message, config) == (
        "--ipc 0 with --imager.min-scale 2, --memory-gib, --summarizer, --summarizer.weights, recipe or cell_masses"
    )
    # Several protocols have weights, and it is not known which is meant.
    assert flags.as_flags("`weights` or `seeds`", evaluate.EvaluateConfig()) == "weights or --seeds"
    assert flags.as_flags("`model` or `plugin`", demo.DemoConfig()) == "--teacher.model or --plugin"
    # Before there is a config, nobody but the program can have named anything.
    assert flags.as_flags("give `grid` a file", None) == "give --grid a file"


@pytest.mark.slow
def test_bad_settings_are_named_by_their_flags(refused, tmp_path):
    out = ["--out", tmp_path / "x"]
    for arguments, words in (
        (["--ipc", 0], "--ipc 0"),
        (["--recover.steps", 0], "--imager.steps 0"),
        (["--imager.start", "nowhere"], "unknown --imager.start 'nowhere'; use real or crops or noise"),
        (["--imager.feature-weight=0", "--imager.moment-weight=0"], "--imager.feature-weight 1"),
        (["--summarizer", "none"], "--imager.feature-weight 0"),
        (["--method", "rded", "--imager.min-scale", 0], "--imager.min-scale 0.0"),
        (["--method", "rded", "--crops.pool", 0], "--imager.pool 0"),
        (["--method", "rded", "--summarizer", "random"], "--summarizer none"),
        (["--imager", "nearest", "--summarizer", "none"], "--summarizer NoAtoms"),
        (["--method", "ddoq", "--imager", "recover"], "--summarizer.space features"),
        (["--method", "random", "--ipc", 9999], "lower --ipc"),
        (["--mean", 0.5], "--mean and --std"),
        (["--compute", "float8"], "unknown --compute 'float8'"),
        (["--model", "convnet4"], "a larger --image-size"),
    ):
        assert words in refused("distill", *arguments, *out), arguments
    assert "unknown --what 'unet'" in refused("train", "--what", "unet", *out)
    # Two halvings of an odd side.
    assert "use another --image-size" in refused("train", "--what", "vae", "--image-size", 9, *out)


@pytest.mark.parametrize("arguments", [["distill"], ["distill", "--method", "ddoq"]])
def test_help_lists_the_choices(program, module, arguments):
    status, out, _ = program(*arguments, "--plugin", module, "--help-all")
    words = " ".join(out.replace("│", " ").split())
    assert status == 0
    assert f"--summarizer: {', '.join(SUMMARIZERS)}, or package.module:Name" in words
    assert f"--imager: {', '.join(IMAGERS)}, or package.module:Name" in words
    assert f"mean-of-{module}" in words and "quantization" in words and "diffusion" in words
    assert "--summarizer.space" in words and "--imager.steps" in words
    assert ("--imager.strength" in words) == ("ddoq" in arguments)


@pytest.mark.parametrize("name", ["distill", "evaluate", "relabel", "train", "demo", "scores"])
def test_the_short_help_has_every_setting_or_its_group(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        parsed(name, "--help")
    out = capsys.readouterr().out
    assert ended.value.code == 0 and len(out.splitlines()) < 70 and "--help-all shows each of them" in out
    assert all(len(line) <= 80 for line in out.splitlines() if line.startswith("  --"))
    words = {word.strip(",.") for word in out.split()}
    for flag in flags.flags_of(DEFAULTS[name]([])):
        flag = flag.replace("_", "-")
        table = flag.partition(".")[0]
        assert words & {f"--{flag}", f"--{table}.*", f"--{table}", flag.upper()} or f"--{table}.*" in out, flag


def test_the_short_help_says_what_the_settings_mean(program):
    status, out, err = program("distill", "--help")
    words = " ".join(out.split())
    assert status == 0 and err == "" and out.startswith("usage: jaxdd distill [--SETTING VALUE ...]")
    assert "--ipc Images per class. (default: 1)" in words and "Side of the images in pixels" in words
    assert "--holdout Share of the train images of each class" in words
    assert "--teacher-train.* How a classifier is trained." in words and "--imager.steps" not in words
    assert f"--imager {', '.join(IMAGERS)}, or package.module:Name (default: recover)." in words
    assert "(default: medoid)" in " ".join(program("distill", "--method", "medoid", "-h")[1].split())
    out = program("evaluate", "--help")[1]
    assert out.startswith("usage: jaxdd evaluate RUNS ... [") and "--soft.*, --wmdd.*" in out
    # A program with few settings shows all of them.
    assert "--license" in program("export", "--help")[1] and "--license" in program("export", "--help-all")[1]


def test_help_shows_the_settings_of_what_is_chosen(program, module):
    _, out, _ = program("distill", "--summarizer", f"{module}:Mean", "--imager", "crops", "--help-all")
    assert "--summarizer.power" in out and "--imager.pool" in out
    assert "--summarizer.rounds" not in out and "--imager.steps" not in out
    _, out, _ = program("evaluate", "--hard.labels", "soft", "--help-all")
    assert "--hard.labels.temperature" in out and "--hard.labels: hard, soft, mse, fixed, or package.module:Name" in out


def test_a_choice_is_forgotten_with_its_settings():
    assert "--summarizer.restarts" in message(lambda: recipe("--summarizer", "none", "--summarizer.restarts", 8))
    assert recipe("--summarizer", "clvq", "--summarizer.epochs", 2).summarizer == Clvq(epochs=2)


def test_messages_know_a_flag_by_the_name_that_it_has_on_the_command_line():
    assert "protocol" in flags.flags_of(relabel.RelabelConfig()) and "protocol_name" not in flags.flags_of(
        relabel.RelabelConfig()
    )
    assert flags.as_flags("`protocol` is wrong", relabel.RelabelConfig()) == "--protocol is wrong"
