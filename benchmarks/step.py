"""Time and peak memory of one divergence-triangle step at each resolution, against the loop as it was published.

    python benchmarks/step.py                                    # what this machine bears in --budget seconds
    python benchmarks/step.py --network base --resolutions 32,64 --rounds 3 --write

Seven contenders step on the same batch, in turn, round after round, so whatever else the machine does strikes all alike; a ratio
is the median over rounds of (contender / published loop) within a round, and '/ plain' that of energy_first over the same code without
engines. Counted in forward passes of one network (docs/inside.md):

    loop as published   30  plain autograd: three passes, every forward made again for each network, gradients into all of them
    published           25  hires, the published order without that waste
    energy_first        20  hires, the default
    simultaneous        18  hires
    energy_first plain  20  the same code as energy_first on plain autograd players: what it lacks against energy_first is DeepSpeed's cost
    energy_first in turn 20  energy_first on networks that resample, convolve, activate and normalise in turn, as the published ones do
    energy_first R1         energy_first in a step that computes the gradient penalty (one in objective.r1_every)

Two more where --contenders names them: another game, on two networks of the same channels in the field's usual code (benchmarks/progan.py):

    progan              12  a progressive GAN: critic, then generator
    progan R1               the same in a step with R1 on real images

The penalty is off in the others: the published loop has none. Nor has it corrupted images among the energy's fakes, which the default
of the others adds (3 more passes); `objective.energy_sees=samples` behind the arguments is without. All clip gradients and take the
same Adam; hires keeps a moving average of the weights too, which the published loop does not. Nothing is asserted here: the table is
the result.
"""

import argparse
from contextlib import nullcontext
import dataclasses
import datetime
import math
import multiprocessing
import os
from pathlib import Path
import platform
import statistics
import subprocess
import time
from unittest.mock import patch

from progan import ProGAN  # beside this file
import torch
from torch import Tensor, nn
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from hires import config as configuration
from hires.ground import distributed, noise
from hires.ground.machine import precision_of
from hires.networks import generator
from hires.networks.growing import LEAK, UpsamplingConv2d, resolutions_up_to, upsample
from hires.objectives.base import Rates
from hires.objectives.divergence_triangle import PLAYERS, Batch, Objective
from hires.objectives.terms import kl, nll, soft_clamp
from hires.training.game import build_network
from hires.training.player import collect, new_player

CPU_BATCH = {4: 32, 8: 32, 16: 32, 32: 16, 64: 8, 128: 4, 256: 2, 512: 1, 1024: 1}
GPU_BATCH = {4: 128, 8: 128, 16: 128, 32: 64, 64: 32, 128: 16, 256: 8, 512: 4, 1024: 4}
LOOP = "loop as published"
PLAIN = "energy_first plain"
IN_TURN = "energy_first in turn"
CONTENDERS = (LOOP, "published", "energy_first", "simultaneous", IN_TURN, PLAIN, "energy_first R1")
PEERS = ("progan", "progan R1")
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
RATES = Rates(lr=1e-4, energy_lr=5e-5, ema_decay=0.99)


class PlainPlayer:
    """A player without an engine: the interface of hires.training.player.Player on plain autograd and torch's Adam."""

    def __init__(self, network: nn.Module, settings, precision: str, device: torch.device, average: bool):
        self.network = network.to(device, torch.bfloat16 if precision == "bf16" else torch.float32)
        self.parameters = list(self.network.parameters())
        # bf16 is trained on fp32 weights here too, as any plain loop must
        self.masters = [p.detach().float() for p in self.parameters] if precision == "bf16" else self.parameters
        self.clip = settings.clip
        self.adam = torch.optim.Adam(self.masters, lr=0.0, betas=(settings.beta1, settings.beta2), eps=settings.eps, fused=True)
        self.ema = [p.detach().clone() for p in self.masters] if average else []

    def __call__(self, *args):
        return self.network(*args)

    def accumulate(self):
        """Nothing to reduce."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Add to the gradients."""
        loss.backward()

    def step(self, lr: float, ema_decay: float = 0.0) -> None:
        """Clip, Adam, forget the gradients; then the moving average where one is kept."""
        if self.masters is not self.parameters:
            for master, p in zip(self.masters, self.parameters, strict=True):
                master.grad = p.grad.float()
        nn.utils.clip_grad_norm_(self.masters, self.clip)
        for group in self.adam.param_groups:
            group["lr"] = lr
        self.adam.step()
        if self.masters is not self.parameters:
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, self.masters)
        self.forget()
        if self.ema:
            with torch.no_grad():
                torch._foreach_lerp_(self.ema, self.masters, 1 - ema_decay)

    def forget(self) -> None:
        """Drop the gradients, other networks' stray ones among them."""
        for p in self.parameters:
            p.grad = None

    def destroy(self) -> None:
        """Nothing to free."""


