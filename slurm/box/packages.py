"""Slurm's programs: those that are installed, or the distribution's packages unpacked into a private folder.

Root takes the private folder too: an installation would start munge's service, add users, and could change a real cluster's Slurm.
"""

from dataclasses import dataclass
import fcntl
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys
import tempfile

from . import CannotBeHad, Failed

PROGRAMS = ("slurmctld", "slurmd", "slurmstepd", "sbatch", "srun", "scontrol", "munged")
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
SYSTEM = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Programs:
    """Where Slurm's programs are."""

    path: str  # in front of PATH; empty where they are installed
    libraries: str = ""  # LD_LIBRARY_PATH
    plugins: str = ""  # Slurm's PluginDir

    def find(self, name: str) -> str:
        """The full path of one program."""
        found = shutil.which(name, path=f"{self.path}:{os.environ.get('PATH', '')}:{SYSTEM}")
        if found is None:
            raise CannotBeHad(f"{name}: not among the unpacked packages and not installed")
        return found

    def version(self, env: dict[str, str]) -> tuple[int, int]:
        """Slurm's release, such as (22, 5)."""
        said = subprocess.run([self.find("slurmd"), "-V"], env=env, capture_output=True, text=True, check=False).stdout
        match = re.search(r"(\d+)\.(\d+)", said)
        if match is None:
            raise Failed(f"slurmd -V: found {said.strip()!r}, wanted a version")
        return int(match[1]), int(match[2])


def get() -> Programs:
    """Unpacked before, installed, or unpacked now."""
    cache = _cache()
    if (cache / "complete").exists():
        return _unpacked(cache)
    if all(shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SYSTEM}") for name in PROGRAMS):
        return Programs(path="")
    for tool in ("apt-get", "dpkg"):
        if shutil.which(tool) is None:
            raise CannotBeHad(f"Slurm is not installed, and its packages are fetched on Debian and Ubuntu alone: no {tool} here")
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another `up` may be fetching them
        if not (cache / "complete").exists():
            _fetch(cache)
    return _unpacked(cache)


def _cache() -> Path:
    """.slurm/ in the project's folder, beside .venv; where that cannot be written to, a folder of this user's."""
    project = Path(__file__).resolve().parents[2]
    if (project / ".slurm/complete").exists() or os.access(project, os.W_OK):
        return project / ".slurm"
    own = Path(tempfile.gettempdir()) / f"hires-slurm-{os.getuid()}"
    own.mkdir(mode=0o700, exist_ok=True)
    if own.stat().st_uid != os.getuid():
        raise CannotBeHad(f"{own}: it belongs to another user, whose programs are not trusted")
    return own


def _fetch(cache: Path) -> None:
    print(f"fetching Slurm's packages into {cache} (about 4 MB, 10–30 s) …", file=sys.stderr)
    (cache / ".gitignore").write_text("*\n")
    archives, lists = cache / "archives", cache / "lists"
    for folder in (archives, lists):
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "partial").mkdir(parents=True)
    options = ["-qq", "-y", "-o", "Debug::NoLocking=1", "-o", f"Dir::Cache={cache}", "-o", f"Dir::Cache::archives={archives}"]
    options += ["-o", "APT::Sandbox::User="]  # root's apt would hand the files to another user
    own = ["-o", f"Dir::State::lists={lists}"]  # package lists of our own, where the machine's are missing or too old
    download = ["--no-install-recommends", "--reinstall", "--download-only", "install", *PACKAGES]
    if _apt(*options, *download).returncode:
        update = _apt(*options, *own, "update")  # may fail for a source that matters not
        done = _apt(*options, *own, *download)
        if done.returncode:
            said = (update.stderr.strip() or done.stderr.strip() or "no message").splitlines()[0]
            raise CannotBeHad(f"Slurm is not installed, and apt-get could not fetch {', '.join(PACKAGES)}: {said}")
    root = cache / "root"
    shutil.rmtree(root, ignore_errors=True)
    for archive in sorted(archives.glob("*.deb")):
        subprocess.run(["dpkg", "-x", archive, root], check=True)
    for real in (root / "usr/sbin").glob("*-wlm"):  # the plain names are made by update-alternatives on installation
        (root / "usr/bin" / real.name.removesuffix("-wlm")).symlink_to(f"../sbin/{real.name}")
    for folder in (archives, lists):
        shutil.rmtree(folder)
    _unpacked(cache)
    (cache / "complete").touch()


def _apt(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["apt-get", *arguments], env=os.environ | {"LC_ALL": "C"}, capture_output=True, text=True, check=False)


def _unpacked(cache: Path) -> Programs:
    root = cache / "root"
    plugins = next(root.glob("usr/lib/*/slurm-wlm"), None)
    if plugins is None:
        raise CannotBeHad(f"{root}: no usr/lib/*/slurm-wlm in this distribution's packages")
    programs = Programs(f"{root}/usr/bin:{root}/usr/sbin", f"{plugins.parent}:{plugins}", str(plugins))
    for name in PROGRAMS:
        programs.find(name)
    return programs
