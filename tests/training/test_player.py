"""One player on one process: accumulation, Adam's state, the moving average, and its end."""

import gc
from pathlib import Path
import resource
import sys

import pytest
import torch

from hires import config as configuration
from hires.errors import HiresError
from hires.training import game
from hires.training.player import DecayConfig, Whole, group_of
from hires.training.schedule import Schedule
from hires.training.trial import OUT_OF_MEMORY

STAGES = [0, 1, 2, 3]


def images(seed: int) -> torch.Tensor:
    return torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def losses(player) -> list[torch.Tensor]:
    """Two losses that pull in different directions, each with a graph of its own."""
    return [player(images(1).to(player.device)).mean() * 3, -player(images(2).to(player.device)).square().mean()]


@pytest.mark.parametrize("stage", STAGES)
def test_two_backwards_are_one_backward_of_the_sum(stage, make_player):
    moments, weights = [], []
    for together in (True, False):
        player = make_player(stage=stage)
        for _ in range(2):
            with player.accumulate():
                if together:
                    player.backward(sum(losses(player)))
                else:
                    for loss in losses(player):
                        player.backward(loss)
            player.step(1e-2, 0.9)
        moments.append(player.gather("exp_avg"))
        weights.append(player.gather("weight"))
        player.destroy()
    for name in moments[0]:
        assert (moments[0][name] - moments[1][name]).abs().max() < 1e-6 * (1 + moments[0][name].abs().max()), name
        assert (weights[0][name] - weights[1][name]).abs().max() < 1e-5, name


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("stage", STAGES)
def test_a_step_is_torchs_adam(stage, decay, make_player, trained):
    player = make_player(stage=stage, weight_decay=DecayConfig(generator=9.0, energy=decay))
    before = player.gather("weight")
    trained(player, 3)
    network = type(player.network)(config=_config(), resolution=8, fading=False)
    network.load_state_dict(before)
    adam = torch.optim.Adam(network.parameters(), lr=1e-2, betas=(0.5, 0.9), eps=1e-8, weight_decay=decay)
    for i in range(3):
        adam.zero_grad()
        (network(images(i)) - 1).square().mean().backward()
        adam.step()
    names = dict(network.named_parameters())
    for field, reference in [
        ("weight", {n: p.detach() for n, p in names.items()}),
        ("exp_avg", {n: adam.state[p]["exp_avg"] for n, p in names.items()}),
        ("exp_avg_sq", {n: adam.state[p]["exp_avg_sq"] for n, p in names.items()}),
    ]:
        found = player.gather(field)
        for name, tensor in reference.items():
            assert torch.allclose(found[name].cpu(), tensor, rtol=1e-4, atol=2e-6), (field, name)
    assert player.steps() == {"4x4": 3, "8x8": 3}
    player.destroy()


def test_a_step_is_torchs_adadelta(make_player, trained):
    """Its two numbers have Adam's names in fragments and checkpoints."""
    player = make_player(stage=0, name_of="adadelta")
    before = player.gather("weight")
    trained(player, 3)
    network = type(player.network)(config=_config(), resolution=8, fading=False)
    network.load_state_dict(before)
    optimizer = torch.optim.Adadelta(network.parameters(), lr=1e-2, rho=0.9, eps=1e-8)
    for i in range(3):
        optimizer.zero_grad()
        (network(images(i)) - 1).square().mean().backward()
        optimizer.step()
    names = {"weight": None, "exp_avg": "square_avg", "exp_avg_sq": "acc_delta"}
    for field, name in names.items():
        found = player.gather(field)
        for n, p in network.named_parameters():
            expected = optimizer.state[p][name] if name else p.detach()
            torch.testing.assert_close(found[n].cpu(), expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())  # sizes of 1e-8 too
    assert player.steps() == {"4x4": 3, "8x8": 3}
    whole = sum(shape.numel() for shape in player.shapes.values())
    assert player.optimizer_bytes() == 2 * 4 * whole
    player.destroy()


