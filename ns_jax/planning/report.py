"""What a plan says: its tables, and what to do where something does not fit."""

from collections.abc import Callable

from ns_jax.progress import say, table


def size_text(num_bytes: float | None) -> str:
    if num_bytes is None:
        return "?"
    unit, scale = next(
        (both for both in (("GB", 1e9), ("MB", 1e6)) if num_bytes >= both[1]), ("kB", 1e3)
    )
    return f"{num_bytes / scale:.2f} {unit}"


def show(found: dict, price: float) -> None:
    """Tables of a plan (docs/plan.md) on standard output; what does not fit, and what helps."""
    if "stages" not in found:
        _show_one(found, price)
        return
    for stage in found["stages"]:
        _show_one(found | stage, price)
    _show_total(found, price)


def _show_one(found: dict, price: float) -> None:
    limit, most = found["hbm_bytes"], size_text(found["hbm_bytes"])
    columns = ["", *(name for name in ("train", "label") if name in found)]
    plans = [found[name] for name in columns[1:]]

    def row(name: str, show: Callable) -> list[str]:
        return [name, *(show(plan) if plan["fits"] else "-" for plan in plans)]

    rows = [
        ["memory a device", *(f"{size_text(plan['peak_bytes'])} of {most}" for plan in plans)],
        row("arguments", lambda p: size_text(p["argument_bytes"])),
        row("temporaries", lambda p: size_text(p["temporary_bytes"])),
        ["compiled in", *(f"{plan['compile_seconds']:.0f} s" for plan in plans)],
        row("images a device", lambda p: f"{p['images_per_device']:g}"),
        row("FLOPs an image", lambda p: f"{p['flops_per_image'] / 1e9:,.1f} G"),
        row("sent by a device", lambda p: size_text(p["sent_bytes"])),
        row("step, the compiler's estimate", lambda p: f"{p['step_seconds'] * 1e3:,.1f} ms"),
        row("of it between devices", lambda p: f"{p['link_seconds'] * 1e3:,.1f} ms"),
        row("model FLOPs utilisation", lambda p: f"{p['utilisation']:.1%}"),
        row("images a second", lambda p: f"{p['images_per_second']:,.0f}"),
        row("steps", lambda p: f"{p['steps']:,}"),
        row("days", lambda p: f"{p['days']:.2f}"),
        row("core-hours", lambda p: f"{p['core_hours']:,.0f}"),
    ]
    if price:
        rows.append(row("cost", lambda p: f"{p['cost']:,.0f}"))
    name = found.get("name", "plan").capitalize()
    table(f"{name} for {found['topology']}, {found['devices']:,} devices", columns, rows)
    if found["train"]["fits"]:
        lines = [
            [kind, f"{count:,}", size_text(num_bytes)]
            for kind, (count, num_bytes) in found["train"]["collectives"].items()
        ]
        table("Messages of a training step", ["of devices", "times", "bytes"], lines)
    for name, plan in zip(columns[1:], plans, strict=True):
        if not plan["fits"] or plan["peak_bytes"] > limit:
            say(
                f"{name} does not fit: {size_text(plan['peak_bytes'])} of {most}. What helps: "
                "model.remat=full, a larger mesh.fsdp, train.accumulate, fewer images a device, or "
                "more devices"
            )


def _show_total(found: dict, price: float) -> None:
    """A line for each stage's labelling and training, and their sum."""
    rows = []

    def row(name: str, plan: dict) -> None:
        cost = [f"{plan['cost']:,.0f}"] if price else []
        rows.append([name, f"{plan['days']:.2f}", f"{plan['core_hours']:,.0f}", *cost])

    for stage in found["stages"]:
        for kind, what in (("label", "labels for "), ("train", "")):
            if kind in stage and stage[kind]["fits"]:
                row(f"{what}{stage['name']}", stage[kind])
    if found["total"]:
        row("total", found["total"])
    else:
        say("there is no total, for not every stage fits")
    table("The whole self-training", ["", "days", "core-hours", *["cost"] * bool(price)], rows)
