"""What a label costs on disk, and what is lost of a teacher's distribution.

    python -m benchmarks.label_store

Bytes an image of real label shards of 16,384 rows and the Kullback-Leibler divergence in nats from
the teacher's distribution over 1,000 classes to the target that training makes of what is stored.
There is no trained network of 1,000 classes here: logits are drawn, normal noise with one class
raised by 0 to 14 and eight others by a part of that, so that confidence goes from 0.01 to 1.
"above": of the images that the selection's threshold lets through.
"""

import pathlib
import tempfile

import numpy as np
import scipy.special

from benchmarks.sides import machine, row
from ns_jax.labelling import shards as shards_lib
from ns_jax.training import targets

ROWS, CLASSES = 16_384, 1_000
THRESHOLD = 0.3  # of the selection
KEYS = {
    "numbers": lambda i: f"{i // 10_000:05d}/{i:09d}",  # as img2dataset names images
    "random, 11 letters": lambda i: f"{np.random.default_rng(i).integers(2**62):011x}"[-11:],
}


def main() -> None:
    print(f"{machine()}\n")
    probs = _distributions(np.random.default_rng(0))
    above = probs.max(1) > THRESHOLD
    print(f"{above.mean():.0%} of the images have a confidence above {THRESHOLD}\n")
    names = ("k", "keys", "bytes an image", "KL mean", "KL worst", "mean above", "worst above")
    row(names)
    row(["---"] * len(names))
    for k in (4, 16, 64):
        order = np.argsort(-probs, axis=1, kind="stable")[:, :k]
        best = np.take_along_axis(probs, order, 1)
        for name, key in KEYS.items():
            size, stored = _stored(order, best, [key(10**6 + i) for i in range(ROWS)])
            found = _divergences(probs, order, stored)
            row(
                [
                    *(k, name, f"{size:.1f}"),
                    *(
                        f"{f(part):.4f}"
                        for part in (found, found[above])
                        for f in (np.mean, np.max)
                    ),
                ]
            )
    row([CLASSES, "none, as float32", f"{4 * CLASSES:,}", "0", "0", "0", "0"])


def _distributions(rng: np.random.Generator) -> np.ndarray:
    """float64 `[ROWS, CLASSES]`."""
    logits = rng.normal(0, 1.2, (ROWS, CLASSES))
    rows, height = np.arange(ROWS), rng.uniform(0, 14, ROWS)
    for _ in range(8):
        logits[rows, rng.integers(0, CLASSES, ROWS)] += height * rng.uniform(0.2, 0.8, ROWS)
    logits[rows, rng.integers(0, CLASSES, ROWS)] += height
    return scipy.special.softmax(logits, axis=1)


def _stored(order: np.ndarray, best: np.ndarray, keys: list[str]) -> tuple[float, np.ndarray]:
    """Bytes an image of a shard, and the probabilities that it holds."""
    columns = {
        "index": np.arange(ROWS),
        "key": keys,
        "status": ["ok"] * ROWS,
        "classes": order,
        "probs": np.float32(best),
    }
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / shards_lib.shard_name(0, 1)
        shards_lib.write_shard(path, columns, {})
        return path.stat().st_size / ROWS, shards_lib.Shard(path).read("probs")["probs"]


def _divergences(probs: np.ndarray, order: np.ndarray, stored: np.ndarray) -> np.ndarray:
    found = np.zeros(ROWS)
    for number in range(ROWS):
        classes, target = targets.soft_target(order[number], stored[number], CLASSES, 1.0)
        used = classes >= 0
        tail = (1 - np.float64(target).sum()) / (CLASSES - used.sum())
        dense = np.full(CLASSES, tail)
        dense[classes[used]] = target[used]
        found[number] = scipy.special.rel_entr(probs[number], dense).sum()
    return found


if __name__ == "__main__":
    main()
