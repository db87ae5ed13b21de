"""The notebooks run from top to bottom, and are kept with what they print and draw."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.docs

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
SAYS = {  # what a run has to show, whatever its figures are
    "01_quickstart": ["distilled", "score"],
    "02_your_own_csv": ["has no column 'stars'", "Did you mean training.epochs?", "distilled", "order"],
    "03_reading_a_sweep": ["best first", "seeds: 2", "accuracy"],
}
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def shown(notebook: nbformat.NotebookNode) -> str:
    return str([cell.get("outputs") for cell in notebook.cells])


@every_notebook
def test_a_notebook_is_kept_with_its_output(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))  # run once, in order
    assert all(words in shown(notebook) for words in SAYS[path.stem])
    assert not re.search(r"/(?:tmp|home|root|Users)/|site-packages|Traceback", shown(notebook))


@every_notebook
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # beside other tests, more threads only wait for one another
    notebook = nbformat.read(path, as_version=4)
    plots = shown(notebook).count("image/png")
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    NotebookClient(notebook, timeout=3600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert all(words in shown(notebook) for words in SAYS[path.stem])
    assert shown(notebook).count("image/png") == plots
