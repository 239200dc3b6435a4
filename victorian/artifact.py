"""A trained model as a directory: written whole or not at all, read back verified.

The directory is a Hugging Face GPT-2 model (`config.json`, `model.safetensors`, `generation_config.json`, tokenizer
files) with our `recipe.json` and `training.json` beside it. `training.json` holds the SHA-256 of every other file
and is written last: a directory without it is not an artifact. Nothing in it is a pickle.

One artifact comes with this package, in `pretrained/`; its model card is the README.md there.
"""

import json
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import safetensors.torch
import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError

from victorian import __version__
from victorian.config import ModelConfig, Recipe, SamplingParameters, Section, differences, first_problem, read_recipe
from victorian.errors import ArtifactError, ConfigError, StorageError, TrainingError
from victorian.model import gguf
from victorian.model.gpt2 import GPT
from victorian.model.huggingface import from_config, from_hugging_face, to_config, to_hugging_face
from victorian.storage import LocalStorage, open_storage, read_verified, sha256
from victorian.tokens.bpe import END_OF_TEXT, Encoding, get_encoding

RECORD = "training.json"
RECIPE = "recipe.json"
RUNS = "runs"
"""Folder of runs in which a model is looked for unless another is named."""
PRETRAINED = "pretrained"
"""Name of the artifact that comes with this package."""


