"""AVIF and JPEG 2000, which are made of boxes: their sides, and how they are to be turned."""

import struct
from collections.abc import Iterator

from ns_jax.data import exif
from ns_jax.errors import InputError

JPEG_2000 = b"\0\0\0\x0cjP  \r\n\x87\n"
CODESTREAM = b"\xff\x4f\xff\x51"  # of JPEG 2000, without boxes
EXIF_OF_JPEG_2000 = b"JpgTiffExif->JP2"  # the name of the box, as cameras' and Adobe's tools use it
# An AVIF's turns by 90 degrees against the clock, without and with a mirror: as EXIF counts them.
# (mirror: None, 0 top to bottom, 1 left to right; it comes after the turn)
ORIENTATIONS = {
    None: (1, 8, 3, 6),
    0: (4, 5, 2, 7),
    1: (2, 7, 4, 5),
}


def is_avif(data: bytes) -> bool:
    """Whether it is one, and no HEIC or MP4."""
    return data[4:8] == b"ftyp" and bool(_brands(data) & {b"avif", b"avis"})


def _brands(data: bytes) -> set[bytes]:
    """What kinds of file this is, as its first box says."""
    (end,) = struct.unpack_from(">I", data)
    return {data[at : at + 4] for at in (8, *range(16, min(end, len(data)), 4))}


def avif_size(data: bytes) -> tuple[int, int]:
    """(width, height), the largest that any of its images says."""
    sides = [
        struct.unpack_from(">II", data, start + 4)
        for properties, _ in _properties(data)
        for start, _ in boxes(data, *properties, b"ispe")
    ]
    if not sides:
        raise InputError("no sides")
    return max(width for width, _ in sides), max(height for _, height in sides)


def avif_orientation(data: bytes) -> int:
    """That of the main image, by its properties `irot` and `imir`, as the standard has it.

    EXIF inside an AVIF says how it was before it was turned, and does not count.
    """
    turns, mirror = 0, None
    for meta in boxes(data, 0, len(data), b"meta"):
        main = [_item(data, start) for start, _ in boxes(data, meta[0] + 4, meta[1], b"pitm")]
        for (start, end), associations in _properties(data):
            every = list(_all_boxes(data, start, end))
            for number in associations.get(main[0] if main else None, ()):
                if not 1 <= number <= len(every):
                    continue
                kind, (content, _) = every[number - 1]
                if kind == b"irot":
                    turns = data[content] & 3
                elif kind == b"imir":
                    mirror = data[content] & 1
    return ORIENTATIONS[mirror][turns]


def _item(data: bytes, start: int) -> int:
    return struct.unpack_from(">I" if data[start] else ">H", data, start + 4)[0]


def _properties(data: bytes) -> Iterator[tuple[tuple[int, int], dict]]:
    """(where the properties of images lie, image: numbers of its properties)."""
    for meta in boxes(data, 0, len(data), b"meta"):
        for start, end in boxes(data, meta[0] + 4, meta[1], b"iprp"):
            associations: dict[int, list[int]] = {}
            for association, _ in boxes(data, start, end, b"ipma"):
                associations |= _associations(data, association)
            for container in boxes(data, start, end, b"ipco"):
                yield container, associations


def _associations(data: bytes, start: int) -> dict[int, list[int]]:
    version, wide = data[start], data[start + 3] & 1
    (count,), position, found = struct.unpack_from(">I", data, start + 4), start + 8, {}
    for _ in range(count):
        (item,) = struct.unpack_from(">I" if version else ">H", data, position)
        position += 4 if version else 2
        size, mask = (2, 0x7FFF) if wide else (1, 0x7F)  # the first bit says: essential
        places = range(position + 1, position + 1 + data[position] * size, size)
        found[item] = [int.from_bytes(data[at : at + size], "big") & mask for at in places]
        position = position + 1 + len(places) * size
    return found


def jpeg_2000_size(data: bytes) -> tuple[int, int]:
    """(width, height) of a codestream, which begins with its sides and what they begin at."""
    start = 0
    if data.startswith(JPEG_2000):
        start = next((start for start, _ in boxes(data, 0, len(data), b"jp2c")), len(data))
    if data[start : start + 4] != CODESTREAM:
        raise InputError("no codestream")
    right, bottom, left, top = struct.unpack_from(">IIII", data, start + 8)
    return max(0, right - left), max(0, bottom - top)


def jpeg_2000_orientation(data: bytes) -> int:
    for start, end in boxes(data, 0, len(data), b"uuid"):
        if data[start : start + 16] == EXIF_OF_JPEG_2000:
            return exif.orientation(data[start + 16 : end].removeprefix(b"Exif\0\0"))
    return exif.UPRIGHT


def boxes(data: bytes, start: int, end: int, kind: bytes) -> Iterator[tuple[int, int]]:
    """(start, end) of the contents of boxes of a kind."""
    return (content for found, content in _all_boxes(data, start, end) if found == kind)


def _all_boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """(kind, (start, end) of the content) of boxes that stand side by side."""
    while start + 8 <= end:
        (length,) = struct.unpack_from(">I", data, start)
        header = 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, start + 8)
            header = 16
        length = length or end - start  # 0: up to the end
        if length < header:
            raise InputError("a box smaller than its header")
        yield data[start + 4 : start + 8], (start + header, min(start + length, end))
        start += length
