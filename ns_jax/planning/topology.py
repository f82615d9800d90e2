"""TPU slices by name, as the compiler knows them without one: their devices and their numbers.

A device is what JAX on such a slice calls one: a core up to v3, a chip from v4 on. The numbers are
Google's published ones of a chip, shared by its devices.
"""

import dataclasses
import math
import os
import re
import sys

from ns_jax.errors import InputError, MissingPackageError

# For the TPU compiler on a machine that has no TPU; set before JAX looks for devices.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v3-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclasses.dataclass(frozen=True)
class Chip:
    """One generation, for each device."""

    name: str
    devices: int  # of a chip
    cores: int  # of a chip, as slices are named after
    flops: float  # a second, bfloat16
    hbm: float  # bytes
    link_speed: float  # bytes a second between chips, all links together
    clock: float  # Hz, of which the compiler counts cycles
    three_d: bool  # slices are named by three sides

    @property
    def usable(self) -> float:
        """HBM less what the system keeps: 15.5 GB of 16."""
        return 0.97 * self.hbm


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v2", 2, 2, 23e12, 8e9, 124e9, 0.70e9, False),
        Chip("v3", 2, 2, 61.5e12, 16e9, 164e9, 0.94e9, False),
        Chip("v4", 1, 2, 275e12, 32e9, 300e9, 1.05e9, True),
        Chip("v5e", 1, 1, 197e12, 16e9, 200e9, 1.50e9, False),
        Chip("v5p", 1, 2, 459e12, 95e9, 600e9, 1.75e9, True),
        Chip("v6e", 1, 1, 918e12, 32e9, 448e9, 1.75e9, False),
    )
}


@dataclasses.dataclass(frozen=True)
class Topology:
    name: str  # as given
    chip: Chip
    sides: tuple[int, ...]  # chips

    @property
    def num_chips(self) -> int:
        return math.prod(self.sides)

    @property
    def num_devices(self) -> int:
        return self.num_chips * self.chip.devices

    def devices(self) -> list:
        """Raises ImportError without libtpu, InputError where the compiler has no such slice."""
        from jax.experimental import topologies

        sides = (*self.sides, 1) if self.chip.name in ("v2", "v3") else self.sides
        try:
            import libtpu  # noqa: F401
        except ImportError:
            raise MissingPackageError(
                "planning for a TPU needs its compiler: pip install 'ns_jax[plan]'"
            ) from None
        try:
            name = f"{self.chip.name}:{'x'.join(map(str, sides))}"
            # The two cores of a v4 chip are one device, which the compiler has to be told.
            joined = {"chip_config_name": "megacore"} if self.chip.name == "v4" else {}
            found = topologies.get_topology_desc(platform="tpu", topology_name=name, **joined)
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"the TPU compiler has no slice {self.name}: {reason}") from None
        return list(found.devices)


def parse(name: str) -> Topology:
    """`v3:32x32` (chips on each side) or `v3-2048` (cores, as slices are sold).

    Raises InputError that lists the known generations.
    """
    match = re.fullmatch(r"(v\d\w*?)(?::(\d+(?:x\d+)*)|-(\d+))", name)
    if not match or match[1] not in CHIPS:
        raise InputError(
            f"unknown topology {name!r}; known are {', '.join(CHIPS)} with chips on each side, "
            "as v3:32x32, v4:8x8x8, v5e:16x16, or with cores, as v3-2048, v4-1024, v6e-256"
        )
    chip = CHIPS[match[1]]
    if match[2]:
        sides = tuple(int(side) for side in match[2].split("x"))
        if len(sides) == 3 and not chip.three_d and sides[2] == 1:
            sides = sides[:2]
        if len(sides) != 2 + chip.three_d:
            raise InputError(f"topology {name!r}: {chip.name} slices have {2 + chip.three_d} sides")
        return Topology(name, chip, sides)
    return Topology(name, chip, _sides(name, int(match[3]), chip))


def _sides(name: str, cores: int, chip: Chip) -> tuple[int, ...]:
    """The sides of a slice with so many cores: powers of two, as equal as can be."""
    chips = cores // chip.cores
    if cores % chip.cores or chips & (chips - 1) or chips < 4:
        raise InputError(
            f"topology {name!r}: {chip.name} slices have a power of two of chips, at least 4, with "
            f"{chip.cores} cores each; other forms are named by their sides"
        )
    exponent, dimensions = chips.bit_length() - 1, 2 + chip.three_d
    shares = sorted((exponent + i) // dimensions for i in range(dimensions))
    sides = [2**share for share in shares]
    return tuple(side for side in sides if side > 1) + (1,) * sides.count(1)


def prepare() -> None:
    """Makes the TPU compiler usable here. Before JAX is imported."""
    os.environ.update(ENVIRONMENT)
    if sys.modules.get("libtpu", ...) is None:  # hidden from JAX by a program that ran before
        del sys.modules["libtpu"]
