"""Hashes of copies of real photographs and of others."""

import functools

import cv2
import imagehash
import numpy as np
import pytest
from PIL import Image

from benchmarks import leaks as benchmark
from ns_jax.data import perceptual
from ns_jax.data.formats import digits

DISTANCE = 6  # as docs/leaks.md recommends


@functools.cache
def pieces(height, width):
    """(images, their hashes): of two photographs, none of which overlap."""
    images = benchmark.pieces(height, width)
    return images, np.array([perceptual.phash(image) for image in images], np.uint64)


def moved(vary, height=213, width=213):
    images, hashes = pieces(height, width)
    copies = [perceptual.phash(vary(image)) for image in images]
    assert perceptual.NOTHING not in copies
    return np.bitwise_count(hashes ^ np.array(copies, np.uint64))


@pytest.mark.parametrize(
    "vary",
    [
        *(functools.partial(benchmark.jpeg, quality=quality) for quality in (30, 50, 70, 95)),
        *(functools.partial(benchmark.scaled, height=scale) for scale in (0.5, 0.7, 1.4, 2)),
        *(functools.partial(benchmark.brightened, factor=factor) for factor in (0.7, 0.85, 1.3)),
        benchmark.grey,
        benchmark.captioned,
        functools.partial(benchmark.scaled, height=1, width=0.75),
        functools.partial(benchmark.rotated, degrees=2),
        functools.partial(benchmark.cropped, share=0.02),
        lambda image: benchmark.jpeg(benchmark.scaled(benchmark.cropped(image, 0.01), 0.5), 50),
    ],
)
def test_copies_are_within_the_recommended_distance(vary):
    assert moved(vary).max() <= DISTANCE


def test_of_copies_with_three_percent_of_each_side_cut_off_most_are():
    found = moved(functools.partial(benchmark.cropped, share=0.03)) <= DISTANCE
    assert found.mean() > 0.9
    # What is not found is said in the docs.
    assert moved(functools.partial(benchmark.cropped, share=0.125)).min() > DISTANCE
    assert moved(lambda image: np.ascontiguousarray(image[:, ::-1])).min() > DISTANCE


@pytest.mark.parametrize("size", [(213, 213), (142, 160), (106, 106), (71, 80)])
def test_other_places_of_the_same_photographs_are_far(size):
    images, hashes = pieces(*size)
    apart = np.bitwise_count(hashes[:, None] ^ hashes)[~np.eye(len(images), dtype=bool)]
    assert apart.min() > 2 * DISTANCE
    assert abs(np.median(apart) - 32) <= 2


def test_digits_enlarged_are_themselves_and_no_other_number():
    small, labels = digits._arrays()
    chosen = np.concatenate([np.flatnonzero(labels == number)[:3] for number in range(10)])
    hashes = np.array([perceptual.phash(small[index]) for index in chosen], np.uint64)
    enlarged = [cv2.resize(small[i], (48, 48), interpolation=cv2.INTER_LANCZOS4) for i in chosen]
    enlarged = np.array([perceptual.phash(image) for image in enlarged], np.uint64)
    apart = np.bitwise_count(enlarged[:, None] ^ hashes)
    assert apart.diagonal().max() <= DISTANCE
    other = labels[chosen][:, None] != labels[chosen]
    assert apart[other].min() > DISTANCE


def test_the_hash_is_that_of_imagehash_on_the_small_image():
    image = pieces(427, 427)[0][0][:, :200]
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    halved = cv2.resize(grey, (200, 214), interpolation=cv2.INTER_LINEAR)
    small = cv2.resize(halved, (32, 32), interpolation=cv2.INTER_AREA)
    assert perceptual.phash(image) == whole(small)


SYMMETRIC = {  # uint8 [32, 32] -> the same with equal or vanishing coefficients
    "none": lambda grey: grey,
    "mirrored": lambda grey: np.hstack([grey[:, :16], grey[:, 15::-1]]),
    "turned": lambda grey: np.vstack([grey[:16], grey[15::-1, ::-1]]),
    "transposed": lambda grey: np.triu(grey) + np.triu(grey, 1).T,
    "other diagonal": lambda grey: (np.triu(grey) + np.triu(grey, 1).T)[:, ::-1],
    "inverted": lambda grey: np.vstack([grey[:16], 255 - grey[15::-1]]),
    "black and white": lambda grey: grey // 128 * np.uint8(255),
}


