"""Run by test_sharding under torchrun: trains two players on each ZeRO stage, saves them, and tells what each rank holds.

    torchrun --nproc_per_node W sharded.py OUT

writes OUT/stage{0..3}/images-…, the gathered tensors as OUT/stage{0..3}.safetensors and OUT/bytes.json: stage -> player -> rank -> bytes.
"""

import json
from pathlib import Path
import sys
import zlib

from safetensors.torch import save_file
import torch

from hires import networks
from hires.checkpoints import reading, writing
from hires.ground import distributed
from hires.networks import NetworkConfig
from hires.training.player import OptimizerConfig, Player, ZeroConfig, new_player

CONFIG = NetworkConfig(latent=6, channels_base=256, channels_max=24, convs=1, image_channels=1)
BATCH = 8


def play(world, stage: int) -> dict[str, Player]:
    """Two steps of an energy and an inference model at 16x16, fading, on this rank's rows of a global batch."""
    players = {}
    for name in ("energy", "inference"):
        network = networks.build(CONFIG, name, 16, True)
        networks.initialise(network, lambda parameter: torch.Generator().manual_seed(zlib.crc32(parameter.encode())))
        players[name] = new_player(name, network, OptimizerConfig(eps=1e-3), ZeroConfig(stage), "fp32", world.device)
    for step in range(2):
        x = torch.randn(BATCH, 1, 16, 16, generator=torch.Generator().manual_seed(step))[world.rows(BATCH)]
        for player in players.values():
            with player.accumulate():
                for sign in (1, -2):  # two backwards into one step
                    out = player(x.to(world.device), 0.5)
                    player.backward(sign * sum(t.square().mean() for t in (out if isinstance(out, tuple) else (out,))))
            player.step(1e-3, 0.5)
    return players


def main(out: Path) -> None:
    world = distributed.start(threads=1)
    held: dict[str, dict[str, list[int]]] = {}
    for stage in range(4):
        players = play(world, stage)
        writing.save(out / f"stage{stage}", players, 16, {"resolution": 16, "config": {}})
        held[str(stage)] = {name: distributed.gather(player.optimizer_bytes()) for name, player in players.items()}
        whole = {f"{name}/{n}/{f}": t for name, p in players.items() for f in reading.FIELDS for n, t in p.gather(f).items()}
        if world.first:
            save_file({key: tensor.cpu().contiguous() for key, tensor in whole.items()}, out / f"stage{stage}.safetensors")
        for player in players.values():
            player.destroy()
    if world.first:
        (out / "bytes.json").write_text(json.dumps(held))
    distributed.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
