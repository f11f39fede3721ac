"""Decoding of image files to uint8 [S, S, C]: upright, composited over white, resized and centre-cropped."""

import contextlib
import io
import logging
import os
import re
import struct
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from jaxdd.data.checks import printable
from jaxdd.ground.errors import InputError
from jaxdd.ground.files import open_regular
from jaxdd.ground.progress import note

PROBES = 64
DEFAULT_SIZE = 224
_THUMBNAIL_PIXELS = 64 * 64
_GREY = ("1", "L", "LA", "I")
_ALPHA = ("LA", "PA", "RGBA")
_ORIENTATION = 0x0112
# What Pillow multiplies the levels of grey PNG files with, by its name of their layout.
_FEW_BITS = {"1": 255, "L;2": 85, "L;4": 17}
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What cameras, browsers and scanners write. Pillow has readers of more formats; that of EPS runs another program.
_FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "TIFF", "BMP", "DIB", "PPM", "JPEG2000", "AVIF", "ICO", "TGA")
# Pixels of any file, and of each of its bytes: decoding takes up to 25 bytes a pixel, whatever the size of the file.
_PIXELS, _PIXELS_A_BYTE = 2**25, 100
_PILLOW = re.compile(r"PIL\.")
# Without a handler of the program, Python would print the log of a damaged file to stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())

# What Pillow's parser of EXIF data raises for malformed blocks.
_BROKEN_EXIF = (
    ArithmeticError, AttributeError, EOFError, LookupError, OSError, SyntaxError, TypeError, ValueError, struct.error
)  # fmt: skip

Encoded = tuple[str, str | bytes]  # the name in error messages; a file path or the encoded bytes


class DamagedImage(InputError):
    """An image that cannot be read. The message names it and the reason."""


def check_request(image_size: int | None, channels: int | None) -> None:
    """Raise InputError unless image_size is None or a positive integer, and channels is None, 1 or 3."""
    if image_size is not None and (not isinstance(image_size, int | np.integer) or image_size < 1):
        raise InputError(f"image_size {image_size!r}: give a side of at least one pixel, such as 32, or None")
    if channels is not None and channels not in (1, 3):
        raise InputError(f"channels {channels!r}: give 1 (grey), 3 (RGB) or None")


def fit(image: Image.Image, size: int, channels: int) -> np.ndarray:
    """Convert an image to uint8 [size, size, channels].

    The image is turned upright as by `PIL.ImageOps.exif_transpose`; EXIF data that cannot be parsed turn nothing.
    Transparency is composited over white, and 16-bit grey v becomes round(v / 257). The largest centred square is
    resampled with an antialiased triangle ("bilinear") filter; this equals resizing the shorter side to ``size`` and
    cropping the centre. If the shorter side is ``size``, pixels are unchanged. RGB is converted to grey by ITU-R 601
    luma, and grey to RGB by repetition. Of several frames the first is taken.

    Raises:
      ValueError: pixels without a fixed range, which are floating point or integers of more than 16 bits.
    """
    _match_transparency(image)
    image = _eight_bits(_upright(image)).convert("L" if channels == 1 else "RGB")
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side)
    if side == size:
        image = image.crop(box)
    else:
        # Resampling only the box, instead of cropping after resampling, avoids huge arrays for elongated images.
        image = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return np.array(image, np.uint8).reshape(size, size, channels)


def _match_transparency(image: Image.Image) -> None:
    """Bring the transparent level or colour of a PNG file, whose pixels are not read yet, to the depth of the pixels.

    Pillow widens levels of less than eight bits, and keeps the high bytes only of colours of 16 bits, but leaves the
    level or colour that is transparent as it stands in the file.
    """
    if not isinstance(image, ImageFile.ImageFile) or image.format != "PNG" or not image.tile:
        return
    clear, layout = image.info.get("transparency"), image.tile[0][3]
    if isinstance(clear, int) and isinstance(layout, str) and layout in _FEW_BITS:
        factor = _FEW_BITS[layout]
        image.info["transparency"] = (clear & 255 // factor) * factor
    elif isinstance(clear, tuple) and layout == "RGB;16B" and image.fp:
        file, tile, key = image.fp, image.tile[0], np.array(clear)
        image.load()
        file.seek(0)
        with Image.open(file, formats=["PNG"]) as again:
            # The other order of bytes than that of the file: what Pillow takes for the high ones are the low ones.
            again.tile = [(*tile[:3], "RGB;16L")]  # type: ignore[attr-defined, list-item]
            same = (np.asarray(image) == key >> 8) & (np.asarray(again) == key & 255)
        image.paste("white", mask=Image.fromarray(same.all(-1)))
        del image.info["transparency"]


def _upright(image: Image.Image) -> Image.Image:
    # Pillow's TIFF reader turns the image while it loads the pixels, and drops the tag then.
    image.load()
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except _BROKEN_EXIF:
        return image  # the pixels are sound, and it is not known that they are turned
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range, save it with 8 or 16 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("pixels need more than 16 bits, save it with 8 or 16 bits")
        grey = np.rint(values / 257).astype(np.uint8)
        clear = image.info.get("transparency")
        return Image.fromarray(grey if clear is None else np.where(values == clear, np.uint8(255), grey))
    if image.mode in _ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def decode(encoded: Encoded, shape: tuple[int, int, int]) -> np.ndarray:
    """Decode one image file, or its bytes, to uint8 of ``shape`` (S, S, C); see `fit`.

    Raises:
      DamagedImage: the image cannot be read, is damaged, has more than 2 `PIL.Image.MAX_IMAGE_PIXELS` pixels, or has
        more than 2^25 pixels and than 100 for each byte of the file.
    """
    with _opened(encoded) as image:
        return fit(image, shape[0], shape[2])


def decode_batch(encoded: Sequence[Encoded], shape: tuple[int, int, int]) -> np.ndarray:
    """Decode images to uint8 [k, S, S, C], with one thread per processor.

    Raises:
      DamagedImage: see `decode`.
    """
    images = np.empty((len(encoded), *shape), np.uint8)

    def fill(rows: np.ndarray) -> None:
        for row in rows:
            images[row] = decode(encoded[row], shape)

    workers = min(os.cpu_count() or 1, len(encoded))
    # For thumbnails, threads mostly wait for the interpreter lock, and two are slower than one.
    if workers < 2 or np.prod(_header(encoded[0])[0]) <= _THUMBNAIL_PIXELS:
        fill(np.arange(len(encoded)))
        return images
    parts = np.array_split(np.arange(len(encoded)), min(len(encoded), 4 * workers))
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(fill, parts))
    return images


