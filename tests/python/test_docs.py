"""The code of docs/reference/python.md, the README and the guide of outputs runs as it stands, one after another, in an empty folder."""

from pathlib import Path
import re

from PIL import Image
import pytest

ROOT = Path(__file__).parents[2]


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def names(tmp_path_factory) -> dict:
    """What the code of docs/reference/python.md has left under its names."""
    folder, found = tmp_path_factory.mktemp("docs"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in blocks("docs/reference/python.md"):
            exec(compile(block, "docs/reference/python.md", "exec"), found)
    return found | {"folder": folder}


def test_the_page(names):
    x, x_hat, b = names["x"], names["x_hat"], names["b"]
    assert names["run"].images >= 2000 and names["run"].finished
    assert x.shape == x_hat.shape == (8, 1, 4, 4) and x_hat.abs().max() <= 1
    assert names["mu"].shape == names["logvar"].shape == (8, b.latent) and names["energies"].shape == (8,)
    assert names["way"].shape == (45, 1, 4, 4) and names["mixed"].shape == (1, 1, 4, 4)
    assert Image.open(names["folder"] / "samples.png").tobytes() == Image.open(names["folder"] / "grid.png").tobytes()


def test_the_readmes_lines(names, monkeypatch):
    (block,) = blocks("README.md")
    monkeypatch.chdir(names["folder"])
    exec(compile(block, "README.md", "exec"), {})
    assert Image.open("faces.png").size == Image.open("grid.png").size


def test_the_guides_lines(names, monkeypatch):
    """Those with this project; what else docs/outputs.md shows is of bundles, which tests/bundle loads."""
    monkeypatch.chdir(names["folder"])
    exec(compile(blocks("docs/outputs.md")[0], "docs/outputs.md", "exec"), found := {})
    assert found["x"].shape == found["x_hat"].shape == (16, 1, 4, 4) and found["energies"].shape == found["way"].shape[:1] == (16,)
