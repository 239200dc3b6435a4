"""What a run costs, before it costs it: parameters, FLOPs, memory, hours, and money.

FLOPs count matrix products, forward and backward, as Chowdhery et al. 2022 (PaLM, appendix B,
https://arxiv.org/abs/2204.02311) do: 6 a matrix parameter and token, and 12 * layers * channels * context a token for
attention. Memory is counted tensor by tensor: what autograd keeps of each operation of `model/gpt2.py`.
"""

from dataclasses import dataclass

from victorian.config import ModelConfig, Recipe, Section
from victorian.errors import ConfigError, TrainingError
from victorian.model.head import CHUNK_ROWS, GROUP_ROWS

GIB = 2**30


class Hardware(Section):
    """Machines that a plan can be made for. FLOP/s are dense, of one device, in 16 bits, from data sheets."""

    name: str
    devices: int
    flops: float
    memory: float
    """Bytes of one device."""


HARDWARE = {
    machine.name: machine
    for machine in (
        Hardware(name="p4d.24xlarge", devices=8, flops=312e12, memory=40 * GIB),
        Hardware(name="p4de.24xlarge", devices=8, flops=312e12, memory=80 * GIB),
        Hardware(name="p5.48xlarge", devices=8, flops=989e12, memory=80 * GIB),
        Hardware(name="g6e.xlarge", devices=1, flops=362e12, memory=48 * GIB),
        Hardware(name="g5.xlarge", devices=1, flops=70e12, memory=24 * GIB),
        Hardware(name="g4dn.xlarge", devices=1, flops=65e12, memory=16 * GIB),
    )
}

ASSUMED_MFU = 0.4
"""Where nothing was measured; a public run of this size reached 0.43 on 8 A100 (karpathy/llm.c, discussion 481)."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one device at the height of a step."""

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    """What autograd keeps of one microbatch between forward and backward."""
    logits: int
    """The chunk of logits that exists at a time, and what is computed from it."""

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.optimizer + self.activations + self.logits


@dataclass(frozen=True)
class Plan:
    """A run as it can be expected; everything but counts is a prediction."""

    parameters: int
    tokens: int | None
    """Training tokens; None for a budget in seconds on hardware whose speed is not known."""
    flops_per_token: int
    memory: Memory
    tokens_per_second: float
    seconds: float


def parameter_count(model: ModelConfig) -> int:
    """Parameters, the shared embedding counted once."""
    c = model.channels
    return (model.vocabulary + model.context) * c + model.layers * (12 * c * c + 13 * c) + 2 * c


def flops_per_token(model: ModelConfig) -> int:
    """FLOPs of one training token, forward and backward, at the full context."""
    c = model.channels
    matrices = model.layers * 12 * c * c + model.vocabulary * c
    return 6 * matrices + 12 * model.layers * c * model.context


def memory_of(recipe: Recipe, sequences: int, compute_bytes: int = 2, on_cpu: bool = False) -> Memory:
    """Bytes of a training step with microbatches of `sequences` windows.

    Args:
        compute_bytes: of a number in matrix products: 2 under autocast, else 4.
        on_cpu: where dropout keeps a number for each that an accelerator keeps a byte for.
    """
    model = recipe.model
    parameters = parameter_count(model)
    muon = 12 * model.channels**2 * model.layers if recipe.optimizer.name == "muon" else 0
    optimizer = 4 * muon + 8 * (parameters - muon)
    tokens, c, b = sequences * model.context, model.channels, compute_bytes
    # Bytes a token that autograd keeps in a block: of LayerNorm its float32 input, of a product its input.
    norms = 2 * (4 + b) * c
    feed_forward = 2 * 4 * b * c  # before and after GELU
    attention = (3 + 1) * b * c + 4 * model.heads  # q, k, v, what comes out, and the logarithms of sums
    mask, first_mask = (b, 4) if on_cpu else (1, 1)
    masks = 2 * mask * c if model.dropout else 0
    ends = 4 * c + first_mask * c * bool(model.dropout)  # last LayerNorm, first dropout
    casts = b * 12 * c * c * model.layers if b < 4 else 0  # the blocks' matrices in the type of the products
    activations = tokens * (model.layers * (norms + attention + feed_forward + masks) + ends) + casts
    head = 2 * 4 * tokens * c + 4 * model.vocabulary * c  # gradients of hidden states and of the embedding
    return Memory(
        parameters=4 * parameters,
        gradients=4 * parameters,
        optimizer=optimizer,
        activations=activations,
        logits=(4 * min(tokens, CHUNK_ROWS) + b * min(tokens, GROUP_ROWS)) * model.vocabulary + head,
    )


def largest_microbatch(recipe: Recipe, free: float, compute_bytes: int = 2, on_cpu: bool = False) -> int:
    """The most windows at once that fit into `free` bytes; 0 if not even one does."""
    most = 0
    for sequences in range(1, recipe.sequences_per_step + 1):
        if memory_of(recipe, sequences, compute_bytes, on_cpu).total > free:
            break
        most = sequences
    return most


def check_memory(recipe: Recipe, available: int, compute_bytes: int, on_cpu: bool) -> None:
    """TrainingError, with the number of windows that would fit, for a microbatch that a device cannot hold."""
    sequences = min(recipe.training.sequences_per_microbatch, recipe.sequences_per_step)
    needed = memory_of(recipe, sequences, compute_bytes, on_cpu).total
    if needed > available:
        raise too_large(recipe, available, compute_bytes, on_cpu)


def too_large(recipe: Recipe, available: int, compute_bytes: int, on_cpu: bool) -> TrainingError:
    """What to say of a microbatch that does not fit into `available` bytes."""
    sequences = min(recipe.training.sequences_per_microbatch, recipe.sequences_per_step)
    needed = memory_of(recipe, sequences, compute_bytes, on_cpu).total
    fits = min(largest_microbatch(recipe, 0.9 * available, compute_bytes, on_cpu), sequences - 1)
    advice = f"use --training.sequences-per-microbatch {fits}" if fits > 0 else "not even one fits: use a smaller model"
    return TrainingError(
        f"{sequences} windows of {recipe.model.context} tokens at once take about {needed / GIB:.1f} GiB, "
        f"and there are {available / GIB:.1f}; {advice}"
    )


def make_plan(
    recipe: Recipe,
    flops: float,
    devices: int = 1,
    mfu: float = ASSUMED_MFU,
) -> Plan:
    """What a recipe needs on `devices` devices of `flops` FLOP/s each, of which it reaches the share `mfu`."""
    per_token = flops_per_token(recipe.model)
    speed = flops * devices * mfu / per_token
    config = recipe.training
    if config.steps is not None:
        tokens = config.steps * config.tokens_per_step
        seconds = tokens / speed
    else:
        assert config.seconds is not None
        seconds = config.seconds
        tokens = int(seconds * speed)
    # A step may have fewer windows than a microbatch has room for.
    memory = memory_of(recipe, min(config.sequences_per_microbatch, recipe.sequences_per_step))
    return Plan(parameter_count(recipe.model), tokens, per_token, memory, speed, seconds)


def find_hardware(name: str) -> Hardware:
    """The machine called `name`; ConfigError with the names that are known for any other."""
    if name not in HARDWARE:
        raise ConfigError(f"no machine called {name!r} is known; there are {', '.join(HARDWARE)}")
    return HARDWARE[name]
