"""A network's scores on a labelled source: every image once, over all processes."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from ns_jax.data import bad_images, matching
from ns_jax.data.source import Indices, Source
from ns_jax.data.workers import LoaderSettings
from ns_jax.errors import InputError
from ns_jax.inference import metrics, predictor
from ns_jax.parallel import processes
from ns_jax.progress import Progress, say


class Stopped(Exception):  # noqa: N818 (it is no error)
    """The scores are not wanted any more."""


class NothingScoredError(InputError):
    """Not one image has both a content and a label that can be read."""


class Network(Protocol):
    """What is scored: a `predictor.Predictor`, or a file of another format at work."""

    class_names: tuple[str, ...]

    def predict(
        self,
        source: Source,
        chunks: Iterable[Indices],
        reading: LoaderSettings,
        k: int,
        batch_size: int,
        *,
        classes: np.ndarray | None = None,
    ) -> Iterator[dict]:
        """As `predictor.Predictor.predict`."""

    def check_finite(self, outputs: np.ndarray) -> None:
        """As `predictor.Predictor.check_finite`."""


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a network said of the images of a source that could be read, in their order."""

    classes: np.ndarray  # int32 [N, k], best first
    probs: np.ndarray  # float32 [N, k]
    labels: np.ndarray  # int32 [N], -1 where there is none
    index: np.ndarray  # int64 [N], of the image in its source
    num_unlabelled: int  # images that were left out or have no label

    def scores(self, num_classes: int) -> dict:
        """`metrics.evaluate`'s numbers, `num_images` scored and `num_unlabelled` left out."""
        known = self.labels >= 0
        found = metrics.evaluate(
            self.classes[known], self.probs[known], self.labels[known], num_classes
        )
        return {**found, "num_images": int(known.sum()), "num_unlabelled": self.num_unlabelled}


def prepare(
    source: Source, class_names: Sequence[str], owner: str, classes: str
) -> tuple[Source, np.ndarray | None]:
    """A source as a network of `class_names`, `owner`, is scored on it, and the competing classes.

    `classes`: "all", or "present" for those alone that the source has images of (int32 `[n]`).
    Raises InputError for images of other classes and for a source without labels.
    """
    matched = matching.match(
        source,
        class_names,
        owner,
        leave_out=classes == "present",
        remedy='rename them, or leave them out with evaluate.classes="present"',
    )
    return matched, matching.present(matched) if classes == "present" else None


def score(network: Network, source: Source, *arguments: Any, **options: Any) -> dict:
    """The scores of `predict` with these arguments."""
    found = predict(network, source, *arguments, **options)
    return found.scores(len(network.class_names))


def predict(
    network: Network,
    source: Source,
    reading: LoaderSettings,
    bad: bad_images.BadImages,
    batch_size: int,
    shown: bool = True,
    stop: Callable[[], bool] = lambda: False,
    classes: np.ndarray | None = None,
) -> Predictions:
    """Predictions of all labelled images, by all processes, which all call it.

    The source's classes are the network's; with `classes`, int32 ascending, only these compete.
    Images that cannot be read are noted in `bad`, not scored. `shown`: with a progress bar. Raises
    Stopped once `stop()` is true, which it may be where there is one process, NothingScoredError,
    and DivergedError for outputs that are not finite.
    """
    labelled = source.labelled()
    share = np.array_split(labelled, processes.count())[processes.index()]
    # As labelling: one compiled pass.
    k = min(predictor.CLASSES_KEPT, len(network.class_names if classes is None else classes))
    empty = np.zeros((0, k), np.int32), np.zeros((0, k), np.float32)
    parts: list[Sequence[np.ndarray]] = [(*empty, np.zeros(0, np.int32), np.zeros(0, np.int64))]
    with Progress("evaluating", len(share), shown=shown) as progress:
        for batch in network.predict(source, [share], reading, k, batch_size, classes=classes):
            if stop():
                raise Stopped
            ok = np.asarray([status == "ok" for status in batch["status"]])
            bad.add(batch["index"][~ok])
            parts.append([batch[name][ok] for name in ("classes", "probs", "label", "index")])
            progress.advance(len(ok))
    arrays = [np.concatenate(found) for found in zip(*parts, strict=True)]
    best, probs, labels, index = (np.concatenate(processes.gather(array)) for array in arrays)
    network.check_finite(probs)  # of all processes: each of them comes here
    bad.add(processes.union(bad.indices()))
    unlabelled = len(source) - len(labelled) + int((labels < 0).sum())
    if unlabelled:
        _say_left_out(source.name, unlabelled, len(source))
    if not (labels >= 0).any():
        raise NothingScoredError(
            f"{source.name}: none of {len(source):,} images can be scored; {unlabelled:,} have no "
            f"label, {len(bad):,} cannot be read"
        )
    return Predictions(best, probs, labels, index, unlabelled)


@functools.lru_cache  # of all evaluations of a training once
def _say_left_out(name: str, count: int, num_images: int) -> None:
    say(f"{name}: {count:,} of {num_images:,} images have no label and are left out")
