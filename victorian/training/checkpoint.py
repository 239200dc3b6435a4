"""A run's state as a folder, from which it goes on exactly: weights, optimizer, loss scale, position.

There is no random state to keep: the order of the windows and dropout are functions of (seed, step, rank).
safetensors and JSON only; both tensor files are checked against the hashes in `state.json`, which is written last.
"""

from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from pydantic import ValidationError
from safetensors import SafetensorError

from victorian.config import Recipe, Section, differences
from victorian.errors import StorageError, TrainingError
from victorian.model.gpt2 import GPT
from victorian.storage import LocalStorage, read_verified, sha256
from victorian.training.optimizer import Optimizer
from victorian.training.precision import Precision

STATE = "state.json"


class Position(Section):
    """How far a run has come."""

    step: int = 0
    """Optimizer steps taken."""
    seconds: float = 0.0
    """Seconds spent in them."""
    loss: float | None = None
    """Running mean of the training loss; None before the first step."""
    validation_loss: float | None = None
    """As last measured."""


class State(Section):
    """What `state.json` holds."""

    recipe: Recipe
    position: Position
    loss_scaler: dict[str, float]
    files: dict[str, str]
    """SHA-256 of the tensor files."""


@dataclass(frozen=True)
class Trainee:
    """Everything that changes while training, as one thing to save and load."""

    recipe: Recipe
    model: GPT
    optimizer: Optimizer
    precision: Precision


def save_checkpoint(folder: Path, trainee: Trainee, position: Position) -> None:
    """Write a checkpoint into an empty folder."""
    storage = LocalStorage(folder)
    tensors = {
        "model.safetensors": {k: v.detach().cpu().contiguous() for k, v in trainee.model.state_dict().items()},
        "optimizer.safetensors": {k: v.detach().cpu().contiguous() for k, v in trainee.optimizer.tensors().items()},
    }
    files = {}
    for name, group in tensors.items():
        data = safetensors.torch.save(group)
        storage.write(name, data)
        files[name] = sha256(data)
    state = State(recipe=trainee.recipe, position=position, loss_scaler=trainee.precision.state(), files=files)
    storage.write(STATE, state.model_dump_json(indent=1).encode())


def load_checkpoint(folder: Path, trainee: Trainee) -> Position:
    """Put a checkpoint's state into `trainee` and return where the run stood.

    Raises:
        TrainingError: if the checkpoint is damaged or was written under another recipe.
    """
    storage = LocalStorage(folder)
    try:
        state = State.model_validate_json(storage.read(STATE))
        if changed := differences(trainee.recipe, state.recipe):
            raise TrainingError(f"the run was begun with another recipe ({'; '.join(changed)}): give it another name")
        model = safetensors.torch.load(read_verified(storage, "model.safetensors", state.files["model.safetensors"]))
        optimizer = safetensors.torch.load(
            read_verified(storage, "optimizer.safetensors", state.files["optimizer.safetensors"])
        )
    except (StorageError, SafetensorError, ValidationError, KeyError) as error:
        raise TrainingError(f"the checkpoint in {folder} is damaged: {error}") from error
    trainee.model.load_state_dict(model)
    device = trainee.model.token_embedding.weight.device
    # AdamW counts its steps in CPU scalars unless it runs fused on an accelerator; everything else follows the weights.
    trainee.optimizer.load_tensors({k: v.to(device) for k, v in optimizer.items()})
    trainee.precision.load_state(state.loss_scaler)
    return state.position
