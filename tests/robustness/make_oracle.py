"""Runs the benchmark's own code once and writes what the tests compare with (oracle.npz).

    make .venv-imagenet-c/.installed
    .venv-imagenet-c/bin/python tests/robustness/make_oracle.py tests/robustness/oracle.npz

Pillow 9.5 codes JPEG with libjpeg-turbo, as OpenCV does; wheels of 2018 had another library.
With `--whole` it writes every pixel, for `make parity`, and no statistics.
"""

import argparse
import importlib.util
import os
import sys
import tempfile
import types

import cv2
import imagenet_c
import numpy as np
import PIL
from imagenet_c import corruptions as published
from made_images import ice, mixed
from PIL import Image
from skimage import color, filters

STRIDE, FIRST = 8, 3  # of the pixels that are kept, in both directions
DRAWS = 200
FIXED = (
    *("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"),
    *("gaussian_blur", "saturate"),
)


def frost_files(directory):
    """Writes stand-ins for the photographs and lets the package find them."""
    for number in range(1, 7):
        name = "frost{}.{}".format(number, "png" if number < 4 else "bmp")
        Image.fromarray(ice(number)).save(os.path.join(directory, name))
    published.resource_filename = lambda package, path: os.path.join(
        directory, os.path.basename(path).replace("jpg", "bmp")
    )


def draw(image, name, severity, seed):
    np.random.seed(seed)
    return imagenet_c.corrupt(image, severity, name)


def statistics(image, name, severity):
    """The mean and the variance over all values of all draws."""
    drawn = [draw(image, name, severity, seed) for seed in range(DRAWS)]
    return np.mean(drawn), np.var(drawn)


def torchvision_functional():
    """Its file alone: the package imports PyTorch's networks, which nothing here needs."""
    sys.modules["torch"] = types.ModuleType("torch")
    PIL.PILLOW_VERSION = PIL.__version__  # it was removed in Pillow 7
    (folder,) = importlib.util.find_spec("torchvision").submodule_search_locations
    path = os.path.join(folder, "transforms", "functional.py")
    spec = importlib.util.spec_from_file_location("functional", path)
    functional = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(functional)
    return functional


def geometric(functional, whole):
    """Frames of the perturbations that are made by Pillow, before the crop of 224 pixels."""
    whole = Image.fromarray(whole)
    moves = {
        "translate": [dict(translate=(i - 20, 0)) for i in range(41)],
        "rotate": [dict(angle=i - 15, resample=Image.BILINEAR) for i in range(31)],
        "scale": [dict(scale=(i * 2.5 + 40) / 100, resample=Image.BILINEAR) for i in range(31)],
        "shear": [dict(shear=i - 15, resample=Image.BILINEAR) for i in range(31)],
        "zoom_blur": [dict(scale=1 + 0.004 * i, resample=Image.BILINEAR) for i in range(31)],
    }
    still = dict(angle=0, translate=(0, 0), scale=1, shear=0)
    for name, frames in moves.items():
        moved = [functional.affine(whole, **dict(still, **frame)) for frame in frames]
        pixels = np.stack([np.array(functional.center_crop(frame, 224)) for frame in moved])
        if name == "zoom_blur":  # as PyTorch has it: sums of floats, cut when they become bytes
            sums = np.cumsum(pixels / np.float32(255), axis=0, dtype=np.float32)
            means = sums / np.arange(1, 32, dtype=np.float32)[:, None, None, None]
            pixels = (means * np.float32(255)).astype(np.uint8)
        yield name, pixels


def photometric(image):
    """Frames of the perturbations of the crop, with the package's own parts."""
    motion, brightness, smooth = [], [], []
    for i in range(31):
        with tempfile.NamedTemporaryFile(suffix=".png") as file:
            Image.fromarray(image).save(file.name)
            with published.MotionImage(filename=file.name) as moving:
                moving.motion_blur(radius=10, sigma=3, angle=4 * (i - 30))
                coded = np.frombuffer(moving.make_blob(), np.uint8)
        motion.append(cv2.imdecode(coded, cv2.IMREAD_UNCHANGED)[..., ::-1])
        hsv = color.rgb2hsv(image / 255.0)
        hsv[..., 2] = np.clip(hsv[..., 2] + 0.02 * (i - 15), 0, 1)
        brightness.append(np.uint8(color.hsv2rgb(hsv) * 255))
        sigma = 0.25 + 0.035 * i
        blurred = filters.gaussian(image / 255.0, sigma=sigma, multichannel=True, truncate=6)
        smooth.append(np.uint8(blurred * 255))
    frames = {"motion_blur": motion, "brightness": brightness, "gaussian_blur": smooth}
    return [(name, np.stack(images)) for name, images in frames.items()]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path")
    parser.add_argument("--whole", action="store_true")
    options = parser.parse_args()
    image, found = mixed(), {}
    kept = slice(None) if options.whole else slice(FIRST, None, STRIDE)
    with tempfile.TemporaryDirectory() as directory:
        frost_files(directory)
        for name in imagenet_c.corruption_dict:
            pixels = [draw(image, name, severity, severity)[kept, kept] for severity in range(1, 6)]
            found[name] = np.stack(pixels)
            if name not in FIXED and not options.whole:
                numbers = [statistics(image, name, severity) for severity in range(1, 6)]
                found[name + "_statistics"] = np.array(numbers)
                print(name, numbers, flush=True)
    few = slice(None) if options.whole else slice(0, None, 10)
    spaced = slice(None) if options.whole else slice(FIRST, None, 2 * STRIDE)
    for name, frames in [
        *geometric(torchvision_functional(), mixed(256, 300)),
        *photometric(image),
    ]:
        found["p_" + name] = frames[few, spaced, spaced]
    np.savez_compressed(options.path, **found)


if __name__ == "__main__":
    main()
