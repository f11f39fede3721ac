"""Image files against Pillow's own reading of them: every format, orientation and mode, and damage of all kinds."""

import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from helpers import message, mutants
from PIL import Image, ImageOps

from jaxdd.data import image

SIDE = 20
FORMATS = {
    "png": ("PNG", {}),
    "jpg": ("JPEG", {"quality": 100, "subsampling": 0}),
    "webp": ("WEBP", {"lossless": True}),
    "tif": ("TIFF", {}),
    "lzw.tif": ("TIFF", {"compression": "tiff_lzw"}),
    "deflate.tif": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    "mpo.jpg": ("MPO", {"quality": 100, "subsampling": 0}),
}
PIXELS = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 4), np.uint8)


def drawn(mode):
    """A random picture of a mode."""
    if mode == "I;16":
        return Image.fromarray(PIXELS[..., :2].copy().view("<u2")[..., 0])
    if mode == "P":
        picture = Image.fromarray(PIXELS[..., 0] % 8, "P")
        picture.putpalette(PIXELS[0].tobytes()[:24])
        return picture
    return Image.fromarray(PIXELS, "RGBA").convert(mode)


def written(picture, kind, **options):
    format_name, more = FORMATS[kind]
    buffer = io.BytesIO()
    picture.save(buffer, format_name, **more, **options)
    return buffer.getvalue()


