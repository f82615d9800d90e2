"""From the bytes of an image file to pixels, by way of its header.

The header gives the size before anything is decoded: images that are too large are refused unread,
and a JPEG may be decoded at half, a quarter or an eighth of its size (its cosine transform scales),
and only down to the last row that is wanted.
"""

import ctypes
import dataclasses
import struct
from typing import Any

import cv2
import numpy as np
import simplejpeg

from ns_jax.data import headers

# Markers of a JPEG that no length follows: a stuffed byte, TEM, restarts, and a second beginning.
MARKERS_ALONE = (0x00, 0x01, *range(0xD0, 0xD9))
MAX_PIXELS = 100_000_000  # of an image, unless data.max_pixels says otherwise
# OpenCV's reduced modes are BGR or grey; grey's bits beside RGB's are the reduced RGB.
_FLAGS = {
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_8,
}

cv2.setNumThreads(1)  # the readers are the parallelism
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # bad images are ours to report


def _keep_freed_memory() -> None:
    """Lets glibc reuse the half-megabyte arrays of images instead of returning each to the system.

    Without it every array costs its page faults again: a training view took 2.5 ms, with it 1.5.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:  # glibc: M_TRIM_THRESHOLD is -1, M_MMAP_THRESHOLD -3 (32 MiB is its largest)
        mallopt(-1, 1 << 30)
        mallopt(-3, 32 << 20)


_keep_freed_memory()


class BadImageError(Exception):
    """An image that cannot be read; the message is the reason, as it stands in label shards."""


class Picture:
    """An image that may not be decoded yet."""

    def __init__(self, data: bytes | np.ndarray, max_pixels: int = MAX_PIXELS):
        """Reads the header of an image file, or takes an RGB array `[H, W, 3]` as it is.

        Raises BadImageError: empty, not an image, or more than `max_pixels`.
        """
        self._data: Any = data  # bytes, unless it is what `_whole` is
        self._whole: np.ndarray | None = None
        self._header: _JpegHeader | None = None
        if isinstance(data, np.ndarray):
            if data.dtype != np.uint8 or data.ndim != 3 or data.shape[2] != 3 or not data.size:
                raise BadImageError(f"not an RGB image: {data.dtype}{list(data.shape)}")
            self._whole, size = data, data.shape[:2]
        elif not data:
            raise BadImageError("empty file")
        else:
            self._header, size = _header(data)
        height, width = size
        if min(size) < 1:
            raise BadImageError(f"no pixels: {width} x {height}")
        if height * width > max_pixels:
            raise BadImageError(
                f"too large: {width} x {height} pixels; data.max_pixels is {max_pixels:,}"
            )

    @property
    def size(self) -> tuple[int, int]:
        """Upright height and width in pixels.

        A JPEG's header tells them. Other kinds are decoded for them: which of those have marks of
        orientation, and where, is the decoder's to know. Raises BadImageError as `pixels` does.
        """
        return self._header.size if self._header else self.pixels().shape[:2]

    def pixels(self, reduction: int = 1, bottom: int | None = None) -> np.ndarray:
        """uint8 RGB `[H, W, 3]`; a JPEG's sides divided by `reduction` (1, 2, 4, 8), rounded up.

        Rows of the whole image from `bottom` on may be missing. Orientation marks of cameras are
        followed, transparency is dropped, 16 bits become 8. Raises BadImageError for a file that is
        truncated or damaged.
        """
        if self._header is None:
            if self._whole is None:
                self._whole = _decode(self._data, 1)
            return self._whole
        bottom = self._header.size[0] if bottom is None else bottom
        pixels = _decode_jpeg(self._data, self._header, reduction, bottom)
        return _decode(self._data, reduction) if pixels is None else pixels

    @property
    def reducible(self) -> bool:
        """Whether `pixels` can be had at reduced size."""
        return self._header is not None


def decode(data: bytes | np.ndarray, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Bytes of an image file, or an array that is one already -> uint8 RGB `[H, W, 3]`.

    Raises BadImageError.
    """
    return Picture(data, max_pixels).pixels()


