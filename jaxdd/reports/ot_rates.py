"""The value of weights, and how W2 falls with the number of atoms, measured on real data.

    jaxdd tables ot [--dataset NAME --teacher FOLDER --out FOLDER]

The points are the features of a teacher or, with `--space latents`, the latents of an autoencoder. For comparison, DDOQ
(Tan and Slade, arXiv 2501.07681) reports that weighting D4M's centroids reduces W2 by 15.7 % at 10 atoms per class and
by 16.1 % at 50, in the VAE latents of ImageNet-1K. Digits take a minute, including the training of the teacher.
"""

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import numpy as np

from jaxdd import ot
from jaxdd.ground.errors import InputError
from jaxdd.ground.files import atomic, write_text
from jaxdd.ground.measure import Measure
from jaxdd.ground.progress import progress
from jaxdd.reports import tables
from jaxdd.stages.encode import SPACES
from jaxdd.stages.summarize import summarize
from jaxdd.workspace import LatentConfig, TeacherConfig, Workspace, open_workspace

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  the backend must be chosen first
from matplotlib.ticker import MaxNLocator, ScalarFormatter  # noqa: E402

DDOQ = {10: 15.7, 50: 16.1}


@dataclass(frozen=True)
class OtConfig(TeacherConfig):
    """The points to summarize, and the numbers of atoms."""

    teacher: Path | None = None
    """Folder of a teacher from jaxdd train; default: one is trained."""
    space: str = "features"
    """"features" of the teacher, or "latents" of an autoencoder."""
    latent: LatentConfig = field(default_factory=LatentConfig)
    counts: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100, 200, 500)
    """Atoms per class; numbers above half the size of the smallest class are left out."""
    exact: int = 10
    """The largest number of classes for which W2^2 under uniform weights is computed; each is a linear program."""
    out: Path = Path("runs/tables")


def _uniform(points: np.ndarray) -> Measure:
    return Measure(points, np.full(len(points), 1 / len(points), np.float32))


def ot_rows(points: np.ndarray, labels: np.ndarray, counts: tuple[int, ...], exact: int) -> list[dict]:
    """One row per number of atoms; squared distances are means over the classes.

    free: W2^2 with cell masses. same_uniform: with equal weights on the same atoms. barycenter_uniform: with equal
    weights on atoms optimised for them. held_out: quantize one half of the points, and measure the distortion of the
    other half.
    """
    members = [np.flatnonzero(labels == c) for c in range(int(labels.max()) + 1)]
    first_half = np.concatenate([rows[::2] for rows in members])
    whole, second_half = ([_uniform(points[rows[one]]) for rows in members] for one in (slice(None), slice(1, None, 2)))
    rows = []
    for m in progress(counts, "atoms"):
        free = summarize(points, labels, m)
        uniform = summarize(points, labels, m, weights="uniform")
        half = summarize(points[first_half], labels[first_half], m)
        held_out = [float(ot.distortion(mu, z)) for mu, z in zip(second_half, half.atoms.points)]
        same = [ot.exact(mu, _uniform(z)) for mu, z in zip(whole[:exact], free.atoms.points)]
        weights = np.asarray(free.atoms.weights)
        some = slice(0, exact)
        rows.append({
            "m": m,
            "free": float(free.cost.mean()),
            "same_uniform": float(np.mean(same)),
            "barycenter_uniform": float(uniform.cost.mean()),
            "held_out": float(np.mean(held_out)),
            # Ratios of W2 for each class, then their mean: the distances of different classes have no common scale.
            "weights_save": float(1 - np.mean(np.sqrt(np.asarray(free.cost)[some] / np.asarray(same)))),
            "uniform_costs": float(np.mean(np.sqrt(np.asarray(uniform.cost / free.cost))) - 1),
            "effective": float(np.mean(1 / (weights**2).sum(1))),
        })  # fmt: skip
    return rows


def zador(rows: list[dict], column: str, least: int = 5) -> tuple[float, float]:
    """The slope of log W2 over log m for m >= ``least``, and the dimension d in Zador's rate m^(-1/d)."""
    used = [row for row in rows if row["m"] >= least]
    slope = np.polyfit(np.log([row["m"] for row in used]), 0.5 * np.log([row[column] for row in used]), 1)[0]
    return float(slope), float(-1 / slope)


