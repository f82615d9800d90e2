"""What a training and its labelling would take on a TPU slice, compiled for it without one."""

import copy
import math
import pathlib
import re
import time

import jax
import numpy as np

from ns_jax import config as config_lib
from ns_jax import trees
from ns_jax import workdir as workdir_lib
from ns_jax.checkpoints import checkpoint
from ns_jax.errors import InputError
from ns_jax.inference import step as inference_step
from ns_jax.parallel import mesh as mesh_lib
from ns_jax.planning import ascent, hlo, macs, topology
from ns_jax.planning.report import show, size_text
from ns_jax.progress import say
from ns_jax.training import numbers as numbers_lib
from ns_jax.training import state as state_lib
from ns_jax.training import trainer as trainer_lib

TARGET_PLACES = 16  # of stored labels
SETTINGS = ("model", "mesh", "data", "randaugment", "train", "optim", "loss")  # of a training
TOTALS = ("days", "core_hours", "chip_hours", "cost")
OUT_OF_MEMORY = re.compile(
    r"(?:Used |temporaries \()([\d.]+)([KMGT]?)\b"
)  # as the compiler says it
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def run(config, workdir: pathlib.Path) -> dict:
    """Prints the plan, and writes and returns it as `plan.json`.

    Of one training and labelling: `train` and `label`. Of a whole self-training: a list of these,
    `stages`, and their `total`, None if not all of it fits. A step that does not fit is a finding,
    not an error. Raises InputError for a slice that does not exist and for numbers that do not go
    together, ImportError without the TPU compiler.
    """
    slice_ = topology.parse(config.plan.topology)
    devices, made = slice_.devices(), {}

    def once(plan, config, *sections: str) -> dict:
        """Equal settings are compiled once."""
        key = plan, *(config[name].to_json_best_effort() for name in (*sections, "plan"))
        if key not in made:
            made[key] = plan(config, slice_, devices)
        return made[key]

    def stage(labelling, training) -> dict:
        plans = once(_training, training, *SETTINGS)
        if labelling and config.plan.labelling:
            plans = plans | {"label": once(_plan_labelling, labelling, "model", "data", "label")}
        return plans

    found = {
        "topology": slice_.name,
        "devices": slice_.num_devices,
        "chips": slice_.num_chips,
        "hbm_bytes": slice_.chip.usable,
    }
    if config_lib.is_chain(config):
        if config.selftrain.filter:
            say("selftrain.filter is left out: every teacher is taken to label the whole pool")
        parts = _stages(config)
        for *_, training in parts:  # before the first of many compilations
            numbers_lib.derive(training, config.plan.num_labelled, len(devices))
        stages = [{"name": name} | stage(*configs) for name, *configs in parts]
        found |= {"stages": stages, "total": _total(stages)}
    else:
        config = _planned(config)
        found |= stage(config, config)
    workdir_lib.write_json(workdir / "plan.json", found)
    show(found, config.plan.price)
    return found


def _stages(config) -> list[tuple]:
    """Of a self-training: name of a stage, config of the teacher that labels first, and its own."""
    stages, teacher = [], None
    for k in range(config.selftrain.iterations + 1):
        now = _planned(config_lib.at_iteration(config, k))
        if k == 0 and config.selftrain.teacher:
            given = checkpoint.description(config.selftrain.teacher)
            teacher = now
            teacher.model.name = given["model"]["name"]
            teacher.model.small_images = given["model"]["small_images"]
            teacher.data.image_size = given["preprocessing"]["size"]
            continue
        if teacher:
            teacher.label.batch_size = now.label.batch_size
        stages.append((f"student {k}" if k else "teacher", teacher, now))
        teacher = now
        if now.finetune.epochs > 0:
            teacher = _planned(config_lib.finetuned(now))
            stages.append((f"fine-tune of {stages[-1][0]}", None, teacher))
    return stages


def _total(stages: list[dict]) -> dict | None:
    plans = [stage[name] for stage in stages for name in ("label", "train") if name in stage]
    if not all(plan["fits"] for plan in plans):
        return None
    return {key: sum(plan[key] for plan in plans) for key in TOTALS}


def _planned(config):
    """The config with what a training finds at its start: its labels are made by then."""
    config = copy.deepcopy(config)
    if config.train.unlabelled_ratio and not config.train.teacher:
        config.train.selection = config.train.selection or "selection"
    if config.train.frozen_stages is not None:
        config.train.init = config.train.init or "checkpoint"
    return config


