"""The size of an image as its file's header tells it, before anything is decoded.

Only kinds whose header is read here are decoded at all: a few bytes can claim any number of pixels,
and a decoder believes them. JPEGs are read in `decoding`, which needs more of their header.
"""

import re
import struct

from ns_jax.data import boxes, png, tiff
from ns_jax.errors import InputError

HEIC = (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypmsf1")
_GAP = rb"(?:\s|#[^\r\n]*[\r\n])+"  # space and comments
_NUMBER = rb"([0-9]{1,10})"
PNM = re.compile(rb"P[1-6]" + _GAP + _NUMBER + _GAP + _NUMBER)
PNM_MAXIMUM = re.compile(PNM.pattern + _GAP + _NUMBER)  # of those that are not black and white


def size(data: bytes) -> tuple[int, int] | None:
    """(height, width) in pixels; None if it is of no kind that is read here.

    Raises struct.error, IndexError or InputError for a header that breaks off or makes no sense.
    """
    if data[:8] == png.SIGNATURE:
        if data[12:16] != b"IHDR":
            raise InputError("a PNG begins with IHDR")
        width, height = struct.unpack_from(">II", data, 16)
    elif data[:4] == b"GIF8":
        width, height = struct.unpack_from("<HH", data, 6)
    elif data[:2] == b"BM":
        (length,) = struct.unpack_from("<I", data, 14)
        # OS/2's header has short sides; a negative height is of an image that is stored upright.
        width, height = map(abs, struct.unpack_from("<HH" if length == 12 else "<ii", data, 18))
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        width, height = _webp(data)
    elif data[:4] in tiff.SIGNATURES:
        width, height = tiff.size(data)
    elif data[:2] in (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6"):
        found = PNM.match(data)
        if not found:
            raise InputError("no sides")
        width, height = map(int, found.groups())
    elif data.startswith((boxes.CODESTREAM, boxes.JPEG_2000)):
        width, height = boxes.jpeg_2000_size(data)
    elif boxes.is_avif(data):
        width, height = boxes.avif_size(data)
    else:
        return None
    return height, width


def is_image(beginning: bytes) -> bool:
    """Whether a file that begins so is meant as an image, of a kind that is read here or HEIC."""
    if beginning[:2] == b"\xff\xd8" or beginning[4:12] in HEIC:
        return True
    if b"\0" not in beginning and not PNM.match(beginning):
        return False  # text, whatever its first letters
    try:
        return size(beginning) is not None
    except (struct.error, IndexError, ValueError):
        return True


def _webp(data: bytes) -> tuple[int, int]:
    """(width, height) of the three kinds of WebP: lossy, lossless, extended."""
    kind = data[12:16]
    if kind == b"VP8 ":
        return tuple(side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = (data[at] | data[at + 1] << 8 | data[at + 2] << 16 for at in (24, 27))
    return 1 + width, 1 + height


def pnm_maximum(data: bytes) -> int:
    """The number that stands for white in a PGM or PPM; 255 where the file has none."""
    found = PNM_MAXIMUM.match(data) if data[1:2] in b"2356" else None
    return int(found[3]) if found else 255
