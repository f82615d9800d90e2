"""Image files of every kind, good and bad, against Pillow."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from ns_jax.data import decoding, headers


def gradient(height, width):
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 255 // height, columns * 255 // width, rows * 0], -1).astype(np.uint8)


def encode(image, kind):
    return cv2.imencode(kind, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def test_decoding_gives_rgb_in_this_order():
    image = gradient(20, 30)
    np.testing.assert_array_equal(decoding.decode(encode(image, ".png")), image)
    jpeg = decoding.decode(encode(image, ".jpg")).astype(int)
    assert np.abs(jpeg - image).mean() < 4
    grey = cv2.imencode(".png", image[..., 0])[1].tobytes()
    np.testing.assert_array_equal(decoding.decode(grey), np.repeat(image[..., :1], 3, -1))


def pillow_bytes(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1"])
def test_other_kinds_of_png_become_rgb_and_lose_their_transparency(mode):
    picture = Image.fromarray(gradient(20, 30))
    if "A" in mode:
        picture.putalpha(7)
    picture = picture.convert(mode)
    expected = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(decoding.decode(pillow_bytes(picture, "PNG")), expected)


@pytest.mark.parametrize("kind", [".png", ".tiff"])
def test_sixteen_bits_become_eight(kind):
    image = gradient(20, 30)
    wide = image[..., ::-1].astype(np.uint16) * 256 + 200
    data = cv2.imencode(kind, wide)[1].tobytes()
    # PNG's low byte is cut off, TIFF's rounds.
    assert np.abs(decoding.decode(data).astype(int) - image).max() <= 1


def test_cmyk_jpegs_become_the_colours_they_show():
    data = pillow_bytes(Image.fromarray(gradient(20, 30)).convert("CMYK"), "JPEG", quality=95)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(decoding.decode(data) - expected).max() <= 1


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_photographs_are_turned_as_their_exif_mark_says(orientation):
    picture = Image.fromarray(gradient(20, 30))
    exif = picture.getexif()
    exif[0x0112] = orientation
    data = pillow_bytes(picture, "JPEG", quality=95, exif=exif.tobytes())
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(decoding.decode(data), expected)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"no image at all", "not an image"),
        (b"\x89PNG\r\n\x1a\n", "truncated or damaged"),
        (np.zeros((4, 4), np.uint8), "not an RGB image"),
        (np.zeros((4, 4, 3), np.float32), "not an RGB image"),
        (b"P5 1100000 1 255\n" + bytes(1_100_000), "truncated or damaged"),  # 2^20 are most
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), "not an image"),  # a telephone's
    ],
)
def test_bad_images_have_a_reason(data, reason):
    with pytest.raises(decoding.BadImageError, match=reason):
        decoding.decode(data)


KINDS = (".jpg", ".png", ".webp", ".gif", ".bmp", ".tiff", ".ppm", ".jp2", ".avif")


@pytest.mark.parametrize("kind", KINDS)
def test_the_header_gives_the_size(kind):
    picture = decoding.Picture(encode(gradient(81, 134), kind))
    assert picture.size == picture.pixels().shape[:2] == (81, 134)


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_all_kinds_of_webp_headers_are_read(lossless, mode):
    image = Image.fromarray(gradient(21, 34)).convert(mode)
    if mode == "RGBA":
        image.putalpha(100)  # makes it an extended file
    data = pillow_bytes(image, "WEBP", lossless=lossless)
    assert headers.size(data) == (21, 34)


def marked(kind, orientation, mode="RGB", **options):
    """20 rows of 30 pixels, as a camera that was turned would mark them."""
    picture = Image.fromarray(gradient(20, 30)).convert(mode)
    if mode == "RGBA":
        picture.putalpha(100)
    exif = picture.getexif()
    exif[0x0112] = orientation
    return pillow_bytes(picture, kind, exif=exif, **options)


@pytest.mark.parametrize("orientation", range(10))
def test_the_size_is_that_of_the_upright_image(orientation):
    found = decoding.Picture(marked("JPEG", orientation))
    assert found.size == found.pixels().shape[:2]
    assert found.pixels(2).shape[:2] == ((15, 10) if 5 <= orientation <= 8 else (10, 15))


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_kinds_are_turned_upright(kind, orientation, mode):
    """AVIF's marks are the properties `irot` and `imir`, which Pillow makes of EXIF's."""
    if kind == "JPEG" and mode == "RGBA":
        pytest.skip("there are none")
    options = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100}}.get(kind, {})
    data = marked(kind, orientation, mode, **options)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    found = decoding.Picture(data)
    assert found.size == found.pixels().shape[:2] == expected.size[::-1]
    # Of an AVIF's colours Pillow and OpenCV ask other arithmetic.
    difference = np.abs(found.pixels().astype(int) - np.asarray(expected)).max()
    assert difference <= (2 if kind == "AVIF" else 0)


def exif_of(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes().removeprefix(b"Exif\0\0")


@pytest.mark.parametrize("kind", [".jpg", ".png", ".webp", ".avif"])
def test_an_image_is_turned_once(kind):
    """OpenCV's writer leaves EXIF in an AVIF beside the properties."""
    image = gradient(20, 30)
    exif = np.frombuffer(exif_of(6), np.uint8)
    _, data = cv2.imencodeWithMetadata(kind, image, [cv2.IMAGE_METADATA_EXIF], [exif])
    data = data.tobytes()
    assert b"MM\0*" in data
    assert kind != ".avif" or b"irot" in data
    expected = np.rot90(image[..., ::-1], -1).astype(int)
    assert np.abs(decoding.decode(data) - expected).mean() < 4


