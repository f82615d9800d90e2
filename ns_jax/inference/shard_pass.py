"""A network's predictions of many images as shards, made by any number of workers."""

import collections
import concurrent.futures
import dataclasses
import itertools
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from ml_collections import config_dict

from ns_jax.data import bad_images
from ns_jax.data import open as open_lib
from ns_jax.data.source import Source
from ns_jax.errors import InputError
from ns_jax.inference.mixture import Mixture
from ns_jax.inference.predictor import Predictor
from ns_jax.labelling.queue import ShardQueue
from ns_jax.labelling.shards import Shards
from ns_jax.parallel import leases, preemption, processes
from ns_jax.predictions.given import NO_PREDICTION
from ns_jax.progress import Progress, say

WAIT_SECONDS = 1.0  # of a worker between two looks for something to do


@dataclasses.dataclass(frozen=True)
class Work:
    """What is predicted: the `k` best classes of images, indices of a source, maybe hashed."""

    source: Source
    images: np.ndarray | range
    k: int
    hashed: bool = False


def run(
    config: config_dict.ConfigDict,
    teacher: Predictor | Mixture,
    work: Work,
    shards: Shards,
    *,
    what: str,
    is_done: Callable[[], bool],
    finish: Callable[[ShardQueue], None],
    max_bad: float,
) -> None:
    """Makes the shards that are missing; returns when all are there and `finish` has run, or at
    the notice that the machine goes.

    Workers share nothing but the shards' directory: each claims shards, and the last ones take over
    what others left. One calls `finish`, after which `is_done()` is true if no shard was damaged.
    `what` they do, in the progress; `max_bad`: share of images that may be unreadable. Raises
    InputError for shards of something else, and for too many bad images.
    """
    queue = ShardQueue(shards)
    queue.check()
    start = begin(config.label.worker)
    bad = bad_images_of(work.source, queue, max_bad)
    # At the notice no more shards are begun; those that are begun are finished, if there is time.
    with (
        preemption.deferred(),
        leases.Leases(f"{shards.directory}/leases", config.label.lease_seconds) as held,
        Progress(what, len(work.images), queue.images_done()) as progress,
    ):

        def predictions(claimed: Iterable[range]) -> Iterator[dict]:
            chunks = (work.images[rows.start : rows.stop] for rows in claimed)
            reading, size = open_lib.loader_settings(config), config.label.batch_size
            found = teacher.predict(work.source, chunks, reading, work.k, size, hashed=work.hashed)
            for batch in found:
                teacher.check_finite(batch["probs"])
                yield batch

        while not (preemption.noticed() or is_done()):
            if queue.missing():
                did = _label(queue, held, int(start * len(queue)), predictions, bad, progress)
            else:  # of the processes of a run the one that speaks
                did = processes.is_first() and held.claim("manifest")
                if did:
                    finish(queue)
                    held.release("manifest")
            if not did:
                time.sleep(WAIT_SECONDS)
    say(f"{what} went at {progress.images_per_second():,.0f} images/s, {teacher.waits}")


def begin(worker: str) -> float:
    """Where in the list of shards this worker begins, 0 to 1: apart from the others.

    Raises InputError for what is no place among workers.
    """
    if not worker:
        return processes.index() / processes.count()
    match = re.fullmatch(r"(\d+)/(\d+)", worker)
    if not match or int(match[1]) >= int(match[2]):
        raise InputError(
            f"label.worker={worker!r}; of n workers write 0/n for the first to (n-1)/n for the last"
        )
    return int(match[1]) / int(match[2])


def _label(
    queue: ShardQueue,
    held: leases.Leases,
    begin: int,
    predictions: Callable,
    bad: bad_images.BadImages,
    progress: Progress,
) -> bool:
    """Labels shards until none is free; whether there was one.

    A shard is written by a thread while the next one is computed.
    """
    claims = queue.claims(held, begin)
    first = next(claims, None)
    if first is None:  # before readers are started
        return False
    claimed: collections.deque[int] = collections.deque()

    def ranges() -> Iterator[range]:
        for number in itertools.chain([first], claims):
            claimed.append(number)
            yield queue.ranges[number]

    with concurrent.futures.ThreadPoolExecutor(1) as writer:
        writing: Any = None
        for number, columns in _by_shard(predictions(ranges()), claimed, queue, progress):
            bad.add(columns["index"][is_bad(columns["status"])])
            if writing:
                writing.result()
            writing = writer.submit(queue.write, number, columns, held)
        writing.result()
    return True


def _by_shard(
    batches: Iterator[dict], claimed: collections.deque, queue: ShardQueue, progress: Progress
) -> Iterator[tuple[int, dict]]:
    """(number, columns) of each claimed shard as soon as the last of its images is predicted."""
    parts, count = [], 0
    for batch in batches:
        parts.append(batch)
        count += len(batch["index"])
        queue.predicted += len(batch["index"])
        while claimed and count >= len(queue.ranges[claimed[0]]):
            number = claimed.popleft()
            rows = len(queue.ranges[number])
            columns = _joined(parts)
            yield number, {name: column[:rows] for name, column in columns.items()}
            parts, count = [{name: column[rows:] for name, column in columns.items()}], count - rows
        progress.reach(queue.images_done())


def _joined(batches: list[dict]) -> dict:
    columns = {name: [batch[name] for batch in batches] for name in batches[0]}
    return {
        name: sum(parts, []) if name in ("key", "status") else np.concatenate(parts)
        for name, parts in columns.items()
    }


def is_bad(status: Sequence[str] | np.ndarray) -> np.ndarray:
    """Images that cannot be read, bool `[n]`; one that merely lacks a prediction is none."""
    return ~np.isin(np.asarray(status, object), np.asarray(["ok", NO_PREDICTION], object))


def bad_images_of(source: Source, queue: ShardQueue, most: float) -> bad_images.BadImages:
    """A count of bad images among those that are predicted: the source, or a part of it."""
    num_images = sum(map(len, queue.ranges))
    return bad_images.BadImages(source, most, num_images=num_images)
