"""The rules of the house: imports go down, names stay where they belong, files stay small."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "ns_jax"

# Lowest first. A module imports from lower floors only; none imports a neighbour on its own floor.
FLOORS = [
    {"data.files", "data.headers", "preemption", "progress"},
    {
        *("ascent", "config", "trees", "losses", "metrics", "idle", "packing"),
        *("models.convolutions", "plan_text"),
        *("compiled", "processes", "rollcall", "topology", "data.ranking", "data.tally"),
        *("data.decoding", "data.resizing", "data.workers", "data.perceptual"),
    },
    {
        *("models.layers", "manifest", "sharding", "optim", "leases", "calibration"),
        "guard",
        "fleet",
        *("data.images", "data.randaugment", "data.labels", "data.source", "data.class_names"),
        *("data.bad_images", "data.selection", "data.candidates", "data.reading"),
    },
    {
        *("work", "checksum"),
        *("state", "models.efficientnet", "weights.published", "weights.layout", "data.views"),
        "leaks",
        *("data.formats.digits", "data.formats.folder", "data.formats.tfds"),
        "data.shards",
        *("data.formats.array_record", "data.formats.parquet", "data.formats.webdataset"),
    },
    {
        "steps",
        *("data.sources", "data.pipeline", "data.choice"),
        *("checkpoint", "weights.timm", "weights.tf_checkpoint"),
        "models.macs",
    },
    {"experiment"},
    {"weights.imported", "weights.export", "predictor", "trainer"},
    {
        "api",
        *("programs.train", "programs.label", "programs.select", "programs.evaluate"),
        *("programs.convert", "programs.doctor", "programs.plan"),
    },
    {"programs.selftrain"},
    {"__main__"},
]
FLOOR_OF = {module: number for number, floor in enumerate(FLOORS) for module in floor}
FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py"
}


def imports_of(path: pathlib.Path) -> set[str]:
    """Dotted names of all imports of a file, wherever they stand in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def own_imports(path: pathlib.Path) -> set[str]:
    """Modules of this package that a file imports, without the package's name."""
    inside = {n.removeprefix("ns_jax.") for n in imports_of(path) if n.startswith("ns_jax.")}
    return {name if name in FILES else name.rpartition(".")[0] for name in inside}


def uses(path: pathlib.Path, name: str) -> bool:
    nodes = ast.walk(ast.parse(path.read_text()))
    return any(
        (isinstance(n, ast.Name) and n.id == name)
        or (isinstance(n, ast.Attribute) and n.attr == name)
        for n in nodes
    )


def test_every_module_has_a_floor():
    assert set(FILES) == set(FLOOR_OF)


@pytest.mark.parametrize("module", sorted(FILES))
def test_imports_go_down(module):
    wrong = {n for n in own_imports(FILES[module]) if FLOOR_OF[n] >= FLOOR_OF[module]}
    assert not wrong, f"{module} imports {wrong}, which are not below it"


def test_the_check_sees_imports():
    assert "models.layers" in own_imports(FILES["models.efficientnet"])
    assert uses(FILES["sharding"], "NamedSharding")


@pytest.mark.parametrize("module", sorted(FILES))
def test_names_stay_where_they_belong(module):
    path, imported = FILES[module], imports_of(FILES[module])
    if not module.startswith("models."):
        assert not any(name.startswith("flax") for name in imported), "flax lives in models/"
    if module.startswith("data."):
        assert not any(n.startswith("jax") or "ns_jax.models" in n for n in imported)
    if module.startswith("models."):
        assert not any("ns_jax.data" in name for name in imported)
    if module != "sharding":
        assert not any(uses(path, name) for name in ("Mesh", "NamedSharding", "PartitionSpec"))
    assert len(path.read_text().splitlines()) <= 350
    assert path.stem not in ("utils", "common", "helpers")
    if module != "config":
        assert "config.get(" not in path.read_text(), "every key is declared; read it as one"
