import io

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from ns_jax.data import images


def gradient(height, width):
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 255 // height, columns * 255 // width, rows * 0], -1).astype(np.uint8)


def encode(image, kind):
    return cv2.imencode(kind, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def test_decoding_gives_rgb_in_this_order():
    image = gradient(20, 30)
    np.testing.assert_array_equal(images.decode(encode(image, ".png")), image)
    jpeg = images.decode(encode(image, ".jpg")).astype(int)
    assert np.abs(jpeg - image).mean() < 4
    grey = cv2.imencode(".png", image[..., 0])[1].tobytes()
    np.testing.assert_array_equal(images.decode(grey), np.repeat(image[..., :1], 3, -1))


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
    np.testing.assert_array_equal(images.decode(pillow_bytes(picture, "PNG")), expected)


@pytest.mark.parametrize("kind", [".png", ".tiff"])
def test_sixteen_bits_become_eight(kind):
    image = gradient(20, 30)
    wide = image[..., ::-1].astype(np.uint16) * 256 + 200
    data = cv2.imencode(kind, wide)[1].tobytes()
    # PNG's low byte is cut off, TIFF's rounds.
    assert np.abs(images.decode(data).astype(int) - image).max() <= 1


def test_cmyk_jpegs_become_the_colours_they_show():
    data = pillow_bytes(Image.fromarray(gradient(20, 30)).convert("CMYK"), "JPEG", quality=95)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(images.decode(data) - expected).max() <= 1


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_photographs_are_turned_as_their_exif_mark_says(orientation):
    picture = Image.fromarray(gradient(20, 30))
    exif = picture.getexif()
    exif[0x0112] = orientation
    data = pillow_bytes(picture, "JPEG", quality=95, exif=exif.tobytes())
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(images.decode(data), expected)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"no image at all", "not an image"),
        (b"\x89PNG\r\n\x1a\n", "not an image"),
        (np.zeros((4, 4), np.uint8), "not an RGB image"),
        (np.zeros((4, 4, 3), np.float32), "not an RGB image"),
    ],
)
def test_bad_images_have_a_reason(data, reason):
    with pytest.raises(images.BadImageError, match=reason):
        images.decode(data)


def preprocessing(size, crop):
    return images.Preprocessing(size=size, crop=crop, mean=(0.5,) * 3, std=(0.5,) * 3)


def test_padded_crop_takes_the_official_square():
    image = gradient(300, 500)
    side = int(224 / 256 * 300)
    top, left = (300 - side + 1) // 2, (500 - side + 1) // 2
    expected = images.resize(image[top : top + side, left : left + side], 224)
    np.testing.assert_array_equal(preprocessing(224, "padded")(image), expected)


def test_no_crop_takes_the_centre_square_of_the_short_side():
    image = gradient(32, 40)
    np.testing.assert_array_equal(preprocessing(32, "none")(image), image[:, 4:36])
    assert preprocessing(16, "none")(gradient(8, 8)).shape == (16, 16, 3)
    assert preprocessing(16, "none")(gradient(1, 300)).shape == (16, 16, 3)


def test_unknown_preprocessing_lists_the_known_ones():
    with pytest.raises(ValueError, match="padded, none"):
        preprocessing(32, "centre")


def test_random_crops_follow_the_official_sampler():
    """Height uniform between its bounds; at least a tenth of the image; aspect in 3/4..4/3."""
    height, width = 300, 400
    image = np.zeros((height, width, 3), np.uint8)
    rng = np.random.default_rng(0)
    crops = [images.random_crop(image, rng) for _ in range(4000)]
    sizes = np.asarray([crop.shape[:2] for crop in crops if crop is not None])
    assert len(sizes) > 3990
    aspects, areas = sizes[:, 1] / sizes[:, 0], sizes.prod(1) / (height * width)
    assert aspects.min() > 0.73 and aspects.max() < 1.36
    assert 0.1 <= areas.min() < 0.11 and areas.max() > 0.95
    # Uniform in height, so small areas are common: uniform in area would put 0.33 of them here.
    assert 0.5 < (areas < 0.4).mean() < 0.7
    # Linear aspect: the mean of U(3/4, 4/3) is 1.042; log-uniform would have 1.015.
    assert aspects.mean() == pytest.approx(1.04, abs=0.012)


def test_random_crop_gives_up_where_no_crop_fits():
    assert images.random_crop(np.zeros((400, 2, 3), np.uint8), np.random.default_rng(0)) is None


def test_pad_and_crop_moves_by_up_to_an_eighth_and_mirrors():
    image = gradient(32, 32)
    rng = np.random.default_rng(0)
    padded = cv2.copyMakeBorder(image, 4, 4, 4, 4, cv2.BORDER_REFLECT_101)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (32, 32, 3)).reshape(9, 9, 32, 32, 3)
    offsets = set()
    for _ in range(300):
        crop = images.pad_and_crop(image, rng)
        found = np.argwhere((windows == crop).all((2, 3, 4)))
        assert len(found) == 1
        offsets.add(tuple(found[0]))
    assert {top for top, _ in offsets} == {left for _, left in offsets} == set(range(9))
