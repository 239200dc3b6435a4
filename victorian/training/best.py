"""The model of the lowest validation loss that a run has seen, kept as an artifact beside its checkpoints."""

from collections.abc import Callable

import torch

from victorian.artifact import RECORD, TrainingRecord, write_artifact
from victorian.model.gpt2 import GPT
from victorian.storage import Storage
from victorian.training.checkpoint import Position, Snapshot

BEST = "best/"


def keep_best(run: Storage, record: Callable[[Position], TrainingRecord], snapshot: Snapshot) -> None:
    """Store the best model that comes with a snapshot, if one does, and then remove the one that was.

    Args:
        run: the run's folder.
        record: what an artifact at this position is to say of itself.
    """
    best = snapshot.best
    if best is None:
        return
    with torch.device("meta"):
        model = GPT(snapshot.recipe.model)
    model.load_state_dict(best.model, assign=True)
    name = f"{BEST}step-{best.position.step:08d}"
    write_artifact(f"{run.uri}/{name}", model, snapshot.recipe, record(best.position))
    others = [key for key in run.names(BEST) if not key.startswith(f"{name}/")]
    for key in sorted(others, key=lambda key: not key.endswith(RECORD)):  # without its record it is no artifact
        run.delete(key)
