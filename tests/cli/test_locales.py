"""Locales that are not UTF-8: everything works, in the user's own folders, and shows what the terminal can."""

import os
from pathlib import Path
import shutil
import subprocess
import sys

from PIL import Image
import pytest


@pytest.fixture(params=["C", "ISO-8859-1"])
def of_locale(request, clean_env, tmp_path):
    """of_locale(*arguments) -> `python -m hires` there, finished, its output as bytes; and the terminal's encoding."""
    env = {name: value for name, value in clean_env.items() if not name.startswith(("LC_", "LANG", "PYTHONUTF8", "PYTHONIOENCODING"))}
    env |= {"LC_ALL": "C", "PYTHONUTF8": "0"}
    encoding = "utf-8"
    if request.param != "C":
        if not shutil.which("localedef"):
            pytest.skip("no localedef to make the locale with")
        place = tmp_path / "locales" / "xx.ISO-8859-1"
        place.parent.mkdir()
        made = subprocess.run(["localedef", "-i", "POSIX", "-f", "ISO-8859-1", place], capture_output=True, check=False)
        if not place.is_dir():
            pytest.skip(f"localedef made none: {made.stderr!r}")
        env |= {"LOCPATH": str(place.parent), "LC_ALL": place.name}
        encoding = "iso-8859-1"

    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = [os.fsencode(sys.executable), b"-m", b"hires", *[argument.encode() for argument in arguments]]
        return subprocess.run(command, env=env, capture_output=True, timeout=300, check=False, cwd=tmp_path)

    return run, encoding


def test_help_and_a_data_set_of_a_foreign_name(of_locale, tmp_path):
    run, encoding = of_locale
    shown = run("--help")
    assert shown.returncode == 0 and b"usage: hires VERB" in shown.stdout and not shown.stderr
    pictures = tmp_path / "Größe 4×4"
    pictures.mkdir()
    for name in ("ä.txt", os.fsdecode(b"\xff.png")):
        (pictures / name).write_bytes(b"no picture")
    out = "daten/größe ☺"
    failed = run("prepare", f"path={pictures}", f"out={out}", "resolution=4")
    assert failed.returncode == 1 and failed.stderr.count(b"\n") == 1 and b"Traceback" not in failed.stderr
    Image.new("RGB", (8, 8)).save(pictures / "ö.png")
    done = run("prepare", f"path={pictures}", f"out='{out}'", "resolution=8", "on_error=skip")
    assert done.returncode == 0 and done.stdout.startswith(f"{out}: prepared".encode(encoding, "replace")), done
    assert (tmp_path / out / "manifest.json").is_file()
    inspected = run("inspect", f"data='{out}'")
    assert inspected.returncode == 0 and f"{out}: verified, no problems".encode(encoding, "replace") in inspected.stdout, inspected


def test_training(clean_env, tiny, tmp_path):
    env = clean_env | {"LC_ALL": "C", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "hires", "train", *tiny, "train.max_images=16", f"run={tmp_path}/lauf_ä"]
    done = subprocess.run([os.fsencode(part) for part in command], env=env, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done
    assert "lauf_ä" in Path(tmp_path, "lauf_ä", "config.yaml").read_text(encoding="utf-8")
