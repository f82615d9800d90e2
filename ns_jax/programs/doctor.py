"""Checks a run before it costs anything: its sources, their overlap, and what would bound it."""

import dataclasses
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import config_dict

from ns_jax import config as config_lib
from ns_jax import cores
from ns_jax import workdir as workdir_lib
from ns_jax.checkpoints import checkpoint
from ns_jax.data import bad_images, decoding, matching
from ns_jax.data import open as open_lib
from ns_jax.data.source import Source
from ns_jax.errors import InputError
from ns_jax.model_card import ModelCard
from ns_jax.parallel import mesh as mesh_lib
from ns_jax.progress import Progress, one_line, say, table
from ns_jax.selection import leaks
from ns_jax.training import examples
from ns_jax.training import numbers as numbers_lib
from ns_jax.training import trainer as trainer_lib
from ns_jax.training.trainer import Trainer

TRAINED_ON = ("labelled", "unlabelled")
HELD_OUT = ("test", "holdout", "guard")  # whose images must not be trained on
TIMED_STEPS = 5


@dataclasses.dataclass(frozen=True)
class Sample:
    """Those images of a source's sample that can be read."""

    keys: list[str]
    hashes: np.ndarray  # uint64 [n, 2]: of an image and of its mirror image


def run(config: config_dict.ConfigDict, workdir: pathlib.Path) -> dict:
    """Says what it finds and writes it to `doctor.json`.

    Raises InputError for a source that cannot be used: too many unreadable images, labelled ones
    without a label, a test or hold-out source with classes that the labelled one lacks, numbers
    that do not go together.
    """
    names = [name for name in (*TRAINED_ON, *HELD_OUT) if config.data[name]]
    sources = {name: open_lib.open_from_config(config, name) for name in names}
    if "labelled" not in sources:
        open_lib.open_from_config(config, "labelled")  # says what to set
    labelled = sources["labelled"]
    examples.check_labelled(labelled)
    for name in filter(sources.get, ("test", "holdout")):
        owner = f"the labelled {labelled.name}"
        leave_out = name == "test" and config.evaluate.classes == "present"
        matching.match(sources[name], labelled.class_names, owner, leave_out=leave_out)
    found, samples = {}, {}
    for name, source in sources.items():
        found[name], samples[name] = _examine(config, source)
    table("Sources", *_source_rows(found))
    for name, facts in found.items():
        for line in facts["bad"]:
            say(f"{name}, unreadable: {line.strip()}")
    result = {
        "sources": found,
        "leaks": _leaks(samples, config.select.guard_distance),
        "speed": _speed(config, sources),
    }
    workdir_lib.write_json(workdir / "doctor.json", result)
    return result


def _examine(config: config_dict.ConfigDict, source: Source) -> tuple[dict, Sample]:
    """Decodes a sample spread over the source, counts what it finds, and hashes it."""
    count = min(len(source), config.doctor.sample)
    indices = _spread(source, count)
    bad = bad_images.BadImages(source, 1.0)
    sizes, lengths, labels, keys, hashes = [], [], [], [], []
    with Progress(f"decoding {source.name}", count) as progress:
        for index in indices:
            example = source[int(index)]
            labels.append(example["label"])
            try:
                pixels = decoding.decode(example["image"], source.max_pixels)
                sizes.append(pixels.shape[:2])
                lengths.append(_num_bytes(example["image"]))
                keys.append(example["key"])
                hashes.append(leaks.hash_both(pixels))
            except decoding.BadImageError:
                bad.add([index])
            progress.advance(1)
    if len(bad) > config.data.max_bad_fraction * count:
        raise InputError(
            f"{len(bad)} of a sample of {count} images of {source.name} cannot be read; "
            f"data.max_bad_fraction={config.data.max_bad_fraction}. The first ones:\n"
            + "\n".join(bad.lines(10))
        )
    known = source.labels if source.labels is not None else np.asarray(labels)
    per_class = np.bincount(known[known >= 0], minlength=len(source.class_names))
    report = {
        "name": source.name,
        "num_images": len(source),
        "fingerprint": source.fingerprint,
        "num_classes": len(source.class_names),
        "unlabelled": int((known < 0).sum()),
        "all_counted": source.labels is not None,  # else the classes are those of the sample
        "per_class": dict(zip(source.class_names, map(int, per_class), strict=True)),
        "sample": count,
        "num_bad": len(bad),
        "bad": bad.lines(),
        "median_size": [int(statistics.median(side)) for side in zip(*sizes, strict=True)],
        "median_bytes": int(statistics.median(lengths)),
    }
    return report, Sample(keys, np.array(hashes, np.uint64).reshape(-1, 2))