def _training(config, slice_: topology.Topology, devices: list) -> dict:
    plans = {"train": _plan_training(config, slice_, devices)}
    if config.plan.search:
        plans["largest"] = _largest(config, slice_, devices, plans["train"])
    return plans


def _plan_training(config, slice_: topology.Topology, devices: list) -> dict:
    plan = config.plan
    numbers = numbers_lib.derive(config, plan.num_labelled, len(devices))
    parts = trainer_lib.build(config, numbers, plan.num_classes, devices)
    per_step, num_steps = (numbers.labelled, numbers.unlabelled), numbers.total_steps
    stored = numbers.unlabelled and config.loss.pseudo_labels == "soft" and not parts.teacher
    rows = numbers.rows
    mesh = parts.mesh
    rng = jax.eval_shape(lambda: jax.random.key(0))
    rng = jax.ShapeDtypeStruct(rng.shape, rng.dtype, sharding=mesh_lib.replicated(mesh))
    teacher = parts.teacher and state_lib.placed(parts.teacher.shapes, parts.teacher.shardings)
    state = state_lib.placed(parts.shapes, parts.shardings)
    batch = parts.abstract_batch(parts.batch_spec(TARGET_PLACES if stored else 1))
    size = parts.preprocessing.size
    flops = 2 * macs.training_macs(parts.model, size)
    if parts.teacher:
        flops += 2 * macs.macs(parts.teacher.step.model, parts.teacher.preprocessing.size)
    what = (
        f"{parts.model.name} at {size} pixels, {rows / len(devices):g} images a device "
        f"({per_step[0]:,} labelled + {per_step[1]:,} unlabelled), mesh {dict(mesh.shape)}, remat "
        f"{parts.model.remat}, {parts.model.stat_groups} BatchNorm groups"
    )
    found = {
        "model": parts.model.name,
        "image_size": size,
        "images_per_device": rows / len(devices),
        "per_step": list(per_step),
        "mesh": dict(mesh.shape),
        "remat": parts.model.remat,
        "scan_unroll": parts.model.scan_unroll,
        "stat_groups": parts.model.stat_groups,
        "parameters": trees.count(parts.shapes.params),
        "sharded": mesh_lib.coverage(parts.shapes.params, parts.shardings.params),
        **_compile("training", what, parts.step, (state, batch, rng, teacher)),
    }
    if found["fits"]:
        found |= _times(found, slice_, flops, rows, num_steps, plan.price)
    return found


def _plan_labelling(config, slice_: topology.Topology, devices: list) -> dict:
    plan = config.plan
    model = trainer_lib.build_model(config, plan.num_classes)
    preprocessing = trainer_lib.build_preprocessing(config, model)
    size, mesh = preprocessing.size, mesh_lib.make_mesh(1, devices)
    rows = mesh_lib.round_up(config.label.batch_size, mesh)
    variables = jax.eval_shape(lambda rng: model.init(rng, size), jax.random.key(0))
    temperature = jax.ShapeDtypeStruct((), np.float32)
    shapes = {"members": [variables], "temperature": temperature}
    whole = jax.tree.map(lambda _: mesh_lib.replicated(mesh), shapes)
    images = jax.ShapeDtypeStruct(
        (rows, size, size, 3), np.uint8, sharding=mesh_lib.batch_sharding(mesh)
    )
    step = inference_step.compile_inference(
        mesh,
        inference_step.predict_step,
        members=(inference_step.Member(model, 0, preprocessing.mean, preprocessing.std),),
        flip=False,
        k=min(TARGET_PLACES, plan.num_classes),
    )
    what = f"{model.name} at {size} pixels, {rows / len(devices):g} images a device"
    found = {
        "model": model.name,
        "image_size": size,
        "images_per_device": rows / len(devices),
        **_compile("labelling", what, step, (state_lib.placed(shapes, whole), [images])),
    }
    if found["fits"]:
        num_steps = math.ceil(plan.num_unlabelled / rows)
        found |= _times(found, slice_, 2 * macs.macs(model, size), rows, num_steps, plan.price)
    return found