def ot_plot(rows: list[dict], title: str, path: Path) -> None:
    """Plot W2 over the number of atoms, and the saving through weights, into a PNG."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    m = np.array([row["m"] for row in rows])
    for column, label, style in (
        ("same_uniform", "quantizer, equal weights", "C1s--"),
        ("barycenter_uniform", "barycenter, equal weights", "C2^-"),
        ("free", "quantizer, cell masses", "C0o-"),
        ("held_out", "quantizer of one half, other half", "C7x:"),
    ):
        slope, dimension = zador(rows, column)
        left.loglog(m, np.sqrt([row[column] for row in rows]), style, label=f"{label}: {slope:.3f}, {dimension:.1f}")
    left.set(xlabel="atoms per class, m", ylabel="W2", title="Zador's rate: slope and intrinsic dimension")
    left.set_xticks(m, m)
    left.minorticks_off()
    left.yaxis.set_major_locator(MaxNLocator(6))
    left.yaxis.set_major_formatter(ScalarFormatter())
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "columnspacing": 1.0}
    left.legend(ncols=2, fontsize="small", **below)
    several = rows[1:] if rows[0]["m"] == 1 else rows
    x = [row["m"] for row in several]
    right.semilogx(x, [100 * row["weights_save"] for row in several], "C0o-", label="on the same atoms")
    costs = [100 * (1 - 1 / (1 + row["uniform_costs"])) for row in several]
    right.semilogx(x, costs, "C2^-", label="against atoms optimised for equal weights")
    right.plot(list(DDOQ), list(DDOQ.values()), "k*", ms=10, label="DDOQ, VAE latents of ImageNet-1K")
    right.set(
        xlabel="atoms per class, m", ylabel="W2 saved by weights, %", title="The value of weights", ylim=(0, None)
    )
    right.set_xticks(x, x)
    right.minorticks_off()
    right.legend(ncols=2, fontsize="small", **below)
    figure.suptitle(title)
    with atomic(path) as place:
        figure.savefig(place, dpi=130, format="png")
    plt.close(figure)


def opened(config: OtConfig) -> tuple[Workspace, str, tuple[int, ...]]:
    """The data, the space, and the numbers of atoms that the smallest class allows.

    Raises:
      InputError: an unknown space, or fewer than two usable numbers of atoms from 5 on.
    """
    SPACES.find(config.space)
    workspace = open_workspace(config, config.out, config.teacher, config.latent)
    most = int(np.bincount(workspace.real.source.labels["train"]).min()) // 2
    counts = tuple(m for m in config.counts if 1 <= m <= most)
    if len([m for m in counts if m >= 5]) < 2:
        raise InputError(
            f"`counts` {config.counts} is too short; give two or more from 5 to {most}, half of the smallest class"
        )
    return workspace, config.space, counts


def table(config: OtConfig) -> None:
    """Compute and print the table, and write it and a plot into ``config.out``.

    Raises:
      InputError: an unknown space, or fewer than two usable numbers of atoms from 5 on.
    """
    workspace, _, counts = opened(config)
    real = workspace.real
    encoded = workspace.classes(config.space).encoded
    features = "autoencoder" not in SPACES[config.space].needs
    kind = workspace.teacher.info["model"] if features else "vae"
    words = f"{kind} features" if features else "latents"
    rows = ot_rows(encoded.features, encoded.labels, counts, config.exact)
    name = f"{real.name}, {words} of {encoded.features.shape[1]} dimensions"
    text = f"{name}\n{as_text(rows)}"
    stem = config.out / f"ot-{real.name}-{kind}"
    config.out.mkdir(parents=True, exist_ok=True)
    sheet = io.StringIO()
    writer = csv.DictWriter(sheet, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(stem.with_suffix(".csv"), sheet.getvalue())
    write_text(stem.with_suffix(".txt"), f"{text}\n")
    ot_plot(rows, name, stem.with_suffix(".png"))
    print(f"{text}\n\nplot: {stem.with_suffix('.png')}")


def as_text(rows: list[dict]) -> str:
    """The rows as an aligned table, with Zador's rate below it."""
    head = ["m", "W2^2 free", "same atoms, equal", "best equal", "held out", "W2 saved", "equal costs", "effective m"]
    body = [
        [str(row["m"]), *(f"{row[name]:.4g}" for name in ("free", "same_uniform", "barycenter_uniform", "held_out")),
         f"{100 * row['weights_save']:.1f} %", f"{100 * row['uniform_costs']:.1f} %", f"{row['effective']:.1f}"]
        for row in rows
    ]  # fmt: skip
    lines = [tables.columns(head, body), ""]
    for column, whose in (("free", "the points themselves"), ("held_out", "held-out points")):
        slope, dimension = zador(rows, column)
        lines.append(
            f"log W2 over log m from 5 atoms on, {whose}: slope {slope:.4f}, intrinsic dimension {dimension:.1f}"
        )
    return "\n".join(lines)