class TrainingRecord(Section):
    """What was done to the weights, and the hashes of the files that hold them."""

    step: int
    """Optimizer steps taken."""
    tokens: int
    """Training tokens seen."""
    seconds: float
    """Seconds spent in optimizer steps."""
    loss: float | None
    """Running mean of the training loss, in nats a token; None if no step was taken."""
    validation_loss: float | None
    """In nats a token; None where the data had no validation split."""
    encoding_sha256: str
    data_sha256: str
    """Hash of the manifest of the data it was trained on."""
    code: str
    """Version of the code that trained it."""
    finished: datetime
    files: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of every other file of the directory."""


@dataclass(frozen=True)
class Artifact:
    """A model ready for use, with the encoding and the recipe it was trained with."""

    uri: str
    model: GPT
    encoding: Encoding
    recipe: Recipe
    record: TrainingRecord


def write_artifact(
    uri: str, model: GPT, recipe: Recipe, record: TrainingRecord, dtype: torch.dtype = torch.float32
) -> None:
    """Write a model directory; one that was there is replaced, and is no artifact until the last file stands.

    Args:
        dtype: of the weights in the file; bfloat16 takes half the room and rounds them to eight bits.
    """
    storage = open_storage(uri)
    encoding = get_encoding(recipe.tokens.ranks)
    sampling = SamplingParameters()
    generation = {
        "do_sample": True,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "repetition_penalty": sampling.repetition_penalty,
        "bos_token_id": encoding.end_of_text,
        "eos_token_id": encoding.end_of_text,
    }
    tokenizer = {
        "tokenizer_class": "GPT2Tokenizer",
        "model_max_length": recipe.model.context,
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "unk_token": END_OF_TEXT,
    }
    weights = to_hugging_face({name: t.detach().to("cpu", dtype) for name, t in model.state_dict().items()})
    files = {
        "config.json": _json(to_config(recipe.model, encoding.end_of_text)),
        "generation_config.json": _json(generation),
        "tokenizer_config.json": _json(tokenizer),
        **encoding.hugging_face_files(),
        "model.safetensors": safetensors.torch.save(weights, metadata={"format": "pt"}),
        RECIPE: recipe.model_dump_json(indent=1).encode(),
    }
    storage.delete(RECORD)
    for name, data in files.items():
        storage.write(name, data)
    record = record.model_copy(update={"files": {name: sha256(data) for name, data in files.items()}})
    storage.write(RECORD, record.model_dump_json(indent=1).encode())


def read_record(uri: str) -> TrainingRecord:
    """The record of the artifact at `uri`; ArtifactError if there is none or it cannot be understood."""
    storage = open_storage(uri)
    if not storage.exists(RECORD):
        raise ArtifactError(f"{uri} is not a model directory: it has no {RECORD}; train one with `victorian train`")
    try:
        return TrainingRecord.model_validate_json(storage.read(RECORD))
    except ValidationError as error:
        raise ArtifactError(f"{uri}/{RECORD} is damaged: {first_problem(error)}") from error


def read_artifact_recipe(uri: str) -> Recipe:
    """The recipe of the artifact at `uri`, without its weights; ArtifactError if there is none or it is damaged."""
    digest = read_record(uri).files.get(RECIPE, "")
    try:
        return read_recipe(read_verified(open_storage(uri), RECIPE, digest), f"{uri}/{RECIPE}")
    except StorageError as error:
        raise ArtifactError(f"cannot read the model in {uri}: {error}") from error


def read_artifact(uri: str) -> Artifact:
    """Load a model directory, every file checked against its hash.

    Returns:
        The model in float32 on the CPU, in evaluation mode.

    Raises:
        ArtifactError: if it is missing, damaged, or its vocabulary or shape is not what its recipe says.
    """
    storage = open_storage(uri)
    record = read_record(uri)
    try:
        files = {name: read_verified(storage, name, digest) for name, digest in record.files.items()}
        recipe = read_recipe(files[RECIPE], f"{uri}/{RECIPE}")
        shape = from_config(json.loads(files["config.json"]))
        weights = safetensors.torch.load(files["model.safetensors"])
    except KeyError as error:
        raise ArtifactError(f"{uri} is incomplete: {RECORD} does not list {error}") from error
    except (StorageError, SafetensorError, ValueError) as error:
        raise ArtifactError(f"cannot read the model in {uri}: {error}") from error
    _check_vocabulary(uri, shape, recipe, record)
    with torch.device("meta"):
        model = GPT(shape)
    model.load_state_dict(from_hugging_face(weights, model.state_dict()), assign=True)
    return Artifact(uri, model.float().eval().requires_grad_(False), get_encoding(recipe.tokens.ranks), recipe, record)


def write_gguf(uri: str, artifact: Artifact, weights: gguf.Weights) -> None:
    """Write a model as one GGUF file for llama.cpp; a file that was there is replaced.

    Args:
        uri: of the file, here or under s3://; its name ends in `.gguf`.
        weights: type of the matrices in the file.

    Raises:
        ConfigError: for another name, or matrices that cannot be had in that type.
    """
    folder, slash, name = uri.rpartition("/")
    if not name.endswith(".gguf"):
        raise ConfigError(f"expected a file whose name ends in .gguf, got {uri!r}; llama.cpp goes by it")
    files = artifact.encoding.hugging_face_files()
    ids: dict[str, int] = json.loads(files["vocab.json"])
    merges = files["merges.txt"].decode().splitlines()[1:]  # the first line is the version
    vocabulary = gguf.Vocabulary(sorted(ids, key=lambda token: ids[token]), merges)
    with tempfile.TemporaryDirectory() as place:
        try:
            model = artifact.model
            gguf.write_gguf(
                Path(place) / name, model.state_dict(), model.config, vocabulary, artifact.recipe.name, weights
            )
        except OSError as error:
            raise StorageError(f"cannot write {name} in {place}: {error.strerror or error}") from error
        open_storage(folder or slash or ".").write_pieces(name, LocalStorage(Path(place)).read_pieces(name))


def check_beginning(recipe: Recipe, origin: str) -> None:
    """TrainingError if a run of this recipe cannot begin with the weights of the artifact at `origin`."""
    theirs = read_artifact_recipe(origin)
    dropout = {"dropout": recipe.model.dropout}  # not a property of weights
    changed = differences(recipe.model, theirs.model.model_copy(update=dropout))
    if recipe.tokens.ranks != theirs.tokens.ranks:
        changed.append(f"tokens.ranks: {recipe.tokens.ranks}, not {theirs.tokens.ranks}")
    if changed:
        raise TrainingError(
            f"the model in {origin} has another shape than the recipe {recipe.name} ({'; '.join(changed)}): "
            f"train from scratch, or with a recipe of its shape ({theirs.name})"
        )


def find_artifact(uri: str, without: str | None = None) -> str:
    """The model directory meant by `uri`: itself, or the newest artifact of the runs in it, as an absolute path.

    `pretrained` is the one that comes with this package. It is also what `runs`, the default, means where nothing was
    trained yet.

    Args:
        without: a run among those whose models are not meant: one that goes on began with none of its own.

    Raises:
        ArtifactError: if there is none.
    """
    if uri == PRETRAINED:
        return str(Path(__file__).parent / PRETRAINED)
    storage = open_storage(uri)
    if storage.exists(RECORD):
        return storage.uri
    candidates = [
        f"{storage.uri}/{key}".removesuffix(f"/{RECORD}") for key in storage.names() if key.endswith(f"/{RECORD}")
    ]
    if without is not None:
        own = f"{open_storage(without).uri}/"
        candidates = [candidate for candidate in candidates if not candidate.startswith(own)]
    if not candidates and uri == RUNS:
        return find_artifact(PRETRAINED)
    if not candidates:
        raise ArtifactError(f"no trained model in {uri}: train one with `victorian demo` or `victorian train`")
    return max(candidates, key=lambda candidate: read_record(candidate).finished)


def is_whole(uri: str) -> bool:
    """Whether every file of an artifact is what its record says."""
    storage = open_storage(uri)
    try:
        for name, digest in read_record(uri).files.items():
            read_verified(storage, name, digest)
    except (ArtifactError, StorageError):
        return False
    return True


def artifact_uri(run: str) -> str:
    """Where a run folder keeps its artifact."""
    return f"{run}/artifact"


def code_version() -> str:
    """The version of this package, with the revision of its checkout where it is one."""
    folder = Path(__file__).resolve().parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        described = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return __version__
    return f"{__version__}+{described}"


def new_record(
    recipe: Recipe, step: int, seconds: float, loss: float | None, validation_loss: float | None, data_sha256: str
) -> TrainingRecord:
    """The record of a run that has just ended."""
    return TrainingRecord(
        step=step,
        tokens=step * recipe.training.tokens_per_step,
        seconds=round(seconds, 3),
        loss=loss,
        validation_loss=validation_loss,
        encoding_sha256=get_encoding(recipe.tokens.ranks).sha256,
        data_sha256=data_sha256,
        code=code_version(),
        finished=datetime.now(UTC),
    )


def _check_vocabulary(uri: str, shape: ModelConfig, recipe: Recipe, record: TrainingRecord) -> None:
    encoding = get_encoding(recipe.tokens.ranks)
    if shape != recipe.model:
        raise ArtifactError(f"{uri} contradicts itself: {'; '.join(differences(shape, recipe.model))} in {RECIPE}")
    if record.encoding_sha256 != encoding.sha256 or shape.vocabulary < encoding.size:
        raise ArtifactError(
            f"{uri} was trained with another vocabulary: expected encoding {encoding.sha256[:12]} with {encoding.size} "
            f"tokens, got {record.encoding_sha256[:12]} and {shape.vocabulary} rows; train it again with this version"
        )


def _json(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, indent=1).encode()
