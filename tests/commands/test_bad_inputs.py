"""A matrix of bad inputs: each ends in status 2 and one line that names the place, never in a traceback.

An entry is a function that damages something and calls a program, and words of the line. The lines are written to
bad_inputs.txt in the temporary folder of the session, and printed by ``pytest -s``.
"""

import json
import shutil
import signal
from collections import namedtuple

import numpy as np
import pytest
from bad_inputs import (
    DROP,
    OUT,
    SMALL,
    STUDENTS,
    Box,
    distill,
    flags,
    flipped,
    grid,
    header,
    in_run,
    index,
    labels,
    picture,
    published,
    replaced,
    resnet,
    shard,
    teacher,
    tokens,
    weights,
)
from golden_helpers import HERE

from jaxdd import pretrained
from jaxdd.students.rows import row

HUGE = 10**12
DIGITS = "9" * 5000
DEEP = "[" * 100_000
NESTED = '{"a": ' * 200 + "1" + "}" * 200

FLAGS = {
    "ipc is no number": (distill("--ipc", "abc"), "error: --ipc: 'abc' is no whole number; see --help"),
    "ipc is missing": (flags("distill", "--out", OUT, "--ipc"), "error: --ipc has no value after it; see --help"),
    "ipc is a fraction": (distill("--ipc", 1.5), "--ipc: '1.5' is no whole number"),
    "ipc is zero": (distill("--ipc", 0), "--ipc 0 is no valid number of images per class"),
    "ipc is negative": (distill("--ipc", -1), "--ipc -1 is out of range"),
    "ipc is huge": (distill("--ipc", HUGE), "--ipc 1000000000000 is out of range"),
    "ipc has 5000 digits": (
        distill("--ipc", DIGITS),
        "9... has too many digits",
    ),
    "epochs are huge": (
        distill("--teacher-train.epochs", HUGE),
        "--teacher-train.epochs 1000000000000 is out of range",
    ),
    "epochs are zero": (
        distill("--teacher-train.epochs", 0),
        "train.epochs 0 and train.batch_size 128: use 1 or more of both",
    ),
    "batch size is huge": (
        distill("--teacher-train.batch-size", HUGE),
        "--teacher-train.batch-size 1000000000000 is out of range",
    ),
    "steps are huge": (distill("--imager.steps", HUGE), "--imager.steps 1000000000000 is out of range"),
    "width is huge": (distill("--width", HUGE), "--width 1000000000000 is out of range"),
    "width is zero": (distill("--width", 0), "--width 0 is out of range"),
    "image size is huge": (distill("--image-size", HUGE), "--image-size 1000000000000 is out of range"),
    "image size is zero": (distill("--image-size", 0), "--image-size 0 is out of range"),
    "seed is negative": (distill("--seed", -1), "--seed -1 is out of range"),
    "seed is huge": (distill("--seed", 2**64), "--seed 18446744073709551616 is out of range"),
    "learning rate is NaN": (distill("--recover.learning-rate", "nan"), "--imager.learning-rate nan is not finite"),
    "learning rate is infinite": (distill("--imager.learning-rate", "inf"), "--imager.learning-rate inf is not finite"),
    "learning rate is negative": (
        distill("--teacher-train.learning-rate", -0.1),
        "--teacher-train.learning-rate -0.1 is out of range",
    ),
    "learning rate overflows": (
        distill("--imager.learning-rate", 1e39),
        "--imager.learning-rate 1e+39 is out of range",
    ),
    "weight is NaN": (distill("--imager.feature-weight", "nan"), "--imager.feature-weight nan is not finite"),
    "guidance is huge": (
        distill("--method", "ddoq", "--diffusion.guidance", 1e30),
        "--imager.guidance 1e+30 is out of range",
    ),
    "strength is NaN": (distill("--method", "ddoq", "--imager.strength", "nan"), "--imager.strength nan is not finite"),
    "warmup is no share": (distill("--teacher-train.warmup", 2), "--teacher-train.warmup 2.0 is out of range"),
    "min scale is NaN": (
        distill("--teacher-train.augment.min-scale", "nan"),
        "--teacher-train.augment.min-scale nan is not finite",
    ),
    "memory is NaN": (distill("--memory-gib", "nan"), "--memory-gib nan is not finite"),
    "memory is infinite": (distill("--memory-gib", "inf"), "--memory-gib inf is not finite"),
    "memory is huge": (distill("--memory-gib", 1e30), "--memory-gib 1e+30 is out of range"),
    "holdout is NaN": (distill("--holdout", "nan"), "--holdout nan is not finite"),
    "holdout is everything": (distill("--holdout", 1), "--holdout 1.0 of the train images"),
    "mean is NaN": (distill("--mean", "nan", "--std", 1), "--mean nan is not finite"),
    "std is zero": (distill("--mean", 0, "--std", 0), "--std (0.0,)"),
    "std without mean": (distill("--std", 1), "--mean and --std must be given together"),
    "channels are five": (distill("--channels", 5), "channels 5"),
    "restarts are huge": (
        distill("--summarizer", "quantization", "--summarizer.restarts", HUGE),
        "--summarizer.restarts 1000000000000 is out of range",
    ),
    "tolerance is NaN": (
        distill("--summarizer", "quantization", "--summarizer.tolerance", "nan"),
        "--summarizer.tolerance nan is not finite",
    ),
    "epsilon is negative": (
        distill("--summarizer", "sinkhorn", "--summarizer.epsilon", -1),
        "--summarizer.epsilon -1.0 is out of range",
    ),
    "pool is huge": (distill("--method", "rded", "--crops.pool", HUGE), "--imager.pool 1000000000000 is out of range"),
    "parts are no square": (
        distill("--method", "rded", "--imager.parts", 3),
        "--imager.parts 3 is not a square number",
    ),
    "latent images are huge": (
        flags("train", "--what", "vae", "--latent.vae-train.images", 10**15, "--out", OUT),
        "--latent.vae-train.images 1000000000000000 is out of range",
    ),
    "latent channels are huge": (
        flags("train", "--what", "vae", "--latent.channels", 10**6, "--out", OUT),
        "--latent.channels 1000000 is out of range",
    ),
    "a flag twice, the last one bad": (distill("--ipc", 1, "--ipc", "x"), "--ipc: 'x' is no whole number"),
    "an image size in powers": (distill("--image-size", "1e3"), "--image-size: '1e3' is no whole number; see --help"),
    "a rate in words": (distill("--imager.learning-rate", "x"), "--imager.learning-rate: 'x' is no number; see --help"),
    "a mean in words": (distill("--mean", 0.5, "a"), "--mean: 'a' is no number; see --help"),
    "no truth": (distill("--flip", "maybe"), "--flip: 'maybe' is none of False, None, True"),
    "an unknown flag": (distill("--nonsense", 3), "error: unknown option --nonsense; see --help"),
    "a word without flag": (distill("nonsense"), "error: no option takes 'nonsense'; see --help"),
    "a flag with a line break": (distill("--a\nb", 3), "unknown option --a\\nb; see --help"),
    "unknown method": (distill("--method", "wmmd"), "unknown method 'wmmd'"),
    "empty method": (distill("--method", ""), "unknown method ''"),
    "unknown model": (distill("--model", "resnet81"), "unknown model 'resnet81'"),
    "unknown summarizer": (distill("--summarizer", "mean"), "unknown summarizer 'mean'"),
    "unknown optimizer": (distill("--teacher-train.optimizer", "adam", *SMALL), "unknown optimizer 'adam'"),
    "unknown mix": (distill("--teacher-train.augment.mix", "cutout", *SMALL), "unknown mix 'cutout'"),
    "unknown schedule": (
        distill("--imager.schedule", "exponential", *SMALL),
        "unknown --imager.schedule 'exponential'",
    ),
    "unknown space": (distill("--space", "pixels"), "--imager recover takes atoms of features, not of pixels"),
    "unknown stem": (distill("--stem", "large"), "unknown stem 'large' for convnet3"),
    "a plugin that is relative": (
        distill("--plugin", ".x"),
        "cannot import --plugin '.x': the 'package' argument is required to perform a",
    ),
    "a plugin with dots": (distill("--plugin", "a..b"), "cannot import --plugin 'a..b': No module named 'a'"),
    "a model with an empty module": (distill("--model", "a..b:c"), "cannot import 'a..b:c': No module named 'a'"),
    "dataset is empty": (distill("--dataset", ""), "dataset ''"),
    "dataset is a null byte": (distill("--dataset", "a\0b"), "dataset 'a\\x00b'"),
    "dataset has a line break": (distill("--dataset", "a\nb"), "dataset 'a\\nb'"),
    "dataset is very long": (distill("--dataset", "a" * 5000), "--dataset has 5000 characters"),
    "dataset is not UTF-8": (distill("--dataset", "nowhere/\udcff"), "nowhere/\\udcff"),
    "dataset is a device": (distill("--dataset", "/dev/null"), "/dev/null"),
    "dataset is a folder without train": (
        lambda box: box.call("distill", "--dataset", box.tmp, "--out", OUT),
        "has no train folder",
    ),
    "out is empty": (flags("distill", "--out", ""), "output folder . exists and is not empty"),
    "out is a file": (
        lambda box: box.call("distill", "--out", box.run / "config.json"),
        "config.json is a file; choose another --out",
    ),
    "out is in a file": (
        lambda box: box.call("distill", "--out", box.run / "config.json" / "x"),
        "config.json/x: Not a directory",
    ),
    "out is not empty": (
        lambda box: box.call("distill", "--out", box.run / "distilled" / "train"),
        "train exists and is not empty",
    ),
    "out holds another run": (
        lambda box: box.call("distill", "--out", box.run),
        "finished run of other settings: --width was 8 and is not given now, --method was random and is wmdd now, ",
    ),
    "out has too long a name": (
        lambda box: box.call("distill", "--out", box.tmp / ("a" * 300), *SMALL),
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    ),
    "out has a null byte": (
        lambda box: box.call("distill", "--out", f"{box.tmp}/a\0b", *SMALL),
        "a path has a null byte, which no file has",
    ),
    "out is a device": (flags("distill", "--out", "/dev/null"), "output folder /dev/null is a file"),
    "teacher is nowhere": (distill("--teacher", "/nowhere"), "no teacher at /nowhere"),
    "teacher is a file": (distill("--teacher", __file__), "test_bad_inputs.py"),
    "data-dir is a file": (distill("--dataset", "mnist", "--data-dir", __file__), "'mnist'"),
    "what is unknown": (flags("train", "--what", "gan", "--out", OUT), "unknown --what 'gan'"),
    "pretrained is nowhere": (
        flags("train", "--pretrained", "/nowhere", "--model", "resnet18", "--out", OUT),
        "/nowhere is no folder",
    ),
    "pretrained is empty of weights": (
        lambda box: box.call("train", "--pretrained", box.run, "--model", "resnet18", "--out", OUT),
        "no *.safetensors in",
    ),
    "latent place is nowhere": (
        lambda box: box.call(
            "distill", "--method", "ddoq", "--teacher", box.run / "teacher", "--latent.place", "/nowhere", "--out", OUT
        ),
        "/nowhere is no folder",
    ),
    "no table": (flags("tables"), "unknown table ''"),
    "unknown table": (flags("tables", "nonsense"), "unknown table 'nonsense'"),
    "a table out of its folder": (flags("tables", "../../x"), "unknown table '../../x'"),
    "a grid that is nowhere": (flags("tables", "wmdd-main", "--grid", "nowhere"), "no grid nowhere"),
    "a grid that is empty": (
        flags("tables", "wmdd-main", "--grid", ""),
        "no grid .; give --grid a file or cifar10, imagenette64",
    ),
    "a grid out of its folder": (flags("tables", "wmdd-main", "--grid", "../../x"), "no grid ../../x"),
    "a grid that is a folder": (
        flags("tables", "wmdd-main", "--grid", "/tmp"),
        "no grid /tmp; give --grid a file or cifar10, imagenette64",
    ),
    "ot with bad counts": (flags("tables", "ot", "--counts", 0, "--out", OUT), "--counts (0,) is too short"),
    "ot with huge counts": (
        flags("tables", "ot", "--counts", HUGE, "--out", OUT),
        "--counts 1000000000000 is out of range",
    ),
    "no run folder": (flags("evaluate"), "no run folder; use: jaxdd evaluate runs/x"),
    "a run folder that is nowhere": (flags("evaluate", "/nowhere"), "no distilled dataset in /nowhere"),
    "a report on nothing": (flags("report"), "no run folder; use: jaxdd report runs/x"),
    "a report on a file": (flags("report", __file__), "test_bad_inputs.py has no config.json"),
    "a report on an empty name": (flags("report", ""), ". has no config.json"),
    "labels of nowhere": (flags("relabel", "/nowhere"), "no distilled dataset in /nowhere"),
    "demo without methods": (flags("demo", "--out", OUT, "--methods"), "--methods is empty"),
    "demo with an unknown method": (
        flags("demo", "--out", OUT, "--methods", "wmmd", "--teacher.width", 8, "--teacher.teacher-train.epochs", 1),
        "unknown method 'wmmd'",
    ),
}


