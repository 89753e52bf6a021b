"""A player of the game: a network, its optimizer and its DeepSpeed engine. The only file that knows DeepSpeed's insides.

Rules that keep chained engines correct on every ZeRO stage (docs/reference/planning.md): the network is called through `engine.module`, so
no graph crosses an engine; all backward passes of a round lie in one `accumulate()` block; players hand each other tensors.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
import copy
from dataclasses import dataclass
import gc
import logging
import re

import torch
from torch import Tensor, nn
import torch.distributed as dist

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
class OptimizerConfig:
    """Adam, for all players (learning rates stand in the schedule)."""

    beta1: float = setting(0.0, at_least=0, below=1)  # (0, 0.99) as in ProGAN; 0.5 swings more while growing (docs/reference/stability.md)
    beta2: float = setting(0.99, at_least=0, below=1)
    eps: float = setting(1e-8, above=0)
    clip: float = setting(1000.0, above=0)  # global norm of a player's gradient; 100 would bind in most steps from 32x32 up


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


class Player:
    """One network in the game, sharded over the ranks."""

    def __init__(self, name: str, network: nn.Module, optimizer: OptimizerConfig, zero: ZeroConfig, precision: str, device: torch.device):
        """`network` holds its starting weights in fp32, equal on all ranks; it is taken over (ZeRO-3 partitions it in place)."""
        import deepspeed

        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        self.name, self.stage, self.device = name, zero.stage, device
        self.shapes = {n: p.shape for n, p in network.named_parameters()}
        groups: dict[str, list[nn.Parameter]] = {}
        for n, p in network.named_parameters():
            groups.setdefault(group_of(n), []).append(p)
        self.group_names = list(groups)
        adam = torch.optim.Adam(
            [{"params": params, "name": group} for group, params in groups.items()],
            lr=0.0,
            betas=(optimizer.beta1, optimizer.beta2),
            eps=optimizer.eps,
            fused=True,  # one pass over weights, moments and gradients: ten times faster on a CPU too
        )
        self.engine, self.optimizer, _, _ = deepspeed.initialize(
            model=network.to(device),
            optimizer=adam,
            config=copy.deepcopy(_engine_config(optimizer, zero, precision, bucket([shape.numel() for shape in self.shapes.values()]))),
            dist_init_required=False,
        )
        distributed.set_timeout()
        self._adam = adam
        self._prime()
        self.fragments = list(self._fragments())

    @property
    def network(self) -> nn.Module:
        """The module as the engine holds it: for sampling and measures under no_grad."""
        return self.engine.module

    def __call__(self, *args):
        """Forward pass whose graph stays inside this player."""
        return self.engine.module(*args)

    @contextmanager
    def accumulate(self) -> Iterator[None]:
        """One optimizer step's worth of backward passes; gradients are reduced over the ranks once, when the block ends."""
        # without this block a second backward silently replaces the first's reduced gradients on stages 1-3
        with self.engine.coalesce_grad_reduction() if self.stage else nullcontext():
            yield

    def backward(self, loss: Tensor) -> None:
        """Back-propagate a scalar loss (this rank's mean over its images) into this player's parameters."""
        self.engine.backward(loss)

    def step(self, lr: float, ema_decay: float) -> None:
        """One Adam step at learning rate `lr`, then the moving average: ema <- ema_decay * ema + (1 - ema_decay) * weight.

        Raises NotFinite, on all ranks alike, before the step, where a gradient is not finite.
        """
        if self.stage == 0:  # there DeepSpeed would step all the same; the gradients are reduced already, so every rank sees the same
            ends = [m for p in self.network.parameters() if p.grad is not None for m in torch.aminmax(p.grad)]
            if not torch.stack(ends).isfinite().all():
                raise NotFinite(f"the {self.name}'s gradient")
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.engine.step()
        if not self.engine.was_step_applied():  # a line in its log is all that DeepSpeed makes of it, and the run would end well
            raise NotFinite(f"the {self.name}'s gradient")
        torch._foreach_lerp_([f.ema for f in self.fragments], [f.weight for f in self.fragments], 1 - ema_decay)

    def steps(self) -> dict[str, int]:
        """Adam's step count for each parameter group."""
        return {group: int(state["step"]) for group, state in self._group_states().items()}

    def set_steps(self, steps: dict[str, int]) -> None:
        """Set Adam's step counts; groups not named keep theirs."""
        for flat, group in self._flats():
            if group in steps:
                self._adam.state[flat]["step"].fill_(steps[group])

    def owned(self) -> list[Fragment]:
        """The fragments that this rank writes: over all ranks they cover every parameter exactly once."""
        if self.stage:
            return self.fragments
        # nothing is sharded at stage 0: every rank writes a contiguous share of each parameter all the same
        rank, size = dist.get_rank(), dist.get_world_size()
        shares = []
        for f in self.fragments:
            a, b = f.numel * rank // size, f.numel * (rank + 1) // size
            if b > a:
                shares.append(Fragment(f.name, a, f.group, f.weight[a:b], f.exp_avg[a:b], f.exp_avg_sq[a:b], f.ema[a:b]))
        return shares

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
        states = [self._adam.state[flat] for flat, _ in self._flats()]
        return sum(state[m].numel() * state[m].element_size() for state in states for m in MOMENTS)

    def destroy(self) -> None:
        """Free the engine and, once `collect` was called, its memory; the player cannot be used afterwards."""
        if self.stage == 3:  # DeepSpeed puts the module on a global stack and forgets it there, and the optimizer state with it
            from deepspeed.runtime.zero.parameter_offload import FWD_MODULE_STACK

            mine = set(self.engine.module.modules())
            FWD_MODULE_STACK[:] = [module for module in FWD_MODULE_STACK if module not in mine]
        network, optimizer = self.engine.module, self.optimizer
        self.engine.destroy()
        if self.stage == 3:  # hooks that outlive the engine hold its parameters, and through them all that it held
            for parameter in network.parameters():
                vars(parameter).clear()
            vars(optimizer).clear()
            self._adam.state.clear()
            self._adam.param_groups.clear()
        self.engine = self.optimizer = self._adam = None
        self.fragments = []

    def _flats(self) -> list[tuple[Tensor, str]]:
        """The fp32 tensors that Adam steps, each with its group: one flat partition a group on stages 1-3, the parameters on stage 0."""
        if self.stage == 0:
            return [(p, group["name"]) for group in self._adam.param_groups for p in group["params"]]
        if self.stage == 3:
            groups = [self.group_names[i] for i in self._stage3_groups()]
            return list(zip(self.optimizer.fp32_partitioned_groups_flat, groups, strict=True))
        return list(zip(self.optimizer.single_partition_of_fp32_groups, self.group_names, strict=True))

    def _stage3_groups(self) -> list[int]:
        # a group's parameters all lie in sub-groups of that group; sub_group_id -> param group id, in order
        return [self.optimizer.sub_group_to_group_id[i] for i in range(len(self.optimizer.fp32_partitioned_groups_flat))]

    def _prime(self) -> None:
        """Adam's state does not exist before its first step: make it, so it can be read and written from the start."""
        for flat, _ in self._flats():
            self._adam.state[flat] = {
                "step": torch.zeros((), dtype=torch.float32, device=flat.device if self.device.type == "cuda" else "cpu"),
                "exp_avg": torch.zeros_like(flat.data),
                "exp_avg_sq": torch.zeros_like(flat.data),
            }

    def _group_states(self) -> dict[str, dict]:
        return {group: self._adam.state[flat] for flat, group in self._flats()}

    def _fragments(self) -> Iterator[Fragment]:
        for name, parameter in self.network.named_parameters():
            place = self._place(parameter)
            if place is None:
                continue
            flat, offset, start, numel = place
            state = self._adam.state[flat]
            view = [t.data.view(-1)[offset : offset + numel] for t in (flat, state["exp_avg"], state["exp_avg_sq"])]
            yield Fragment(name, start, group_of(name), *view, ema=view[0].clone())

    def _place(self, parameter: nn.Parameter) -> tuple[Tensor, int, int, int] | None:
        """(flat fp32 tensor, offset in it, start in the parameter, numel) of this rank's part of a parameter, or None."""
        if self.stage == 0:
            return parameter, 0, 0, parameter.numel()
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
