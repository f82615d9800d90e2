import io
import re

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, stats

from ns_jax.errors import InputError
from ns_jax.robustness import corruptions
from ns_jax.robustness.corruptions import CORRUPTIONS, EXTRA, blurs, digital, frost, noise, weather
from ns_jax.robustness.corruptions.severities import SEVERITIES
from tests import rounding
from tests.robustness.made_images import mixed

NAMES = CORRUPTIONS + EXTRA


def corrupt(image, name, severity, **options):
    return corruptions.corrupt(image, name, severity, seed=0, index=0, **options)


def plain(level, height=40, width=40):
    return np.full((height, width, 3), level, np.uint8)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_fifteen_and_four():
    assert len(CORRUPTIONS) == 15 and len(EXTRA) == 4
    for rows in SEVERITIES.values():
        assert set(rows) == set(NAMES)
        assert all(len(severities) == 5 for severities in rows.values())


@pytest.mark.parametrize("name", NAMES)
def test_any_size_from_16_pixels(name):
    for height, width in [(16, 16), (16, 61), (57, 17), (40, 33), (64, 64), (300, 257)]:
        image = mixed(height, width)
        before = image.copy()
        for variant in SEVERITIES:
            for severity in (1, 2, 3, 4, 5) if height < 100 else (5,):
                found = corrupt(image, name, severity, variant=variant)
                assert found.shape == image.shape and found.dtype == np.uint8
                assert found.flags.writeable and not np.shares_memory(found, image)
        np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("name", NAMES)
def test_images_that_are_views_or_of_one_level(name):
    image = mixed(48, 40)
    for view in (image[::-1, ::-1], image[:, :, ::-1], image[::2], np.rot90(image)):
        expected = corrupt(np.ascontiguousarray(view), name, 3)
        np.testing.assert_array_equal(corrupt(view, name, 3), expected)
    image.setflags(write=False)
    corrupt(image, name, 3)
    for level in (0, 128, 255):
        assert corrupt(plain(level), name, 5).shape == (40, 40, 3)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_arguments_give_the_same_bytes(name):
    image, found = mixed(48, 40), {}
    for seed, index in [(0, 0), (0, 1), (1, 0), (0, 0)]:
        pixels = corruptions.corrupt(image, name, 4, seed, index)
        found.setdefault((seed, index), pixels)
        np.testing.assert_array_equal(pixels, found[seed, index])
    differ = any((found[0, 0] != found[key]).any() for key in [(0, 1), (1, 0)])
    fixed = ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "saturate")
    assert differ == (name not in (*fixed, "jpeg_compression", "gaussian_blur"))


def test_severities_and_names_draw_other_values():
    image = plain(100)
    noises = [
        corrupt(image, name, severity).astype(float) - 100
        for name in ("gaussian_noise", "speckle_noise")
        for severity in (1, 2)
    ]
    for i, one in enumerate(noises):
        for other in noises[:i]:
            assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.1


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"name": "rain"}, ["rain", "gaussian_noise"]),
        ({"severity": 0}, ["0", "5"]),
        ({"severity": 6}, ["6", "5"]),
        ({"variant": "380"}, ["380", "224"]),
        ({"image": plain(0, 15, 40)}, ["15", "40", "16"]),
        ({"image": np.zeros((40, 40), np.uint8)}, ["40"]),
        ({"image": np.zeros((40, 40, 4), np.uint8)}, ["4"]),
        ({"image": np.zeros((40, 40, 3), np.float32)}, ["float32"]),
    ],
)
def test_what_cannot_be_corrupted(options, names):
    arguments = {"image": plain(0), "name": "fog", "severity": 3, **options}
    with pytest.raises(InputError) as caught:
        corrupt(**arguments)
    assert all(name in str(caught.value) for name in names)


# --- noises


@pytest.mark.parametrize("photons", [3, 60, 300])
def test_shot_noise_is_the_poisson_quantile(photons):
    image = mixed(64, 64)
    found = noise.shot_noise(image, rng(5), photons) * (photons / 255)
    expected = stats.poisson.ppf(rng(5).random(image.shape), image * (photons / 255))
    rounding.close(found, np.where(image == 0, 0, expected))


