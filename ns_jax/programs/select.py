"""Threshold, best of each class, balance by copies: label shards -> selection. docs/selection.md.

Or, of labels of an earlier selection's images alone: the same rows with their new labels.
"""

import functools
import hashlib
import itertools
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from ml_collections import config_dict

from ns_jax import files
from ns_jax import workdir as workdir_lib
from ns_jax.config import ranges
from ns_jax.data import open as open_lib
from ns_jax.data.source import Source
from ns_jax.digest import Digest
from ns_jax.errors import DamagedError, InputError, MissingFileError
from ns_jax.labelling import shards as shards_lib
from ns_jax.parallel import processes
from ns_jax.progress import say
from ns_jax.selection import balance as balance_lib
from ns_jax.selection import corrections as corrections_lib
from ns_jax.selection import leaks, ranking
from ns_jax.selection import report as report_lib
from ns_jax.selection import rules as rules_lib
from ns_jax.selection import table as table_lib

MOST_THREADS = 16  # a thread for each core, but one process writes
# Of `select.*`, what the result is made of. `labels`, `exclude`, `corrections` count by content.
RULES = (
    *("threshold", "max_confidence", "per_class", "balance", "max_copies"),
    *("order", "fraction", "seed"),
)


def run(config: config_dict.ConfigDict, workdir: pathlib.Path) -> dict:
    """Writes `selection/` in `workdir`: `selection.arrow`, `report.json`, `report.txt`,
    `manifest.json`.

    Raises InputError if nothing is kept, for settings out of range, and for shards that are damaged
    or of other labels; OSError if the disk has no room. Of many processes the first one does it.
    """
    check(config)
    processes.call_on_first(_select, config, workdir)
    return workdir_lib.read_manifest(workdir / "selection")["outputs"]


def check(config: config_dict.ConfigDict) -> None:
    """Raises InputError for a setting out of range and corrections that cannot be read,
    FileNotFoundError for no file to exclude.
    """
    ranges.check(config)
    select = config.select
    highest = select.max_confidence
    if highest is not None and not highest > select.threshold:
        raise InputError(
            f"select.max_confidence is {highest}; it must be above select.threshold, which is "
            f"{select.threshold}"
        )
    if select.exclude and not files.as_path(select.exclude).is_file():
        raise MissingFileError(f"select.exclude={select.exclude}: there is no such file")
    if select.corrections:
        corrections_lib.read(files.as_path(select.corrections))


def _select(config: config_dict.ConfigDict, workdir: pathlib.Path) -> None:
    settings = config.select
    made = workdir_lib.read_manifest(settings.labels)
    directory = workdir / "selection"
    earlier = _earlier(config.label.subset, made["inputs"].get("subset"), settings.labels)
    inputs = {"labels": made["inputs"]}
    guard = (
        open_lib.open_from_config(config, "guard") if config.data.guard and not earlier else None
    )
    if not earlier:
        inputs.update({name: settings[name] for name in RULES}, exclude=_digest(settings.exclude))
    if settings.corrections:
        inputs["corrections"] = _digest(settings.corrections)
    if guard:
        names = ("guard_distance", "drop_leaks")
        inputs.update({name: settings[name] for name in names}, guard=guard.fingerprint)
    source = _source(config, made["inputs"])
    if workdir_lib.is_done(directory, inputs) and _is_sound(directory):
        say(f"{directory}: selected already")
        return
    class_names = made["inputs"]["class_names"]
    counts = report_lib.Tally(class_names, source.known_labels(class_names) if source else None)
    if earlier:
        digest, found = _relabel(config, directory, made, counts, earlier["outputs"]["kept"])
    else:
        digest, found = _choose(config, directory, made, counts, guard)
    workdir_lib.write_json(directory / "report.json", found)
    (directory / "report.txt").write_text(report_lib.table(found))
    totals = {name: found[name] for name in found if name != "classes"}
    workdir_lib.write_manifest(directory, inputs, {"digest": digest, **totals})
    say(
        f"selected {found['kept']:,} of {found['candidates']:,} candidates and "
        f"{found['copies']:,} copies: {directory}"
    )
    for line in report_lib.summary(found):
        say(line)


def _is_sound(directory: pathlib.Path) -> bool:
    """Whether the rows of a finished selection are as they were written; if not, it is said."""
    try:
        table_lib.check(directory, workdir_lib.read_manifest(directory)["outputs"]["digest"])
    except DamagedError as error:
        say(f"selected again: {error}")
        return False
    return True


