"""What runs our own networks when they label: XLA, or on a CPU, as ONNX, another engine.

Engines round differently, so one labels all of a directory: the first worker to get there writes
`engine.json`, unless XLA labels as it does by default, and the others are held to it.
"""

import dataclasses
import fnmatch
import json
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np
from ml_collections import config_dict

from ns_jax import cores, files
from ns_jax.data import open as open_lib
from ns_jax.data import pipeline
from ns_jax.data.source import Source
from ns_jax.errors import InputError
from ns_jax.foreign import onnx_file, onnx_graph, onnx_session, openvino_session
from ns_jax.foreign.exported import ExportedNetwork
from ns_jax.inference.predictor import Predictor
from ns_jax.labelling import shards
from ns_jax.model_card import ModelCard
from ns_jax.predictions import scores
from ns_jax.progress import say
from ns_jax.workdir import MANIFEST

XLA, ONNXRUNTIME, OPENVINO, AUTO = "xla", "onnxruntime", "openvino", "auto"
FLOAT32 = openvino_session.FLOAT32
RECORD = "engine.json"
BEGUN = {MANIFEST, "leases", "calibration.json"}  # what an engine leaves beside shards
TRIED_PIXELS = 2**21  # of images that engines are tried on, each image of every network
ROUNDS = 3

Networks = Sequence[tuple[ModelCard, dict]]


@dataclasses.dataclass(frozen=True)
class Engine:
    """An engine, its precision, and its version, on which rounding depends; "" of XLA."""

    name: str = XLA
    precision: str = FLOAT32
    version: str = ""

    def __str__(self) -> str:
        return self.name if self.precision == FLOAT32 else f"{self.name} in {self.precision}"


def check(label: config_dict.ConfigDict) -> None:
    """Raises InputError, MissingPackageError, for an engine that cannot run here."""
    if label.engine_precision != FLOAT32 and label.engine != OPENVINO:
        raise InputError(
            f"label.engine_precision={label.engine_precision} is for label.engine={OPENVINO}, not "
            f"{label.engine}"
        )
    if label.engine != AUTO:
        _engine(label.engine, label.engine_precision)


def _engine(name: str, precision: str) -> Engine:
    """Raises InputError, MissingPackageError, for one that cannot run here."""
    if name == XLA:
        return Engine()
    if not _on_cpu():
        device = jax.local_devices()[0]
        raise InputError(
            f"{name} labels on a CPU, and this process has {jax.local_device_count()} x "
            f"{device.device_kind}; leave label.engine at {XLA}"
        )
    if name == OPENVINO:
        onnx_session.packages()  # which write the file
        return Engine(name, precision, openvino_session.engine(precision))
    return Engine(name, precision, onnx_session.engine())


def settle(
    config: config_dict.ConfigDict, directory: pathlib.Path, source: Source, networks: Networks
) -> Engine:
    """The engine that labels in `directory`: `label.engine`, or what was found there or is fastest.

    Raises InputError if it has been begun by another one, and as `check`.
    """
    label = config.label
    check(label)
    found = _recorded(directory)
    if found is None and label.engine == XLA:
        return Engine()
    wanted = Engine(label.engine, label.engine_precision)
    if found is None:
        tried = _tried(config, source, networks) if label.engine == AUTO and _on_cpu() else {}
        if label.engine == AUTO:
            wanted = Engine(max(tried, key=tried.__getitem__, default=XLA))
        found = _engine(wanted.name, wanted.precision)
        told = {**dataclasses.asdict(found), "images_per_second": tried}
        files.create(os.fspath(directory / RECORD), f"{json.dumps(told, indent=1)}\n".encode())
        found = _recorded(directory) or found  # of many workers' the first one's
    if label.engine != AUTO and str(wanted) != str(found):
        raise InputError(
            f"{directory} is labelled by {found}, and label.engine is {wanted}, which rounds "
            f"otherwise: set label.engine to {AUTO}, which takes what is there, or take another "
            "--workdir"
        )
    own = _engine(found.name, found.precision)
    if own.version != found.version:
        raise InputError(
            f"{directory} is labelled by {found.version}, and here there is {own.version}, which "
            "may round otherwise: install that one, or take another --workdir"
        )
    return own


