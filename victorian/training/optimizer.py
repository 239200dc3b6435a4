"""AdamW, or Muon for the blocks' matrices with AdamW for the rest, behind one small class."""

from typing import Any

import torch
from torch import nn

from victorian.config import OptimizerConfig

Tensors = dict[str, torch.Tensor]


class Optimizer:
    """The optimizers of one run: scales their learning rates together, and saves them by parameter name.

    Weight decay acts on matrices only. AdamW: Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101. Muon:
    Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; it is made for maps, so embeddings stay with AdamW.
    """

    def __init__(self, model: nn.Module, config: OptimizerConfig) -> None:
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        matrices = {n: p for n, p in self._parameters.items() if p.dim() >= 2}
        muon = {n for n in matrices if "embedding" not in n} if config.name == "muon" else set()
        decayed = [p for n, p in matrices.items() if n not in muon]
        plain = [p for p in self._parameters.values() if p.dim() < 2]
        adamw = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": config.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            fused=True,
        )
        self.parts: list[torch.optim.Optimizer] = [adamw]
        if muon:
            self.parts.append(
                torch.optim.Muon(
                    [matrices[n] for n in sorted(muon)],
                    lr=config.matrix_learning_rate,
                    weight_decay=config.weight_decay,
                )
            )
        self._peaks = [[float(group["lr"]) for group in part.param_groups] for part in self.parts]

    def scale_rates(self, factor: float) -> float:
        """Set every learning rate to `factor` of its peak; returns AdamW's."""
        for part, peaks in zip(self.parts, self._peaks, strict=True):
            for group, peak in zip(part.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
        return self._peaks[0][0] * factor

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def tensors(self) -> Tensors:
        """The state, as `PARAMETER/KEY` tensors: moments and step counts."""
        names = {id(parameter): name for name, parameter in self._parameters.items()}
        return {
            f"{names[id(parameter)]}/{key}": torch.as_tensor(value)
            for part in self.parts
            for parameter, state in part.state.items()
            for key, value in state.items()
        }

    def load_tensors(self, tensors: Tensors) -> None:
        """Put back what `tensors` gave, bit for bit."""
        for part in self.parts:
            for group in part.param_groups:
                for parameter in group["params"]:
                    name = next(n for n, p in self._parameters.items() if p is parameter)
                    state: dict[str, Any] = part.state[parameter]
                    state.clear()
                    for key, value in tensors.items():
                        stem, _, field = key.rpartition("/")
                        if stem == name:
                            state[field] = value.clone()
