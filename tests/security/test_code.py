"""What the package's own code may not call, read from its syntax."""

import ast

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.large

FILES = sorted((ROOT / "ns_jax").rglob("*.py"))

# Modules that run what they read, extract what they are given, or serve.
MODULES = {
    *("pickle", "_pickle", "dill", "joblib", "shelve", "marshal", "torch", "yaml", "runpy", "code"),
    *("zipfile", "http", "socketserver", "xmlrpc", "asyncio", "flask", "tensorboard"),
}
NAMES = {"eval", "exec", "compile", "__import__"}  # as plain calls: re.compile is another thing
METHODS = {
    *("extract", "extractall", "unpack_archive", "system", "popen", "read_pickle", "to_pickle"),
    *("listen", "start_server", "serve_forever", "create_server", "Manager"),
}
ALLOWED = {
    # Work goes from the trainer to its own worker processes through a pipe that they inherit.
    ("data/workers.py", "cloudpickle"),
    # An .npz file is a zip file, whose named arrays are streamed; nothing is unpacked to a disk.
    ("predictions/arrays.py", "zipfile"),
    # fsspec's clients of buckets run in a loop of asyncio's, in which requests are given their end.
    ("buckets/reads.py", "asyncio"),
    ("buckets/gcs.py", "asyncio"),
}


def problems(tree: ast.AST) -> list[str]:
    """What is not allowed in a module."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [n.name for n in node.names if n.name.split(".")[0] in MODULES]
            found += [n.name for n in node.names if n.name == "cloudpickle"]
        elif isinstance(node, ast.ImportFrom):
            names = {node.module, *(f"{node.module}.{n.name}" for n in node.names)}
            found += [name for name in names if name.split(".")[0] in (*MODULES, "cloudpickle")]
        elif isinstance(node, ast.Call):
            found += _problems_of_call(node)
    return found


def _problems_of_call(node: ast.Call) -> list[str]:
    keywords = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
    name = getattr(node.func, "id", getattr(node.func, "attr", ""))
    plain = isinstance(node.func, ast.Name)
    found = []
    if (plain and name in NAMES) or name in METHODS:
        found.append(name)
    if not plain and name == "load" and getattr(node.func.value, "id", "") in ("np", "numpy"):
        found.append("np.load")
    found += [k for k in ("allow_pickle", "shell", "trust_remote_code") if keywords.get(k)]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nothing_runs_what_it_reads_or_serves(path):
    name = path.relative_to(ROOT / "ns_jax").as_posix()
    found = {(name, problem) for problem in problems(ast.parse(path.read_text()))}
    assert not found - ALLOWED


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("import pickle", "pickle"),
        ("from torch import load", "torch"),
        ("import torch.hub", "torch.hub"),
        ("import cloudpickle", "cloudpickle"),
        ("eval(text)", "eval"),
        ("np.load(path)", "np.load"),
        ("f(x, allow_pickle=True)", "allow_pickle"),
        ("subprocess.run(text, shell=True)", "shell"),
        ("archive.extractall(place)", "extractall"),
        ("server.listen()", "listen"),
    ],
)
def test_the_check_sees_them(code, problem):
    assert problem in problems(ast.parse(code))


def test_the_check_lets_good_code_pass():
    code = """
import re
re.compile("a"), jax.eval_shape(f), safetensors.numpy.load_file(p), json.loads(t)
archive.extractfile(member)
"""
    assert problems(ast.parse(code)) == []
