"""The size of an image as its file's header tells it, before anything is decoded.

Only kinds whose header is read here are decoded at all: a few bytes can claim any number of pixels,
and a decoder believes them. JPEGs are read in `decoding`, which needs more of their header.
"""

import re
import struct
from collections.abc import Iterator

from ns_jax.errors import InputError

# Widths and heights of a TIFF's image and tiles: a decoder makes room for a whole tile.
TIFF_SIDES = {256: "width", 257: "height", 322: "width", 323: "height"}
TIFF_KINDS = {3: "H", 4: "I", 16: "Q"}  # of numbers that a tag may hold
HEIC = (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypmsf1")
_GAP = rb"(?:\s|#[^\r\n]*[\r\n])+"  # space and comments
PNM = re.compile(rb"P[1-6]" + _GAP + rb"([0-9]{1,10})" + _GAP + rb"([0-9]{1,10})")


def size(data: bytes) -> tuple[int, int] | None:
    """(height, width) in pixels; None if it is of no kind that is read here.

    Raises struct.error, IndexError or InputError for a header that breaks off or makes no sense.
    """
    if data[:8] == b"\x89PNG\r\n\x1a\n":
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
    elif data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        width, height = _tiff(data)
    elif data[:2] in (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6"):
        found = PNM.match(data)
        if not found:
            raise InputError("no sides")
        width, height = map(int, found.groups())
    elif data[:4] == b"\xff\x4f\xff\x51":
        width, height = _jpeg_2000(data, 0)
    elif data[:12] == b"\0\0\0\x0cjP  \r\n\x87\n":
        starts = [start for start, _ in _boxes(data, 0, len(data), b"jp2c")]
        width, height = _jpeg_2000(data, starts[0])
    elif data[4:8] == b"ftyp" and _brands(data) & {b"avif", b"avis"}:  # and no HEIC or MP4
        width, height = _avif(data)
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


def _tiff(data: bytes) -> tuple[int, int]:
    """(width, height) of the first image, or of its tiles where they are larger."""
    order = "<" if data[:1] == b"I" else ">"
    big = b"+" in data[2:4]  # 64 bits instead of 32
    (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
    if count > 1 << 16:
        raise InputError("more tags than there can be")
    first, length, value = (start + 8, 20, 12) if big else (start + 2, 12, 8)
    sides = {"width": 0, "height": 0}
    for entry in range(first, first + count * length, length):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        if tag in TIFF_SIDES and kind in TIFF_KINDS:
            (side,) = struct.unpack_from(order + TIFF_KINDS[kind], data, entry + value)
            sides[TIFF_SIDES[tag]] = max(sides[TIFF_SIDES[tag]], side)
    return sides["width"], sides["height"]


def _jpeg_2000(data: bytes, start: int) -> tuple[int, int]:
    """(width, height) of a codestream, which begins with its sides and what they begin at."""
    if data[start : start + 4] != b"\xff\x4f\xff\x51":
        raise InputError("no codestream")
    right, bottom, left, top = struct.unpack_from(">IIII", data, start + 8)
    return max(0, right - left), max(0, bottom - top)


def _brands(data: bytes) -> set[bytes]:
    """What kinds of file this is, as its first box says."""
    (end,) = struct.unpack_from(">I", data)
    return {data[at : at + 4] for at in (8, *range(16, min(end, len(data)), 4))}


def _avif(data: bytes) -> tuple[int, int]:
    """(width, height), the largest that any of its images says."""
    sides = [
        struct.unpack_from(">II", data, start + 4)
        for meta in _boxes(data, 0, len(data), b"meta")
        for properties in _boxes(data, meta[0] + 4, meta[1], b"iprp")
        for container in _boxes(data, *properties, b"ipco")
        for start, _ in _boxes(data, *container, b"ispe")
    ]
    if not sides:
        raise InputError("no sides")
    return max(width for width, _ in sides), max(height for _, height in sides)


def _boxes(data: bytes, start: int, end: int, kind: bytes) -> Iterator[tuple[int, int]]:
    """(start, end) of the contents of boxes of a kind, which JPEG 2000 and AVIF are made of."""
    while start + 8 <= end:
        (length,) = struct.unpack_from(">I", data, start)
        header = 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, start + 8)
            header = 16
        length = length or end - start  # 0: up to the end
        if length < header:
            raise InputError("a box smaller than its header")
        if data[start + 4 : start + 8] == kind:
            yield start + header, min(start + length, end)
        start += length
