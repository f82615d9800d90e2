"""The notebook runs from its first cell to its last, and is kept without what it printed."""

import re

import nbclient
import nbformat
import pytest

from tests.conftest import CACHE, ROOT

PATH = ROOT / "notebooks" / "first_run.ipynb"


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(PATH, as_version=4)


def test_it_is_kept_without_outputs(notebook):
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) > 5
    assert not [cell for cell in code if cell.outputs or cell.execution_count]


@pytest.mark.large
def test_it_runs_on_a_cpu(notebook, monkeypatch, tmp_path):
    for name, value in (("NS_JAX_COMPILE_CACHE", CACHE), ("TMPDIR", tmp_path)):
        monkeypatch.setenv(name, str(value))
    client = nbclient.NotebookClient(
        notebook, timeout=1800, resources={"metadata": {"path": str(PATH.parent)}}
    )
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    said = "".join(output.get("text", "") for output in outputs)
    (teacher,), (student,) = (
        re.findall(rf"the {name} has (\S+)% ", said) for name in ("teacher", "student")
    )
    assert 40 < float(teacher) < float(student)
    assert "above the teacher" in said
    assert len(re.findall(r"it is a \d; the student says \d", said)) == 5
    assert [one for one in outputs if "image/png" in one.get("data", {})]
    assert list(tmp_path.glob("first_run_*/report.html"))
