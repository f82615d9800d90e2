"""A file of a few bytes can claim any number of pixels: no decoder is asked to make room."""

import struct

import cv2
import numpy as np
import pytest

from ns_jax.data import decoding, headers

MANY = 100_000  # a side


def png(side):
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)


def gif(side):
    return b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + bytes(6)


def bmp(side, length=40):
    sides = struct.pack("<HHHH" if length == 12 else "<iiHH", side, side, 1, 24)
    return b"BM" + struct.pack("<IIII", 1000, 0, 14 + length, length) + sides + bytes(40)


def webp(side):
    sides = struct.pack("<I", side - 1)[:3] * 2
    return b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + sides + bytes(8)


def webp_lossless(side):
    bits = (side - 1) | (side - 1) << 14
    return b"RIFF\x1e\0\0\0WEBPVP8L\x0a\0\0\0\x2f" + struct.pack("<I", bits) + bytes(8)


def webp_lossy(side):
    return b"RIFF\x1e\0\0\0WEBPVP8 \x0a\0\0\0\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", side, side)


def tiff(side, order="<", tile=None):
    """Of one tag after the other: sides, bits, compression, kind, strips or tiles."""
    sides = side if tile is None else 16
    tags = {256: sides, 257: sides, 258: 8, 259: 1, 262: 1, 277: 1}
    tags |= {273: 8, 278: sides, 279: 8} if tile is None else {322: tile, 323: tile, 324: 8, 325: 8}
    entries = [struct.pack(order + "HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags)]
    start = b"II*\0" if order == "<" else b"MM\0*"
    directory = struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4)
    return start + struct.pack(order + "I", 16) + bytes(8) + directory


def big_tiff(side):
    tags = {256: side, 257: side, 258: 8, 259: 1, 262: 1, 273: 16, 277: 1, 278: side, 279: 8}
    entries = [struct.pack("<HHQQ", tag, 16, 1, value) for tag, value in tags.items()]
    start = b"II+\0" + struct.pack("<HHQ", 8, 0, 24) + bytes(8)
    return start + struct.pack("<Q", len(entries)) + b"".join(entries) + bytes(8)


def pnm(side, kind=6):
    return f"P{kind}\n# of a camera\n{side} # wide\n{side}\n255\n".encode() + bytes(8)


def codestream(side):
    sides = struct.pack(">IIIIIIII", side, side, 0, 0, side, side, 0, 0)
    parts = struct.pack(">H", 3) + b"\x07\x01\x01" * 3
    return b"\xff\x4f\xff\x51" + struct.pack(">HH", 47, 0) + sides + parts + bytes(8)


def box(kind, content):
    return struct.pack(">I", 8 + len(content)) + kind + content


def jp2(side):
    """With a small image's beginning in a box before the real one."""
    header = box(b"ihdr", struct.pack(">IIHBBBB", side, side, 3, 7, 7, 0, 0))
    start = box(b"jP  ", b"\r\n\x87\n") + box(b"ftyp", b"jp2 \0\0\0\0jp2 ")
    decoy = box(b"uuid", bytes(16) + codestream(4))
    return start + decoy + box(b"jp2h", header) + box(b"jp2c", codestream(side))


def avif(side):
    """A small image's sides first."""
    sides = [box(b"ispe", struct.pack(">III", 0, s, s)) for s in (16, side)]
    properties = box(b"iprp", box(b"ipco", b"".join(sides)))
    return box(b"ftyp", b"avif\0\0\0\0avifmif1") + box(b"meta", bytes(4) + properties)


def jpeg(side, before=b""):
    """A real one with other sides; `before` the frame's segment."""
    data = cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes()
    frame = data.index(b"\xff\xc0")
    sides = struct.pack(">HH", side, side)
    return data[:frame] + before + data[frame : frame + 5] + sides + data[frame + 9 :]


CLAIMS = {
    "png": png(MANY),
    "png, 2^31": png(2**31 - 1),
    "gif": gif(65_535),
    "bmp": bmp(MANY),
    "bmp, upright": bmp(-MANY),
    "bmp, OS/2": bmp(65_535, length=12),
    "webp": webp(MANY),
    "webp, lossless": webp_lossless(16_383),
    "webp, lossy": webp_lossy(16_383),
    "tiff": tiff(MANY),
    "tiff, big-endian": tiff(MANY, ">"),
    "tiff, tiles": tiff(16, tile=MANY),
    "tiff, below OpenCV's limit": tiff(30_000),
    "BigTIFF": big_tiff(MANY),
    "ppm": pnm(MANY),
    "pgm in letters": pnm(MANY, 2),
    "jpeg 2000": jp2(MANY),
    "jpeg 2000, bare": codestream(MANY),
    "avif": avif(MANY),
    "jpeg": jpeg(65_500),
    "jpeg after rubbish": jpeg(30_000, b"rubbish"),
    "jpeg after fill bytes": jpeg(30_000, b"\xff" * 9),
    "jpeg after a restart": jpeg(30_000, b"\xff\xd0"),
}


@pytest.fixture
def asked(monkeypatch):
    """The decoders, which are not to be asked."""
    calls = []
    for library, name in ((decoding.cv2, "imdecode"), (decoding.simplejpeg, "decode_jpeg")):
        monkeypatch.setattr(library, name, lambda *_, **__: calls.append(1))
    return calls


@pytest.mark.parametrize("kind", CLAIMS)
def test_what_claims_too_many_pixels_is_not_decoded(asked, kind):
    assert len(CLAIMS[kind]) < 1000
    with pytest.raises(decoding.BadImageError, match=r"too large: \d+ x \d+ pixels"):
        decoding.decode(CLAIMS[kind])
    assert not asked


MADE = (".jpg", ".png", ".webp", ".gif", ".bmp", ".tiff", ".ppm", ".jp2", ".avif")


def test_headers_made_here_are_those_that_decoders_read():
    """Of the same makers at a small side: else the refusals above would prove little."""
    makers = (png, gif, bmp, webp, webp_lossless, webp_lossy, tiff, big_tiff, pnm, jp2, codestream)
    for make in (*makers, avif):
        assert headers.size(make(64)) == (64, 64), make.__name__
    assert decoding.Picture(jpeg(64)).size == (64, 64)
    for make, side in ((pnm, 1), (jpeg, 16), (tiff, 2), (bmp, 2), (big_tiff, 2)):
        assert decoding.decode(make(side)).shape == (side, side, 3), make.__name__


@pytest.mark.parametrize(
    "data",
    [
        cv2.imencode(".hdr", np.ones((4, 4, 3), np.float32))[1].tobytes(),
        cv2.imencode(".pfm", np.ones((4, 4, 3), np.float32))[1].tobytes(),
        cv2.imencode(".sr", np.ones((4, 4, 3), np.uint8))[1].tobytes(),
        cv2.imencode(".pam", np.ones((4, 4, 3), np.uint8))[1].tobytes(),
        b"v/1\x01" + bytes(100),  # OpenEXR
        b"\xff\x0a" + bytes(100),  # JPEG XL
        b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        b"%PDF-1.7",
    ],
)
def test_a_kind_whose_header_is_not_read_is_not_decoded(asked, data):
    with pytest.raises(decoding.BadImageError, match="not an image"):
        decoding.decode(data)
    assert not asked


@pytest.mark.parametrize("kind", MADE)
def test_no_damage_to_a_header_gets_more_pixels_than_allowed(kind):
    """What is decoded is no larger than the header said."""
    image = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    data, rng = cv2.imencode(kind, image)[1].tobytes(), np.random.default_rng(1)
    limit = 48 * 48
    for _ in range(200):
        damaged = bytearray(data)
        for place in rng.integers(0, min(300, len(data)), 2):
            damaged[place] = rng.integers(256)
        try:
            assert decoding.decode(bytes(damaged), limit).size <= 3 * limit
        except decoding.BadImageError:
            continue
