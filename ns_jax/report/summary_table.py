"""The table that a self-training ends with."""


def rows(summaries: list[dict]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows, of each iteration's summary one."""
    columns = ["iteration", "network", "labels right", "kept", "copies", "kept right", "top-1"]
    suites = {
        name: {"own": "corrupted", "own_flips": "flips"}.get(name, name.upper())
        for summary in summaries
        for name in summary.get("robustness", {}).get("suites", {})
    }
    columns += suites.values()

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{value:.2%}"

    found = []
    for summary in summaries:
        labels, selection = summary.get("labels", {}), summary.get("selection", {})
        found.append(
            [
                "teacher" if summary["iteration"] == 0 else f"student {summary['iteration']}",
                summary["model"].removeprefix("efficientnet-"),
                percent(labels.get("accuracy")),
                f"{selection['kept']:,}" if selection else "-",
                f"{selection['copies']:,}" if selection else "-",
                percent(selection.get("accuracy")),
                percent(summary.get("evaluation", {}).get("top1")),
                *(percent(_robustness(summary["robustness"]["suites"][name])) for name in suites),
            ]
        )
    return columns, found


def _robustness(suite: dict) -> float:
    """What the last table shows of a suite: top-1, or how often a frame changes the class."""
    found = suite["checkpoint"]
    if "mean_flip_probability" in found:
        return found["mean_flip_probability"] / 100
    return found["top1"]
