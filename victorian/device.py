"""The only place that asks what hardware there is: device, number type, threads.

Everything is a function called when a worker or an engine starts; nothing is decided at import.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

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
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu.get_capabilities().get("avx512_bf16") or torch.cpu.get_capabilities().get("amx_bf16"))


def training_dtype(training: TrainingConfig, device: torch.device) -> torch.dtype:
    """The autocast type for a device; float32 stands for no autocast."""
    if device.type == "cuda":
        fallback, chosen = "fp16", training.precision_gpu
    else:
        fallback, chosen = "fp32", training.precision_cpu
    if chosen == "auto":
        chosen = "bf16" if has_fast_bf16(device) else fallback
    return DTYPES[chosen]


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


def describe(device: torch.device) -> str:
    """The device in words, for records of what was measured where."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cores()} CPU cores"


@contextmanager
def deterministic() -> Iterator[None]:
    """Bit-equal results on one device for the same inputs, where kernels offer it."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