def _choose(
    config: config_dict.ConfigDict,
    directory: pathlib.Path,
    made: dict,
    counts: report_lib.Tally,
    guard: Source | None,
) -> tuple:
    """Writes the selection that `select.*` asks for; returns its digest and its report."""
    settings, num_images = config.select, made["outputs"]["num_images"]
    if num_images > ranking.MAX_IMAGES:
        raise InputError(
            f"{settings.labels} are labels of {num_images:,} images; {ranking.MAX_IMAGES:,} are "
            "the most that can be ranked"
        )
    excluded = None
    if settings.exclude:
        excluded = rules_lib.read_excluded(files.as_path(settings.exclude), num_images)
    shards, rows = _shards(settings, made)
    leaked: Any = _leaked(config, directory, made, shards, guard) if guard else None
    if guard and settings.drop_leaks:
        excluded = rules_lib.nothing_excluded(num_images) if excluded is None else excluded
        rules_lib.exclude(excluded, leaked)
    rules = rules_lib.Rules(
        num_images=num_images,
        threshold=settings.threshold,
        max_confidence=settings.max_confidence,
        order=settings.order,
        fraction=settings.fraction,
        seed=settings.seed,
        excluded=excluded,
        corrections=_corrections(settings, made, shards),
    )
    plan = balance_lib.plan_selection(
        shards,
        rules,
        balance_lib.Balance(
            settings.per_class, 1 if settings.balance == "none" else settings.max_copies
        ),
        len(made["inputs"]["class_names"]),
        _bytes(settings),
    )
    if not plan.rows:
        raise _nothing(settings, num_images, shards)
    parts = shards.map(plan.rows_of, shards.runs(rows))
    digest = _write(directory, made["inputs"], plan.rows, parts, counts)
    report = counts.report(plan.candidates)
    return digest, {**report, "leaks": len(leaked)} if guard else report


def _leaked(
    config: config_dict.ConfigDict,
    directory: pathlib.Path,
    made: dict,
    shards: shards_lib.Shards,
    guard: Source,
) -> np.ndarray:
    """Indices of the pool's images that resemble one of the guard's; lists them in `leaks.csv`."""
    settings = config.select
    if not made["inputs"].get("hashed"):
        raise InputError(
            f"data.guard={config.data.guard}, but {settings.labels} were made without it and hold "
            "no hashes; label again with the same data.guard, or leave it empty"
        )
    hashes = leaks.hash_source(guard, open_lib.loader_settings(config).num_threads)

    def chunks(opened: Iterator[shards_lib.Shard]) -> list:
        return [
            (np.arange(s.rows.start, s.rows.stop), s.keys, s.read("phash")["phash"]) for s in opened
        ]

    parts = shards.map(chunks, shards.runs(balance_lib.COPIED_ROWS))
    directory.mkdir(parents=True, exist_ok=True)
    found = leaks.write(
        directory / "leaks.csv",
        itertools.chain.from_iterable(parts),
        hashes,
        settings.guard_distance,
    )
    say(
        f"{len(found):,} of {made['outputs']['num_images']:,} images are within "
        f"{settings.guard_distance} bits of one of {guard.name} ({directory / 'leaks.csv'}) and "
        f"{'left out' if settings.drop_leaks else 'stay: select.drop_leaks=True leaves them out'}"
    )
    return found


def _relabel(
    config: config_dict.ConfigDict,
    directory: pathlib.Path,
    made: dict,
    counts: report_lib.Tally,
    num_images: int,
) -> tuple:
    """Writes the rows of the selection `label.subset` with their new labels; returns as `_choose`.

    Images that cannot be read now, or that were found wrong, are left out.
    """
    earlier = table_lib.Selection(config.label.subset, in_order=True)
    shards, rows = _shards(config.select, made)
    sizes = (len(shards.rows_of(run)) for run in shards.runs(rows))
    relabelled = functools.partial(_relabelled, _corrections(config.select, made, shards))
    parts = shards.map(relabelled, shards.runs(rows), _in_parts(earlier.images(), sizes))
    digest = _write(directory, made["inputs"], len(earlier), parts, counts)
    kept = counts.images_per_class()
    left_out = num_images - int(kept.sum())
    if left_out:
        say(
            f"{left_out:,} images of {config.label.subset} have no label now, or were found wrong, "
            "and are left out"
        )
    return digest, {**counts.report(kept), "left_out": left_out}


def _corrections(
    settings: config_dict.ConfigDict, made: dict, shards: shards_lib.Shards
) -> corrections_lib.Corrections | None:
    """Those of `select.corrections`, if it names any. Raises InputError for others than of these
    labels.
    """
    if not settings.corrections:
        return None
    path = files.as_path(settings.corrections)
    rows = corrections_lib.read(path)
    found = corrections_lib.Corrections(path, rows, made["inputs"]["class_names"])
    found.check(shards, made["outputs"]["num_images"], whole=made["inputs"].get("subset") is None)
    say(f"{len(found):,} corrections of {path}")
    return found


def _relabelled(
    corrections: corrections_lib.Corrections | None,
    shards: Iterator[shards_lib.Shard],
    images: tuple[np.ndarray, np.ndarray],
) -> list[tuple[dict[str, np.ndarray], np.ndarray]]:
    """Like `SelectionPlan.rows_of`, for shards that hold just these images.

    `images`: (index, copies), int64 `[n]`. Raises DamagedError.
    """
    parts, start = [], 0
    for shard in shards:
        index, copies = (array[start : start + len(shard.rows)] for array in images)
        start += len(shard.rows)
        label, confidence = shard.predictions()
        columns = shard.columns(label, confidence, index)
        ok = label >= 0
        if corrections is not None:
            ok &= ~corrections.effect(label, index).dropped
            columns = corrections.rewrite(columns)
        parts.append(({name: array[ok] for name, array in columns.items()}, copies[ok]))
    return parts


