"""The page: a template filled with a report's content, one file that needs nothing else."""

import base64
import hashlib
import pathlib
import time

import jinja2
from markupsafe import Markup

from ns_jax.report import figures, numbers
from ns_jax.report.contents import Report
from ns_jax.report.sample import GROUPS
from ns_jax.report.tiles import COLUMNS, SIDE, Sprite

_HERE = pathlib.Path(__file__).parent
CLASSES, EMPTY = 30, 8  # rows of the table, and those without an image; the JSON has all
PAIRS = 40  # confusions that are listed where there is no matrix
SHARES = ("share_in_pool", "share_in_labels")
NONE = "–"


def render(report: Report) -> str:
    """The HTML of `report.html`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "count": count,
        "number": number,
        "clock": clock,
        "duration": duration,
    }
    environment.globals |= {"bar": figures.bar, "groups": GROUPS, "side": SIDE}
    script = (_HERE / "script.js").read_text()
    seal = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html.jinja").render(
        **report.content,
        style=Markup((_HERE / "style.css").read_text()),
        script=Markup(script),
        script_seal=seal,
        sprites=_sprites(report.sprites),
        figures=_figures(report.content),
        matrix=_matrix(report.content["confusion"]),
        shown_classes=_shown(report.content["classes"]),
        empty=[row["name"] for row in report.content["classes"] if not row["kept"]],
        in_mosaic={one["number"] for one in report.content["pool"]["classes"]},
        most_pairs=PAIRS,
        largest_share=max(
            (row[n] or 0.0 for row in report.content["classes"] for n in SHARES), default=1.0
        ),
        columns=COLUMNS,
        robustness=sorted({n for one in report.content["iterations"] for n in one["robustness"]}),
    )


def percent(value: float | None, digits: int = 1) -> str:
    return NONE if value is None else f"{100 * value:.{digits}f} %"


def count(value: int | None) -> str:
    return NONE if value is None else f"{value:,}"


def number(value: float | None, digits: int = 4) -> str:
    return NONE if value is None else f"{value:.{digits}f}"


def clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def duration(seconds: float) -> str:
    """`1 h 02 min`, `3 min 05 s`, `4.2 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def _shown(rows: list[dict]) -> list[dict]:
    """The worst classes, not all of which are without an image."""
    empty = [row for row in rows if not row["kept"]]
    others = [row for row in rows if row["kept"]]
    few = empty[: max(EMPTY, CLASSES - len(others))]
    return few + others[: CLASSES - len(few)]


def _sprites(sprites: dict[str, Sprite]) -> Markup:
    """A rule of the style sheet for each; their names are ours."""
    rules = (
        f".sprite-{name}{{background-image:url({one.uri});"
        f"background-size:{COLUMNS * SIDE}px {one.rows * SIDE}px}}"
        for name, one in sprites.items()
    )
    return Markup("\n".join(rules))


def _figures(content: dict) -> dict[str, list[Markup]]:
    curves = []
    for one in content["curves"]:
        for kind, percent_ in (("loss", False), ("accuracy", True)):
            label = f"{one['name']}: {kind}"
            curves.append(figures.curves(label, one[kind], one["resumed"], percent_))
    calibration = content["calibration"]
    reliable = [figures.reliability(one["name"], one["bins"]) for one in calibration["reliability"]]
    precise = []
    if calibration["precision"]:
        label = f"precision by threshold ({calibration['precision_of']})"
        precise.append(figures.precision(label, calibration["precision"]))
    return {"curves": [one for one in curves if one], "calibration": [*reliable, *precise]}


def _matrix(confusion: dict) -> list[dict] | None:
    """Rows of the confusion matrix, or None where there are too many classes for one."""
    names = confusion["classes"]
    if not names or len(names) > numbers.MATRIX:
        return None
    counts = {(one["truth"], one["predicted"]): one["num_images"] for one in confusion["cells"]}
    shown = {(one["truth"], one["predicted"]) for one in confusion["mistakes"]}
    rows = []
    for truth, name in enumerate(names):
        cells = [counts.get((truth, predicted), 0) for predicted in range(len(names))]
        total = sum(cells)
        rows.append(
            {
                "number": truth,
                "name": name,
                "total": total,
                "right": cells[truth] / total if total else None,
                "cells": [
                    {
                        "predicted": predicted,
                        "count": value,
                        "weight": round(value / total, 3) if total else 0,
                        "linked": (truth, predicted) in shown,
                    }
                    for predicted, value in enumerate(cells)
                ],
            }
        )
    return rows
