"""A matrix of bad inputs: each ends in status 2 and one line that names the place, never in a traceback.

An entry is a function that damages something and calls a program, and a pattern of the line. The lines are written to
bad_inputs.txt in the temporary folder of the session, and printed by ``pytest -s``.
"""

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

HUGE = 10**12
DIGITS = "9" * 5000
DEEP = "[" * 100_000
NESTED = '{"a": ' * 200 + "1" + "}" * 200

FLAGS = {
    "ipc is no number": (distill("--ipc", "abc"), "x"),
    "ipc is missing": (flags("distill", "--out", OUT, "--ipc"), "x"),
    "ipc is a fraction": (distill("--ipc", 1.5), "x"),
    "ipc is zero": (distill("--ipc", 0), "x"),
    "ipc is negative": (distill("--ipc", -1), "x"),
    "ipc is huge": (distill("--ipc", HUGE), "x"),
    "ipc has 5000 digits": (distill("--ipc", DIGITS), "x"),
    "epochs are huge": (distill("--teacher-train.epochs", HUGE), "x"),
    "epochs are zero": (distill("--teacher-train.epochs", 0), "x"),
    "batch size is huge": (distill("--teacher-train.batch-size", HUGE), "x"),
    "steps are huge": (distill("--imager.steps", HUGE), "x"),
    "width is huge": (distill("--width", HUGE), "x"),
    "width is zero": (distill("--width", 0), "x"),
    "image size is huge": (distill("--image-size", HUGE), "x"),
    "image size is zero": (distill("--image-size", 0), "x"),
    "seed is negative": (distill("--seed", -1), "x"),
    "seed is huge": (distill("--seed", 2**64), "x"),
    "learning rate is NaN": (distill("--recover.learning-rate", "nan"), "x"),
    "learning rate is infinite": (distill("--imager.learning-rate", "inf"), "x"),
    "learning rate is negative": (distill("--teacher-train.learning-rate", -0.1), "x"),
    "learning rate overflows": (distill("--imager.learning-rate", 1e39), "x"),
    "weight is NaN": (distill("--imager.feature-weight", "nan"), "x"),
    "guidance is huge": (distill("--method", "ddoq", "--diffusion.guidance", 1e30), "x"),
    "strength is NaN": (distill("--method", "ddoq", "--imager.strength", "nan"), "x"),
    "warmup is no share": (distill("--teacher-train.warmup", 2), "x"),
    "min scale is NaN": (distill("--teacher-train.augment.min-scale", "nan"), "x"),
    "memory is NaN": (distill("--memory-gib", "nan"), "x"),
    "memory is infinite": (distill("--memory-gib", "inf"), "x"),
    "memory is huge": (distill("--memory-gib", 1e30), "x"),
    "holdout is NaN": (distill("--holdout", "nan"), "x"),
    "holdout is everything": (distill("--holdout", 1), "x"),
    "mean is NaN": (distill("--mean", "nan", "--std", 1), "x"),
    "std is zero": (distill("--mean", 0, "--std", 0), "x"),
    "std without mean": (distill("--std", 1), "x"),
    "channels are five": (distill("--channels", 5), "x"),
    "restarts are huge": (distill("--summarizer", "quantization", "--summarizer.restarts", HUGE), "x"),
    "tolerance is NaN": (distill("--summarizer", "quantization", "--summarizer.tolerance", "nan"), "x"),
    "epsilon is negative": (distill("--summarizer", "sinkhorn", "--summarizer.epsilon", -1), "x"),
    "pool is huge": (distill("--method", "rded", "--crops.pool", HUGE), "x"),
    "parts are no square": (distill("--method", "rded", "--imager.parts", 3), "x"),
    "latent images are huge": (flags("train", "--what", "vae", "--latent.vae-train.images", 10**15, "--out", OUT), "x"),
    "latent channels are huge": (flags("train", "--what", "vae", "--latent.channels", 10**6, "--out", OUT), "x"),
    "a flag twice, the last one bad": (distill("--ipc", 1, "--ipc", "x"), "x"),
    "an unknown flag": (distill("--nonsense", 3), "x"),
    "a word without flag": (distill("nonsense"), "x"),
    "a flag with a line break": (distill("--a\nb", 3), "x"),
    "unknown method": (distill("--method", "wmmd"), "x"),
    "empty method": (distill("--method", ""), "x"),
    "unknown model": (distill("--model", "resnet81"), "x"),
    "unknown summarizer": (distill("--summarizer", "mean"), "x"),
    "unknown optimizer": (distill("--teacher-train.optimizer", "adam", *SMALL), "x"),
    "unknown mix": (distill("--teacher-train.augment.mix", "cutout", *SMALL), "x"),
    "unknown schedule": (distill("--imager.schedule", "exponential", *SMALL), "x"),
    "unknown space": (distill("--space", "pixels"), "x"),
    "unknown stem": (distill("--stem", "large"), "x"),
    "a plugin that is relative": (distill("--plugin", ".x"), "x"),
    "a plugin with dots": (distill("--plugin", "a..b"), "x"),
    "a model with an empty module": (distill("--model", "a..b:c"), "x"),
    "dataset is empty": (distill("--dataset", ""), "x"),
    "dataset is a null byte": (distill("--dataset", "a\0b"), "x"),
    "dataset has a line break": (distill("--dataset", "a\nb"), "x"),
    "dataset is very long": (distill("--dataset", "a" * 5000), "x"),
    "dataset is not UTF-8": (distill("--dataset", "nowhere/\udcff"), "x"),
    "dataset is a device": (distill("--dataset", "/dev/null"), "x"),
    "dataset is a folder without train": (lambda box: box.call("distill", "--dataset", box.tmp, "--out", OUT), "x"),
    "out is empty": (flags("distill", "--out", ""), "x"),
    "out is a file": (lambda box: box.call("distill", "--out", box.run / "config.json"), "x"),
    "out is in a file": (lambda box: box.call("distill", "--out", box.run / "config.json" / "x"), "x"),
    "out is not empty": (lambda box: box.call("distill", "--out", box.run), "x"),
    "out has too long a name": (lambda box: box.call("distill", "--out", box.tmp / ("a" * 300), *SMALL), "x"),
    "out has a null byte": (lambda box: box.call("distill", "--out", f"{box.tmp}/a\0b", *SMALL), "x"),
    "out is a device": (flags("distill", "--out", "/dev/null"), "x"),
    "teacher is nowhere": (distill("--teacher", "/nowhere"), "x"),
    "teacher is a file": (distill("--teacher", __file__), "x"),
    "data-dir is a file": (distill("--dataset", "mnist", "--data-dir", __file__), "x"),
    "what is unknown": (flags("train", "--what", "gan", "--out", OUT), "x"),
    "pretrained is nowhere": (flags("train", "--pretrained", "/nowhere", "--model", "resnet18", "--out", OUT), "x"),
    "pretrained is empty of weights": (lambda box: box.call("train", "--pretrained", box.run, "--model", "resnet18", "--out", OUT), "x"),
    "latent place is nowhere": (lambda box: box.call("distill", "--method", "ddoq", "--teacher", box.run / "teacher", "--latent.place", "/nowhere", "--out", OUT), "x"),
    "no table": (flags("tables"), "x"),
    "unknown table": (flags("tables", "nonsense"), "x"),
    "a table out of its folder": (flags("tables", "../../x"), "x"),
    "a grid that is nowhere": (flags("tables", "wmdd-main", "--grid", "nowhere"), "x"),
    "a grid that is empty": (flags("tables", "wmdd-main", "--grid", ""), "x"),
    "a grid out of its folder": (flags("tables", "wmdd-main", "--grid", "../../x"), "x"),
    "a grid that is a folder": (flags("tables", "wmdd-main", "--grid", "/tmp"), "x"),
    "ot with bad counts": (flags("tables", "ot", "--counts", 0, "--out", OUT), "x"),
    "ot with huge counts": (flags("tables", "ot", "--counts", HUGE, "--out", OUT), "x"),
    "no run folder": (flags("evaluate"), "x"),
    "a run folder that is nowhere": (flags("evaluate", "/nowhere"), "x"),
    "a report on nothing": (flags("report"), "x"),
    "a report on a file": (flags("report", __file__), "x"),
    "a report on an empty name": (flags("report", ""), "x"),
    "labels of nowhere": (flags("relabel", "/nowhere"), "x"),
    "demo without methods": (flags("demo", "--out", OUT, "--methods"), "x"),
    "demo with an unknown method": (flags("demo", "--out", OUT, "--methods", "wmmd", "--teacher.width", 8, "--teacher.teacher-train.epochs", 1), "x"),
}  # fmt: skip


