"""A player of the game: a network, its optimizer and, where its state is sharded, its DeepSpeed engine. No other file knows DeepSpeed's
insides.

Rules that keep chained engines correct on every ZeRO stage (docs/reference/planning.md): the network is called through `engine.module`, so
no graph crosses an engine; all backward passes of a round lie in one `accumulate()` block; players hand each other tensors.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
import copy
from dataclasses import dataclass, field
import gc
import inspect
import logging
import math
import os
import re
from types import ModuleType

import torch
from torch import Tensor, nn
import torch.distributed as dist
from torch.optim.adadelta import adadelta
from torch.optim.adam import adam

from hires.checkpoints.fragments import MOMENTS, Fragment
from hires.errors import NotFinite
from hires.ground import distributed
from hires.ground.machine import DTYPES
from hires.ground.ranges import setting


@dataclass
class ZeroConfig:
    """How DeepSpeed shards a player: 0 nothing, 1 optimizer state, 2 and gradients, 3 and parameters."""

    stage: int = setting(1, among=(0, 1, 2, 3))


@dataclass
class DecayConfig:
    """The optimizer's own L2 of each player's weights, added to the clipped gradient (not AdamW's); 0 = none."""

    generator: float = setting(0.0, at_least=0, below=math.inf)
    energy: float = setting(0.0, at_least=0, below=math.inf)
    inference: float = setting(0.0, at_least=0, below=math.inf)
    variational: float = setting(0.0, at_least=0, below=math.inf)


@dataclass
class OptimizerConfig:
    """Adam or Adadelta, for all players (learning rates stand in the schedule)."""

    name: str = setting("adam", among=("adam", "adadelta"))  # adadelta: P3's, without shards of its state
    beta1: float = setting(0.0, at_least=0, below=1)  # (0, 0.99) as in ProGAN; 0.5 swings more while growing
    beta2: float = setting(0.99, at_least=0, below=1)  # of squares; Adadelta's rho (beta1 is Adam's alone)
    eps: float = setting(1e-8, above=0)
    clip: float = setting(1000.0, above=0)  # global norm of a player's gradient; 100 would bind in most steps from 32x32 up
    weight_decay: DecayConfig = field(default_factory=DecayConfig)


def group_of(name: str) -> str:
    """The parameter group of a parameter: its level, so a level added later has a step count (Adam's bias correction) of its own."""
    match = re.match(r"levels\.(\d+x\d+)\.", name)
    return match[1] if match else "all"


def bucket(sizes: list[int]) -> int:
    """Numbers that DeepSpeed reduces at once, for parameters of these sizes: it allocates them whole (2 GB a player by default), and no
    parameter may be larger.
    """
    return max(5_000_000, *sizes)


def collect() -> None:
    """Give back the memory of players that were destroyed."""
    gc.collect()  # engines are cycles
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def new_player(
    name: str, network: nn.Module, optimizer: OptimizerConfig, zero: ZeroConfig, precision: str, device: torch.device
) -> "Player":
    """A player whose state is whole on every rank at stage 0, else sharded by DeepSpeed.

    `network` holds its starting weights in fp32, equal on all ranks; it is taken over (ZeRO-3 partitions it in place).
    """
    kind = Sharded if zero.stage else Whole
    return kind(name, network.to(device), optimizer, zero, precision, device)


class Player(ABC):
    """One network in the game and its Adam."""

    stage: int
    fragments: list[Fragment]
    _state: dict[Tensor, dict[str, Tensor]]  # of what the optimizer steps: step and two moments; Adadelta's have Adam's names

    def __init__(self, name: str, network: nn.Module, optimizer: OptimizerConfig, device: torch.device):
        self.name, self.network, self.device, self.clip = name, network, device, optimizer.clip
        self.shapes = {n: p.shape for n, p in network.named_parameters()}
        self._norm: Tensor | None = None

    def __call__(self, *args):
        """Forward pass whose graph stays inside this player."""
        return self.network(*args)

    @abstractmethod
    def accumulate(self) -> AbstractContextManager:
        """One optimizer step's worth of backward passes; gradients are reduced over the ranks once, after the block."""

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Back-propagate a scalar loss (this rank's mean over its images) into this player's parameters."""

    @abstractmethod
    def destroy(self) -> None:
        """Free the state and, once `collect` was called, its memory; the player cannot be used afterwards."""

    @abstractmethod
    def _step(self, lr: float) -> None:
        """One step of the optimizer, but where the gradient is not finite none, on all ranks alike."""

    @abstractmethod
    def _flats(self) -> list[tuple[Tensor, str]]:
        """The fp32 tensors that Adam steps, each with its group."""

    @abstractmethod
    def _place(self, name: str, parameter: nn.Parameter) -> tuple[Tensor, int, int, int] | None:
        """(flat fp32 tensor, offset in it, start in the parameter, numel) of this rank's part of a parameter, or None."""

    def step(self, lr: float, ema_decay: float) -> None:
        """One Adam step at learning rate `lr`, then the moving average: ema <- ema_decay * ema + (1 - ema_decay) * weight.

        Where the gradient is not finite no step is made, on all ranks alike: `norm` says so, or NotFinite is raised here.
        """
        self._step(lr)
        torch._foreach_lerp_([f.ema for f in self.fragments], [f.weight for f in self.fragments], 1 - ema_decay)

    def norm(self) -> Tensor | None:
        """The sum of the norms of the gradients that were stepped on since this was last asked, on the device.

        Not finite where a step was withheld; None where a step raises NotFinite itself.
        """
        norm, self._norm = self._norm, None
        return norm

    def steps(self) -> dict[str, int]:
        """Adam's step count for each parameter group."""
        return {group: int(self._state[flat]["step"]) for flat, group in self._flats()}

    def set_steps(self, steps: dict[str, int]) -> None:
        """Set Adam's step counts; groups not named keep theirs."""
        for flat, group in self._flats():
            if group in steps:
                self._state[flat]["step"].fill_(steps[group])

    def owned(self) -> list[Fragment]:
        """The fragments that this rank writes: over all ranks they cover every parameter exactly once."""
        return self.fragments

    def gather(self, field: str) -> dict[str, Tensor]:
        """Every parameter's `field` (weight, ema, …) whole, fp32, on every rank, and the network's buffers; a collective."""
        full = {n: torch.zeros(shape.numel(), device=self.device) for n, shape in self.shapes.items()}
        for f in self.owned():
            full[f.name][f.start : f.start + f.numel] = getattr(f, field)
        if dist.get_world_size() > 1:
            for tensor in full.values():
                dist.all_reduce(tensor)  # every element is nonzero on one rank alone, so the sum is exact
        full = {n: t.view(self.shapes[n]) for n, t in full.items()}
        return full | {n: b.detach().clone() for n, b in self.network.named_buffers()}

    def optimizer_bytes(self) -> int:
        """Bytes of Adam's moments that this rank holds."""
        states = [self._state[flat] for flat, _ in self._flats()]
        return sum(state[m].numel() * state[m].element_size() for state in states for m in MOMENTS)

    def _prime(self) -> None:
        """Make the optimizer's state, which can be read and written from the start."""
        for flat, _ in self._flats():
            self._state[flat] = {
                "step": torch.zeros((), dtype=torch.float32, device="cpu" if self.device.type == "cpu" else flat.device),
                **{moment: torch.zeros_like(flat.data) for moment in MOMENTS},
            }
        self.fragments = list(self._fragments())

    def _fragments(self) -> Iterator[Fragment]:
        for name, parameter in self.network.named_parameters():
            place = self._place(name, parameter)
            if place is None:
                continue
            flat, offset, start, numel = place
            view = [t.data.view(-1)[offset : offset + numel] for t in (flat, *(self._state[flat][moment] for moment in MOMENTS))]
            yield Fragment(name, start, group_of(name), *view, ema=view[0].clone())


def _deepspeed(device: torch.device) -> ModuleType:
    """DeepSpeed, in the process group that is there: only sharded players need it, and importing it takes a while."""
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # nothing here is compiled
    import deepspeed
    from deepspeed.runtime import compiler

    # for an optimizer that is not used here, the first engine would load torch's whole compiler: seconds
    compiler.compile = lambda *_, **__: lambda function: function
    if device.type == "cpu":
        # it would compile a shared-memory extension for the CPU, and die where there is no C++ compiler
        from deepspeed.ops import __compatible_ops__

        __compatible_ops__["deepspeed_shm_comm"] = False
    from deepspeed.runtime.zero.utils import ZERO_SUPPORTED_OPTIMIZERS

    if _Adam not in ZERO_SUPPORTED_OPTIMIZERS:  # else it warns of an untested one
        ZERO_SUPPORTED_OPTIMIZERS.append(_Adam)
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    deepspeed.init_distributed(dist_backend=dist.get_backend(), auto_mpi_discovery=False, verbose=False)
    return deepspeed


class Whole(Player):
    """A player whose state every rank holds whole: plain autograd, one reduction of all gradients, and with Adam no wait for the device."""

    stage = 0

    def __init__(self, name: str, network: nn.Module, optimizer: OptimizerConfig, _: ZeroConfig, precision: str, device: torch.device):
        super().__init__(name, network, optimizer, device)
        self._parameters = dict(network.named_parameters())
        # Adam steps fp32 numbers: the parameters themselves, or what bf16 ones are rounded from
        self._masters = dict(self._parameters)
        if DTYPES[precision] is torch.bfloat16:
            self._masters = {n: p.detach().float().requires_grad_() for n, p in self._parameters.items()}
            for parameter in self._parameters.values():
                parameter.data = parameter.data.bfloat16()
        self._optimizer, self._state = optimizer, {}
        self._prime()

    def accumulate(self) -> AbstractContextManager:
        """Gradients add up until the step."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Add to this rank's gradients."""
        loss.backward()

    def owned(self) -> list[Fragment]:
        """A contiguous share of each parameter, though nothing is sharded."""
        rank, size = dist.get_rank(), dist.get_world_size()
        shares = []
        for f in self.fragments:
            a, b = f.numel * rank // size, f.numel * (rank + 1) // size
            if b > a:
                shares.append(Fragment(f.name, a, f.group, f.weight[a:b], f.exp_avg[a:b], f.exp_avg_sq[a:b], f.ema[a:b]))
        return shares

    def destroy(self) -> None:
        """Let go of everything."""
        self.fragments, self._parameters, self._masters, self._state = [], {}, {}, {}
        self.network = None

    def _step(self, lr: float) -> None:
        parameters, masters = list(self._parameters.values()), list(self._masters.values())
        gradients = [torch.zeros_like(m) if p.grad is None else p.grad.to(m.dtype) for p, m in zip(parameters, masters, strict=True)]
        for parameter in parameters:
            parameter.grad = None
        if dist.get_world_size() > 1:
            flat = torch.cat([g.flatten() for g in gradients])
            dist.all_reduce(flat)
            parts = flat.div_(dist.get_world_size()).split([g.numel() for g in gradients])
            gradients = [part.view_as(g) for part, g in zip(parts, gradients, strict=True)]
        self._update(masters, gradients, nn.utils.get_total_norm(gradients).to(torch.float32), lr)
        if masters[0] is not parameters[0]:
            torch._foreach_copy_([p.data for p in parameters], [m.data for m in masters])

    @torch.no_grad()
    def _update(self, masters: list[Tensor], gradients: list[Tensor], norm: Tensor, lr: float) -> None:
        """The optimizer's step by torch's functions: its classes load torch's whole compiler first, which takes seconds.

        `norm` is that of all gradients, on the device. Where it is not finite Adam's kernel leaves everything as it is, steps too; before
        Adadelta, which cannot, the host looks.
        """
        given, states = self._optimizer, [self._state[master] for master in masters]
        first, second, steps = ([state[name] for state in states] for name in (*MOMENTS, "step"))
        decay = getattr(given.weight_decay, self.name)
        if given.name == "adadelta":
            if not math.isfinite(size := norm.item()):
                raise NotFinite(f"the {self.name}'s gradient")
            if size > self.clip:
                torch._foreach_mul_(gradients, self.clip / size)
            rules = {"lr": lr, "rho": given.beta2, "eps": given.eps, "weight_decay": decay, "maximize": False}
            adadelta(masters, gradients, first, second, steps, **rules)
        else:
            rules = {"beta1": given.beta1, "beta2": given.beta2, "lr": lr, "weight_decay": decay, "eps": given.eps}
            # fused: one pass over weights, moments and gradients, ten times faster on a CPU too
            held = {"grad_scale": (norm / self.clip).clamp(min=1.0), "found_inf": (~norm.isfinite()).float()}
            adam(masters, gradients, first, second, [], steps, fused=True, amsgrad=False, maximize=False, **held, **rules)
            self._norm = norm if self._norm is None else self._norm + norm

    def _flats(self) -> list[tuple[Tensor, str]]:
        return [(master, group_of(n)) for n, master in self._masters.items()]

    def _place(self, name: str, parameter: nn.Parameter) -> tuple[Tensor, int, int, int]:
        return self._masters[name], 0, 0, parameter.numel()


class _Adam(torch.optim.Optimizer):
    """torch's fused Adam for DeepSpeed: torch's class, and its base's `add_param_group`, load torch's compiler, which takes seconds."""

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)

    @torch.no_grad()
    def step(self) -> None:
        """Step what has a gradient; its state is there."""
        for group in self.param_groups:
            stepped = [parameter for parameter in group["params"] if parameter.grad is not None]
            first, second, steps = ([self.state[parameter][name] for parameter in stepped] for name in (*MOMENTS, "step"))
            beta1, beta2 = group["betas"]
            rules = {"beta1": beta1, "beta2": beta2, **{name: group[name] for name in ("lr", "eps", "weight_decay")}}
            gradients = [parameter.grad for parameter in stepped]
            adam(stepped, gradients, first, second, [], steps, fused=True, amsgrad=False, maximize=False, **rules)


class Sharded(Player):
    """A player whose state DeepSpeed shards over the ranks, on stages 1 to 3."""

    def __init__(self, name: str, network: nn.Module, optimizer: OptimizerConfig, zero: ZeroConfig, precision: str, device: torch.device):
        super().__init__(name, network, optimizer, device)
        deepspeed = _deepspeed(device)
        self.stage = zero.stage
        groups: dict[str, list[nn.Parameter]] = {}
        for parameter_name, parameter in network.named_parameters():
            groups.setdefault(group_of(parameter_name), []).append(parameter)
        self.group_names = list(groups)
        rules = {"betas": (optimizer.beta1, optimizer.beta2), "eps": optimizer.eps, "weight_decay": getattr(optimizer.weight_decay, name)}
        self._adam = _Adam([{"params": parameters, "name": group} for group, parameters in groups.items()], {"lr": 0.0, **rules})
        self.engine, self.optimizer, _, _ = deepspeed.initialize(
            model=network,
            optimizer=self._adam,
            config=copy.deepcopy(_engine_config(optimizer, zero, precision, bucket([shape.numel() for shape in self.shapes.values()]))),
            dist_init_required=False,
        )
        distributed.set_timeout()
        self._state, self.network = self._adam.state, self.engine.module
        self._prime()

    def accumulate(self) -> AbstractContextManager:
        """Without it a second backward pass silently replaces the first's reduced gradients."""
        return self.engine.coalesce_grad_reduction()

    def backward(self, loss: Tensor) -> None:
        """Add to this round's gradients."""
        self.engine.backward(loss)

    def destroy(self) -> None:
        """Free the engine, and what it leaves reachable."""
        if self.stage == 3:  # DeepSpeed puts the module on a global stack and forgets it there, and the optimizer state with it
            from deepspeed.runtime.zero.parameter_offload import FWD_MODULE_STACK

            mine = set(self.network.modules())
            FWD_MODULE_STACK[:] = [module for module in FWD_MODULE_STACK if module not in mine]
        network, optimizer = self.network, self.optimizer
        self.engine.destroy()
        if self.stage == 3:  # hooks that outlive the engine hold its parameters, and through them all that it held
            for parameter in network.parameters():
                vars(parameter).clear()
            vars(optimizer).clear()
            self._adam.state.clear()
            self._adam.param_groups.clear()
        self.engine = self.network = self.optimizer = self._adam = None
        self.fragments, self._state = [], {}

    def _step(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.engine.step()
        if not self.engine.was_step_applied():  # a line in its log is all that DeepSpeed makes of it, and the run would end well
            raise NotFinite(f"the {self.name}'s gradient")

    def _flats(self) -> list[tuple[Tensor, str]]:
        """One flat partition a group; on stage 3 several."""
        if self.stage == 3:
            # a group's parameters all lie in sub-groups of that group; sub_group_id -> param group id, in order
            flats = self.optimizer.fp32_partitioned_groups_flat
            return [(flat, self.group_names[self.optimizer.sub_group_to_group_id[i]]) for i, flat in enumerate(flats)]
        return list(zip(self.optimizer.single_partition_of_fp32_groups, self.group_names, strict=True))

    def _place(self, name: str, parameter: nn.Parameter) -> tuple[Tensor, int, int, int] | None:
        if self.stage == 3:
            group, offset, size = self.optimizer.grad_position[self.optimizer.get_param_id(parameter)]
            start = size * dist.get_rank()  # contiguous 1/W of the parameter, the last part padded
            numel = max(0, min(size, parameter.ds_numel - start))
            return (self.optimizer.fp32_partitioned_groups_flat[group], offset, start, numel) if numel else None
        mapping = parameter._hp_mapping
        if mapping is None:
            return None
        here, inside = mapping.hp_fragment_address, mapping.lp_fragment_address
        return self.optimizer.single_partition_of_fp32_groups[mapping.param_group_index], here.start, inside.start, here.numel


def _engine_config(optimizer: OptimizerConfig, zero: ZeroConfig, precision: str, reduced_at_once: int) -> dict:
    return {
        "train_micro_batch_size_per_gpu": 1,  # DeepSpeed's own bookkeeping; the batch is the schedule's
        "gradient_accumulation_steps": 1,
        "gradient_clipping": optimizer.clip,
        "bf16": {"enabled": DTYPES[precision] is torch.bfloat16},
        "zero_optimization": {
            "stage": zero.stage,
            "overlap_comm": False,
            "reduce_bucket_size": reduced_at_once,
            "stage3_param_persistence_threshold": 0,
            "stage3_prefetch_bucket_size": 0,
        },
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
    }
