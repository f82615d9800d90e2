"""Robustness of a checkpoint, and beside it of another: ImageNet-A to -P, corruptions, attacks."""

import pathlib
from collections.abc import Iterator
from typing import Any

from ml_collections import config_dict

from ns_jax import workdir as workdir_lib
from ns_jax.config import ranges
from ns_jax.data import open as open_lib
from ns_jax.foreign import exported
from ns_jax.inference import teachers
from ns_jax.parallel import processes
from ns_jax.progress import say, table
from ns_jax.robustness import build, passes, suites
from ns_jax.robustness.passes import Network, Settings
from ns_jax.robustness.suites import Suite

RESULT = "robustness.json"
PASSES = "robustness"  # directory of what each pass found
SHOWN = {  # numbers by the name they have in tables
    "clean_error": "clean error %",
    "top1": "top-1 %",
    "mce": "mCE %",
    "mean_error": "mean error %",
    "mfr": "mFR %",
    "mean_flip_probability": "flips %",
}


def run(
    config: config_dict.ConfigDict, workdir: pathlib.Path, shared: pathlib.Path | None = None
) -> dict:
    """Writes and returns `robustness.json`; passes that are done are not done again.

    `shared`: where passes of the same networks lie, if not in this workdir. Raises InputError for
    suites, sets and networks that do not go together, before the first pass.
    """
    ranges.check(config)
    settings = config.robustness
    networks = [_network(config, settings.checkpoint)]
    if settings.against:
        networks.append(_network(config, settings.against, networks[0]))
    asked = build.build(config, networks)
    how = Settings(
        open_lib.loader_settings(config), settings.batch_size, config.data.max_bad_fraction
    )
    directory = (shared or workdir) / PASSES
    result: dict[str, Any] = {
        "networks": [{"checkpoint": one.path, "model": one.digest} for one in networks],
        "suites": {},
    }
    for suite in asked:
        measured = {one.name: passes.run(one, networks, directory, how) for one in suite.passes}
        found = [
            {name: sides[place] for name, sides in measured.items()}
            for place in range(len(networks))
        ]
        result["suites"][suite.name] = _summary(suite, found)
        _say(suite, result["suites"][suite.name])
    processes.call_on_first(workdir_lib.write_json, workdir / RESULT, result)
    _table(asked, result)
    return result


def _network(config: config_dict.ConfigDict, name: str, like: Network | None = None) -> Network:
    """A checkpoint or an exported file; its classes are those of `like`, in their order."""
    file = None
    if exported.is_exported(name):
        classes = like.class_names if like else ()
        fallback = classes or teachers.labelled_classes(config)
        file = teachers.open_exported(config, name, classes, fallback)
    return Network(name, config.robustness.size, config.robustness.crop, like, file)


def _summary(suite: Suite, found: list) -> dict:
    """Both networks' numbers and their difference; the second one is the baseline."""
    baseline = found[1] if len(found) == 2 else None
    summary: dict[str, Any] = {"note": suite.note} if suite.note else {}
    summary["checkpoint"] = suite.summarise(found[0], baseline)
    if baseline is not None:
        summary["against"] = suite.summarise(baseline, baseline)
        difference = suites.difference(suite, found[0], baseline)
        summary["difference"] = difference and {"of": suite.main, **difference._asdict()}
    return summary


def _say(suite: Suite, summary: dict) -> None:
    numbers = {name: summary["checkpoint"][name] for name in SHOWN if name in summary["checkpoint"]}
    shown = ", ".join(f"{SHOWN[name]} {_percent(name, value)}" for name, value in numbers.items())
    say(f"{suite.name}: {shown} on {summary['checkpoint']['num_images']:,} images")


def _percent(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{100 * value if name == 'top1' else value:.2f}"


def _table(asked: list[Suite], result: dict) -> None:
    """A line for each number of a suite, and for each corruption, perturbation and epsilon."""
    both = len(result["networks"]) == 2
    compared = ["against", "difference"] if both else []
    columns = ["suite", "number", "checkpoint", *compared, "note"]
    rows: list[list[str]] = []
    for suite in asked:
        summary = result["suites"][suite.name]
        sides = [summary[side] for side in ("checkpoint", "against") if side in summary]
        for name in (name for name in SHOWN if name in sides[0]):
            cells = [suite.name, SHOWN[name], *(_percent(name, side.get(name)) for side in sides)]
            is_main = name == suite.main
            difference = [_interval(summary["difference"] if is_main else None)] if both else []
            rows.append([*cells, *difference, suite.note if is_main else ""])
        for kind, *parts in _parts(sides):
            names, values = zip(*parts, strict=True)
            rows.append([f"  {kind}", names[0], *values, *[""] * (1 + both)])
    table("Robustness", columns, rows)


def _parts(sides: list[dict]) -> Iterator[tuple]:
    """`(what, (number, value) of each side)` of corruptions, perturbations and epsilons."""
    for kind in sides[0].get("corruptions", {}):
        yield kind, *(_corruption(side["corruptions"][kind]) for side in sides)
    for kind in sides[0].get("perturbations", {}):
        yield kind, *(_perturbation(side["perturbations"][kind]) for side in sides)
    for epsilon in sides[0].get("epsilons", {}):
        values = (_percent("top1", side["epsilons"][epsilon]) for side in sides)
        yield f"epsilon {epsilon}", *(("top-1 %", value) for value in values)


def _corruption(found: dict) -> tuple[str, str]:
    """Over the baseline's errors, or as it is."""
    if found["ce"] is not None:
        return "CE %", f"{found['ce']:.1f}"
    return "error %", f"{100 * sum(found['errors']) / len(found['errors']):.1f}"


def _perturbation(found: dict) -> tuple[str, str]:
    if found["flip_rate"] is not None:
        return "FR %", f"{found['flip_rate']:.1f}"
    return "flips %", f"{100 * found['flip_probability']:.1f}"


def _interval(difference: dict | None) -> str:
    if difference is None:
        return ""
    return f"{difference['mean']:+.2f} ({difference['low']:+.2f} to {difference['high']:+.2f})"
