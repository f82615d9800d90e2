"""The authors' side of `corruptions.py`, in an environment of its own (Python 3.7)."""

import itertools
import os
import sys
import time

import cv2
import imagenet_c
import numpy as np
import worker
from imagenet_c import corruptions as published

name, frost, count = sys.argv[1:]
cv2.setNumThreads(1)
published.resource_filename = lambda package, path: os.path.join(frost, os.path.basename(path))
images = np.random.RandomState(0).randint(0, 256, (int(count), 28, 28, 3))
images = images.repeat(8, axis=1).repeat(8, axis=2).astype(np.uint8)
severities = itertools.cycle([4, 5, 1, 2, 3])  # the first two warm up


def run():
    severity = next(severities)
    for image in images:
        imagenet_c.corrupt(image, severity, name)


worker.serve(run, clock=time.process_time)
