"""What the machine at hand computes fast: the type of numbers, and how many threads. The only place that looks at the processor."""

import os
import time

import torch

from hires.errors import HiresError

PRECISIONS = ("auto", "fp32", "bf16")
WITHOUT_BF16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI")  # of oneDNN's names of instruction sets
THREADED_FROM = 32  # pixels: below, two threads beside busy neighbours take up to three times as long as one (docs/records/performance.md)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def has_fast_bf16(device: torch.device) -> bool:
    """Whether `device` multiplies bf16 faster than fp32: a GPU from compute capability 8.0, a CPU with AVX512-BF16 or AMX.

    Elsewhere torch computes bf16 convolutions element by element, six to ten times slower than fp32. ONEDNN_MAX_CPU_ISA and
    ATEN_CPU_CAPABILITY, which forbid instructions, are heeded.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in WITHOUT_BF16 or "AVX512" not in torch.backends.cpu.get_cpu_capability():
        return False
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def precision_of(asked: str, device: torch.device) -> str:
    """`asked` itself, or what auto means on `device`: bf16 where it is fast, else fp32.

    Raises HiresError for a name that is not one of PRECISIONS.
    """
    if asked not in PRECISIONS:
        raise HiresError(f"train.precision={asked}: wanted {', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}")
    if asked != "auto":
        return asked
    return "bf16" if has_fast_bf16(device) else "fp32"


def use_threads(asked: int, resolution: int) -> None:
    """Let torch compute with `asked` CPU threads; 0: one below 32x32, from there this process's share of the cores.

    Layers of small pictures are too short for two threads to gain much, and a busy neighbour makes them wait for each other.
    OMP_NUM_THREADS, which torchrun sets, is the most that 0 takes. Bit for bit the same run takes the same number.
    """
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    most = os.environ.get("OMP_NUM_THREADS", "")
    share = min(cores, int(most)) if most.isdecimal() else cores
    torch.set_num_threads(asked or (max(1, share) if resolution >= THREADED_FROM else 1))


def exact_fp32() -> None:
    """Let GPUs compute fp32 as fp32: TF32, torch's default for convolutions, changes pictures by more than rounding."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def repeatable(wanted: bool) -> None:
    """Whether cuDNN takes kernels whose sums have one order alone: a run on GPUs is then the same to the last bit, and maybe slower."""
    torch.backends.cudnn.deterministic = wanted


def bf16_slowdown(device: torch.device, seconds: float = 0.5) -> float:
    """Time of a small convolution, forward and backward, in bf16 over its time in fp32: each measured for half of `seconds`."""
    rates = {}
    for name, dtype in DTYPES.items():
        layer = torch.nn.Conv2d(16, 16, 3, padding=1, device=device, dtype=dtype)
        x = torch.randn(8, 16, 16, 16, device=device, dtype=dtype)
        layer(x).sum().backward()  # the first one builds the kernel
        count, begin = 0, time.perf_counter()
        while count < 2 or time.perf_counter() - begin < seconds / 2:
            layer(x).sum().backward()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            count += 1
        rates[name] = count / (time.perf_counter() - begin)
    return rates["fp32"] / rates["bf16"]
