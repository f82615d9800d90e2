"""Copies of guarded images in a pool: found, listed, and named by their index.

The search against brute force.
"""

import csv
import tracemalloc

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


def test_nothing_is_near_nothing():
    hashes = np.array([perceptual.NOTHING, 1, perceptual.NOTHING], np.uint64)
    rows, given, distances = leaks.NearDuplicates(hashes, 16).find(hashes)
    assert (rows.tolist(), given.tolist(), distances.tolist()) == ([1], [1], [0])


def brute_force(given, hashes, distance):
    apart = np.bitwise_count(hashes[:, None] ^ given).astype(np.int64)
    apart[hashes == perceptual.NOTHING] = apart[:, given == perceptual.NOTHING] = 65
    rows = np.flatnonzero(apart.min(axis=1) <= distance)
    return rows, apart[rows].argmin(axis=1), apart[rows].min(axis=1)


# Bits that hashes may have; with few of them all hashes share the values of most bands.
MASKS = {
    "random": 2**64 - 1,
    "one byte": 0xFF,
    "both ends": 0x8000000000000001,
    "two runs": 0xFFFF00000000FF00,
    "every ninth": 0x8040201008040201,
}


@pytest.mark.parametrize("distance", [0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 16])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_the_search_finds_what_brute_force_finds(distance, mask):
    rng = np.random.default_rng(distance)
    given = rng.integers(0, 2**64, 400, np.uint64, endpoint=False) & np.uint64(mask)
    hashes = rng.integers(0, 2**64, 1500, np.uint64) & np.uint64(mask)
    # Half of them are given ones with up to one bit more than the distance changed.
    hashes[:750] = given[rng.integers(0, 400, 750)]
    for _ in range(distance + 1):
        bits = np.uint64(1) << rng.integers(0, 64, 750).astype(np.uint64)
        hashes[:750] ^= np.where(rng.random(750) < 0.9, bits, np.uint64(0))
    expected = brute_force(given, hashes, distance)
    assert len(expected[0]) > 20
    search = leaks.NearDuplicates(given, distance)
    for found, exact in zip(search.find(hashes), expected, strict=True):
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, exact)


def test_differing_bits_are_found_wherever_they_are():
    """All places of 4 bits in a byte, and spread over all bytes: no band may miss one."""
    given = np.array([0xF0F0F0F00F0F0F0F], np.uint64)
    search = leaks.NearDuplicates(given, 4)
    for step in (1, 3, 8, 21, 22):
        places = np.array([[(start + step * n) % 64 for n in range(4)] for start in range(64)])
        changed = given ^ np.bitwise_xor.reduce(np.uint64(1) << places.astype(np.uint64), axis=1)
        rows, _, distances = search.find(changed)
        np.testing.assert_array_equal(rows, np.arange(64))
        assert (distances == np.bitwise_count(changed ^ given)).all()


def test_skewed_hashes_do_not_fill_the_memory():
    """20,000 given hashes and 1,000 rows that share the values of all bands but one."""
    given = np.arange(1, 20_001, dtype=np.uint64) << np.uint64(44) | np.uint64(1)
    hashes = np.full(1000, (1 << 43) | 1, np.uint64)  # 160 MB of pairs a band, 8 bytes each
    search = leaks.NearDuplicates(given, 4)
    tracemalloc.start()
    rows, number, distances = search.find(hashes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (len(rows), set(number), set(distances)) == (1000, {0}, {2})
    assert peak < 30e6


def test_hashes_are_searched_in_parts(monkeypatch):
    rng = np.random.default_rng(0)
    given = rng.integers(0, 2**64, 50, np.uint64)
    hashes = np.concatenate([given[::-1], given ^ np.uint64(1)])
    whole = leaks.NearDuplicates(given, 4).find(hashes)
    monkeypatch.setattr(leaks, "_ROWS_AT_ONCE", 7)
    monkeypatch.setattr(leaks, "_PAIRS_AT_ONCE", 3)
    for part, one in zip(leaks.NearDuplicates(given, 4).find(hashes), whole, strict=True):
        np.testing.assert_array_equal(part, one)
    np.testing.assert_array_equal(whole[0], np.arange(100))
    np.testing.assert_array_equal(whole[1], [*range(49, -1, -1), *range(50)])


def test_without_hashes_nothing_is_found():
    none, some = np.zeros(0, np.uint64), np.arange(1, 5, dtype=np.uint64)
    for given, hashes in ((none, some), (some, none), (none, none)):
        assert [len(part) for part in leaks.NearDuplicates(given, 6).find(hashes)] == [0] * 3


@pytest.mark.parametrize("distance", [-1, 17, 64])
def test_a_distance_out_of_range_is_an_error(distance):
    with pytest.raises(ValueError, match=f"guard_distance is {distance} bits; .* to 16"):
        leaks.NearDuplicates(np.zeros(0, np.uint64), distance)
