"""`hires demo`, from a wheel and from anywhere: what is promised to a person who has installed it and nothing else."""

import json
import os
from pathlib import Path
import shutil
import subprocess
import sys
from zipfile import ZipFile

from PIL import Image
import pytest

from hires import cli, config

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of this checkout, built aside so that nothing is left in it."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("hires", "pipelines", "configs"):
        shutil.copytree(ROOT / name, folder / "source" / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder / "source")
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--wheel-dir")
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, folder, folder / "source"], check=True, timeout=300)
    return next(folder.glob("hires-*.whl"))


def test_a_wheel_brings_its_own_names_and_files_alone(wheel):
    """Nothing called `configs` or `tests` beside other people's packages; every configuration and page is in it."""
    names = ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"hires", "pipelines"}
    files = (path for name in ("hires", "pipelines") for path in (ROOT / name).rglob("*") if path.is_file())
    here = [path for path in files if "__pycache__" not in path.parts]
    configs = [ROOT / "hires" / path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yaml")]
    assert {str(path.relative_to(ROOT)) for path in [*here, *configs]} == {name for name in names if ".dist-info" not in name}


SCRIPT = """
import sys, hires
from hires.cli import main
assert hires.__file__.startswith(sys.argv[1]), hires.__file__
for images in ("images=32", "images=64"):
    if status := main(["demo", images]):
        sys.exit(status)
"""


def test_a_wheel_makes_the_demo_in_an_empty_folder_and_goes_on_with_it(wheel, tmp_path, clean_env):
    """The second call resumes the run, and its bundle is the newer one."""
    ZipFile(wheel).extractall(tmp_path / "site")
    (tmp_path / "empty").mkdir()
    env = clean_env | {"PYTHONPATH": str(tmp_path / "site")}
    command = [sys.executable, "-c", SCRIPT, tmp_path / "site"]
    done = subprocess.run(command, cwd=tmp_path / "empty", env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert os.listdir(tmp_path / "empty") == ["demo"]
    made = tmp_path / "empty/demo/digits-16"
    assert {"bundle", "data", "interpolation.mp4", "reconstructions.png", "run", "samples.png"} == set(os.listdir(made))
    assert {Image.open(made / f"{name}.png").format for name in ("samples", "reconstructions")} == {"PNG"}
    assert json.loads((made / "bundle/config.json").read_text())["info"]["images_seen"] == 64
    assert "resuming from" in done.stdout and "images-000000000032" in done.stdout.partition("resuming from")[2]


def test_a_folder_that_is_not_there_is_told_before_any_work(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["demo", "data=nowhere"]) == 1
    assert capsys.readouterr().err == "hires demo: error: data=nowhere: no such folder; wanted a folder of pictures\n"
    assert os.listdir(tmp_path) == []


def test_an_installation_without_its_configurations_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(config, "CONFIGS", tmp_path)
    assert cli.main(["plan", "experiment=digits"]) == 1
    error = capsys.readouterr().err
    assert f"{tmp_path}/plan.yaml is missing" in error and "install hires again" in error and error.count("\n") == 1