def seen(content):
    """The upright picture over white as Pillow reads it; as it is stored if its EXIF data cannot be parsed."""
    picture = Image.open(io.BytesIO(content))
    try:
        picture = ImageOps.exif_transpose(picture)
    except Exception:
        picture = Image.open(io.BytesIO(content))
    if picture.mode.startswith("I"):
        return np.rint(np.asarray(picture) / 257).astype(np.uint8)[..., None].repeat(3, -1)
    picture = picture.convert("RGBA")
    return np.asarray(Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB"))


def decoded(content):
    return image.decode(("x", content), (SIDE, SIDE, 3))


@pytest.mark.parametrize("kind", FORMATS)
def test_every_orientation_is_that_of_pillow(tmp_path, kind):
    turned = set()
    # libtiff writes no other values.
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = written(drawn("RGB"), kind, exif=exif)
        (tmp_path / "x").write_bytes(content)
        np.testing.assert_array_equal(decoded(content), seen(content))
        np.testing.assert_array_equal(decoded(str(tmp_path / "x")), seen(content))
        turned.add(decoded(content).tobytes())
    assert len(turned) == 8


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *(("png", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
        *(("webp", mode) for mode in ("L", "RGB", "RGBA")),
        *((kind, mode) for kind in ("tif", "lzw.tif") for mode in ("L", "P", "RGB", "RGBA", "CMYK", "I;16")),
        *(("jpg", mode) for mode in ("L", "RGB", "CMYK")),
    ],
)  # fmt: skip
def test_every_mode_is_turned_alike(kind, mode):
    for orientation in (1, 6):
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = written(drawn(mode), kind, exif=exif)
        np.testing.assert_array_equal(decoded(content), seen(content))


def test_of_several_frames_the_first_is_taken():
    frames = [drawn("RGB"), drawn("RGB").rotate(90)]
    for kind in ("png", "webp", "lzw.tif"):
        content = written(frames[0], kind, save_all=True, append_images=frames[1:])
        np.testing.assert_array_equal(decoded(content), np.asarray(frames[0]))


def png(depth, samples, key):
    """A PNG file of samples [H, W], grey levels, or [H, W, 3], with a transparent one, as its specification says."""

    def chunk(name, content):
        crc = zlib.crc32(name + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + name + content + crc

    rows = b""
    for row in samples:
        bits = np.unpackbits(row.astype(">u2").reshape(-1, 1).view(np.uint8), axis=1)[:, 16 - depth :]
        rows += b"\0" + np.packbits(bits).tobytes()
    header = struct.pack(">IIBBBBB", samples.shape[1], len(samples), depth, 2 * (samples.ndim - 2), 0, 0, 0)
    chunks = {b"IHDR": header, b"tRNS": np.array(key, ">u2").tobytes(), b"IDAT": zlib.compress(rows), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks.items())


@pytest.mark.parametrize(("depth", "channels"), [(1, 1), (2, 1), (4, 1), (8, 1), (16, 1), (8, 3), (16, 3)])
def test_what_is_transparent_is_compared_at_the_depth_of_the_file(depth, channels):
    samples = np.random.default_rng(depth).integers(0, 2**depth, (SIDE, SIDE, channels))
    key = np.array([0x12C8, 0x0005, 0xC8C8][:channels]) % 2**depth
    # Of other colours, these share the high bytes, the low bytes, or have one where the key has the other.
    for k, near in enumerate((key, key ^ 1, key + 256, key >> 8, key << 8, key * 257)):
        samples[k] = near % 2**depth
    clear = (samples == key).all(-1)
    assert clear.any() and not clear.all()
    most = 2**depth - 1
    levels = samples >> 8 if (depth, channels) == (16, 3) else np.rint(samples / most * 255)
    want = np.where(clear[..., None], 255, levels).astype(np.uint8).repeat(3 // channels, -1)
    content = png(depth, samples[..., 0] if channels == 1 else samples, key)
    np.testing.assert_array_equal(decoded(content), want)


def test_a_transparent_level_of_16_bits_turns_white():
    content = written(drawn("I;16"), "png")
    level = int(np.asarray(drawn("I;16"))[3, 4])
    # A chunk of transparency goes before the first of data.
    chunk = b"tRNS" + level.to_bytes(2, "big")
    place = content.index(b"IDAT") - 4
    chunk = (2).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    pixels = decoded(content[:place] + chunk + content[place:])
    want = seen(content).copy()
    want[3, 4] = 255
    np.testing.assert_array_equal(pixels, want)


TURN = Image.Exif()
TURN[0x0112] = 6


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0" + TURN.tobytes(),
        b"Exif\0\0\x00\x08\x00\x02\x01\x12\x00\x03",
        TURN.tobytes()[:-12],
        b"Exif\0\0",
        b"\xff" * 40,
        b"b'Exif\\x00\\x00II*",
        TURN.tobytes()[:10] + b"\xff\xff\xff\xff" + TURN.tobytes()[14:],
    ],
)
def test_broken_exif_data_cost_no_image(exif):
    for kind in ("png", "jpg", "webp"):
        content = written(drawn("RGB"), kind, exif=exif)
        np.testing.assert_array_equal(decoded(content), seen(content))


def test_nothing_is_printed_or_raised_but_one_line(tmp_path, recwarn, capfd):
    """Bytes changed at random; libtiff, which prints by itself, is left out."""
    warnings.simplefilter("always")
    read = 0
    for kind in ("png", "jpg", "webp", "tif", "mpo.jpg"):
        exif = {"exif": TURN}
        for k, mutant in enumerate(mutants(written(drawn("RGB"), kind, **exif), 150)):
            try:
                assert decoded(mutant).shape == (SIDE, SIDE, 3), k
                read += 1
            except image.DamagedImage as error:
                assert "\n" not in str(error) and "image x cannot be read" in str(error)
    assert 50 < read < 600 and not recwarn.list and capfd.readouterr() == ("", "")


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    for place in (tmp_path / "pipe.png", "/dev/zero", tmp_path):
        assert "not a regular file" in message(lambda place=place: decoded(str(place)))
    assert "symbolic links" in message(lambda: decoded(str(tmp_path / "loop.png")))
    assert "No such file" in message(lambda: decoded(str(tmp_path / "none.png")))
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/a\nb\xff.png")
    text = message(lambda: image.decode((odd, odd), (SIDE, SIDE, 3)))
    assert "a\\nb\\udcff.png" in text and text.encode()


def test_what_is_no_image_is_named_by_its_place(tmp_path):
    (tmp_path / "x.png").write_bytes(b"")
    for place, content in ((str(tmp_path / "x.png"),) * 2, ("x", b""), ("x", b"rubbish")):
        text = message(lambda place=place, content=content: image.decode((place, content), (SIDE, SIDE, 3)))
        assert f"image {place} cannot be read (it is empty, or of no known format)" in text


def test_sizes_that_cannot_be_are_refused_from_the_header():
    content = bytearray(written(drawn("RGB"), "png"))
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    assert "exceeds limit" in message(lambda: decoded(bytes(content)))


def test_damaged_headers_do_not_count_if_they_may_be_skipped():
    whole = ("whole", written(drawn("L"), "png"))
    shape = lambda sample, skip: image.shape_for(lambda: sample, None, None, skip)
    assert shape([("bad", b"rubbish"), whole], True) == (SIDE, SIDE, 1)
    for sample, skip in (([("bad", b"rubbish"), whole], False), ([("bad", b"rubbish")], True)):
        assert "image bad " in message(lambda sample=sample, skip=skip: shape(sample, skip))
