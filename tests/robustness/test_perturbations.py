import cv2
import numpy as np
import pytest
from scipy import stats

from ns_jax.errors import InputError
from ns_jax.robustness import perturbations
from ns_jax.robustness.corruptions import noise, weather
from ns_jax.robustness.perturbations import EXTRA, PERTURBATIONS
from tests import rounding
from tests.robustness.made_images import mixed

NAMES = PERTURBATIONS + EXTRA


def sequence(name, image=None, crop=48, **options):
    image = mixed(64, 80) if image is None else image
    return perturbations.sequence(image, name, seed=0, index=0, crop=crop, **options)


def crop_of(image, side=48):
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return image[top : top + side, left : left + side]


@pytest.mark.parametrize("name", NAMES)
def test_frames_of_any_size(name):
    for shape, crop in [((16, 16), 16), ((64, 80), 48), ((37, 19), 18)]:
        for variant in ("32", "64", "224", "299"):
            frames = sequence(name, mixed(*shape), crop, variant=variant)
            length = 41 if name == "translate" else 31
            assert frames.shape == (length, crop, crop, 3) and frames.dtype == np.uint8
            assert perturbations.num_frames(name) == length
    assert len(NAMES) == 14 and len(PERTURBATIONS) == 10


@pytest.mark.parametrize("name", NAMES)
def test_the_same_arguments_give_the_same_frames(name):
    found = [perturbations.sequence(mixed(64, 64), name, 0, index, 48) for index in (3, 3, 4)]
    np.testing.assert_array_equal(found[0], found[1])
    random = ("gaussian_noise", "shot_noise", "speckle_noise", "snow", "spatter")
    assert (found[0] != found[2]).any() == (name in random)


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        *[(name, 0) for name in ("gaussian_noise", "shot_noise", "speckle_noise", "zoom_blur")],
        *[(name, 15) for name in ("brightness", "rotate", "shear")],
        *[("translate", 20), ("scale", 24)],
    ],
)
def test_one_frame_is_the_crop_itself(name, clean):
    difference = sequence(name)[clean].astype(int) - crop_of(mixed(64, 80))
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"name": "fog"}, ["fog", "tilt"]),
        ({"crop": 65}, ["65", "80", "64"]),
        ({"crop": 15}, ["15", "16"]),
        ({"variant": "33"}, ["33", "299"]),
        ({"image": np.zeros((64, 64, 3))}, ["float64"]),
    ],
)
def test_what_cannot_be_perturbed(options, names):
    with pytest.raises(InputError) as caught:
        sequence(**{"name": "tilt", **options})
    assert all(name in str(caught.value) for name in names)


@pytest.mark.parametrize(
    ("name", "sigma"), [("gaussian_noise", 255 * 0.03), ("speckle_noise", 128 * 0.05)]
)
def test_noises_are_independent_from_frame_to_frame(name, sigma):
    noises = sequence(name, np.full((64, 64, 3), 128, np.uint8))[1:].astype(float) - 128
    assert noises.std() == pytest.approx(sigma, rel=0.02)
    assert noises.mean() == pytest.approx(-0.5, abs=0.1)  # bytes are cut, not rounded
    correlation = np.corrcoef(noises.reshape(30, -1))
    assert np.abs(correlation - np.eye(30)).max() < 0.06


def test_shot_noise_counts_300_photons():
    rng = np.random.default_rng(1)
    image = np.full((64, 64, 3), 200, np.uint8)
    counts = noise.shot_noise(image, rng, 300) * (300 / 255)
    assert counts.mean() == pytest.approx(300 * 200 / 255, rel=0.005)
    assert stats.variation(counts, axis=None) == pytest.approx((300 * 200 / 255) ** -0.5, rel=0.02)
    frames = sequence("shot_noise", image)[1:]
    levels = np.arange(301) * 255 // 300
    assert np.isin(frames, levels).all()


def test_translate_moves_to_the_right_and_leaves_black():
    image = mixed(64, 48)
    frames = sequence("translate", image)
    np.testing.assert_array_equal(frames[0][:, :28], crop_of(image)[:, 20:])
    assert not frames[0][:, 28:].any()
    np.testing.assert_array_equal(frames[40][:, 20:], crop_of(image)[:, :28])
    assert not frames[40][:, :20].any()


