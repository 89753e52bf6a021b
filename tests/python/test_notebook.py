"""docs/digits.ipynb runs from its first cell to its last, in a notebook's own process."""

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
client = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

NOTEBOOK = Path(__file__).parents[2] / "docs" / "digits.ipynb"


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The notebook's cells after they were executed, with a run of 2,000 images."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIGITS_IMAGES", "2k")
        patch.setenv("OMP_NUM_THREADS", "1")
        folder = tmp_path_factory.mktemp("notebook")
        client.NotebookClient(notebook, timeout=500, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(cell) -> list[dict]:
    """What a cell showed, by type."""
    return [output["data"] for output in cell.outputs if output.output_type in ("display_data", "execute_result")]


def test_it_shows_pictures_inline(ran):
    assert len([data for cell in ran for data in outputs(cell) if "image/png" in data]) == 3


def test_tables_are_tables_and_progress_is_one_line_a_level(ran):
    (cell,) = [cell for cell in ran if "hires.train" in cell.source]
    shown = outputs(cell)
    assert any("text/html" in data and "level" in data["text/html"] for data in shown)
    assert len([data for data in shown if "s/kimg" in data["text/plain"]]) == 1  # of the one level that so short a run sees
    assert "Trained(run=PosixPath('digits/run')" in shown[-1]["text/plain"]


def test_the_committed_outputs_are_of_one_whole_run():
    """Executed from the first cell to the last without an error, to the schedule's end, with the pictures that the cells show."""
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert len([data for cell in cells for data in outputs(cell) if "image/png" in data]) == 3
    (trained,) = [cell for cell in cells if "hires.train" in cell.source]
    assert "images=36016, finished=True" in outputs(trained)[-1]["text/plain"]