def rows(**changes):
    """An entry with results of one row, of which some values are changed."""
    known = row("random", "digits", 1, "convnet3", "hard", [0.5])
    return in_run("evaluation.json", json.dumps([known | changes]))


def evaluate(*arguments):
    return lambda box: box.call("evaluate", box.run, *STUDENTS, *arguments)


def relabel(*arguments):
    return lambda box: box.call("relabel", box.run, "--out", box.tmp / "labels", *arguments)


def _header_of(shape):
    """A change of a shard whose header says that it has this shape."""

    def damage(place):
        kind = np.lib.format.descr_to_dtype(np.lib.format.dtype_to_descr(np.load(place).dtype))
        with place.open("wb") as file:
            record = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, record)

    return damage


ON_A_RUN = {
    "unknown students": (evaluate("--students", "resnet19"), "unknown model 'resnet19'"),
    "students too large for the images": (
        evaluate("--students", "convnet6"),
        "convnet6 halves the image 6 times, but images are only 8 pixels wide",
    ),
    "no seeds": (evaluate("--seeds", 0), "--seeds 0 is no valid number of students"),
    "huge seeds": (evaluate("--seeds", HUGE), "--seeds 1000000000000 is out of range"),
    "huge full": (evaluate("--full", HUGE), "--full 1000000000000 is out of range"),
    "negative full": (evaluate("--full", -1), "--full -1 is out of range"),
    "unknown protocol": (evaluate("--protocols", "firm"), "unknown protocol 'firm'"),
    "a protocol with an empty change": (evaluate("--protocols", "hard:"), "unknown change of a protocol ''"),
    "an empty protocol": (evaluate("--protocols", ""), "unknown protocol ''"),
    "no protocols": (evaluate("--protocols"), "--protocols is empty"),
    "a baseline that makes pixels": (evaluate("--baselines", "wmdd"), "--baselines wmdd makes new pixels"),
    "an unknown baseline": (evaluate("--baselines", "randm"), "unknown method 'randm'"),
    "a temperature of zero": (evaluate("--soft.labels.temperature", 0), "temperature 0.0 is out of range"),
    "a temperature that is NaN": (
        evaluate("--soft.labels.temperature", "nan"),
        "--soft.labels.temperature nan is not finite",
    ),
    "smoothing that is NaN": (evaluate("--hard.labels.smoothing", "nan"), "--hard.labels.smoothing nan is not finite"),
    "students for huge epochs": (
        evaluate("--soft.train.epochs", HUGE),
        "--soft.train.epochs 1000000000000 is out of range",
    ),
    "a rate of NaN": (evaluate("--hard.train.learning-rate", "nan"), "--hard.train.learning-rate nan is not finite"),
    "a mix of NaN": (evaluate("--soft.train.augment.alpha", "nan"), "--soft.train.augment.alpha nan is not finite"),
    "a file of rows in a folder that is nowhere": (
        evaluate("--out", "/nowhere/rows.json"),
        "the folder /nowhere of --out does not exist",
    ),
    "a file of rows that is a folder": (
        lambda box: [
            (box.tmp / "rows.json").mkdir(),
            box.call("evaluate", box.run, *STUDENTS, "--out", box.tmp / "rows.json"),
        ][1],
        "/rows.json is a folder; give a file",
    ),
    "unknown precision": (evaluate("--compute", "float8"), "unknown --compute 'float8'"),
    "unknown form of labels": (relabel("--form", "int4"), "labels of --form 'int4' cannot be stored"),
    "labels of zero epochs": (relabel("--epochs", 0), "labels for 0 epochs cannot be stored"),
    "labels of huge epochs": (relabel("--epochs", HUGE), "--epochs 1000000000000 is out of range"),
    "labels that no disk holds": (lambda box: _small_disk(box), "labels of 1.12e-06 GiB are larger than the disk of"),
    "no class in topk": (
        relabel("--form", "topk", "--top", 0, "--epochs", 1),
        "--top 0 of 10 classes cannot be stored",
    ),
    "more classes in topk than there are": (
        relabel("--form", "topk", "--top", 11, "--epochs", 1),
        "--top 11 of 10 classes cannot be stored",
    ),
    "labels of a hard protocol": (
        relabel("--protocol", "hard"),
        "--protocol 'hard' has hard labels, which need no teacher",
    ),
    "labels with a negative seed": (relabel("--seed", -1), "--seed -1 is out of range"),
    "labels in a folder that is nowhere": (
        lambda box: box.call("relabel", box.run, "--out", "/nowhere/x"),
        "cannot write to /nowhere",
    ),
    "labels over other files": (
        lambda box: box.call("relabel", box.run, "--out", box.run / "distilled"),
        "distilled exists and holds no labels",
    ),
    "padding is huge": (
        evaluate("--protocols", "hard", "--hard.train.augment.crop", "pad", "--hard.train.augment.pad", 1e30),
        "augment.pad",
    ),
    "two runs of other sizes": (lambda box: box.call("evaluate", box.run, box.tmp), "test_bad_input_is_one_line_two0"),
    "config is gone": (in_run("config.json", None), "run has no config.json"),
    "config is no JSON": (
        in_run("config.json", "{"),
        "config.json is no JSON or damaged: Expecting property name enclosed in double",
    ),
    "config is a list": (in_run("config.json", "[1]"), "config.json holds [1], not a record"),
    "config is nested deep": (in_run("config.json", DEEP), "config.json is nested too deep"),
    "config is nested": (in_run("config.json", NESTED), "config.json is nested more than 50 deep"),
    "config is not UTF-8": (in_run("config.json", b'{"a": "\xff"}'), "config.json is no text in UTF-8 (byte 7)"),
    "config is a folder": (in_run("config.json", "folder"), "run has no config.json"),
    "config is a pipe": (in_run("config.json", "pipe"), "run has no config.json"),
    "config is a loop": (in_run("config.json", "loop"), "run has no config.json"),
    "config has a number of 5000 digits": (
        in_run("config.json", f'{{"ipc": {DIGITS}}}'),
        "config.json is no JSON or damaged: a number has 5000 digits",
    ),
    "config has NaN": (
        in_run("config.json", '{"memory_gib": NaN}'),
        "config.json is no JSON or damaged: NaN is no number of JSON",
    ),
    "config has a key twice": (
        in_run("config.json", '{"ipc": 1, "ipc": 2}'),
        "config.json is no JSON or damaged: the key 'ipc' occurs twice",
    ),
    "config has no method": (in_run("config.json", {"method": DROP}), "config.json has no method"),
    "config has an unknown method": (in_run("config.json", {"method": "wmmd"}), "unknown method 'wmmd'"),
    "config has a method of another type": (
        in_run("config.json", {"method": ["wmdd"]}),
        "config.json: method = ['wmdd'] is no text",
    ),
    "config has no recipe": (in_run("config.json", {"recipe": 3}), "config.json: recipe = 3 is no table"),
    "config has a recipe without names": (
        in_run("config.json", {"recipe": {"summarizer": {}}}),
        "config.json: recipe.summarizer has no name",
    ),
    "config has an unknown summarizer": (
        in_run("config.json", {"recipe": {"summarizer": {"name": "mean"}}}),
        "config.json: unknown summarizer 'mean'",
    ),
    "config would import a module": (
        in_run("config.json", {"recipe": {"summarizer": {"name": "os:system"}}}),
        "config.json: summarizer 'os:system' is not registered, and a name read from a",
    ),
    "config has a dataset of another type": (
        in_run("config.json", {"dataset": 3}, "evaluate", *STUDENTS),
        "config.json: dataset = 3 is no text",
    ),
    "config has a huge image size": (
        in_run("config.json", {"image_size": HUGE}, "evaluate", *STUDENTS),
        "config.json: image_size 1000000000000 is out of range",
    ),
    "config has a text as image size": (
        in_run("config.json", {"image_size": "8"}, "evaluate", *STUDENTS),
        "config.json: image_size = '8' is no whole number",
    ),
    "config has infinite memory": (
        in_run("config.json", {"memory_gib": 1e308}, "evaluate", *STUDENTS),
        "config.json: memory_gib 1e+308 is out of range",
    ),
    "config has another dataset": (in_run("config.json", {"dataset": "nowhere"}, "evaluate", *STUDENTS), "'nowhere'"),
    "rows are no list": (in_run("evaluation.json", "{}"), "evaluation.json holds {}, not a list of rows"),
    "rows are numbers": (in_run("evaluation.json", "[1, 2]"), "evaluation.json, row 0 holds 1, not a record"),
    "rows lack keys": (in_run("evaluation.json", '[{"method": "a"}]'), "evaluation.json, row 0 has no dataset"),
    "rows have NaN": (
        in_run("evaluation.json", '[{"mean": NaN}]'),
        "evaluation.json is no JSON or damaged: NaN is no number of JSON",
    ),
    "rows have no accuracies": (rows(accuracies=[]), "evaluation.json, row 0 has no accuracies"),
    "rows have accuracies of two": (rows(accuracies=[2]), "evaluation.json, row 0: accuracies 2.0 is out of range"),
    "rows have a list as method": (rows(method=[]), "evaluation.json, row 0: method = [] is no text"),
    "rows are a pipe": (in_run("evaluation.json", "pipe"), "evaluation.json is no regular file"),
    "losses are no JSON": (
        in_run("metrics.jsonl", "{\n"),
        "metrics.jsonl, line 1 is no JSON or damaged: Expecting property name enclosed",
    ),
    "losses are a list": (in_run("metrics.jsonl", "[1]\n"), "metrics.jsonl, line 1: [1] are no losses of a step"),
    "losses are texts": (
        in_run("metrics.jsonl", '{"step": "1"}\n'),
        "metrics.jsonl, line 1: {'step': '1'} are no losses of a step",
    ),
    "losses have other terms": (
        in_run("metrics.jsonl", '{"step": 1, "a": 2}\n{"step": 2}\n'),
        "metrics.jsonl, line 2: {'step': 2} are no losses of a step",
    ),
    "losses have a huge step": (
        in_run("metrics.jsonl", '{"step": 1e300, "a": 2}\n'),
        "metrics.jsonl, line 1: {'step': 1e+300, 'a': 2} are no losses of a step",
    ),
    "atoms are no archive": (
        in_run("atoms.npz", "nonsense"),
        "atoms.npz cannot be read: File is not a zip file",
    ),
    "atoms are empty": (in_run("atoms.npz", b""), "atoms.npz cannot be read: File is not a zip file"),
    "atoms are a pipe": (in_run("atoms.npz", "pipe"), "atoms.npz cannot be read: it is not a regular file"),
    "the dataset is gone": (in_run("distilled/distilled.npz", None), "no distilled dataset in"),
    "the dataset is no archive": (in_run("distilled/distilled.npz", "nonsense"), "File is not a zip file"),
    "the dataset is empty": (in_run("distilled/distilled.npz", b""), "File is not a zip file"),
    "the report is a folder": (in_run("report.html", "folder"), "run/report.html'; correct the path"),
    "the images are not the labels'": (
        shard(lambda x: x[:, :-1]),
        "00000.npy is not what labels.json in its folder says",
    ),
    "the teacher of a run is gone": (in_run("teacher/teacher.json", None, "evaluate", *STUDENTS), "no teacher at"),
    "the variables of a teacher are gone": (
        in_run("teacher/variables", None, "evaluate", *STUDENTS),
        "no checkpoint at",
    ),
    "the variables of a teacher are a file": (
        in_run("teacher/variables", "x", "evaluate", *STUDENTS),
        "no checkpoint at",
    ),
    "the variables of a teacher are empty": (
        in_run("teacher/variables", "folder", "evaluate", *STUDENTS),
        "variables does not fit the model: Individual parameter subdirectory not found",
    ),
    "part of the variables is empty": (
        in_run("teacher/variables/_METADATA", b"", "evaluate", *STUDENTS),
        "variables does not fit the model: Expecting value: line 1 column 1 (char 0)",
    ),
    "a teacher is a list": (teacher("[]"), "teacher.json holds [], not a record"),
    "a teacher is no JSON": (
        teacher("nonsense"),
        "teacher.json is no JSON or damaged: Expecting value: line 1 column 1 (char 0)",
    ),
    "a teacher without model": (teacher({"model": DROP}), "teacher.json has no model"),
    "a teacher of an unknown model": (teacher({"model": "resnet81"}), "unknown model 'resnet81'"),
    "a teacher that would import a module": (
        teacher({"model": "os:system"}),
        "model 'os:system' is not registered, and a name read from a file is never",
    ),
    "a teacher of a model that is a number": (teacher({"model": 3}), "teacher.json: model = 3 is no text"),
    "a teacher of a huge width": (teacher({"width": HUGE}), "teacher.json: width 1000000000000 is out of range"),
    "a teacher of another width": (
        teacher({"width": 16}),
        "variables does not fit the model: batch_stats.norm1.bn.mean has shape [8] instead of [16]",
    ),
    "a teacher of a text as width": (teacher({"width": "8"}), "teacher.json: width = '8' is no whole number"),
    "a teacher of images without channels": (
        teacher({"image_shape": [8, 8]}),
        "teacher.json: image_shape [8, 8] has no height, width and channels",
    ),
    "a teacher of huge images": (
        teacher({"image_shape": [HUGE, HUGE, 1]}),
        "teacher.json: image_shape 1000000000000 is out of range",
    ),
    "a teacher of oblong images": (
        teacher({"image_shape": [8, 16, 1]}),
        "the checkpoint at",
    ),
    "a teacher of negative images": (
        teacher({"image_shape": [-8, -8, 1]}),
        "teacher.json: image_shape -8 is out of range",
    ),
    "a teacher of images in words": (
        teacher({"image_shape": "8x8"}),
        "teacher.json: image_shape = '8x8' is no list of whole number",
    ),
    "a teacher without classes": (teacher({"class_names": []}), "teacher.json: class_names is empty"),
    "a teacher of other classes": (
        teacher({"class_names": ["a"] * 10}),
        "teacher was trained on classes a a a a ..., but digits has 0 1 2 3 ...",
    ),
    "a teacher of classes that are numbers": (
        teacher({"class_names": list(range(10))}),
        "teacher.json: class_names = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9] is no list of text",
    ),
    "a teacher with another mean": (teacher({"mean": [0.1, 0.2]}), "teacher.json: mean does not have 1 channels"),
    "a teacher with a std of zero": (teacher({"std": [0]}), "teacher.json: std 0.0 is out of range"),
    "a teacher with an accuracy of two": (teacher({"accuracy": 2}), "teacher.json: accuracy 2.0 is out of range"),
    "a teacher with a seed that is a text": (teacher({"seed": "0"}), "teacher.json: seed = '0' is no whole number"),
    "a teacher with a holdout of one and a half": (
        teacher({"holdout": 1.5}),
        "teacher.json: holdout 1.5 is out of range",
    ),
    "labels.json is gone": (labels(None), "no stored labels in"),
    "labels.json is no JSON": (
        labels("{"),
        "labels.json is no JSON or damaged: Expecting property name enclosed in double",
    ),
    "labels.json is a list": (labels("[]"), "labels.json holds [], not a record"),
    "labels.json is nested deep": (labels(DEEP), "labels.json is nested too deep"),
    "labels without steps": (labels({"steps": DROP}), "labels.json has no steps"),
    "labels of huge steps": (
        labels({"steps": 10**18, "steps_a_shard": 1}),
        "labels.json: steps 1000000000000000000 is out of range",
    ),
    "labels of negative steps": (labels({"steps": -1}), "labels.json: steps -1 is out of range"),
    "labels of no step in a shard": (labels({"steps_a_shard": 0}), "labels.json: steps_a_shard 0 is out of range"),
    "labels of more steps than there are": (
        labels({"steps": 10**8, "steps_a_shard": 1}),
        "00000.npy is not what labels.json in its folder says",
    ),
    "labels of batches that are a text": (
        labels({"batch_size": "10"}),
        "labels.json: batch_size = '10' is no whole number",
    ),
    "labels of another batch": (labels({"batch_size": 9}), "00000.npy is not what labels.json in its folder says"),
    "labels of no class": (labels({"num_classes": 0}), "labels.json: num_classes 0 is out of range"),
    "labels of huge classes": (labels({"num_classes": HUGE}), "labels.json: num_classes 1000000000000 is out of range"),
    "labels of an unknown form": (
        labels({"settings": {"form": "int4", "top": 1, "epochs": 1}}),
        "labels of form 'int4' cannot be stored",
    ),
    "labels of unknown settings": (
        labels({"settings": {"form": "int8", "colour": 1}}),
        "labels.json: settings: unknown setting 'colour' of LabelSettings",
    ),
    "labels of settings that are a text": (
        labels({"settings": "int8"}),
        "labels.json: settings: 'int8' is no table of settings of LabelSettings",
    ),
    "labels of an unknown augmentation": (
        labels({"augment": {"blur": 1}}),
        "labels.json: augment: unknown setting 'blur' of Augment",
    ),
    "labels of other images": (labels({"images": "x"}), "stored labels belong to other images"),
    "a shard is gone": (labels(None, "00000.npy"), "labels were cut off at step 0 of 2"),
    "a shard is empty": (labels(b"", "00000.npy"), "00000.npy is damaged"),
    "a shard is no array": (labels("nonsense", "00000.npy"), "00000.npy is damaged"),
    "a shard is a pipe": (labels("pipe", "00000.npy"), "00000.npy is no regular file"),
    "a shard is a folder": (labels("folder", "00000.npy"), "00000.npy is no regular file"),
    "a shard is cut off": (
        labels(lambda place: place.write_bytes(place.read_bytes()[:-5]), "00000.npy"),
        "00000.npy is damaged",
    ),
    "a shard of another dtype": (shard(lambda x: x["codes"]), "00000.npy is not what labels.json in its folder says"),
    "a shard of a huge shape": (labels(_header_of((10**9, 10)), "00000.npy"), "00000.npy is damaged"),
    "a shard with an infinite scale": (
        shard(lambda x: _with(x, "scale", np.inf)),
        "stored labels of step 0: scale are not finite, or no classes",
    ),
    "a shard with a scale of NaN": (
        shard(lambda x: _with(x, "scale", np.nan)),
        "stored labels of step 0: scale are not finite, or no classes",
    ),
    "topk labels of a class that is not": (
        lambda box: _topk(box),
        "stored labels of step 0: classes are not finite, or no classes",
    ),
}