@pytest.mark.parametrize("make", SYMMETRIC.values(), ids=SYMMETRIC)
def test_every_bit_is_that_of_imagehash_ties_of_the_median_too(make):
    rng, hashed = np.random.default_rng(0), 0
    for sigma in np.linspace(0.5, 4, 300):
        grey = cv2.GaussianBlur(rng.integers(0, 256, (32, 32), np.uint8), (0, 0), sigma)
        grey = np.ascontiguousarray(make(cv2.normalize(grey, None, 0, 255, cv2.NORM_MINMAX)))
        found = perceptual.phash(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB))
        assert found in (perceptual.NOTHING, whole(grey))
        hashed += found != perceptual.NOTHING
    assert hashed > 250


def test_coefficients_in_the_noise_are_counted_as_orthonormal_ones():
    rng, hashed = np.random.default_rng(0), 0
    for contrast in np.linspace(0.5, 1.5, 300):  # of which 24 coefficients are just above one level
        grey = np.uint8(np.round(rng.normal(128, contrast, (32, 32))))
        lowest = cv2.dct(np.float32(grey))[:8, :8]
        found = perceptual.phash(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)) != perceptual.NOTHING
        assert found == ((np.abs(lowest) > 1).sum() >= 24)
        hashed += found
    assert 50 < hashed < 250


def whole(image):
    return int(str(imagehash.phash(Image.fromarray(image))), 16)


def test_it_is_near_that_of_imagehash_on_the_whole_image():
    images = [image for size in ((427, 427), (213, 213), (142, 160)) for image in pieces(*size)[0]]
    apart = [(perceptual.phash(image) ^ whole(image)).bit_count() for image in images]
    assert max(apart) <= 4
    assert np.mean(apart) < 1


def test_stored_hashes_outlive_versions_of_the_libraries():
    """Label shards keep hashes. No coefficient is within 8 grey levels of the median here."""
    image = np.full((375, 500, 3), (70, 110, 160), np.uint8)
    image[210:] = (90, 130, 40)
    image[120:260, 60:190] = (200, 60, 50)
    image[80:120, 40:210] = (90, 40, 30)
    image[40:100, 390:450] = (250, 230, 90)
    image[180:340, 430:470] = (60, 40, 20)
    assert f"{perceptual.phash(image):016x}" == "95ada5d2ca4a5a5a"


def test_every_hash_has_its_first_and_31_other_bits_set():
    hashes = np.concatenate([pieces(*size)[1] for size in ((106, 106), (71, 80))])
    assert (np.bitwise_count(hashes) == 32).all()
    assert (hashes >> np.uint64(63) == 1).all()


def ramp(height, width, down, right):
    rows, columns = np.mgrid[:height, :width]
    values = (down * rows / height + right * columns / width) / (down + right) * 255
    return np.repeat(values[..., None].astype(np.uint8), 3, axis=-1)


def stripes(period):
    image = np.full((300, 200, 3), 220, np.uint8)
    image[np.arange(300) % period < period // 2] = 30
    return image


def chessboard(square):
    odd = sum(np.indices((8 * square, 8 * square)) // square) % 2
    return np.repeat(np.uint8(255 * odd)[..., None], 3, axis=-1)


@pytest.mark.parametrize(
    "image",
    [
        *(np.full((100, 130, 3), value, np.uint8) for value in (0, 1, 77, 255)),
        np.full((1, 1, 3), 9, np.uint8),
        np.random.default_rng(0).integers(0, 256, (1, 400, 3), np.uint8),
        np.random.default_rng(0).integers(0, 256, (400, 1, 3), np.uint8),
        np.uint8(np.random.default_rng(0).normal(128, 5, (375, 500, 3))),  # a covered lens
        benchmark.jpeg(np.full((375, 500, 3), (90, 150, 200), np.uint8), 40),
        *(ramp(300, 200, *slope) for slope in ((1, 0), (0, 1), (1, 1), (2, 1), (1, 5))),
        *(stripes(period) for period in (20, 60, 150)),
        *(chessboard(square) for square in (5, 25, 64)),
    ],
)
def test_images_without_content_have_no_hash(image):
    assert perceptual.phash(image) == perceptual.NOTHING


@pytest.mark.parametrize("shape", [(2, 2), (3, 7), (33, 4000), (40_000, 40), (3000, 4000)])
def test_images_of_any_size_are_hashed(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    assert 0 <= perceptual.phash(image) < 2**64
