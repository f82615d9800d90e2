"""A teacher's predictions over an unlabelled source, as label shards."""

import pathlib

import numpy as np

from ns_jax import experiment, manifest, predictor, processes
from ns_jax.data import bad_images, labels
from ns_jax.progress import Progress, say

CLASSES_KEPT = 16  # of many classes: 80 bytes an image instead of 4,000


def run(config, workdir: pathlib.Path) -> dict:
    """Writes `labels/` in `workdir`; finished shards are never computed again."""
    source = experiment.open_source(config, "unlabelled")
    teacher = predictor.Predictor(
        config.label.checkpoint,
        batch_size=config.label.batch_size,
        k=config.label.classes_kept or CLASSES_KEPT,
    )
    made_of = {
        "teacher": teacher.digest,
        "source": source.fingerprint,
        "class_names": teacher.class_names,
        "k": teacher.k,
        "preprocessing": vars(teacher.preprocessing),
    }
    directory = workdir / "labels"
    inputs = {**made_of, "images_per_shard": config.label.images_per_shard}
    if manifest.is_done(directory, inputs):
        say(f"{directory}: labelled already")
        return manifest.read(directory)["outputs"]

    ranges = labels.shard_ranges(len(source), config.label.images_per_shard)
    shards = [directory / labels.shard_name(shard, len(ranges)) for shard in range(len(ranges))]
    processes.first_alone(_prepare, directory, shards, made_of)
    missing = [number for number, path in enumerate(shards) if not path.exists()]
    processes.wait()  # until all have looked
    mine = missing[processes.index() :: processes.count()]
    # Batches of all of this process's shards, shard after shard.
    predictions = teacher.predict(source, [ranges[n] for n in mine], experiment.reading(config))
    with Progress("labelling", sum(len(ranges[n]) for n in mine)) as progress:
        for number in mine:
            columns = _columns(predictions, len(ranges[number]), progress)
            labels.write_shard(shards[number], columns, made_of)
    processes.wait()
    processes.first_alone(_finish, config, source, teacher, directory, shards, inputs)
    return manifest.read(directory)["outputs"]


def _prepare(directory: pathlib.Path, shards: list[pathlib.Path], made_of: dict) -> None:
    """Raises ValueError if a shard that is there was made of something else."""
    directory.mkdir(parents=True, exist_ok=True)
    for path in shards:
        if path.exists():
            manifest.check_inputs(labels.shard_metadata(path), made_of, path)


def _finish(config, source, teacher, directory, shards, inputs) -> None:
    """Counts what is in the shards, and writes the manifest."""
    bad = bad_images.BadImages(source, config.data.max_bad_fraction)
    truth = source.known_labels(teacher.class_names)
    right = known = 0
    for path in shards:
        found = labels.read_shard(path, ["index", "status", "label"])
        ok = found["status"] == "ok"
        bad.add(found["index"][~ok])
        if truth is not None:
            expected = truth[found["index"][ok]]
            right += int((found["label"][ok] == expected).sum())
            known += int((expected >= 0).sum())
    if len(bad):
        say(f"{len(bad)} images could not be read; their status says why:")
        say("\n".join(bad.lines()))
    outputs = {
        "num_shards": len(shards),
        "num_images": len(source),
        "num_bad": len(bad),
        "accuracy": right / known if known else None,  # where the source knows better
    }
    manifest.write(directory, inputs, outputs)
    say(f"labelled {len(source):,} images of {source.name} in {len(shards)} shards: {directory}")


def _columns(predictions, count: int, progress) -> dict:
    """The next `count` predictions as the columns of a shard."""
    batches = []
    while count:
        batch = next(predictions)
        batches.append(batch)
        count -= len(batch["index"])
        progress.advance(len(batch["index"]))
    columns = {name: [batch[name] for batch in batches] for name in batches[0]}
    return {
        name: sum(parts, []) if name in ("key", "status") else np.concatenate(parts)
        for name, parts in columns.items()
    }
