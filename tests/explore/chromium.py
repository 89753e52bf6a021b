"""A headless Chromium: the one that is installed, or Debian's package unpacked into a private folder, where nothing else sees it."""

import fcntl
import os
from pathlib import Path
import shutil
import subprocess
import sys

NAMES = ("chromium-headless-shell", "chromium", "google-chrome", "google-chrome-stable", "microsoft-edge")
PACKAGE = "chromium-headless-shell"
CACHE = Path(__file__).parents[2] / ".chromium"  # beside .venv and .slurm


class CannotBeHad(Exception):
    """Why there is no browser here, in one line."""


def get() -> tuple[list[str], dict[str, str]]:
    """The command that starts it, and what its environment needs; raises CannotBeHad where this machine has none and cannot fetch one."""
    for name in NAMES:
        if found := shutil.which(name):
            return [found], {}
    if not (CACHE / "complete").exists():
        for tool in ("apt-get", "dpkg"):
            if shutil.which(tool) is None:
                raise CannotBeHad(f"no browser is installed ({', '.join(NAMES)}), and one is fetched on Debian alone: no {tool} here")
        CACHE.mkdir(exist_ok=True)
        with open(CACHE / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another test process may be fetching it
            if not (CACHE / "complete").exists():
                _fetch()
    root = CACHE / "root"
    program = next(root.glob(f"usr/lib/chromium*/{PACKAGE}"), None) or next(root.glob("usr/bin/chromium-headless-shell"), None)
    if program is None:
        raise CannotBeHad(f"{root}: no {PACKAGE} in this distribution's package")
    libraries = [folder for folder in root.glob("usr/lib/*-linux-gnu*") if folder.is_dir()]
    libraries += [folder / "pulseaudio" for folder in libraries]
    fonts = CACHE / "fonts.conf"
    return [str(program)], {"LD_LIBRARY_PATH": ":".join(map(str, libraries)), "FONTCONFIG_FILE": str(fonts)}


def _fetch() -> None:
    print(f"fetching {PACKAGE} into {CACHE} (about 90 MB) …", file=sys.stderr)
    (CACHE / ".gitignore").write_text("*\n")
    archives, lists, root = CACHE / "archives", CACHE / "lists", CACHE / "root"
    for folder in (archives, lists):
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "partial").mkdir(parents=True)
    options = ["-qq", "-y", "-o", "Debug::NoLocking=1", "-o", f"Dir::Cache={CACHE}", "-o", f"Dir::Cache::archives={archives}"]
    options += ["-o", "APT::Sandbox::User="]  # root's apt would hand the files to another user
    own = ["-o", f"Dir::State::lists={lists}"]  # package lists of our own, where the machine's are missing or too old
    download = ["--no-install-recommends", "--reinstall", "--download-only", "install", PACKAGE, "fonts-dejavu-core"]
    if _apt(*options, *download).returncode:
        update = _apt(*options, *own, "update")  # may fail for a source that matters not
        done = _apt(*options, *own, *download)
        if done.returncode:
            said = (done.stderr.strip() or update.stderr.strip() or "no message").splitlines()[0]
            raise CannotBeHad(f"no browser is installed, and apt-get could not fetch {PACKAGE}: {said}")
    shutil.rmtree(root, ignore_errors=True)
    for archive in sorted(archives.glob("*.deb")):
        subprocess.run(["dpkg", "-x", archive, root], check=True)
    for folder in (archives, lists):
        shutil.rmtree(folder)
    (CACHE / "fonts.conf").write_text(
        f'<fontconfig><include ignore_missing="yes">/etc/fonts/fonts.conf</include>'
        f"<dir>{root}/usr/share/fonts</dir><cachedir>{CACHE}/fonts</cachedir></fontconfig>\n"
    )
    (CACHE / "complete").touch()


def _apt(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["apt-get", *arguments], env=os.environ | {"LC_ALL": "C"}, capture_output=True, text=True, check=False)
