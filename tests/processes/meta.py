"""Run by test_meta: rounds of a real game on torch's meta device, in the first of two ranks whose collectives do nothing.

    python meta.py SYSTEM RESOLUTION STAGE SETTING…

The meta device stands for a GPU. No kernel runs, but every operation passes `Watch`, which tells what would cost the host its lead over a
GPU, or fail there: by kind, and by the innermost line outside torch. Prints JSON: {"found": {case: {kind: {place: count}}}, and of a round
"steps" of players and "groups" of parameters that these step on}. Blind for streams, for cuDNN, and for what nccl does.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
import json
import os
from pathlib import Path
import sys
from types import SimpleNamespace

import torch
import torch.distributed as dist
from torch.overrides import TorchFunctionMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hires import config as configuration
from hires.ground.distributed import World
from hires.objectives import system
from hires.training import game, player
from hires.training.guards.agreement import Health
from hires.training.schedule import Schedule

META = torch.device("meta")
ROOT, TORCH = Path(__file__).parents[2], str(Path(torch.__file__).parent)
READS = ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "unique_consecutive")  # for the host
COPIES = ("_to_copy", "copy_")
B, WORLD = 8, 2
CASES = {"penalty": (True, 0), "plain": (False, 0), "micro-batches": (True, 2)}  # due, micro-batch


class Watch(TorchDispatchMode):
    """Counts by kind and place: `wait` for the device, `blocking copy`, `mixed devices`, `CPU tensor in a collective`, `collective`."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, Counter] = defaultdict(Counter)
        self.pinned: dict[int, torch.Tensor] = {}  # by their addresses

    def note(self, kind: str) -> None:
        self.found[kind][place()] += 1

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        there, here = [t for t in tensors if t.is_meta], [t for t in tensors if t.device.type == "cpu"]
        if function.namespace == "c10d":
            self.note("CPU tensor in a collective" if here else "collective")
        elif name in COPIES:
            if (answer := self._copy(name, args, kwargs)) is not None:
                return answer
        elif there and name in READS:
            self.note("wait")
            if name == "_local_scalar_dense":
                return 0.0 if there[0].is_floating_point() else 0
        elif there and name == "index" and any(t is not None and t.dtype in (torch.bool, torch.uint8) for t in args[1]):
            self.note("wait")  # for the number of its rows
        elif there and any(t.dim() for t in here):
            self.note("mixed devices")  # a number may lie on the CPU, it travels with the launch
        return function(*args, **kwargs)

    def _copy(self, name: str, args, kwargs) -> torch.Tensor | None:
        """Note a copy between host and device; what comes of one to the host, which meta itself refuses."""
        source = args[0] if name == "_to_copy" else args[1]
        target = torch.device(kwargs.get("device") or source.device) if name == "_to_copy" else args[0].device
        freely = kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2])
        if source.device.type == "cpu" and target.type == "meta":
            if not (freely and source.untyped_storage().data_ptr() in self.pinned):
                self.note("blocking copy")
        elif source.is_meta and target.type == "cpu":
            self.note("wait")
            return torch.zeros_like(source, device="cpu", dtype=kwargs.get("dtype")) if name == "_to_copy" else args[0].zero_()
        return None

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        """In place of Tensor.pin_memory, which wants a GPU."""
        self.pinned[tensor.untyped_storage().data_ptr()] = tensor
        return tensor


class Made(TorchFunctionMode):
    """What is made of Python's numbers on the device: torch copies them there, and waits."""

    def __init__(self, watch: Watch):
        super().__init__()
        self.watch = watch

    def __torch_function__(self, function: Callable, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu").type == "meta":
            self.watch.note("blocking copy")
        return function(*args, **kwargs)


def place() -> str:
    """'hires/training/player.py:258 _step': the innermost line outside torch and this file; of DeepSpeed the file and the function."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename == __file__ or frame.f_code.co_filename.startswith(TORCH):
        frame = frame.f_back
    file, name = frame.f_code.co_filename, frame.f_code.co_name
    if "/deepspeed/" in file:
        return f"deepspeed/{file.split('/deepspeed/')[-1]} {name}"
    return f"{os.path.relpath(file, ROOT)}:{frame.f_lineno} {name}"


def on_meta() -> None:
    """Build networks there, without starting weights; let DeepSpeed take it for its accelerator."""

    def build_network(*what):
        with META:
            return game.empty_network(*what)

    game.build_network = build_network
    player._deepspeed(torch.device("cpu"))  # else it compiles an extension
    from deepspeed.accelerator import get_accelerator

    kind = type(get_accelerator())
    kind._name = "meta"
    kind.device_name = kind.current_device_name = lambda self, index=None: "meta"
    kind.device = lambda self, index=None: META
    kind.communication_backend_name = lambda self: "fake"
    # stage 3 asks for the state of autocast, which torch has none of for meta, and in its first passes for the other rank's order of layers
    from deepspeed.runtime.zero import linear, partitioned_param_coordinator

    linear.get_accelerator = lambda: SimpleNamespace(device_name=lambda: "cpu")
    partitioned_param_coordinator.assert_ints_same_as_other_ranks = lambda ints: None


def main(name: str, resolution: int, stage: int, *settings: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=WORLD)
    os.environ["LOCAL_RANK"] = "0"
    on_meta()
    words = ["experiment=celebahq_1024", f"objective={name}", f"zero.stage={stage}", "train.precision=bf16", *settings]
    config = configuration.load("train", ["run=none", "data.root=none", *words])
    schedule, world = Schedule(config.schedule), World(0, WORLD, 0, META)
    level = next(level for level in schedule.levels if level.resolution == resolution)
    phase = replace(schedule.at(level.start), batch=B)
    watch = Watch()
    torch.Tensor.pin_memory = lambda tensor: watch.pin(tensor)
    with Watch():  # of stage 3: it takes its parameters by the host while it is built, which meta itself refuses
        played = game.Game(config, world, phase.shape)
    health = Health(world, system(config.objective).TERMS)
    found = {}
    for case, (due, micro) in CASES.items():
        # as the loader gives them
        images = watch.pin(torch.zeros(B // WORLD, resolution, resolution, 3, dtype=torch.uint8)).permute(0, 3, 1, 2)
        watch.found = defaultdict(Counter)
        with watch, Made(watch):
            measures = played.round(replace(phase, micro_batch=micro), images, due=due)
            health.record(measures, played.norms(), False, phase.images)
        found[case] = watch.found
    steps, groups = len(played.players), sum(len(one._flats()) for one in played.players.values())
    print(json.dumps({"found": found, "steps": steps, "groups": groups}))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:4]), *sys.argv[4:])
