"""A few steps of a recipe on this machine, on random tokens: what a plan predicts, measured."""

from dataclasses import dataclass
from time import perf_counter

import torch

from victorian.config import Recipe
from victorian.device import memory_in_use, peak_flops, pick_device, training_dtype, use_threads
from victorian.model.gpt2 import GPT
from victorian.training.optimizer import Optimizer
from victorian.training.plan import flops_per_token
from victorian.training.precision import Precision


@dataclass(frozen=True)
class Trial:
    """What a few steps of one microbatch each took."""

    tokens_per_second: float
    """Of the fastest step."""
    mfu: float
    activations: int
    """Bytes that autograd kept between forward and backward."""
    memory: int
    """Bytes by which the steps raised what the process holds, at the most."""


def run_trial(recipe: Recipe, steps: int = 3) -> Trial:
    """Take steps of one microbatch each, accumulation left out."""
    device = pick_device()
    use_threads()
    _, before = memory_in_use(device)
    dtype = training_dtype(recipe.training, device)
    model = GPT(recipe.model)
    model.initialize(recipe.training.seed)
    model.to(device).train()
    optimizer, precision = Optimizer(model, recipe.optimizer), Precision(dtype, device)
    shape = (min(recipe.training.sequences_per_microbatch, recipe.sequences_per_step), recipe.model.context + 1)
    generator = torch.Generator().manual_seed(recipe.training.seed)
    tokens = torch.randint(recipe.tokens.ranks, shape, generator=generator).to(device)
    weights = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    best = float("inf")
    for _ in range(steps):
        kept.clear()
        began = perf_counter()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), precision.autocast():
            loss = model(tokens[:, :-1], tokens[:, 1:])
        precision.backward(loss)
        precision.step(optimizer, model.parameters(), recipe.optimizer.clip)
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, perf_counter() - began)
    speed = (shape[0] * recipe.model.context) / best
    share = flops_per_token(recipe.model) * speed / peak_flops(device, dtype)
    return Trial(speed, share, sum(kept.values()), memory_in_use(device)[1] - before)
