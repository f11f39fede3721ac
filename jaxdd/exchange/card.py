"""The card of an exported dataset: README.md, with the front matter that the Hugging Face hub reads."""

import json
import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np

import jaxdd
from jaxdd.data.distilled import DistilledDataset
from jaxdd.exchange import items
from jaxdd.exchange.base import Form
from jaxdd.ground.errors import InputError, one_line
from jaxdd.recipes import PAPERS
from jaxdd.reports import run_page, tables
from jaxdd.students.rows import caption, cell

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_UNKNOWN = "unknown"
_LICENCE = re.compile(r"[\w.+-]{1,60}")


def check_licence(name: str) -> str:
    """A licence identifier of the hub, such as cc-by-4.0; InputError for anything else."""
    if not _LICENCE.fullmatch(name):
        raise InputError(f"`license` {name!r} is no identifier; give one such as cc-by-4.0, mit, other or unknown")
    return name


class Facts(NamedTuple):
    """What is known of an export beside its images.

    Attributes:
      title: of the card.
      licence: an identifier of the hub.
      command: the command line that made the images, if it is known.
      soft: the soft labels of the images, float32 [n, K], if they have some.
      streams: the stream.json of stored soft labels, if the export has some.
      held_out: whether students were tested on train images that were held out.
    """

    title: str
    licence: str
    command: str | None
    soft: np.ndarray | None
    streams: dict | None
    held_out: bool = False


def card(dataset: DistilledDataset, form: Form, rows: Sequence[dict], facts: Facts) -> str:
    """The text of README.md; ``rows``: of evaluation.json, for the table of scores."""
    known = dataset.provenance
    blocks = [
        _front(dataset, form, facts),
        f"# {_plain(facts.title)}",
        "![some of the images, a row a class](preview.png)",
        _what(dataset, form),
        "## Use",
        "In this folder:",
        _code("python", form.use),
        _soft(facts.streams),
        "## Scores",
        _scores(rows, facts.held_out),
        "## Provenance",
        _provenance(known, facts.command),
        "## Licence",
        _licensing(known, facts.licence),
        "## Cite",
        _cite(known),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _front(dataset: DistilledDataset, form: Form, facts: Facts) -> str:
    count = len(dataset.labels)
    size = next((name for most, name in _SIZES if count < most), "n>1M")
    entries = {
        "license": facts.licence,
        "pretty_name": one_line(facts.title),
        "task_categories": ["image-classification"],
        "tags": ["dataset-distillation", "jaxdd"],
        "size_categories": [size],
    }
    if form.hub:
        entries |= form.hub(dataset, facts.soft is not None, items.configuration(dataset, facts.soft))
    # JSON is YAML, but for characters that JSON would escape as two halves.
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in entries.items()]
    return "\n".join(["---", *lines, "---"])


def _what(dataset: DistilledDataset, form: Form) -> str:
    height, width, channels = dataset.images.shape[1:]
    names = ", ".join(map(_plain, dataset.class_names[:20])) + (", ..." if len(dataset.class_names) > 20 else "")
    source = dataset.provenance.get("dataset")
    of = f" of {_plain(source)}" if isinstance(source, str) else ""
    return (
        f"A distilled dataset{of}: {len(dataset.labels)} images of {width} x {height} x {channels} pixels, "
        f"{dataset.ipc} for each of {len(dataset.class_names)} classes ({names}), as {form.title}. A model that is "
        "trained on them alone is meant to be nearly as good as one trained on all real images. `weight` is the share "
        f"of its class that an image stands for: multiply its loss by {dataset.ipc} times its weight, of mean one."
    )


def _soft(streams: dict | None) -> str:
    if streams is None:
        return ""
    return (
        f"`soft/` has the teacher's answers on {streams['steps']} augmented batches of {streams['batch_size']} images "
        f"({streams['epochs']} epochs, form {streams['form']}) with the crops, flips and mixes as plain arrays. "
        "`python student.py test.npz` trains a student on them with PyTorch and NumPy alone. Its code shows how they "
        "are read. `test.npz` holds the images to test on: `x_test`, uint8 [n, H, W, C] of the size of the distilled "
        "ones, and `y_test`, the numbers of their classes in the order of `class_names` in `soft/stream.json`. "
        "docs/export.md of jaxdd has a recipe that makes it from a folder of images."
    )


