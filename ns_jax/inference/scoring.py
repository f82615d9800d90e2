"""A network's scores on a labelled source: every image once, over all processes."""

import functools
from collections.abc import Callable, Sequence

import numpy as np

from ns_jax.data import bad_images, matching
from ns_jax.data.source import Source
from ns_jax.data.workers import LoaderSettings
from ns_jax.errors import InputError
from ns_jax.inference import metrics, predictor
from ns_jax.parallel import processes
from ns_jax.progress import Progress, say


class Stopped(Exception):  # noqa: N818 (it is no error)
    """The scores are not wanted any more."""


class NothingScoredError(InputError):
    """Not one image has both a content and a label that can be read."""


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


def score(
    network: predictor.Predictor,
    source: Source,
    reading: LoaderSettings,
    bad: bad_images.BadImages,
    batch_size: int,
    shown: bool = True,
    stop: Callable[[], bool] = lambda: False,
    classes: np.ndarray | None = None,
) -> dict:
    """`metrics.evaluate`'s numbers, `num_images` scored and `num_unlabelled` left out.

    Called by all processes. The source's classes are the network's; with `classes`, int32
    ascending, only these compete. Images that cannot be read are noted in `bad`, not scored.
    `shown`: with a progress bar. Raises Stopped once `stop()` is true, which it may be where there
    is one process, NothingScoredError, and DivergedError for outputs that are not finite.
    """
    labelled = source.labelled()
    share = np.array_split(labelled, processes.count())[processes.index()]
    # As labelling: one compiled pass.
    k = min(predictor.CLASSES_KEPT, len(network.class_names if classes is None else classes))
    parts: list[Sequence[np.ndarray]] = [
        (np.zeros((0, k), np.int32), np.zeros((0, k), np.float32), np.zeros(0, np.int32))
    ]
    with Progress("evaluating", len(share), shown=shown) as progress:
        for batch in network.predict(source, [share], reading, k, batch_size, classes=classes):
            if stop():
                raise Stopped
            ok = np.asarray([status == "ok" for status in batch["status"]])
            bad.add(batch["index"][~ok])
            parts.append([batch[name][ok] for name in ("classes", "probs", "label")])
            progress.advance(len(ok))
    arrays = [np.concatenate(found) for found in zip(*parts, strict=True)]
    best, probs, labels = (np.concatenate(processes.gather(array)) for array in arrays)
    network.check_finite(probs)  # of all processes: each of them comes here
    bad.add(processes.union(bad.indices()))
    known = labels >= 0
    unlabelled = len(source) - len(labelled) + int((~known).sum())
    if unlabelled:
        _say_left_out(source.name, unlabelled, len(source))
    if not known.any():
        raise NothingScoredError(
            f"{source.name}: none of {len(source):,} images can be scored; {unlabelled:,} have no "
            f"label, {len(bad):,} cannot be read"
        )
    scores = metrics.evaluate(best[known], probs[known], labels[known], len(network.class_names))
    return {**scores, "num_images": int(known.sum()), "num_unlabelled": unlabelled}


@functools.lru_cache  # of all evaluations of a training once
def _say_left_out(name: str, count: int, num_images: int) -> None:
    say(f"{name}: {count:,} of {num_images:,} images have no label and are left out")
