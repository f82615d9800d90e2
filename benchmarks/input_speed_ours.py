"""Our side of `input_speed.py`: what feeds training and evaluation, up to the batch of arrays."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
from benchmarks import worker  # noqa: E402
from ns_jax.data import (
    crops,  # noqa: E402
    pipeline,  # noqa: E402
    randaugment,  # noqa: E402
    views,  # noqa: E402  # noqa: E402
)
from ns_jax.data import open as open_lib  # noqa: E402
from ns_jax.data.batch import BatchSpec  # noqa: E402
from ns_jax.data.workers import LoaderSettings  # noqa: E402  # noqa: E402
from ns_jax.training import examples as examples_lib  # noqa: E402

BATCH = 64


def main() -> None:
    directory, mode, cores, count = sys.argv[1:]
    worker.serve_stream(stream(directory, mode, int(cores)), BATCH, int(count))


def stream(directory: str, mode: str, cores: int):
    """Batches without an end, or for long enough."""
    source = open_lib.open_source(f"folder:{directory}", labels_per_class=1, seed=0)
    evaluation = crops.Preprocessing(224, "0.875", (0.485,) * 3, (0.229,) * 3)
    reading = LoaderSettings(workers=cores)
    if mode == "training":
        view = views.TrainView(evaluation, "crop", True, randaugment.RandAugment(2, 9))
        return pipeline.train_batches(
            examples_lib.labelled_examples(source, 0.1, 1),
            None,
            view,
            spec=BatchSpec(BATCH, 0, 1, view.shapes()),
            steps=10**9,
            start_step=0,
            seed=0,
            reading=reading,
        )
    many = open_lib.open_source("+".join([source.name] * 500), labels_per_class=1, seed=0)
    parts = pipeline.full_batches([range(len(many))], BATCH)
    return pipeline.evaluation_batches(many, parts, [evaluation], batch_size=BATCH, reading=reading)


if __name__ == "__main__":
    main()