def _scores(rows: Sequence[dict], held_out: bool) -> str:
    if not rows:
        return "Not measured. `jaxdd evaluate` trains students on the images and tests them on real ones."
    kinds = list(dict.fromkeys(row["labels"] for row in rows))
    head = ["method", "IPC", "student", *map(caption, kinds)]
    lines = [
        [method, "all" if ipc is None else str(ipc), student, *(cell(cells[k]) if k in cells else "" for k in kinds)]
        for (_, student, method, ipc), cells in tables.by_line(rows).items()
    ]
    seeds = {len(row["accuracies"]) for row in rows}
    above, *below = (f"| {' | '.join(map(_plain, line))} |" for line in [head, *lines])
    table = "\n".join([above, "|" + " --- |" * len(head), *below])
    many = f"{min(seeds)} to {max(seeds)}" if len(seeds) > 1 else f"{min(seeds)}"
    over = "of 1 seed" if seeds == {1} else f"mean and standard deviation over {many} seeds"
    where = "held-out train images" if held_out else "the real test images"
    return (
        f"Top-1 accuracy in percent of students on {where} of {_plain(rows[0]['dataset'])}, {over}. Each column is a "
        "protocol of `jaxdd evaluate`. All methods in it are trained in the same way, `random` on random real images."
        f"\n\n{table}{_lengths(rows)}"
    )


def _lengths(rows: Sequence[dict]) -> str:
    """How long students were trained under each protocol, as far as the rows say it."""
    said = {}
    for row in rows:
        if all(isinstance(row.get(name), int) for name in ("epochs", "steps", "batch_size")):
            said[row["labels"], row["ipc"]] = (
                f"{caption(row['labels'])}, {row['ipc']} images per class: {row['steps']:,} steps of "
                f"{row['batch_size']} images ({row['epochs']:,} epochs)"
            )
    return "\n\nLength of the training: " + "; ".join(map(_plain, said.values())) + "." if said else ""


def _provenance(known: dict, command: str | None) -> str:
    teacher = known.get("teacher") if isinstance(known.get("teacher"), dict) else {}
    facts = {
        "dataset": known.get("dataset"),
        "method": known.get("method"),
        "teacher": teacher and run_page.teacher(teacher),
        "latent model": known.get("latents"),
        "seed": known.get("seed"),
        "device": known.get("device"),
        "versions": f"jaxdd {jaxdd.__version__}" + (f", jax {known['jax']}" if "jax" in known else ""),
    }
    lines = [f"- {name}: {_plain(value)}" for name, value in facts.items() if value not in (None, {}, "")]
    recipe = json.dumps(known.get("recipe"), indent=1, sort_keys=True, default=str) if "recipe" in known else ""
    parts = ["\n".join(lines), _code("sh", command) if command else "", _code("json", recipe) if recipe else ""]
    return "\n\n".join(part for part in parts if part)


def _licensing(known: dict, licence: str) -> str:
    source = known.get("dataset")
    of = f"of {_plain(source)} " if isinstance(source, str) else ""
    given = "No licence was given." if licence == _UNKNOWN else f"These files: {_plain(licence)}."
    return f"{given} The images were made from those {of}and may be bound by their terms."


def _cite(known: dict) -> str:
    paper = PAPERS.get(str(known.get("method")).removesuffix("-paper"))
    lines = [f"- The method: [arXiv {paper}](https://arxiv.org/abs/{paper})."] if paper else []
    return "\n".join([*lines, "- jaxdd, with which the images were made: its CITATION.cff."])


def without_places(config: dict) -> dict:
    """A config.json in which paths of the machine are names, as a card is for others."""
    changed = dict(config)
    for name in ("dataset", "out", "teacher", "data_dir"):
        value = changed.get(name)
        if isinstance(value, str) and PurePath(value).is_absolute() | value.startswith(("~", ".")):
            changed[name] = PurePath(value).name
    return changed


def _code(language: str, text: str) -> str:
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def _plain(value: Any) -> str:
    """A value as text of one line in which nothing is markup."""
    return re.sub(r"([\\`*_{}\[\]<>#|~!])", r"\\\1", one_line(str(value)))