def _num_bytes(image: bytes | np.ndarray) -> int:
    return image.nbytes if isinstance(image, np.ndarray) else len(image)


def _source_rows(found: dict) -> tuple[list[str], list[list[str]]]:
    columns = ["source", "images", "classes", "smallest", "largest", "size", "bytes", "unreadable"]
    rows = []
    for name, source in found.items():
        counts = source["per_class"]
        of = "" if source["all_counted"] else " (sample)"
        few, many = (
            (min(counts, key=counts.get), max(counts, key=counts.get)) if counts else ("", "")
        )
        height, width = source["median_size"]
        rows.append(
            [
                name,
                f"{source['num_images']:,}",
                str(len(counts) or "-"),
                f"{few}: {counts[few]:,}{of}" if sum(counts.values()) else "-",
                f"{many}: {counts[many]:,}{of}" if sum(counts.values()) else "-",
                f"{width} x {height}",
                f"{source['median_bytes']:,}",
                f"{source['num_bad']:,} of {source['sample']:,}",
            ]
        )
    return columns, rows


def _leaks(samples: dict[str, Sample], distance: int) -> dict:
    """Images that are trained on and resemble one that must not be, as `select` finds them.

    `{"unlabelled": {"test": [[key, key of the nearest test image, bits], ...]}}`, of samples,
    the nearest ones first.
    """
    result: dict[str, dict] = {}
    for name in filter(samples.get, TRAINED_ON):
        result[name] = {}
        for held_out in filter(samples.get, HELD_OUT):
            ours, theirs = samples[name], samples[held_out]
            found = leaks.NearDuplicates(theirs.hashes.ravel(), distance).find(ours.hashes[:, 0])
            pairs = [
                [ours.keys[row], theirs.keys[number // 2], bits]
                for row, number, bits in zip(*(part.tolist() for part in found), strict=True)
            ]
            result[name][held_out] = pairs = sorted(pairs, key=lambda pair: pair[2])
            say(
                f"{len(pairs):,} of {len(ours.keys):,} {name} images resemble one of "
                f"{len(theirs.keys):,} {held_out} images (within {distance} bits, "
                "select.guard_distance; of each source doctor.sample images)"
            )
            for key, other, bits in pairs[:10]:
                say(f"  {one_line(key)} is {bits} bits from {one_line(other)}")
    return result


def _spread(source: Source, most: int) -> np.ndarray:
    """Indices of so many images at most, evenly over the source, which may be in class order."""
    return np.linspace(0, len(source) - 1, min(len(source), most)).astype(int)


def _measured(config: config_dict.ConfigDict, sources: dict[str, Source]) -> config_dict.ConfigDict:
    """The training whose speed counts: of a whole self-training the last student's.

    Without a pool it is the teacher's.
    """
    if not config_lib.is_chain(config):
        return config
    last = config.selftrain.iterations if "unlabelled" in sources else 0
    config = config_lib.at_iteration(config, last)
    config.train.selection = config.train.selection or "selection"  # it is there by then
    return config


def _speed(config: config_dict.ConfigDict, sources: dict[str, Source]) -> dict:
    """Images/s that the views make, a core and altogether, and that a training step takes."""
    labelled, full_config = sources["labelled"], config
    config = _measured(config, sources)
    devices = trainer_lib.training_devices(config)
    numbers = numbers_lib.derive(config, len(labelled), len(devices))
    teacher = _teacher(config, full_config, labelled.class_names)
    class_names = teacher[0].class_names if teacher else labelled.class_names
    trainer = trainer_lib.build(config, numbers, len(class_names), teacher=teacher and teacher[0])
    evaluation = trainer.preprocessing
    view, pool = trainer_lib.train_view(config, evaluation), labelled
    ratio = config.train.unlabelled_ratio
    if ratio and "unlabelled" in sources:
        view, pool = trainer_lib.unlabelled_view(config, view), sources["unlabelled"]
    say(
        f"measures the training of {trainer.model.name} at {evaluation.size} pixels, "
        f"with {ratio:g} unlabelled images for each labelled one"
    )
    views = {
        "training": lambda data, rng: view(data, rng, pool.max_pixels),
        "evaluation": lambda data, rng: evaluation(decoding.decode(data, pool.max_pixels)),
    }
    num_cores = cores.count()
    per_core = {name: _images_per_second(config, pool, make) for name, make in views.items()}
    for name, speed in per_core.items():
        say(f"{name} views of {pool.name}: {speed:,.0f} images/s a core, {num_cores} cores here")
    device = _training_speed(config, trainer, teacher and teacher[1])
    kind = jax.devices()[0].device_kind
    host = per_core["training"] * num_cores
    say(f"a training step: {device:,.0f} images/s on {kind}; the views: {host:,.0f} on all cores")
    if jax.devices()[0].platform == "cpu":
        share = device / (device + host)  # of the time of the cores, which do both
        bound = "input" if share > 0.5 else "step"
        say(f"training is bound by the {bound}: the views take {share:.0%} of the cores' time")
    else:
        bound = "input" if host < device else "step"
        needed = device / per_core["training"]
        say(f"training is bound by the {bound}: about {needed:.0f} cores would feed the device")
    return {
        "model": trainer.model.name,
        "image_size": evaluation.size,
        "per_step": [numbers.labelled, numbers.unlabelled],
        "pool": pool.name,
        "views_per_core": per_core,
        "cores": num_cores,
        "training_step": device,
        "device": kind,
        "bound_by": bound,
    }


def _teacher(
    config: config_dict.ConfigDict, full_config: config_dict.ConfigDict, class_names: Sequence[str]
) -> tuple[ModelCard, dict] | None:
    """The network that labels in the step, if one does; any weights do for one that is to come."""
    name = config.train.teacher
    if not name or not config.train.unlabelled_ratio:
        return None
    if name != config_lib.PREVIOUS:
        return checkpoint.load_model(name)
    before = config_lib.at_iteration(full_config, max(0, full_config.selftrain.iterations - 1))
    card = trainer_lib.card(before, class_names)
    return card, jax.jit(card.build().init, static_argnums=1)(
        jax.random.key(0), card.preprocessing.size
    )


def _images_per_second(config: config_dict.ConfigDict, source: Source, make: Callable) -> float:
    """The speed of one core: for a few seconds, or twice through the sample."""
    indices = _spread(source, config.doctor.sample)
    rng = np.random.default_rng(config.seed)
    done, began = 0, time.perf_counter()
    for index in np.tile(indices, 2):
        try:
            make(source[int(index)]["image"], rng)
        except decoding.BadImageError:
            continue
        done += 1
        if time.perf_counter() - began > config.doctor.seconds:
            break
    return done / (time.perf_counter() - began)


def _training_speed(
    config: config_dict.ConfigDict, trainer: Trainer, teacher: dict | None
) -> float:
    """Images/s of the compiled step on all devices that train, from batches in memory."""
    spec, size = trainer.batch_spec(), trainer.preprocessing.size
    rng = np.random.default_rng(config.seed)
    batch: dict[str, Any] = {
        name: np.ones(column.shape, column.dtype)
        for name, column in trainer.abstract_batch(spec).items()
    }
    batch["image"] = rng.integers(0, 256, (spec.rows, size, size, 3), np.uint8)
    batch["target_classes"][:] = 0
    if "bad" in batch:
        batch["bad"][:] = False
    batch = mesh_lib.put_batch(batch, trainer.mesh)
    say(f"compiles the training step of {trainer.model.name}")
    if teacher and trainer.teacher:
        teacher = mesh_lib.put(teacher, trainer.teacher.shardings)
    state, times = trainer.init(config.seed), []
    state = trainer.packed(state)
    for _ in range(TIMED_STEPS + 1):  # the first one compiles
        began = time.perf_counter()
        state, metrics = trainer.step(state, batch, jax.random.key(config.seed), teacher)
        jax.block_until_ready(metrics)
        times.append(time.perf_counter() - began)
    return spec.rows / statistics.median(times[1:])