class PublishedLoop:
    """The loop as its authors wrote it: alpha, then phi, then theta, each a whole autograd pass that nothing is frozen in.

    The posterior is inferred again and the reconstruction generated again for theta, gradients flow into networks that do not step and are
    thrown away there, and only the synthesis x_tilde is shared: 7 + 9 + 14 = 30 forward passes of one network.
    """

    def __init__(self, config, players: dict[str, PlainPlayer]):
        self.config = config
        self.G, self.U, self.I = (players[name] for name in PLAYERS)
        self.beta = config.beta * players["generator"].network.levels["4x4"].dense.weight.shape[1]

    def round(self, batch: Batch, rates: Rates, resolution: int, penalise: bool, micro_batch: int = 0) -> dict[str, Tensor]:
        """One step of each network; `penalise` and `micro_batch` are there for the call's sake: the loop has neither."""
        x, z, eps, kappa = batch.x, batch.z, batch.eps, self.config.kappa(resolution)
        x_tilde = self.G(z)

        u_x, u_f = self.U(x), self.U(x_tilde.detach())
        loss = u_x.mean() - u_f.mean() + self.config.lambda_u * (u_x.square().mean() + u_f.square().mean())
        self._step(self.U, loss, rates.energy_lr)

        mu, logvar = self._infer(x)
        x_hat = self.G(mu + (0.5 * logvar).exp() * eps)
        N = nll(z, *self._infer(x_tilde.detach()))
        self._step(self.I, kappa * F.mse_loss(x_hat, x) + self.beta * kl(mu, logvar) + self.config.lambda_z * N, rates.lr)

        mu, logvar = self._infer(x)
        R = F.mse_loss(self.G(mu + (0.5 * logvar).exp() * eps), x)
        N = nll(z, *self._infer(x_tilde))
        self._step(self.G, kappa * R + self.U(x_tilde).mean() + self.config.lambda_z * N, rates.lr)
        return {"R": R.detach()}

    def _infer(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu, logvar = self.I(x)
        return mu, soft_clamp(logvar, self.config.logvar_min, self.config.logvar_max)

    def _step(self, player: PlainPlayer, loss: Tensor, lr: float) -> None:
        player.forget()
        loss.backward()
        player.step(lr)
        for other in (self.G, self.U, self.I):
            other.forget()


def activate_in_turn(x: Tensor) -> Tensor:
    """Leaky ReLU, then pixel norm, by torch's own operations: what `activate_and_normalise` does at once."""
    x = F.leaky_relu(x, LEAK, inplace=True)
    return x * torch.rsqrt(torch.linalg.vector_norm(x, dim=1, keepdim=True).square() / x.shape[1] + 1e-8)


def in_turn(network: nn.Module) -> None:
    """Upsample, then convolve, where the network does both at once."""
    for module in network.modules():
        if isinstance(module, UpsamplingConv2d):
            module.forward = lambda x, conv=module: F.conv2d(upsample(x), conv.weight * conv.scale, conv.bias, padding=1)


class Contender:
    """One way to step, with networks of its own that start alike."""

    def __init__(self, name: str, config, resolution: int, batch: int, device: torch.device):
        self.name, self.resolution, self.device = name, resolution, device
        self.penalise = name.endswith("R1")
        self.activate = activate_in_turn if name in (LOOP, IN_TURN) else generator.activate_and_normalise
        config.objective.updates = name if name in ("published", "simultaneous") else "energy_first"
        plain = name in (LOOP, PLAIN)
        precision = config.train.precision
        self.players = {}
        if name in (LOOP, IN_TURN):
            config.network.downsampling = "separate"
        for player in PLAYERS:
            network = build_network(config, player, resolution, fading=False)
            if name in (LOOP, IN_TURN):
                in_turn(network)
            self.players[player] = (
                PlainPlayer(network, config.optimizer, precision, device, average=name != LOOP)
                if plain
                else new_player(player, network, config.optimizer, config.zero, precision, device)
            )
        # the objective keeps the configuration it is given, and contenders differ in it
        objective = dataclasses.replace(config.objective)
        self.game = PublishedLoop(objective, self.players) if name == LOOP else Objective(objective, config.network.latent, self.players)
        draw = noise.generator(0, "benchmark")
        x = torch.rand(batch, config.network.image_channels, resolution, resolution, generator=draw) * 2 - 1
        system = Objective(objective, config.network.latent, self.players)
        noises = lambda _, size: torch.randn(batch, size, generator=draw).to(device)  # noqa: E731
        self.batch = system.batch(x.to(device), 1.0, noises, config.network.latent)

    def step(self) -> None:
        """One round, to its end on the device."""
        with patch.object(generator, "activate_and_normalise", self.activate):
            self.game.round(self.batch, RATES, self.resolution, self.penalise)
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def destroy(self) -> None:
        """Free the engines."""
        for player in self.players.values():
            player.destroy()
        self.players, self.game = {}, None
        collect()


class Peer:
    """Another project's way to spend a step on the same pictures."""

    def __init__(self, name: str, config, resolution: int, batch: int, device: torch.device):
        self.name, self.penalise, self.device = name, name.endswith("R1"), device
        self.gan = ProGAN(config.network, resolution, device, torch.bfloat16 if config.train.precision == "bf16" else torch.float32)
        draw = noise.generator(0, "benchmark")
        parameter = self.gan.G.dense.weight
        self.x = (torch.rand(batch, config.network.image_channels, resolution, resolution, generator=draw) * 2 - 1).to(parameter)
        self.z = torch.randn(batch, config.network.latent, generator=draw).to(parameter)

    def step(self) -> None:
        """One of each network, to its end on the device."""
        self.gan.step(self.x, self.z, self.penalise)
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def destroy(self) -> None:
        """Free the networks."""
        self.gan = None
        collect()


def contender(name: str, config, resolution: int, batch: int, device: torch.device) -> Contender | Peer:
    """The one of this name."""
    return (Peer if name in PEERS else Contender)(name, config, resolution, batch, device)


# ------------------------------------------------------------------------------------------------ measuring


def settings(args: argparse.Namespace):
    """The training configuration that the arguments ask for, in its structured form."""
    overrides = [f"network={args.network}", f"train.precision={args.precision}", f"zero.stage={args.stage}", "run=none", "data.root=none"]
    overrides += args.settings
    return configuration.load("train", overrides)


def resident(reset: bool = False) -> tuple[int, int]:
    """(bytes resident now, peak since the last reset) of this process, from Linux."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    return int(lines["VmRSS"].split()[0]) * 1024, int(lines["VmHWM"].split()[0]) * 1024


def peak_memory(name: str, args: argparse.Namespace, resolution: int, batch: int, device: torch.device) -> float:
    """Peak bytes that a contender takes for networks, optimizers and two steps, beyond what the process held before."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
    else:
        before = resident(reset=True)[0]
    one = contender(name, settings(args), resolution, batch, device)
    one.step()
    one.step()
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else resident()[1]
    one.destroy()
    return peak - before


def _in_child(name: str, args: argparse.Namespace, resolution: int, batch: int, queue) -> None:
    try:
        for inherited in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
            os.environ.pop(inherited, None)  # a world of its own
        world = distributed.start(args.threads)
        queue.put(peak_memory(name, args, resolution, batch, world.device))
        distributed.stop()
    except Exception as error:
        queue.put(f"{type(error).__name__}: {error}")


def memory_of(name: str, args: argparse.Namespace, resolution: int, batch: int, device: torch.device) -> float:
    """peak_memory, on a CPU in a fresh process, since a process does not give back what it once took; nan where it failed."""
    if device.type == "cuda":
        return peak_memory(name, args, resolution, batch, device)
    context = multiprocessing.get_context("forkserver")  # forks from a process that has imported all and computed nothing
    queue = context.SimpleQueue()
    child = context.Process(target=_in_child, args=(name, args, resolution, batch, queue))
    child.start()
    child.join()
    found = queue.get() if child.exitcode == 0 else f"ended with status {child.exitcode}"
    if isinstance(found, str):
        print(f"{resolution}x{resolution} {name}: no memory measured, {found}")
        return math.nan
    return found


def measure(args: argparse.Namespace, resolution: int, batch: int, device: torch.device, seconds: float) -> dict | None:
    """Times of all contenders, taken in turn until --rounds or `seconds` are spent; None where not even one round fits."""
    clock = CLOCKS[args.clock]
    started = time.perf_counter()
    contenders = [contender(name, settings(args), resolution, batch, device) for name in args.contenders]
    try:
        flops = {contenders[0].name: operations(contenders[0].step)}  # counted in the first step, which warms up too
        first = time.perf_counter() - started
        if first * len(contenders) > seconds and not args.force:
            return None
        flops |= {one.name: operations(one.step) for one in contenders[1:]}
        times = {name: [] for name in args.contenders}
        for done in range(args.rounds):
            began = time.perf_counter()
            # each round starts with another contender, so none always runs in the wake of the same one
            for i in range(len(contenders)):
                one = contenders[(done + i) % len(contenders)]
                t = clock()
                one.step()
                times[one.name].append(clock() - t)
            if time.perf_counter() - started + (time.perf_counter() - began) > seconds and not args.force:
                break
    finally:
        for one in contenders:
            one.destroy()
    return {"times": times, "flops": flops}


def operations(step) -> int:
    """Floating-point operations of the convolutions and matrix products in one call of `step`, forward and backward."""
    counter = FlopCounterMode(display=False)
    # its bookkeeping by module hangs hooks on the graph that autograd.grad refuses; the total needs none
    counter.mod_tracker = _NoModules()
    with counter:
        step()
    return counter.get_total_flops()


class _NoModules(nullcontext):
    parents = frozenset({"Global"})


def product_rate(precision: str, device: torch.device) -> float:
    """Operations a second of a large matrix product on a GPU in this precision, on random numbers: the ceiling that is compared with."""
    size, repeats = 8192, 20
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        t = time.perf_counter()
        a @ b
        torch.cuda.synchronize()
        times.append(time.perf_counter() - t)
    return 2 * size**3 / min(times)


# ------------------------------------------------------------------------------------------------ the table


def rows(args: argparse.Namespace, resolution: int, batch: int, found: dict, memory: dict[str, float], ceiling: float) -> list[list[str]]:
    """The table's rows for one resolution."""
    lines = []
    times = found["times"]
    for name, taken in times.items():
        median = statistics.median(taken)
        against_plain = _ratio(taken, times.get(PLAIN)) if name == "energy_first" else ""
        gb = memory.get(name, math.nan) / 1e9
        flops = found["flops"][name]
        lines.append(
            [
                args.network, args.precision, str(resolution), str(batch), name, f"{median * 1e3:.1f}", f"{median / batch * 1e3:.2f}",
                _ratio(taken, times.get(LOOP)), against_plain, "" if math.isnan(gb) else f"{gb:.2f}", f"{flops / 2e9 / batch:.3g}",
                f"{flops / median / 1e12:.3g}",
                f"{flops / median / ceiling:.0%}" if ceiling else "", str(len(taken)),
            ]
        )  # fmt: skip
    return lines


def _ratio(times: list[float], others: list[float] | None) -> str:
    return f"{statistics.median(a / b for a, b in zip(times, others, strict=True)):.2f}" if others else ""


COLUMNS = "network,precision,pixels,batch,step,ms,s/kimg,/ loop,/ plain,GB,GMAC/image,TFLOP/s,of peak,rounds"
HEADER = COLUMNS.split(",")


def profile(args: argparse.Namespace, resolution: int, batch: int, device: torch.device) -> str:
    """torch.profiler's table of three energy_first steps, the costliest operations first."""
    contender = Contender("energy_first", settings(args), resolution, batch, device)
    for _ in range(3):
        contender.step()
    with torch.profiler.profile() as profiler:
        for _ in range(3):
            contender.step()
    contender.destroy()
    column = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    return profiler.key_averages().table(sort_by=column, row_limit=25, max_name_column_width=60)


def markdown(table: list[list[str]]) -> str:
    """The table in Markdown."""
    out = ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
    return "\n".join(out + ["| " + " | ".join(row) + " |" for row in table])


def plain_text(row: list[str]) -> str:
    """A row for the terminal."""
    widths = [8, 9, 6, 5, 19, 9, 8, 6, 7, 6, 10, 7, 7, 6]
    return "  ".join(cell.ljust(w) if i in (0, 1, 4) else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))