def _with(records, name, value):
    records[name][0, 0] = value
    return records


def _topk(box):
    small = ["--form", "topk", "--top", 2, "--epochs", 1, "--out", box.tmp / "run" / "labels"]
    shutil.rmtree(box.run / "labels")
    assert box.call("relabel", box.run, *small)[0] == 0
    return shard(lambda x: _with(x, "classes", 10))(box)


def _small_disk(box):
    usage = namedtuple("usage", "total used free")
    box.fixture("monkeypatch").setattr("shutil.disk_usage", lambda place: usage(100, 100, 0))
    return relabel("--epochs", 10)(box)


LONG = "a" * 300
GRIDS = {
    "a grid that is no TOML": (
        grid("[grid]", "[grid"),
        "small.toml is no TOML: Expected ']' at the end of a table declaration (at line",
    ),
    "a grid that is not UTF-8": (grid("small", "\udcff"), "small.toml is no text in UTF-8 (byte 20)"),
    "a grid that is nested deep": (
        grid("", "x = " + DEEP),
        "small.toml has a number of thousands of digits, or is nested too deep",
    ),
    "a grid with a number of 5000 digits": (
        grid("seeds = 1", f"seeds = {DIGITS}"),
        "small.toml has a number of thousands of digits, or is nested too deep",
    ),
    "a grid with an unknown key": (grid("title", "tilte"), "small.toml: unknown setting 'tilte' of _Head"),
    "a grid with an unknown setting": (grid("width", "breadth"), "small.toml: unknown setting 'breadth' of GridConfig"),
    "a grid with a huge width": (
        grid("width = 8", f"width = {HUGE}"),
        "small.toml: width 1000000000000 is out of range",
    ),
    "a grid with a width in words": (grid("width = 8", 'width = "8"'), "small.toml: width = '8' is no whole number"),
    "a grid with NaN": (grid("width = 8", "memory_gib = nan"), "small.toml: memory_gib nan is not finite"),
    "a grid with infinity": (grid("width = 8", "memory_gib = inf"), "small.toml: memory_gib inf is not finite"),
    "a grid with a negative size": (grid("[1]", "[-1]"), "small.toml: ipc -1 is out of range"),
    "a grid with a size of zero": (grid("[1]", "[0]"), "--ipc 0 is no valid number of images per class"),
    "a grid without sizes": (grid("[1]", "[]"), "--ipc is empty; give one or more"),
    "a grid with huge sizes": (grid("[1]", f"[{HUGE}]"), "small.toml: ipc 1000000000000 is out of range"),
    "a grid with a size that is true": (grid("[1]", "[true]"), "small.toml: ipc = [True] is no list of whole number"),
    "a grid with a title that is a number": (grid('"small"', "3"), "small.toml: title = 3 is no text"),
    "a grid with a title too long": (grid("small", "a" * 10_000), "small.toml: title has 10000 characters"),
    "a grid with unknown columns": (grid("[grid]", 'columns = "seed"\n[grid]'), "small.toml: unknown --columns 'seed'"),
    "a grid with unknown scores": (
        grid("[grid]", 'scores = "firm"\n[grid]'),
        "scores of 'firm' need the protocols firm, firm:plain, hard, the method random",
    ),
    "a grid without methods": (
        grid("[methods.random]\n\n[methods.medoid]\n", ""),
        "small.toml: no methods, or a claim of another form",
    ),
    "a grid with methods that are a list": (
        grid("[methods.random]\n\n[methods.medoid]\n", "[[methods]]\n"),
        "small.toml: no methods, or a claim of another form",
    ),
    "a grid with an unknown method": (
        grid("methods.medoid", "methods.meloid"),
        "small.toml [methods.meloid]: unknown method 'meloid'",
    ),
    "a grid with a recipe that is a list": (
        grid("", "recipe = [1]"),
        "small.toml [methods.medoid]: method [1] is no name",
    ),
    "a grid that would import a module": (
        grid("", 'recipe = "os:system"'),
        "small.toml [methods.medoid]: method 'os:system' is not registered, and a name",
    ),
    "a method with a slash": (
        grid("methods.medoid", 'methods."../../x"'),
        "small.toml [methods]: '../../x' is no name of a method",
    ),
    "a method with a line break": (
        grid("methods.medoid", 'methods."a\\nb"'),
        "small.toml [methods]: 'a\\nb' is no name of a method",
    ),
    "a method without a name": (
        grid("methods.medoid", 'methods.""'),
        "small.toml [methods]: '' is no name of a method",
    ),
    "a method with too long a name": (grid("methods.medoid", f"methods.{LONG}"), "small.toml [methods]:"),
    "published figures of NaN": (
        grid("", "published = { 1 = nan }"),
        "small.toml [methods.medoid]: published = {'1': nan}",
    ),
    "published figures beyond 100 %": (
        grid("", "published = { 1 = 1000 }"),
        "small.toml [methods.medoid]: published = {'1': 1000}",
    ),
    "published figures of size zero": (
        grid("", "published = { 0 = 10 }"),
        "small.toml [methods.medoid]: published = {'0': 10}",
    ),
    "published figures of a size twice": (
        grid("", 'published = { 1 = 10, "01" = 11 }'),
        "small.toml [methods.medoid]: published = {'1': 10, '01': 11}",
    ),
    "published figures that are a list": (grid("", "published = [1]"), "small.toml [methods.medoid]: published = [1]"),
    "a setting of NaN": (
        grid("", 'set = { "imager" = "recover", "imager.learning_rate" = nan }'),
        "small.toml [methods.medoid]: learning_rate nan is not finite",
    ),
    "a setting that is unknown": (
        grid("", 'set = { "imager.speed" = 3 }'),
        "small.toml [methods.medoid]: unknown setting 'speed' of Nearest",
    ),
    "a stage that is a list": (
        grid("", 'set = { imager = { name = ["recover"] } }'),
        "small.toml [methods.medoid]: imager ['recover'] is no name",
    ),
    "a sweep of an unknown method": (
        grid("", '[sweep]\nmethod = "wmdd"\nfield = "x"\nvalues = [1]'),
        "small.toml [sweep]: 'wmdd' is none of its methods",
    ),
    "a sweep of an unknown field": (
        grid("", '[sweep]\nmethod = "medoid"\nfield = "x"\nvalues = [1]'),
        "small.toml [sweep]: unknown setting 'x' of Recipe",
    ),
    "a sweep of NaN": (
        grid("", '[sweep]\nmethod = "medoid"\nfield = "summarizer.rounds"\nvalues = [nan]'),
        "small.toml: values nan is not finite",
    ),
    "a sweep of a value twice": (
        grid("", '[sweep]\nmethod = "medoid"\nfield = "summarizer.rounds"\nvalues = [3, 3]'),
        "small.toml [sweep]: there are two methods 'medoid, 3'",
    ),
    "a claim about nobody": (
        grid("", '[[claim]]\nwhat = "x"\nbetter = "a"\nworse = "random"'),
        "small.toml [[claim]]: 'a' is none of its methods",
    ),
    "a claim that is a number": (
        grid("[grid]", "claim = 3\n[grid]"),
        "small.toml: no methods, or a claim of another form",
    ),
    "a file name that is too long": (
        grid("small", "small", file="a" * 200 + ".toml"),
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    ),
    "a file name that is a folder of all tables": (
        grid("small", "small", file="runs.toml"),
        "runs.toml: the table cannot have the folder 'runs'",
    ),
    "a file name that leads out": (
        grid("small", "small", file="...toml"),
        "...toml: the table cannot have the folder '..'",
    ),
    "only a method that is not there": (
        grid("small", "small", "--only", "wmdd"),
        "--only 'wmdd' is none of random, medoid",
    ),
    "epochs that do not fit": (grid("small", "small", "--epochs", 1, 2), "--epochs (1, 2) does not fit --ipc (1,)"),
    "tables in a file": (
        lambda box: box.call("tables", "wmdd-main", "--out", box.run / "config.json"),
        "config.json: File exists",
    ),
    "rows of a table that are damaged": (lambda box: _rows(box, "[1]"), "rows.json, row 0 holds 1, not a record"),
    "rows of a table that are a pipe": (lambda box: _rows(box, "pipe"), "rows.json is no regular file"),
}