def evaluate(*arguments):
    return lambda box: box.call("evaluate", box.run, *STUDENTS, *arguments)


def relabel(*arguments):
    return lambda box: box.call("relabel", box.run, "--out", box.tmp / "labels", *arguments)


ON_A_RUN = {
    "unknown students": (evaluate("--students", "resnet19"), "x"),
    "students too large for the images": (evaluate("--students", "convnet6"), "x"),
    "no seeds": (evaluate("--seeds", 0), "x"),
    "huge seeds": (evaluate("--seeds", HUGE), "x"),
    "huge full": (evaluate("--full", HUGE), "x"),
    "negative full": (evaluate("--full", -1), "x"),
    "unknown protocol": (evaluate("--protocols", "firm"), "x"),
    "a protocol with an empty change": (evaluate("--protocols", "hard:"), "x"),
    "an empty protocol": (evaluate("--protocols", ""), "x"),
    "no protocols": (evaluate("--protocols"), "x"),
    "a baseline that makes pixels": (evaluate("--baselines", "wmdd"), "x"),
    "an unknown baseline": (evaluate("--baselines", "randm"), "x"),
    "a temperature of zero": (evaluate("--soft.labels.temperature", 0), "x"),
    "a temperature that is NaN": (evaluate("--soft.labels.temperature", "nan"), "x"),
    "smoothing that is NaN": (evaluate("--hard.labels.smoothing", "nan"), "x"),
    "students for huge epochs": (evaluate("--soft.train.epochs", HUGE), "x"),
    "a rate of NaN": (evaluate("--hard.train.learning-rate", "nan"), "x"),
    "a mix of NaN": (evaluate("--soft.train.augment.alpha", "nan"), "x"),
    "a file of rows in a folder that is nowhere": (evaluate("--out", "/nowhere/rows.json"), "x"),
    "a file of rows that is a folder": (lambda box: box.call("evaluate", box.run, *STUDENTS, "--out", box.tmp), "x"),
    "unknown precision": (evaluate("--compute", "float8"), "x"),
    "unknown form of labels": (relabel("--form", "int4"), "x"),
    "labels of zero epochs": (relabel("--epochs", 0), "x"),
    "labels of huge epochs": (relabel("--epochs", HUGE), "x"),
    "labels that no disk holds": (lambda box: _small_disk(box), "x"),
    "no class in topk": (relabel("--form", "topk", "--top", 0, "--epochs", 1), "x"),
    "more classes in topk than there are": (relabel("--form", "topk", "--top", 11, "--epochs", 1), "x"),
    "labels of a hard protocol": (relabel("--protocol", "hard"), "x"),
    "labels with a negative seed": (relabel("--seed", -1), "x"),
    "labels in a folder that is nowhere": (lambda box: box.call("relabel", box.run, "--out", "/nowhere/x"), "x"),
    "labels over other files": (lambda box: box.call("relabel", box.run, "--out", box.run / "distilled"), "x"),
    "two runs of other sizes": (lambda box: box.call("evaluate", box.run, box.tmp), "x"),
    "config is gone": (in_run("config.json", None), "x"),
    "config is no JSON": (in_run("config.json", "{"), "x"),
    "config is a list": (in_run("config.json", "[1]"), "x"),
    "config is nested deep": (in_run("config.json", DEEP), "x"),
    "config is nested": (in_run("config.json", NESTED), "x"),
    "config is not UTF-8": (in_run("config.json", b'{"a": "\xff"}'), "x"),
    "config is a folder": (in_run("config.json", "folder"), "x"),
    "config is a pipe": (in_run("config.json", "pipe"), "x"),
    "config is a loop": (in_run("config.json", "loop"), "x"),
    "config has a number of 5000 digits": (in_run("config.json", f'{{"ipc": {DIGITS}}}'), "x"),
    "config has NaN": (in_run("config.json", '{"memory_gib": NaN}'), "x"),
    "config has a key twice": (in_run("config.json", '{"ipc": 1, "ipc": 2}'), "x"),
    "config has no method": (in_run("config.json", {"method": DROP}), "x"),
    "config has an unknown method": (in_run("config.json", {"method": "wmmd"}), "x"),
    "config has a method of another type": (in_run("config.json", {"method": ["wmdd"]}), "x"),
    "config has no recipe": (in_run("config.json", {"recipe": 3}), "x"),
    "config has a recipe without names": (in_run("config.json", {"recipe": {"summarizer": {}}}), "x"),
    "config has an unknown summarizer": (in_run("config.json", {"recipe": {"summarizer": {"name": "mean"}}}), "x"),
    "config would import a module": (in_run("config.json", {"recipe": {"summarizer": {"name": "os:system"}}}), "x"),
    "config has a dataset of another type": (in_run("config.json", {"dataset": 3}, "evaluate", *STUDENTS), "x"),
    "config has a huge image size": (in_run("config.json", {"image_size": HUGE}, "evaluate", *STUDENTS), "x"),
    "config has a text as image size": (in_run("config.json", {"image_size": "8"}, "evaluate", *STUDENTS), "x"),
    "config has infinite memory": (in_run("config.json", {"memory_gib": 1e308}, "evaluate", *STUDENTS), "x"),
    "config has another dataset": (in_run("config.json", {"dataset": "nowhere"}, "evaluate", *STUDENTS), "x"),
    "rows are no list": (in_run("evaluation.json", "{}"), "x"),
    "rows are numbers": (in_run("evaluation.json", "[1, 2]"), "x"),
    "rows lack keys": (in_run("evaluation.json", '[{"method": "a"}]'), "x"),
    "rows have NaN": (in_run("evaluation.json", '[{"mean": NaN}]'), "x"),
    "rows have no accuracies": (in_run("evaluation.json", '[{"method": "a", "dataset": "b", "student": "c", "labels": "hard", "ipc": 1, "accuracies": [], "mean": 0.5, "std": 0}]'), "x"),
    "rows have accuracies of two": (in_run("evaluation.json", '[{"method": "a", "dataset": "b", "student": "c", "labels": "hard", "ipc": 1, "accuracies": [2], "mean": 0.5, "std": 0}]'), "x"),
    "rows have a list as method": (in_run("evaluation.json", '[{"method": [], "dataset": "b", "student": "c", "labels": "hard", "ipc": 1, "accuracies": [1], "mean": 0.5, "std": 0}]'), "x"),
    "rows are a pipe": (in_run("evaluation.json", "pipe"), "x"),
    "losses are no JSON": (in_run("metrics.jsonl", "{\n"), "x"),
    "losses are a list": (in_run("metrics.jsonl", "[1]\n"), "x"),
    "losses are texts": (in_run("metrics.jsonl", '{"step": "1"}\n'), "x"),
    "losses have other terms": (in_run("metrics.jsonl", '{"step": 1, "a": 2}\n{"step": 2}\n'), "x"),
    "losses have a huge step": (in_run("metrics.jsonl", '{"step": 1e300, "a": 2}\n'), "x"),
    "atoms are no archive": (in_run("atoms.npz", "nonsense"), "x"),
    "atoms are empty": (in_run("atoms.npz", b""), "x"),
    "atoms are a pipe": (in_run("atoms.npz", "pipe"), "x"),
    "the dataset is gone": (in_run("distilled/distilled.npz", None), "x"),
    "the dataset is no archive": (in_run("distilled/distilled.npz", "nonsense"), "x"),
    "the dataset is empty": (in_run("distilled/distilled.npz", b""), "x"),
    "the report is a folder": (in_run("report.html", "folder"), "x"),
    "the images are not the labels'": (shard(lambda x: x[:, :-1]), "x"),
    "the teacher of a run is gone": (in_run("teacher/teacher.json", None, "evaluate", *STUDENTS), "x"),
    "the variables of a teacher are gone": (in_run("teacher/variables", None, "evaluate", *STUDENTS), "x"),
    "the variables of a teacher are a file": (in_run("teacher/variables", "x", "evaluate", *STUDENTS), "x"),
    "the variables of a teacher are empty": (in_run("teacher/variables", "folder", "evaluate", *STUDENTS), "x"),
    "part of the variables is empty": (in_run("teacher/variables/_METADATA", b"", "evaluate", *STUDENTS), "x"),
    "a teacher is a list": (teacher("[]"), "x"),
    "a teacher is no JSON": (teacher("nonsense"), "x"),
    "a teacher without model": (teacher({"model": DROP}), "x"),
    "a teacher of an unknown model": (teacher({"model": "resnet81"}), "x"),
    "a teacher that would import a module": (teacher({"model": "os:system"}), "x"),
    "a teacher of a model that is a number": (teacher({"model": 3}), "x"),
    "a teacher of a huge width": (teacher({"width": HUGE}), "x"),
    "a teacher of another width": (teacher({"width": 16}), "x"),
    "a teacher of a text as width": (teacher({"width": "8"}), "x"),
    "a teacher of images without channels": (teacher({"image_shape": [8, 8]}), "x"),
    "a teacher of huge images": (teacher({"image_shape": [HUGE, HUGE, 1]}), "x"),
    "a teacher of oblong images": (teacher({"image_shape": [8, 16, 1]}), "x"),
    "a teacher of negative images": (teacher({"image_shape": [-8, -8, 1]}), "x"),
    "a teacher of images in words": (teacher({"image_shape": "8x8"}), "x"),
    "a teacher without classes": (teacher({"class_names": []}), "x"),
    "a teacher of other classes": (teacher({"class_names": ["a"] * 10}), "x"),
    "a teacher of classes that are numbers": (teacher({"class_names": list(range(10))}), "x"),
    "a teacher with another mean": (teacher({"mean": [0.1, 0.2]}), "x"),
    "a teacher with a std of zero": (teacher({"std": [0]}), "x"),
    "a teacher with an accuracy of two": (teacher({"accuracy": 2}), "x"),
    "a teacher with a seed that is a text": (teacher({"seed": "0"}), "x"),
    "a teacher with a holdout of one and a half": (teacher({"holdout": 1.5}), "x"),
    "labels.json is gone": (labels(None), "x"),
    "labels.json is no JSON": (labels("{"), "x"),
    "labels.json is a list": (labels("[]"), "x"),
    "labels.json is nested deep": (labels(DEEP), "x"),
    "labels without steps": (labels({"steps": DROP}), "x"),
    "labels of huge steps": (labels({"steps": 10**18, "steps_a_shard": 1}), "x"),
    "labels of negative steps": (labels({"steps": -1}), "x"),
    "labels of no step in a shard": (labels({"steps_a_shard": 0}), "x"),
    "labels of more steps than there are": (labels({"steps": 10**8, "steps_a_shard": 1}), "x"),
    "labels of batches that are a text": (labels({"batch_size": "10"}), "x"),
    "labels of another batch": (labels({"batch_size": 9}), "x"),
    "labels of no class": (labels({"num_classes": 0}), "x"),
    "labels of huge classes": (labels({"num_classes": HUGE}), "x"),
    "labels of an unknown form": (labels({"settings": {"form": "int4", "top": 1, "epochs": 1}}), "x"),
    "labels of unknown settings": (labels({"settings": {"form": "int8", "colour": 1}}), "x"),
    "labels of settings that are a text": (labels({"settings": "int8"}), "x"),
    "labels of an unknown augmentation": (labels({"augment": {"blur": 1}}), "x"),
    "labels of other images": (labels({"images": "x"}), "x"),
    "a shard is gone": (labels(None, "00000.npy"), "x"),
    "a shard is empty": (labels(b"", "00000.npy"), "x"),
    "a shard is no array": (labels("nonsense", "00000.npy"), "x"),
    "a shard is a pipe": (labels("pipe", "00000.npy"), "x"),
    "a shard is a folder": (labels("folder", "00000.npy"), "x"),
    "a shard is cut off": (labels(lambda place: place.write_bytes(place.read_bytes()[:-5]), "00000.npy"), "x"),
    "a shard of another dtype": (shard(lambda x: x["codes"]), "x"),
    "a shard of a huge shape": (labels(lambda place: place.write_bytes(place.read_bytes().replace(b"'shape': (1, ", b"'shape': (1" + b"0" * 0 + b", ").replace(b"(1,", b"(9,")), "00000.npy"), "x"),
    "a shard with an infinite scale": (shard(lambda x: _with(x, "scale", np.inf)), "x"),
    "a shard with a scale of NaN": (shard(lambda x: _with(x, "scale", np.nan)), "x"),
    "topk labels of a class that is not": (lambda box: _topk(box), "x"),
}  # fmt: skip


