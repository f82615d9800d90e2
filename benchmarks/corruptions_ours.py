"""Our side of `corruptions.py`."""

import itertools
import sys
import time

import numpy as np
import worker

from ns_jax.data import decoding  # noqa: F401  one thread, and freed memory is kept, as in a program
from ns_jax.robustness.corruptions import corrupt

name, frost, count = sys.argv[1:]
images = np.random.RandomState(0).randint(0, 256, (int(count), 28, 28, 3))
images = images.repeat(8, axis=1).repeat(8, axis=2).astype(np.uint8)
severities = itertools.cycle([4, 5, 1, 2, 3])  # the first two warm up
indices = itertools.count()


def run() -> None:
    severity = next(severities)
    for image in images:
        corrupt(image, name, severity, 0, next(indices), frost_directory=frost)


worker.serve(run, clock=time.process_time)
