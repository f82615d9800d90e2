"""Selecting from 1, 30 and 300 million labels: time and memory, against one DuckDB query.

make bench-selection        (about 20 minutes on 2 cores, 30 GB of disk; --rows for fewer)

Labels are made up: 1,000 classes of skewed size, confidences of which many are near 1 and many are
equal. Each side runs as a process of its own; memory is the most that was resident of it, mapped
pages of files and 0.4 GB of Python and JAX (ours) included.
"""

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import pathlib
import pickle
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.sides import machine, row
from ns_jax import workdir as workdir_lib
from ns_jax.labelling import shards as shards_lib
from ns_jax.selection import table as table_lib

CLASSES, PER_SHARD, THRESHOLD = 1000, 16_384, 0.3
MADE_OF = {
    "source": "made up",
    "teacher": "made up",
    "class_names": [f"class {number}" for number in range(CLASSES)],
    "preprocessing": {"size": 224},
}
PAPERS_ROWS = 300_000_000  # of which 130,000 a class are selected
PER_CLASS = 130_000
DUCKDB_ROWS = 30_000_000  # the most for DuckDB unless it is asked for
TURNS = 3  # of each side, up to so many rows
PATIENCE_SECONDS = 600.0
_SPAWN = multiprocessing.get_context("spawn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=[1_000_000, 30_000_000, PAPERS_ROWS])
    parser.add_argument("--duckdb", type=int, default=DUCKDB_ROWS, help="the most rows for DuckDB")
    parser.add_argument("--k", type=int, default=1, help="classes that are stored for each image")
    parser.add_argument("--directory", default=tempfile.gettempdir())
    options = parser.parse_args()
    print(f"{machine()}\n")
    row(["labels", "side", "time, s", "peak memory, GB", "rows selected", "the same rows"])
    row(["---"] * 6)
    for rows in options.rows:
        with tempfile.TemporaryDirectory(prefix="ns_jax_", dir=options.directory) as directory:
            _measure(pathlib.Path(directory), rows, options.k, options.duckdb)


def _measure(directory: pathlib.Path, rows: int, k: int, most_for_duckdb: int) -> None:
    where, per_class = directory / "labels", max(1, rows * PER_CLASS // PAPERS_ROWS)
    _apart(_make, where, rows, k)
    sides = {"ours": _ours(where, directory / "ours", per_class)}
    if rows <= most_for_duckdb:
        sides["duckdb"] = _duckdb(where, directory / "duckdb", per_class)
    for turn in range(TURNS if rows <= DUCKDB_ROWS else 1):
        for side, command in sides.items():
            shutil.rmtree(directory / side, ignore_errors=True)
            seconds, peak = _run(command)
            found = directory / side / "selection"
            if seconds.startswith("none"):
                row([f"{rows:,}", side, seconds, f"{peak:.2f}", "-", "-"])
                continue
            count, *_ = _apart(_selected, found)
            equal = "-"
            if turn == 0 and side == "duckdb":
                equal = _apart(_equal, found, directory / "ours" / "selection")
            elif turn == 0 and rows <= 1_000_000:
                equal = f"{_apart(_brute_force, where, found, per_class)} (NumPy)"
            row([f"{rows:,}", side, seconds, f"{peak:.2f}", f"{count:,}", equal])
    count, opening, reading, pickled = _apart(_selected, directory / "ours" / "selection")
    print(
        f"\n{count:,} rows: opened in {1e3 * opening:.1f} ms, 1,000 random rows in "
        f"{1e3 * reading:.1f} ms, a column for a data worker is {pickled} bytes\n",
        flush=True,
    )


def _ours(where: pathlib.Path, workdir: pathlib.Path, per_class: int) -> list:
    settings = {"labels": where, "threshold": THRESHOLD, "per_class": per_class}
    flags = [f"--config.select.{name}={value}" for name, value in settings.items()]
    main = ("-m", "ns_jax", "select", "--config=configs/base.py", f"--workdir={workdir}")
    return [sys.executable, *main, *flags]


def _duckdb(where: pathlib.Path, workdir: pathlib.Path, per_class: int) -> list:
    arguments = (where, workdir / "selection", THRESHOLD, per_class)
    return [sys.executable, "-m", "benchmarks.selection_duckdb", *map(str, arguments)]


def _run(command: list) -> tuple[str, float]:
    """Seconds, or what happened instead, and the most memory, GB, of a process."""
    started, patience = time.perf_counter(), PATIENCE_SECONDS
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
            time.sleep(0.05)
            if time.perf_counter() - started > patience:
                process.kill()
                patience = np.inf
    seconds, (_, status, usage) = f"{time.perf_counter() - started:.1f}", ended
    if status:
        seconds = f"none: {'stopped' if patience == np.inf else 'failed'} after {seconds}"
    return seconds, usage.ru_maxrss * 1024 / 1e9


def _apart(function, *arguments):
    """The result of a function in a process of its own.

    A process counts the memory of the one that started it as its own until it runs its program, so
    this one stays small.
    """
    with concurrent.futures.ProcessPoolExecutor(1, _SPAWN) as pool:
        return pool.submit(function, *arguments).result()


def _make(directory: pathlib.Path, rows: int, k: int) -> None:
    """Label shards as `label` writes them, on all cores."""
    directory.mkdir(parents=True)
    ranges = shards_lib.shard_ranges(rows, PER_SHARD)
    paths = [directory / shards_lib.shard_name(shard, len(ranges)) for shard in range(len(ranges))]
    columns = {"index": np.zeros(1, np.int64), "key": [""], "status": ["ok"]}
    columns |= {"classes": np.zeros((1, k), np.int32), "probs": np.ones((1, k))}
    made_of = {**MADE_OF, "k": k}
    shards_lib.write_shard(paths[0], columns, made_of)
    schema = pq.read_schema(paths[0])
    tasks, cores = list(zip(paths, ranges, strict=True)), os.cpu_count()
    with concurrent.futures.ProcessPoolExecutor(cores, _SPAWN) as pool:
        list(
            pool.map(
                _make_shards, [tasks[n::cores] for n in range(cores)], [schema] * cores, [k] * cores
            )
        )
    inputs = {**made_of, "images_per_shard": PER_SHARD}
    workdir_lib.write_manifest(directory, inputs, {"num_shards": len(ranges), "num_images": rows})


def _make_shards(tasks: list, schema: pa.Schema, k: int) -> None:
    sizes = 1 / (np.arange(CLASSES) + 20)  # the largest class has 50 times the images of the least
    ends = np.cumsum(sizes) / sizes.sum()
    for path, rows in tasks:
        rng, count = np.random.default_rng(rows.start), len(rows)
        label = np.minimum(np.searchsorted(ends, rng.random(count)), CLASSES - 1).astype(np.int32)
        confidence = 1 - rng.random(count, np.float32) ** 3
        rounded = rng.random(count) < 0.1
        confidence[rounded] = np.round(confidence[rounded], 2)
        confidence[rng.random(count) < 0.03] = 1
        bad = rng.random(count) < 0.001
        label, confidence = np.where(bad, -1, label), np.where(bad, np.float32(0), confidence)
        classes = (label[:, None] + np.arange(k)) % CLASSES
        probs = confidence[:, None] * 0.5 ** np.arange(k) * shards_lib.SCALE
        index = pa.array(np.arange(rows.start, rows.stop))
        columns = {
            "index": index,
            "key": index.cast(pa.string()),
            "status": pa.array(["ok", "not an image"]).take(pa.array(bad.astype(np.int8))),
            "label": label.astype(np.int32),
            "confidence": confidence.astype(np.float32),
            "classes": pa.FixedSizeListArray.from_arrays(classes.ravel().astype(np.int32), k),
            "probs": pa.FixedSizeListArray.from_arrays(probs.ravel().astype(np.uint16), k),
        }
        table = pa.table(columns).cast(schema)
        pq.write_table(table.replace_schema_metadata(schema.metadata), path, compression="zstd")


def _selected(directory: pathlib.Path) -> tuple[int, float, float, int]:
    """Rows of a selection; seconds to open it and to read 1,000 rows; bytes of a pickled column."""
    if not (directory / "manifest.json").exists():  # DuckDB's side
        return json.loads((directory / "rows.json").read_text()), 0.0, 0.0, 0
    started = time.perf_counter()
    found = table_lib.Selection(directory)
    opening = time.perf_counter() - started
    rows = np.random.default_rng(0).integers(0, len(found), 1000).tolist()
    started = time.perf_counter()
    for place in rows:
        found.index[place], found.label[place], found.confidence[place]
        found.classes[place], found.probs[place]
    return len(found), opening, time.perf_counter() - started, len(pickle.dumps(found.index))


def _equal(theirs: pathlib.Path, ours: pathlib.Path) -> bool:
    """Whether two selections have the same rows, by index and label, batch by batch."""
    found, start = table_lib.Selection(ours, in_order=True), 0
    reader = pa.ipc.open_file(pa.memory_map(str(theirs / table_lib.NAME)))
    for number in range(reader.num_record_batches):
        batch = reader.get_batch(number)
        for name in ("index", "label", "confidence"):
            part = getattr(found, name)[start : start + len(batch)]
            if not np.array_equal(batch.column(name).to_numpy(), part):
                return False
        start += len(batch)
    return start == len(found)


def _brute_force(where: pathlib.Path, found: pathlib.Path, per_class: int) -> bool:
    """Whether a selection is what sorting all labels gives."""
    paths = sorted(where.glob("*.parquet"))
    names = ("index", "status", "label", "confidence")
    columns = [shards_lib.Shard(path).read(*names) for path in paths]
    index, status, label, confidence = (
        np.concatenate([part[name] for part in columns]) for name in columns[0]
    )
    rows = np.flatnonzero((status == "ok") & (confidence > np.float32(THRESHOLD)))
    rows = rows[np.lexsort((index[rows], -confidence[rows], label[rows]))]
    expected = []
    for number in range(CLASSES):
        mine = index[rows[label[rows] == number]][:per_class]
        expected.append(np.resize(mine, per_class) if len(mine) else mine)
    return np.array_equal(np.sort(np.concatenate(expected)), table_lib.Selection(found).index)


if __name__ == "__main__":
    main()
