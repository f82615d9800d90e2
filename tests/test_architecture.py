"""The rules of the house: imports go down, by pyproject.toml; names stay in their rooms."""

import ast
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "ns_jax"
FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py"
}
MOST_LINES = 400
MOST_FILES_AT_THE_TOP = 12


def imports_of(path: pathlib.Path) -> set[str]:
    """Dotted names of all imports of a file, wherever they stand in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def uses(path: pathlib.Path, name: str) -> bool:
    nodes = ast.walk(ast.parse(path.read_text()))
    return any(
        (isinstance(n, ast.Name) and n.id == name)
        or (isinstance(n, ast.Attribute) and n.attr == name)
        for n in nodes
    )


def test_imports_go_down():
    command = pathlib.Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([command], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout[-3000:]


def test_the_check_sees_names():
    assert "ns_jax.models.layers" in imports_of(FILES["models.efficientnet"])
    assert uses(FILES["parallel.mesh"], "NamedSharding")


@pytest.mark.parametrize("module", sorted(FILES))
def test_names_stay_where_they_belong(module):
    path, imported = FILES[module], imports_of(FILES[module])
    if not module.startswith("models."):
        assert not any(name.startswith("flax") for name in imported), "flax lives in models/"
    if module.startswith("data."):
        assert not any(name.startswith("jax") for name in imported), "nothing here has a device"
    if module != "parallel.mesh":
        assert not any(uses(path, name) for name in ("Mesh", "NamedSharding", "PartitionSpec"))
    assert len(path.read_text().splitlines()) <= MOST_LINES
    assert path.stem not in ("utils", "common", "helpers")
    if module != "config":
        assert "config.get(" not in path.read_text(), "every key is declared; read it as one"


def test_the_top_of_the_package_is_small():
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_FILES_AT_THE_TOP


def functions_of(path: pathlib.Path) -> Iterator[ast.FunctionDef]:
    """The functions and methods of a file, those within functions as well."""
    return (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef))


@pytest.mark.parametrize("module", sorted(FILES))
def test_public_functions_are_annotated(module):
    for function in functions_of(FILES[module]):
        if function.name.startswith("_"):
            continue
        each = function.args
        arguments = [*each.posonlyargs, *each.args, *each.kwonlyargs, each.vararg, each.kwarg]
        bare = [one.arg for one in arguments if one and not one.annotation]
        assert not set(bare) - {"self", "cls"}, f"{function.name}: {bare}"
        assert function.returns, f"{function.name} says nothing of its result"


@pytest.mark.parametrize("module", sorted(FILES))
def test_docstrings_begin_with_what_they_are_of(module):
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef
    tree = ast.parse(FILES[module].read_text())
    texts = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds)]
    assert not [text for text in texts if text.startswith("Of ")]