def test_exif_in_a_png_of_imagemagick_and_in_a_jpeg_2000_is_followed():
    image = gradient(20, 30)
    exif = b"Exif\0\0" + exif_of(6)
    text = f"\nexif\n{len(exif):8}\n{exif.hex()}\n"
    for zipped in (True, False):
        info = PngImagePlugin.PngInfo()
        info.add_text("Raw profile type exif", text, zip=zipped)
        data = pillow_bytes(Image.fromarray(image), "PNG", pnginfo=info)
        np.testing.assert_array_equal(decoding.decode(data), np.rot90(image, -1))
    data = pillow_bytes(Image.fromarray(image), "JPEG2000")
    assert decoding.decode(data).shape == (20, 30, 3)
    box = b"uuidJpgTiffExif->JP2" + exif_of(8)
    data += struct.pack(">I", 4 + len(box)) + box
    assert decoding.decode(data).shape == (30, 20, 3)


@pytest.mark.parametrize("maximum", [1, 15, 100, 254, 255, 256, 1023, 4095, 65535])
@pytest.mark.parametrize("kind", ["P2", "P3", "P5", "P6"])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_the_maximum_of_a_pnm_is_white(kind, maximum, end):
    channels = 3 if kind in ("P3", "P6") else 1
    levels = np.linspace(0, maximum, 12 * channels).round().astype(int).reshape(3, 4, channels)
    if kind in ("P2", "P3"):
        body = " ".join(map(str, levels.flat)).encode()
    else:
        body = levels.astype(np.uint8 if maximum < 256 else ">u2").tobytes()
    head = f"{kind} # of a camera\n4 3\n# white:\n{maximum}\n".encode()
    found = decoding.decode(head + body + end).astype(int)
    assert np.abs(found - levels * 255 / maximum).max() <= 1
    assert found.max() == 255


def tiff(image, kind="<", **tags):
    """An uncompressed TIFF of `[H, W, C]` as it is, with tags by number."""
    height, width, samples = image.shape
    body = image.astype(image.dtype.newbyteorder(kind)).tobytes()
    entries = {256: width, 257: height, 258: 8 * image.itemsize, 259: 1, 262: 2, 273: 8}
    entries |= {277: samples, 278: height, 279: len(body)}
    entries |= {int(name[1:]): number for name, number in tags.items()}
    rows = b"".join(
        struct.pack(kind + "HHI", tag, 3, 1) + struct.pack(kind + "HH", number, 0)
        for tag, number in sorted(entries.items())
    )
    head = (b"II*\0" if kind == "<" else b"MM\0*") + struct.pack(kind + "I", 8 + len(body))
    return head + body + struct.pack(kind + "H", len(entries)) + rows + bytes(4)


