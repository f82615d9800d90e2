"""From the bytes of an image file to pixels, by way of its header.

The header gives the size before anything is decoded: images that are too large are refused unread,
and a JPEG may be decoded at half, a quarter or an eighth of its size (its cosine transform scales),
and only down to the last row that is wanted.
"""

import ctypes
import struct
from typing import Any

import cv2
import numpy as np
import simplejpeg

from ns_jax.data import boxes, exif, headers, jpeg, png, tiff

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
        self._header: jpeg.Header | None = None
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
                self._whole = _decode_other(self._data)
            return self._whole
        bottom = self._header.size[0] if bottom is None else bottom
        pixels = _decode_jpeg(self._data, self._header, reduction, bottom)
        if pixels is None:
            stored = _decode(jpeg.plain(self._data), _FLAGS[reduction])
            pixels = exif.turned(stored, self._header.orientation)
        return pixels

    @property
    def reducible(self) -> bool:
        """Whether `pixels` can be had at reduced size."""
        return self._header is not None


def decode(data: bytes | np.ndarray, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Bytes of an image file, or an array that is one already -> uint8 RGB `[H, W, 3]`.

    Raises BadImageError.
    """
    return Picture(data, max_pixels).pixels()


def _decode(data: bytes, flags: int = cv2.IMREAD_COLOR_RGB) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # a side beyond OpenCV's own limit of 2^20
        image = None
    if image is None:
        raise BadImageError("truncated or damaged")
    return image


def _decode_other(data: bytes) -> np.ndarray:
    """A file that is no JPEG: what OpenCV reads rightly and in silence, and what it leaves to do.

    It follows the orientation of WebP and TIFF alone. Raises BadImageError.
    """
    try:
        if data.startswith(png.SIGNATURE):
            data, orientation = png.essential(data)
            return exif.turned(_decode(data), orientation)
        if boxes.is_avif(data):
            # Asked for RGB, it gives BGR where there is transparency.
            stored = _decode(data, cv2.IMREAD_COLOR_BGR | cv2.IMREAD_IGNORE_ORIENTATION)
            return exif.turned(stored[..., ::-1], boxes.avif_orientation(data))
        if data.startswith(boxes.JPEG_2000):
            return exif.turned(_decode(data), boxes.jpeg_2000_orientation(data))
        if data[:4] in tiff.SIGNATURES:
            if reason := tiff.refusal(data):
                raise BadImageError(reason)
            return _decode(tiff.unblended(data))
    except (struct.error, IndexError, ValueError):
        raise BadImageError("truncated or damaged") from None
    return _decode_pnm(data) if data[:1] == b"P" else _decode(data)


def _decode_pnm(data: bytes) -> np.ndarray:
    """OpenCV scales what is written in letters and at most 255; its other maxima are left alone."""
    maximum, in_letters = headers.pnm_maximum(data), data[1:2] in b"123"
    if in_letters:
        data += b"\n"  # it reads on behind the last number
    if not 0 < maximum < 1 << 16:
        raise BadImageError("truncated or damaged")
    if maximum in (255, (1 << 16) - 1) or in_letters and maximum < 255:
        return _decode(data)
    stored = _decode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH)
    levels = np.arange(np.iinfo(stored.dtype).max + 1)
    shown = np.minimum((levels * 510 + maximum) // (2 * maximum), 255).astype(np.uint8)
    return shown[stored]


def _decode_jpeg(
    data: bytes, header: jpeg.Header, reduction: int, bottom: int
) -> np.ndarray | None:
    """As `_decode`, less the rows below `bottom`; None where only OpenCV can tell.

    simplejpeg has the same pixels (both are libjpeg-turbo), and more to the point it keeps silent
    where rows are left out, of which OpenCV's copy of the library complains on stderr.
    """
    if data.rfind(jpeg.END, header.place) < 0:
        raise BadImageError("truncated or damaged")
    # Colours between rows need the row below, of colours sampled at every second row.
    upright = header.orientation == exif.UPRIGHT
    rows = bottom + 2 * reduction if header.one_scan and upright else header.height
    if rows < header.height:
        data = data[: header.place] + struct.pack(">H", rows) + data[header.place + 2 :]
    # The least scale that is still so large, which is 1 / reduction.
    height, width = (-(-side // reduction) for side in (min(rows, header.height), header.width))
    try:
        pixels = simplejpeg.decode_jpeg(data, min_height=height, min_width=width, strict=False)
        return pixels if upright else exif.turned(pixels, header.orientation)
    except ValueError:  # four colours, or a damage that is OpenCV's to find
        return None


def _header(data: bytes) -> tuple[jpeg.Header | None, tuple[int, int]]:
    """What a JPEG's header says, and (height, width) of any kind of image.

    Raises BadImageError for a header that breaks off, or that is not read: OpenCV knows a few more
    kinds, and would make room for whatever those claim.
    """
    try:
        if data[:2] == b"\xff\xd8":
            header = jpeg.header(data)
            return header, header.size
        size = headers.size(data)
    except (struct.error, IndexError, ValueError):
        raise BadImageError("truncated or damaged") from None
    if size is None:
        raise BadImageError("not an image")
    return None, size
