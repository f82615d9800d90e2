"""The teacher that a config names: checkpoints, exported files, predictions made elsewhere."""

import contextlib
import functools
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence

from ml_collections import config_dict

from ns_jax import files as files_lib
from ns_jax import model_card
from ns_jax.checkpoints import checkpoint
from ns_jax.data import crops
from ns_jax.data import open as open_lib
from ns_jax.data.source import Source
from ns_jax.errors import InputError, MissingFileError
from ns_jax.foreign import exported
from ns_jax.foreign.exported import ExportedNetwork
from ns_jax.inference import engines
from ns_jax.inference.mixture import Mixture, check_weights
from ns_jax.inference.predictor import Predictor
from ns_jax.predictions import given, tables

LABELLED = ("holdout", "test", "labelled", "guard")  # sources that tables may have rows of too


def from_config(
    config: config_dict.ConfigDict, settle: Callable[[engines.Networks], engines.Engine]
) -> tuple[Predictor | Mixture, engines.Engine]:
    """The mean of all that `label.checkpoint` and `label.predictions` name, and what runs those of
    them that are checkpoints: `settle` is asked once they are read.

    Raises InputError for one of other classes, and what `settle` does.
    """
    label = config.label
    if not label.checkpoint and not label.predictions:
        raise InputError(
            "there is no teacher: name a checkpoint as label.checkpoint, or predictions made "
            "elsewhere as label.predictions"
        )
    of_files = exported_names(label.checkpoint)
    of_networks = [name for name in several(label.checkpoint) if name not in of_files]
    members, engine = None, engines.Engine()
    files: list[ExportedNetwork] = []
    if of_networks:
        loaded = networks(of_networks)
        expected, engine = loaded[0][0].class_names, settle(loaded)
        if engine.name == engines.XLA:
            members = Predictor(
                loaded,
                temperature=label.temperature,
                flip=label.flip,
                name=f"the teacher {label.checkpoint}",
            )
        else:
            files = engines.run_by(engine, loaded, of_networks)
        if members and not of_files and not label.predictions and label.weights is None:
            return members, engine
    else:
        expected = labelled_classes(config)
    for name in of_files:
        files.append(open_exported(config, name, expected, expected))
        expected = files[0].class_names
    given = predictions(config, label.predictions, expected) if label.predictions else []
    weights, temperature, flip = label.weights, label.temperature, label.flip
    return Mixture(members, files, given, weights, temperature, flip), engine


def exported_names(names: str) -> list[str]:
    """Those of the files that `label.checkpoint` names which are exported networks."""
    return [name for name in several(names) if exported.is_exported(name)]


def has_weights(name: str) -> bool:
    """Whether a teacher, or one of several, is a checkpoint: it can be trained on and be asked
    within a step.
    """
    return not tables.is_predictions(name) and not exported_names(name)


def open_exported(
    config: config_dict.ConfigDict,
    name: str,
    expected: Sequence[str] = (),
    fallback: Sequence[str] = (),
) -> ExportedNetwork:
    """The file's network, its classes those of `expected` or, without, its own.

    `fallback`: those of a file that does not name them. Raises what `exported.open_network` does.
    """
    data, label, told = config.data, config.label, config.foreign
    view = functools.partial(
        crops.Preprocessing,
        crop=data.crop,
        mean=tuple(data.mean),
        std=tuple(data.std),
        interpolation=data.interpolation,
    )
    settings = exported.Settings(
        label.class_names,
        label.class_map,
        label.scores,
        told.image_size,
        told.crop,
        told.mean and tuple(told.mean),
        told.std and tuple(told.std),
        told.interpolation,
    )
    assumed = exported.Assumed(tuple(fallback), data.image_size, view)
    return exported.open_network(files_lib.as_path(name), assumed, settings, expected)


def name_of(config: config_dict.ConfigDict) -> str:
    """What the teacher is called in errors."""
    return " and ".join(filter(None, (config.label.checkpoint, config.label.predictions)))


def labelled_classes(config: config_dict.ConfigDict) -> tuple[str, ...]:
    """The classes of `data.labelled`; none if it names no source."""
    if not config.data.labelled:
        return ()
    return open_lib.open_from_config(config, "labelled").class_names


def predictions(
    config: config_dict.ConfigDict, names: str, expected: Sequence[str]
) -> list[given.Predictions]:
    """Those of each teacher that `names` lists, all of one list of classes. Raises InputError."""
    label, found = config.label, []
    settings = given.Settings(label.class_names, label.class_map, label.scores)
    for name in several(names):
        if not tables.is_predictions(name):
            raise InputError(
                f"{name} is no file of predictions; known: {', '.join(tables.ENDINGS)}"
            )
        one = given.Predictions(os.path.expanduser(name), expected, settings)
        expected = one.class_names
        found.append(one)
    return found


def check(config: config_dict.ConfigDict, expected: Sequence[str]) -> None:
    """Raises InputError for exported files and predictions that tell that they cannot be used."""
    label = config.label
    of_files = exported_names(label.checkpoint)
    for name in of_files:
        open_exported(config, name, expected, expected)
    given = predictions(config, label.predictions, expected) if label.predictions else []
    count = len(several(label.checkpoint)) - len(of_files)
    check_weights(label.weights, count, len(of_files), len(given))


def check_surplus(
    config: config_dict.ConfigDict, found: Sequence[given.Predictions], source: Source
) -> None:
    """Raises InputError for rows of images that no source of the config has."""
    named = [which for which in ("unlabelled", *LABELLED) if config.data[which]]

    def sources() -> Iterator[Source]:
        yield source
        yield from (open_lib.open_from_config(config, which) for which in named)

    for one in found:
        one.check_surplus(sources())


def networks(named: Sequence[str]) -> list[tuple[model_card.ModelCard, dict]]:
    """Checkpoints, with the classes of the first one. Raises InputError for one of others."""
    try:
        paths = [checkpoint.find(name) for name in named]
    except MissingFileError as error:
        if len(named) == 1:
            raise
        raise MissingFileError(
            f"{error}; label.checkpoint names {len(named)} checkpoints, with commas between: paths "
            """that hold commas are written as a list, '["runs/a, b", "runs/c"]'"""
        ) from None
    networks = [checkpoint.load_model(path) for path in paths]
    expected = networks[0][0].class_names
    return [
        model_card.with_classes(network, expected, str(path), str(paths[0]))
        for path, network in zip(paths, networks, strict=True)
    ]


def several(names: str) -> list[str]:
    """A path that is there, whatever it is called; or a list in JSON; or paths with commas between.

    Commas in braces, as {00..07,09}, are a pattern's. As a list any paths can be named.
    """
    if not names:
        return []
    if os.path.exists(os.path.expanduser(names)):
        return [names]
    with contextlib.suppress(json.JSONDecodeError):
        listed = json.loads(names)
        if listed and isinstance(listed, list) and all(isinstance(name, str) for name in listed):
            return listed
    return [name.strip() for name in re.split(r",(?![^{]*\})", names)]
