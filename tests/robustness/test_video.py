"""brightness.mp4: its sequence of a made image, 64 pixels, coded as the authors coded theirs:

ffmpeg -r 1 -framerate 1 -i img%01d.png -vcodec libx264 -crf 20 -preset veryslow brightness.mp4
"""

import numpy as np
import pytest

from ns_jax.data.decoding import BadImageError
from ns_jax.robustness import perturbations, video
from tests.robustness.made_images import mixed
from tests.robustness.published import HERE

VIDEO = HERE / "brightness.mp4"


def test_frames_in_order_and_in_rgb():
    frames = video.read_frames(VIDEO, 31)
    assert frames.shape == (31, 64, 64, 3) and frames.dtype == np.uint8
    image = np.ascontiguousarray(mixed(64, 128)[:, :64])
    expected = perturbations.sequence(image, "brightness", 0, 0, crop=64)
    errors = np.abs(frames.astype(float) - expected).mean(axis=(1, 2, 3))
    assert errors.max() < 8  # the colours of a video have half the resolution
    swapped = np.abs(frames.astype(float) - expected[..., ::-1]).mean(axis=(1, 2, 3))
    later = np.abs(frames[:-1].astype(float) - expected[1:]).mean(axis=(1, 2, 3))
    assert (errors < swapped / 4).all() and (errors[:-1] < later).mean() > 0.6


@pytest.mark.parametrize(("wanted", "told"), [(41, "31"), (30, "more than 30")])
def test_another_number_of_frames(wanted, told):
    with pytest.raises(BadImageError, match=told):
        video.read_frames(VIDEO, wanted)


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "cut in half"])
def test_what_does_not_decode(tmp_path, capfd, kind):
    path, data = tmp_path / "n01440764.mp4", VIDEO.read_bytes()
    half = data[: len(data) // 2]
    contents = {"empty": b"", "text": b"no video\n" * 100, "cut in half": half}
    if kind in contents:
        path.write_bytes(contents[kind])
    with pytest.raises(BadImageError, match="n01440764.mp4"):
        video.read_frames(path, 31)
    assert capfd.readouterr() == ("", "")  # FFmpeg says nothing of its own
