"""A workdir of a self-training as the programs leave it, made without training anything."""

import json
import pathlib

import cv2
import numpy as np

from configs import base
from ns_jax import workdir as workdir_lib
from ns_jax.data import open as open_lib
from ns_jax.inference import predictions, scoring
from ns_jax.labelling import shards as shards_lib
from ns_jax.programs import select

EVIL = "<script>alert(1)</script>"
NAMES = ["cat", "dog", EVIL, "nobody's"]  # the last one has no candidate
EVIL_KEY = "c \"<b>&'.png"
POOL, TEST = 120, 90
BAD = 7  # index of the pool's image that cannot be read
HUES = ((200, 60, 60), (60, 160, 60), (60, 60, 200), (120, 120, 120))


def write_images(directory: pathlib.Path, classes: np.ndarray, labelled: bool) -> None:
    """Images of their class's colour, of several shapes, with a file of labels if wanted."""
    directory.mkdir(parents=True)
    rng = np.random.default_rng(len(classes))
    lines = ["file,label"]
    for number, label in enumerate(classes.tolist()):
        size = (40 + number % 30, 60, 3)
        pixels = np.clip(rng.normal(HUES[label], 25, size), 0, 255).astype(np.uint8)
        name = EVIL_KEY if number == 3 and not labelled else f"{number:03}.png"
        (directory / name).write_bytes(cv2.imencode(".png", pixels[..., ::-1])[1].tobytes())
        lines.append(f"{name},{NAMES[label]}")
    if labelled:
        (directory / "labels.csv").write_text("\n".join(lines) + "\n")
    else:
        (directory / f"{BAD:03}.png").write_bytes(b"\x89PNG\r\n\x1a\n cut off")


def settings(root: pathlib.Path):
    config = base.get_config()
    config.data.labelled = f"folder:{root / 'labelled'}"
    config.data.unlabelled = f"folder:{root / 'pool'}"
    config.data.test = f"folder:{root / 'test'}"
    config.select.per_class = 20
    config.select.threshold = 0.5
    config.selftrain.iterations = 2
    config.selftrain.overrides = {"iteration_1": {"train": {"unlabelled_ratio": 2.0}}}
    return config


def make(root: pathlib.Path, finished: bool = True) -> pathlib.Path:
    """A teacher and two students, the second of which has no scores yet unless `finished`."""
    classes = np.arange(POOL) % 3
    write_images(root / "labelled", np.repeat(np.arange(4), 5), labelled=True)
    write_images(root / "test", np.arange(TEST) % 4, labelled=True)
    write_images(root / "pool", classes, labelled=False)
    config, workdir = settings(root), root / "run"
    workdir.mkdir()
    workdir_lib.claim_workdir(config, workdir)
    for number in range(3):
        directory = workdir / f"iteration_{number}"
        directory.mkdir()
        if number:
            _label(config, directory, number)
        _metrics(directory / "metrics.jsonl", number)
        if number < 2 or finished:
            _train(config, directory, number)
            _evaluate(config, directory, number)
    _timeline(workdir, finished)
    return workdir


def _label(config, directory: pathlib.Path, number: int) -> None:
    source = open_lib.open_from_config(config, "unlabelled")
    rng = np.random.default_rng(number)
    truth = np.asarray([int(np.argmin(_distances(source, i))) for i in range(len(source))])
    label = np.where(rng.random(POOL) < 0.3 / number, (truth + 1) % 3, truth).astype(np.int32)
    confidence = rng.uniform(0.3, 1.0, POOL).astype(np.float32)
    status = np.full(POOL, "ok", object)
    keys = [source[i]["key"] for i in range(POOL)]
    bad = keys.index(f"{BAD:03}.png")
    status[bad] = "truncated or damaged"
    second = (label + 1) % 4
    made_of = {
        "teacher": f"{number:016x}",
        "source": source.fingerprint,
        "subset": None,
        "class_names": NAMES,
        "k": 2,
    }
    ranges = shards_lib.shard_ranges(POOL, 50)
    for shard, rows in enumerate(ranges):
        part = slice(rows.start, rows.stop)
        columns = {
            "index": np.arange(POOL)[part],
            "key": keys[part],
            "status": status[part].tolist(),
            "classes": np.stack([label, second], 1)[part],
            "probs": np.stack([confidence, (1 - confidence) / 2], 1)[part],
        }
        path = directory / "labels" / shards_lib.shard_name(shard, len(ranges))
        shards_lib.write_shard(path, columns, made_of)
    outputs = {"num_shards": len(ranges), "num_images": POOL, "num_bad": 1, "accuracy": None}
    inputs = {**made_of, "images_per_shard": 50}
    workdir_lib.write_manifest(directory / "labels", inputs, outputs)
    config.select.labels = str(directory / "labels")
    select.run(config, directory)