def machine(args: argparse.Namespace, device: torch.device) -> str:
    """Commit, date, machine and versions in one line."""
    import deepspeed

    here = Path(__file__).parent
    commit = subprocess.run(["git", "-C", str(here), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    dirty = subprocess.run(["git", "-C", str(here), "status", "--porcelain"], capture_output=True, text=True, check=False).stdout.strip()
    if device.type == "cuda":
        chip = torch.cuda.get_device_name(device)
    else:
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
        model = next((line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name")), platform.machine())
        chip = f"{model}, {torch.get_num_threads()} of {os.cpu_count()} threads, {args.clock} clock"
    where = (commit.stdout.strip() or "no git") + (" with changes" if dirty else "")
    return (
        f"commit {where}, {datetime.date.today()}, {chip}, torch {torch.__version__}, deepspeed {deepspeed.__version__}, ZeRO {args.stage}"
    )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings of hires train, such as objective.energy_sees=samples")
    parser.add_argument("--network", default="slim", help="base, slim or xl (default slim)")
    parser.add_argument("--resolutions", default="", help="such as 32,64 (default: all of 4…1024, upwards until the budget is spent)")
    parser.add_argument("--batch", default="", help="pairs such as 64=16,128=8 (default: a table for CPUs, one for GPUs)")
    parser.add_argument("--precision", default="auto", help="auto, fp32 or bf16 (default auto)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: torch's choice)")
    parser.add_argument("--rounds", type=int, default=15, help="steps of each contender at most (default 15)")
    parser.add_argument("--budget", type=float, default=600, help="seconds for the whole table (default 600)")
    named = f"some of: {', '.join(CONTENDERS + PEERS)} (default: all but the last two)"
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help=named)
    parser.add_argument("--stage", type=int, default=0, help="ZeRO stage (default 0: nothing sharded, as one process trains)")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: processor time, for a shared machine")
    parser.add_argument("--no-memory", action="store_true", help="skip the memory column: on CPUs it takes a fresh process a row")
    parser.add_argument("--profile", action="store_true", help="no table of steps: where the time of energy_first goes, by torch.profiler")
    parser.add_argument("--write", action="store_true", help="print Markdown, with commit, machine and date")
    args = parser.parse_args()
    args.contenders = args.contenders.split(",")
    if unknown := [name for name in args.contenders if name not in CONTENDERS + PEERS]:
        parser.error(f"--contenders {unknown[0]}: wanted some of {', '.join(CONTENDERS + PEERS)}")
    args.force = bool(args.resolutions)  # resolutions that were asked for are measured, whatever they cost
    args.resolutions = [int(r) for r in args.resolutions.split(",")] if args.resolutions else resolutions_up_to(1024)
    return args


def main() -> None:
    """Measure and print."""
    args = arguments()
    multiprocessing.get_context("forkserver").set_forkserver_preload(["deepspeed", "hires.training.game"])
    end = time.perf_counter() + args.budget
    batches = dict(GPU_BATCH if torch.cuda.is_available() else CPU_BATCH)
    batches |= {int(k): int(v) for k, v in (pair.split("=") for pair in args.batch.split(",") if pair)}
    world = distributed.start(args.threads)
    args.precision = precision_of(args.precision, world.device)
    if args.profile:
        for resolution in args.resolutions:
            print(f"{args.network} {args.precision} {resolution}x{resolution}, batch {batches[resolution]}, three steps of energy_first")
            print(profile(args, resolution, batches[resolution], world.device))
        distributed.stop()
        return
    ceiling = product_rate(args.precision, world.device) if world.device.type == "cuda" else 0.0
    title = machine(args, world.device)
    note = "GB beyond the idle process"
    if ceiling:
        note += f"; 'of peak' is of a large matrix product measured here, {ceiling / 1e12:.0f} TFLOP/s"
    print(f"{title}\n{note}\n\n{plain_text(HEADER)}", flush=True)
    table = []
    for i, resolution in enumerate(args.resolutions):
        batch = batches[resolution]
        # larger resolutions cost more: each may take what is left, divided among those still to come
        left = end - time.perf_counter()
        try:
            found = measure(args, resolution, batch, world.device, left / min(2, len(args.resolutions) - i))
            memory = {} if args.no_memory or not found else {
                name: memory_of(name, args, resolution, batch, world.device) for name in args.contenders
            }  # fmt: skip
        except torch.OutOfMemoryError:
            found = None
        if not found:
            print(f"{resolution}x{resolution}: more than this machine or --budget bears; stopped here", flush=True)
            break
        table += rows(args, resolution, batch, found, memory, ceiling)
        for row in table[-len(args.contenders) :]:
            print(plain_text(row), flush=True)
    if args.write:
        print(f"\n{title}; {note}.\n\n{markdown(table)}")
    distributed.stop()


if __name__ == "__main__":
    main()
