"""Where the first minutes go: the demo and `doctor`, with an empty compile cache and a full one.

    python -m benchmarks.first_minutes [--programs selftrain doctor]

Each run is a process of its own. Compilations are counted by JAX's own events, with the lines of
the program that the compiler was given; what happens at the same time counts once. The last row is
the whole command, start of Python included.
"""

import argparse
import collections
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from benchmarks.sides import machine, row

ROOT = pathlib.Path(__file__).parent.parent
FLAGS = {"doctor": ["--config.doctor.seconds=1.0"]}
STAGES = {  # what is called, by where: module, attribute
    "training": ("ns_jax.programs.train", "run"),
    "labelling": ("ns_jax.programs.label", "run"),
    "selecting": ("ns_jax.programs.select", "run"),
    "evaluating": ("ns_jax.programs.evaluate", "run"),
    "writing checkpoints, the wait for it": ("ns_jax.checkpoints.checkpoint", "Checkpoints.save"),
    "closing them": ("ns_jax.checkpoints.checkpoint", "Checkpoints.close"),
    "reading weights": ("ns_jax.checkpoints.checkpoint", "load_model"),
}
TRACING = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
)
COMPILING = "/jax/core/compile/backend_compile_duration"
SHOWN_FROM_SECONDS = 0.3  # a compilation that took less is one of the others


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", nargs="+", default=["selftrain", "doctor"])
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        return _inside(pathlib.Path(options.inside), options.programs[0])
    print(f"{machine()}\n")
    for program in options.programs:
        with tempfile.TemporaryDirectory() as scratch:
            found = [_run(program, pathlib.Path(scratch), cache) for cache in ("empty", "full")]
        print(f"{program}, seconds:\n")
        row(["what", "empty cache", "full cache"])
        row(["---"] * 3)
        for name in dict.fromkeys([*found[0], *found[1]]):
            row([name, *(f"{one[name]:.1f}" if name in one else "-" for one in found)])
        print()
    return None


def _run(program: str, scratch: pathlib.Path, name: str) -> dict[str, float]:
    """Seconds of each part of a run of the program in a process of its own."""
    where = scratch / name
    where.mkdir()
    tunables = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    environment = {**tunables, **os.environ, "NS_JAX_COMPILE_CACHE": str(scratch / "cache")}
    environment["JAX_DUMP_IR_TO"] = str(where / "ir")
    command = [sys.executable, "-m", "benchmarks.first_minutes"]
    began = time.perf_counter()
    subprocess.run(
        [*command, "--inside", str(where), "--programs", program],
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
        cwd=ROOT,
    )
    whole = time.perf_counter() - began
    found = json.loads((where / "found.json").read_text())
    return {**found, "the whole command": whole}


def _inside(where: pathlib.Path, program: str) -> None:
    began = time.perf_counter()
    import importlib

    from jax import monitoring

    from ns_jax import __main__

    importlib.import_module(f"ns_jax.programs.{program}")
    spans = collections.defaultdict(list, imports=[(began, time.perf_counter())])

    def heard(event: str, seconds: float, fun_name: str = "", **_) -> None:
        now = time.perf_counter()
        if event in TRACING:
            spans["tracing and lowering"].append((now - seconds, now))
        elif event == COMPILING:
            named = fun_name if seconds >= SHOWN_FROM_SECONDS else "others"
            spans[f"compiling {named.removeprefix('jit(').rstrip(')')}"].append(
                (now - seconds, now)
            )

    monitoring.register_event_duration_secs_listener(heard)
    for name, (module, attribute) in STAGES.items():
        owner = importlib.import_module(module)
        *scopes, attribute = attribute.split(".")
        for scope in scopes:
            owner = getattr(owner, scope)
        setattr(owner, attribute, _timed(getattr(owner, attribute), spans[name]))
    arguments = [program, "--config=configs/digits.py", f"--workdir={where / 'run'}"]
    sys.argv = ["ns_jax", *arguments, *FLAGS.get(program, [])]  # where flags of a config are found
    status = __main__.main()
    if status:
        sys.exit(status)
    ended, lines = time.perf_counter(), _lines(where / "ir")
    compiling = [
        span
        for name, all_of in spans.items()
        if "ing " in name
        for span in all_of
        if name.startswith(("compiling", "tracing"))
    ]
    found = {}
    for name, all_of in spans.items():
        if name == "training":  # what is left of it is the steps and the wait for images
            inner = [*compiling, *spans["writing checkpoints, the wait for it"]]
            inner += [*spans["closing them"], *spans["reading weights"]]
            name, seconds = "training steps", _covered(all_of) - _covered(all_of, inner)
        elif name in ("labelling", "evaluating"):
            inner = [*compiling, *spans["reading weights"]]
            seconds = _covered(all_of) - _covered(all_of, inner)
        else:
            seconds = _covered(all_of)
        if name.startswith("compiling ") and name[10:] in lines:
            name += f" ({lines[name[10:]]} lines)"
        if all_of:
            found[name] = seconds
    everything = [span for all_of in spans.values() for span in all_of]
    found["the rest"] = ended - began - _covered([(began, ended)], everything)
    (where / "found.json").write_text(json.dumps(found))


def _timed(function, spans: list):
    def timed(*arguments, **named):
        began = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            spans.append((began, time.perf_counter()))

    return timed


def _covered(spans: list, by: list | None = None) -> float:
    """Seconds in any of `spans`; with `by` those that are in any of these too."""
    edges = sorted({edge for span in [*spans, *(by or [])] for edge in span})
    total = 0.0
    for start, end in zip(edges, edges[1:], strict=False):
        within = [any(a <= start and end <= b for a, b in some) for some in (spans, by or spans)]
        total += (end - start) * all(within)
    return total


def _lines(directory: pathlib.Path) -> dict[str, str]:
    """Lines of the largest program of each name that JAX gave the compiler."""
    found = collections.defaultdict(list)
    for path in directory.glob("*.mlir"):
        name = path.stem.split("_", 2)[-1].removeprefix("jit_").rsplit("_compile", 1)[0]
        found[name].append(path.read_text(errors="replace").count("\n"))
    return {
        name: " and ".join(f"{n:,}" for n in sorted(set(counts))) for name, counts in found.items()
    }


if __name__ == "__main__":
    main()