def _decode(data: bytes, reduction: int) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), _FLAGS[reduction])
    except cv2.error:  # a side beyond OpenCV's own limit of 2^20
        image = None
    if image is None:
        raise BadImageError("truncated or damaged")
    return image


def _decode_jpeg(
    data: bytes, header: "_JpegHeader", reduction: int, bottom: int
) -> np.ndarray | None:
    """As `_decode`, less the rows below `bottom`; None where only OpenCV can tell.

    simplejpeg has the same pixels (both are libjpeg-turbo), and more to the point it keeps silent
    where rows are left out, of which OpenCV's copy of the library complains on stderr.
    """
    # Upright, and with an end: a file without one is truncated, which OpenCV reports.
    if header.orientation != 1 or data.rfind(b"\xff\xd9", header.place) < 0:
        return None
    # Colours between rows need the row below, of colours sampled at every second row.
    rows = bottom + 2 * reduction if header.one_scan else header.height
    if rows < header.height:
        data = data[: header.place] + struct.pack(">H", rows) + data[header.place + 2 :]
    # The least scale that is still so large, which is 1 / reduction.
    height, width = (-(-side // reduction) for side in (min(rows, header.height), header.width))
    try:
        return simplejpeg.decode_jpeg(data, min_height=height, min_width=width, strict=False)
    except ValueError:  # four colours, or a damage that is OpenCV's to find
        return None


def _header(data: bytes) -> tuple["_JpegHeader | None", tuple[int, int]]:
    """What a JPEG's header says, and (height, width) of any kind of image.

    Raises BadImageError for a header that breaks off, or that is not read: OpenCV knows a few more
    kinds, and would make room for whatever those claim.
    """
    try:
        if data[:2] == b"\xff\xd8":
            header = _jpeg_header(data)
            return header, header.size
        size = headers.size(data)
    except (struct.error, IndexError, ValueError):
        raise BadImageError("truncated or damaged") from None
    if size is None:
        raise BadImageError("not an image")
    return None, size


@dataclasses.dataclass(frozen=True)
class _JpegHeader:
    """What stands before a JPEG's pixels."""

    place: int  # of the height among the bytes
    height: int  # as stored, not yet upright
    width: int
    orientation: int  # 1 upright, 5 to 8 with rows and columns exchanged
    one_scan: bool  # rows from top to bottom, all colours together

    @property
    def size(self) -> tuple[int, int]:
        stored = self.height, self.width
        return stored[::-1] if 5 <= self.orientation <= 8 else stored


def _jpeg_header(data: bytes) -> _JpegHeader:
    """Raises IndexError, struct.error or InputError if it breaks off."""
    position, orientation, frame = 2, 1, None
    while True:
        position = data.index(0xFF, position)  # a decoder skips rubbish between the segments
        while data[position] == 0xFF:  # any number of them may fill up before a marker
            position += 1
        marker = data[position]
        if marker in MARKERS_ALONE:
            continue
        (length,) = struct.unpack_from(">H", data, position + 1)
        # Start of frame: 0xC0 to 0xCF but for three tables that share the range.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame, sequential, colours = position + 4, marker <= 0xC1, data[position + 8]
        if marker == 0xDA:  # start of scan
            if frame is None:
                raise ValueError("a scan without a frame")
            height, width = struct.unpack_from(">HH", data, frame)
            one_scan = sequential and data[position + 3] == colours
            return _JpegHeader(frame, height, width, orientation, one_scan)
        if marker == 0xE1 and data[position + 3 : position + 9] == b"Exif\0\0":
            orientation = _orientation(data[position + 9 : position + 1 + length])
        position += 1 + length


def _orientation(exif: bytes) -> int:
    """The orientation tag of a TIFF header: 1 upright, 5 to 8 with rows and columns exchanged."""
    order = "<" if exif[:2] == b"II" else ">"
    try:
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (entries,) = struct.unpack_from(order + "H", exif, start)
        for entry in range(entries):
            tag, kind = struct.unpack_from(order + "HH", exif, start + 2 + 12 * entry)
            if (tag, kind) == (0x0112, 3):
                return struct.unpack_from(order + "H", exif, start + 10 + 12 * entry)[0]
    except struct.error:
        pass  # a broken note about an image is no broken image
    return 1