def _compile(name: str, what: str, step, arguments: tuple) -> dict:
    """Memory and text of a compiled step; of one that does not fit, by how much."""
    say(f"compiles {name}: {what}")
    began = time.perf_counter()
    try:
        made = step.lower(*arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        needed = OUT_OF_MEMORY.search(str(error))
        used = needed and float(needed[1]) * UNITS[needed[2]]
        return {"fits": False, "peak_bytes": used, "compile_seconds": time.perf_counter() - began}
    memory = made.memory_analysis()
    reading = hlo.read(made.as_text())
    totals = {}
    for one in reading.collectives:
        key = f"{one.kind} of {one.group_size}" if one.group_size else one.kind
        count, num_bytes = totals.get(key, (0, 0))
        totals[key] = count + one.count, num_bytes + one.count * one.num_bytes
    return {
        "fits": True,
        "compile_seconds": time.perf_counter() - began,
        "peak_bytes": memory.peak_memory_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.peak_memory_in_bytes - memory.argument_size_in_bytes,
        "moved_bytes": reading.num_bytes,
        "cycles": reading.cycles,
        "sent_bytes": sum(one.sent for one in reading.collectives),
        "collectives": {key: list(both) for key, both in sorted(totals.items())},
    }


def _times(found: dict, slice_, flops: float, rows: int, num_steps: int, price: float) -> dict:
    """Seconds of a step, by the compiler's estimate and by roofline; of all steps, days and cost.

    `flops` are an image's. Nothing is taken to overlap in the estimate; in the roofline all is.
    """
    chip, devices = slice_.chip, slice_.num_devices
    flops_per_device = flops * rows / devices
    sending = found["sent_bytes"] / chip.link_speed
    bounds = {
        "arithmetic": flops_per_device / chip.flops,
        "memory": found["moved_bytes"] / chip.hbm_speed,
        "links": sending,
    }
    bound = max(bounds, key=bounds.get)
    estimate = found["cycles"] / chip.clock + sending
    estimate = max(estimate, bounds[bound]) if found["cycles"] == 0 else estimate
    hours = num_steps * estimate / 3600
    return {
        "flops_per_image": flops,
        "bytes_per_image": found["moved_bytes"] * devices / rows,
        "step_seconds": estimate,
        "link_seconds": sending,
        "roofline_seconds": bounds[bound],
        "bound_by": bound,
        "utilisation": flops_per_device / (estimate * chip.flops),
        "images_per_second": rows / estimate,
        "steps": num_steps,
        "days": hours / 24,
        "core_hours": hours * slice_.num_chips * chip.cores,
        "chip_hours": hours * slice_.num_chips,
        "cost": hours * slice_.num_chips * price,
    }


def _largest(config, slice_: topology.Topology, devices: list, first: dict) -> dict:
    """The largest batch a device that fits, as a multiple of the smallest that can be shared."""
    plan, limit = config.plan, slice_.chip.usable
    unit = _smallest_batch(config, len(devices), plan.num_labelled)
    tried = {}
    if first["per_step"][0] % unit == 0:
        tried[first["per_step"][0] // unit] = first

    def need(multiple: int) -> float | None:
        if multiple not in tried:
            larger = copy.deepcopy(config)
            larger.train.batch_size = unit * multiple
            tried[multiple] = _plan_training(larger, slice_, devices)
        one = tried[multiple]
        peak, images = one["peak_bytes"], one["images_per_device"]
        fits = one["fits"] and peak <= limit
        say(f"{images:g} images a device: {size_text(peak)} {'fits' if fits else 'is too much'}")
        return peak if fits or (peak or 0) > limit else None

    start = max(1, first["per_step"][0] // unit)
    # No step has more labelled images than there are.
    bounds = ascent.largest(need, limit, start, max(start, plan.num_labelled // unit))
    per_device = sum(numbers_lib.images_per_step(config)) / first["per_step"][0] / len(devices)
    largest = tried.get(bounds.fits)
    return {
        "unit": unit,
        "images_per_device": largest["images_per_device"] if largest else 0,
        "exact": bounds.exact,
        "too_many": unit * bounds.too_much * per_device,
        "train": largest,
        "tried": {
            f"{tried[multiple]['images_per_device']:g}": tried[multiple]["peak_bytes"]
            for multiple in sorted(tried)
        },
        "compile_seconds": sum(one["compile_seconds"] for one in tried.values()),
    }


def _smallest_batch(config, num_devices: int, num_labelled: int) -> int:
    """The fewest labelled images a step that devices and BatchNorm groups can share."""
    config = copy.deepcopy(config)
    for batch_size in range(1, 64 * num_devices + 1):
        config.train.batch_size = batch_size
        train = config.train
        if not (batch_size * train.sample_prob * train.unlabelled_ratio).is_integer():
            continue  # rounded up, so that its multiples need not be multiples
        try:
            numbers_lib.derive(config, num_labelled, num_devices)
        except InputError:
            continue
        return batch_size
    raise InputError(f"no batch up to {64 * num_devices:,} can be shared by {num_devices} devices")
