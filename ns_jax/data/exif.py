"""The orientation that a camera notes about an image, and how to follow it."""

import struct

import numpy as np

UPRIGHT = 1


def orientation(exif: bytes) -> int:
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
    return UPRIGHT


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Upright `[H, W, 3]` of stored ones; an orientation that is none of 2 to 8 changes nothing."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
