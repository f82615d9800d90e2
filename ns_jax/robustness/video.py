"""Frames of a video file, as ImageNet-P is released (MP4)."""

import os

import cv2
import numpy as np

from ns_jax.data.decoding import BadImageError

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # bad videos are ours to report


def read_frames(path: str | os.PathLike[str], num_frames: int) -> np.ndarray:
    """uint8 RGB `[num_frames, H, W, 3]`.

    Raises BadImageError for a file that is no video, or has another number of frames that decode.
    """
    video = cv2.VideoCapture(os.fspath(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    try:
        if not video.isOpened():
            reason = "cannot be decoded as a video" if os.path.exists(path) else "does not exist"
            raise BadImageError(f"{os.path.basename(path)} {reason}")
        frames: list[np.ndarray] = []
        while len(frames) <= num_frames:  # one more than there should be is enough to know
            decoded, frame = video.read()
            if not decoded:
                break
            frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
    finally:
        video.release()
    if len(frames) != num_frames:
        count = len(frames) if len(frames) < num_frames else f"more than {num_frames}"
        raise BadImageError(
            f"{os.path.basename(path)}: {count} frames can be decoded, not {num_frames}"
        )
    return np.stack(frames)
