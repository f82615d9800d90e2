"""Interpolations against Pillow, TensorFlow's own results, and a slow sum over four pixels."""

import math
import zlib

import numpy as np
import pytest
from PIL import Image

from ns_jax.data import resizing

# CRC-32 of what tf.compat.v1.image.resize_bicubic (TensorFlow 2.21, CPU) makes, in float32, of
# random images: height, width, size.
TENSORFLOW = {(47, 61, 32): 0x27299F12, (20, 33, 48): 0x641371B6, (40, 40, 41): 0xB865B165}


def noise(height, width, size):
    rng = np.random.default_rng([height, width, size])
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("case", TENSORFLOW)
def test_bicubic_tf_is_tensorflows_to_the_bit(case):
    values = resizing._bicubic_tf(noise(*case), case[2])
    assert zlib.crc32(np.ascontiguousarray(values).tobytes()) == TENSORFLOW[case]


def cubic(x):
    """The kernel with a = -0.75."""
    x, a = abs(x), -0.75
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def test_bicubic_tf_is_a_sum_over_sixteen_pixels_without_a_half_pixel_shift():
    height, width, size = 9, 14, 5
    image = noise(height, width, size)
    output = resizing.resize(image, size, "bicubic_tf").astype(float)
    for row, column in np.ndindex(size, size):
        y, x = row * height / size, column * width / size
        total = np.zeros(3)
        for i in range(math.floor(y) - 1, math.floor(y) + 3):
            for j in range(math.floor(x) - 1, math.floor(x) + 3):
                pixel = image[min(max(i, 0), height - 1), min(max(j, 0), width - 1)]
                total += cubic(y - i) * cubic(x - j) * pixel
        # 0.5 of rounding, 0.3 of the table of 1,024 steps that stands for the kernel.
        assert np.abs(output[row, column] - np.clip(total, 0, 255)).max() < 0.8


def test_truncation_is_the_official_codes_step_before_randaugment():
    image = noise(47, 61, 32)
    exact = np.clip(resizing._bicubic_tf(image, 32), 0, 255)
    rounded = resizing.resize(image, 32, "bicubic_tf")
    truncated = resizing.resize(image, 32, "bicubic_tf", truncate=True)
    np.testing.assert_array_equal(rounded, np.rint(exact))
    np.testing.assert_array_equal(truncated, np.floor(exact))
    assert (rounded != truncated).any()


def test_bicubic_antialias_is_pillows():
    image = noise(100, 80, 0)
    expected = Image.fromarray(image).resize((24, 24), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(resizing.resize(image, 24, "bicubic_antialias"), expected)


@pytest.mark.parametrize("interpolation", resizing.INTERPOLATIONS)
def test_every_interpolation_keeps_a_flat_image_and_what_fits_already(interpolation):
    flat = np.full((33, 50, 3), (7, 128, 250), np.uint8)
    for size in (16, 80):
        resized = resizing.resize(flat, size, interpolation)
        assert resized.dtype == np.uint8
        np.testing.assert_array_equal(resized, np.broadcast_to(flat[0, 0], (size, size, 3)))
    fits = noise(20, 20, 1)
    assert resizing.resize(fits, 20, interpolation) is fits


def test_interpolations_differ():
    image = noise(50, 50, 0)
    results = [resizing.resize(image, 20, name).tobytes() for name in resizing.INTERPOLATIONS]
    assert len(set(results)) == len(results)
