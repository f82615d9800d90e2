"""The range of every number and the choices of every word in `configs/base.py`, in one table.

What depends on two keys, or on the data, is checked where both are known.
"""

import dataclasses
import math
from typing import Any

from ml_collections import config_dict

from ns_jax import config as config_lib
from ns_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Range:
    """The finite numbers from `low` to `high`; these themselves too, unless they are left out."""

    low: float
    high: float = math.inf
    without_low: bool = False
    without_high: bool = False
    optional: bool = False  # None is allowed
    count: int | None = 1  # so many such numbers; None: any number of them but none

    def holds(self, value: Any) -> bool:
        if value is None:
            return self.optional
        if self.count != 1:
            one = dataclasses.replace(self, count=1)
            return (
                isinstance(value, tuple | list)
                and len(value) == (self.count or max(1, len(value)))
                and all(map(one.holds, value))
            )
        if not isinstance(value, int | float) or not math.isfinite(value):
            return False
        above = value > self.low if self.without_low else value >= self.low
        return above and (value < self.high if self.without_high else value <= self.high)

    def __str__(self) -> str:
        low, high = f"{self.low:g}", f"{self.high:g}"
        if self.high == math.inf:
            text = f"above {low}" if self.without_low else f"{low} or more"
        elif self.without_low:
            text = f"above {low} and {'below' if self.without_high else 'at most'} {high}"
        else:
            text = f"{low} or more, and below {high}" if self.without_high else f"{low} to {high}"
        if self.count != 1:
            text = f"{self.count or 'one or more'} numbers, each {text}"
        return f"{text}, or None" if self.optional else text


NATURAL, COUNT, POSITIVE = Range(0), Range(1), Range(0, without_low=True)
SHARE, RATE = Range(0, 1), Range(0, 1, without_high=True)
POSITIVE_SHARE = Range(0, 1, without_low=True)
COUNT_OR_NONE = Range(1, optional=True)
SEED = Range(0, 2**63 - 1)
STAGES = Range(0, 7)
INTERPOLATIONS = ("bicubic", "bicubic_antialias", "bicubic_tf", "bilinear")

RANGES = {
    "seed": SEED,
    "model.drop_rate": dataclasses.replace(RATE, optional=True),
    "model.path_drop_rate": SHARE,
    "model.bn_momentum": RATE,
    "model.bn_epsilon": Range(0, 1, without_low=True, without_high=True, optional=True),
    "model.stat_groups": COUNT_OR_NONE,
    "model.scan_unroll": NATURAL,
    "mesh.devices": COUNT_OR_NONE,
    "mesh.fsdp": COUNT,
    "mesh.shard_above": NATURAL,
    "data.labels_per_class": COUNT,
    "data.labels_share": Range(0, 1, without_low=True, without_high=True, optional=True),
    "data.split_seed": SEED,
    "data.rest_limit": COUNT_OR_NONE,
    "data.image_size": COUNT_OR_NONE,
    "data.mean": Range(0, 1, count=3),
    "data.std": Range(0, without_low=True, count=3),
    "data.max_pixels": COUNT,
    "data.cache_gb": POSITIVE,
    "data.shuffle_shards": COUNT,
    "data.max_bad_fraction": SHARE,
    "data.workers": Range(0, optional=True),
    "data.read_threads": COUNT_OR_NONE,
    "data.prefetch": COUNT,
    "randaugment.num_layers": NATURAL,
    "randaugment.magnitude": NATURAL,
    "randaugment.translate_pixels": NATURAL,
    "randaugment.cutout_pixels": NATURAL,
    "randaugment.final_cutout": NATURAL,
    "train.batch_size": COUNT,
    "train.unlabelled_ratio": NATURAL,
    "train.sample_prob": POSITIVE_SHARE,
    "train.accumulate": COUNT,
    "train.epochs": POSITIVE,
    "train.frozen_stages": dataclasses.replace(STAGES, optional=True),
    "train.log_every_steps": COUNT,
    "train.evaluate_every_epochs": Range(0, optional=True),
    "train.profile_steps": NATURAL,
    "train.save_every_steps": COUNT,
    "train.save_every_minutes": NATURAL,
    "train.keep_checkpoints": COUNT,
    "train.keep_every_steps": COUNT_OR_NONE,
    "train.nonfinite_limit": NATURAL,
    "optim.learning_rate_per_256": NATURAL,
    "optim.warmup_epochs": NATURAL,
    "optim.start_epoch": NATURAL,
    "optim.decay_epochs": POSITIVE,
    "optim.decay_rate": POSITIVE_SHARE,
    "optim.rms_decay": RATE,
    "optim.momentum": RATE,
    "optim.epsilon": POSITIVE,
    "optim.weight_decay": NATURAL,
    "optim.ema_decay": SHARE,
    "loss.label_smoothing": RATE,
    "loss.temperature": POSITIVE,
    "finetune.epochs": NATURAL,
    "finetune.image_size": COUNT_OR_NONE,
    "finetune.batch_size": COUNT_OR_NONE,
    "finetune.frozen_stages": STAGES,
    "label.temperature": POSITIVE,
    "label.weights": Range(0, without_low=True, count=None, optional=True),
    "label.batch_size": COUNT,
    "label.images_per_shard": COUNT,
    "label.lease_seconds": POSITIVE,
    "label.classes_kept": COUNT_OR_NONE,
    "foreign.image_size": COUNT_OR_NONE,
    "foreign.mean": Range(-math.inf, count=3, optional=True),
    "foreign.std": Range(0, without_low=True, count=3, optional=True),
    "select.threshold": SHARE,
    "select.max_confidence": dataclasses.replace(POSITIVE, optional=True),
    "select.per_class": NATURAL,
    "select.max_copies": COUNT_OR_NONE,
    "select.fraction": POSITIVE_SHARE,
    "select.seed": SEED,
    "select.guard_distance": Range(0, 16),
    "select.memory_gb": POSITIVE,
    "evaluate.batch_size": COUNT,
    "predict.top": COUNT,
    "predict.images_per_part": COUNT,
    "robustness.size": COUNT_OR_NONE,
    "robustness.max_images": COUNT_OR_NONE,
    "robustness.fgsm_epsilons": Range(0, 255, count=None),
    "robustness.pgd_epsilons": Range(0, 255, count=None),
    "robustness.pgd_steps": COUNT,
    "robustness.pgd_step_size": Range(0, optional=True),
    "robustness.pgd_restarts": NATURAL,
    "robustness.seed": SEED,
    "robustness.batch_size": COUNT,
    "preemption.grace_seconds": NATURAL,
    "doctor.sample": COUNT,
    "doctor.seconds": NATURAL,
    "doctor.wait_seconds": POSITIVE,
    "plan.num_classes": COUNT,
    "plan.num_labelled": COUNT,
    "plan.num_unlabelled": NATURAL,
    "plan.price": NATURAL,
    "convert.calibration_images": COUNT,
    "selftrain.iterations": NATURAL,
}