def _rows(box, what):
    (box.tmp / "tables").mkdir()
    replaced(box.tmp / "tables" / "rows.json", what)
    return grid("small", "small", "--teacher", box.run / "teacher")(box)


def some(change):
    """A change of the first tensor."""

    def damage(tensors):
        name = sorted(tensors)[0]
        return tensors | {name: change(tensors[name])}

    return weights(damage)


def raw(content):
    return weights(lambda tensors: content)


def tensor(dtype, shape, end=4, names="a"):
    """An entry with a file of four bytes, and a header that says where the tensors are."""
    record = {name: {"dtype": dtype, "shape": shape, "data_offsets": [0, end]} for name in names}
    return raw(header(record, b"0000"))


# What the line names instead of the key.
_NAMED = {("vae", "in_channels"): "out_channels"}
FLOATS = np.zeros((8, 3, 3, 3), np.float32)
HUB = {
    **{
        f"{part}.{key} is {value!r}"[:60]: (published(part, {key: value}), _NAMED.get((part, key), key))
        for part, key, value in (
            ("vae", "layers_per_block", 2**63),
            ("vae", "layers_per_block", 0),
            ("vae", "layers_per_block", -1),
            ("vae", "layers_per_block", 1.5),
            ("vae", "layers_per_block", "2"),
            ("vae", "layers_per_block", True),
            ("vae", "block_out_channels", [8] * 60),
            ("vae", "block_out_channels", []),
            ("vae", "block_out_channels", [2**40, 2**40]),
            ("vae", "block_out_channels", [0, 0]),
            ("vae", "block_out_channels", 8),
            ("vae", "block_out_channels", [[8]]),
            ("vae", "in_channels", 10**9),
            ("vae", "latent_channels", 10**9),
            ("vae", "norm_num_groups", 0),
            ("vae", "scaling_factor", 0),
            ("vae", "scaling_factor", 1e300),
            ("vae", "scaling_factor", 10**400),
            ("vae", "sample_size", 10**9),
            ("vae", "down_block_types", {"a": 1}),
            ("vae", "act_fn", ["relu"]),
            ("vae", "in_channels", {"a": 1}),
            ("transformer", "num_layers", 10**9),
            ("transformer", "num_layers", 0),
            ("transformer", "patch_size", 0),
            ("transformer", "sample_size", 10**6),
            ("transformer", "num_attention_heads", 10**9),
            ("transformer", "num_embeds_ada_norm", 2**62),
            ("transformer", "num_embeds_ada_norm", None),
            ("unet", "layers_per_block", 10**9),
            ("unet", "block_out_channels", [8] * 50),
            ("unet", "norm_eps", -1),
            ("unet", "down_block_types", ["x"]),
            ("unet", "cross_attention_dim", 10**12),
            ("unet", "attention_head_dim", 0),
            ("text_encoder", "num_hidden_layers", 2**63),
            ("text_encoder", "hidden_size", 10**9),
            ("text_encoder", "vocab_size", 10**12),
            ("text_encoder", "num_attention_heads", 3),
            ("text_encoder", "max_position_embeddings", 0),
            ("text_encoder", "hidden_act", 5),
        )
    },
    "vae/config.json is gone": (published("vae", None), "no config.json in"),
    "vae/config.json is no JSON": (
        published("vae", "{"),
        "config.json is no JSON or damaged: Expecting property name enclosed in double",
    ),
    "vae/config.json is a text": (published("vae", '"x"'), "config.json holds str, not a JSON object"),
    "vae/config.json is nested deep": (published("vae", DEEP), "config.json is nested too deep"),
    "vae/config.json has 5000 digits": (
        published("vae", f'{{"sample_size": {DIGITS}}}'),
        "config.json is no JSON or damaged: a number has 5000 digits",
    ),
    "vae/config.json has NaN": (
        published("vae", '{"scaling_factor": NaN}'),
        "config.json is no JSON or damaged: NaN is no number of JSON",
    ),
    "vae/config.json has a key twice": (
        published("vae", '{"in_channels": 1, "in_channels": 3}'),
        "config.json is no JSON or damaged: the key 'in_channels' occurs twice",
    ),
    "vae/config.json is not UTF-8": (published("vae", b"\xff\xfe"), "config.json is no text in UTF-8 (byte 0)"),
    "vae/config.json is a pipe": (published("vae", "pipe"), "no config.json in"),
    "vae/config.json is a folder": (published("vae", "folder"), "no config.json in"),
    "vae/config.json is a link to nowhere": (published("vae", "nowhere"), "no config.json in"),
    "a schedule of huge steps": (
        published("scheduler", {"num_train_timesteps": 10**12}, "scheduler_config.json"),
        "scheduler_config.json: num_train_timesteps 1000000000000 is out of range",
    ),
    "a schedule of no steps": (
        published("scheduler", {"num_train_timesteps": 0}, "scheduler_config.json"),
        "scheduler_config.json: num_train_timesteps 0 is out of range",
    ),
    "a schedule of an infinite beta": (
        published("scheduler", {"beta_end": 1e308}, "scheduler_config.json"),
        "scheduler_config.json: beta_end 1e+308 is out of range",
    ),
    "a schedule of a negative beta": (
        published("scheduler", {"beta_start": -0.1}, "scheduler_config.json"),
        "scheduler_config.json: beta_start -0.1 is out of range",
    ),
    "a schedule of unknown betas": (
        published("scheduler", {"beta_schedule": "cosine"}, "scheduler_config.json"),
        'scheduler_config.json: beta_schedule "cosine" is not covered, only "linear" or',
    ),
    "weights are gone": (published("vae", None, "diffusion_pytorch_model.safetensors"), "no *.safetensors in"),
    "weights are a pipe": (
        published("vae", "pipe", "diffusion_pytorch_model.safetensors"),
        "diffusion_pytorch_model.safetensors is no regular file",
    ),
    "weights are empty": (raw(b""), "diffusion_pytorch_model.safetensors is damaged or no safetensors file (Error"),
    "weights are a text": (
        raw(b"nonsense, and more of it"),
        "diffusion_pytorch_model.safetensors is damaged or no safetensors file (Error",
    ),
    "weights with a huge header": (
        raw(header(b"{}", size=2**62)),
        "diffusion_pytorch_model.safetensors is damaged or no safetensors file (Error",
    ),
    "weights with a header that is no JSON": (
        raw(header(b"{{{{{{{{")),
        "diffusion_pytorch_model.safetensors is damaged or no safetensors file (Error",
    ),
    "weights with a header that is nested deep": (
        raw(header(DEEP.encode())),
        "diffusion_pytorch_model.safetensors is damaged or no safetensors file (Error",
    ),
    "weights beyond the file": (
        tensor("F32", [4], end=16),
        "diffusion_pytorch_model.safetensors is damaged or no safetensors file (Error",
    ),
    "weights of a huge shape": (
        tensor("F32", [2**40, 2**40]),
        "diffusion_pytorch_model.safetensors is damaged or no safetensors file (Error",
    ),
    "weights of a negative shape": (
        tensor("F32", [-1]),
        "diffusion_pytorch_model.safetensors is damaged or no safetensors file (Error",
    ),
    "weights of an unknown dtype": (
        tensor("F7", [1]),
        "diffusion_pytorch_model.safetensors is damaged or no safetensors file (Error",
    ),
    "weights that overlap": (
        tensor("F32", [1], names="ab"),
        "diffusion_pytorch_model.safetensors is damaged or no safetensors file (Error",
    ),
    "weights with NaN": (some(lambda x: x * np.nan), "vae: decoder.conv_in.bias has NaN or infinite values"),
    "weights with infinity": (some(lambda x: x + np.inf), "vae: decoder.conv_in.bias has NaN or infinite values"),
    "weights of integers": (
        some(lambda x: x.astype(np.int8)),
        "diffusion_pytorch_model.safetensors: 'decoder.conv_in.bias' has dtype I8",
    ),
    "weights of another shape": (
        some(lambda x: np.zeros((2, 2), np.float32)),
        "vae do not fit the model: wrong shape decoder.conv_in.bias [2, 2] instead of",
    ),
    "weights with one missing": (
        weights(lambda x: dict(sorted(x.items())[1:])),
        "vae do not fit the model: missing decoder.conv_in.bias [12]",
    ),
    "weights with one more": (
        weights(lambda x: x | {"more": FLOATS}),
        "vae do not fit the model: unexpected more [8, 3, 3, 3]",
    ),
    "pickled weights": (
        lambda box: _pickled(box),
        "vae holds only diffusion_pytorch_model.bin, and pickles are never read, as they",
    ),
    "an index that leads out": (
        index("../../elsewhere.safetensors"),
        "diffusion_pytorch_model.safetensors.index.json names",
    ),
    "an index of an absolute path": (
        index("/etc/passwd"),
        "diffusion_pytorch_model.safetensors.index.json names '/etc/passwd', which is no",
    ),
    "an index with a link out": (
        index("link.safetensors"),
        "diffusion_pytorch_model.safetensors.index.json names 'link.safetensors', a link",
    ),
    "an index of a file that is gone": (
        index("gone.safetensors"),
        "gone.safetensors is missing, one of the files of its index",
    ),
    "an index of a hidden file": (
        index(".."),
        "diffusion_pytorch_model.safetensors.index.json names '..', which is no file in",
    ),
    "an index of nothing": (index(""), "diffusion_pytorch_model.safetensors.index.json names '', which is no file in"),
    "an index of a number": (index(3), "diffusion_pytorch_model.safetensors.index.json has no weight_map from tensors"),
    "a vocabulary of texts": (tokens({"a": "b"}), "vocab.json is no map from tokens to numbers"),
    "a vocabulary of huge numbers": (tokens({"a": 10**30}), "vocab.json is no map from tokens to numbers"),
    "a vocabulary of negative numbers": (tokens({"a": -1}), "vocab.json is no map from tokens to numbers"),
    "a vocabulary with a number twice": (
        tokens('{"<|startoftext|>": 0, "<|endoftext|>": 0}'),
        "vocab.json is no map from tokens to numbers",
    ),
    "a vocabulary without its end": (tokens({"<|endoftext|>": DROP}), "vocab.json has no token <|endoftext|>"),
    "merges are gone": (tokens(None, "merges.txt"), "merges.txt: No such file or directory"),
    "merges are not UTF-8": (tokens(b"\xff", "merges.txt"), "merges.txt is no text in UTF-8 (byte 0)"),
    "merges are a pipe": (tokens("pipe", "merges.txt"), "merges.txt is no regular file"),
    "merges of unknown tokens": (
        tokens("foo bar\n", "merges.txt"),
        "merges.txt, line 1: 'foo bar' does not merge two tokens of vocab.json into a",
    ),
    "a padding that is a list": (
        tokens('{"pad_token": [1]}', "special_tokens_map.json"),
        "special_tokens_map.json: pad_token [1] is not in vocab.json",
    ),
    "a padding that is unknown": (
        tokens('{"pad_token": "nothing"}', "special_tokens_map.json"),
        "special_tokens_map.json: pad_token 'nothing' is not in vocab.json",
    ),
    "a ResNet without classes": (resnet(**{"fc.weight": np.zeros((0, 8), np.float32)}), "hub have 0 classes"),
    "a ResNet without channels": (
        resnet(**{"conv1.weight": np.zeros((0, 3, 3, 3), np.float32)}),
        "width 0 of resnet18 is not a number of channels",
    ),
    "a ResNet of a kernel of five": (
        resnet(**{"conv1.weight": np.zeros((8, 3, 5, 5), np.float32)}),
        "hub has a kernel of 5 pixels",
    ),
    "a ResNet of a flat kernel": (
        resnet(**{"conv1.weight": np.zeros((8, 3), np.float32)}),
        "hub have no conv1.weight of 4 axes",
    ),
    "a ResNet of huge classes": (
        resnet(**{"fc.weight": np.zeros((200_000, 1), np.float32)}),
        "hub have 200000 classes",
    ),
    "a ResNet with a part": (resnet(), "hub do not fit the model: missing layer1.0.bn1.running_mean [8],"),
    "a ResNet of a mean in words": (resnet({"mean": "0.5"}), "config.json does not fit images of 3 channels"),
    "a ResNet of a huge mean": (resnet({"mean": [1e300] * 3}), "config.json does not fit images of 3 channels"),
    "a ResNet of a std of zero": (resnet({"std": [0, 0, 0]}), "config.json does not fit images of 3 channels"),
    "a ResNet of a config that is a list": (
        resnet({"pretrained_cfg": [1]}),
        "config.json: pretrained_cfg [1] is no record",
    ),
}


