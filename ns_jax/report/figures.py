"""Inline SVG: lines, bars and points, in the colours c0 to c3 of the page's style sheet."""

import dataclasses
import math
from collections.abc import Sequence

from markupsafe import Markup

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 42, 18, 10, 36

Point = tuple[float, float | None]


@dataclasses.dataclass(frozen=True)
class Axis:
    """From `low` to `high`, with about `ticks` marks; `percent`: written so."""

    title: str
    low: float
    high: float
    percent: bool = False

    def ticks(self, count: int = 5) -> list[float]:
        span = self.high - self.low
        if not span > 0:
            return [self.low]
        rough = span / count
        base = 10 ** math.floor(math.log10(rough))
        step = next(base * m for m in (1, 2, 5, 10) if base * m >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [n * step for n in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def text(self, value: float) -> str:
        if self.percent:
            return f"{100 * value:.0f} %"
        return f"{value:,.10g}" if abs(value) >= 1000 else f"{value:.4g}"


class Figure:
    """A plot with two axes; what is drawn stands in `svg()`."""

    def __init__(self, label: str, x: Axis, y: Axis):
        self._label, self._x, self._y = label, x, y
        self._parts: list[Markup] = []
        self._axes()

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The place of a point, clipped to the plot."""

        def part(axis: Axis, value: float) -> float:
            share = (value - axis.low) / ((axis.high - axis.low) or 1.0)
            return min(1.0, max(0.0, share))

        across = LEFT + part(self._x, x) * (WIDTH - LEFT - RIGHT)
        return round(across, 1), round(HEIGHT - BOTTOM - part(self._y, y) * _inner(), 1)

    def _axes(self) -> None:
        for value in self._y.ticks():
            _, y = self.at(self._x.low, value)
            self._add(
                '<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>', LEFT, WIDTH - RIGHT, y, y
            )
            self._add(
                '<text x="{}" y="{}" text-anchor="end">{}</text>',
                LEFT - 5,
                y + 4,
                self._y.text(value),
            )
        for value in self._x.ticks():
            x, _ = self.at(value, self._y.low)
            self._add(
                '<text x="{}" y="{}" text-anchor="middle">{}</text>',
                x,
                HEIGHT - BOTTOM + 15,
                self._x.text(value),
            )
        bottom = HEIGHT - BOTTOM
        self._add(
            '<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>',
            LEFT,
            WIDTH - RIGHT,
            bottom,
            bottom,
        )
        middle = (LEFT + WIDTH - RIGHT) / 2
        self._add(
            '<text x="{}" y="{}" text-anchor="middle" class="title">{}</text>',
            middle,
            HEIGHT - 5,
            self._x.title,
        )

    def _add(self, template: str, *values: object) -> None:
        self._parts.append(Markup(template).format(*values))

    def line(self, points: Sequence[Point], colour: int) -> None:
        """Broken where a value is None."""
        strokes: list[list[str]] = [[]]
        for x, y in points:
            if y is None or not math.isfinite(y):
                strokes.append([])
                continue
            strokes[-1].append("{},{}".format(*self.at(x, y)))
        for stroke in strokes:
            if len(stroke) == 1:
                across, up = stroke[0].split(",")
                self._add('<circle class="dot c{}" cx="{}" cy="{}" r="2"/>', colour, across, up)
            elif stroke:
                self._add('<polyline class="line c{}" points="{}"/>', colour, " ".join(stroke))

    def band(self, points: Sequence[tuple[float, float, float]], colour: int) -> None:
        """Between low and high at each x."""
        there = [self.at(x, low) for x, low, _ in points]
        back = [self.at(x, high) for x, _, high in reversed(points)]
        outline = " ".join(f"{x},{y}" for x, y in there + back)
        if outline:
            self._add('<polygon class="band c{}" points="{}"/>', colour, outline)

    def dots(self, points: Sequence[tuple[float, float, float, float]], colour: int) -> None:
        """Points `(x, y, low, high)` with their intervals."""
        for x, y, low, high in points:
            across, up = self.at(x, y)
            _, bottom = self.at(x, low)
            _, top = self.at(x, high)
            self._add(
                '<line class="error c{}" x1="{}" x2="{}" y1="{}" y2="{}"/>',
                colour,
                across,
                across,
                bottom,
                top,
            )
            self._add('<circle class="dot c{}" cx="{}" cy="{}" r="3.2"/>', colour, across, up)

    def vertical(self, x: float, text: str) -> None:
        """A mark at x."""
        across, _ = self.at(x, self._y.low)
        self._add(
            '<line class="mark" x1="{}" x2="{}" y1="{}" y2="{}"/>',
            across,
            across,
            TOP,
            HEIGHT - BOTTOM,
        )
        anchor = "end" if across > WIDTH / 2 else "start"
        away = across + (-4 if anchor == "end" else 4)
        self._add(
            '<text class="marked" x="{}" y="{}" text-anchor="{}">{}</text>',
            away,
            HEIGHT - BOTTOM - 6,
            anchor,
            text,
        )

    def diagonal(self) -> None:
        """Where both axes say the same."""
        (x1, y1), (x2, y2) = self.at(0, 0), self.at(1, 1)
        self._add('<line class="mark" x1="{}" y1="{}" x2="{}" y2="{}"/>', x1, y1, x2, y2)

    def svg(self) -> Markup:
        head = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
            WIDTH, HEIGHT, self._label
        )
        return head + Markup("").join(self._parts) + Markup("</svg>")


def _inner() -> int:
    return HEIGHT - TOP - BOTTOM


def legend(names: dict[str, int]) -> Markup:
    """The lines' colours and dashes by name."""
    items = (
        Markup(
            '<span><svg class="key" viewBox="0 0 26 8"><line class="line c{}" x1="1" x2="25" y1="4"'
            ' y2="4"/></svg> {}</span>'
        ).format(colour, name)
        for name, colour in names.items()
    )
    return Markup('<p class="legend">{}</p>').format(Markup(" ").join(items))


# What a series of a training is called, and its colour.
KINDS = {
    "_labelled": ("labelled", 0),
    "_unlabelled": ("unlabelled", 1),
    "test/top1": ("test images", 2),
    "holdout/top1": ("hold-out images", 2),
    "": ("all images of a step", 3),
}


def curves(label: str, series: dict[str, list], resumed: Sequence[int], percent: bool) -> Markup:
    """Numbers of steps by their names in `metrics.jsonl`; `resumed`: steps to mark.

    Empty without a finite number.
    """
    values = [y for points in series.values() for _, y in points if y is not None]
    steps = [x for points in series.values() for x, _ in points]
    if not values:
        return Markup("")
    high = 1.0 if percent else _ceiling(sorted(values)[int(0.98 * (len(values) - 1))])
    low = 0.0 if min(values) >= 0 else min(values)
    figure = Figure(label, Axis("step", 0, max(steps)), Axis("", low, high, percent))
    for step in resumed:
        figure.vertical(step, "resumed")
    shown = {}
    for name, points in series.items():
        words, colour = next(kind for ending, kind in KINDS.items() if name.endswith(ending))
        shown[words] = colour
        figure.line([(x, y) for x, y in points], colour)
    return Markup("<figure><figcaption>{}</figcaption>{}{}</figure>").format(
        label, figure.svg(), legend(shown)
    )


def _ceiling(value: float) -> float:
    return 1.05 * value if value > 0 else 1.0


def reliability(label: str, bins: Sequence[dict]) -> Markup:
    """Accuracy by confidence; on the diagonal confidence is accuracy."""
    figure = Figure(
        label, Axis("confidence", 0, 1, percent=True), Axis("right", 0, 1, percent=True)
    )
    figure.diagonal()
    figure.dots([(b["confidence"], b["accuracy"], b["low"], b["high"]) for b in bins], 0)
    return Markup("<figure><figcaption>{}</figcaption>{}</figure>").format(label, figure.svg())


def precision(label: str, points: Sequence[dict]) -> Markup:
    """Labels that are right above each threshold, and the share of labels above it."""
    figure = Figure(label, Axis("threshold", 0, 1), Axis("", 0, 1, percent=True))
    figure.band([(p["threshold"], p["low"], p["high"]) for p in points], 0)
    figure.line([(p["threshold"], p["precision"]) for p in points], 0)
    figure.line([(p["threshold"], p["share"]) for p in points], 1)
    for point in points:
        if point["chosen"]:
            figure.vertical(point["threshold"], f"select.threshold {point['threshold']:g}")
    return Markup("<figure><figcaption>{}</figcaption>{}{}</figure>").format(
        label, figure.svg(), legend({"labels that are right": 0, "share of labels above it": 1})
    )


def bar(share: float | None, largest: float, text: str) -> Markup:
    """A share as a bar behind its text, in a cell of a table; the largest of all fills it."""
    if share is None:
        return Markup("{}").format(text)
    width = 100 * share / (largest or 1.0)
    return Markup('<span class="bar" style="--w:{}%">{}</span>').format(f"{width:.1f}", text)
