"""What stands before a JPEG's pixels."""

import dataclasses
import struct
from collections.abc import Iterator

from ns_jax.data import exif

# Markers that no length follows: a stuffed byte, TEM, restarts, and a second beginning.
ALONE = (0x00, 0x01, *range(0xD0, 0xD9))
SCAN, EXIF, JFIF, COMMENT = 0xDA, 0xE1, 0xE0, 0xFE
# Of what applications leave, these two say what the colours are: JFIF and Adobe.
OF_COLOURS = (JFIF, 0xEE)
END = b"\xff\xd9"


@dataclasses.dataclass(frozen=True)
class Header:
    """What the first frame and the first scan say."""

    place: int  # of the height among the bytes
    height: int  # as stored, not yet upright
    width: int
    orientation: int  # 1 upright, 5 to 8 with rows and columns exchanged
    one_scan: bool  # rows from top to bottom, all colours together

    @property
    def size(self) -> tuple[int, int]:
        stored = self.height, self.width
        return stored[::-1] if 5 <= self.orientation <= 8 else stored


def header(data: bytes) -> Header:
    """Raises IndexError, struct.error or ValueError if it breaks off."""
    orientation, frame = exif.UPRIGHT, None
    for marker, position, length in _segments(data):
        # Start of frame: 0xC0 to 0xCF but for three tables that share the range.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame, sequential, colours = position + 4, marker <= 0xC1, data[position + 8]
        elif marker == EXIF and data[position + 3 : position + 9] == b"Exif\0\0":
            orientation = exif.orientation(data[position + 9 : position + 1 + length])
        elif marker == SCAN and frame is not None:
            height, width = struct.unpack_from(">HH", data, frame)
            one_scan = sequential and data[position + 3] == colours
            return Header(frame, height, width, orientation, one_scan)
    raise ValueError("a scan without a frame")


def plain(data: bytes) -> bytes:
    """The same image without what a library would complain of before its pixels: rubbish between
    the segments, what applications leave, and a version of JFIF that is none.
    """
    kept = [data[:2]]
    for marker, position, length in _segments(data):
        segment = b"\xff" + data[position : position + 1 + length]
        if marker == JFIF and segment[4:9] == b"JFIF\0":
            segment = segment[:9] + b"\1\1" + segment[11:]
        if marker == SCAN:
            return b"".join([*kept, b"\xff", data[position:]])
        if marker in OF_COLOURS or not (0xE0 <= marker <= 0xEF or marker == COMMENT):
            kept.append(segment)
    return data


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, its position, length after it) up to the first scan."""
    position, marker = 2, 0
    while marker != SCAN:
        position = data.index(0xFF, position)  # a decoder skips rubbish between the segments
        while data[position] == 0xFF:  # any number of them may fill up before a marker
            position += 1
        marker = data[position]
        if marker in ALONE:
            continue
        (length,) = struct.unpack_from(">H", data, position + 1)
        yield marker, position, length
        position += 1 + length