def _pickled(box):
    place = box.hub("vae") / "diffusion_pytorch_model.safetensors"
    place.rename(place.with_suffix(".bin"))
    return box.opened(pretrained.vae)


IMAGES = {
    "an image that is no image": (picture("nonsense"), "dog/0.png"),
    "an image that is empty": (picture(b""), "dog/0.png"),
    "an image that is a pipe": (picture("pipe"), "dog/0.png"),
    "an image that is a loop": (picture("loop"), "dog/0.png"),
    "an image that is a link to nowhere": (picture("nowhere"), "dog/0.png"),
    "a test image that is no image": (picture("nonsense", "val"), "val/dog/0.png"),
}


def foreign(name, words, *arguments):
    """An entry with distilled images of somebody else."""
    given = ("--dataset", "digits", "--image-norm", "mnist", *arguments)
    return flags("evaluate", HERE / "foreign" / name, *given), words


def arrays(words, **named):
    """An entry with a dataset of these arrays."""

    def entry(box):
        np.savez(box.tmp / "set.npz", **named)
        return box.call("distill", "--dataset", box.tmp / "set.npz", "--method", "random", *SMALL, "--out", OUT)

    return entry, words


def archive(words, content):
    """An entry with a dataset in an archive of these bytes."""

    def entry(box):
        (box.tmp / "train.tar").write_bytes(content)
        return box.call("distill", "--dataset", box.tmp / "train.tar", "--holdout", 0.5, "--out", OUT)

    return entry, words


