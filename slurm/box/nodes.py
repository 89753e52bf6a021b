"""Nodes: each a set of kernel namespaces on a network of the cluster's own, or, where that is not allowed, one slurmd on its own port."""

import os
from pathlib import Path
import subprocess

from . import Failed, processes
from .configuration import Box

NAMESPACES = ["unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]
TRIAL = "ip link add name one type veth peer name two && ip link add name bridge type bridge && mount -t tmpfs x /dev/shm && hostname x"
NODE = str(Path(__file__).with_name("node.sh"))


def why_no_namespaces() -> str:
    """What keeps this process from making nodes of namespaces; empty if nothing does."""
    if os.getuid() != 0:
        return "not root"
    try:
        done = subprocess.run([*NAMESPACES, "sh", "-c", TRIAL], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        return f"{error.filename}: not found"
    return "" if done.returncode == 0 else (done.stderr.strip() or "unshare failed").splitlines()[-1]


def connect(box: Box, env: dict[str, str]) -> None:
    """The nodes' network: a bridge in a namespace of its own, where no firewall of this machine reaches, and one link from here into it."""
    if box.isolation != "namespaces":
        return
    switch = processes.start(
        box.folder, "switch", ["unshare", "--net", "sh", "-c", "echo ready; exec sleep infinity >/dev/null"], env, stdout=subprocess.PIPE
    )
    _ready(switch, box, "switch")
    _ip(
        f"link add name {box.link} type veth peer name host netns {switch.pid}",
        f"address add {box.control}/24 dev {box.link}",
        f"link set {box.link} up",
    )
    _ip("link set lo up", "link add name switch type bridge", "link set switch up", "link set host master switch up", inside=switch.pid)


def start(box: Box, names: list[str], slurmd: list[str], env: dict[str, str]) -> None:
    """Switch nodes on; all at once, since each takes a moment."""
    if box.isolation != "namespaces":
        for name in names:
            processes.start(box.folder, name, [*slurmd, "-N", name], env)
        return
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    script = [*NAMESPACES, "bash", NODE]
    hosts = str(box.folder / "hosts")
    started = {
        name: processes.start(box.folder, name, [*script, name, f"{box.address(name)}/24", hosts, *slurmd, "-N", name], env, **pipes)
        for name in names
    }
    for name, node in started.items():
        _ready(node, box, name)
    commands = []
    for name, node in started.items():
        commands += [f"link add name {name} type veth peer name eth0 netns {node.pid}", f"link set {name} master switch up"]
    _ip(*commands, inside=_switch(box))
    for node in started.values():
        node.stdin.write(b"connected\n")
        node.stdin.close()


def stop(box: Box, name: str) -> None:
    """A power failure: first the network, so that nobody is told, then the processes."""
    if not processes.find(box.folder, name):
        raise Failed(f"{name} is off")
    if box.isolation == "namespaces":
        _ip(f"link set {name} down", f"link delete {name}", inside=_switch(box))
    processes.kill(box.folder, name)


def remove_link(link: str) -> None:
    """The namespaces end with their processes, and their links with them, but the kernel takes its time."""
    if Path("/sys/class/net", link).exists():
        subprocess.run(["ip", "link", "delete", link], capture_output=True, check=False)
    if Path("/sys/class/net", link).exists():
        raise Failed(f"network interface {link} cannot be removed")


def _switch(box: Box) -> int:
    pids = processes.find(box.folder, "switch")
    if not pids:
        raise Failed(f"{box.folder}: its network is gone; slurm/cluster down, then up")
    return min(pids)


def _ready(process: subprocess.Popen, box: Box, part: str) -> None:
    """Wait until it is in its namespaces."""
    if process.stdout.readline() != b"ready\n":
        log = (box.folder / f"log/{part}.out").read_text().strip() or "no message"
        raise Failed(f"{part} did not start: {log.splitlines()[-1]}")


def _ip(*commands: str, inside: int | None = None) -> None:
    enter = [] if inside is None else ["nsenter", f"--net=/proc/{inside}/ns/net"]
    done = subprocess.run([*enter, "ip", "-batch", "-"], input="\n".join(commands) + "\n", capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"ip: {'; '.join(done.stderr.strip().splitlines())}")
