"""Which images a page shows, and their sprites: of the pool, and of the test images gone wrong."""

import numpy as np

from ns_jax.data.source import Source
from ns_jax.report import sample as sample_lib
from ns_jax.report.sample import Sample
from ns_jax.report.tiles import Sprite, sprite

CLASSES = 30  # shown, the worst first
EACH = 7  # tiles of each group of a class
OFFERED = 50
CELLS, PER_CELL = 40, 2  # of confusions


def pool(
    sample: Sample, source: Source, class_names: list[str], worst: list[int]
) -> tuple[dict, dict[str, Sprite]]:
    """`{"offered": tiles, "classes": [{"number", "name", group: tiles}]}` and sprites by name.

    `worst`: numbers of classes, the worst first.
    """
    sprites: dict[str, Sprite] = {}

    def tiles(rows: np.ndarray, name: str, start: int = 0) -> list[dict]:
        return [
            _tile(sample, row, key, class_names, name, start + place)
            for place, (row, key) in enumerate(zip(rows.tolist(), sample.keys(rows), strict=True))
        ]

    rows = sample_lib.offered(sample, OFFERED)
    found: dict = {"offered": tiles(rows, "offered"), "classes": []}
    if len(rows):
        sprites["offered"] = sprite(source, sample.index[rows].tolist())
    there = np.bincount(sample.label, minlength=len(class_names)) > 0
    for number in [number for number in worst if there[number]][:CLASSES]:
        groups = sample_lib.groups(sample, number, EACH)
        name, start = f"class-{number}", 0
        shown = {}
        for group, of_group in groups.items():
            shown[group] = tiles(of_group, name, start)
            start += len(of_group)
        found["classes"].append({"number": number, "name": class_names[number], "groups": shown})
        if start:
            every = np.concatenate(list(groups.values()))
            sprites[name] = sprite(source, sample.index[every].tolist())
    _mark_broken(found["offered"], sprites)
    for one in found["classes"]:
        for of_class in one["groups"].values():
            _mark_broken(of_class, sprites)
    return found, sprites


def _tile(
    sample: Sample, row: int, key: str, class_names: list[str], name: str, place: int
) -> dict:
    before = int(sample.before[row])
    return {
        "index": int(sample.index[row]),
        "key": key,
        "label": class_names[sample.label[row]],
        "confidence": float(sample.confidence[row]),
        "copies": int(sample.copies[row]),
        "before": class_names[before] if before >= 0 else None,
        "sprite": name,
        "place": place,
    }


def _mark_broken(tiles: list[dict], sprites: dict[str, Sprite]) -> None:
    for tile in tiles:
        tile["readable"] = tile["place"] not in sprites[tile["sprite"]].broken


def mistakes(
    found: dict[str, np.ndarray], confusions: list[dict], source: Source, class_names: list[str]
) -> tuple[list[dict], dict[str, Sprite]]:
    """Test images of the most frequent confusions, the surest mistakes of each first.

    `found`: the columns of `predictions`, `confusions`: `numbers.confusions` of them. Sprites are
    by true class.
    """
    cells: list[dict] = []
    indices: dict[str, list[int]] = {}
    wrong = [one for one in confusions if one["truth"] != one["predicted"]][:CELLS]
    for one in sorted(wrong, key=lambda one: (one["truth"], -one["num_images"], one["predicted"])):
        inside = (found["label"] == one["truth"]) & (found["predicted"] == one["predicted"])
        rows = np.flatnonzero(inside)
        rows = rows[np.argsort(-found["confidence"][rows], kind="stable")][:PER_CELL]
        name = f"mistakes-{one['truth']}"
        tiles = []
        for row in rows.tolist():
            index = int(found["index"][row])
            indices.setdefault(name, []).append(index)
            tiles.append(
                {
                    "index": index,
                    "key": source[index]["key"],
                    "label": class_names[one["predicted"]],
                    "confidence": float(found["confidence"][row]),
                    "sprite": name,
                    "place": len(indices[name]) - 1,
                }
            )
        words = {
            "truth_name": class_names[one["truth"]],
            "predicted_name": class_names[one["predicted"]],
        }
        cells.append({**one, **words, "tiles": tiles})
    sprites = {name: sprite(source, of_name) for name, of_name in indices.items()}
    for cell in cells:
        _mark_broken(cell["tiles"], sprites)
    return cells, sprites