def fit_arrays(pixels: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Pixels uint8 [k, H, W, C] as uint8 [k, *shape]; see `fit`."""
    if pixels.shape[1:] == shape:
        return pixels
    pictures = (Image.fromarray(one[..., 0] if one.shape[-1] == 1 else one) for one in pixels)
    return np.stack([fit(picture, shape[0], shape[2]) for picture in pictures]) if len(pixels) else np.empty(
        (0, *shape), np.uint8)  # fmt: skip


def shape_for(
    sample: Callable[[], Sequence[Encoded]],
    image_size: int | None,
    channels: int | None,
    skip: bool = False,
    place: str = "",
) -> tuple[int, int, int]:
    """The shape (S, S, C) of the decoded images.

    A size or number of channels that is None is derived from the headers of a sample, which are read only then. The
    size is the side of the images if all are equal squares, else 224. The channels are 1 if all are grey, else 3. With
    ``skip``, images whose headers cannot be read do not count. If it is 224 for want of a common size, a line says so
    that begins with ``place``, the name of the dataset.

    Raises:
      DamagedImage: a header cannot be read, or with ``skip`` none.
    """
    if image_size is not None and channels is not None:
        return int(image_size), int(image_size), int(channels)
    sizes, grey = kinds(sample(), skip)
    size = image_size or side_of(sizes, place)
    return int(size), int(size), int(channels or (1 if grey else 3))


def kinds(sample: Sequence[Encoded], skip: bool = False) -> tuple[set[tuple[int, int]], bool]:
    """The sizes (width, height) of images, and whether all are grey, by their headers; see `shape_for`."""
    sizes, grey, damage = set(), True, None
    for encoded in sample:
        try:
            image_sides, mode = _header(encoded)
        except DamagedImage as error:
            damage = error
            if skip:
                continue
            raise
        sizes.add(image_sides)
        grey &= mode in _GREY or mode.startswith("I;16")
    if damage and not sizes:
        raise damage
    return sizes, grey


def side_of(sizes: Collection[tuple[int, int]], place: str = "") -> int:
    """The side of images of these sizes: their own if all are equal squares, else 224, which a line says."""
    (width, height), *others = sorted(sizes) or [(0, 0)]
    if width == height and not others:
        return width or DEFAULT_SIZE
    if place:
        note(f"{printable(place)}: {described(sizes)} become {DEFAULT_SIZE}x{DEFAULT_SIZE} pixels; `image_size` says "
             "otherwise")  # fmt: skip
    return DEFAULT_SIZE


def described(sizes: Collection[tuple[int, int]]) -> str:
    """Images of these sizes, in words."""
    first, *others = (f"{width}x{height}" for width, height in sorted(sizes))
    return f"images of several sizes, such as {first} and {others[-1]}," if others else f"images of {first} pixels"


def evenly_spaced(count: int, most: int) -> np.ndarray:
    """At most ``most`` of the indices 0 .. count - 1, evenly spaced and ascending, int64."""
    if count <= most:
        return np.arange(count)
    return np.arange(most) * count // most


def _header(encoded: Encoded) -> tuple[tuple[int, int], str]:
    with _opened(encoded) as image:
        return image.size, image.mode


@contextlib.contextmanager
def _opened(encoded: Encoded) -> Iterator[Image.Image]:
    """An image whose pixels are not read yet; every error here and in the block becomes a `DamagedImage`."""
    place, content = encoded
    _hush()
    try:
        file = io.BytesIO(content) if isinstance(content, bytes) else open_regular(content)
        with file, Image.open(file, formats=_formats()) as image:
            size = len(content) if isinstance(content, bytes) else os.fstat(file.fileno()).st_size
            if image.width * image.height > max(_PIXELS, _PIXELS_A_BYTE * size):
                raise ValueError(f"it declares {image.width} x {image.height} pixels in {size} bytes")
            yield image
    # Pillow's decoders raise many types on damaged files, and MemoryError on sizes that cannot be.
    except Exception as error:
        raise DamagedImage(_unreadable(place, error)) from error


@cache
def _formats() -> list[str]:
    """The formats that are read, as far as this Pillow has them."""
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _hush() -> None:
    """Do not print Pillow's warnings: an image is either read or named in an error.

    The filter is not taken away again, as `warnings.catch_warnings` would do: that is not safe with threads.
    """
    if warnings.filters[:1] != [("ignore", None, Warning, _PILLOW, 0)]:
        warnings.filterwarnings("ignore", module=_PILLOW.pattern)


def _unreadable(place: str, error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # Pillow names the open file, which has no name
        error = ValueError("it is empty, or of no known format")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
    return f"image {printable(place)} cannot be read ({reason or type(error).__name__}): repair it or remove it"
