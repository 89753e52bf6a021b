"""What a cluster is: its settings, its addresses, and Slurm's configuration files."""

from dataclasses import asdict, dataclass
import hashlib
import json
from pathlib import Path
import socket
import subprocess

from . import Failed


@dataclass(frozen=True)
class Box:
    """A cluster and its folder; saved there as box.json before anything is started."""

    folder: Path
    nodes: int
    gpus: int  # per node
    cpus: int  # per node
    grace: int  # seconds between a preempted job's warning and its end
    isolation: str  # namespaces | ports
    port: int  # slurmctld's; the nodes' follow
    subnet: str  # the first three numbers of the nodes' network

    @property
    def names(self) -> list[str]:
        return [f"n{number}" for number in range(1, self.nodes + 1)]

    @property
    def control(self) -> str:
        """The controller's address."""
        return f"{self.subnet}.1" if self.isolation == "namespaces" else "127.0.0.1"

    def address(self, node: str) -> str:
        return f"{self.subnet}.{10 + int(node[1:])}" if self.isolation == "namespaces" else "127.0.0.1"

    @property
    def conf(self) -> Path:
        return self.folder / "slurm.conf"

    @property
    def link(self) -> str:
        """The one network interface on the host; derived from the folder, so that it is found after a crash."""
        return link(self.folder)

    def save(self) -> None:
        content = asdict(self) | {"folder": str(self.folder)}
        (self.folder / "box.json").write_text(json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Box":
        try:
            content = json.loads((folder / "box.json").read_text())
        except FileNotFoundError:
            raise Failed(f"{folder}: no cluster there; `slurm/cluster up` makes one") from None
        return cls(**content | {"folder": folder})


def _digest(folder: Path) -> str:
    return hashlib.sha256(str(folder).encode()).hexdigest()


def link(folder: Path) -> str:
    return f"hires-{_digest(folder)[:8]}"


def choose_port(folder: Path, count: int) -> int:
    """The first of `count` free ports below the range of outgoing connections; the search starts at a number derived from the folder."""
    start = int(_digest(folder), 16)
    for block in range(1000):
        port = 10000 + (start + block) % 1000 * 20
        if all(_free(port + offset) for offset in range(count)):
            return port
    raise Failed(f"no {count} free ports between 10000 and 30000")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def choose_subnet(folder: Path) -> str:
    """An unused /24 of 198.18.0.0/15, the range for measurements that no real network has; the search starts at the folder's number."""
    used = subprocess.run(["ip", "-4", "route"], capture_output=True, text=True, check=True).stdout
    start = int(_digest(folder), 16)
    for number in range(512):
        subnet = f"198.{18 + (start + number) % 512 // 256}.{(start + number) % 256}"
        if f"{subnet}." not in used:
            return subnet
    raise Failed("no unused network in 198.18.0.0/15")


def write(box: Box, user: str, plugins: str, version: tuple[int, int]) -> None:
    """slurm.conf, gres.conf, cgroup.conf and what they point to. Settings that are Slurm's defaults are left out."""
    for folder in ("log", "spool", "state", "gpus"):
        (box.folder / folder).mkdir()
    for gpu in range(box.gpus):
        (box.folder / f"gpus/gpu{gpu}").symlink_to("/dev/null")  # Slurm wants a file per GPU and takes any
    host = socket.gethostname().partition(".")[0]
    size = f"CPUs={box.cpus} CoresPerSocket={box.cpus} RealMemory=1000000" + (f" Gres=gpu:{box.gpus}" if box.gpus else "")
    here = f" NodeHostname={host}" if box.isolation == "ports" else ""
    nodes = [
        f"NodeName={name} NodeAddr={box.address(name)} Port={box.port + number} {size}{here}" for number, name in enumerate(box.names, 1)
    ]
    lines = [
        "ClusterName=box",
        f"SlurmctldHost={host}({box.control})",
        f"SlurmctldPort={box.port}",
        f"SlurmUser={user}",
        f"SlurmdUser={user}",
        f"AuthInfo=socket={box.folder}/munge.socket,cred_expire=5",  # a requeued job waits cred_expire, 5 s at least; the default is 120 s
        f"StateSaveLocation={box.folder}/state",
        f"SlurmdSpoolDir={box.folder}/spool/%n",
        f"SlurmctldPidFile={box.folder}/spool/slurmctld.pid",
        f"SlurmdPidFile={box.folder}/spool/%n.pid",
        f"SlurmctldLogFile={box.folder}/log/slurmctld.log",
        f"SlurmdLogFile={box.folder}/log/%n.log",
        "SlurmctldDebug=verbose",
        "SlurmdDebug=verbose",
        "JobCompType=jobcomp/filetxt",
        f"JobCompLoc={box.folder}/log/finished-jobs.txt",
        *([f"PluginDir={plugins}"] if plugins else []),
        "ProctrackType=proctrack/linuxproc",  # control groups may not be ours
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core",
        "SlurmdParameters=config_overrides",  # two real cores may claim to be 64
        "GresTypes=gpu",
        "JobRequeue=0",  # a job must ask for it: --requeue
        "ReturnToService=2",  # a node that comes back is used again
        # everything quick: sites wait for minutes where this waits for seconds
        "SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1",
        "KillWait=2",
        "SlurmdTimeout=6",
        "MessageTimeout=3",
        "TCPTimeout=1",
        "PreemptType=preempt/partition_prio",
        "PreemptMode=REQUEUE",
        "SlurmctldParameters=preempt_send_user_signal",  # the warning is the job's own --signal
        *nodes,
        f"PartitionName=low Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime={box.grace}",
        "PartitionName=high Nodes=ALL PriorityTier=2 PreemptMode=OFF",
    ]
    box.conf.write_text("\n".join(lines) + "\n")
    files = f"Name=gpu File={box.folder}/gpus/gpu[0-{box.gpus - 1}]\n" if box.gpus > 1 else f"Name=gpu File={box.folder}/gpus/gpu0\n"
    (box.folder / "gres.conf").write_text("AutoDetect=off\n" + (files if box.gpus else ""))
    if version >= (23, 11):  # which starts no slurmd without control groups unless told so; older ones do, and refuse to be told
        (box.folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
    hosts = ["127.0.0.1 localhost", f"{box.control} {host}", *(f"{box.address(name)} {name}" for name in box.names)]
    (box.folder / "hosts").write_text("\n".join(hosts) + "\n")
