"""What of a PNG its pixels need.

libpng prints a line on stderr for whatever it dislikes in a colour profile, a text or a date, and
another for each damage. It is given none of those, and no damage that a checksum shows.
"""

import struct
import zlib

from ns_jax.data import exif
from ns_jax.errors import InputError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Colours and pixels. Transparency is dropped, and of an animation the still image is taken.
OF_PIXELS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
PROFILE = b"Raw profile type exif\0"  # ImageMagick's, from before there was a chunk for it
MOST_OF_PROFILE = 1 << 17  # bytes of it that are read: its tags are at the beginning


def essential(data: bytes) -> tuple[bytes, int]:
    """The same image without what stands beside its pixels, and its orientation.

    Raises InputError or struct.error for a file that is cut off or whose checksums are wrong.
    """
    view, position = memoryview(data), len(SIGNATURE)
    kept, orientation = [view[:position]], exif.UPRIGHT
    while True:
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        (checksum,) = struct.unpack_from(">I", data, end - 4)
        sound = zlib.crc32(view[position + 4 : end - 4]) == checksum
        content = view[position + 8 : end - 4]
        if kind in OF_PIXELS:
            if not sound:
                raise InputError("a checksum is wrong")
            kept.append(view[position:end])
        elif kind[0] < ord("a"):  # a capital: not to be passed over
            raise InputError(f"a chunk of the unknown kind {kind!r}")
        elif kind == b"eXIf" and sound:
            orientation = exif.orientation(bytes(content))
        elif kind in (b"tEXt", b"zTXt") and content[: len(PROFILE)] == PROFILE:
            orientation = exif.orientation(_profile(kind, bytes(content[len(PROFILE) :])))
        if kind == b"IEND":
            return b"".join(kept), orientation
        position = end


def _profile(kind: bytes, content: bytes) -> bytes:
    """EXIF that is written in letters: a line with its name, one with its length, hexadecimals."""
    try:
        if kind == b"zTXt":
            content = zlib.decompressobj().decompress(content[1:], MOST_OF_PROFILE)
        letters = b"".join(content.split()[2:])
        return bytes.fromhex(letters[: len(letters) // 2 * 2].decode()).removeprefix(b"Exif\0\0")
    except (ValueError, zlib.error):
        return b""
