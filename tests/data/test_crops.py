import cv2
import numpy as np
import pytest

from ns_jax.data import crops, resizing


def gradient(height, width):
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 255 // height, columns * 255 // width, rows * 0], -1).astype(np.uint8)


def preprocessing(size, crop):
    return crops.Preprocessing(size=size, crop=crop, mean=(0.5,) * 3, std=(0.5,) * 3)


def test_padded_crop_takes_the_official_square():
    image = gradient(300, 500)
    side = int(224 / 256 * 300)
    top, left = (300 - side + 1) // 2, (500 - side + 1) // 2
    expected = resizing.resize(image[top : top + side, left : left + side], 224, "bicubic")
    np.testing.assert_array_equal(preprocessing(224, "padded")(image), expected)


def test_no_crop_takes_the_centre_square_of_the_short_side():
    image = gradient(32, 40)
    np.testing.assert_array_equal(preprocessing(32, "none")(image), image[:, 4:36])
    assert preprocessing(16, "none")(gradient(8, 8)).shape == (16, 16, 3)
    assert preprocessing(16, "none")(gradient(1, 300)).shape == (16, 16, 3)


def test_a_crop_may_be_any_share_of_the_short_side():
    image = gradient(100, 140)
    np.testing.assert_array_equal(preprocessing(50, "0.5")(image), image[25:75, 45:95])


@pytest.mark.parametrize("crop", ["centre", "0", "1.5", "nan", ""])
def test_unknown_crops_list_the_known_ones(crop):
    with pytest.raises(ValueError, match="padded, none, or a share"):
        preprocessing(32, crop)


def test_unknown_interpolations_list_the_known_ones():
    with pytest.raises(ValueError, match="bicubic_antialias"):
        crops.Preprocessing(32, "none", (0.5,) * 3, (0.5,) * 3, interpolation="nearest")


def drawn(sampler, height, width, count):
    rng = np.random.default_rng(0)
    boxes = [sampler(height, width, rng) for _ in range(count)]
    return np.asarray([box for box in boxes if box])


def test_official_crops_follow_tensorflows_sampler():
    """Height uniform between its bounds; at least a tenth of the image; aspect in 3/4..4/3."""
    height, width = 300, 400
    boxes = drawn(crops.official_crop, height, width, 4000)
    assert len(boxes) > 3950  # the whole image, now and then, is None
    tops, lefts, heights, widths = boxes.T
    aspects, areas = widths / heights, heights * widths / (height * width)
    assert aspects.min() > 0.73 and aspects.max() < 1.36
    assert 0.1 <= areas.min() < 0.11 and areas.max() > 0.95
    # Uniform in height, so small areas are common: uniform in area would put 0.33 of them here.
    assert 0.5 < (areas < 0.4).mean() < 0.7
    # Linear aspect: the mean of U(3/4, 4/3) is 1.042; log-uniform would have 1.015.
    assert aspects.mean() == pytest.approx(1.04, abs=0.012)
    # The last offset that fits is never drawn where there is a choice.
    choice = heights < height - 1
    assert (tops + heights)[choice].max() == height - 1 and tops.min() == lefts.min() == 0


def test_area_crops_are_uniform_in_area_and_in_the_logarithm_of_the_aspect():
    height, width = 400, 400
    tops, lefts, heights, widths = drawn(crops.area_crop, height, width, 8000).T
    areas, aspects = heights * widths / (height * width), widths / heights
    assert 0.075 < areas.min() < 0.09 and (tops + heights).max() == height
    small = areas[areas < 0.7]  # larger ones do not fit with every aspect
    shares = np.histogram(small, 6, (0.08, 0.68))[0] / len(small)
    np.testing.assert_allclose(shares, shares.mean(), rtol=0.15)
    assert np.log(aspects[areas < 0.7]).mean() == pytest.approx(0, abs=0.01)
    assert aspects.min() > 0.74 and aspects.max() < 1.35


def test_where_no_crop_fits():
    rng = np.random.default_rng(0)
    assert crops.official_crop(400, 2, rng) is None
    top, left, height, width = crops.area_crop(400, 2, rng)
    assert (height, width, left) == (3, 2, 0) and top == 198  # the centre, at the widest aspect
    assert crops.area_crop(2, 400, rng)[2:] == (2, 3)
    assert crops.area_crop(1, 1, rng) == (0, 0, 1, 1)


def test_pad_and_crop_moves_by_up_to_an_eighth_and_mirrors():
    image = gradient(32, 32)
    rng = np.random.default_rng(0)
    padded = cv2.copyMakeBorder(image, 4, 4, 4, 4, cv2.BORDER_REFLECT_101)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (32, 32, 3)).reshape(9, 9, 32, 32, 3)
    offsets = set()
    for _ in range(300):
        crop = crops.pad_and_crop(image, rng)
        found = np.argwhere((windows == crop).all((2, 3, 4)))
        assert len(found) == 1
        offsets.add(tuple(found[0]))
    assert {top for top, _ in offsets} == {left for _, left in offsets} == set(range(9))
