"""JPEG files for benchmarks: pieces of the two real photographs that scikit-learn ships."""

import pathlib

import cv2
import numpy as np

SIZE = (500, 375)  # width and height, ImageNet's most common


def write(directory: pathlib.Path, count: int, quality: int = 90) -> None:
    """`count` files in two class folders, 54 kB on average; nothing to do if they are there."""
    if len(list(directory.glob("*/*.jpg"))) == count:
        return
    from sklearn import datasets

    photos = datasets.load_sample_images().images
    rng = np.random.default_rng(0)
    for number in range(count):
        photo = photos[number % 2]
        height = int(rng.integers(300, photo.shape[0]))
        width = height * SIZE[0] // SIZE[1]
        top = rng.integers(photo.shape[0] - height + 1)
        left = rng.integers(photo.shape[1] - width + 1)
        piece = cv2.resize(photo[top : top + height, left : left + width], SIZE)
        path = directory / ("temple", "flower")[number % 2] / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), piece[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
