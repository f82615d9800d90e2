"""Class names and probabilities of images, as CSV, Parquet or JSON lines. docs/predict.md."""

import pathlib
from collections.abc import Iterator

from ml_collections import config_dict

from ns_jax import files
from ns_jax import workdir as workdir_lib
from ns_jax.config import ranges
from ns_jax.data import open as open_lib
from ns_jax.data.source import Source
from ns_jax.errors import DamagedError, InputError
from ns_jax.foreign import exported
from ns_jax.inference import shard_pass, teachers
from ns_jax.inference.mixture import Mixture
from ns_jax.inference.predictor import Predictor
from ns_jax.labelling import joined
from ns_jax.labelling.queue import ShardQueue
from ns_jax.labelling.shards import Shards
from ns_jax.parallel import processes
from ns_jax.progress import say
from ns_jax.weights import imported

PARTS = "parts"  # directory of what has been predicted so far
TARGET = "predictions.csv"  # in the workdir, if the config names no other
ALL = 1.0  # share of images that may be unreadable: each has its reason


def run(config: config_dict.ConfigDict, workdir: pathlib.Path) -> dict:
    """Writes `predict.target`: each image with its best classes, or why it cannot be read.

    Any number of workers share the parts in the workdir, as those of `label` do; what is finished
    is never computed again. Raises InputError.
    """
    ranges.check(config)
    settings = config.predict
    target = files.as_path(settings.target) if settings.target else workdir / TARGET
    joined.check_ending(target)
    if not settings.checkpoint:
        raise InputError("predict.checkpoint is empty; name a workdir, a checkpoint or a file")
    source = _source(config)
    network = _network(config)
    k = min(settings.top, len(network.class_names))
    directory = workdir / PARTS
    made_of = {
        "teacher": network.digest,
        "source": source.fingerprint,
        "class_names": list(network.class_names),
        "k": k,
        "preprocessing": [vars(view) for view in network.views],
    }
    inputs = {**made_of, "images_per_shard": settings.images_per_part}
    shards = Shards(directory, len(source), settings.images_per_part, made_of)

    def finish(queue: ShardQueue) -> None:
        if all([queue.is_sound(number) for number in range(len(queue))]):
            outputs = _counts(queue)
            _join(target, shards, k)
            queue.tidy()
            workdir_lib.write_manifest(directory, inputs, outputs)

    if not workdir_lib.is_done(directory, inputs):
        shard_pass.run(
            config,
            network,
            shard_pass.Work(source, range(len(source)), k),
            shards,
            what="predicting",
            is_done=lambda: workdir_lib.is_done(directory, inputs),
            finish=finish,
            max_bad=ALL,
        )
    elif not target.exists():
        processes.call_on_first(_join_again, target, shards, k, directory)
    outputs = workdir_lib.read_manifest(directory)["outputs"]
    say(
        f"predicted {outputs['num_images']:,} images of {source.name}, "
        f"{outputs['num_bad']:,} of which cannot be read: {target}"
    )
    return outputs


def _network(config: config_dict.ConfigDict) -> Predictor | Mixture:
    name = config.predict.checkpoint
    if exported.is_exported(name):
        fallback = teachers.labelled_classes(config)
        return Mixture(None, [teachers.open_exported(config, name, fallback=fallback)], [])
    return Predictor([imported.load(name)], name=f"the network {name}")


def _source(config: config_dict.ConfigDict) -> Source:
    """The images: `predict.source`, or else the pool, or the test images."""
    if config.predict.source:
        return open_lib.open_named(config, config.predict.source)
    which = next((which for which in ("unlabelled", "test") if config.data[which]), None)
    if not which:
        raise InputError(
            "there are no images; name them as --images='photos/*.jpg', or a source as "
            "predict.source, data.unlabelled or data.test"
        )
    return open_lib.open_from_config(config, which)


def _counts(queue: ShardQueue) -> dict:
    found = [queue.read(number, "status") for number in range(len(queue))]
    statuses = [columns["status"] for columns in found if columns]
    return {
        "num_images": sum(map(len, statuses)),
        "num_bad": sum(int((status != "ok").sum()) for status in statuses),
        "num_shards": len(queue),
    }


def _join(target: pathlib.Path, shards: Shards, k: int) -> None:
    def columns() -> Iterator[dict]:
        for number in range(len(shards)):
            yield shards.open(number).read(*joined.COLUMNS)

    joined.write(target, columns(), shards.made_of["class_names"], k)


def _join_again(target: pathlib.Path, shards: Shards, k: int, directory: pathlib.Path) -> None:
    """Joins parts that were finished before. Raises DamagedError."""
    try:
        _join(target, shards, k)
    except DamagedError:
        workdir_lib.remove_manifest(directory)  # the next start makes what is damaged anew
        raise