def _with(records, name, value):
    records[name][0, 0] = value
    return records


def _topk(box):
    small = ["--form", "topk", "--top", 2, "--epochs", 1, "--out", box.tmp / "run" / "labels"]
    import shutil

    shutil.rmtree(box.run / "labels")
    assert box.call("relabel", box.run, *small)[0] == 0
    return shard(lambda x: _with(x, "classes", 10))(box)


def _small_disk(box):
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    box.fixture("monkeypatch").setattr("shutil.disk_usage", lambda place: usage(100, 100, 0))
    return relabel("--epochs", 10)(box)


LONG = "a" * 300
GRIDS = {
    "a grid that is no TOML": (grid("[grid]", "[grid"), "x"),
    "a grid that is not UTF-8": (grid("small", "\udcff"), "x"),
    "a grid that is nested deep": (grid("", "x = " + DEEP), "x"),
    "a grid with a number of 5000 digits": (grid("seeds = 1", f"seeds = {DIGITS}"), "x"),
    "a grid with an unknown key": (grid("title", "tilte"), "x"),
    "a grid with an unknown setting": (grid("width", "breadth"), "x"),
    "a grid with a huge width": (grid("width = 8", f"width = {HUGE}"), "x"),
    "a grid with a width in words": (grid("width = 8", 'width = "8"'), "x"),
    "a grid with NaN": (grid("width = 8", "memory_gib = nan"), "x"),
    "a grid with infinity": (grid("width = 8", "memory_gib = inf"), "x"),
    "a grid with a negative size": (grid("[1]", "[-1]"), "x"),
    "a grid with a size of zero": (grid("[1]", "[0]"), "x"),
    "a grid without sizes": (grid("[1]", "[]"), "x"),
    "a grid with huge sizes": (grid("[1]", f"[{HUGE}]"), "x"),
    "a grid with a size that is true": (grid("[1]", "[true]"), "x"),
    "a grid with a title that is a number": (grid('"small"', "3"), "x"),
    "a grid with a title too long": (grid("small", "a" * 10_000), "x"),
    "a grid with unknown columns": (grid("[grid]", 'columns = "seed"\n[grid]'), "x"),
    "a grid with unknown scores": (grid("[grid]", 'scores = "firm"\n[grid]'), "x"),
    "a grid without methods": (grid("[methods.random]\n\n[methods.medoid]\n", ""), "x"),
    "a grid with methods that are a list": (grid("[methods.random]\n\n[methods.medoid]\n", "[[methods]]\n"), "x"),
    "a grid with an unknown method": (grid("methods.medoid", "methods.meloid"), "x"),
    "a grid with a recipe that is a list": (grid("", "recipe = [1]"), "x"),
    "a grid that would import a module": (grid("", 'recipe = "os:system"'), "x"),
    "a method with a slash": (grid("methods.medoid", 'methods."../../x"'), "x"),
    "a method with a line break": (grid("methods.medoid", 'methods."a\\nb"'), "x"),
    "a method without a name": (grid("methods.medoid", 'methods.""'), "x"),
    "a method with too long a name": (grid("methods.medoid", f"methods.{LONG}"), "x"),
    "published figures of NaN": (grid("", "published = { 1 = nan }"), "x"),
    "published figures beyond 100 %": (grid("", "published = { 1 = 1000 }"), "x"),
    "published figures of size zero": (grid("", "published = { 0 = 10 }"), "x"),
    "published figures of a size twice": (grid("", 'published = { 1 = 10, "01" = 11 }'), "x"),
    "published figures that are a list": (grid("", "published = [1]"), "x"),
    "a setting of NaN": (grid("", 'set = { "imager" = "recover", "imager.learning_rate" = nan }'), "x"),
    "a setting that is unknown": (grid("", 'set = { "imager.speed" = 3 }'), "x"),
    "a stage that is a list": (grid("", 'set = { imager = { name = ["recover"] } }'), "x"),
    "a sweep of an unknown method": (grid("", '[sweep]\nmethod = "wmdd"\nfield = "x"\nvalues = [1]'), "x"),
    "a sweep of an unknown field": (grid("", '[sweep]\nmethod = "medoid"\nfield = "x"\nvalues = [1]'), "x"),
    "a sweep of NaN": (grid("", '[sweep]\nmethod = "medoid"\nfield = "summarizer.rounds"\nvalues = [nan]'), "x"),
    "a sweep of a value twice": (grid("", '[sweep]\nmethod = "medoid"\nfield = "summarizer.rounds"\nvalues = [3, 3]'), "x"),
    "a claim about nobody": (grid("", '[[claim]]\nwhat = "x"\nbetter = "a"\nworse = "random"'), "x"),
    "a claim that is a number": (grid("[grid]", "claim = 3\n[grid]"), "x"),
    "a file name that is too long": (grid("small", "small", file="a" * 200 + ".toml"), "x"),
    "a file name that is a folder of all tables": (grid("small", "small", file="runs.toml"), "x"),
    "a file name that leads out": (grid("small", "small", file="...toml"), "x"),
    "only a method that is not there": (grid("small", "small", "--only", "wmdd"), "x"),
    "epochs that do not fit": (grid("small", "small", "--epochs", 1, 2), "x"),
    "tables in a file": (lambda box: box.call("tables", "wmdd-main", "--out", box.run / "config.json"), "x"),
    "rows of a table that are damaged": (lambda box: _rows(box, "[1]"), "x"),
    "rows of a table that are a pipe": (lambda box: _rows(box, "pipe"), "x"),
}  # fmt: skip


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


