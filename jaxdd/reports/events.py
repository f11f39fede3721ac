"""Event files for TensorBoard, by tensorboardX. A run that goes on adds to them, and repeats no step."""

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

_MAGNIFIED = 64
_FILES = "events.out.tfevents.*"


class Events:
    """Writes event files into the folders of several runs, as TensorBoard calls what it draws in one colour.

    Steps ascend. A value of a step that its tag has already, from an earlier attempt, is left out: it would be equal.

    Args:
      folder: the folder of all of them, which is made with the first value.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._writers: dict[str, Any] = {}
        self._last: dict[str, dict[str, int]] = {}

    def __enter__(self) -> "Events":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Finish the files that are open."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def scalars(self, run: str, step: int, values: Mapping[str, float]) -> None:
        """Write numbers by their tags."""
        for tag, value in self._new(run, step, values):
            self._writers[run].add_scalar(tag, value, step)

    def images(self, run: str, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Write pictures, uint8 [H, W, ch], by their tags; small ones are magnified without smoothing."""
        for tag, pixels in self._new(run, step, pictures):
            zoom = max(1, _MAGNIFIED // len(pixels))
            self._writers[run].add_image(tag, pixels.repeat(zoom, 0).repeat(zoom, 1), step, dataformats="HWC")

    def _new(self, run: str, step: int, values: Mapping[str, Any]) -> list[tuple[str, Any]]:
        """The values whose tags have not come as far as this step."""
        if run not in self._last:
            self._last[run] = last_steps(self.folder / run)
        last = self._last[run]
        fresh = [(tag, value) for tag, value in ((clean(tag), value) for tag, value in values.items())
                 if step > last.get(tag, -1)]  # fmt: skip
        if fresh and run not in self._writers:
            from tensorboardX import SummaryWriter

            self.close()  # a writer is a thread and an open file, and there is a run for every few classes
            # Names hold the second, in which there may be two of them.
            number = len(list((self.folder / run).glob(_FILES)))
            self._writers[run] = SummaryWriter(str(self.folder / run), filename_suffix=f".{number:06d}")
        last |= {tag: step for tag, _ in fresh}
        return fresh

    def flush(self) -> None:
        """Write what is kept back; a process that is killed later does not lose it."""
        for writer in self._writers.values():
            writer.flush()


def clean(tag: str) -> str:
    """A tag of the characters that tensorboardX keeps."""
    from tensorboardX.summary import _clean_tag

    return _clean_tag(tag)


def last_steps(folder: Path) -> dict[str, int]:
    """The last step of each tag in the event files of a folder."""
    last: dict[str, int] = {}
    for file in sorted(folder.glob(_FILES)):
        for event in read(file):
            for value in event.summary.value:
                last[value.tag] = max(last.get(value.tag, -1), event.step)
    return last


def read(file: Path) -> Iterator[Any]:
    """The events of a file, up to the first that is torn or damaged, as TensorBoard reads them."""
    from google.protobuf.message import DecodeError
    from tensorboardX.proto.event_pb2 import Event

    content = file.read_bytes()
    at = 0
    # A record is its length, a checksum of that, the event, and a checksum of that.
    while len(content) >= at + 12:
        (size,) = struct.unpack_from("<Q", content, at)
        if size > len(content) - at - 16:
            return
        try:
            yield Event.FromString(content[at + 12 : at + 12 + size])
        except DecodeError:
            return
        at += 16 + size
