"""Sources by name: `folder:DIR`, `tfds:NAME:SPLIT`, ..., several of them joined with `+`."""

import dataclasses
import os
import re

from ml_collections import config_dict

from ns_jax.data import decoding, source
from ns_jax.data.formats import array_record, digits, folder, parquet, tfds, webdataset
from ns_jax.data.source import Source
from ns_jax.data.workers import LoaderSettings
from ns_jax.errors import InputError, paths_of_the_user

KNOWN = {
    "digits": "digits:train|unlabelled|test",
    "folder": "folder:DIR",
    "tfds": "tfds:NAME[/CONFIG]:SPLIT",
    "array_record": "array_record:GLOB",
    "parquet": "parquet:GLOB",
    "wds": "wds:GLOB",
}
_JOIN = re.compile(rf"\+(?=(?:{'|'.join(KNOWN)}):)")  # a + in a path is none


def open_source(
    name: str,
    *,
    labels_per_class: int,
    seed: int,
    max_pixels: int = decoding.MAX_PIXELS,
    label_column: str = "label",
) -> source.Source:
    """The source of that name.

    `labels_per_class` and `seed` choose the labelled few of the digits; larger images than
    `max_pixels` count as bad ones; `label_column` is the column or feature that holds the labels.
    Raises InputError for an unknown name, and for data that is not there or not as expected.
    """
    with paths_of_the_user():
        parts = [_open(part, labels_per_class, seed, label_column) for part in _JOIN.split(name)]
    opened = parts[0] if len(parts) == 1 else source.join(parts)
    return dataclasses.replace(opened, max_pixels=max_pixels)


def _open(name: str, labels_per_class: int, seed: int, label_column: str) -> source.Source:
    kind, _, rest = name.partition(":")
    rest = os.path.expanduser(rest)
    if kind == "digits":
        return digits.open_source(rest, labels_per_class, seed)
    formats = {
        "folder": folder,
        "tfds": tfds,
        "array_record": array_record,
        "parquet": parquet,
    }
    if kind == "wds" and rest:
        return webdataset.open_source(rest)
    if kind not in formats or not rest:
        raise InputError(f"unknown source {name!r}; known: {', '.join(KNOWN.values())}")
    return formats[kind].open_source(rest, label_column)


def open_from_config(config: config_dict.ConfigDict, which: str) -> Source:
    """The source that `data.labelled`, `data.unlabelled` or `data.test` names."""
    if not config.data[which]:
        raise InputError(
            f"data.{which} is empty; set --config.data.{which}=folder:DIR or another source: "
            + ", ".join(KNOWN.values())
        )
    return open_named(config, config.data[which])


def open_named(config: config_dict.ConfigDict, name: str) -> Source:
    """The source of that name, with a config's settings for all sources."""
    data = config.data
    return open_source(
        name,
        labels_per_class=data.labels_per_class,
        seed=data.split_seed,
        max_pixels=data.max_pixels,
        label_column=data.label_column,
    )


def loader_settings(config: config_dict.ConfigDict) -> LoaderSettings:
    data = config.data
    return LoaderSettings(data.workers, data.read_threads, data.prefetch)
