"""A teacher's predictions over an unlabelled source, as label shards, by any number of workers."""

import functools
import json
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from ml_collections import config_dict

from ns_jax import files
from ns_jax import workdir as workdir_lib
from ns_jax.config import ranges
from ns_jax.data import matching
from ns_jax.data import open as open_lib
from ns_jax.data.source import Source
from ns_jax.errors import InputError
from ns_jax.inference import calibration, engines, predictor, shard_pass, teachers
from ns_jax.inference.mixture import Mixture, first_keys
from ns_jax.inference.predictor import Predictor
from ns_jax.labelling.queue import ShardQueue
from ns_jax.labelling.shards import Shards
from ns_jax.predictions.given import NO_PREDICTION, Predictions
from ns_jax.progress import Progress, say
from ns_jax.selection.table import Selection


def run(config: config_dict.ConfigDict, workdir: pathlib.Path) -> dict:
    """Writes `labels/` in `workdir`; finished shards are never computed again.

    Workers share nothing but that directory: each claims shards, and the last ones take over what
    others left. All return when every shard is there. Raises InputError for numbers that do not go
    together, shards of another teacher or source, and too many bad images.
    """
    ranges.check(config)
    shard_pass.begin(config.label.worker)
    source = open_lib.open_from_config(config, "unlabelled")
    images, subset = _images(config, source)
    directory = workdir / "labels"
    settle = functools.partial(engines.settle, config, directory, source)
    teacher, engine = teachers.from_config(config, settle)
    if config.data.holdout:
        teacher.temperature = _fitted_temperature(config, teacher, directory)
    k = min(config.label.classes_kept or predictor.CLASSES_KEPT, len(teacher.class_names))
    made_of = {
        "teacher": teacher.digest,
        "source": source.fingerprint,
        "subset": subset,
        "class_names": list(teacher.class_names),
        "k": k,
        "temperature": teacher.temperature,
        "flip": config.label.flip,
        "preprocessing": [vars(view) for view in teacher.views],
        "hashed": bool(config.data.guard),
        # XLA, which labelled before there were others, is not named.
        **({"engine": engine.version} if engine.version else {}),
    }
    inputs = {**made_of, "images_per_shard": config.label.images_per_shard}
    if workdir_lib.is_done(directory, inputs):
        say(f"{directory}: labelled already")
        return workdir_lib.read_manifest(directory)["outputs"]

    if isinstance(teacher, Mixture):
        _prepare(config, teacher, source)
    shards = Shards(directory, len(images), config.label.images_per_shard, made_of)
    work = shard_pass.Work(source, images, k, hashed=bool(config.data.guard))

    def finish(queue: ShardQueue) -> None:
        _finish(config, source, teacher, directory, queue, inputs)

    shard_pass.run(
        config,
        teacher,
        work,
        shards,
        what="labelling",
        is_done=lambda: workdir_lib.is_done(directory, inputs),
        finish=finish,
        max_bad=config.data.max_bad_fraction,
    )
    return workdir_lib.read_manifest(directory)["outputs"]


def mend(directory: str | pathlib.Path) -> int:
    """Removes those of a finished labelling's shards that are damaged; how many.

    If there are any, `run` makes them again.
    """
    queue = ShardQueue(Shards.of_manifest(directory, workdir_lib.read_manifest(directory)))
    damaged = [number for number in range(len(queue)) if not queue.is_sound(number)]
    if damaged:
        workdir_lib.remove_manifest(directory)
    return len(damaged)


def _images(
    config: config_dict.ConfigDict, source: Source
) -> tuple[np.ndarray | range, str | None]:
    """Indices to label, and the digest of the selection that they come from, or None."""
    if not config.label.subset:
        return range(len(source)), None
    selection = Selection(config.label.subset)
    source.check_fingerprint(selection.metadata["source"], f"label.subset={config.label.subset}")
    images = np.concatenate([index for index, _ in selection.images()])
    return images, workdir_lib.read_manifest(config.label.subset)["outputs"]["digest"]


def _prepare(config: config_dict.ConfigDict, teacher: Mixture, source: Source) -> None:
    """Finds the predictions of a source, and says which images lack one. Raises InputError."""
    lacking = teacher.prepare(source)
    teachers.check_surplus(config, teacher.given, source)
    if len(lacking):
        say(
            f"{len(lacking):,} of {len(source):,} images of {source.name} have no prediction: "
            f"{first_keys(source, lacking)}"
        )


