"""What a training and its labelling would take on a TPU slice, compiled for it without one."""

import copy
import math
import pathlib
import re
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import config_dict

from ns_jax import config as config_lib
from ns_jax import trees
from ns_jax import workdir as workdir_lib
from ns_jax.checkpoints import checkpoint
from ns_jax.inference import step as inference_step
from ns_jax.inference import teachers
from ns_jax.model_card import ModelCard
from ns_jax.parallel import mesh as mesh_lib
from ns_jax.planning import hlo, macs, topology
from ns_jax.planning.report import show
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


def run(config: config_dict.ConfigDict, workdir: pathlib.Path) -> dict:
    """Prints the plan, and writes and returns it as `plan.json`.

    Of one training and labelling: `train` and `label`. Of a whole self-training: a list of these,
    `stages`, and their `total`, None if not all of it fits. A step that does not fit is a finding,
    not an error. Raises InputError for a slice that does not exist and for numbers that do not go
    together, ImportError without the TPU compiler.
    """
    slice_ = topology.parse(config.plan.topology)
    devices, made = slice_.devices(), {}

    def once(plan: Callable, config: config_dict.ConfigDict, *sections: str, **more: Any) -> dict:
        """Equal settings are compiled once."""
        settings = (config[name].to_json_best_effort() for name in (*sections, "plan"))
        key = plan, repr(more), *settings
        if key not in made:
            made[key] = plan(config, slice_, devices, **more)
        return made[key]

    def stage(teacher: config_dict.ConfigDict | None, training: config_dict.ConfigDict) -> dict:
        in_step = _teacher_in_step(teacher, training)
        plans = {"train": once(_plan_training, training, *SETTINGS, teacher=in_step)}
        if teacher and not in_step and config.plan.labelling:
            plans["label"] = once(_plan_labelling, teacher, "model", "data", "label")
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


def _stages(config: config_dict.ConfigDict) -> list[tuple]:
    """The stages of a self-training: name, config of the teacher that labels first, and its own."""
    stages, teacher = [], None
    for k in range(config.selftrain.iterations + 1):
        now = _planned(config_lib.at_iteration(config, k))
        if k == 0 and config.selftrain.teacher:
            if not teachers.has_weights(config.selftrain.teacher):
                continue  # no network of ours is at work
            given = checkpoint.load_card(config.selftrain.teacher)
            teacher = now
            teacher.model.name = given.architecture
            teacher.model.small_images = given.small_images
            teacher.model.padding, teacher.model.bn_epsilon = given.padding, given.bn_epsilon
            teacher.data.image_size = given.preprocessing.size
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


def _planned(config: config_dict.ConfigDict) -> config_dict.ConfigDict:
    """The config with what a training finds at its start: its labels are made by then."""
    config = copy.deepcopy(config)
    if config.train.unlabelled_ratio and not config.train.teacher:
        config.train.selection = config.train.selection or "selection"
    if config.train.frozen_stages is not None:
        config.train.init = config.train.init or "checkpoint"
    return config


def _teacher_in_step(
    teacher: config_dict.ConfigDict | None, training: config_dict.ConfigDict
) -> ModelCard | None:
    """The network that labels in the training's step, if one does; `teacher`: that trained it."""
    name = training.train.teacher
    if not name or not training.train.unlabelled_ratio:
        return None
    if teacher and name == config_lib.PREVIOUS:
        return trainer_lib.card(teacher, [str(n) for n in range(training.plan.num_classes)])
    return checkpoint.load_card(name)


def _plan_training(
    config: config_dict.ConfigDict,
    slice_: topology.Topology,
    devices: list,
    teacher: ModelCard | None,
) -> dict:
    plan = config.plan
    numbers = numbers_lib.derive(config, plan.num_labelled, len(devices))
    parts = trainer_lib.build(config, numbers, plan.num_classes, devices, teacher)
    per_step, num_steps = (numbers.labelled, numbers.unlabelled), numbers.total_steps
    stored = numbers.unlabelled and config.loss.pseudo_labels == "soft" and not parts.teacher
    rows = numbers.rows
    mesh = parts.mesh
    rng = jax.eval_shape(lambda: jax.random.key(0))
    rng = jax.ShapeDtypeStruct(rng.shape, rng.dtype, sharding=mesh_lib.replicated(mesh))
    weights = parts.teacher and state_lib.placed(parts.teacher.shapes, parts.teacher.shardings)
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
        **_compile("training", what, parts.step, (state, batch, rng, weights)),
    }
    if found["fits"]:
        found |= _times(found, slice_, flops, rows, num_steps, plan.price)
    return found


def _plan_labelling(
    config: config_dict.ConfigDict, slice_: topology.Topology, devices: list
) -> dict:
    plan = config.plan
    model = trainer_lib.build_model(config, plan.num_classes)
    preprocessing = trainer_lib.build_preprocessing(config, model)
    size, mesh = preprocessing.size, mesh_lib.make_mesh(1, devices)
    rows = mesh_lib.round_up(config.label.batch_size, mesh)
    variables = jax.eval_shape(lambda rng: model.init(rng, size), jax.random.key(0))
    temperature = jax.ShapeDtypeStruct((), np.float32)
    shapes = {"members": [variables], "temperature": temperature}
    replicated = jax.tree.map(lambda _: mesh_lib.replicated(mesh), shapes)
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
        **_compile("labelling", what, step, (state_lib.placed(shapes, replicated), [images])),
    }
    if found["fits"]:
        num_steps = math.ceil(plan.num_unlabelled / rows)
        found |= _times(found, slice_, 2 * macs.macs(model, size), rows, num_steps, plan.price)
    return found


def _compile(name: str, what: str, step: Any, arguments: tuple) -> dict:
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
    totals: dict[str, tuple[int, int]] = {}
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
        "cycles": reading.cycles,
        "sent_bytes": sum(one.sent for one in reading.collectives),
        "collectives": {key: list(both) for key, both in sorted(totals.items())},
    }


def _times(
    found: dict, slice_: topology.Topology, flops: float, rows: int, num_steps: int, price: float
) -> dict:
    """Seconds of a step by the compiler's estimate, images/s, days and cost of all steps.

    `flops` are an image's. Nothing is taken to overlap.
    """
    chip = slice_.chip
    sending = found["sent_bytes"] / chip.link_speed
    estimate = found["cycles"] / chip.clock + sending
    hours = num_steps * estimate / 3600
    return {
        "flops_per_image": flops,
        "step_seconds": estimate,
        "link_seconds": sending,
        "utilisation": flops * rows / slice_.num_devices / (estimate * chip.flops),
        "images_per_second": rows / estimate,
        "steps": num_steps,
        "days": hours / 24,
        "core_hours": hours * slice_.num_chips * chip.cores,
        "chip_hours": hours * slice_.num_chips,
        "cost": hours * slice_.num_chips * price,
    }
