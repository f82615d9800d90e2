"""Copies of guarded images in a pool: found, listed, and named by their index."""

import csv

import cv2
import numpy as np
import pytest

from benchmarks import leaks as benchmark
from ns_jax.data import open as open_lib
from ns_jax.data import perceptual
from ns_jax.selection import leaks


def save(root, images):
    root.mkdir()
    for name, image in images.items():
        data = image
        if not isinstance(image, bytes):
            data = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
        (root / name).write_bytes(data)
    return open_lib.open_source(f"folder:{root}", labels_per_class=1, seed=0)


def pool_chunks(source, size):
    """As label shards hold them."""
    for start in range(0, len(source), size):
        index = np.arange(start, min(start + size, len(source)))
        examples = [source[int(number)] for number in index]
        images = [cv2.imdecode(np.frombuffer(e["image"], np.uint8), 1)[..., ::-1] for e in examples]
        hashes = [perceptual.phash(np.ascontiguousarray(image)) for image in images]
        keys = [example["key"] for example in examples]
        yield index, lambda keys=keys: keys, np.array(hashes, np.uint64)


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_copies_in_the_pool_are_listed_with_what_they_copy(tmp_path, capsys):
    pieces = benchmark.pieces(106, 106)
    guard = save(tmp_path / "test", {f"t{n}.png": pieces[n] for n in (15, 9, 30)})
    flat = np.full((50, 60, 3), 200, np.uint8)
    pool = {f"p{n:02d}.png": piece for n, piece in enumerate(pieces) if n not in (15, 9, 30)}
    pool |= {
        "a.png": benchmark.scaled(pieces[30], 0.7),
        "p05x.png": np.ascontiguousarray(benchmark.jpeg(pieces[15], 80)[:, ::-1]),
        "z.png": benchmark.cropped(pieces[9], 0.02),
        "flat.png": flat,
    }
    pool = save(tmp_path / "pool", pool)
    expected = {"a.png": "t30.png", "p05x.png": "t15.png", "z.png": "t9.png"}

    guarded = leaks.hash_source(guard, threads=2)
    path = tmp_path / "leaks.csv"
    index = leaks.write(path, pool_chunks(pool, 10), guarded, 6)
    header, *rows = read(path)
    assert header == ["index", "key", "guard_key", "distance"]
    assert {key: other for _, key, other, _ in rows} == expected
    assert [pool[int(row[0])]["key"] for row in rows] == [row[1] for row in rows]
    assert index.dtype == np.int64
    assert index.tolist() == [int(row[0]) for row in rows] == sorted(index.tolist())
    assert all(0 <= int(row[3]) <= 6 for row in rows)
    assert "not guarded" not in capsys.readouterr().err


def test_a_source_is_hashed_with_its_mirror_images(tmp_path):
    pieces = benchmark.pieces(142, 160)[:5]
    source = save(tmp_path / "test", {f"{n}.png": piece for n, piece in enumerate(pieces)})
    hashes, keys = leaks.hash_source(source, threads=3)
    assert hashes.dtype == np.uint64
    assert keys == [f"{n}.png" for n in range(5) for _ in range(2)]
    for number, piece in enumerate(pieces):
        assert hashes[2 * number] == perceptual.phash(piece)
        assert hashes[2 * number + 1] == perceptual.phash(np.ascontiguousarray(piece[:, ::-1]))


def test_images_that_cannot_be_guarded_are_left_out_and_counted(tmp_path, capsys):
    images = {
        "0.png": b"no image",
        "1.png": benchmark.pieces(106, 106)[0],
        "2.png": np.full((9, 9, 3), 8, np.uint8),
        "3.png": b"",
    }
    hashes, keys = leaks.hash_source(save(tmp_path / "test", images), threads=2)
    assert keys == ["1.png", "1.png"]
    assert len(hashes) == 2
    said = capsys.readouterr().err
    assert "of 4 images 2 cannot be read and 1 have no content to compare" in said
    assert "  0.png: not an image\n  3.png: empty file" in said


def test_keys_of_any_text_survive_the_file(tmp_path):
    keys = ["a,b.jpg", 'say "x".jpg', "two\nlines.jpg", "cr\rlf\r\n.jpg", " é 画.jpg", "", "'"]
    hashes = np.arange(7, dtype=np.uint64) * np.uint64(0x0F0F0F0F0F0F0F0F) + np.uint64(1)
    chunks = [(np.arange(100, 107), lambda: keys, hashes)]
    path = tmp_path / "leaks.csv"
    index = leaks.write(path, chunks, (hashes[::-1], keys[::-1]), 0)
    assert index.tolist() == list(range(100, 107))
    assert read(path)[1:] == [[str(100 + n), key, key, "0"] for n, key in enumerate(keys)]


def test_the_nearest_guarded_image_is_named_and_the_first_of_equally_near(tmp_path):
    guard = np.array([0b1111, 0b0111, 0b0111, 0b0100], np.uint64)
    hashes = np.array([0b0111, 0b1101], np.uint64)
    path = tmp_path / "leaks.csv"
    leaks.write(path, [(np.array([5, 8]), lambda: ["x", "y"], hashes)], (guard, list("abcd")), 2)
    assert read(path)[1:] == [["5", "x", "b", "0"], ["8", "y", "a", "1"]]


def test_without_leaks_the_file_has_its_header_alone(tmp_path):
    path = tmp_path / "leaks.csv"
    none = (np.zeros(0, np.uint64), [])
    chunks = [(np.arange(2), lambda: ["a", "b"], np.array([5, 6], np.uint64))]
    assert leaks.write(path, chunks, none, 6).tolist() == []
    assert leaks.write(path, [], none, 6).tolist() == []
    assert path.read_bytes() == b"index,key,guard_key,distance\r\n"


def test_the_file_is_there_whole_or_not_at_all(tmp_path):
    hashes = np.array([77], np.uint64)

    def chunks():
        yield np.arange(1), lambda: ["a"], hashes
        raise OSError("the second shard cannot be read")

    path = tmp_path / "leaks.csv"
    with pytest.raises(OSError, match="second shard"):
        leaks.write(path, chunks(), (hashes, ["t"]), 0)
    assert not path.exists()
    leaks.write(path, [(np.arange(1), lambda: ["a"], hashes)], (hashes, ["t"]), 0)
    assert read(path)[1:] == [["0", "a", "t", "0"]]
    assert list(tmp_path.iterdir()) == [path]
