"""Execute the notebook on this machine; kill it again and again, and compare what comes out with an undisturbed run.

    python notebooks/execute.py --out runs/notebook

Needs nbclient and ipykernel (requirements-notebook.txt). The kernel runs in an empty folder, as in Colab, and imports
the installed jaxdd or, if there is none, that of this checkout; with --repository the notebook installs it from there.
The kernel is killed (SIGKILL) while the teacher is trained, while pixels are optimised and while students are trained.
Each time all cells are run again, in a new kernel. The images and the table must be those of the undisturbed run.
Executed notebooks and their pictures are left in the folder.
"""

import argparse
import base64
import importlib.util
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode

NOTEBOOK = Path(__file__).with_name("colab.ipynb")


@dataclass(frozen=True)
class Cut:
    """When to kill a kernel, and what the next one says.

    Attributes:
      place: a pattern of a path below the folder of the runs.
      seconds: how long after the path has appeared.
      says: a line in the output of the next attempt; None: nothing is finished yet.
    """

    place: str
    seconds: float
    says: str | None


CUTS = (
    Cut("*/teachers/*/parts", 8.0, None),
    Cut("*/digits/parts/*.npz", 0.0, "of 10 classes are done"),
    Cut("*/students/students-*.json", 0.0, "is finished already"),
)


def opened(repository: str | None) -> NotebookNode:
    """The notebook; ``repository`` takes the place of the one that its first cell installs from."""
    notebook = nbformat.read(NOTEBOOK, nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    if repository:
        (cell,) = (cell for cell in notebook.cells if cell.id == "install")
        cell.source = re.sub(r'(?m)^REPOSITORY = ".*"$', f"REPOSITORY = {repository!r}", cell.source)
    return notebook


def execute(notebook: NotebookNode, folder: Path, kernel: str, cut: Cut | None = None) -> NotebookNode:
    """Execute all cells in a new kernel that works in ``folder``; with ``cut``, until it is killed.

    Returns:
      The notebook with the outputs.

    Raises:
      RuntimeError: the kernel ended before it could be killed.
      CellExecutionError: a cell failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    client = NotebookClient(notebook, timeout=1800, kernel_name=kernel, resources={"metadata": {"path": str(folder)}})
    over = threading.Event()
    if cut is not None:
        threading.Thread(target=_kill, args=(client, folder / "jaxdd-runs", cut, over), daemon=True).start()
    try:
        client.execute()
    except DeadKernelError:
        if cut is None:
            raise
        return notebook
    finally:
        over.set()
    if cut is not None:
        raise RuntimeError(f"the kernel ended before {cut.place} appeared")
    return notebook


def _kill(client: NotebookClient, runs: Path, cut: Cut, over: threading.Event) -> None:
    while not any(runs.glob(cut.place)):
        if over.wait(0.02):
            return
    if not over.wait(cut.seconds):
        os.kill(client.km.provisioner.pid, signal.SIGKILL)


def texts(notebook: NotebookNode, *cells: str) -> str:
    """What the cells of these ids have printed and logged; default: what all cells have."""
    outputs = [output for cell in notebook.cells if not cells or cell.id in cells for output in cell.get("outputs", [])]
    return "".join(output.text for output in outputs if output.output_type == "stream")


def table(notebook: NotebookNode) -> str:
    """The table of the students of the digits."""
    (cell,) = (cell for cell in notebook.cells if cell.id == "students")
    return "".join(output.text for output in cell.outputs if output.get("name") == "stdout")


def pictures(notebook: NotebookNode) -> Iterator[tuple[str, bytes]]:
    """The names and the bytes of the PNG pictures in the outputs."""
    for cell in notebook.cells:
        for k, output in enumerate(cell.get("outputs", [])):
            if "image/png" in output.get("data", {}):
                yield f"{cell.id}-{k}.png", base64.b64decode(output.data["image/png"])


def seconds(cell: NotebookNode) -> float:
    """How long a cell ran."""
    times = cell.metadata.get("execution", {})
    begun, ended = (times.get(name) for name in ("iopub.execute_input", "shell.execute_reply"))
    if not begun or not ended:
        return float("nan")
    return (datetime.fromisoformat(ended) - datetime.fromisoformat(begun)).total_seconds()


def save(notebook: NotebookNode, place: Path) -> None:
    """Write an executed notebook, and its pictures into a folder beside it."""
    nbformat.write(notebook, place)
    folder = place.with_suffix(".pictures")
    folder.mkdir()
    for name, content in pictures(notebook):
        (folder / name).write_bytes(content)


def distilled(folder: Path) -> dict[str, bytes]:
    """The files of the distilled digits by their paths."""
    (run,) = (folder / "jaxdd-runs").glob("*/digits/distilled")
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


def check(condition: bool, claim: str) -> None:
    """Print a claim, or end the program if it is false."""
    print(("ok: " if condition else "FAILED: ") + claim, flush=True)
    if not condition:
        sys.exit(1)


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--out", type=Path, default=Path("runs/notebook"), help="a folder, which is replaced")
    flags.add_argument("--kernel", default="python3", help="the name of the kernel")
    flags.add_argument(
        "--repository", help="a URL of Git from which the notebook installs, where jaxdd is not installed"
    )
    given = flags.parse_args()
    out = given.out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    if importlib.util.find_spec("jaxdd") is None and not given.repository:
        os.environ["PYTHONPATH"] = str(NOTEBOOK.parents[1])

    begun = time.monotonic()
    whole = execute(opened(given.repository), out / "whole", given.kernel)
    save(whole, out / "whole.ipynb")
    print(texts(whole, "device") + table(whole))
    for cell in whole.cells:
        if seconds(cell) > 1:
            print(f"{cell.id}: {seconds(cell):.0f} s")
    print(f"all cells: {time.monotonic() - begun:.0f} s", flush=True)
    drawn = {name.rpartition("-")[0] for name, _ in pictures(whole)}
    check(drawn >= {"digits", "preview", "atoms", "students"}, "the cells of the digits show pictures")

    said = None
    for k, cut in enumerate((*CUTS, None), 1):
        attempt = execute(opened(given.repository), out / "cut", given.kernel, cut)
        save(attempt, out / f"cut-{k}.ipynb")
        if said is not None:
            check(said in texts(attempt), f"attempt {k} goes on: {said!r}")
        said = cut and cut.says
    check(distilled(out / "cut") == distilled(out / "whole"), f"the images are the same after {len(CUTS)} kills")
    check(table(attempt) == table(whole), "the table of the students is the same")


if __name__ == "__main__":
    main()
