"""train.precision=auto: which machine gets which numbers, and that a run keeps what it began with."""

import subprocess
import sys

from omegaconf import OmegaConf
import pytest
import torch

from hires.config import load
from hires.errors import HiresError
from hires.ground import machine
from hires.training import game

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def a_processor(monkeypatch, capability: str, avx512_bf16: bool, amx: bool, forbidden: str = "") -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", forbidden)


@pytest.mark.parametrize(
    ("processor", "fast"),
    [
        (("AVX2", False, False), False),
        (("AVX512", False, False), False),
        (("AVX512", True, False), True),
        (("AVX512", False, True), True),
        (("AVX512", True, True, "AVX2"), False),  # oneDNN is told not to use them
        (("AVX2", True, True), False),  # ATEN_CPU_CAPABILITY=avx2 on a newer processor
    ],
)
def test_a_processor_with_bf16_instructions_gets_bf16(monkeypatch, processor, fast):
    a_processor(monkeypatch, *processor)
    assert machine.precision_of("auto", CPU) == ("bf16" if fast else "fp32")


@pytest.mark.parametrize(("capability", "precision"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_a_gpu_from_8_0_gets_bf16(monkeypatch, capability, precision):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert machine.precision_of("auto", GPU) == precision


def test_what_is_named_is_taken_and_a_wrong_name_refused():
    assert [machine.precision_of(name, CPU) for name in ("bf16", "fp32")] == ["bf16", "fp32"]
    with pytest.raises(HiresError, match=r"train\.precision=fp16: wanted auto, fp32 or bf16"):
        machine.precision_of("fp16", CPU)


@pytest.mark.parametrize(("features", "precision"), [(("AVX512", True, True), "bf16"), (("AVX2", False, False), "fp32")])
def test_a_new_run_takes_what_the_machine_computes_fast(world, monkeypatch, tmp_path, features, precision):
    a_processor(monkeypatch, *features)
    config = load("train", ["experiment=digits", f"run={tmp_path}", "data.root=none"])
    assert game.settle_precision(config, world).train.precision == precision


def test_a_run_keeps_its_precision_and_says_it(hires, tiny, tmp_path):
    """Begun in bf16 by name, resumed by auto: still bf16, in the table and in config.yaml, with a line where the machine is slow at it."""
    command = ["train", *(one for one in tiny if not one.startswith("train.precision")), f"run={tmp_path}", "network.channels_max=4"]
    begun = hires(*command, "train.precision=bf16", "train.max_images=16")
    resumed = hires(*command, "train.max_images=32")
    for done in (begun, resumed):
        assert done.returncode == 0, done.stderr
        assert "1 process, bf16" in done.stdout
        assert ("times as slowly as fp32" in done.stdout) == (not machine.has_fast_bf16(CPU))
    assert OmegaConf.load(tmp_path / "config.yaml").train.precision == "bf16"


@pytest.mark.parametrize(
    ("asked", "resolution", "environment", "threads"),
    [
        (0, 16, {}, 1),
        (0, 32, {}, 8),
        (0, 32, {"LOCAL_WORLD_SIZE": "4"}, 2),
        (0, 32, {"LOCAL_WORLD_SIZE": "16"}, 1),
        (0, 32, {"OMP_NUM_THREADS": "3"}, 3),
        (0, 32, {"OMP_NUM_THREADS": "64"}, 8),
        (5, 4, {"OMP_NUM_THREADS": "3"}, 5),
    ],
)
def test_threads_of_eight_cores(monkeypatch, asked, resolution, environment, threads):
    """Small pictures one, others this process's share, never more than OMP_NUM_THREADS; a number asked for is taken."""
    for name in ("LOCAL_WORLD_SIZE", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: set(range(8)))
    taken = []
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    machine.use_threads(asked, resolution)
    assert taken == [threads]


def test_openmp_sleeps_while_it_waits(clean_env):
    """However hires comes to be imported, before torch; what a person has set stays."""
    show = [sys.executable, "-c", "import hires, os; print(os.environ['OMP_WAIT_POLICY'], os.environ['GOMP_SPINCOUNT'])"]
    bare = {k: v for k, v in clean_env.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    assert subprocess.run(show, env=bare, capture_output=True, text=True, check=True).stdout == "PASSIVE 0\n"
    own = bare | {"OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": "7"}
    assert subprocess.run(show, env=own, capture_output=True, text=True, check=True).stdout == "ACTIVE 7\n"


def test_the_probe_tells_a_slow_type_from_a_fast_one(monkeypatch):
    """A type made four times as much work is told as slower; the very same type as neither."""
    monkeypatch.setattr(machine, "DTYPES", {"fp32": torch.float32, "bf16": torch.float32})
    assert 0.1 < machine.bf16_slowdown(CPU, 0.2) < 10


def test_fp32_is_fp32_and_a_run_repeats_where_asked():
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic
    try:
        cudnn.allow_tf32 = matmul.allow_tf32 = True
        machine.exact_fp32()
        assert not cudnn.allow_tf32 and not matmul.allow_tf32
        for wanted in (True, False):
            machine.repeatable(wanted)
            assert cudnn.deterministic == wanted
    finally:
        cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic = before
