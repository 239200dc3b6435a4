"""Runs the network for one step: fills caches, then reads one token a row. Nothing else in the engine calls it."""

import copy

import torch

from victorian.config import EngineConfig
from victorian.device import DTYPES
from victorian.engine.scheduler import Plan
from victorian.model.gpt2 import GPT


class Runner:
    """The model in the engine's precision, and the cache of its rows."""

    def __init__(self, model: GPT, config: EngineConfig, tokens: int, device: torch.device) -> None:
        dtype = DTYPES[config.precision]
        self._model = copy.deepcopy(model).to(device=device, dtype=dtype).eval().requires_grad_(False)
        self._cache = self._model.new_cache(config.max_running)
        self._tokens = tokens
        self._device = device

    @torch.inference_mode()
    def run(self, plan: Plan) -> torch.Tensor:
        """Logits for the token after each running row's last: float32 (rows, tokens), padding rows left out."""
        for fill in plan.fills:
            ids = torch.tensor([fill.tokens], device=self._device)
            self._model.hidden(ids, self._cache.extend(fill.row, 0, len(fill.tokens)))
        last = torch.tensor([[sequence.tokens[-1]] for sequence in plan.running], device=self._device)
        hidden = self._model.hidden(last, self._cache.append([sequence.cached for sequence in plan.running]))
        for sequence in plan.running:
            sequence.cached += 1
        return self._model.logits(hidden[:, -1])[:, : self._tokens].float()

    def move(self, source: int, target: int, length: int) -> None:
        """Row `source`, of which `length` tokens are cached, becomes row `target`."""
        self._cache.move(source, target, length)
