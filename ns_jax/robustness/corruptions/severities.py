"""The published constants of the corruptions: a row for each severity from 1 to 5.

Source: hendrycks/robustness (Apache-2.0), ImageNet-C/create_c/make_imagenet_c.py for 224 pixels and
make_imagenet_c_inception.py for 299. Lengths are pixels; a row is what the function of that name
takes after the image and the generator.
"""

import math

from ns_jax.robustness.corruptions.small_severities import AT_32, AT_64, Row

_AT_224: dict[str, tuple[Row, ...]] = {
    # standard deviation; photons; share of values; standard deviation
    "gaussian_noise": ((0.08,), (0.12,), (0.18,), (0.26,), (0.38,)),
    "shot_noise": ((60,), (25,), (12,), (5,), (3,)),
    "impulse_noise": ((0.03,), (0.06,), (0.09,), (0.17,), (0.27,)),
    # radius, sigma of the disk's edge
    "defocus_blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    # sigma, largest move, passes
    "glass_blur": ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    # radius, sigma
    "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    # end of the zooms, their step
    "zoom_blur": ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    # mean, standard deviation, zoom, threshold, radius and sigma of the motion, weight of the image
    "snow": (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
    # weight of the image, weight of the frost
    "frost": ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    # intensity, decay of the roughness
    "fog": ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    # added to the value of HSV; factor of the contrast
    "brightness": ((0.1,), (0.2,), (0.3,), (0.4,), (0.5,)),
    "contrast": ((0.4,), (0.3,), (0.2,), (0.1,), (0.05,)),
    # size of the moves, sigma of their smoothing, jitter of the affine map's three points
    "elastic_transform": (
        (488, 170.8, 24.4),
        (488, 19.52, 48.8),
        (12.2, 2.44, 4.88),
        (17.08, 2.44, 4.88),
        (29.28, 2.44, 4.88),
    ),
    # share of each side; JPEG quality
    "pixelate": ((0.6,), (0.5,), (0.4,), (0.3,), (0.25,)),
    "jpeg_compression": ((25,), (18,), (15,), (10,), (7,)),
    # standard deviation; sigma
    "speckle_noise": ((0.15,), (0.2,), (0.35,), (0.45,), (0.6,)),
    "gaussian_blur": ((1,), (2,), (3,), (4,), (6,)),
    # mean, standard deviation, sigma, threshold, strength, mud instead of water
    "spatter": (
        (0.65, 0.3, 4, 0.69, 0.6, False),
        (0.65, 0.3, 3, 0.68, 0.6, False),
        (0.65, 0.3, 2, 0.68, 0.5, False),
        (0.65, 0.3, 1, 0.65, 1.5, True),
        (0.67, 0.4, 1, 0.65, 1.5, True),
    ),
    # factor of the saturation of HSV, and what is added to it
    "saturate": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
}

_AT_299: dict[str, tuple[Row, ...]] = _AT_224 | {
    "gaussian_noise": ((0.09,), (0.13,), (0.19,), (0.27,), (0.4,)),
    "shot_noise": ((50,), (20,), (10,), (5,), (3,)),
    "impulse_noise": ((0.04,), (0.07,), (0.1,), (0.18,), (0.28,)),
    "defocus_blur": ((4, 0.1), (5, 0.5), (7, 0.5), (10, 0.5), (12, 0.5)),
    "glass_blur": ((0.8, 1, 3), (1, 3, 1), (1.1, 2, 4), (1.2, 4, 2), (1.6, 5, 2)),
    "motion_blur": ((12, 4), (17, 6), (17, 9), (17, 13), (22, 16)),
    "fog": ((1.5, 2), (2, 2), (2.5, 1.8), (2.5, 1.6), (3, 1.5)),
    "elastic_transform": (
        (720, 252, 36),
        (720, 28.8, 72),
        (18, 3.6, 7.2),
        (25.2, 3.6, 7.2),
        (43.2, 3.6, 7.2),
    ),
    "pixelate": ((0.5,), (0.4,), (0.3,), (0.25,), (0.2,)),
    "jpeg_compression": ((23,), (16,), (13,), (8,), (5,)),
    "speckle_noise": ((0.16,), (0.21,), (0.36,), (0.46,), (0.61,)),
    "gaussian_blur": ((1.5,), (2.5,), (3.5,), (4.5,), (6.5,)),
    "spatter": (
        (0.65, 0.3, 4, 0.69, 0.9, False),
        (0.65, 0.3, 3.5, 0.68, 0.9, False),
        (0.65, 0.3, 3, 0.68, 0.8, False),
        (0.65, 0.3, 1.2, 0.65, 1.8, True),
        (0.67, 0.4, 1.2, 0.65, 1.8, True),
    ),
}

# variant, by the pixels of the images that it was made for -> corruption -> five rows
SEVERITIES = {"32": AT_32, "64": AT_64, "224": _AT_224, "299": _AT_299}


def nearest(size: int) -> str:
    """The variant whose images are nearest in size, as a ratio, to those of `size` pixels."""
    return min(SEVERITIES, key=lambda variant: abs(math.log(size / int(variant))))
