"""From a config to the parts that programs put together."""

import dataclasses

import jax
import numpy as np

from ns_jax import processes
from ns_jax.data import bad_images, images, randaugment, sources, views
from ns_jax.data.reading import Reading
from ns_jax.data.source import Source
from ns_jax.models import efficientnet

MODEL_KEYS = ("name", "num_classes", "small_images")  # what weights fit; all else is of a training


def open_source(config, which: str) -> Source:
    """The source that `data.labelled`, `data.unlabelled` or `data.test` names."""
    data = config.data
    if not data[which]:
        raise ValueError(
            f"data.{which} is empty; set --config.data.{which}=folder:DIR or another source: "
            + ", ".join(sources.KNOWN.values())
        )
    return sources.open_source(
        data[which],
        labels_per_class=data.labels_per_class,
        seed=data.split_seed,
        max_pixels=data.max_pixels,
    )


def reading(config) -> Reading:
    data = config.data
    return Reading(data.workers, data.read_threads, data.prefetch)


def build_model(config, num_classes: int) -> efficientnet.EfficientNet:
    return efficientnet.build(num_classes=num_classes, **config.model.to_dict())


def describe(model, preprocessing: images.Preprocessing, class_names) -> dict:
    """The content of `model.json`."""
    return {
        "model": {key: getattr(model, key) for key in MODEL_KEYS},
        "class_names": list(class_names),
        "preprocessing": vars(preprocessing),
    }


def described_model(description: dict) -> efficientnet.EfficientNet:
    return efficientnet.build(**description["model"])


def described_preprocessing(description: dict) -> images.Preprocessing:
    fields = description["preprocessing"]
    return images.Preprocessing(
        **{**fields, "mean": tuple(fields["mean"]), "std": tuple(fields["std"])}
    )


def preprocessing(config, model) -> images.Preprocessing:
    data = config.data
    return images.Preprocessing(
        size=data.image_size or model.resolution,
        crop=data.crop,
        mean=tuple(data.mean),
        std=tuple(data.std),
        interpolation=data.interpolation,
    )


def train_view(
    config, evaluation: images.Preprocessing, teacher: images.Preprocessing | None = None
) -> views.TrainView:
    """Of labelled images; `teacher` adds the view of a teacher in the step."""
    settings = config.randaugment.to_dict()
    final_cutout = settings.pop("final_cutout")
    return views.TrainView(
        evaluation=evaluation,
        kind=config.data.train_view,
        flip=config.data.flip,
        crop_sampler=config.data.crop_sampler,
        randaugment=randaugment.RandAugment(**settings),
        final_cutout=final_cutout,
        teacher=teacher,
    )


def unlabelled_view(config, view: views.TrainView) -> views.TrainView:
    """Of unlabelled images, where labelled ones are seen as `view` has it."""
    changes = {
        "all": {},
        "model": {"randaugment": randaugment.RandAugment(0), "final_cutout": 0},
        "none": {"kind": "evaluation"},
    }
    return dataclasses.replace(view, **changes[config.train.unlabelled_noise])


def check_classes(names: tuple[str, ...], expected: list[str], source: str, teacher: str) -> None:
    """Raises ValueError if a source's classes are not those of a checkpoint."""
    if list(names) == list(expected):
        return
    missing = [name for name in expected if name not in names]
    surplus = [name for name in names if name not in expected]
    raise ValueError(
        f"{source} has {len(names)} classes, {teacher} has {len(expected)}; missing: "
        f"{', '.join(missing[:10]) or 'none'}; surplus: {', '.join(surplus[:10]) or 'none'}. "
        "Classes are matched by name and order"
    )


def training_devices(config) -> list:
    """The devices that train: `mesh.devices` of them, or all.

    A CPU's devices are its cores, one for each part of a labelling batch. Training takes one of
    them by default: its operations use every core, and any batch size divides by one. Many
    processes train on all of theirs.
    """
    devices, wanted = jax.devices(), config.mesh.devices
    if jax.process_count() > 1 and wanted not in (None, len(devices)):
        raise ValueError(
            f"mesh.devices is {wanted}, but {jax.process_count()} processes train on all of their "
            f"{len(devices)} devices"
        )
    if wanted is None:
        alone = devices[0].platform == "cpu" and jax.process_count() == 1
        return devices[:1] if alone else devices
    if not 1 <= wanted <= len(devices):
        raise ValueError(f"mesh.devices is {wanted}; there are {len(devices)}")
    return devices[:wanted]


def gather_bad(bad: bad_images.BadImages) -> list[int]:
    """The indices that any process has met, which all know then. Called by all processes."""
    bad.add(np.concatenate(processes.gather(np.asarray(bad.indices(), np.int64))))
    return bad.indices()
