"""What `slurm/cluster` is asked to do."""

import os
from pathlib import Path
import pwd
import shlex
import shutil
import subprocess
import sys
import tempfile
import time

from . import CannotBeHad, Failed, configuration, nodes, packages, processes
from .configuration import Box

DEFAULTS = {"nodes": 2, "gpus": 8, "cpus": 64, "grace": 20}
LEAST = {"nodes": 1, "gpus": 0, "cpus": 1, "grace": 0}


def main(arguments: list[str], usage: str) -> int:
    """0, 1 for a failure, 2 for a wrong command line, 3 where this machine cannot have the cluster."""
    words = [argument for argument in arguments if "=" not in argument]
    settings = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    try:
        folder = Path(settings.pop("folder", f"{tempfile.gettempdir()}/hires-cluster-{os.getuid()}")).resolve()
        match words:
            case ["up"]:
                up(folder, settings)
            case ["down"] if not settings:
                down(folder)
            case ["status"] if not settings:
                return status(folder)
            case ["node", "off", name] if not settings:
                nodes.stop(_with_node(folder, name), name)
            case ["node", "on", name] if not settings:
                node_on(folder, name)
            case _:
                print(usage.strip(), file=sys.stderr)
                return 2
    except (Failed, CannotBeHad) as error:
        print(f"slurm/cluster: {error}", file=sys.stderr)
        return 3 if isinstance(error, CannotBeHad) else 1
    return 0


def up(folder: Path, settings: dict[str, str]) -> None:
    """Start it, wait until every node is idle, and say how it is used."""
    began = time.monotonic()
    sizes, isolation = _check(folder, settings)
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        raise CannotBeHad(f"user {os.getuid()} has no name on this machine, and Slurm wants one") from None
    programs = packages.get()
    if processes.find(folder, "control"):
        raise Failed(f"{folder}: a cluster is up there; `slurm/cluster down` ends it, folder=FOLDER makes another")
    if (folder / "box.json").exists():
        print(f"{folder}: removing what a killed cluster left", file=sys.stderr)
    down(folder)
    folder.mkdir(parents=True, mode=0o700)
    port = configuration.choose_port(folder, sizes["nodes"] + 1)
    subnet = configuration.choose_subnet(folder) if isolation == "namespaces" else ""
    box = Box(folder, **sizes, isolation=isolation, port=port, subnet=subnet)
    box.save()
    try:
        env = _environment(box, programs)
        configuration.write(box, user, programs.plugins, programs.version(env))
        _write_env(box, programs)
        _start_munge(box, programs, env)
        nodes.connect(box, env)
        processes.start(folder, "control", [programs.find("slurmctld"), "-D"], env)
        nodes.start(box, box.names, _slurmd(programs), env)
        _wait_for_nodes(box, programs, env)
    except BaseException:
        down(folder)
        raise
    print(f"{box.nodes} nodes of {box.gpus} GPUs and {box.cpus} CPUs, up in {time.monotonic() - began:.1f} s. To use them:")
    print(f"    source {shlex.quote(str(folder))}/env    # SLURM_CONF and PATH; then sinfo, sbatch, srun, squeue, scancel …")


def _check(folder: Path, settings: dict[str, str]) -> tuple[dict[str, int], str]:
    """The sizes and the isolation asked for."""
    sizes, isolation = dict(DEFAULTS), settings.pop("isolation", None)
    for name, value in settings.items():
        if name not in sizes:
            raise Failed(f"{name}={value}: no such setting; there are {', '.join(sizes)}, isolation, folder")
        if not value.isdecimal() or not LEAST[name] <= int(value) <= 200:
            raise Failed(f"{name}={value}: wanted a number from {LEAST[name]} to 200")
        sizes[name] = int(value)
    if isolation not in (None, "namespaces", "ports"):
        raise Failed(f"isolation={isolation}: wanted namespaces or ports")
    if any(character in str(folder) for character in " \t\n#%,=()[]\"'\\") or len(os.fsencode(folder)) > 90:
        raise Failed(f"folder={folder}: wanted a path of at most 90 plain characters, for Slurm's settings and a socket")
    if folder.exists() and (folder.stat().st_uid != os.getuid() or _strange(folder)):
        raise Failed(f"folder={folder}: it holds something else or is another user's; wanted a new or an empty one")
    if isolation != "ports" and (why := nodes.why_no_namespaces()):
        if isolation:
            raise Failed(f"isolation=namespaces cannot be had here: {why}")
        print(f"nodes share this machine's network and processes (isolation=ports): {why}", file=sys.stderr)
        isolation = "ports"
    return sizes, isolation or "namespaces"