def test_impulse_noise_of_each_channel_by_itself():
    found = corrupt(plain(128, 200, 200), "impulse_noise", 5)
    assert set(np.unique(found)) == {0, 128, 255}
    changed = found != 128
    assert changed.mean() == pytest.approx(0.27, abs=0.01)
    assert (found == 255).sum() / changed.sum() == pytest.approx(0.5, abs=0.02)
    assert changed.all(axis=2).mean() == pytest.approx(0.27**3, abs=0.005)


# --- blurs


@pytest.mark.parametrize("severity", range(1, 6))
@pytest.mark.parametrize("shape", [(16, 23), (70, 33)])
def test_gaussian_blur_is_scipys(shape, severity):
    image = mixed(*shape)
    sigma = (1, 2, 3, 4, 6)[severity - 1]
    expected = ndimage.gaussian_filter(image.astype(float), (sigma, sigma, 0), mode="nearest")
    found = corrupt(image, "gaussian_blur", severity)
    assert np.abs(found - np.floor(expected)).max() <= 1


@pytest.mark.parametrize("severity", range(1, 6))
def test_defocus_is_scipys_filter_with_the_disk(severity):
    image = mixed(16, 40)
    radius, edge = SEVERITIES["224"]["defocus_blur"][severity - 1]
    kernel = blurs.disk(radius, edge)[:, :, None]
    expected = ndimage.correlate(image.astype(float), kernel, mode="mirror")
    found = corrupt(image, "defocus_blur", severity)
    assert np.abs(found - np.floor(np.clip(expected, 0, 255))).max() <= 1


def test_disks_that_touch_their_grid_brighten():
    sums = [float(blurs.disk(*row).sum()) for row in SEVERITIES["224"]["defocus_blur"]]
    np.testing.assert_allclose(sums, [1, 1, 1, 1.0130, 1.0108], atol=5e-5)


@pytest.mark.parametrize(("max_delta", "shape"), [(1, (16, 16)), (4, (19, 31)), (5, (16, 40))])
def test_glass_copies_one_after_the_other(max_delta, shape):
    """The published loop: from the lower right, each pixel takes what its neighbour has *now*."""
    height, width = shape
    expected = np.arange(height * width).reshape(shape)
    rows = range(height - max_delta, max_delta, -1)
    columns = range(width - max_delta, max_delta, -1)
    offsets = iter(rng(3).integers(-max_delta, max_delta, (len(rows) * len(columns), 2)))
    for row in rows:
        for column in columns:
            right, down = next(offsets)
            expected[row, column] = expected[row + down, column + right]
    found = blurs._moved(shape, rng(3), max_delta)
    np.testing.assert_array_equal(found.reshape(shape), expected)
    assert len(np.unique(expected)) < expected.size  # an exchange would have kept all


