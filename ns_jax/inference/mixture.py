"""Networks of ours, exported files and predictions made elsewhere: their mean as a teacher."""

import functools
from collections.abc import Iterable, Iterator, Sequence

import jax
import numpy as np
import scipy.special

from ns_jax.data import crops, pipeline
from ns_jax.data.source import Indices, Source, digest
from ns_jax.data.workers import LoaderSettings
from ns_jax.errors import InputError
from ns_jax.foreign.exported import ExportedNetwork
from ns_jax.inference.predictor import Predictor, Waits
from ns_jax.predictions.given import NO_PREDICTION, IncompleteError, Predictions
from ns_jax.progress import one_line

SHOWN = 5  # keys of images that are named
ROWS = 4096  # at once, where no image is read


def check_weights(weights: Sequence[float] | None, networks: int, files: int, given: int) -> None:
    """Raises InputError for another number of weights than teachers."""
    if weights is not None and len(weights) != networks + files + given:
        raise InputError(
            f"label.weights has {len(weights)} numbers for {networks} checkpoints, {files} "
            f"exported files and {given} predictions; one for each, in this order"
        )


def first_keys(source: Source, indices: np.ndarray) -> str:
    """The keys of the first of some images, and whether there are more."""
    keys = source.keys(indices[:SHOWN]).to_pylist()
    return ", ".join(map(one_line, keys)) + ", ..." * (len(indices) > SHOWN)


def best(probs: np.ndarray, k: int) -> np.ndarray:
    """The k best classes of each row of `[n, classes]`, best first, ties to the lower: int32.

    Only k of many classes are sorted: of 16 of 1,000 that takes a sixth of the time.
    """
    if k == probs.shape[1]:
        return np.argsort(-probs, axis=1, kind="stable").astype(np.int32)
    chosen = np.sort(np.argpartition(-probs, k - 1, axis=1)[:, :k], axis=1)
    values = np.take_along_axis(probs, chosen, 1)
    found = np.take_along_axis(chosen, np.argsort(-values, axis=1, kind="stable"), 1)
    # As good as the last one, and more than are wanted: which of them were taken is chance.
    tied = (probs >= values.min(1, keepdims=True)).sum(1) > k
    found[tied] = np.argsort(-probs[tied], axis=1, kind="stable")[:, :k]
    return found.astype(np.int32)