FLOATS = np.zeros((8, 3, 3, 3), np.float32)
HUB = {
    **{f"{part}.{key} is {value!r}"[:60]: (published(part, {key: value}), "x") for part, key, value in (
        ("vae", "layers_per_block", 2**63), ("vae", "layers_per_block", 0), ("vae", "layers_per_block", -1),
        ("vae", "layers_per_block", 1.5), ("vae", "layers_per_block", "2"), ("vae", "layers_per_block", True),
        ("vae", "block_out_channels", [8] * 60), ("vae", "block_out_channels", []),
        ("vae", "block_out_channels", [2**40, 2**40]), ("vae", "block_out_channels", [0, 0]),
        ("vae", "block_out_channels", 8), ("vae", "block_out_channels", [[8]]), ("vae", "in_channels", 10**9),
        ("vae", "latent_channels", 10**9), ("vae", "norm_num_groups", 0), ("vae", "scaling_factor", 0),
        ("vae", "scaling_factor", 1e300), ("vae", "scaling_factor", 10**400), ("vae", "sample_size", 10**9),
        ("vae", "down_block_types", {"a": 1}), ("vae", "act_fn", ["relu"]), ("vae", "in_channels", {"a": 1}),
        ("transformer", "num_layers", 10**9), ("transformer", "num_layers", 0), ("transformer", "patch_size", 0),
        ("transformer", "sample_size", 10**6), ("transformer", "num_attention_heads", 10**9),
        ("transformer", "num_embeds_ada_norm", 2**62), ("transformer", "num_embeds_ada_norm", None),
        ("unet", "layers_per_block", 10**9), ("unet", "block_out_channels", [8] * 50), ("unet", "norm_eps", -1),
        ("unet", "down_block_types", ["x"]), ("unet", "cross_attention_dim", 10**12),
        ("unet", "attention_head_dim", 0), ("text_encoder", "num_hidden_layers", 2**63),
        ("text_encoder", "hidden_size", 10**9), ("text_encoder", "vocab_size", 10**12),
        ("text_encoder", "num_attention_heads", 3), ("text_encoder", "max_position_embeddings", 0),
        ("text_encoder", "hidden_act", 5),
    )},
    "vae/config.json is gone": (published("vae", None), "x"),
    "vae/config.json is no JSON": (published("vae", "{"), "x"),
    "vae/config.json is a text": (published("vae", '"x"'), "x"),
    "vae/config.json is nested deep": (published("vae", DEEP), "x"),
    "vae/config.json has 5000 digits": (published("vae", f'{{"sample_size": {DIGITS}}}'), "x"),
    "vae/config.json has NaN": (published("vae", '{"scaling_factor": NaN}'), "x"),
    "vae/config.json has a key twice": (published("vae", '{"in_channels": 1, "in_channels": 3}'), "x"),
    "vae/config.json is not UTF-8": (published("vae", b"\xff\xfe"), "x"),
    "vae/config.json is a pipe": (published("vae", "pipe"), "x"),
    "vae/config.json is a folder": (published("vae", "folder"), "x"),
    "vae/config.json is a link to nowhere": (published("vae", "nowhere"), "x"),
    "a schedule of huge steps": (published("scheduler", {"num_train_timesteps": 10**12}, "scheduler_config.json"), "x"),
    "a schedule of no steps": (published("scheduler", {"num_train_timesteps": 0}, "scheduler_config.json"), "x"),
    "a schedule of an infinite beta": (published("scheduler", {"beta_end": 1e308}, "scheduler_config.json"), "x"),
    "a schedule of a negative beta": (published("scheduler", {"beta_start": -0.1}, "scheduler_config.json"), "x"),
    "a schedule of unknown betas": (published("scheduler", {"beta_schedule": "cosine"}, "scheduler_config.json"), "x"),
    "weights are gone": (published("vae", None, "diffusion_pytorch_model.safetensors"), "x"),
    "weights are a pipe": (published("vae", "pipe", "diffusion_pytorch_model.safetensors"), "x"),
    "weights are empty": (raw(b""), "x"),
    "weights are a text": (raw(b"nonsense, and more of it"), "x"),
    "weights with a huge header": (raw(header(b"{}", size=2**62)), "x"),
    "weights with a header that is no JSON": (raw(header(b"{{{{{{{{")), "x"),
    "weights with a header that is nested deep": (raw(header(DEEP.encode())), "x"),
    "weights beyond the file": (raw(header({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}})), "x"),
    "weights of a huge shape": (raw(header({"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}, b"0000")), "x"),
    "weights of a negative shape": (raw(header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"0000")), "x"),
    "weights of an unknown dtype": (raw(header({"a": {"dtype": "F7", "shape": [1], "data_offsets": [0, 4]}}, b"0000")), "x"),
    "weights that overlap": (raw(header({name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for name in "ab"}, b"0000")), "x"),
    "weights with NaN": (some(lambda x: x * np.nan), "x"),
    "weights with infinity": (some(lambda x: x + np.inf), "x"),
    "weights of integers": (some(lambda x: x.astype(np.int8)), "x"),
    "weights of another shape": (some(lambda x: np.zeros((2, 2), np.float32)), "x"),
    "weights with one missing": (weights(lambda x: dict(sorted(x.items())[1:])), "x"),
    "weights with one more": (weights(lambda x: x | {"more": FLOATS}), "x"),
    "pickled weights": (lambda box: _pickled(box), "x"),
    "an index that leads out": (index("../../elsewhere.safetensors"), "x"),
    "an index of an absolute path": (index("/etc/passwd"), "x"),
    "an index with a link out": (index("link.safetensors"), "x"),
    "an index of a file that is gone": (index("gone.safetensors"), "x"),
    "an index of a hidden file": (index(".."), "x"),
    "an index of nothing": (index(""), "x"),
    "an index of a number": (index(3), "x"),
    "a vocabulary of texts": (tokens({"a": "b"}), "x"),
    "a vocabulary of huge numbers": (tokens({"a": 10**30}), "x"),
    "a vocabulary of negative numbers": (tokens({"a": -1}), "x"),
    "a vocabulary with a number twice": (tokens('{"<|startoftext|>": 0, "<|endoftext|>": 0}'), "x"),
    "a vocabulary without its end": (tokens({"<|endoftext|>": DROP}), "x"),
    "merges are gone": (tokens(None, "merges.txt"), "x"),
    "merges are not UTF-8": (tokens(b"\xff", "merges.txt"), "x"),
    "merges are a pipe": (tokens("pipe", "merges.txt"), "x"),
    "merges of unknown tokens": (tokens("foo bar\n", "merges.txt"), "x"),
    "a padding that is a list": (tokens('{"pad_token": [1]}', "special_tokens_map.json"), "x"),
    "a padding that is unknown": (tokens('{"pad_token": "x"}', "special_tokens_map.json"), "x"),
    "a ResNet without classes": (resnet(**{"fc.weight": np.zeros((0, 8), np.float32)}), "x"),
    "a ResNet without channels": (resnet(**{"conv1.weight": np.zeros((0, 3, 3, 3), np.float32)}), "x"),
    "a ResNet of a kernel of five": (resnet(**{"conv1.weight": np.zeros((8, 3, 5, 5), np.float32)}), "x"),
    "a ResNet of a flat kernel": (resnet(**{"conv1.weight": np.zeros((8, 3), np.float32)}), "x"),
    "a ResNet of huge classes": (resnet(**{"fc.weight": np.zeros((200_000, 1), np.float32)}), "x"),
    "a ResNet with a part": (resnet(), "x"),
    "a ResNet of a mean in words": (resnet({"mean": "0.5"}), "x"),
    "a ResNet of a huge mean": (resnet({"mean": [1e300] * 3}), "x"),
    "a ResNet of a std of zero": (resnet({"std": [0, 0, 0]}), "x"),
    "a ResNet of a config that is a list": (resnet({"pretrained_cfg": [1]}), "x"),
}  # fmt: skip


def _pickled(box):
    place = box.hub("vae") / "diffusion_pytorch_model.safetensors"
    place.rename(place.with_suffix(".bin"))
    from jaxdd import pretrained

    return box.opened(pretrained.vae)


IMAGES = {
    "an image that is no image": (picture("nonsense"), "x"),
    "an image that is empty": (picture(b""), "x"),
    "an image that is a pipe": (picture("pipe"), "x"),
    "an image that is a loop": (picture("loop"), "x"),
    "an image that is a link to nowhere": (picture("nowhere"), "x"),
    "a test image that is no image": (picture("nonsense", "val"), "x"),
}

CASES = FLAGS | ON_A_RUN | GRIDS | HUB | IMAGES


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A run folder with images, a teacher, stored labels and results, as the programs leave it."""
    from bad_inputs import make_run

    return make_run(tmp_path_factory.mktemp("bad-inputs") / "run")


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
    call, pattern = CASES[name]
    status, _, err = call(Box(tmp_path, finished, request.getfixturevalue))
    refusals = [line for line in err.splitlines() if line.startswith("error: ")]
    lines[name] = " | ".join(refusals)
    assert status in (2, 3) and len(refusals) == 1 and "Traceback" not in err, err
    assert "\x1b" not in refusals[0] and len(refusals[0]) < 3000
