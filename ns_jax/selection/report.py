"""What a selection holds, counted from its record batches as they are written."""

import numpy as np

from ns_jax.progress import one_line


class Tally:
    """Images, rows and the lowest confidence of each class, and how many labels are right."""

    def __init__(self, class_names: list[str], truth: np.ndarray | None):
        """`truth`: the true label of each image of the source, -1 where unknown, if it has any."""
        self._names, self._truth = class_names, truth
        self._rows, self._kept = np.zeros((2, len(class_names)), np.int64)
        self._lowest = np.full(len(class_names), np.inf, np.float32)
        self._previous = -1  # index of the last row
        self._right = self._known = 0

    def add_batch(self, batch: dict[str, np.ndarray]) -> None:
        """Counts columns of rows in order of index, which follow those of earlier calls."""
        index, label = batch["index"], batch["label"]
        first = np.diff(index, prepend=self._previous) != 0  # a copy is no other image
        self._previous = int(index[-1]) if len(index) else self._previous
        self._rows += np.bincount(label, minlength=len(self._names))
        label = label[first]
        self._kept += np.bincount(label, minlength=len(self._names))
        np.minimum.at(self._lowest, label, batch["confidence"][first])
        if self._truth is not None:
            expected = self._truth[index[first]]
            self._right += int((label == expected).sum())
            self._known += int((expected >= 0).sum())

    def images_per_class(self) -> np.ndarray:
        """int64 `[C]`: images of each class, without their copies."""
        return self._kept

    def report(self, candidates: np.ndarray) -> dict:
        """The content of `report.json`; `candidates` int `[C]`."""
        counts = (candidates.tolist(), self._kept.tolist(), (self._rows - self._kept).tolist())
        classes = [
            {
                "name": name,
                "candidates": available,
                "kept": kept,
                "copies": copies,
                "lowest_confidence": float(lowest) if kept else None,
            }
            for name, available, kept, copies, lowest in zip(
                self._names, *counts, self._lowest, strict=True
            )
        ]
        return {
            "rows": int(self._rows.sum()),
            **{name: sum(c[name] for c in classes) for name in ("candidates", "kept", "copies")},
            "accuracy": self._right / self._known if self._known else None,
            "classes": classes,
        }


def table(report: dict) -> str:
    """All classes of a report as text."""
    rows = [
        (
            str(number),
            one_line(c["name"]),
            *(f"{c[name]:,}" for name in ("candidates", "kept", "copies")),
            f"{c['lowest_confidence']:.4f}" if c["kept"] else "-",
        )
        for number, c in enumerate(report["classes"])
    ]
    totals = (f"{report[name]:,}" for name in ("candidates", "kept", "copies"))
    heading = ("class", "name", "candidates", "kept", "copies", "lowest confidence")
    rows = [heading, *rows, ("", "all", *totals, "")]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            cell.ljust(width) if place == 1 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
    return "\n".join(lines) + "\n"


def summary(report: dict, shown: int = 5) -> list[str]:
    """Lines for a person: the scarcest classes, and those without an image."""
    none = [one_line(c["name"]) for c in report["classes"] if not c["kept"]]
    scarce = sorted((c for c in report["classes"] if c["kept"]), key=lambda c: c["kept"])[:shown]
    lines = [
        "scarcest: "
        + ", ".join(
            f"{one_line(c['name'])} ({c['kept']:,} images, {c['copies']:,} copies)" for c in scarce
        )
    ]
    if none:
        more = ", ..." if len(none) > 20 else ""
        lines.append(f"{len(none)} classes have no image: {', '.join(none[:20])}{more}")
    return lines
