"""A run's state as a few blobs, from which it goes on exactly: weights, optimizer, loss scale, position.

There is no random state to keep: the order of the windows and dropout are functions of (seed, step, rank).
safetensors and JSON only; both tensor files are checked against the hashes in `state.json`, which is written last.
"""

from dataclasses import dataclass

import safetensors.torch
import torch
from pydantic import ValidationError
from safetensors import SafetensorError

from victorian.config import Recipe, Section, differences
from victorian.errors import StorageError, TrainingError
from victorian.model.gpt2 import GPT
from victorian.storage import Storage, read_verified, sha256
from victorian.training.optimizer import Optimizer
from victorian.training.precision import Precision

STATE = "state.json"
MODEL = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"


class Position(Section):
    """How far a run has come."""

    step: int = 0
    """Optimizer steps taken, those that overflowed included."""
    overflows: int = 0
    """Steps that changed nothing, because their gradient overflowed float16."""
    seconds: float = 0.0
    """Seconds spent in them."""
    loss: float | None = None
    """Running mean of the training loss; None before the first step."""
    validation_loss: float | None = None
    """As last measured."""
    validated_step: int | None = None
    """When that was."""
    best_validation_loss: float | None = None
    """The lowest so far."""

    @property
    def is_best(self) -> bool:
        """Whether no look at the validation loss so far was better than the one at this very step."""
        return self.validated_step == self.step and self.validation_loss == self.best_validation_loss


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


@dataclass(frozen=True)
class Best:
    """The model of the lowest validation loss so far, copied as a snapshot is."""

    position: Position
    model: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Snapshot:
    """A moment of a run, copied into memory that nothing else writes to: it can be stored while training goes on."""

    recipe: Recipe
    position: Position
    loss_scaler: dict[str, float]
    model: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]
    best: Best | None = None
    """What is to be kept beside the checkpoint; None if no look since the snapshot before was the best so far."""

    def write(self, storage: Storage) -> None:
        """Store the checkpoint; without `state.json`, which comes last, it is none."""
        files = {}
        for name, tensors in ((MODEL, self.model), (OPTIMIZER, self.optimizer)):
            data = safetensors.torch.save(tensors)
            storage.write(name, data)
            files[name] = sha256(data)
        state = State(recipe=self.recipe, position=self.position, loss_scaler=self.loss_scaler, files=files)
        storage.write(STATE, state.model_dump_json(indent=1).encode())


def take_best(trainee: Trainee, position: Position) -> Best:
    """Copy the model of a look that was the best so far, to be stored with the next checkpoint."""
    return Best(position, _copied(trainee.model.state_dict()))


def take_snapshot(trainee: Trainee, position: Position, best: Best | None = None) -> Snapshot:
    """Copy a run's state; training waits only as long as the copy takes.

    Args:
        best: the best model since the snapshot before, unless it is the one at this position.
    """
    model = _copied(trainee.model.state_dict())
    return Snapshot(
        recipe=trainee.recipe,
        position=position,
        loss_scaler=trainee.precision.state(),
        model=model,
        optimizer=_copied(trainee.optimizer.tensors()),
        best=Best(position, model) if position.is_best else best,
    )


def load_checkpoint(storage: Storage, trainee: Trainee) -> Position:
    """Put a checkpoint's state into `trainee` and return where the run stood.

    Raises:
        TrainingError: if the checkpoint is damaged or was written under another recipe.
    """
    try:
        state = State.model_validate_json(storage.read(STATE))
        if changed := differences(trainee.recipe, state.recipe):
            raise TrainingError(f"the run was begun with another recipe ({'; '.join(changed)}): give it another name")
        model = safetensors.torch.load(read_verified(storage, MODEL, state.files[MODEL]))
        optimizer = safetensors.torch.load(read_verified(storage, OPTIMIZER, state.files[OPTIMIZER]))
    except (StorageError, SafetensorError, ValidationError, KeyError) as error:
        raise TrainingError(f"the checkpoint in {storage.uri} is damaged: {error}") from error
    trainee.model.load_state_dict(model)
    device = trainee.model.token_embedding.weight.device
    # AdamW counts its steps in CPU scalars unless it runs fused on an accelerator; everything else follows the weights.
    trainee.optimizer.load_tensors({k: v.to(device) for k, v in optimizer.items()})
    trainee.precision.load_state(state.loss_scaler)
    return state.position


def _copied(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
