"""Sprites, and how large a page becomes."""

import base64

import cv2
import numpy as np
import pytest

from configs import base
from ns_jax import workdir as workdir_lib
from ns_jax.data import open as open_lib
from ns_jax.data.source import Source
from ns_jax.labelling import shards as shards_lib
from ns_jax.programs import report, select
from ns_jax.report import tiles


def source_of(images):
    return Source("made", (), "f", [(image, -1, str(i)) for i, image in enumerate(images)])


def decoded(sprite):
    data = np.frombuffer(base64.b64decode(sprite.uri.partition(",")[2]), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)


def test_a_tile_stands_where_its_number_says_and_a_bad_one_is_grey():
    colours = [(250, 10, 10), (10, 250, 10), (10, 10, 250)]
    images = [np.full((20 + 30 * n, 50, 3), c, np.uint8) for n, c in enumerate(colours * 4)]
    images[4] = b"no image"
    found = tiles.sprite(source_of(images), list(range(len(images)))[::-1])
    sheet, order = decoded(found), list(range(len(images)))[::-1]
    assert sheet.shape == (2 * tiles.SIDE, tiles.COLUMNS * tiles.SIDE, 3)
    assert found.broken == {order.index(4)} and found.rows == 2
    for place, number in enumerate(order):
        row, column = divmod(place, tiles.COLUMNS)
        middle = sheet[row * 96 + 48, column * 96 + 48].astype(int)
        expected = np.asarray(colours[number % 3] if number != 4 else (128,) * 3)
        assert abs(middle - expected).max() < 40


@pytest.mark.parametrize("shape", [(8, 8), (1, 500), (3000, 20), (96, 96), (97, 95)])
def test_the_whole_of_an_image_is_shown(shape):
    pixels = np.full((*shape, 3), 255, np.uint8)
    found = tiles.tile(pixels)
    white = (found > 200).all(-1)
    height, width = white.any(1).sum(), white.any(0).sum()
    assert max(height, width) == tiles.SIDE
    assert min(height, width) == max(1, round(tiles.SIDE * min(shape) / max(shape)))


@pytest.mark.large
def test_a_page_of_20_000_classes_and_many_images_is_no_larger(tmp_path):
    """Noise, which compresses worst: as many tiles as a page shows, below 5 MB."""
    count = 20_000
    names = [f"class {n:05}" for n in range(20_000)]
    rng = np.random.default_rng(0)
    label = (np.arange(count) % 30).astype(np.int32)  # more images of each than are shown
    confidence = rng.uniform(0.3, 0.6, count)
    made_of = {"teacher": "t", "source": "", "subset": None, "class_names": names, "k": 2}
    images = tmp_path / "pool"
    images.mkdir()
    noise = [rng.integers(0, 256, (96, 96, 3), dtype=np.uint8) for _ in range(50)]
    files = [cv2.imencode(".png", one)[1].tobytes() for one in noise]
    for number in range(count):
        (images / f"{number:05}.png").write_bytes(files[number % 50])
    config = base.get_config()
    config.data.unlabelled = config.data.labelled = f"folder:{images}"
    config.select.per_class, config.select.threshold, config.select.balance = 300, 0.4, "none"
    made_of["source"] = open_lib.open_from_config(config, "unlabelled").fingerprint
    directory = tmp_path / "run" / "iteration_1"
    columns = {
        "index": np.arange(count),
        "key": [f"{n:05}.png" for n in range(count)],
        "status": ["ok"] * count,
        "classes": np.stack([label, (label + 1) % 20_000], 1),
        "probs": np.stack([confidence, (1 - confidence) / 2], 1),
    }
    shards_lib.write_shard(directory / "labels" / shards_lib.shard_name(0, 1), columns, made_of)
    outputs = {"num_shards": 1, "num_images": count, "num_bad": 0, "accuracy": None}
    inputs = {**made_of, "images_per_shard": count}
    workdir_lib.write_manifest(directory / "labels", inputs, outputs)
    config.select.labels = str(directory / "labels")
    select.run(config, directory)
    content = report.run(config, tmp_path / "run")
    shown = [t for c in content["pool"]["classes"] for g in c["groups"].values() for t in g]
    page = (tmp_path / "run" / report.PAGE).read_bytes()
    assert len(content["classes"]) == 20_000 and page.count(b"<option") == 1000
    tiles_shown = page.count(b'class="tile"')
    assert tiles_shown == len(shown) + len(content["pool"]["offered"]) > 600
    assert len(page) < 5e6 * tiles_shown / 1000