@pytest.mark.parametrize("angle", [-150, -90, -45, -7, 0, 33, 120])
def test_motion_is_half_a_gaussian_in_one_direction(angle):
    image, radius, sigma = mixed(20, 24), 12, 5
    weights = np.exp(-(np.arange(25) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    total = np.zeros(image.shape)
    y, x = np.mgrid[:20, :24]
    for i, weight in enumerate(weights):
        right = int(np.ceil(i * np.cos(np.deg2rad(angle)) - 0.5))
        down = int(np.ceil(i * np.sin(np.deg2rad(angle)) - 0.5))
        total += weight * image[np.clip(y + down, 0, 19), np.clip(x + right, 0, 23)]
    found = blurs.motion(image, radius, sigma, angle)
    np.testing.assert_array_equal(found, np.floor(total + 0.5 / 257))


def test_motion_keeps_an_even_image():
    for level in (1, 77, 255):
        found = corrupt(plain(level), "motion_blur", 5)
        np.testing.assert_array_equal(found, plain(level))


@pytest.mark.parametrize("factor", [1.0, 1.01, 1.3, 2.5, 4.5])
@pytest.mark.parametrize("side", [16, 33, 224])
def test_zoom_is_scipys(side, factor):
    pixels = np.float32(mixed(side, side))
    centre = int(np.ceil(side / factor))
    first = (side - centre) // 2
    part = pixels[first : first + centre, first : first + centre].astype(float)
    expected = ndimage.zoom(part, (factor, factor, 1), order=1)
    trimmed = (len(expected) - side) // 2
    expected = expected[trimmed : trimmed + side, trimmed : trimmed + side]
    rounding.close(blurs.zoom(pixels, factor), expected, 1e-4)


def test_zooms_are_as_many_as_published():
    counts = [len(np.arange(1, *row)) for row in SEVERITIES["224"]["zoom_blur"]]
    assert counts == [12, 16, 11, 13, 11]
    image = mixed(32, 32)
    zooms = [blurs.zoom(np.float32(image), 1 + 0.01 * i) for i in range(12)]
    expected = (image + sum(zooms)) / 13
    assert np.abs(corrupt(image, "zoom_blur", 1) - expected).max() <= 1.01


# --- weather


def test_snow_lies_twice_on_a_whitened_image():
    flakes = weather.snow_flakes((40, 40), rng(), 0.1, 0.3, 3, 0.5)
    found = weather.with_snow(plain(100), flakes, 0.8)[..., 0]
    white = 1.5 * 100 + 0.5 * 255
    snow = flakes.astype(float) + flakes[::-1, ::-1]
    rounding.close(found, 0.8 * 100 + 0.2 * white + snow)
    assert 0 < (flakes > 0).mean() < 0.5 and flakes[flakes > 0].min() >= 127


def test_plasma_wraps_around():
    heights = weather.plasma(200, rng(), 2)
    assert heights.shape == (256, 256)
    assert heights.min() == 0 and heights.max() == 1
    steps = np.abs(np.diff(np.vstack([heights, heights[:1]]), axis=0)).max(axis=1)
    assert steps[-1] < 2 * steps[:-1].max()


def test_fog_keeps_the_brightest():
    found = weather.fog(plain(200), rng(), 3, 1.4)
    clouds = weather.plasma(40, rng(), 1.4)[:40, :40, None]
    most = 200 / 255
    expected = (200 + 255 * 3 * clouds) * most / (most + 3)
    rounding.close(found, np.broadcast_to(expected, found.shape))
    np.testing.assert_array_equal(corrupt(plain(0), "fog", 5), plain(0))


def test_frost_takes_five_photographs_at_their_own_scale(tmp_path):
    image, colours = plain(100, 30, 50), [20 * number for number in range(1, 6)]
    for name, colour in zip(frost.PHOTOGRAPHS, colours, strict=True):
        coded = cv2.imencode(".png", plain(colour, 90, 80))[1]
        (tmp_path / name).write_bytes(coded.tobytes())
    found = {
        int(
            corruptions.corrupt(image, "frost", 2, 0, index, frost_directory=str(tmp_path))[0, 0, 0]
        )
        for index in range(60)
    }
    assert found == {int(80 + 0.6 * colour + 1e-3) for colour in colours}
    large = corrupt(plain(100, 200, 60), "frost", 2, frost_directory=str(tmp_path))
    assert large.shape == (200, 60, 3) and large.min() == large.max()


def test_frost_that_is_missing(tmp_path):
    with pytest.raises(InputError, match=re.escape(str(tmp_path))):
        corrupt(plain(0), "frost", 1, frost_directory=str(tmp_path))


def test_the_stand_in_for_frost_is_no_even_grey():
    ice = frost.stand_in(224, 224, rng())
    assert ice.min() >= 0 and ice.mean() == pytest.approx(125, abs=35) and ice.std() > 20
    assert (ice[..., 2] > ice[..., 0]).all()


@pytest.mark.parametrize("severity", [1, 3])
def test_spatter_without_a_drop_leaves_the_image(severity):
    image = mixed(32, 32)
    found = weather.with_water(image, np.zeros((32, 32)), 0.6)
    np.testing.assert_array_equal(found, image)
    assert (corrupt(image, "spatter", severity).astype(int) - image).min() >= 0  # water is added


def test_mud_covers():
    image = plain(255, 224, 224)
    found = corrupt(image, "spatter", 5)
    muddy = (found != 255).any(axis=2)
    assert 0.02 < muddy.mean() < 0.9
    darkest = found[muddy].min(axis=0)
    assert np.abs(darkest.astype(int) - weather.MUD).max() <= 2


# --- digital


def test_brightness_of_black_and_of_colours():
    np.testing.assert_array_equal(corrupt(plain(0), "brightness", 2), plain(51))
    image = plain(0)
    image[...] = (200, 100, 50)
    found = digital.brightness(image, rng(), 0.1)[0, 0]  # the value goes from 200 to 225.5
    rounding.close(found, np.array([200, 100, 50]) * 225.5 / 200)


def test_contrast_about_the_mean_of_each_channel():
    image = mixed(40, 40)
    means = image.reshape(-1, 3).mean(axis=0)
    expected = (image - means) * 0.2 + means
    assert np.abs(corrupt(image, "contrast", 3) - np.floor(expected)).max() <= 1


@pytest.mark.parametrize("severity", range(1, 6))
def test_saturation_of_grey(severity):
    red, green, blue = corrupt(plain(200), "saturate", severity)[0, 0].astype(int)
    assert green == blue
    added = {4: 0.1, 5: 0.2}.get(severity, 0)
    assert abs(red - 200) <= 1 and abs(green - 200 * (1 - added)) <= 1


def test_saturation_of_a_colour():
    image = plain(0)
    image[...] = (200, 100, 150)  # saturation 0.5
    assert np.abs(corrupt(image, "saturate", 1)[0, 0] - [200, 170, 185]).max() <= 1
    assert np.abs(corrupt(image, "saturate", 3)[0, 0] - [200, 0, 100]).max() <= 1


@pytest.mark.parametrize("sigma", [2.44, 5.1, 5.2, 170.8])
@pytest.mark.parametrize("shape", [(16, 21), (64, 64)])
def test_elastic_fields_are_scipys_gaussian(shape, sigma):
    fields = rng().random((2, *shape), np.float32)
    expected = [ndimage.gaussian_filter(f, sigma, mode="reflect", truncate=3) for f in fields]
    rounding.close(digital._smooth(fields, sigma), expected)


def test_elastic_transform_keeps_an_even_image_and_moves_others():
    np.testing.assert_array_equal(corrupt(plain(90), "elastic_transform", 2), plain(90))
    image = mixed(40, 56)
    moved = corrupt(image, "elastic_transform", 3)
    assert (moved != image).mean() > 0.3
    # With the lengths of 224 pixels the three points would lie anywhere in so small an image.
    assert np.corrcoef(moved.ravel(), image.ravel())[0, 1] > 0.8


@pytest.mark.parametrize(("severity", "side"), [(1, 134), (2, 112), (3, 89), (4, 67), (5, 56)])
def test_pixelate_has_as_many_blocks_as_published(severity, side):
    image = np.repeat(np.random.default_rng(0).integers(0, 256, (224, 224, 1), np.uint8), 3, 2)
    found = corrupt(image, "pixelate", severity)
    edges = (np.diff(found[..., 0].astype(int), axis=1) != 0).any(axis=0).sum()
    assert edges + 1 == side


@pytest.mark.parametrize("quality", [25, 18, 15, 10, 7])
@pytest.mark.parametrize("shape", [(64, 48), (33, 17)])
def test_jpeg_is_pillows(shape, quality):
    image, coded = mixed(*shape), io.BytesIO()
    Image.fromarray(image).save(coded, "JPEG", quality=quality)
    found = digital.jpeg_compression(image, rng(), quality)
    assert np.abs(found.astype(int) - np.asarray(Image.open(coded))).max() <= 1


@pytest.mark.parametrize(
    ("size", "variant"),
    [(16, "32"), (45, "32"), (46, "64"), (119, "64"), (120, "224"), (258, "224"), (259, "299")],
)
def test_severities_are_those_of_the_nearest_size(size, variant):
    assert corruptions.nearest(size) == variant


def test_small_images_are_not_destroyed_by_the_constants_made_for_them():
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (4, 4, 3), np.uint8), (32, 32))
    for name in corruptions.CORRUPTIONS:
        near, far = (
            np.abs(corrupt(image, name, 5, variant=v).astype(float) - image).mean()
            for v in ("32", "224")
        )
        assert near < far, name