SQUARES = np.zeros((4, 8, 8), np.uint8)
FORMATS = {
    "images that would run a command": foreign("command.pt", "it names posix.system, and no code of a file is run"),
    "images that are a module": foreign("module.pt", "it names torch.nn.modules.linear.Linear"),
    "images that claim all memory": foreign("claim.pt", "a storage should take 4398046511104 bytes, but 32 are there"),
    "images of an old PyTorch": foreign("legacy.pt", "torch.save(torch.load('legacy.pt', weights_only=True)"),
    "images in a bare pickle": foreign("plain.pt", "plain.pt is no file of torch.save"),
    "images with soft labels": foreign("soft.pt", "take the largest of each row with --argmax"),
    "images without labels": foreign("labels_best.pt", "labels_best.pt has images without labels"),
    "images of another size": foreign("dict.pt", "are 8x8x1, but those of the data are 16x16x1", "--image-size", 16),
    "images of no known normalisation": foreign("dict.pt", "--image-norm 'x' is none of", "--image-norm", "x"),
    "images without real ones": (flags("evaluate", HERE / "foreign" / "dict.pt"), "name them with --dataset"),
    "images in a text": (flags("evaluate", __file__, "--dataset", "digits"), "is in no format of distilled images"),
    "a dataset of the hub with an odd name": (distill("--dataset", "hf:a/b/c"), "give hf:owner/name"),
    "a dataset of the hub with an odd choice": (distill("--dataset", "hf:a/b?c=d"), "choice 'c=d'"),
    "shards that are not there": (distill("--dataset", "/nowhere/{0..9}.tar"), "/nowhere/0.tar does not exist"),
    "an archive that is none": archive("it is no tar archive", b"x" * 1024),
    "an archive that is compressed": archive("it is compressed (gzip)", b"\x1f\x8b" + bytes(600)),
    "an archive that is empty": archive("it is no tar archive", b""),
    "arrays without a test split": arrays("give --holdout 0.2, which sets", x_train=SQUARES, y_train=[0, 0, 1, 1]),
    "arrays of floats": arrays(
        "float64 [4, 8, 8, 1]", x_train=SQUARES / 1, y_train=[0] * 4, x_test=SQUARES, y_test=[0] * 4
    ),
    "arrays of objects": arrays("neither numbers nor text", x_train=np.array([None] * 4), y_train=[0] * 4),
    "arrays of other names": arrays("has no array of images", a=SQUARES, b=[0, 0, 1, 1]),
}