def _fitted_temperature(
    config: config_dict.ConfigDict, teacher: Predictor | Mixture, directory: pathlib.Path
) -> float:
    """The temperature in `calibration.json`, which the first worker to get there writes.

    Raises InputError for calibration of another teacher, or a temperature that was set already.
    """
    if config.label.temperature != 1:
        raise InputError(
            f"label.temperature is {config.label.temperature} and data.holdout asks for it to be "
            "fitted; leave one of them out"
        )
    source = open_lib.open_from_config(config, "holdout")
    source = matching.match(source, teacher.class_names, teachers.name_of(config))
    inputs = {
        "teacher": teacher.digest,
        "holdout": source.fingerprint,
        "flip": config.label.flip,
    }
    others = None
    if config.label.holdout_predictions and isinstance(teacher, Mixture):
        names = config.label.holdout_predictions
        others = teachers.predictions(config, names, teacher.class_names)
        inputs["predictions"] = [one.digest for one in others]
    path = directory / "calibration.json"
    if not path.exists():
        if isinstance(teacher, Mixture):
            _prepare_holdout(config, teacher, source, others)
        logits, true, labelled = [], [], source.labelled()
        with Progress(f"calibrating on {source.name}", len(labelled)) as progress:
            reading, size = open_lib.loader_settings(config), config.label.batch_size
            for batch in teacher.logits(source, [labelled], reading, size):
                teacher.check_finite(batch["logits"])
                known = (np.asarray(batch["status"]) == "ok") & (batch["label"] >= 0)
                logits.append(batch["logits"][known])
                true.append(batch["label"][known])
                progress.advance(len(known))
        members = np.concatenate(logits)
        weights = None
        if isinstance(teacher, Mixture):
            weights = teacher.member_weights(members.shape[1])
        found = calibration.fit(members, np.concatenate(true), weights)
        if left_out := len(source) - found["num_images"]:
            say(f"{source.name}: {left_out:,} images without a label, or unreadable, are left out")
        files.create(os.fspath(path), json.dumps({"inputs": inputs, **found}, indent=1).encode())
    found = json.loads(path.read_text())
    workdir_lib.check_inputs(found["inputs"], inputs, path)
    say(
        f"temperature {found['temperature']:.3f}: on {found['num_images']:,} images of "
        f"{source.name} the calibration error goes from {found['before']['ece']:.4f} to "
        f"{found['after']['ece']:.4f}, cross-entropy from {found['before']['cross_entropy']:.4f} "
        f"to {found['after']['cross_entropy']:.4f}"
    )
    low, high = calibration.RANGE
    if not 1.05 * low < found["temperature"] < high / 1.05:
        say(
            f"that is the end of the range {low} to {high} that was searched: on these images the "
            "teacher's confidence says nothing, or everything"
        )
    return found["temperature"]


def _prepare_holdout(
    config: config_dict.ConfigDict,
    teacher: Mixture,
    source: Source,
    others: Sequence[Predictions] | None,
) -> None:
    """Raises InputError for hold-out images without a prediction, with the first of them."""
    if others is not None and len(others) != len(teacher.given):
        raise InputError(
            f"label.holdout_predictions names {len(others)} teachers, label.predictions "
            f"{len(teacher.given)}; name the same ones in the same order"
        )
    why = (
        "; a teacher is calibrated on what it says of data.holdout: add them to label.predictions, "
        "name a file of their own as label.holdout_predictions, or leave data.holdout empty"
    )
    teacher.prepare_all(source, why, others)
    if others is not None:
        teachers.check_surplus(config, others, source)


def _finish(
    config: config_dict.ConfigDict,
    source: Source,
    teacher: Predictor | Mixture,
    directory: pathlib.Path,
    queue: ShardQueue,
    inputs: dict,
) -> None:
    """Counts what is in the shards, and writes the manifest unless one of them is damaged."""
    bad = shard_pass.bad_images_of(source, queue, config.data.max_bad_fraction)
    truth = source.known_labels(teacher.class_names)
    right = known = num_images = damaged = lacking = 0
    for number in range(len(queue)):
        found = queue.read(number, "index", "status", "label")
        if found is None:
            damaged += 1
            continue
        num_images += len(found["index"])
        ok = found["status"] == "ok"
        bad.add(found["index"][shard_pass.is_bad(found["status"])])
        lacking += int((found["status"] == NO_PREDICTION).sum())
        if truth is not None:
            expected = truth[found["index"][ok]]
            right += int((found["label"][ok] == expected).sum())
            known += int((expected >= 0).sum())
    if damaged:
        return
    queue.tidy()
    if len(bad):
        say(f"{len(bad)} images could not be read; their status says why:")
        say("\n".join(bad.lines()))
    outputs: dict = {
        "num_shards": len(queue),
        "num_images": num_images,
        "num_bad": len(bad),
        **({"num_without_prediction": lacking} if isinstance(teacher, Mixture) else {}),
        "accuracy": right / known if known else None,  # where the source knows better
    }
    if (chosen := engines.record(directory)) is not None:
        outputs["engine"] = chosen
    workdir_lib.write_manifest(directory, inputs, outputs)
    say(f"labelled {num_images:,} images of {source.name} in {len(queue)} shards: {directory}")