class Mixture:
    """The weighted mean of networks and predictions, which predicts as `Predictor` does.

    Images that one of the predictions lacks have the status `no prediction`.
    """

    def __init__(
        self,
        networks: Predictor | None,
        files: Sequence[ExportedNetwork],
        given: Sequence[Predictions],
        weights: Sequence[float] | None = None,
        temperature: float = 1.0,
        flip: bool = False,
    ):
        """All of one list of classes; `weights`: of each network, file and table, in this order;
        None: all alike. `flip`: of the files, as of `networks`. Raises InputError for another
        number of weights.
        """
        self._networks, self.files, self.given = networks, files, given
        self.temperature, self._flip = temperature, flip
        self.class_names = next(
            one.class_names for one in (networks, *files, *given) if one is not None
        )
        check_weights(weights, self._num_networks - len(files), len(files), len(given))
        self._weights = None if weights is None else np.asarray(weights, float)
        own = networks.views if networks else []
        # What all that look at images want to see of one.
        self.views: list[crops.Preprocessing] = list(
            dict.fromkeys([*own, *(one.view for one in files)])
        )
        self._waits = Waits()
        # By a source's fingerprint: tables, and the rows of its images in each.
        self._rows: dict[str, list[tuple[Predictions, np.ndarray]]] = {}

    @property
    def _num_networks(self) -> int:
        return (self._networks.num_networks if self._networks else 0) + len(self.files)

    @functools.cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that name all members, and their weights if they have any."""
        found = [self._networks.digest] if self._networks else []
        found += [file.digest for file in self.files] + [one.digest for one in self.given]
        if self._weights is not None:
            found.append(str((self._weights / self._weights.sum()).tolist()))
        return found[0] if len(found) == 1 else digest(*found)

    @property
    def waits(self) -> str:
        if self._networks:
            return str(self._networks.waits)
        return str(self._waits) if self.files else "bound by reading"

    def prepare(self, source: Source, given: Sequence[Predictions] | None = None) -> np.ndarray:
        """Looks for the predictions of a source; returns the indices of images that lack one.

        `given`: the tables to look in, if they are others. Raises InputError.
        """
        tables = self.given if given is None else given
        found = [(one, one.rows_of(source)) for one in tables]
        self._rows[source.fingerprint] = found
        lacks = np.zeros(len(source), bool)
        for _, rows in found:
            lacks |= rows < 0
        return np.flatnonzero(lacks)

    def prepare_all(
        self, source: Source, why: str, given: Sequence[Predictions] | None = None
    ) -> None:
        """As `prepare`. Raises IncompleteError, which ends in `why`, if an image lacks one."""
        lacking = self.prepare(source, given)
        if len(lacking):
            raise IncompleteError(
                f"{len(lacking):,} of {len(source):,} images of {source.name} have no prediction: "
                f"{first_keys(source, lacking)}{why}"
            )

    def predict(
        self,
        source: Source,
        chunks: Iterable[Indices],
        reading: LoaderSettings,
        k: int,
        batch_size: int,
        hashed: bool = False,
        classes: np.ndarray | None = None,
    ) -> Iterator[dict]:
        """As `Predictor.predict`, of a source that is prepared."""
        for batch in self.logits(source, chunks, reading, batch_size, hashed):
            logits = batch.pop("logits").astype(np.float64)
            logits = logits if classes is None else logits[..., classes]
            own = scipy.special.softmax(logits / self.temperature, -1)
            probs = np.average(own, 1, self.member_weights(own.shape[1]))
            order = best(probs, k)
            probs = np.take_along_axis(probs, order, 1).astype(np.float32)
            yield {**batch, "classes": order if classes is None else classes[order], "probs": probs}

    def logits(
        self,
        source: Source,
        chunks: Iterable[Indices],
        reading: LoaderSettings,
        batch_size: int,
        hashed: bool = False,
    ) -> Iterator[dict]:
        """As `Predictor.logits`: of networks and files with mirror images, then of predictions."""
        tables = self._rows[source.fingerprint] if self.given else []
        for batch in self._batches(source, chunks, reading, batch_size, hashed):
            members = [batch["logits"]] if self._networks else []
            seen = [batch.pop(f"image_{n}", None) for n in range(len(self.views))]
            for file in self.files:
                images = seen[self.views.index(file.view)]
                members.append(self._log_probs(file, images, len(batch["index"])))
            lost = np.zeros(len(batch["index"]), bool)
            for one, rows in tables:
                found = one.log_probs(rows[batch["index"]])
                lost |= np.isnan(found).any(1)
                members.append(np.where(lost[:, None], np.float32(0), found)[:, None])
            status = [
                NO_PREDICTION if none and was == "ok" else was
                for none, was in zip(lost.tolist(), batch["status"], strict=True)
            ]
            yield {**batch, "logits": np.concatenate(members, axis=1), "status": status}

    def check_finite(self, outputs: np.ndarray) -> None:
        """As `Predictor.check_finite`; what was given has been checked."""
        if self._networks:
            self._networks.check_finite(outputs)

    def member_weights(self, members: int) -> np.ndarray | None:
        """float `[members]` of networks, each with its mirror images, and of predictions."""
        count = self._num_networks
        views = (members - len(self.given)) // count if count else 1
        if self._weights is None and views == 1:
            return None
        weights: np.ndarray = (
            np.ones(count + len(self.given)) if self._weights is None else self._weights
        )
        return np.concatenate([np.repeat(weights[:count] / views, views), weights[count:]])

    def _batches(
        self,
        source: Source,
        chunks: Iterable[Indices],
        reading: LoaderSettings,
        batch_size: int,
        hashed: bool,
    ) -> Iterator[dict]:
        """Batches with `index`, `label`, `key`, `status`, and what else they are read for."""
        if self._networks:
            more = self.views[len(self._networks.views) :]
            yield from self._networks.logits(source, chunks, reading, batch_size, hashed, more)
        elif self.files or hashed or source.labels is None:
            size = -(-batch_size // jax.process_count())
            parts = pipeline.full_batches(chunks, size)
            batches = pipeline.evaluation_batches(
                source, parts, self.views, batch_size=size, reading=reading, hashed=hashed
            )
            try:
                yield from self._waits.timed("input", batches)
            finally:
                batches.close()
        else:
            for index in pipeline.full_batches(chunks, ROWS):
                yield {
                    "index": index,
                    "label": source.labels[index],
                    "key": source.keys(index).to_pylist(),
                    "status": ["ok"] * len(index),
                }

    def _log_probs(self, one: ExportedNetwork, images: np.ndarray, count: int) -> np.ndarray:
        """float32 `[count, 1 or 2, classes]`, of images and, with `flip`, of mirror images."""
        with self._waits.timing("device"):
            found = [one.log_probs(images[:count], len(images))]
            if self._flip:
                found.append(one.log_probs(images[:count, :, ::-1], len(images)))
        return np.stack(found, axis=1)
