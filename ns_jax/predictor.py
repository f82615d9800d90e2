"""A checkpoint at work: un-noised predictions over a source. Labelling and evaluation are this."""

import pathlib
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from ns_jax import checkpoint, experiment, sharding, steps, trees
from ns_jax.data import pipeline
from ns_jax.data.source import Source


class Predictor:
    """The EMA weights of a checkpoint with the preprocessing that came with them."""

    def __init__(self, path: str | pathlib.Path, *, batch_size: int, k: int):
        """Predicts the `k` best classes (all of them, if there are fewer) of images in batches.

        `batch_size` is of all processes together.
        """
        self.path = checkpoint.find(path)
        description, variables = checkpoint.load_model(self.path)
        self.class_names = description["class_names"]
        self.preprocessing = experiment.described_preprocessing(description)
        self.digest = trees.digest(variables)
        self.k = min(k, len(self.class_names))
        # Each process works alone, on its own devices and its own images.
        self._mesh = sharding.make_mesh(1, jax.local_devices())
        self._variables = sharding.put_whole(variables, self._mesh)
        share = -(-batch_size // jax.process_count())
        self._batch_size = sharding.round_up(share, self._mesh)
        self._step = steps.compile_inference(
            self._mesh,
            steps.predict_step,
            model=experiment.described_model(description),
            mean=self.preprocessing.mean,
            std=self.preprocessing.std,
            k=self.k,
        )

    def predict(
        self, source: Source, ranges: Sequence[range], reading: pipeline.Reading
    ) -> Iterator[dict]:
        """For each batch of `ranges`: `index`, `label`, `key`, `status` as in
        `pipeline.evaluation_batches`, `classes` int32 and `probs` float32 `[n, k]` best first.

        The device works on a batch while the host reads back the one before.
        """
        batches = pipeline.evaluation_batches(
            source,
            ranges,
            self.preprocessing,
            batch_size=self._batch_size,
            reading=reading,
        )
        pending = None
        for batch in batches:
            images = sharding.put_batch({"image": batch.pop("image")}, self._mesh)["image"]
            batch["on_device"] = self._step(self._variables, images)
            if pending:
                yield _read_back(pending)
            pending = batch
        if pending:
            yield _read_back(pending)
        batches.close()


def _read_back(batch: dict) -> dict:
    rows = len(batch["index"])
    classes, probs = (np.asarray(array)[:rows] for array in batch.pop("on_device"))
    return {**batch, "classes": classes, "probs": probs}
