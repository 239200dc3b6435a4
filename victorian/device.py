"""The only place that asks what hardware there is: device, number type, threads.

Everything is a function called when a worker or an engine starts; nothing is decided at import.
"""

import os

import torch

from victorian.config import TrainingConfig
from victorian.errors import ConfigError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device() -> torch.device:
    """The accelerator that this process was given, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


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


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
