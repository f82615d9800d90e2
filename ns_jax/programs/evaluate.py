"""Top-1, top-5, accuracy of each class and calibration of a network, every image once."""

import json
import pathlib
from typing import Any

from ml_collections import config_dict

from ns_jax import files
from ns_jax import workdir as workdir_lib
from ns_jax.checkpoints import checkpoint
from ns_jax.config import ranges
from ns_jax.data import bad_images
from ns_jax.data import open as open_lib
from ns_jax.data.source import Source
from ns_jax.errors import InputError
from ns_jax.foreign import exported
from ns_jax.inference import mixture, predictions, predictor, scoring, teachers
from ns_jax.parallel import processes
from ns_jax.predictions import tables
from ns_jax.progress import say
from ns_jax.weights import export, imported


def run(config: config_dict.ConfigDict, workdir: pathlib.Path) -> dict:
    """Writes and returns `eval.json`, and `predictions.parquet` beside it. Images that cannot be
    read, or that have no label, are counted, not scored.
    """
    ranges.check(config)
    evaluate = config.evaluate
    name = evaluate.checkpoint
    source = open_lib.open_from_config(config, "test")
    model = _open(config, name, source)
    against = _open(config, evaluate.against, source) if evaluate.against else None
    if against and against.class_names != model.class_names:
        raise InputError(
            f"{name} and {evaluate.against} have other classes, or another order of them: what "
            "they agree on cannot be told"
        )
    source, classes = scoring.prepare(source, model.class_names, name, evaluate.classes)
    inputs = {"model": model.digest, "source": source.fingerprint}
    if against:
        inputs["against"] = against.digest
    if evaluate.classes != "all":
        inputs["classes"] = evaluate.classes
    path = workdir / "eval.json"
    if path.exists():
        found = json.loads(path.read_text())
        workdir_lib.check_inputs(found["inputs"], inputs, path)
        return found

    bad = bad_images.BadImages(source, config.data.max_bad_fraction)
    reading, size = open_lib.loader_settings(config), evaluate.batch_size
    found = scoring.predict(model, source, reading, bad, size, classes=classes)
    result = {**found.scores(len(model.class_names)), "num_corrupt": len(bad), "inputs": inputs}
    if exported.is_exported(name):
        (file,) = model.files
        result |= {"file_bytes": file.num_bytes, **file.milliseconds()}
    if against:
        other = scoring.predict(against, source, reading, bad, size, classes=classes)
        result["agreement"] = float((found.classes[:, 0] == other.classes[:, 0]).mean())
    processes.call_on_first(predictions.write, workdir, found)
    processes.call_on_first(workdir_lib.write_json, path, result)
    say(
        f"{source.name}: top-1 {result['top1']:.2%}, top-5 {result['top5']:.2%}, calibration error "
        f"{result['ece']:.4f} on {result['num_images']:,} images, {len(bad)} unreadable"
    )
    if "file_bytes" in result:
        size, alone, each = (result[name] for name in ("file_bytes", "ms_one", "ms_per_image"))
        say(
            f"{config.evaluate.checkpoint}: {size / 1e6:,.2f} MB; {alone:.2f} ms for an image "
            f"alone, {each:.2f} ms an image in batches, on this machine's CPU"
        )
    if against:
        say(f"the same best class as {config.evaluate.against}: {result['agreement']:.2%}")
    if len(bad):
        say("\n".join(bad.lines()))
    return result


def _open(config: config_dict.ConfigDict, name: str, source: Source) -> Any:
    """A checkpoint, an exported file or predictions, as a `scoring.Network` with a `digest`."""
    path = files.as_path(name)
    if tables.is_predictions(name):
        expected = teachers.labelled_classes(config) or source.class_names
        given = mixture.Mixture(None, [], teachers.predictions(config, name, expected))
        given.prepare_all(source, "; what is evaluated has to have one of each")
        return given
    if exported.is_exported(name):
        file = teachers.open_exported(config, name, fallback=source.class_names)
        return mixture.Mixture(None, [file], [])
    if path.suffix == export.SAFETENSORS:
        return predictor.Predictor([imported.load(path)], name=name)
    return predictor.Predictor([checkpoint.load_model(name)], name=name)
