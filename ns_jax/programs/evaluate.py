"""Top-1, top-5, accuracy of each class and calibration of a checkpoint, every image once."""

import json
import pathlib

from ml_collections import config_dict

from ns_jax import workdir as workdir_lib
from ns_jax.checkpoints import checkpoint
from ns_jax.config import ranges
from ns_jax.data import bad_images
from ns_jax.data import open as open_lib
from ns_jax.inference import predictor, scoring
from ns_jax.parallel import processes
from ns_jax.progress import say


def run(config: config_dict.ConfigDict, workdir: pathlib.Path) -> dict:
    """Writes and returns `eval.json`. Images that cannot be read, or that have no label, are
    counted, not scored.
    """
    ranges.check(config)
    evaluate = config.evaluate
    name = evaluate.checkpoint
    model = predictor.Predictor([checkpoint.load_model(name)], name=name)
    source, classes = scoring.prepare(
        open_lib.open_from_config(config, "test"), model.class_names, name, evaluate.classes
    )
    inputs = {"model": model.digest, "source": source.fingerprint}
    if evaluate.classes != "all":
        inputs["classes"] = evaluate.classes
    path = workdir / "eval.json"
    if path.exists():
        found = json.loads(path.read_text())
        workdir_lib.check_inputs(found["inputs"], inputs, path)
        return found

    bad = bad_images.BadImages(source, config.data.max_bad_fraction)
    reading = open_lib.loader_settings(config)
    scores = scoring.score(model, source, reading, bad, evaluate.batch_size, classes=classes)
    result = {**scores, "num_corrupt": len(bad), "inputs": inputs}
    processes.call_on_first(workdir_lib.write_json, path, result)
    say(
        f"{source.name}: top-1 {result['top1']:.2%}, top-5 {result['top5']:.2%}, calibration error "
        f"{result['ece']:.4f} on {result['num_images']:,} images, {len(bad)} unreadable"
    )
    if len(bad):
        say("\n".join(bad.lines()))
    return result