def _in_parts(blocks: Iterator, sizes: Iterable[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of arrays, joined and cut anew into parts of the given sizes."""
    held = [np.zeros(0, np.int64)] * 2
    for size in sizes:
        while len(held[0]) < size:
            held = [np.concatenate(both) for both in zip(held, next(blocks), strict=True)]
        yield held[0][:size], held[1][:size]
        held = [array[size:] for array in held]


def _write(
    directory: pathlib.Path, made_of: dict, rows: int, parts: Iterable, counts: report_lib.Tally
) -> str:
    """Writes the parts, `rows` rows at most; returns a digest of them."""
    directory.mkdir(parents=True, exist_ok=True)
    metadata = {name: made_of[name] for name in ("source", "teacher", "class_names")}
    images = 0
    with table_lib.Writer(directory, made_of["k"], metadata, counts.add_batch) as writer:
        writer.check_room(rows)
        for part in parts:
            for columns, copies in part:
                writer.write(columns, copies)
                images += len(copies)
        if not images:
            raise InputError("none of the images has a label now: no row to write")
    return writer.digest()


def _shards(settings: config_dict.ConfigDict, made: dict) -> tuple[shards_lib.Shards, int]:
    """The label shards, and how many rows of them to take at once with all of their columns."""
    made_of, each = made["inputs"], balance_lib.copied_bytes(made["inputs"]["k"])
    size = min(made_of["images_per_shard"], made["outputs"]["num_images"])
    fit, needed = _bytes(settings) // 2 // (each * size), shards_lib.WAITING + 1
    if fit < needed:
        raise InputError(
            f"select.memory_gb={settings.memory_gb}: {needed} shards of {size:,} images with "
            f"{made_of['k']} classes each do not fit; set it to {2e-9 * needed * each * size:.2g} "
            "or more, or label with a smaller label.images_per_shard"
        )
    threads = min(MOST_THREADS, fit - shards_lib.WAITING)
    shards = shards_lib.Shards.of_manifest(settings.labels, made, threads)
    return shards, min(balance_lib.COPIED_ROWS, _bytes(settings) // 2 // shards.in_flight // each)


def _bytes(settings: config_dict.ConfigDict) -> int:
    return int(settings.memory_gb * 1e9)


def _earlier(subset: str, digest: str | None, labels: str) -> dict | None:
    """The manifest of the selection whose images were labelled, if it was not all images.

    Raises InputError if `label.subset` is not that selection.
    """
    if not subset and not digest:
        return None
    if not digest:
        raise InputError(
            f"label.subset={subset}, but {labels} are labels of a whole source; leave label.subset "
            "empty, or label that selection's images first"
        )
    if not subset:
        raise InputError(
            f"{labels} are labels of the images of a selection; name its directory as label.subset"
        )
    earlier = workdir_lib.read_manifest(subset)
    if earlier["outputs"]["digest"] != digest:
        raise InputError(
            f"label.subset={subset} is the selection {earlier['outputs']['digest']}, but {labels} "
            f"are labels of the images of {digest}; name that one"
        )
    return earlier


def _source(config: config_dict.ConfigDict, made_of: dict) -> Source | None:
    """What was labelled, if `data.unlabelled` names it. Raises InputError if it is another one."""
    if not config.data.unlabelled:
        return None
    source = open_lib.open_from_config(config, "unlabelled")
    source.check_fingerprint(made_of["source"], f"select.labels={config.select.labels}")
    return source


def _nothing(
    settings: config_dict.ConfigDict, num_images: int, shards: shards_lib.Shards
) -> InputError:
    """The error of a selection without a row; it says the highest confidence that there is."""

    def highest(opened: Iterator[shards_lib.Shard]) -> float:
        found = [shard.predictions() for shard in opened]
        return max(float(confidence[label >= 0].max(initial=-1)) for label, confidence in found)

    most = max(shards.map(highest, shards.runs(balance_lib.COPIED_ROWS)))
    off = {"max_confidence": None, "fraction": 1.0, "exclude": "", "corrections": ""}
    others = [f"select.{n}={settings[n]}" for n, value in off.items() if settings[n] != value]
    return InputError(
        f"{' with '.join([f'select.threshold={settings.threshold}', *others])} keeps none of "
        f"{num_images:,} images; the highest confidence is "
        f"{None if most < 0 else round(most, 4)}"
    )


def _digest(path: str) -> str | None:
    """16 hexadecimal digits that name a file's content; None without a file."""
    if not path:
        return None
    with files.as_path(path).open("rb") as file:
        return str(hashlib.file_digest(file, Digest))  # type: ignore[arg-type]  # it has `update`
