"""Networks at work: un-noised predictions. Labelling, evaluation and the API are this."""

import collections
import contextlib
import functools
import itertools
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from ns_jax import trees
from ns_jax.data import crops, pipeline, source
from ns_jax.data.source import Indices
from ns_jax.data.workers import Batches, LoaderSettings
from ns_jax.errors import DivergedError
from ns_jax.inference import step as inference_step
from ns_jax.model_card import ModelCard
from ns_jax.models import layers
from ns_jax.parallel import mesh as mesh_lib

CLASSES_KEPT = 16  # best classes of an image that are asked for: 52 bytes on disk instead of 4,000
IN_FLIGHT = 2  # batches that the device has or may begin with while the host reads one back


class Waits:
    """What the host waited for, and so what bounds the speed: images, or the device."""

    def __init__(self) -> None:
        self._seconds = {"input": 0.0, "device": 0.0}

    @contextlib.contextmanager
    def timing(self, what: str) -> Iterator[None]:
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
        most = max(self._seconds, key=self._seconds.__getitem__)
        return f"bound by {bound[most]} ({self._seconds[most] / total:.0%} of the waiting)"


class Predictor:
    """One network, or the mean of several, each with the preprocessing that came with it."""

    def __init__(
        self,
        networks: Sequence[tuple[ModelCard, dict]],
        *,
        temperature: float = 1.0,
        flip: bool = False,
        name: str = "the network",
    ):
        """`networks`: model cards and variables, of the same classes; `name`: theirs in errors.

        `temperature` divides all logits; `flip` takes the mean over an image and its mirror image.
        """
        cards = [card for card, _ in networks]
        self.class_names = cards[0].class_names
        # What the networks want to see of an image.
        self.views = list(dict.fromkeys(card.preprocessing for card in cards))
        # Each process works alone, on its own devices and its own images.
        self._mesh = mesh_lib.make_mesh(1, jax.local_devices())
        self._weights = mesh_lib.put_whole([variables for _, variables in networks], self._mesh)
        self.temperature, self._flip, self._name = temperature, flip, name
        self.waits = Waits()
        placement = layers.Anywhere(mesh_lib.on_cpu(self._mesh))
        self._members = tuple(
            inference_step.Member(
                card.build(placement=placement),
                self.views.index(card.preprocessing),
                card.preprocessing.mean,
                card.preprocessing.std,
            )
            for card in cards
        )

    @functools.cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that name the weights."""
        digests = [trees.digest(variables) for variables in self._weights]
        return digests[0] if len(digests) == 1 else source.digest(*digests)

    @property
    def num_networks(self) -> int:
        return len(self._members)

    def variables(self) -> list[dict]:
        """Each network's weights, on the host."""
        return jax.device_get(self._weights)

    def local_batch_size(self, batch_size: int) -> int:
        """This process's share of a batch of all processes, in which its devices share equally."""
        return mesh_lib.round_up(-(-batch_size // jax.process_count()), self._mesh)

    def predict(
        self,
        source: source.Source,
        chunks: Iterable[Indices],
        reading: LoaderSettings,
        k: int,
        batch_size: int,
        hashed: bool = False,
        classes: np.ndarray | None = None,
    ) -> Iterator[dict]:
        """The images of `chunks`, indices of `source`, in order, in batches of `batch_size`.

        Of `classes`, int32 ascending, only these compete. A batch is of all processes together, and
        full but for the last. Of each there are `index`, `label`, `key`, `status` (`phash`) as in
        `pipeline.evaluation_batches`, `classes` int32 and `probs` float32 `[n, k]` best first.
        """
        step = inference_step.compile_inference(
            self._mesh, inference_step.predict_step, members=self._members, flip=self._flip, k=k
        )
        whole = {"members": self._weights, "temperature": np.float32(self.temperature)}
        if classes is not None:
            whole["classes"] = classes
        batches = self._batches(source, chunks, reading, batch_size, hashed)
        for batch, (best, probs) in self._run(step, whole, batches):
            yield {**batch, "classes": best, "probs": probs}

    def compute(
        self,
        function: Callable,
        source: source.Source,
        chunks: Iterable[Indices],
        reading: LoaderSettings,
        batch_size: int,
        told: dict,
        **static: Any,
    ) -> Iterator[dict]:
        """As `predict`, with `result`, what `function(whole, rows, members, flip, **static)` found.

        `whole` has the `members`' variables and what is `told`, `rows` the `views` of the images,
        their `label` and their `index`, int32 `[B]`.
        """
        step = inference_step.compile_inference(
            self._mesh, function, members=self._members, flip=self._flip, **static
        )
        batches = self._batches(source, chunks, reading, batch_size)
        whole = {"members": self._weights, **told}
        size = self.local_batch_size(batch_size)

        def rows(batch: dict, views: list) -> dict:
            columns = {name: np.zeros(size, np.int32) for name in ("label", "index")}
            for name, column in columns.items():
                column[: len(batch[name])] = batch[name]
            return {"views": views, **mesh_lib.put_batch(columns, self._mesh)}

        for batch, result in self._run(step, whole, batches, rows):
            yield {**batch, "result": result}

    def logits(
        self,
        source: source.Source,
        chunks: Iterable[Indices],
        reading: LoaderSettings,
        batch_size: int,
        hashed: bool = False,
        more_views: Sequence[crops.Preprocessing] = (),
    ) -> Iterator[dict]:
        """As `predict`, with `logits` float32 `[n, M, classes]` of members and mirror images.

        `more_views` of the images are left in a batch, after its own: `image_NUMBER`.
        """
        batches = self._batches(source, chunks, reading, batch_size, hashed, more_views)
        yield from self._with_logits(batches)

    def logits_of_arrays(self, images: np.ndarray, batch_size: int) -> Iterator[dict]:
        """As `logits`, of uint8 `[N, H, W, 3]` that are shown to the networks as they are.

        Of a batch there are `index` and `logits`.
        """
        size = self.local_batch_size(batch_size)

        def batches() -> Generator[dict, None, None]:
            for start in range(0, len(images), size):
                rows = images[start : start + size]
                padded = np.zeros((size, *images.shape[1:]), np.uint8)
                padded[: len(rows)] = rows
                views = dict.fromkeys(self._view_names(), padded)
                yield {**views, "index": np.arange(start, start + len(rows))}

        yield from self._with_logits(batches())

    def check_finite(self, outputs: np.ndarray) -> None:
        """Raises DivergedError for outputs, a row for each image, that are not finite."""
        if not (finite := np.isfinite(outputs.reshape(len(outputs), -1)).all(1)).all():
            raise DivergedError(
                f"{self._name}: its outputs are not finite for {(~finite).sum():,} of "
                f"{len(finite):,} images; take an earlier checkpoint, or train it again with a "
                "lower optim.learning_rate_per_256"
            )

    def _view_names(self) -> list[str]:
        return [f"image_{number}" for number in range(len(self.views))]

    def _batches(
        self,
        source: source.Source,
        chunks: Iterable[Indices],
        reading: LoaderSettings,
        batch_size: int,
        hashed: bool = False,
        more_views: Sequence[crops.Preprocessing] = (),
    ) -> Batches:
        size = self.local_batch_size(batch_size)
        return pipeline.evaluation_batches(
            source,
            pipeline.full_batches(chunks, size),
            [*self.views, *more_views],
            batch_size=size,
            reading=reading,
            hashed=hashed,
        )

    def _with_logits(self, batches: Batches) -> Iterator[dict]:
        step = inference_step.compile_inference(
            self._mesh, inference_step.member_logits, members=self._members, flip=self._flip
        )
        for batch, logits in self._run(step, self._weights, batches):
            yield {**batch, "logits": logits}

    def _run(
        self,
        step: Callable,
        whole: trees.Tree,
        batches: Batches,
        rows: Callable[[dict, list], trees.Tree] = lambda batch, views: views,
    ) -> Iterator[tuple]:
        """Each batch's host columns, and what `step` returned of it, less the padding.

        `whole` is what `step` takes beside the `rows` made of a batch and its views. While the host
        reads a batch back, the device has the next one and its result is already on its way.
        """
        names = self._view_names()
        in_flight: collections.deque[tuple] = collections.deque()
        try:
            for batch in self.waits.timed("input", batches):
                views = mesh_lib.put_batch({name: batch.pop(name) for name in names}, self._mesh)
                result = step(whole, rows(batch, [views[name] for name in names]))
                jax.tree.map(lambda array: array.copy_to_host_async(), result)
                in_flight.append((batch, result))
                if len(in_flight) == IN_FLIGHT:
                    yield self._read_back(*in_flight.popleft())
            while in_flight:
                yield self._read_back(*in_flight.popleft())
        finally:
            batches.close()

    def _read_back(self, batch: dict, result: trees.Tree) -> tuple:
        rows = len(batch["index"])
        with self.waits.timing("device"):
            return batch, jax.tree.map(lambda array: np.asarray(array)[:rows], result)