def test_moves_show_what_lies_beyond_the_crop():
    image = mixed(64, 160)
    frames = sequence("translate", image)
    assert all(frame.any(axis=2).mean() > 0.9 for frame in frames)
    np.testing.assert_array_equal(frames[40], image[8:56, 56 - 20 : 104 - 20])


def test_scale_shrinks_to_two_fifths():
    frame = sequence("scale", np.full((100, 100, 3), 255, np.uint8), 100)[0]
    rows = np.flatnonzero(frame[50, :, 0])
    assert len(rows) == pytest.approx(40, abs=1)


def test_rotate_goes_through_both_directions():
    image = np.zeros((101, 101, 3), np.uint8)
    image[49:52, 88:91] = 255  # right of the centre by 39 pixels
    for number, angle in [(0, -15), (30, 15)]:
        rows, columns = np.nonzero(sequence("rotate", image, 101)[number, ..., 0] > 60)
        assert np.mean(columns) - 50 == pytest.approx(39 * np.cos(np.deg2rad(15)), abs=1)
        assert np.mean(rows) - 50 == pytest.approx(39 * np.sin(np.deg2rad(angle)), abs=1)


@pytest.mark.parametrize("number", [0, 7, 30])
def test_tilt_is_a_view_of_the_turned_plane(number):
    """A point of the plane, turned about y and then about x, seen from the diagonal's length."""
    image = np.zeros((120, 160, 3), np.uint8)
    image[29:32, 39:42] = 255
    angle, distance = np.deg2rad(number - 15), np.hypot(120, 160)
    right, down, away = 40 - 80, 30 - 60, 1
    cos, sin = np.cos(angle), np.sin(angle)
    right, away = cos * right - sin * away, sin * right + cos * away
    down, away = cos * down - sin * away, sin * down + cos * away
    shrink = distance / (distance + away)
    rows, columns = np.nonzero(sequence("tilt", image, 120)[number, ..., 0] > 60)
    assert np.mean(columns) + 20 == pytest.approx(80 + shrink * right, abs=0.6)
    assert np.mean(rows) == pytest.approx(60 + shrink * down, abs=0.6)


def test_shear_moves_rows_against_each_other():
    image = np.zeros((101, 101, 3), np.uint8)
    image[:, 49:52] = 255
    frame = sequence("shear", image, 101)[30, ..., 0]
    upper, lower = (np.mean(np.nonzero(frame[row] > 60)) for row in (20, 80))
    assert upper - lower == pytest.approx(60 * np.tan(np.deg2rad(15)), abs=2)


def test_snow_falls_in_other_directions_with_the_same_flakes():
    frames = sequence("snow", np.zeros((64, 64, 3), np.uint8))
    amounts = frames.reshape(31, -1).mean(axis=1)
    assert amounts.std() / amounts.mean() < 0.05
    assert (frames[0] != frames[30]).mean() > 0.05


def test_spatter_runs_down(monkeypatch):
    layers = []
    with_water = weather.with_water
    monkeypatch.setattr(
        weather, "with_water", lambda *given: layers.append(given[1]) or with_water(*given)
    )
    sequence("spatter", mixed(128, 128), 128)
    for before, after in zip(layers, layers[1:], strict=False):
        expected = np.apply_along_axis(np.convolve, 0, before, [0.05, 0.1, 0.15, 0.7], "same")
        rounding.close(after, expected)
    assert len(layers) == 31 and layers[0].any()


def test_blur_grows():
    frames = sequence("gaussian_blur", mixed(64, 64))
    sharpness = [cv2.Laplacian(frame, cv2.CV_32F).var() for frame in frames]
    assert (np.diff(sharpness) <= 0).mean() > 0.9 and sharpness[-1] < sharpness[0] / 4


def test_small_images_move_in_proportion():
    image = np.zeros((28, 28, 3), np.uint8)
    image[:, 14] = 255  # a column of light
    columns = np.arange(28)
    for crop, variant, most in ((28, "32", 20 * 28 / 224), (28, "64", 2.5)):
        frames = sequence("translate", image, crop, variant=variant)[..., 0].astype(float)
        places = (frames.sum(1) * columns).sum(1) / frames.sum((1, 2))
        assert np.abs(places - places[20]).max() == pytest.approx(most, abs=0.1)
    still = sequence("motion_blur", image, 28, variant="32").astype(float).mean((1, 2, 3))
    np.testing.assert_allclose(still, still[0], rtol=0.2)  # the light stays in the image
