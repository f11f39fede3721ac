"""Arrays read with bounds, of which nothing else than what was written costs more than a line; and atomic writes."""

import contextlib
import io
import os
import struct
import subprocess
import tracemalloc
import zipfile

import numpy as np
import pytest
from helpers import message, mutants
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from jaxdd.ground import files
from jaxdd.ground.errors import InputError
from jaxdd.ground.files import atomic, map_array, read_arrays

MIB = 2**20


def npz(path, arrays, save=np.savez):
    with open(path, "wb") as file:
        save(file, **arrays)
    return path


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def header(descr="'<f4'", shape="(3,)", length=None, version=(1, 0)):
    """The header of an array that declares whatever one likes."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    size = struct.pack("<H" if version == (1, 0) else "<I", len(text) if length is None else length)
    return b"\x93NUMPY" + bytes(version) + size + text


def archive(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members:
            file.writestr(name, content)
    return path


DTYPES = st.sampled_from(["?", "u1", "<i2", ">i4", "<u8", "<f2", "<f4", ">f8", "<c8", "<U3", ">U2", "S4"])


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from([np.savez, np.savez_compressed]))
def test_what_numpy_writes_is_read(tmp_path_factory, draw, save):
    shapes = arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
    made = arrays_of.arrays(DTYPES, shapes)
    written = draw.draw(st.dictionaries(st.sampled_from(["a", "b", "mean/layer", "ü"]), made, max_size=3))
    written = {name: np.asfortranarray(array) if draw.draw(st.booleans()) else array for name, array in written.items()}
    path = npz(tmp_path_factory.mktemp("npz") / "x.npz", written, save)
    read = read_arrays(path, written, others=False)
    assert read.keys() == written.keys()
    for name, array in written.items():
        assert read[name].dtype == array.dtype.newbyteorder("=") and read[name].shape == array.shape
        np.testing.assert_array_equal(read[name], array)
        np.save(path, array)
        os.replace(f"{path}.npy", path)
        if array.dtype.kind in "US":
            assert "it holds text" in message(lambda: map_array(path))
        else:
            np.testing.assert_array_equal(map_array(path), array)


def test_large_arrays_and_their_checksums(tmp_path):
    array = np.random.default_rng(0).normal(size=(3, 2**19)).astype(np.float32)
    for save in (np.savez, np.savez_compressed):
        path = npz(tmp_path / "x.npz", {"a": array}, save)
        np.testing.assert_array_equal(read_arrays(path)["a"], array)
    path = npz(tmp_path / "x.npz", {"a": array})
    content = bytearray(path.read_bytes())
    content[3 * MIB] ^= 1
    path.write_bytes(content)
    assert "CRC" in message(lambda: read_arrays(path))
    mapped = map_array(npy_file(tmp_path, npy(array)))
    assert not mapped.flags.writeable and not mapped.flags.owndata


def npy_file(folder, content):
    (folder / "x.npy").write_bytes(content)
    return folder / "x.npy"


def test_the_arrays_must_be_those_that_are_wanted(tmp_path):
    path = npz(tmp_path / "x.npz", {"a": np.ones(2), "b": np.ones(2)})
    assert read_arrays(path, ("a",)).keys() == {"a", "b"}
    assert "'c' is missing" in message(lambda: read_arrays(path, ("a", "c")))
    assert "unknown array 'b'" in message(lambda: read_arrays(path, ("a",), others=False))


def small(name="a.npy", content=None):
    return name, npy(np.arange(3)) if content is None else content


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([small(), small("a")], "not arrays"),
        ([small("readme.txt")], "not arrays"),
        ([small(content=b"no array")], "magic"),
        ([small(content=npy(np.arange(3))[:-1])], "152 bytes, but 151"),
        ([small(content=npy(np.arange(3)) + b"x")], "152 bytes, but 153"),
        ([small(content=header(shape="(-3,)"))], "shape (-3,)"),
        ([small(content=header(shape="(3.0,)"))], "shape"),
        ([small(content=header(shape="(True,)") + bytes(4))], "shape (True,)"),
        ([small(content=header(shape="(10**9,)"))], "header"),
        ([small(content=header(shape="(1000000000000,)"))], "bytes, but"),
        ([small(content=header(shape=f"({2**62}, {2**62})"))], "bytes, but"),
        ([small(content=header("'<U0'", shape="(10000000000000,)"))], "bytes, but"),
        ([small(content=header("'|O'"))], "neither numbers nor text"),
        ([small(content=header("[('x', '<f4')]") + bytes(12))], "neither numbers nor text"),
        ([small(content=header("('<f4', (3,))") + bytes(36))], "neither numbers nor text"),
        ([small(content=header("'<M8[s]'") + bytes(24))], "neither numbers nor text"),
        ([small(content=header(length=60_000))], "takes 60000 bytes"),
        ([small(content=header(length=2**32 - 1, version=(2, 0)))], "takes 4294967295 bytes"),
        ([small(content=header(version=(3, 0)))], "unknown version"),
        ([small(content=header(shape="(" * 3000))], "cannot be read"),
        ([small(content=header() [:9])], "cannot be read"),
    ],
)  # fmt: skip
def test_headers_that_lie_are_one_line(tmp_path, members, words):
    path = archive(tmp_path / "x.npz", members)
    text = message(lambda: read_arrays(path))
    assert words in text and str(path) in text
    if len(members) == 1 and members[0][0] == "a.npy":
        assert "cannot be read" in message(lambda: map_array(npy_file(tmp_path, members[0][1])))


def measured(call):
    """The result of ``call`` and the most bytes that it held."""
    tracemalloc.start()
    try:
        return call(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "start", [header("'|u1'", f"({100 * MIB},)"), header(length=2**31, version=(2, 0))], ids=["elements", "header"]
)
def test_memory_is_refused_before_it_is_taken(tmp_path, start):
    """A file of 0.1 MB that expands to 100 MB, as elements or as the header of an array."""
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("a.npy", "w") as member:
        member.write(start)
        for _ in range(100):
            member.write(bytes(MIB))
    assert os.path.getsize(path) < MIB
    text, held = measured(lambda: message(lambda: read_arrays(path)))
    assert held < 4 * MIB, text


def test_other_compressions_are_refused(tmp_path):
    """That of LZMA may ask for a dictionary of 4 GiB."""
    for compression in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        path = archive(tmp_path / "x.npz", [small()], compression)
        assert "neither stored nor deflated" in message(lambda path=path: read_arrays(path))


def test_a_limit_holds_for_all_arrays_together(tmp_path):
    path = npz(tmp_path / "x.npz", {"a": np.zeros(1000, np.uint8), "b": np.zeros(1000, np.uint8)})
    assert "expand to 2256" in message(lambda: read_arrays(path, limit_bytes=2255))
    assert read_arrays(path, limit_bytes=2256)["b"].size == 1000


def test_members_that_share_their_bytes_are_not_read_twice(tmp_path):
    """Entries of the table of contents that all point to one member."""
    path = archive(tmp_path / "x.npz", [small(f"{name}.npy", npy(np.zeros(2000))) for name in "ab"])
    content = path.read_bytes()
    second = content.index(b"PK\1\2", content.index(b"PK\1\2") + 4)
    # The offset of the second member becomes that of the first, whose name is not the second's.
    path.write_bytes(content[: second + 42] + struct.pack("<I", 0) + content[second + 46 :])
    assert "cannot be read" in message(lambda: read_arrays(path))


@pytest.mark.parametrize("read", [read_arrays, map_array])
def test_only_regular_files_are_opened(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "folder", "link", "/dev/zero"):
        assert "not a regular file" in message(lambda name=name: read(tmp_path / name))
    assert "No such file" in message(lambda: read(tmp_path / "none"))
    (tmp_path / "empty").write_bytes(b"")
    assert "cannot be read" in message(lambda: read(tmp_path / "empty"))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_file_is_one_line_or_still_whole(tmp_path, save):
    arrays = {"a": np.arange(6.0).reshape(2, 3), "t": np.array(["one", "two"])}
    content = npz(tmp_path / "x.npz", arrays, save).read_bytes()
    refused = 0
    for k, mutant in enumerate(mutants(content, 400)):
        path = tmp_path / "mutant.npz"
        path.write_bytes(mutant)
        try:
            read = read_arrays(path, arrays, others=False)
        except InputError as error:
            assert "\n" not in str(error), k
            refused += 1
        else:
            # The checksums of the zip file see to it.
            for name, array in arrays.items():
                np.testing.assert_array_equal(read[name], array)
    assert 200 < refused < 400
    for mutant in mutants(npy(arrays["a"]), 100):
        try:
            map_array(npy_file(tmp_path, mutant))
        except InputError as error:
            assert "\n" not in str(error)


# Files that are whole or absent


def test_a_file_is_whole_or_as_it_was(tmp_path):
    place = tmp_path / "x"
    for error in (None, RuntimeError, KeyboardInterrupt):
        with contextlib.suppress(RuntimeError, KeyboardInterrupt), atomic(place) as aside:
            assert aside.parent == tmp_path and aside.name.startswith(".x.")
            aside.write_text("new" if error is None else "half")
            assert not error or place.read_text() == "new"
            if error:
                raise error
        assert place.read_text() == "new" and os.listdir(tmp_path) == ["x"]
    # A folder is made and removed likewise.
    with pytest.raises(RuntimeError), atomic(tmp_path / "y") as aside:
        (aside / "z").mkdir(parents=True)
        raise RuntimeError
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("name", ["a" * 255, "ä" * 127, "\N{SNOWMAN}" * 85, "a.b c", "-"])
def test_the_longest_names_can_be_written_aside(tmp_path, name, monkeypatch):
    monkeypatch.setattr(files, "_HOST", "h" * 40)
    monkeypatch.setattr(os, "getpid", lambda: 2**22)
    files.write_text(tmp_path / name, "x")
    assert os.listdir(tmp_path) == [name]
    with pytest.raises(SystemExit), atomic(tmp_path / name) as aside:
        monkeypatch.setattr(files, "remove", lambda place: None)  # as if killed
        aside.write_text("half")
        raise SystemExit
    monkeypatch.undo()
    assert len(os.listdir(tmp_path)) == 2
    files.sweep(tmp_path)
    assert len(os.listdir(tmp_path)) == 2, "of another host"
    files.sweep(tmp_path, alone=True)
    assert os.listdir(tmp_path) == [name] and (tmp_path / name).read_text() == "x"


@pytest.fixture(scope="module")
def dead():
    """The number of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_only_what_dead_processes_of_this_machine_left_is_swept(tmp_path, dead, kind):
    own, other = files._TOKEN, "0" * 6
    here, there = files._HOST, f"{files._HOST}x"
    left = {f".x.{dead}-{other}@{here}.part", f".x.y.{dead}-{own}@{here}.part", f".x.{os.getpid()}-{other}@{here}.part"}
    running = {
        f".x.{os.getpid()}-{own}@{here}.part", f".x.{os.getppid()}-{other}@{here}.part",
        f".x.{dead}-{other}@{there}.part", f".x.{10**30}-{other}@{here}.part",
    }  # fmt: skip
    others = {f"x.{dead}-{other}@{here}.part", ".x.part", ".lock", f".x.{dead}@{here}.part", "x.npz"}

    def made(names):
        for name in names:
            if kind == "file":
                (tmp_path / name).touch()
            elif kind == "folder":
                (tmp_path / name / "y").mkdir(parents=True)
            else:
                (tmp_path / name).symlink_to(tmp_path)

    made(left | running | others)
    files.sweep(tmp_path)
    assert set(os.listdir(tmp_path)) == running | others
    made({"y.orbax-checkpoint-tmp-7"})
    files.sweep(tmp_path, alone=True)
    assert set(os.listdir(tmp_path)) == others
    files.sweep(tmp_path / "none")


def test_who_writes_a_file_removes_what_dead_writers_of_it_left(tmp_path, dead):
    names = [f".{name}.{dead}-000000@{files._HOST}.part" for name in ("x", "y")]
    for name in names:
        (tmp_path / name).mkdir()
    files.write_text(tmp_path / "x", "new")
    assert sorted(os.listdir(tmp_path)) == [names[1], "x"]


def test_what_is_removed_at_once_is_there_or_not(tmp_path, monkeypatch):
    (tmp_path / "x" / "y").mkdir(parents=True)
    moved = []
    monkeypatch.setattr(files, "remove", moved.append)
    files.remove_at_once(tmp_path / "x")
    files.remove_at_once(tmp_path / "none")
    assert not (tmp_path / "x").exists() and [path.name[:3] for path in moved] == [".x."]