def record(directory: pathlib.Path) -> dict | None:
    """What `engine.json` says: `name`, `precision`, `version`, `images_per_second` of all that were
    tried; None if there is none, where XLA labels.
    """
    path = os.fspath(directory / RECORD)
    return json.loads(files.read(path)) if files.exists(path) else None


def _recorded(directory: pathlib.Path) -> Engine | None:
    """The engine of what has been begun in `directory`; None: nothing has been."""
    if told := record(directory):
        return Engine(told["name"], told["precision"], told["version"])
    names = files.names(os.fspath(directory))
    begun = fnmatch.filter(names, shards.SHARDS) or not BEGUN.isdisjoint(names)
    return Engine() if begun else None


def run_by(engine: Engine, networks: Networks, names: Sequence[str]) -> list[ExportedNetwork]:
    """The networks at work, called `names` in errors. Raises InputError for weights that are not
    finite or more than an ONNX file holds.
    """
    found = []
    for (card, variables), name in zip(networks, names, strict=True):
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory) / "network.onnx"
            model = onnx_graph.build(card, variables, output=onnx_graph.LOGITS)
            onnx_file.write(path, model)
            if engine.name == OPENVINO:
                size = card.preprocessing.size
                opened = openvino_session.open_file(path, size, engine.precision)
            else:
                opened = onnx_session.open_file(path)
            network = ExportedNetwork(
                path, opened, card.class_names, card.preprocessing, kind=scores.LOGITS, name=name
            )
            _ = network.digest  # of the file, which goes
            found.append(network)
    return found


def _on_cpu() -> bool:
    return jax.local_devices()[0].platform == "cpu"


def _tried(config: config_dict.ConfigDict, source: Source, networks: Networks) -> dict[str, float]:
    """Images/s of each engine that is installed, on the first images of the source. They take turns
    on the same images, in memory; what the first round takes, in which they compile, is left out.
    """
    images = _images(config, source, networks)
    sides: dict[str, Callable[[], None]] = {}
    for name in (XLA, ONNXRUNTIME, OPENVINO):
        try:
            sides[name] = _side(_engine(name, FLOAT32), networks, images)
        except InputError as error:
            say(f"{name} is not tried: {error}")
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(1 + ROUNDS):
        for name, side in sides.items():
            began = time.perf_counter()
            side()
            seconds[name].append(time.perf_counter() - began)
    count = len(images[0])
    found = {name: count / statistics.median(times[1:]) for name, times in seconds.items()}
    told = ", ".join(f"{name} {speed:,.1f}" for name, speed in found.items())
    best = max(found, key=found.__getitem__)
    say(f"{best} labels, the fastest of what is installed on {count} images; images/s: {told}")
    return {name: round(speed, 2) for name, speed in found.items()}


def _images(config: config_dict.ConfigDict, source: Source, networks: Networks) -> list[np.ndarray]:
    """The first images as each network sees them, uint8 `[n, S, S, 3]`."""
    views = [card.preprocessing for card, _ in networks]
    largest = max(view.size for view in views)
    count = max(TRIED_PIXELS // largest**2, 4 * cores.count())
    count = min(count, config.label.batch_size, len(source))
    batches = pipeline.evaluation_batches(
        source,
        [np.arange(count)],
        views,
        batch_size=count,
        reading=open_lib.loader_settings(config),
    )
    try:
        batch = next(iter(batches))
        return [batch[f"image_{number}"].copy() for number in range(len(views))]
    finally:
        batches.close()


def _side(engine: Engine, networks: Networks, images: list[np.ndarray]) -> Callable[[], None]:
    """A function that takes the images through all networks."""
    if engine.name == XLA:
        own = [Predictor([network]) for network in networks]

        def by_xla() -> None:
            for network, seen in zip(own, images, strict=True):
                list(network.logits_of_arrays(seen, len(seen)))

        return by_xla
    opened = run_by(engine, networks, [card.architecture for card, _ in networks])

    def by_file() -> None:
        for network, seen in zip(opened, images, strict=True):
            network.log_probs(seen, len(seen))

    return by_file
