"""Checkpoints at work: un-noised predictions over a source. Labelling and evaluation are this."""

import collections
import contextlib
import dataclasses
import itertools
import time
from collections.abc import Iterable, Iterator, Sequence

import jax
import numpy as np

from ns_jax import model_card, trees
from ns_jax.checkpoints import checkpoint
from ns_jax.data import pipeline, source
from ns_jax.data.workers import Reading
from ns_jax.inference import step as inference_step
from ns_jax.models import layers
from ns_jax.parallel import mesh as mesh_lib

CLASSES_KEPT = 16  # best classes of an image that are asked for: 52 bytes on disk instead of 4,000
IN_FLIGHT = 2  # batches that the device has or may begin with while the host reads one back


class Waits:
    """What the host waited for, and so what bounds the speed: images, or the device."""

    def __init__(self):
        self._seconds = {"input": 0.0, "device": 0.0}

    @contextlib.contextmanager
    def timing(self, what: str):
        began = time.perf_counter()
        yield
        self._seconds[what] += time.perf_counter() - began

    def timed(self, what: str, iterator: Iterator) -> Iterator:
        """The iterator; its first item, for which all is set up, does not count."""
        for number in itertools.count():
            with self.timing(what) if number else contextlib.nullcontext():
                item = next(iterator, None)
            if item is None:
                return
            yield item

    def __str__(self) -> str:
        total = sum(self._seconds.values()) or 1.0
        bound = {"input": "reading and decoding images", "device": "the network"}
        most = max(self._seconds, key=self._seconds.get)
        return f"bound by {bound[most]} ({self._seconds[most] / total:.0%} of the waiting)"


class Predictor:
    """One network, or the mean of several, each with the preprocessing that came with it."""

    def __init__(self, paths: str, *, batch_size: int, temperature: float = 1.0, flip=False):
        """`paths`: a checkpoint, or several with commas between, of the same classes.

        Predicts in batches of `batch_size`, of all processes together; `flip` takes the mean over
        an image and its mirror image. Raises InputError for checkpoints of different classes.
        """
        self.paths = [str(checkpoint.find(path.strip())) for path in paths.split(",")]
        loaded = [checkpoint.load_model(path) for path in self.paths]
        descriptions = [description for description, _ in loaded]
        self.class_names = descriptions[0]["class_names"]
        for path, description in zip(self.paths, descriptions, strict=True):
            names = description["class_names"]
            model_card.check_classes(names, self.class_names, path, self.paths[0])
        wanted = [model_card.described_preprocessing(description) for description in descriptions]
        self.views = list(dict.fromkeys(wanted))  # what the networks want to see of an image
        digests = [trees.digest(variables) for _, variables in loaded]
        self.digest = digests[0] if len(digests) == 1 else source.digest(*digests)
        # Each process works alone, on its own devices and its own images.
        self._mesh = mesh_lib.make_mesh(1, jax.local_devices())
        self._weights = mesh_lib.put_whole([variables for _, variables in loaded], self._mesh)
        share = -(-batch_size // jax.process_count())
        self.batch_size = mesh_lib.round_up(share, self._mesh)
        self.temperature, self._flip = temperature, flip
        self.waits = Waits()
        self._members = tuple(
            inference_step.Member(
                dataclasses.replace(
                    model_card.described_model(description),
                    placement=layers.Anywhere(mesh_lib.on_cpu(self._mesh)),
                ),
                self.views.index(preprocessing),
                preprocessing.mean,
                preprocessing.std,
            )
            for description, preprocessing in zip(descriptions, wanted, strict=True)
        )

    def predict(
        self,
        source: source.Source,
        chunks: Iterable[Sequence[int]],
        reading: Reading,
        k: int,
        hashed: bool = False,
    ) -> Iterator[dict]:
        """The images of `chunks`, indices of `source`, in order, in full batches: for each

        `index`, `label`, `key`, `status` (`phash`) as in `pipeline.evaluation_batches`, `classes`
        int32 and `probs` float32 `[n, k]` best first.
        """
        step = inference_step.compile_inference(
            self._mesh, inference_step.predict_step, members=self._members, flip=self._flip, k=k
        )
        for batch, (classes, probs) in self._run(step, source, chunks, reading, hashed):
            yield {**batch, "classes": classes, "probs": probs}

    def logits(
        self, source: source.Source, chunks: Iterable[Sequence[int]], reading: Reading
    ) -> Iterator[dict]:
        """As `predict`, with `logits` float32 `[n, M, classes]` of members and mirror images."""
        step = inference_step.compile_inference(
            self._mesh, inference_step.member_logits, members=self._members, flip=self._flip
        )

        def of_members(whole, views):
            return step(whole["members"], views)

        for batch, logits in self._run(of_members, source, chunks, reading):
            yield {**batch, "logits": logits}

    def _run(self, step, source, chunks, reading, hashed=False) -> Iterator[tuple]:
        """Each batch's host columns, and what `step` returned of it, less the padding.

        While the host reads a batch back, the device has the next one and its result is already
        on its way.
        """
        whole = {"members": self._weights, "temperature": np.float32(self.temperature)}
        batches = pipeline.evaluation_batches(
            source,
            pipeline.full_batches(chunks, self.batch_size),
            self.views,
            batch_size=self.batch_size,
            reading=reading,
            hashed=hashed,
        )
        in_flight = collections.deque()
        try:
            for batch in self.waits.timed("input", batches):
                names = [f"image_{number}" for number in range(len(self.views))]
                views = mesh_lib.put_batch({name: batch.pop(name) for name in names}, self._mesh)
                result = step(whole, [views[name] for name in names])
                jax.tree.map(lambda array: array.copy_to_host_async(), result)
                in_flight.append((batch, result))
                if len(in_flight) == IN_FLIGHT:
                    yield self._read_back(*in_flight.popleft())
            while in_flight:
                yield self._read_back(*in_flight.popleft())
        finally:
            batches.close()

    def _read_back(self, batch: dict, result) -> tuple:
        rows = len(batch["index"])
        with self.waits.timing("device"):
            return batch, jax.tree.map(lambda array: np.asarray(array)[:rows], result)
