"""What weights are worth, and how the distance falls with the number of atoms, made again from real data.

    python -m experiments.tables ot [--dataset NAME --teacher FOLDER --out FOLDER]

In the features of a teacher or, with `--space latents`, in the latents of an autoencoder. DDOQ (Tan and Slade, arXiv
2501.07681) reports 15.7 % less W2 at 10 atoms a class and 16.1 % at 50 from weighting D4M's centroids, in the VAE
latents of ImageNet-1K. A minute for the digits, which train their own teacher first.
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
from jaxdd.workspace import LatentConfig, TeacherConfig, open_workspace

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  the backend is chosen first
from matplotlib.ticker import MaxNLocator, ScalarFormatter  # noqa: E402

DDOQ = {10: 15.7, 50: 16.1}


@dataclass(frozen=True)
class OtConfig(TeacherConfig):
    """Which points, and how many atoms."""

    teacher: Path | None = None
    """Folder of a teacher that experiments.train wrote; default: one is trained."""
    space: str = "features"
    """"features" of the teacher, or "latents" of an autoencoder."""
    latent: LatentConfig = field(default_factory=LatentConfig)
    counts: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100, 200, 500)
    """Atoms a class; those beyond half of the smallest class are left out."""
    exact: int = 10
    """W2^2 under uniform weights is a linear program for each class: this many classes at most."""
    out: Path = Path("runs/tables")


def ot_rows(points: np.ndarray, labels: np.ndarray, counts: tuple[int, ...], exact: int) -> list[dict]:
    """One row a number of atoms; squared distances are means over the classes.

    free: W2^2 with cell masses. same_uniform: with equal weights on the same atoms. barycenter_uniform: with equal
    weights on atoms made for them. held_out: the distortion of the other half of the points, from one half.
    """
    classes = int(labels.max()) + 1
    members = [np.flatnonzero(labels == c) for c in range(classes)]
    halves = [np.concatenate([rows[side::2] for rows in members]) for side in (0, 1)]
    rows = []
    for m in progress(counts, "atoms"):
        free = summarize(points, labels, m)
        uniform = summarize(points, labels, m, weights="uniform")
        half = summarize(points[halves[0]], labels[halves[0]], m)
        same, held = [], []
        for c in range(classes):
            other = points[halves[1][labels[halves[1]] == c]]
            measure = Measure(other, np.full(len(other), 1 / len(other), np.float32))
            held.append(float(ot.distortion(measure, half.atoms.points[c])))
            if c < exact:
                own = Measure(points[members[c]], np.full(len(members[c]), 1 / len(members[c])))
                same.append(ot.exact(own, Measure(free.atoms.points[c], np.full(m, 1 / m))))
        weights = np.asarray(free.atoms.weights)
        some = slice(0, exact)
        rows.append({
            "m": m,
            "free": float(free.cost.mean()),
            "same_uniform": float(np.mean(same)),
            "barycenter_uniform": float(uniform.cost.mean()),
            "held_out": float(np.mean(held)),
            # In W2, class by class: the mean of the ratios, as their distances have no common scale.
            "weights_save": float(1 - np.mean(np.sqrt(np.asarray(free.cost)[some] / np.asarray(same)))),
            "uniform_costs": float(np.mean(np.sqrt(np.asarray(uniform.cost / free.cost))) - 1),
            "effective": float(np.mean(1 / (weights**2).sum(1))),
        })  # fmt: skip
    return rows


def zador(rows: list[dict], column: str, least: int = 5) -> tuple[float, float]:
    """The slope of log W2 over log m from `least` atoms on, and the dimension d of Zador's rate m^(-1/d)."""
    used = [row for row in rows if row["m"] >= least]
    slope = np.polyfit(np.log([row["m"] for row in used]), 0.5 * np.log([row[column] for row in used]), 1)[0]
    return float(slope), float(-1 / slope)


def ot_plot(rows: list[dict], title: str, path: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    m = np.array([row["m"] for row in rows])
    for column, label, style in (
        ("same_uniform", "quantizer, equal weights", "C1s--"),
        ("barycenter_uniform", "barycenter, equal weights", "C2^-"),
        ("free", "quantizer, cell masses", "C0o-"),
        ("held_out", "quantizer of half, other half", "C7x:"),
    ):
        slope, dimension = zador(rows, column)
        left.loglog(m, np.sqrt([row[column] for row in rows]), style, label=f"{label}: {slope:.3f}, {dimension:.1f}")
    left.set(xlabel="atoms a class, m", ylabel="W2", title="Zador's rate: slope, and dimension read off it")
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
    right.semilogx(x, costs, "C2^-", label="against atoms made for equal weights")
    right.plot(list(DDOQ), list(DDOQ.values()), "k*", ms=10, label="DDOQ, VAE latents of ImageNet-1K")
    right.set(
        xlabel="atoms a class, m", ylabel="less W2 through weights, %", title="What weights are worth", ylim=(0, None)
    )
    right.set_xticks(x, x)
    right.minorticks_off()
    right.legend(ncols=2, fontsize="small", **below)
    figure.suptitle(title)
    with atomic(path) as place:
        figure.savefig(place, dpi=130, format="png")
    plt.close(figure)


def table(config: OtConfig) -> None:
    """Make and print the table, and write it beside a plot into ``config.out``."""
    SPACES.find(config.space)
    workspace = open_workspace(config, config.out, config.teacher, config.latent)
    real = workspace.real
    most = int(np.bincount(real.source.labels["train"]).min()) // 2
    counts = tuple(m for m in config.counts if 1 <= m <= most)
    if len([m for m in counts if m >= 5]) < 2:
        raise InputError(f"`counts` {config.counts}: give two or more from 5 to {most}, half of the smallest class")
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
    """The rows as an aligned table, and Zador's rate below."""
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
