"""Autocast, and for float16 the loss scaling that keeps small gradients from vanishing.

Micikevicius et al. 2018, "Mixed Precision Training", https://arxiv.org/abs/1710.03740.
"""

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch

from victorian.training.optimizer import Optimizer


class Precision:
    """How one worker computes: the autocast type and the loss scale that goes with it."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype = dtype
        self._device = device
        self._scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)

    @property
    def scales(self) -> bool:
        """Whether losses are scaled, and steps whose gradient overflows skipped."""
        return bool(self._scaler.is_enabled())

    @property
    def loss_scale(self) -> float | None:
        return float(self._scaler.get_scale()) if self.scales else None

    def autocast(self) -> AbstractContextManager[object]:
        if self._dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self._dtype)

    def backward(self, loss: torch.Tensor) -> None:
        torch.autograd.backward(self._scaler.scale(loss))

    def step(self, optimizer: Optimizer, parameters: Iterable[torch.Tensor], clip: float) -> float:
        """Unscale, clip the whole gradient to the norm `clip`, and step; where its norm is no number, no step is taken.

        Returns:
            The norm of the gradient before clipping; inf or nan where it overflowed.
        """
        for part in optimizer.parts:
            self._scaler.unscale_(part)
        parameters = list(parameters)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        if not norm <= clip:  # a pass over all gradients, which would leave shorter ones as they are
            torch.nn.utils.clip_grads_with_norm_(parameters, clip, torch.tensor(norm, device=gradients[0].device))
        # The scaler judges each optimizer by its own gradients, but one overflow has spoiled the common norm of all.
        if math.isfinite(norm):
            for part in optimizer.parts:
                self._scaler.step(part)
        self._scaler.update()
        return norm

    def state(self) -> dict[str, float]:
        return {key: float(value) for key, value in self._scaler.state_dict().items()}

    def load_state(self, state: dict[str, float]) -> None:
        if state:
            growth = ("growth_interval", "_growth_tracker")
            self._scaler.load_state_dict({k: int(v) if k in growth else v for k, v in state.items()})
