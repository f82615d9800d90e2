"""A network's scores on a labelled source: every image once, over all processes."""

from collections.abc import Callable, Sequence

import numpy as np

from ns_jax.data import bad_images
from ns_jax.data.source import Source
from ns_jax.data.workers import LoaderSettings
from ns_jax.inference import metrics, predictor
from ns_jax.parallel import processes
from ns_jax.progress import Progress


class Stopped(Exception):  # noqa: N818 (it is no error)
    """The scores are not wanted any more."""


def score(
    network: predictor.Predictor,
    source: Source,
    reading: LoaderSettings,
    bad: bad_images.BadImages,
    batch_size: int,
    shown: bool = True,
    stop: Callable[[], bool] = lambda: False,
) -> dict:
    """`metrics.evaluate`'s numbers and `num_images` scored. Called by all processes.

    Images that cannot be read are noted in `bad`, not scored. `shown`: with a progress bar. Raises
    Stopped once `stop()` is true, which it may be where there is one process.
    """
    share = np.array_split(np.arange(len(source)), processes.count())[processes.index()]
    k = min(predictor.CLASSES_KEPT, len(network.class_names))  # as labelling: one compiled pass
    parts: list[Sequence[np.ndarray]] = [
        (np.zeros((0, k), np.int32), np.zeros((0, k), np.float32), np.zeros(0, np.int32))
    ]
    with Progress("evaluating", len(share), shown=shown) as progress:
        for batch in network.predict(source, [share], reading, k, batch_size):
            if stop():
                raise Stopped
            ok = np.asarray([status == "ok" for status in batch["status"]])
            bad.add(batch["index"][~ok])
            parts.append([batch[name][ok] for name in ("classes", "probs", "label")])
            progress.advance(len(ok))
    arrays = [np.concatenate(found) for found in zip(*parts, strict=True)]
    classes, probs, labels = (np.concatenate(processes.gather(array)) for array in arrays)
    bad.add(processes.union(bad.indices()))
    scores = metrics.evaluate(classes, probs, labels, len(source.class_names))
    return {**scores, "num_images": len(labels)}
