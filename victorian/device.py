"""The only place that asks what hardware there is: device, number type, threads. Cores are counted in `cores.py`.

Everything is a function called when a worker or an engine starts; nothing is decided at import.
"""

import ctypes
import platform
import re
import resource
import sys
from time import perf_counter

import psutil
import torch

from victorian.config import TrainingConfig
from victorian.cores import cores
from victorian.errors import ConfigError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device() -> torch.device:
    """The accelerator that this process was given, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def use_device(device: torch.device) -> None:
    """Make it the one that this thread means where none is named, which each thread has to be told."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices natively."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def training_dtype(training: TrainingConfig, device: torch.device) -> torch.dtype:
    """The autocast type for a device; float32 stands for no autocast."""
    on_gpu = device.type == "cuda"
    chosen = training.precision_gpu if on_gpu else training.precision_cpu
    if chosen != "auto":
        return DTYPES[chosen]
    if has_fast_bf16(device):
        return torch.bfloat16
    return torch.float16 if on_gpu else torch.float32


COMPILE_PAYS_SECONDS = 1800.0
"""Training from which compiling, a minute or so, is earned back on a GPU."""


def compiles(training: TrainingConfig, device: torch.device) -> bool:
    """Whether a run compiles its network."""
    if training.compile != "auto":
        return training.compile == "on"
    return device.type == "cuda" and (training.steps is not None or (training.seconds or 0) >= COMPILE_PAYS_SECONDS)


PEAKS = {
    "H200": {"bf16": 989e12, "fp16": 989e12, "fp32": 494e12},
    "H200 NVL": {"bf16": 835e12, "fp16": 835e12, "fp32": 417e12},
    "GH200": {"bf16": 989e12, "fp16": 989e12, "fp32": 494e12},
    "H100": {"bf16": 989e12, "fp16": 989e12, "fp32": 494e12},
    "H100 NVL": {"bf16": 835e12, "fp16": 835e12, "fp32": 417e12},
    "H100 PCIe": {"bf16": 756e12, "fp16": 756e12, "fp32": 378e12},
    "A100": {"bf16": 312e12, "fp16": 312e12, "fp32": 156e12},
    "L40S": {"bf16": 362e12, "fp16": 362e12, "fp32": 183e12},
    "L40": {"bf16": 181e12, "fp16": 181e12, "fp32": 90e12},
    "A10G": {"bf16": 70e12, "fp16": 70e12, "fp32": 35e12},
    "L4": {"bf16": 121e12, "fp16": 121e12, "fp32": 60e12},
    "V100": {"fp16": 125e12, "fp32": 15.7e12},
    "T4": {"fp16": 65e12, "fp32": 8.1e12},
}
"""Dense FLOP/s of accelerators by words of their names, from NVIDIA's data sheets; fp32 is TF32 where there is one."""


def known_flops(name: str, dtype: torch.dtype) -> float | None:
    """What the data sheet says of the accelerator of this name; None for one that is not in `PEAKS`."""
    kind = next(kind for kind, known in DTYPES.items() if known == dtype)
    words = set(re.split("[ -]", name))  # whole ones: an L40 is no L4
    found = [known for known, peaks in PEAKS.items() if words.issuperset(known.split()) and kind in peaks]
    return PEAKS[max(found, key=len)][kind] if found else None


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s that a device can do in matrix products: its data sheet's, else what a quick measurement finds."""
    known = known_flops(torch.cuda.get_device_name(device), dtype) if device.type == "cuda" else None
    return measured_flops(device, dtype) if known is None else known


def measured_flops(device: torch.device, dtype: torch.dtype, size: int | None = None, seconds: float = 0.2) -> float:
    """FLOP/s of the fastest of some products of square matrices.

    Args:
        size: rows of a matrix; by default so many that an accelerator takes longer to multiply than to be asked.
    """
    size = size or (4096 if device.type == "cuda" else 1024)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))

    def multiply() -> float:
        began = perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return perf_counter() - began

    multiply()  # waits for its library to get ready, which may take longer than all the others
    best = multiply()
    end = perf_counter() + seconds
    while perf_counter() < end:
        best = min(best, multiply())
    return 2 * size**3 / best


def memory_in_use(device: torch.device) -> tuple[int, int]:
    """Bytes that this process holds on an accelerator, else in main memory, and the most that it ever held."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return psutil.Process().memory_info().rss, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def memory_of_device(device: torch.device) -> int:
    """Bytes of an accelerator, else of main memory."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return int(psutil.virtual_memory().total)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch could not allocate; on CPUs only its words say so."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def use_fast_products(device: torch.device) -> None:
    """Let an accelerator multiply float32 matrices as TF32, where autocast leaves any."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")


def keep_freed_memory(device: torch.device) -> None:
    """Have a process that trains on a CPU keep what it frees for its next step, where glibc is its C library.

    By default glibc gives large blocks back at once, and the system clears their pages again whenever they are wanted,
    which costs a third of a step of GPT-2's 124M (docs/benchmarks.md).
    """
    if device.type == "cpu" and platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt  # parameters as in glibc's malloc.h
        for parameter, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, 256 * 2**20)):
            mallopt(parameter, value)


_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def use_threads(count: int | None = None) -> int:
    """Let torch compute on `count` CPU threads, by default on every core; Ray would leave it one.

    Raises:
        ConfigError: for more threads than there are cores, which only slows everything down.
    """
    if count is not None and count > cores():
        raise ConfigError(f"{count} threads were asked for on {cores()} cores; use at most {cores()}")
    count = count or cores()
    torch.set_num_threads(count)
    return count
