"""Model directories: whole or not at all, and damage is told."""

import json
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import TOY
from victorian.artifact import (
    PRETRAINED,
    RECORD,
    RUNS,
    find_artifact,
    new_record,
    read_artifact,
    read_record,
    write_artifact,
)
from victorian.errors import ArtifactError
from victorian.model.gpt2 import GPT
from victorian.recipes import find_recipe
from victorian.storage import sha256
from victorian.training.evaluation import score_batch

CARD = "README.md"


def test_an_artifact_is_read_back_as_written(tmp_path: Path) -> None:
    model = GPT(TOY.model)
    model.initialize(3)
    record = new_record(TOY, step=5, seconds=1.5, loss=2.0, validation_loss=None, data_sha256="d")
    write_artifact(str(tmp_path), model, TOY, record)
    artifact = read_artifact(str(tmp_path))
    assert artifact.recipe == TOY
    assert artifact.record.tokens == 5 * 512
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, artifact.model.state_dict()[name])
    assert not artifact.model.training


def test_an_artifact_of_half_the_size_is_read_back_rounded(tmp_path: Path) -> None:
    model = GPT(TOY.model)
    model.initialize(3)
    record = new_record(TOY, step=5, seconds=1.5, loss=2.0, validation_loss=None, data_sha256="d")
    sizes = []
    for dtype in (torch.float32, torch.bfloat16):
        write_artifact(str(tmp_path), model, TOY, record, dtype)
        sizes.append((tmp_path / "model.safetensors").stat().st_size)
    assert sizes[1] < 0.6 * sizes[0]
    again = read_artifact(str(tmp_path)).model.state_dict()
    for name, tensor in model.state_dict().items():
        assert again[name].dtype == torch.float32
        assert torch.equal(tensor.bfloat16().float(), again[name])


def test_the_package_brings_a_model_that_knows_the_language_of_old_books() -> None:
    folder = Path(find_artifact(PRETRAINED))
    assert sum(path.stat().st_size for path in folder.iterdir()) < 25_000_000
    artifact = read_artifact(str(folder))
    assert {path.name for path in folder.iterdir()} == {*artifact.record.files, RECORD, CARD}
    assert artifact.recipe.model.layers == find_recipe("small").model.layers
    held_out = next((files("victorian") / "corpus" / "sample" / "validation").iterdir()).read_text()
    ids = artifact.encoding.encode(held_out)[: artifact.recipe.model.context + 1]
    tokens = torch.from_numpy(ids.astype(np.int64))[None]
    assert tokens.shape[1] == artifact.recipe.model.context + 1
    score = score_batch(artifact.model, (tokens[:, :-1], tokens[:, 1:]))
    assert score.loss < 4.5  # a guess among all tokens costs 9.0


def test_without_a_model_of_ones_own_the_packages_is_meant(
    toy_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ours = find_artifact(PRETRAINED)
    assert find_artifact(RUNS) == ours
    (tmp_path / RUNS / "cut" / "artifact").mkdir(parents=True)
    assert find_artifact(RUNS) == ours
    shutil.copytree(toy_artifact, tmp_path / RUNS / "first" / "artifact")
    assert find_artifact(RUNS) == str(tmp_path / RUNS / "first" / "artifact")
    with pytest.raises(ArtifactError, match=r"no trained model in .*runs/cut"):
        find_artifact(f"{RUNS}/cut")


def test_no_file_of_an_artifact_is_a_pickle(toy_artifact: Path) -> None:
    assert {path.suffix for path in toy_artifact.iterdir()} == {".json", ".safetensors", ".txt"}


@pytest.fixture
def copy(toy_artifact: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_artifact, tmp_path / "artifact"))


def flip_last_byte(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)


def set_vocabulary(folder: Path) -> None:
    change(folder, "training.json", encoding_sha256="0" * 64)


def change(folder: Path, name: str, /, **values: object) -> None:
    """Edit a JSON file of an artifact, with its hash in the record, as someone who means it would."""
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    if name != "training.json":
        record = json.loads((folder / "training.json").read_text())
        record["files"][name] = sha256(path.read_bytes())
        (folder / "training.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip_last_byte, r"model\.safetensors is damaged"),
        (lambda f: (f / "config.json").unlink(), r"cannot read .*config\.json"),
        (lambda f: (f / "training.json").unlink(), r"is not a model directory: it has no training\.json"),
        (lambda f: (f / "training.json").write_text("{"), r"training\.json is damaged"),
        (set_vocabulary, "was trained with another vocabulary"),
        (lambda f: change(f, "config.json", vocab_size=300), "contradicts itself: vocabulary: 300, not 576"),
        (lambda f: change(f, "config.json", n_embd=64), "contradicts itself: channels: 64, not 32"),
        (lambda f: change(f, "recipe.json", name="!"), "does not hold a recipe"),
    ],
)
def test_damage_is_told_in_one_error(copy: Path, damage: Callable[[Path], object], reason: str) -> None:
    damage(copy)
    with pytest.raises(ArtifactError, match=reason):
        read_artifact(str(copy))


def test_an_interrupted_write_is_no_artifact(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = GPT(TOY.model)
    model.initialize(1)
    record = read_record(str(copy))
    writes = 0

    def fail_later(*_: object, **__: object) -> bytes:
        nonlocal writes
        writes += 1
        raise KeyboardInterrupt

    monkeypatch.setattr("victorian.storage.os.replace", fail_later)
    with pytest.raises(KeyboardInterrupt):
        write_artifact(str(copy), model, TOY, record)
    assert writes == 1
    with pytest.raises(ArtifactError, match="is not a model directory"):
        read_artifact(str(copy))
    assert not list(copy.glob(".writing-*"))


def test_the_newest_artifact_of_a_folder_of_runs_is_found(toy_artifact: Path, tmp_path: Path) -> None:
    for name, finished in (("old", "2020-01-01T00:00:00Z"), ("new", "2021-01-01T00:00:00Z")):
        shutil.copytree(toy_artifact, tmp_path / name / "artifact")
        change(tmp_path / name / "artifact", "training.json", finished=finished)
    assert find_artifact(str(tmp_path)) == str(tmp_path / "new" / "artifact")
    assert find_artifact(str(tmp_path / "old")) == str(tmp_path / "old" / "artifact")
    assert find_artifact(str(tmp_path / "old" / "artifact")) == str(tmp_path / "old" / "artifact")
    with pytest.raises(ArtifactError, match=r"no trained model in .*nowhere"):
        find_artifact(str(tmp_path / "nowhere"))


def test_a_run_that_goes_on_is_not_taken_for_the_one_it_began_with(
    toy_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(toy_artifact, f"{RUNS}/mine/best/step-00000005")
    assert find_artifact(RUNS, without=f"{RUNS}/mine/") == find_artifact(PRETRAINED)
    shutil.copytree(toy_artifact, f"{RUNS}/mine-too/artifact")
    change(Path(RUNS, "mine-too", "artifact"), "training.json", finished="2020-01-01T00:00:00Z")
    assert find_artifact(RUNS, without=f"{RUNS}/mine") == str(tmp_path / RUNS / "mine-too" / "artifact")
    assert find_artifact(RUNS) == str(tmp_path / RUNS / "mine" / "best" / "step-00000005")
