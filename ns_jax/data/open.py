"""Sources by name: `folder:DIR`, `tfds:NAME:SPLIT`, ..., several of them joined with `+`."""

import dataclasses
import os
import re

from ml_collections import config_dict

from ns_jax.data import decoding, few, source
from ns_jax.data.formats import array_record, digits, folder, idx, parquet, paths, tfds, webdataset
from ns_jax.data.shard_cache import ShardCache
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
    "idx": "idx:DIR:train|test",
    "images": "images:GLOB",
    "few": "few:SOURCE",
    "rest": "rest:SOURCE",
}
_JOIN = re.compile(rf"\+(?=(?:{'|'.join(KNOWN)}):)")  # a + in a path is none


def open_source(
    name: str,
    *,
    labels_per_class: int,
    seed: int,
    labels_share: float | None = None,
    rest_limit: int | None = None,
    max_pixels: int = decoding.MAX_PIXELS,
    label_column: str = "label",
) -> source.Source:
    """The source of that name.

    `labels_per_class` or `labels_share`, `rest_limit` and `seed` choose the labelled few and the
    rest of `few:` and `rest:`, and in part of the digits (few.Draw); larger images than
    `max_pixels` count as bad ones; `label_column` is the column or feature that holds the labels.
    Raises InputError for an unknown name, and for data that is not there or not as expected.
    """
    draw = few.Draw(labels_per_class, seed, labels_share, rest_limit)
    with paths_of_the_user():
        parts = [_open(part, draw, label_column) for part in _JOIN.split(name)]
    opened = parts[0] if len(parts) == 1 else source.join(parts)
    return dataclasses.replace(opened, max_pixels=max_pixels)


def _open(name: str, draw: few.Draw, label_column: str) -> source.Source:
    kind, _, rest = name.partition(":")
    rest = os.path.expanduser(rest)
    if kind in few.KINDS and rest:
        return few.part(kind, _open(rest, draw, label_column), draw)
    if kind == "digits":
        return digits.open_source(rest, draw.per_class, draw.seed)
    formats = {"wds": webdataset, "idx": idx, "images": paths}
    with_column = {
        "folder": folder,
        "tfds": tfds,
        "array_record": array_record,
        "parquet": parquet,
    }
    if kind in formats and rest:
        return formats[kind].open_source(rest)
    if kind in with_column and rest:
        return with_column[kind].open_source(rest, label_column)
    raise InputError(f"unknown source {name!r}; known: {', '.join(KNOWN.values())}")


def open_from_config(config: config_dict.ConfigDict, which: str) -> Source:
    """The source that `data.labelled`, `data.unlabelled` or `data.test` names."""
    if not config.data[which]:
        raise InputError(
            f"data.{which} is empty; set --config.data.{which}=folder:DIR or another source: "
            + ", ".join(KNOWN.values())
        )
    return open_named(config, config.data[which])


def open_named(config: config_dict.ConfigDict, name: str) -> Source:
    """The source of that name, with a config's settings for all sources.

    Raises InputError as `open_source`, and where copies of a bucket's shards cannot be kept.
    """
    data, kept = config.data, cache(config)
    if data.cache:
        kept.check()
    source = open_source(
        name,
        labels_per_class=data.labels_per_class,
        labels_share=data.labels_share,
        rest_limit=data.rest_limit,
        seed=data.split_seed,
        max_pixels=data.max_pixels,
        label_column=data.label_column,
    )
    if source.shards:
        kept.check()
        kept.check_room(source.shards.largest(1), f"a shard of {source.name}")
    return source


def loader_settings(config: config_dict.ConfigDict) -> LoaderSettings:
    data = config.data
    return LoaderSettings(
        data.workers, data.read_threads, data.prefetch, cache(config), data.shuffle_shards
    )


def cache(config: config_dict.ConfigDict) -> ShardCache:
    """Where a config has shards of buckets kept."""
    return ShardCache(config.data.cache, int(config.data.cache_gb * (1 << 30)))
