"""A teacher's predictions over an unlabelled source, as label shards."""

import pathlib

import numpy as np

from ns_jax import experiment, manifest, predictor
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

    directory.mkdir(parents=True, exist_ok=True)
    ranges = labels.shard_ranges(len(source), config.label.images_per_shard)
    bad = bad_images.BadImages(source, config.data.max_bad_fraction)
    right = known = 0
    truth = source.known_labels(teacher.class_names)
    # Batches of all shards that are missing, shard after shard.
    shards = [directory / labels.shard_name(shard, len(ranges)) for shard in range(len(ranges))]
    done = [path.exists() for path in shards]
    missing = [indices for indices, there in zip(ranges, done, strict=True) if not there]
    predictions = teacher.predict(source, missing, experiment.reading(config))
    with Progress("labelling", len(source)) as progress:
        for path, indices, there in zip(shards, ranges, done, strict=True):
            if there:
                manifest.check_inputs(labels.shard_metadata(path), made_of, path)
            else:
                columns = _columns(predictions, len(indices), progress)
                labels.write_shard(path, columns, made_of)
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
        "num_shards": len(ranges),
        "num_images": len(source),
        "num_bad": len(bad),
        "accuracy": right / known if known else None,  # where the source knows better
    }
    manifest.write(directory, inputs, outputs)
    say(f"labelled {len(source):,} images of {source.name} in {len(ranges)} shards: {directory}")
    return outputs


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