CHOICES = {
    "model.padding": (None, "same", "symmetric"),
    "model.dtype": ("float32", "bfloat16"),
    "data.interpolation": INTERPOLATIONS,
    "foreign.interpolation": (None, *INTERPOLATIONS),
    "data.train_view": ("crop", "pad", "evaluation"),
    "data.crop_sampler": ("official", "area"),
    "randaugment.overflow": ("official", "saturate"),
    "train.unlabelled_noise": ("all", "model", "none"),
    "train.nonfinite": ("skip", "back"),
    "loss.normalise": ("labelled", "all"),
    "loss.pseudo_labels": ("soft", "hard"),
    "label.scores": ("", "probabilities", "logits"),
    "label.engine": ("xla", "onnxruntime", "openvino", "auto"),
    "label.engine_precision": ("float32", "bfloat16"),
    "select.balance": ("copies", "none"),
    "select.order": ("confidence", "random"),
    "evaluate.classes": ("all", "present"),
    "robustness.attack_label": ("true", "predicted"),
    "convert.onnx_input": ("uint8_nhwc", "float_nchw"),
    "convert.quantise": ("", "int8"),
    "selftrain.student_init": ("scratch", "teacher", "init"),
}


def check(config: config_dict.ConfigDict) -> None:
    """Raises InputError for a value out of its range, of the config or of an iteration of it."""
    _check(config, "")
    for name in config.selftrain.overrides:
        number = config_lib.number_of(name)
        _check(config_lib.at_iteration(config, number), f"selftrain.overrides.{name}: ")


def _check(config: config_dict.ConfigDict, where: str) -> None:
    for path, value in config_lib.leaves(config.to_dict()):
        if path in RANGES:
            check_number(path, value, where)
        if path in CHOICES and value not in CHOICES[path]:
            known = ", ".join('""' if word == "" else str(word) for word in CHOICES[path])
            raise InputError(f"{where}{path}={value!r}; known: {known}")


def check_number(path: str, value: Any, where: str = "") -> None:
    """Raises InputError for a value out of the range of the key `path`; `where`: who says it."""
    if not RANGES[path].holds(value):
        raise InputError(f"{where}{path} is {value}; it must be {RANGES[path]}")