def down(folder: Path) -> None:
    """End every process, remove the network interface and the folder; works too when half of it was killed."""
    processes.kill(folder)
    nodes.remove_link(configuration.link(folder))
    if not folder.exists():
        return
    if _strange(folder):
        raise Failed(f"folder={folder}: no cluster's folder; it is left as it is")
    shutil.rmtree(folder)


def _strange(folder: Path) -> bool:
    """A folder that no cluster has made."""
    return not (folder / "box.json").exists() and any(folder.iterdir())


def status(folder: Path) -> int:
    """The nodes and jobs as Slurm sees them; 1 where the controller is gone."""
    box = Box.load(folder)
    if not processes.find(folder, "control"):
        raise Failed(f"{folder}: a cluster was killed there; `slurm/cluster down` removes what it left")
    programs = packages.get()
    env = _environment(box, programs)
    print(f"{folder} ({box.isolation}); source {shlex.quote(str(folder))}/env", flush=True)
    for command in (["sinfo", "--Node", "--partition=low", "--format=%8N %12T %5c %10G %E"], ["squeue"]):
        done = subprocess.run([programs.find(command[0]), *command[1:]], env=env, check=False)
        if done.returncode:
            return done.returncode
    return 0


def node_on(folder: Path, name: str) -> None:
    """Switch a node on again; Slurm takes it back as soon as it registers."""
    box = _with_node(folder, name)
    if processes.find(folder, name):
        raise Failed(f"{name} is on")
    programs = packages.get()
    nodes.start(box, [name], _slurmd(programs), _environment(box, programs))


def _with_node(folder: Path, name: str) -> Box:
    box = Box.load(folder)
    if name not in box.names:
        raise Failed(f"node {name}: wanted one of {', '.join(box.names)}")
    return box


def _slurmd(programs: packages.Programs) -> list[str]:
    return [programs.find("slurmd"), "-D", "-d", programs.find("slurmstepd")]


def _environment(box: Box, programs: packages.Programs) -> dict[str, str]:
    """What the daemons get: nothing of the caller's."""
    path = f"{programs.path}:{packages.SYSTEM}".lstrip(":")
    libraries = {"LD_LIBRARY_PATH": programs.libraries} if programs.libraries else {}
    return {"PATH": path, "SLURM_CONF": str(box.conf), "LC_ALL": "C.UTF-8", **libraries}


def _write_env(box: Box, programs: packages.Programs) -> None:
    """The file that people source."""
    lines = [f"export SLURM_CONF={shlex.quote(str(box.conf))}"]
    if programs.path:
        lines.append(f'export PATH={shlex.quote(programs.path)}:"$PATH"')
        lines.append(f"export LD_LIBRARY_PATH={shlex.quote(programs.libraries)}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}")
    if box.isolation == "ports":
        lines.append("export MASTER_ADDR=127.0.0.1 # the names of the nodes mean nothing to this machine")
    (box.folder / "env").write_text("\n".join(lines) + "\n")


def _start_munge(box: Box, programs: packages.Programs, env: dict[str, str]) -> None:
    """One munged with a key of its own; the nodes reach its socket through the file system."""
    key = box.folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))
    files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "seed-file": "seed"}
    options = [f"--{name}={box.folder}/munge.{file}" for name, file in files.items()]
    munged = processes.start(box.folder, "munge", [programs.find("munged"), "--foreground", "--force", *options], env)
    deadline = time.monotonic() + 10
    while not (box.folder / "munge.socket").exists():
        if munged.poll() is not None or time.monotonic() > deadline:
            raise Failed(f"munged did not start: {_last_line(box, 'munge.out')}")
        time.sleep(0.01)


def _wait_for_nodes(box: Box, programs: packages.Programs, env: dict[str, str]) -> None:
    deadline = time.monotonic() + 30
    command = [programs.find("sinfo"), "--noheader", "--Node", "--partition=low", "--format=%N %T"]
    while True:
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        states = dict(line.split() for line in done.stdout.splitlines())
        if len(states) == box.nodes and set(states.values()) == {"idle"}:
            return
        if not processes.find(box.folder, "control"):
            raise Failed(f"slurmctld ended: {_last_line(box, 'slurmctld.log')}")
        if time.monotonic() > deadline:
            lines = [f"{name} {state}: {_last_line(box, f'{name}.log')}" for name, state in states.items() if state != "idle"]
            raise Failed(f"nodes are not idle after 30 s: {'; '.join(lines) or done.stderr.strip()}")
        time.sleep(0.05)


def _last_line(box: Box, log: str) -> str:
    try:
        return (box.folder / "log" / log).read_text().strip().splitlines()[-1]
    except (OSError, IndexError):
        return "no message"
