"""The model of the lowest validation loss that a run has seen, kept as an artifact beside its checkpoints."""

import math
from collections.abc import Callable
from functools import partial

import torch

from victorian.artifact import RECORD, TrainingRecord, read_record, write_artifact
from victorian.errors import ArtifactError
from victorian.model.gpt2 import GPT
from victorian.storage import Storage
from victorian.training.checkpoint import Position, Snapshot

BEST = "best/"


def keep_best(
    run: Storage, record: Callable[[Position], TrainingRecord], snapshot: Snapshot
) -> Callable[[], None] | None:
    """Store the best model that comes with a snapshot, if one does and none there is as good.

    One that is better was stored by steps that were lost: it stays.

    Args:
        run: the run's folder.
        record: what an artifact at this position is to say of itself.

    Returns:
        What removes the others, to be called when a checkpoint knows of this one; None if there is nothing to remove.
    """
    best = snapshot.best
    if best is None:
        return None
    known = _losses(run)
    loss = record(best.position).validation_loss
    name = min(known, key=lambda one: known[one], default="")
    if not name or loss is None or known[name] > loss:
        name = f"{BEST}step-{best.position.step:08d}"
        with torch.device("meta"):
            model = GPT(snapshot.recipe.model)
        model.load_state_dict(best.model, assign=True)
        write_artifact(f"{run.uri}/{name}", model, snapshot.recipe, record(best.position))
    return partial(_remove_others, run, name)


def _losses(run: Storage) -> dict[str, float]:
    """The whole models that are kept, and the validation loss of each."""
    found = {}
    for key in run.names(BEST):
        if key.endswith(f"/{RECORD}"):
            name = key.removesuffix(f"/{RECORD}")
            try:
                loss = read_record(f"{run.uri}/{name}").validation_loss
            except ArtifactError:  # its record is damaged: it is none
                continue
            found[name] = math.inf if loss is None else loss
    return found


def _remove_others(run: Storage, name: str) -> None:
    others = [key for key in run.names(BEST) if not key.startswith(f"{name}/")]
    for key in sorted(others, key=lambda key: not key.endswith(RECORD)):  # without its record it is no artifact
        run.delete(key)
