"""Top-1, top-5, accuracy of each class and calibration of a checkpoint, every image once."""

import json
import pathlib

import numpy as np

from ns_jax import config as config_lib
from ns_jax import model_card
from ns_jax import workdir as workdir_lib
from ns_jax.data import bad_images
from ns_jax.data import open as open_lib
from ns_jax.inference import metrics, predictor
from ns_jax.parallel import processes
from ns_jax.progress import Progress, say


def run(config, workdir: pathlib.Path) -> dict:
    """Writes and returns `eval.json`. Images that cannot be read are counted, not scored."""
    one = ("batch_size", config.evaluate.batch_size >= 1, "1 or more")
    config_lib.check_ranges("evaluate", config.evaluate, [one])
    source = open_lib.open_from_config(config, "test")
    model = predictor.Predictor(config.evaluate.checkpoint, batch_size=config.evaluate.batch_size)
    names = model.class_names
    model_card.check_classes(source.class_names, names, source.name, config.evaluate.checkpoint)
    inputs = {"model": model.digest, "source": source.fingerprint}
    path = workdir / "eval.json"
    if path.exists():
        found = json.loads(path.read_text())
        workdir_lib.check_inputs(found["inputs"], inputs, path)
        return found

    bad = bad_images.BadImages(source, config.data.max_bad_fraction)
    share = np.array_split(np.arange(len(source)), processes.count())[processes.index()]
    k = min(predictor.CLASSES_KEPT, len(model.class_names))  # as labelling: one compiled pass
    parts = [(np.zeros((0, k), np.int32), np.zeros((0, k), np.float32), np.zeros(0, np.int32))]
    with Progress("evaluating", len(share)) as progress:
        for batch in model.predict(source, [share], open_lib.loader_settings(config), k):
            ok = np.asarray([status == "ok" for status in batch["status"]])
            bad.add(batch["index"][~ok])
            parts.append([batch[name][ok] for name in ("classes", "probs", "label")])
            progress.advance(len(ok))
    arrays = [np.concatenate(found) for found in zip(*parts, strict=True)]
    classes, probs, labels = (np.concatenate(processes.gather(array)) for array in arrays)
    processes.gather_bad(bad)
    result = {
        **metrics.evaluate(classes, probs, labels, len(source.class_names)),
        "num_images": len(labels),
        "num_corrupt": len(bad),
        "inputs": inputs,
    }
    processes.call_on_first(workdir_lib.write_json, path, result)
    say(
        f"{source.name}: top-1 {result['top1']:.2%}, top-5 {result['top5']:.2%}, calibration error "
        f"{result['ece']:.4f} on {len(labels):,} images, {len(bad)} unreadable"
    )
    if len(bad):
        say("\n".join(bad.lines()))
    return result