@pytest.mark.parametrize("kind", "<>")
@pytest.mark.parametrize("number", [np.uint8, np.uint16])
def test_a_tiffs_colours_are_not_blended_with_its_transparency(kind, number):
    image = np.dstack([gradient(20, 30), np.full((20, 30), 9, np.uint8)]).astype(number)
    image *= np.iinfo(number).max // 255
    for meaning in (0, 1, 2):  # unspecified, blended already, not blended
        found = decoding.decode(tiff(image, kind, _338=meaning))
        np.testing.assert_array_equal(found, gradient(20, 30))


@pytest.mark.parametrize(
    ("image", "tags", "reason"),
    [
        (np.float32, {"_339": 3}, "a TIFF of float32 samples: convert it to uint8"),
        (np.float64, {"_339": 3}, "float64"),
        (np.float16, {"_339": 3}, "float16"),
        (np.uint32, {}, "uint32"),
        (np.int32, {"_339": 2}, "int32"),
        (np.int16, {"_339": 2}, "int16"),  # half as bright without a word, before
        (np.int8, {"_339": 2}, "int8"),
        (np.uint16, {"_258": 12}, "uint12"),
        (np.uint8, {"_259": 50000}, "compressed with Zstandard"),
        (np.uint8, {"_259": 34712}, "compressed with JPEG 2000"),  # black without a word, before
        (np.uint8, {"_259": 60000}, "compressed with compression 60000"),
        (np.uint8, {"_277": 5}, "5 samples a pixel"),
    ],
)
@pytest.mark.parametrize("kind", "<>")
def test_a_tiff_that_is_not_read_says_what_it_is(kind, image, tags, reason):
    data = tiff(gradient(20, 30).astype(image), kind, **tags)
    with pytest.raises(decoding.BadImageError, match=reason):
        decoding.decode(data)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + crc(kind + content)


def crc(data):
    return struct.pack(">I", zlib.crc32(data))


NOISE = cv2.GaussianBlur(
    np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), (5, 5), 1
)
BESIDE = {
    "a colour profile": chunk(b"iCCP", b"x\0\0" + zlib.compress(b"no profile" * 20)),
    "another gamma": chunk(b"gAMA", bytes(4)) * 2,
    "a damaged text": chunk(b"tEXt", b"a\0b")[:-1] + b"x",
    "a wrong transparency": chunk(b"tRNS", b"a"),
    "a short size": chunk(b"pHYs", b"a"),
    "wrong EXIF": chunk(b"eXIf", b"junk") * 2,
    "wrong EXIF in a text": chunk(b"zTXt", b"Raw profile type exif\0\0junk"),
}


@pytest.mark.parametrize("what", BESIDE)
def test_what_stands_beside_a_pngs_pixels_is_not_complained_of(what, capfd):
    data = encode(NOISE, ".png")
    np.testing.assert_array_equal(decoding.decode(data[:33] + BESIDE[what] + data[33:]), NOISE)
    assert capfd.readouterr().err == ""


def flipped(data, place):
    changed = bytearray(data)
    changed[place] ^= 0x55
    return bytes(changed)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF"])
def test_damage_leaves_no_lines_of_a_library_on_the_terminal(kind, capfd):
    rng, orientation = np.random.default_rng(0), 6 if kind in ("JPEG", "PNG", "WEBP") else 1
    picture = Image.fromarray(NOISE)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = pillow_bytes(picture, kind, **({"exif": exif} if orientation == 6 else {}))
    bad = 0
    for _ in range(60):
        damaged = data
        for place in rng.integers(8, len(data), rng.integers(1, 4)):
            damaged = flipped(damaged, place)
        if rng.random() < 0.3:
            damaged = damaged[: rng.integers(8, len(data))]
        try:
            decoding.decode(damaged, max_pixels=10_000)
        except decoding.BadImageError:
            bad += 1
    assert bad
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_truncated_files_are_bad(kind, share):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = encode(noise, kind)
    with pytest.raises(decoding.BadImageError, match=r"truncated or damaged|not an image"):
        decoding.decode(data[: int(len(data) * share)])