DAMAGED = "is damaged: it is not what manifest.json says"
ANEW = "make the folder again, or remove the file to use it unchecked"


def listed(file, *call):
    """An entry with one bit of a file changed that the manifest of its folder lists."""
    return in_run(file, flipped, *call, listed=True), f"{file.rpartition('/')[2]} {DAMAGED}"


def manifest(content):
    """An entry with another manifest of a run folder."""
    return in_run("manifest.json", content if isinstance(content, str) else json.dumps({"files": content}), listed=True)


def _without_record(box):
    replaced(box.run / "teacher" / "teacher.json", None)
    return box.call("distill", "--teacher", box.run / "teacher", "--out", OUT)


GOOD = {"bytes": 3, "sha256": "0" * 64}
MANIFESTS = {
    "a config that was changed": listed("config.json"),
    "atoms that were changed": listed("atoms.npz"),
    "images that were changed": listed("distilled/distilled.npz"),
    "images that were changed, to train on": listed("distilled/distilled.npz", "evaluate", *STUDENTS),
    "a record of a teacher that was changed": listed("teacher/teacher.json", "evaluate", *STUDENTS),
    "variables that were changed": listed("teacher/variables/_METADATA", "evaluate", *STUDENTS),
    "a manifest of images that was changed": listed("distilled/manifest.json"),
    "atoms that are missing": (in_run("atoms.npz", None, listed=True), "atoms.npz is missing, but manifest.json names"),
    "a manifest of images that is missing": (
        in_run("distilled/manifest.json", None, listed=True),
        "distilled/manifest.json is missing, but manifest.json names it",
    ),
    "variables that are missing": (
        in_run("teacher/variables", None, "evaluate", *STUDENTS, listed=True),
        "run is damaged; copy that folder again, or remove it and run the command again that made it",
    ),
    "a teacher that is missing": (
        in_run("teacher", None, "evaluate", *STUDENTS, listed=True),
        "teacher/manifest.json is missing, but manifest.json names it",
    ),
    "images that are missing": (
        in_run("distilled", None, "evaluate", *STUDENTS, listed=True),
        "distilled/manifest.json is missing, but manifest.json names it",
    ),
    "a record of a teacher that is missing": (
        lambda box: _without_record(box),
        "teacher.json is missing, but manifest.json names it",
    ),
    "atoms that are a folder": (in_run("atoms.npz", "folder", listed=True), "atoms.npz is missing, but manifest.json"),
    "a manifest that is no JSON": (manifest("{"), "manifest.json is no JSON or damaged: Expecting property name"),
    "a manifest that is a list": (manifest("[]"), f"manifest.json is no manifest; {ANEW}"),
    "a manifest of a list": (manifest([]), f"manifest.json is no manifest; {ANEW}"),
    "a manifest that leads out": (manifest({"../x": GOOD}), f"manifest.json is no manifest; {ANEW}"),
    "a manifest that leads out later": (manifest({"a/../../x": GOOD}), f"manifest.json is no manifest; {ANEW}"),
    "a manifest of an absolute path": (manifest({"/etc/passwd": GOOD}), f"manifest.json is no manifest; {ANEW}"),
    "a manifest of sizes in words": (manifest({"x": GOOD | {"bytes": "3"}}), f"manifest.json is no manifest; {ANEW}"),
    "a manifest of sizes that are true": (manifest({"x": GOOD | {"bytes": True}}), "manifest.json is no manifest"),
    "a manifest without checksums": (manifest({"x": {"bytes": 3}}), f"manifest.json is no manifest; {ANEW}"),
    "a manifest of short checksums": (manifest({"x": GOOD | {"sha256": "0"}}), "manifest.json is no manifest"),
    "a manifest of a checksum that is a number": (
        manifest({"x": GOOD | {"sha256": 0}}),
        "manifest.json is no manifest",
    ),
    "a manifest that is a pipe": (in_run("manifest.json", "pipe", listed=True), "manifest.json is no regular file"),
    "a manifest that is a folder": (in_run("manifest.json", "folder", listed=True), "manifest.json is no regular file"),
}

CASES = FLAGS | ON_A_RUN | MANIFESTS | GRIDS | HUB | IMAGES | FORMATS


@pytest.fixture(scope="session")
def lines(tmp_path_factory):
    """The line of each entry."""
    seen: dict[str, str] = {}
    yield seen
    text = "\n".join(f"{name:50} {line}" for name, line in seen.items())
    (tmp_path_factory.getbasetemp() / "bad_inputs.txt").write_text(text + "\n", errors="backslashreplace")
    print(f"\n{text}")


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_line(name, tmp_path, finished, request, lines):
    call, words = CASES[name]
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("waits for ever"))
    signal.alarm(60)
    try:
        status, _, err = call(Box(tmp_path, finished, request.getfixturevalue))
    finally:
        signal.alarm(0)
    refusals = [line for line in err.splitlines() if line.startswith("error: ")]
    lines[name] = " | ".join(refusals)
    assert status in (2, 3) and len(refusals) == 1 and "Traceback" not in err, err
    assert words in refusals[0]
    assert refusals[0].isprintable() and len(refusals[0]) < 3000
