"""What ImageNet-C and ImageNet-P divide by: AlexNet's errors and its flip probabilities.

The network is torchvision's AlexNet on the released images of 224 pixels. Errors: a table that
hendrycks/robustness had in its README (commit 76d9393), whose means AugMix and assembled-cnn
repeat. Flip probabilities: clovaai/assembled-cnn; with them ResNeXt-101 32x48d WSL has the mFR of
27.8 that the Noisy Student paper quotes. No such numbers were published for the variants of 299
pixels, where these are used as well; nor for the distance of the five best classes.
"""

CLEAN_ERROR = 0.4348

# corruption: errors at severities 1 to 5. The first fifteen make the benchmark.
ERRORS = {
    "gaussian_noise": (0.69528, 0.82542, 0.93554, 0.98138, 0.99452),
    "shot_noise": (0.71224, 0.85108, 0.93574, 0.98182, 0.99146),
    "impulse_noise": (0.78374, 0.89808, 0.9487, 0.9872, 0.99548),
    "defocus_blur": (0.65624, 0.73202, 0.85036, 0.91364, 0.94714),
    "glass_blur": (0.64308, 0.75054, 0.88806, 0.91622, 0.93344),
    "motion_blur": (0.5843, 0.70048, 0.82108, 0.8975, 0.92638),
    "zoom_blur": (0.70008, 0.76992, 0.80784, 0.84198, 0.87198),
    "snow": (0.71726, 0.88392, 0.86468, 0.9187, 0.94952),
    "frost": (0.6139, 0.79734, 0.8879, 0.89942, 0.9343),
    "fog": (0.67474, 0.7605, 0.84378, 0.8726, 0.945),
    "brightness": (0.4514, 0.48502, 0.54048, 0.62166, 0.7244),
    "contrast": (0.64548, 0.7615, 0.88874, 0.9776, 0.9927),
    "elastic_transform": (0.52596, 0.70116, 0.55686, 0.64076, 0.80554),
    "pixelate": (0.52218, 0.5462, 0.73728, 0.87092, 0.91262),
    "jpeg_compression": (0.51002, 0.54718, 0.57294, 0.65458, 0.74778),
}
EXTRA_ERRORS = {
    "speckle_noise": (0.66192, 0.7444, 0.90246, 0.94548, 0.97268),
    "gaussian_blur": (0.54732, 0.70444, 0.82574, 0.89864, 0.9594),
    "spatter": (0.47196, 0.62194, 0.75052, 0.84132, 0.90182),
    "saturate": (0.59342, 0.65514, 0.51174, 0.70834, 0.8226),
}

# perturbation: flip probability. The first ten make the benchmark.
FLIP_PROBABILITIES = {
    "gaussian_noise": 0.23653,
    "shot_noise": 0.30062,
    "motion_blur": 0.09297,
    "zoom_blur": 0.05942,
    "snow": 0.11928,
    "brightness": 0.04889,
    "translate": 0.11007,
    "rotate": 0.13104,
    "tilt": 0.0705,
    "scale": 0.23531,
}
EXTRA_FLIP_PROBABILITIES = {
    "speckle_noise": 0.18649,
    "gaussian_blur": 0.02775,
    "spatter": 0.05053,
    "shear": 0.10658,
}
