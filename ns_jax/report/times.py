"""Where the time of a run went, and the curves of its trainings."""

from collections.abc import Iterable

from ns_jax.report import timeline
from ns_jax.report.collected import Collected, Iteration

POINTS = 300  # of a curve, at most
LOSS = ("train/loss_labelled", "train/loss_unlabelled", "train/loss")
ACCURACY = ("train/top1_labelled", "train/top1_unlabelled", "train/top1")
SCORED = ("holdout/top1", "test/top1")


def stages(collected: Collected) -> list[dict]:
    """`{"stage", "seconds", "starts", "at_work", "images_per_second", "input_wait"}` in order.

    Seconds of a start that was interrupted are those up to the last line of its metrics; without
    any it is not counted, and `uncounted` says how many of them there are.
    """
    found: dict[str, dict] = {}
    spans = timeline.spans(collected.timeline)
    for place, span in enumerate(spans):
        row = found.setdefault(
            span["stage"],
            {"stage": span["stage"], "seconds": 0.0, "starts": 0, "at_work": False, "uncounted": 0},
        )
        row["starts"] += 1
        end = span["end"]
        row["at_work"] = end is None and place == len(spans) - 1
        if end is None:
            until = spans[place + 1]["begin"] if place + 1 < len(spans) else float("inf")
            end = _last_sign(collected, span, until)
        if end is None:
            row["uncounted"] += 1
        else:
            row["seconds"] += end - span["begin"]
    return [{**row, **_speed(collected, row)} for row in found.values()]


def _of_stage(collected: Collected, stage: str) -> Iteration | None:
    name, _, program = stage.partition("/")
    if program != "train":
        return None
    for one in collected.iterations:
        if one.directory.name == name:
            return one
    return None


def _last_sign(collected: Collected, span: dict, until: float) -> float | None:
    """When an interrupted training wrote its last line."""
    iteration = _of_stage(collected, span["stage"])
    times = [line["time"] for line in iteration.metrics if "time" in line] if iteration else []
    return max((time for time in times if span["begin"] <= time < until), default=None)


def _speed(collected: Collected, row: dict) -> dict:
    """Images/s and what a training waited for, of its last start; of labelling all images."""
    name, _, program = row["stage"].partition("/")
    speed: dict = {"images_per_second": None, "input_wait": None, "saving": None}
    if iteration := _of_stage(collected, row["stage"]):
        for line in reversed(iteration.metrics):
            if "train/images_per_second" in line:
                speed["images_per_second"] = line["train/images_per_second"]
                speed["input_wait"] = line.get("train/input_wait_share")
                speed["saving"] = line.get("train/saving_share")
                break
    if program == "label" and row["seconds"] and row["starts"] == 1:
        for one in collected.iterations:
            if one.directory.name == name and one.labels:
                speed["images_per_second"] = one.labels["outputs"]["num_images"] / row["seconds"]
    return speed


def curves(collected: Collected) -> list[dict]:
    """Each training's `loss` and `accuracy` as series of points, and the steps at which it was
    resumed. A number that is not finite is no point; `not_finite` counts the losses.
    """
    found = []
    for one in collected.iterations:
        if one.metrics:
            found.append(
                {
                    "name": one.name,
                    "loss": _series(one.metrics, _labelled_apart(one.metrics, LOSS)),
                    "accuracy": _series(
                        one.metrics, [*_labelled_apart(one.metrics, ACCURACY), *SCORED]
                    ),
                    "resumed": _resumed(collected, one),
                    "not_finite": sum(
                        any(line.get(name, 0.0) is None for name in LOSS) for line in one.metrics
                    ),
                }
            )
    return found


def _labelled_apart(metrics: list[dict], names: tuple[str, str, str]) -> list[str]:
    """The two parts of a step, or the one that a teacher has, where they were logged."""
    logged = {name for line in metrics for name in names if name in line}
    return [name for name in names[:2] if name in logged] or [names[2]]


def _series(metrics: list[dict], names: Iterable[str]) -> dict[str, list]:
    series = {}
    for name in names:
        points = [[line["step"], line[name]] for line in metrics if name in line and "step" in line]
        if points:
            step = max(1, -(-len(points) // POINTS))
            thinned = points[::step]
            series[name] = thinned if thinned[-1] == points[-1] else [*thinned, points[-1]]
    return series


def _resumed(collected: Collected, one: Iteration) -> list[int]:
    """The last steps before the training was started again."""
    stage = f"{one.directory.name}/train"
    steps = []
    for span in timeline.spans(collected.timeline):
        if span["stage"] == stage and span["resumed"]:
            before = [
                line["step"]
                for line in one.metrics
                if "step" in line and line.get("time", 0.0) < span["begin"]
            ]
            steps.append(max(before, default=0))
    return steps