def _distances(source, index: int) -> list[float]:
    pixels = cv2.imdecode(np.frombuffer(source[index]["image"], np.uint8), cv2.IMREAD_COLOR_RGB)
    if pixels is None:
        return [0.0, 1.0, 2.0]
    return [float(np.abs(pixels.mean((0, 1)) - hue).sum()) for hue in HUES[:3]]


def _train(config, directory: pathlib.Path, number: int) -> None:
    labelled = open_lib.open_from_config(config, "labelled").fingerprint
    outputs = {"step": 100, "model": f"{number:016x}", "num_bad": [0, 1][: 1 + (number > 0)]}
    workdir_lib.write_manifest(directory, {"labelled": labelled}, outputs)


def _evaluate(config, directory: pathlib.Path, number: int) -> None:
    source = open_lib.open_from_config(config, "test")
    rng = np.random.default_rng(10 + number)
    wrong = rng.random(TEST) < 0.4 - 0.15 * number
    best = np.where(wrong, (source.labels + 1) % 4, source.labels).astype(np.int32)
    others = [(best + step) % 4 for step in range(1, 4)]
    confidence = rng.uniform(0.4, 1.0, TEST).astype(np.float32)
    probs = np.stack([confidence, *[(1 - confidence) / 3] * 3], 1)
    found = scoring.Predictions(
        np.stack([best, *others], 1), probs, source.labels, np.arange(TEST), 0
    )
    predictions.write(directory, found)
    result = {**found.scores(4), "num_corrupt": 0}
    inputs = {"model": f"{number:016x}", "source": source.fingerprint}
    workdir_lib.write_json(directory / "eval.json", {**result, "inputs": inputs})
    suites = {
        "own": {"checkpoint": {"top1": 0.5 + number / 10, "num_images": TEST}},
        "own_flips": {"checkpoint": {"mean_flip_probability": 12.5, "num_images": TEST}},
    }
    workdir_lib.write_json(directory / "robustness.json", {"networks": [], "suites": suites})


def _metrics(path: pathlib.Path, number: int) -> None:
    """Losses, of which one of the first student is not finite; its training was resumed at 50."""
    with path.open("w") as file:
        for step in range(10, 101, 10):
            row = {"step": step, "time": 1000.0 + 100 * number + step + (50 if step > 50 else 0)}
            loss = None if number == 1 and step == 30 else 3.0 / step**0.5
            row |= {"train/loss_labelled": loss, "train/top1_labelled": step / 200}
            if number:
                row |= {"train/loss_unlabelled": 1.0, "train/top1_unlabelled": step / 300}
            row |= {"train/images_per_second": 321.0, "train/input_wait_share": 0.25}
            row |= {"train/saving_share": 0.05}
            file.write(json.dumps(row) + "\n")
        file.write('{"step": 110, "ti')  # being written


def _timeline(workdir: pathlib.Path, finished: bool) -> None:
    start = {"command": "python -m ns_jax selftrain --config=c.py", "devices": "1 x cpu"}
    start |= {"versions": {"jax": "1.2"}, "commit": "abc"}
    lines = [
        (1000, "run", "start"),
        (1000, "iteration_0/train", "begin"),
        (1060, "iteration_0/train", "end"),
        (1060, "iteration_1/label", "begin"),
        (1070, "iteration_1/label", "end"),
        (1100, "iteration_1/train", "begin"),
        (1190, "run", "start"),  # it was killed at about 1150
        (1190, "iteration_1/train", "begin"),
        (1250, "iteration_1/train", "end"),
        (1250, "iteration_2/train", "begin"),
    ]
    if finished:
        lines.append((1350, "iteration_2/train", "end"))
    text = "".join(
        json.dumps(
            {"time": when, "stage": stage, "event": event} | (start if event == "start" else {})
        )
        + "\n"
        for when, stage, event in lines
    )
    (workdir / "timeline.jsonl").write_text(text)