def _config():
    from hires.networks import NetworkConfig

    return NetworkConfig(latent=6, channels_base=64, channels_max=8, convs=1, image_channels=1)


@pytest.mark.parametrize("stage", STAGES)
def test_a_gradient_beyond_the_clip_is_torchs_clipped_one(stage, make_player, trained):
    """The global norm, over all parameters; Adam's first moment shows it: (1 - beta1) times the gradient."""
    player = make_player(stage=stage, clip=1e-3)
    network = type(player.network)(config=_config(), resolution=8, fading=False)
    network.load_state_dict(player.gather("weight"))
    trained(player, 1)
    (network(images(0)) - 1).square().mean().backward()
    assert torch.nn.utils.clip_grad_norm_(network.parameters(), 1e-3) > 1e-2
    moments = player.gather("exp_avg")
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(moments[name].cpu(), 0.5 * parameter.grad, rtol=1e-3, atol=1e-9)
    player.destroy()


def test_bf16_without_an_engine_steps_as_deepspeed_does(make_player, trained):
    """The same moments from the same bf16 weights; behind them fp32 ones, which begin with the digits that bf16 has not."""
    moments = []
    for stage in (0, 1):
        player = make_player(stage=stage, precision="bf16")
        assert all(p.dtype == torch.bfloat16 for p in player.network.parameters())
        start = player.gather("weight")
        trained(player, 1)
        moments.append(player.gather("exp_avg"))
        weight = player.gather("weight")
        moved = {n: (weight[n] - start[n]).abs().max().item() for n in start}
        assert moved == pytest.approx(dict.fromkeys(start, 1e-2), rel=1e-2)  # Adam's first step, which bf16 weights near 1 would not show
        exact = any((start[n] != start[n].bfloat16().float()).any() for n in start)
        assert exact == (stage == 0)  # DeepSpeed rounds before it copies
        player.destroy()
    for name, moment in moments[0].items():
        torch.testing.assert_close(moment, moments[1][name], rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_one_process_has_nothing_to_shard(stage, world):
    """Whatever the stage, its game plays without DeepSpeed's engines."""
    config = configuration.load("train", ["experiment=digits", "run=none", "data.root=none", "objective.r1=0", f"zero.stage={stage}"])
    config.train.precision = "fp32"
    played = game.Game(config, world, Schedule(config.schedule).at(0).shape)
    assert {type(player) for player in played.players.values()} == {Whole}
    played.destroy()


@pytest.mark.parametrize("stage", STAGES)
def test_moving_average(stage, make_player, trained):
    """ema <- d ema + (1 - d) weight after each step, from the starting weights on."""
    player = make_player(stage=stage)
    average = player.gather("weight")
    for i, decay in enumerate((0.9, 0.5, 0.0, 0.75)):
        trained(player, 1, decay=decay)
        weight = player.gather("weight")
        average = {n: decay * average[n] + (1 - decay) * weight[n] for n in average}
        found = player.gather("ema")
        for name in average:
            assert torch.allclose(found[name], average[name], atol=1e-6), (i, name)
    assert any((found[n] - weight[n]).abs().max() > 1e-4 for n in found)
    player.destroy()


@pytest.mark.parametrize("stage", STAGES)
def test_owned_fragments_cover_every_element_once(stage, make_player):
    player = make_player("generator", 16, fading=True, stage=stage)
    covered = {name: torch.zeros(shape.numel(), dtype=torch.int) for name, shape in player.shapes.items()}
    for fragment in player.owned():
        covered[fragment.name][fragment.start : fragment.start + fragment.numel] += 1
    assert all((count == 1).all() for count in covered.values())
    whole = sum(shape.numel() for shape in player.shapes.values())
    assert 0 <= player.optimizer_bytes() - 2 * 4 * whole <= 2 * 4 * 16 * 3  # fp32, two moments, and DeepSpeed's padding a group
    player.destroy()


@pytest.mark.parametrize("name,group", [("levels.64x64.conv0.weight", "64x64"), ("levels.4x4.to_rgb.bias", "4x4"), ("conv0.weight", "all")])
def test_parameters_are_grouped_by_level(name, group):
    assert group_of(name) == group


@pytest.mark.parametrize("stage", STAGES)
def test_destroyed_players_leave_nothing_behind(stage, make_player, trained):
    """A run of nine levels builds every player some eighteen times."""
    counts, sizes = [], []
    for _ in range(5):
        player = make_player("energy", 16, stage=stage)
        trained(player, 1, resolution=16)
        player.destroy()
        del player
        gc.collect()
        counts.append(sum(isinstance(o, torch.Tensor) for o in gc.get_objects()))
        sizes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert max(counts[2:]) <= counts[1], counts
    assert sizes[-1] - sizes[2] < 20_000, sizes  # kB


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_destroyed_player_of_stage_3_gives_its_state_back(precision, make_player, trained):
    """DeepSpeed keeps the engine reachable from hooks; what counts are the bytes: weights, moments and averages of every level."""

    def held() -> int:
        gc.collect()
        storages = (o.untyped_storage() for o in gc.get_objects() if isinstance(o, torch.Tensor) and type(o).__name__ != "FakeTensor")
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    sizes = []
    for _ in range(3):
        player = make_player("energy", 16, stage=3, precision=precision)
        trained(player, 1, resolution=16)
        player.destroy()
        del player
        sizes.append(held())
    assert sizes[2] - sizes[1] < 1000, sizes


def stands(stage: int, precision: str) -> None:
    config = configuration.load("plan", ["experiment=digits", "objective.r1=0", f"zero.stage={stage}", f"train.precision={precision}"])
    game.check(config, Schedule(config.schedule), 1)


@pytest.mark.parametrize("stage,precision", [(4, "fp32"), (-1, "fp32"), (1, "fp16")])
def test_what_does_not_train_is_refused(stage, precision):
    with pytest.raises(HiresError) as refusal:
        stands(stage, precision)
    assert "\n" not in str(refusal.value)


def test_what_trains_is_let_pass():
    for stage in STAGES:
        stands(stage, "fp32")
        stands(stage, "bf16")


@pytest.mark.parametrize(
    "said",
    [
        "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 10 bytes",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "NCCL error: Failed to CUDA calloc async 4 bytes",
        "ncclUnhandledCudaError: Call to CUDA function failed. Cuda failure 'out of memory'",
    ],
)
def test_every_librarys_words_for_too_little_memory_are_known(said):
    assert OUT_OF_MEMORY.search(said) and not OUT_OF_MEMORY.search("shape mismatch in the memory of a layer")


STARTED = """
import sys
import torch
from hires.ground import distributed
from hires.training.player import OptimizerConfig, ZeroConfig, new_player

world = distributed.start(threads=1)
torch.manual_seed(0)
player = new_player("energy", torch.nn.Linear(64, 1, bias=False), OptimizerConfig(), ZeroConfig(1), "fp32", world.device)
with player.accumulate():
    player.backward(player(torch.ones(1, 64)).mean() * (world.rank + 1))
player.step(1e-2, 0.5)
(moment,) = player.gather("exp_avg").values()
told = distributed.gather([world.rank, world.size, moment.unique().tolist(), "torch._dynamo" in sys.modules])
if world.rank == 0:
    print(told)
player.destroy()  # as a run does: an engine that outlives its groups may abort the process at its end
distributed.stop()
"""


@pytest.mark.slow
def test_what_torchrun_starts_shares_a_player(forks, clean_env, tmp_path):
    """Real processes of the launcher (itself forked): Adam's first moment is the mean of both ranks' gradients, beta1 being 0;
    and neither has loaded torch's compiler, which takes seconds."""
    (tmp_path / "started.py").write_text(STARTED)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", tmp_path / "started.py"]
    done = forks.run(command, env=clean_env | {"PYTHONPATH": str(Path(__file__).parents[2])}, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{[[rank, 2, [1.5], False] for rank in range(2)]}\n"
