"""Checkpoints are stored beside training, with patience, whole, and without pickle."""

import pickle
import threading
from pathlib import Path

import pytest
import torch

from tests.conftest import TOY
from victorian.errors import StorageError, TrainingError
from victorian.model.gpt2 import GPT
from victorian.storage import LocalStorage, open_storage
from victorian.training.checkpoint import MODEL, STATE, Position, Snapshot, Trainee, load_checkpoint, take_snapshot
from victorian.training.optimizer import Optimizer
from victorian.training.precision import Precision
from victorian.training.saving import Attempts, Saver


def trainee() -> Trainee:
    model = GPT(TOY.model)
    model.initialize(3)
    return Trainee(TOY, model, Optimizer(model, TOY.optimizer), Precision(torch.float32, torch.device("cpu")))


def snapshot(step: int = 5) -> Snapshot:
    return take_snapshot(trainee(), Position(step=step))


class Failing(LocalStorage):
    """A storage that fails the first so many writes."""

    def __init__(self, root: Path, failures: int) -> None:
        super().__init__(root)
        self.left = failures

    def write(self, key: str, data: bytes, *, only_new: bool = False) -> None:
        if self.left:
            self.left -= 1
            raise StorageError("cannot write: the network is down")
        super().write(key, data, only_new=only_new)


def test_a_snapshot_does_not_change_with_the_model(tmp_path: Path) -> None:
    changing = trainee()
    taken = take_snapshot(changing, Position(step=5))
    before = {name: tensor.clone() for name, tensor in changing.model.state_dict().items()}
    with torch.no_grad():
        for parameter in changing.model.parameters():
            parameter.add_(1)
    taken.write(open_storage(tmp_path))
    again = trainee()
    assert load_checkpoint(open_storage(tmp_path), again).step == 5
    assert all(torch.equal(tensor, before[name]) for name, tensor in again.model.state_dict().items())


def test_storage_that_fails_for_a_moment_is_tried_again(tmp_path: Path) -> None:
    Attempts(pauses=(0.0, 0.0)).write(snapshot(), Failing(tmp_path, failures=2))
    assert load_checkpoint(open_storage(tmp_path), trainee()).step == 5


def test_storage_that_stays_away_ends_with_the_last_good_checkpoint_named(tmp_path: Path) -> None:
    attempts = Attempts(pauses=(0.0,))
    attempts.write(snapshot(4), open_storage(tmp_path / "4"))
    with pytest.raises(
        TrainingError, match=r"step 5 could not be stored \(.*network is down\); the last whole .* step 4: run"
    ):
        attempts.write(snapshot(5), Failing(tmp_path / "5", failures=9))
    assert not (tmp_path / "5" / STATE).exists()


def test_training_goes_on_while_a_checkpoint_is_stored_and_two_are_never_in_memory() -> None:
    storing, go_on = threading.Event(), threading.Event()
    taken: list[int] = []

    def store(snapshot: Snapshot) -> None:
        storing.set()
        assert go_on.wait(10)

    def take(step: int) -> Snapshot:
        taken.append(step)
        return snapshot(step)

    saver = Saver(store)
    saver.save(lambda: take(1))
    assert storing.wait(10)  # and this thread is free meanwhile
    second = threading.Thread(target=lambda: saver.save(lambda: take(2)))
    second.start()
    second.join(0.2)
    assert taken == [1]
    go_on.set()
    second.join(10)
    assert taken == [1, 2]
    saver.settle()


def test_what_storing_ended_with_is_raised_in_the_training_thread() -> None:
    def store(snapshot: Snapshot) -> None:
        raise TrainingError("no room")

    saver = Saver(store)
    saver.save(snapshot)
    with pytest.raises(TrainingError, match="no room"):
        saver.settle()


class Malicious:
    """Runs code where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self._mark,)  # type: ignore[return-value]


@pytest.mark.parametrize("name", [MODEL, "optimizer.safetensors", STATE])
def test_a_malicious_file_is_refused_and_does_nothing(tmp_path: Path, name: str) -> None:
    mark = tmp_path / "owned"
    folder = tmp_path / "checkpoint"
    snapshot().write(open_storage(folder))
    payload = pickle.dumps(Malicious(mark))
    pickle.loads(payload)  # noqa: S301  # to show that it would work
    assert mark.exists()
    mark.unlink()
    (folder / name).write_bytes(payload)
    with pytest.raises(TrainingError, match="damaged"):
        load_checkpoint(open_storage(folder), trainee())
    torch.save({"model": Malicious(mark)}, folder / name)
    with pytest.raises(TrainingError, match="damaged"):
        load_checkpoint(open_storage(folder), trainee())
    assert not mark.exists()
