"""What a TIFF's tags say: sides, and whether its samples are of a kind that can be shown."""

import dataclasses
import struct

from ns_jax.errors import InputError

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
KINDS = {1: "B", 3: "H", 4: "I", 16: "Q"}  # of numbers that a tag may hold
WIDTH, HEIGHT, BITS, COMPRESSION, COLOURS = 256, 257, 258, 259, 262
SAMPLES, TILE_WIDTH, TILE_HEIGHT, EXTRA_SAMPLES, SAMPLE_FORMAT = 277, 322, 323, 338, 339
PALETTE, ALPHA_TO_BLEND, ALPHA_BLENDED = 3, 2, 1
FORMATS = {1: "uint", 2: "int", 3: "float", 4: "uint", 5: "complex int", 6: "complex float"}
MOST_SAMPLES = 4  # of a pixel
# libtiff's own, and those whose names are worth telling. It leaves what it does not know black.
KNOWN_COMPRESSIONS = (1, 2, 3, 4, 5, 6, 7, 8, 32766, 32771, 32773, 32809, 32909, 32946)
COMPRESSIONS = {
    **{number: "JPEG 2000" for number in (33003, 33004, 33005, 34712)},
    **{34661: "JBIG", 34676: "SGI Log", 34677: "SGI Log", 34887: "LERC", 34925: "LZMA"},
    **{34933: "PNG", 50000: "Zstandard", 50001: "WebP", 50002: "JPEG XL"},
}


@dataclasses.dataclass(frozen=True)
class Tag:
    """The first number of a tag, and where its bytes lie; of an offset where none of them fit."""

    number: int
    place: int
    kind: str  # as `struct` names it, with the order of bytes


def tags(data: bytes) -> dict[int, Tag]:
    """The tags of the first image. Raises struct.error or InputError for one that breaks off."""
    order = "<" if data[:1] == b"I" else ">"
    big = b"+" in data[2:4]  # 64 bits instead of 32
    (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
    if count > 1 << 16:
        raise InputError("more tags than there can be")
    first, length, value, room = (start + 8, 20, 12, 8) if big else (start + 2, 12, 8, 4)
    found = {}
    for entry in range(first, first + count * length, length):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        if kind not in KINDS:
            continue
        (numbers,) = struct.unpack_from(order + ("Q" if big else "I"), data, entry + 4)
        place, kind = entry + value, order + KINDS[kind]
        if numbers * struct.calcsize(kind) > room:
            (place,) = struct.unpack_from(order + ("Q" if big else "I"), data, place)
        if place + struct.calcsize(kind) <= len(data):
            found[tag] = Tag(struct.unpack_from(kind, data, place)[0], place, kind)
    return found


def size(data: bytes) -> tuple[int, int]:
    """(width, height) of the first image, or of its tiles where they are larger: a decoder makes
    room for a whole tile.
    """
    found = tags(data)

    def largest(*names: int) -> int:
        return max((found[name].number for name in names if name in found), default=0)

    return largest(WIDTH, TILE_WIDTH), largest(HEIGHT, TILE_HEIGHT)


def refusal(data: bytes) -> str | None:
    """Why the image cannot be shown as it is; None where it can."""
    found = tags(data)

    def number(tag: int, default: int) -> int:
        return found[tag].number if tag in found else default

    bits, form = number(BITS, 1), FORMATS.get(number(SAMPLE_FORMAT, 1), "unknown ")
    depth_is_read = bits in (1, 8, 16) or bits == 4 and number(COLOURS, 0) == PALETTE
    if form != "uint" or not depth_is_read:
        return f"a TIFF of {form}{bits} samples: convert it to uint8 or uint16"
    if (samples := number(SAMPLES, 1)) > MOST_SAMPLES:
        return f"a TIFF of {samples} samples a pixel: save those to be seen as grey or RGB"
    compression = number(COMPRESSION, 1)
    if compression not in KNOWN_COMPRESSIONS:
        name = COMPRESSIONS.get(compression, f"compression {compression}")
        return f"a TIFF compressed with {name}, which is not read: save it with LZW or Deflate"
    return None


def unblended(data: bytes) -> bytes:
    """The file with its colours marked as blended with alpha, so that libtiff leaves them alone."""
    alpha = tags(data).get(EXTRA_SAMPLES)
    if alpha is None or alpha.number != ALPHA_TO_BLEND:
        return data
    changed = bytearray(data)
    struct.pack_into(alpha.kind, changed, alpha.place, ALPHA_BLENDED)
    return bytes(changed)
