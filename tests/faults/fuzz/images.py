"""Image files: headers and pixels."""

import io

import numpy as np
from faults.fuzz import mutate
from faults.fuzz.rules import Target
from PIL import Image

from jaxdd.data import image

EXIF = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"


def encoded(kind, mode, **options):
    """A picture of 9x8 pixels in a format and a mode."""
    ramp = np.arange(9 * 8 * 4, dtype=np.uint8).reshape(8, 9, 4)
    if mode == "I;16":
        picture = Image.fromarray(257 * ramp[..., 0].astype(np.uint16))
    else:
        picture = Image.fromarray(ramp).convert("RGB" if mode == "CMYK" else "RGBA").convert(mode)
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


SEEDS = [
    *(("PNG", mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    ("PNG", "P", {"transparency": 3}), ("PNG", "RGB", {"transparency": (1, 2, 3)}), ("PNG", "L", {"exif": EXIF}),
    ("JPEG", "L", {}), ("JPEG", "RGB", {"exif": EXIF}), ("JPEG", "RGB", {"progressive": True}), ("JPEG", "CMYK", {}),
    ("GIF", "P", {}), ("GIF", "L", {"transparency": 0}),
    ("GIF", "P", {"save_all": True, "append_images": [Image.new("P", (9, 8), 3)], "disposal": 2}),
    ("WEBP", "RGB", {}), ("WEBP", "RGBA", {"lossless": True}),
    ("WEBP", "RGB", {"save_all": True, "append_images": [Image.new("RGB", (9, 8), "red")]}),
    *(("TIFF", "RGB", {"compression": one}) for one in (None, "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")),
    ("TIFF", "1", {"compression": "group4"}), ("TIFF", "I;16", {}), ("TIFF", "RGBA", {}), ("TIFF", "P", {}),
    ("JPEG2000", "RGB", {}), ("AVIF", "RGB", {}), ("ICO", "RGBA", {"sizes": [(9, 8)]}), ("TGA", "RGB", {"rle": True}),
    ("BMP", "1", {}), ("BMP", "P", {}), ("BMP", "RGB", {}), ("BMP", "RGBA", {}), ("PPM", "L", {}), ("PPM", "RGB", {}),
]  # fmt: skip


def seeds():
    Image.init()
    plain = [b"P3 2 1 255 1 2 3 4 5 6\n", b"P2\n# a\n2 2\n15\n1 2 3 4\n", b"P1 2 2 0 1 1 0\n"]
    return [encoded(*one, **options) for *one, options in SEEDS if one[0] in Image.SAVE] + plain


def read(folder, data):
    del folder
    channels = 1 if len(data) % 2 else 3
    assert image.decode(("picture", data), (4, 4, channels)).shape == (4, 4, channels)
    side, _, channels = image.shape_for(lambda: [("picture", data)], None, None)
    assert side > 0 and channels in (1, 3)


TARGET = Target("images", seeds, mutate.either(mutate.raw, mutate.as_png), read)
