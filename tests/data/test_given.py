"""Images as people have them."""

import io
import pathlib

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ns_jax.data import decoding, given

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 9, 3), np.uint8)
GREY = RGB[..., 0]
GREY_AS_RGB = np.repeat(GREY[..., None], 3, -1)


class Tensor:
    """Of a library that is not known here, but makes NumPy arrays, as PyTorch's."""

    def __init__(self, array, fails=False):
        self.array, self.fails, self.dtype = array, fails, "torch.uint8"

    def __array__(self, dtype=None, copy=None):
        if self.fails:
            raise TypeError("can't convert cuda:0 device type tensor to numpy.")
        return self.array

    def __iter__(self):
        return map(Tensor, self.array)


def png(image):
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


ONE = {
    "RGB": (RGB, RGB),
    "RGBA": (np.dstack([RGB, GREY]), RGB),
    "grey": (GREY, GREY_AS_RGB),
    "grey, one channel": (GREY[..., None], GREY_AS_RGB),
    "grey and alpha": (np.dstack([GREY, RGB[..., 1]]), GREY_AS_RGB),
    "float32": (RGB.astype(np.float32) / 255, RGB),
    "float64": (RGB / 255, RGB),
    "float16": (np.eye(6, dtype=np.float16), np.repeat(255 * np.eye(6)[..., None], 3, -1)),
    "bfloat16": (jnp.eye(6, dtype=jnp.bfloat16), np.repeat(255 * np.eye(6)[..., None], 3, -1)),
    "bool": (GREY > 99, np.repeat(255 * (GREY > 99)[..., None], 3, -1)),
    "int64": (RGB.astype(np.int64), RGB),
    "uint16": (RGB.astype(np.uint16) * 257, RGB),
    "JAX": (jnp.asarray(RGB), RGB),
    "another library's": (Tensor(RGB), RGB),
    "not contiguous": (RGB.transpose(1, 0, 2)[::-1], RGB.transpose(1, 0, 2)[::-1]),
    "Pillow": (Image.fromarray(RGB), RGB),
    "Pillow, grey": (Image.fromarray(GREY), GREY_AS_RGB),
    "Pillow, 16 bits": (Image.fromarray(GREY.astype(np.uint16) * 257), GREY_AS_RGB),
    "Pillow, dark, 16 bits": (Image.fromarray(GREY.astype(np.uint16) // 9), 0 * RGB),
    "Pillow, transparent": (Image.fromarray(np.dstack([RGB, GREY])), RGB),
    "Pillow, floats": (Image.fromarray(GREY.astype(np.float32) / 255), GREY_AS_RGB),
}


@pytest.mark.parametrize("kind", ONE)
def test_one_image_of_any_kind(kind):
    image, expected = ONE[kind]
    for several in ([image], (image,), iter([image]), image):
        (found,) = given.images(several)
        assert found.dtype == np.uint8 and found.flags.c_contiguous
        np.testing.assert_array_equal(found, expected)
        decoding.decode(found)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, io.BytesIO])
def test_the_content_of_a_file(kind):
    for several in ([kind(png(RGB))], kind(png(RGB))):
        (found,) = given.images(several)
        np.testing.assert_array_equal(decoding.decode(found), RGB)


def test_paths_of_all_kinds(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(png(RGB))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.png"
    for one in (path, str(path), "~/a.png", pathlib.Path("~/a.png"), "a.png"):
        for several in (one, [one], (name for name in [one]), np.asarray([str(one)])):
            (found,) = given.images(several)
            assert found.read_bytes() == path.read_bytes()
    with path.open("rb") as file:
        assert given.images(file) == [path.read_bytes()]


def test_an_array_of_images_is_several():
    many = RNG.integers(0, 256, (4, 6, 9, 3), np.uint8)
    for several in (many, jnp.asarray(many), Tensor(many), list(many), iter(many)):
        np.testing.assert_array_equal(np.stack(given.images(several)), many)
    grey = many[..., :1]
    np.testing.assert_array_equal(np.stack(given.images(grey)), np.repeat(grey, 3, -1))


def test_a_photograph_that_pillow_opened_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    Image.fromarray(RGB).save(stream, "PNG", exif=exif)
    (found,) = given.images(Image.open(stream))
    np.testing.assert_array_equal(found, decoding.decode(stream.getvalue()))
    assert found.shape == (9, 6, 3)


WRONG = {
    "floats of 0 to 255": (RGB.astype(np.float32), r"float32 \[6, 9, 3\] holds 0 to \d+: .*uint8"),
    "normalised": ((RGB - 120.0) / 58, "floats are 0 to 1; undo its normalisation"),
    "NaN": (np.full((4, 4), np.nan), "holds nan"),
    "negative": (np.full((4, 4), -1), "holds -1 to -1"),
    "too large": (np.full((4, 4), 256), "holds 256 to 256"),
    "dark uint16": (np.full((4, 4), 255, np.uint16), "uint16 0 to 65535"),
    "channels first": (RGB.transpose(2, 0, 1), r"channels come first: transpose\(1, 2, 0\)"),
    "several channels first": (RGB.transpose(2, 0, 1)[None], r"images\[0\].*transpose"),
    "several grey": (np.zeros((5, 8, 8), np.uint8), r"several grey ones: images\[..., None\]"),
    "a vector": (np.zeros(5, np.uint8), r"uint8 \[5\] is no image"),
    "nothing in it": (np.zeros((0, 4, 3), np.uint8), "is no image"),
    "complex": (np.zeros((4, 4), complex), "complex128"),
    "on a GPU": (Tensor(RGB, fails=True), "Tensor makes no NumPy array: can't convert cuda"),
    "None": (None, "NoneType is no path"),
    "a number": (7, "int is no path"),
    "a dictionary": ({"image": RGB}, "dict is no path"),
    "a list in a list": ([[RGB]], r"images\[0\]: list is no path"),
    "text": (io.StringIO("x"), "opened as text"),
    "an empty list": ([], "list of images is empty"),
    "an empty array": (np.zeros((0, 8, 8, 3), np.uint8), "list of images is empty"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_image_says_what_it_is(kind):
    image, reason = WRONG[kind]
    with pytest.raises(ValueError, match=reason):
        given.images(image)


def test_all_that_are_wrong_are_named_by_their_place():
    with pytest.raises(ValueError, match=r"2 are no images: .*\[1\]: int .*; images\[3\]: None"):
        given.images([RGB, 1, GREY, None])


def test_a_directory_says_how_to_name_its_files(tmp_path):
    with pytest.raises(ValueError, match=r"is a directory; name its files: sorted\("):
        given.images(tmp_path)
