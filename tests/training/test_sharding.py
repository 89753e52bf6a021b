"""Two and four real processes on every ZeRO stage: what each holds of Adam's moments, and what their checkpoints say when read whole."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
import torch

from hires.checkpoints import reading

SCRIPT = Path(__file__).parents[1] / "processes" / "sharded.py"
STAGES = [0, 1, 2, 3]
GROUPS = 3  # parameter groups of a player: its levels


@pytest.fixture(scope="module", params=[2, 4])
def written(request, ranks, tmp_path_factory) -> tuple[int, Path]:
    out = tmp_path_factory.mktemp(f"world{request.param}")
    ranks(request.param, SCRIPT, out)
    return request.param, out


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_moments_of_a_rank_are_its_share_of_the_whole(written, stage):
    """fp32, two moments: 8 bytes a parameter, over W ranks on stages 1 to 3; DeepSpeed pads each group (and, on 3, each parameter)."""
    world, out = written
    parameters = load_file(out / f"stage{stage}.safetensors")
    for player, held in json.loads((out / "bytes.json").read_text())[str(stage)].items():
        tensors = [t for key, t in parameters.items() if key.startswith(f"{player}/") and key.endswith("/weight")]
        whole = 8 * sum(t.numel() for t in tensors)
        assert len(held) == world
        if stage == 0:
            assert held == [whole] * world
            continue
        padding = 8 * (len(tensors) if stage == 3 else 8 * GROUPS)  # elements a rank may hold on top of its share
        assert all(whole / world <= rank <= whole / world + padding for rank in held), (held, whole / world)
        assert padding < 0.05 * whole / world  # a bound that means something


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_checkpoint_of_many_is_read_by_one_every_element_once(written, stage):
    world, out = written
    checkpoint = reading.Checkpoint(reading.newest_valid(out / f"stage{stage}", pytest.fail))
    assert len(checkpoint.manifest["files"]) == world == checkpoint.manifest["world_size"]
    expected = load_file(out / f"stage{stage}.safetensors")
    for key, tensor in expected.items():
        player, name, field = key.split("/")
        assert checkpoint.numel(player, name, field) == tensor.numel(), key
        assert torch.equal(checkpoint.read(player, name, field, 0, tensor.numel()).view(tensor.shape), tensor), key
    names = {tuple(key.split("/")[:2]) for key in expected}
    assert names == {(player, name) for player in ("energy", "inference") for name in checkpoint.names(player)}
    assert set(checkpoint.manifest["steps"]["energy"].items()) == {("4x4", 2), ("8x8", 2), ("16x16", 2)}
    assert any(tensor.any() for key, tensor in expected.items() if key.endswith("exp_avg_sq"))


@pytest.mark.slow
def test_stages_agree(written):
    _, out = written
    whole = [load_file(out / f"stage{stage}.safetensors") for stage in STAGES]
    for other in whole[1:]:
        assert max((whole[0][key] - other[key]).abs().max().item() for key in other) < 1e-6