def test_an_enormous_image_is_refused_by_its_header_alone():
    # A PNG header of 60,000 x 60,000 pixels and nothing behind it: decoding would fail otherwise.
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header
    with pytest.raises(decoding.BadImageError, match=r"too large: 60000 x 60000 .* 100,000,000"):
        decoding.Picture(data)
    small = encode(gradient(20, 30), ".jpg")
    with pytest.raises(decoding.BadImageError, match="data.max_pixels is 599"):
        decoding.decode(small, max_pixels=599)
    assert decoding.decode(small, max_pixels=600).shape == (20, 30, 3)
    tiff = encode(gradient(20, 30), ".tiff")
    with pytest.raises(decoding.BadImageError, match="too large"):
        decoding.decode(tiff, max_pixels=599)


def test_an_image_without_pixels_is_bad():
    header = struct.pack(">IIBBBBB", 0, 5, 8, 2, 0, 0, 0)
    with pytest.raises(decoding.BadImageError, match="no pixels: 0 x 5"):
        decoding.decode(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header)


def test_a_jpeg_is_decoded_at_reduced_size_and_nothing_else_is():
    image = np.repeat(np.repeat(gradient(10, 16), 8, 0), 8, 1)  # smooth blocks of 8 x 8
    picture = decoding.Picture(encode(image, ".jpg"))
    assert picture.reducible
    for reduction in (1, 2, 4, 8):
        pixels = picture.pixels(reduction)
        assert pixels.shape == (80 // reduction, 128 // reduction, 3)
        assert np.abs(pixels.mean((0, 1)) - image.mean((0, 1))).max() < 2
    other = decoding.Picture(encode(image, ".png"))
    assert not other.reducible and other.pixels(4).shape == image.shape


SAMPLINGS = {"4:4:4": 0x111111, "4:2:2": 0x211111, "4:2:0": 0x221111, "4:4:0": 0x121111}


@pytest.mark.parametrize(
    "options", [[cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 3], []]
)
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_jpeg_without_its_last_rows_is_the_same_above_them(sampling, options, capfd):
    noise = np.random.default_rng(0).integers(0, 256, (97, 70, 3), np.uint8)
    noise = cv2.GaussianBlur(noise, (5, 5), 1)
    options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLINGS[sampling], *options]
    data = cv2.imencode(".jpg", noise, options)[1].tobytes()
    heights = set()
    for reduction in (1, 2, 4, 8):
        whole = decoding._decode(data, decoding._FLAGS[reduction])  # OpenCV's
        for bottom in range(1, 98):
            pixels = decoding.Picture(data).pixels(reduction, bottom)
            rows = -(-bottom // reduction)
            np.testing.assert_array_equal(pixels[:rows], whole[:rows])
            heights.add(len(pixels) / len(whole))
    assert max(heights) == 1
    progressive = cv2.IMWRITE_JPEG_PROGRESSIVE in options  # its rows are spread over the file
    assert (min(heights) == 1) == progressive
    assert capfd.readouterr().err == ""  # and the libraries have nothing to complain of


def test_a_jpeg_of_unusual_form_is_read_all_the_same():
    image = gradient(40, 30)
    data = encode(image, ".jpg")
    expected = decoding.decode(data)
    for other in (
        data + bytes(100),  # something behind it
        data[:2] + b"\xff" * 5 + data[2:],  # fill bytes
    ):
        np.testing.assert_array_equal(decoding.decode(other), expected)
        rows = decoding.Picture(other).pixels(1, 11)[:11]
        np.testing.assert_array_equal(rows, expected[:11])


def test_bytes_of_any_kind_are_an_image_or_a_bad_one():
    rng = np.random.default_rng(0)
    for kind in KINDS:
        data = encode(gradient(64, 64), kind)
        for _ in range(40):
            damaged = bytearray(data[: rng.integers(20, len(data))])
            for place in rng.integers(0, min(80, len(damaged)), 3):
                damaged[place] = rng.integers(256)
            try:
                pixels = decoding.decode(bytes(damaged), max_pixels=10_000)
                assert pixels.dtype == np.uint8 and pixels.shape[2] == 3
            except decoding.BadImageError as error:
                assert str(error)
