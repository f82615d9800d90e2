"""How long a training stands still for a checkpoint: written beside it, and waited for.

python -m benchmarks.saving [--model efficientnet-b4] [--times 5]
"""

import argparse
import pathlib
import statistics
import tempfile
import time

import jax

from configs import base
from ns_jax import trees
from ns_jax.checkpoints import checkpoint, checksum
from ns_jax.progress import table
from ns_jax.training import numbers as numbers_lib
from ns_jax.training import trainer as trainer_lib


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="efficientnet-b4")
    parser.add_argument("--times", type=int, default=5)
    arguments = parser.parse_args()
    config = base.get_config()
    config.model.name = arguments.model
    config.train.batch_size = 8
    numbers = numbers_lib.derive(config, 1_281_167, 1)
    built = trainer_lib.build(config, numbers, 1000, jax.devices()[:1])
    state = jax.block_until_ready(built.init(0))
    num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))

    stood, whole, summed = [], [], []
    with tempfile.TemporaryDirectory(dir=".") as directory:
        checkpoints = checkpoint.Checkpoints(pathlib.Path(directory) / "checkpoints", keep=2)
        checkpoints.prepare(state)
        for step in range(arguments.times + 1):  # the first one makes directories
            began = time.perf_counter()
            checksum.per_device_sums(state)
            summed.append(time.perf_counter() - began)
            began = time.perf_counter()
            checkpoints.save(step, state, {})
            stood.append(time.perf_counter() - began)
            checkpoints.close()
            whole.append(time.perf_counter() - began)
    rows = [
        [name, f"{statistics.median(seconds[1:]):.2f} s"]
        for name, seconds in (
            ("written beside the training: it stands still for", stood),
            ("waited for", whole),
            ("of it the checksum of state and model", summed),
        )
    ]
    title = f"A checkpoint of {arguments.model}, {trees.count(state.params):,} parameters"
    table(f"{title}, {num_bytes / 1e6:,.0f} MB of state", ["", "median"], rows)


if __name__ == "__main__":
    main()
