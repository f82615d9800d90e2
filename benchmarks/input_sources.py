"""What sources cost: memory over 50,000 images, indexing and random access of tar shards, opening.

make bench-input        (with benchmarks/input_speed.py; about two minutes)
"""

import argparse
import collections
import io
import os
import pathlib
import shutil
import statistics
import tarfile
import tempfile
import time

import numpy as np

from benchmarks import photos
from benchmarks.sides import machine, row
from ns_jax.data import crops, pipeline, randaugment, views
from ns_jax.data import open as open_lib
from ns_jax.data import signatures as signatures_lib
from ns_jax.data.batch import BatchSpec
from ns_jax.data.workers import LoaderSettings
from ns_jax.training import examples as examples_lib

MEMBERS = 100_000
IMAGES = 50_000
WORKERS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", default=f"{tempfile.gettempdir()}/ns_jax_photos")
    options = parser.parse_args()
    print(f"{machine()}\n")
    row(["measured", "figure"])
    row(["---", "---"])
    with tempfile.TemporaryDirectory() as directory:
        _tar_shard(pathlib.Path(directory))
    with tempfile.TemporaryDirectory() as directory:
        _folder(pathlib.Path(directory))
    photos.write(pathlib.Path(options.files), 1024)
    _memory(options.files)


def _tar_shard(directory: pathlib.Path) -> None:
    """A shard of 50,000 samples of two members, its index, and reads at random."""
    rng, path = np.random.default_rng(0), directory / "shard.tar"
    with tarfile.open(path, "w") as archive:
        for number in range(MEMBERS // 2):
            for name, data in ((f"{number}.jpg", rng.bytes(1500)), (f"{number}.cls", b"7")):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    began = time.perf_counter()
    source = _open(f"wds:{path}")
    seconds = time.perf_counter() - began
    row([f"index of a shard of {MEMBERS:,} members", f"{MEMBERS / seconds:,.0f} members/s"])
    began = time.perf_counter()
    source = _open(f"wds:{path}")
    row(["the same shard opened again", f"{time.perf_counter() - began:.3f} s"])
    reads, original = collections.Counter(), os.pread
    os.pread = lambda *arguments: reads.update(["reads"]) or original(*arguments)
    order = rng.permutation(len(source))[:10_000].tolist()
    began = time.perf_counter()
    for index in order:
        source[index]
    seconds = time.perf_counter() - began
    os.pread = original
    row(["reads of a random image of it", f"{reads['reads'] / len(order):.2f}"])
    row(["time of a random image of it", f"{seconds / len(order) * 1e6:.0f} us"])


def _folder(directory: pathlib.Path) -> None:
    for number in range(MEMBERS):
        path = directory / f"{number % 100:02d}" / f"{number}.jpg"
        if number < 100:
            path.parent.mkdir()
        path.write_bytes(number.to_bytes(4, "big") * 500)
    began = time.perf_counter()
    _open(f"folder:{directory}")
    row([f"opening a folder of {MEMBERS:,} files", f"{time.perf_counter() - began:.1f} s"])
    paths = [str(path) for path in directory.glob("*/*")]
    began = time.perf_counter()
    signatures_lib.of(paths)
    seconds = (time.perf_counter() - began) / len(paths)
    row(["fingerprint of a file of it", f"{seconds * 1e6:.0f} us"])
    shutil.rmtree(directory)
    directory.mkdir()


def _memory(directory: str) -> None:
    """Of trainer and workers, while 50,000 images go by."""
    source = _open(f"folder:{directory}")
    evaluation = crops.Preprocessing(224, "0.875", (0.485,) * 3, (0.229,) * 3)
    batch = 64
    view = views.TrainView(evaluation, "crop", True, randaugment.RandAugment(2, 9))
    batches = pipeline.train_batches(
        examples_lib.labelled_examples(source, 0.1, 1),
        None,
        view,
        spec=BatchSpec(batch, 0, 1, view.shapes()),
        steps=IMAGES // batch,
        start_step=0,
        seed=0,
        reading=LoaderSettings(workers=WORKERS),
    )
    pids = [os.getpid(), *(worker.pid for worker in batches.processes())]
    used, began = [], time.perf_counter()
    for number, _ in enumerate(batches):
        if number % 78 == 77:  # every 5,000 images
            used.append(sum(map(_megabytes, pids)))
    speed = IMAGES / (time.perf_counter() - began)
    shown = ", ".join(f"{megabytes:,.0f}" for megabytes in used)
    row([f"MB after every 5,000 of {IMAGES:,} images, {WORKERS} workers", shown])
    growth = statistics.mean(used[-3:]) - statistics.mean(used[1:4])
    row(["growth from the first to the last third", f"{growth:+.1f} MB"])
    row(["images/s meanwhile", f"{speed:,.0f}"])


def _megabytes(pid: int) -> float:
    """A process's share of the memory: shared pages are split among their users."""
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    lines = (line.split() for line in text.splitlines()[1:])
    return next(int(words[1]) for words in lines if words[0] == "Pss:") / 1024


def _open(name: str):
    return open_lib.open_source(name, labels_per_class=1, seed=0)


if __name__ == "__main__":
    main()
