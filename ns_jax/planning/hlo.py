"""What the compiled text of a step says: the compiler's own time estimate, and its collectives.

The compiler's cost analysis counts the body of a loop once; here a loop counts as often as it runs.
"""

import collections
import dataclasses
import math
import re

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s64": 8, "u64": 8}
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(COLLECTIVES)})(?:-start)?\(")
_ARRAY = re.compile(r"\b([a-z]+[0-9]*)\[([0-9,]*)\]")
_COMPUTATION = re.compile(r"^(?:ENTRY )?(%[\w.\-]+) \(.*\{$")
_CALLED = re.compile(r"(?:body|condition|to_apply|true_computation|false_computation)=(%[\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One kind of message between devices, with how often a step sends it."""

    kind: str  # of COLLECTIVES
    num_bytes: int  # of the result on one device
    group_size: int  # devices that take part together; 0: pairs
    name: str  # where in the network it comes from
    count: int

    @property
    def sent(self) -> float:
        """Bytes that a device sends in a step, where it passes them round a ring."""
        size = max(self.group_size, 1)
        others = size - 1
        share = {
            "all-reduce": 2 * others / size,
            "all-gather": others / size,
            "reduce-scatter": others,
            "all-to-all": others / size,
            "collective-permute": 1,
        }
        return self.count * self.num_bytes * share[self.kind]


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a step takes of each device."""

    cycles: int  # the compiler's estimate for all but the collectives
    collectives: tuple[Collective, ...]


def read(text: str) -> Reading:
    """Reads `compiled.as_text()` of a step for one device of many.

    Raises RuntimeError for a text without estimates: another compiler's, or of a new form.
    """
    bodies, entry = _computations(text)
    cycles = 0
    found: collections.Counter[tuple[str, int, int, str]] = collections.Counter()
    for name, times in _times(bodies, entry).items():
        for line in bodies[name]:
            if match := _COLLECTIVE.search(line):
                shapes, kind = match.groups()
                source = re.search(r'op_name="([^"]*)"', line)
                key = (kind, _num_bytes(shapes), _group_size(line), source[1] if source else "")
                found[key] += times
            elif match := re.search(r'"estimated_cycles":"(\d+)"', line):
                cycles += times * int(match[1])
    if not cycles:
        raise RuntimeError("the compiled step says nothing of the cycles that it takes")
    return Reading(cycles, tuple(Collective(*key, count) for key, count in found.items()))


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Lines of each computation, and the name of the one that begins."""
    bodies: dict[str, list[str]] = {}
    lines: list[str] = []
    entry = ""
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            lines = bodies[match[1]] = []
            entry = match[1] if line.startswith("ENTRY") else entry
        elif line.startswith("  "):
            lines.append(line)
    return bodies, entry


def _times(bodies: dict[str, list[str]], entry: str) -> dict[str, int]:
    """How often each computation runs in a step. Bodies of fusions are left to their fusion."""
    times: collections.Counter[str] = collections.Counter()
    waiting = [(entry, 1)]
    while waiting:
        name, count = waiting.pop()
        times[name] += count
        for line in bodies[name]:
            if " while(" in line:
                called = _CALLED.findall(line)
                turns = _turns(line, bodies)
            elif " conditional(" in line or " call(" in line:
                branches = _BRANCHES.search(line)
                called = _CALLED.findall(line)
                called += re.findall(r"%[\w.\-]+", branches[1]) if branches else []
                turns = 1
            else:
                continue
            waiting += [(body, count * turns) for body in called]
    return times


def _turns(line: str, bodies: dict[str, list[str]]) -> int:
    """Turns of a loop: what the compiler says, or the bound that its condition compares with."""
    if match := re.search(r'known_trip_count[^}]*?"?n"?:"(\d+)"', line):
        return int(match[1])
    condition = re.search(r"condition=(%[\w.\-]+)", line)[1]  # type: ignore[index]  # it has one
    bounds = [int(n) for n in re.findall(r" constant\((\d+)\)", "\n".join(bodies[condition]))]
    return max(bounds, default=1)


def _num_bytes(shapes: str) -> int:
    return sum(
        _BYTES.get(dtype, 4) * math.prod(int(n) for n in dims.split(",") if n)
        for dtype, dims in _ARRAY.findall(re.sub(r"\{[^}]*\}", "", shapes))
    )


def _group_size(line: str) -> int:
    """From `{{0,1},{2,3}}`, `[2,2]<=[4]` or `mesh['a'=2,'b'=2] {'b'}`; 0 without."""
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", match[2]))
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(match[1])
    if match := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return match[1].count(",") + 1
    return 0
