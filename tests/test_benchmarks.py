"""Sides of the benchmarks that run in processes of their own, where no test would see them."""

import contextlib

import cv2
import numpy as np
import pytest

from benchmarks import input_speed_ours


@pytest.mark.parametrize("mode", ["training", "evaluation"])
def test_our_side_of_the_input_benchmark_makes_batches(tmp_path, mode):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "0.jpg"), pixels)
    with contextlib.closing(input_speed_ours.stream(str(tmp_path), mode, cores=0)) as stream:
        batch = next(stream)
    image = batch["image" if mode == "training" else "image_0"]
    assert image.shape == (64, 224, 224, 3) and image.any()
