"""Frozen settings, and `Recipe`: the one value that describes a run from books to artifact.

Knows no hardware and no files. The same types serve the command line (flags are derived from them), HTTP,
`serve_config.yaml` and the JSON that is stored beside every run and artifact.
"""

import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from victorian.errors import ConfigError

GPT2_RANKS = 50_256
"""Ranks of the whole GPT-2 encoding; `<|endoftext|>` is the next id."""

DEFAULT_URL = "http://127.0.0.1:8000"
"""Where a service is looked for unless VICTORIAN_URL or a flag says otherwise."""

DEFAULT_CACHE = "~/.cache/victorian"
DEFAULT_CACHE_BYTES = 64 * 2**30


class Section(BaseModel):
    """A frozen group of settings that refuses unknown names and documents its fields by their docstrings."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class ModelConfig(Section):
    """The shape of the network."""

    layers: int = Field(12, ge=1)
    """Transformer blocks."""
    channels: int = Field(768, ge=1)
    """Width of the residual stream."""
    heads: int = Field(12, ge=1)
    """Attention heads; they share the channels evenly."""
    context: int = Field(2048, ge=2)
    """Longest window the network sees, in tokens."""
    vocabulary: int = Field(50_304, ge=257)
    """Rows of the embedding: the encoding's tokens, padded for speed."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Share of activations dropped while training."""

    @property
    def head_dim(self) -> int:
        return self.channels // self.heads


class TokensConfig(Section):
    """How text becomes tokens and shards."""

    ranks: int = Field(GPT2_RANKS, ge=256, le=GPT2_RANKS)
    """The first N ranks of the GPT-2 encoding that are used; `<|endoftext|>` is then id N."""
    tokens_per_shard: int = Field(100_000_000, ge=1024)
    """Tokens in every shard of a split but the last."""


class CleaningConfig(Section):
    """What is done to a book's text before it becomes tokens; each step is a function of its own."""

    invalid_utf8: Literal["repair", "drop"] = "repair"
    """Books that are not UTF-8: read them in the encoding they were probably written in, or leave them out."""
    boilerplate: bool = True
    """Take off Project Gutenberg's headers, licences and production credits."""
    transcriber_notes: bool = True
    """Take out the notes of those who typed the book."""
    damage: bool = True
    """Mend text that was once decoded wrongly, and drop control characters."""
    typography: bool = True
    """Write quotation marks, dashes, spaces and ligatures in one way."""
    join_lines: bool = True
    """Join lines that were broken only because the page was full; verse and headings keep theirs."""
    held_out: bool = True
    """Clean and select validation and test books too; off keeps them as they are, to compare with others' figures."""


class SelectionConfig(Section):
    """Which books are kept. Every book that is not is recorded with its reason."""

    language: str | None = Field("en", pattern=r"^[a-z]{2}$")
    """ISO 639-1 code of the one language that is kept; none keeps all."""
    least_words: int = Field(100, ge=1)
    """Words that a book must have after cleaning."""
    first_year: int | None = None
    """First year of publication that is kept. A book without a year is kept."""
    last_year: int | None = 1918
    """Last year of publication that is kept. A book without a year is kept."""
    edition_similarity: float | None = Field(0.4, gt=0, le=1)
    """Share of common shingles (Jaccard) from which two training books are editions of one; the longest stays."""
    held_out_overlap: float | None = Field(0.05, gt=0, le=1)
    """Share of a validation or test book, or of the training book, in common: a training book with more is left out."""
    missing_texts: Literal["refuse", "drop"] = "refuse"
    """Books that the metadata name and that are not there: end with an error, or record them as left out."""

    @model_validator(mode="after")
    def _years_in_order(self) -> Self:
        if self.first_year is not None and self.last_year is not None and self.first_year > self.last_year:
            raise ValueError(f"the first year, {self.first_year}, comes after the last, {self.last_year}: swap them")
        return self


class DataConfig(Section):
    """Everything that a data set's bytes depend on, beside its books."""

    tokens: TokensConfig = TokensConfig()
    cleaning: CleaningConfig = CleaningConfig()
    selection: SelectionConfig = SelectionConfig()


class OptimizerConfig(Section):
    """What turns gradients into steps."""

    name: Literal["adamw", "muon"] = "adamw"
    """adamw for all parameters, or muon for the blocks' matrices with adamw for the rest."""
    learning_rate: float = Field(1e-4, gt=0)
    """Peak learning rate of AdamW."""
    matrix_learning_rate: float = Field(0.02, gt=0)
    """Peak learning rate of Muon; unused by adamw."""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled weight decay, on matrices only."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """AdamW's decay of the first moment."""
    beta2: float = Field(0.95, ge=0, lt=1)
    """AdamW's decay of the second moment."""
    clip: float = Field(1.0, gt=0)
    """Largest norm of the whole gradient."""


class ScheduleConfig(Section):
    """How the learning rate rises and falls."""

    warmup_steps: int = Field(100, ge=0)
    """Steps of linear rise from zero to the peak."""
    decay: Literal["cosine", "linear"] = "cosine"
    """Shape of the fall after the warm-up."""
    hold: float = Field(0.0, ge=0, lt=1)
    """Share of the budget during which the peak is held before the fall begins."""
    final_fraction: float = Field(0.0, ge=0, le=1)
    """Share of the peak that is left at the end."""


class TrainingConfig(Section):
    """How much is trained, in what portions, and how often it is looked at."""

    tokens_per_step: int = Field(524_288, ge=1)
    """Tokens of one optimizer step over all workers."""
    sequences_per_microbatch: int = Field(8, ge=1)
    """Windows one worker runs through the network at once; the rest is gradient accumulation."""
    steps: int | None = Field(None, ge=1)
    """Optimizer steps to take. A run by steps can be resumed exactly."""
    seconds: float | None = Field(None, gt=0)
    """Seconds of training to take, instead of steps; the schedule follows the clock."""
    precision_gpu: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Autocast type on a GPU; auto is bf16 where the device has it, else fp16. fp16 scales the loss."""
    precision_cpu: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Autocast type on a CPU; auto is bf16 where the processor has it, else fp32."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the blocks with torch.compile; auto does on GPUs, for runs long enough to gain from it."""
    validation_every_steps: int = Field(250, ge=1)
    """Steps between two looks at the validation loss."""
    validation_tokens: int = Field(262_144, ge=1)
    """Tokens of the validation split that one look reads."""
    checkpoint_every_steps: int = Field(250, ge=1)
    """Steps between two checkpoints."""
    checkpoints_kept: int = Field(2, ge=1)
    """Latest checkpoints that are kept, beside the model with the lowest validation loss."""
    divergence: float = Field(3.0, gt=0)
    """Nats a token above its running mean from which a loss counts as diverged; so does one that is no number."""
    on_divergence: Literal["stop", "leave out"] = "stop"
    """A step that diverged: end the run, or go on from the checkpoint before it without its batch."""
    seed: int = Field(1337, ge=0)
    """Seed of initial weights, order of windows, and dropout."""


class Recipe(Section):
    """A run from books to artifact, complete and immutable."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    """Name of the recipe that this one is or was derived from."""
    model: ModelConfig = ModelConfig()
    tokens: TokensConfig = TokensConfig()
    cleaning: CleaningConfig = CleaningConfig()
    selection: SelectionConfig = SelectionConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        model, training = self.model, self.training
        if model.channels % model.heads:
            raise ValueError(f"{model.channels} channels cannot be shared by {model.heads} heads; use a divisor")
        if model.vocabulary < self.tokens.ranks + 1:
            raise ValueError(
                f"a vocabulary of {model.vocabulary} rows cannot hold {self.tokens.ranks} ranks and "
                f"<|endoftext|>; use at least {self.tokens.ranks + 1} rows"
            )
        if training.tokens_per_step % model.context:
            raise ValueError(
                f"{training.tokens_per_step} tokens a step are not whole windows of {model.context} tokens; "
                f"use a multiple of {model.context}"
            )
        if (training.steps is None) == (training.seconds is None):
            raise ValueError("give a budget in steps or in seconds, one of the two")
        return self

    @property
    def data(self) -> DataConfig:
        """What `prepare` needs of it."""
        return DataConfig(tokens=self.tokens, cleaning=self.cleaning, selection=self.selection)

    @property
    def sequences_per_step(self) -> int:
        """Windows of one optimizer step over all workers."""
        return self.training.tokens_per_step // self.model.context


def _zero_as_well(value: Any, inner: ValidatorFunctionWrapHandler) -> float:
    """Zero stands outside the range of a temperature, and has a meaning of its own."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value == 0:
        return 0.0
    checked: float = inner(value)
    return checked


class SamplingParameters(Section):
    """How the next token is drawn."""

    temperature: Annotated[float, Field(ge=0.1, le=2.0), WrapValidator(_zero_as_well)] = 1.3
    """Flattens (above 1) or sharpens (below 1) the distribution; 0.1 to 2, or 0 to take the likeliest token always."""
    top_k: int = Field(50, ge=0, le=100)
    """Only the k likeliest tokens may be drawn; 0 to 100, 0 is off."""
    top_p: float = Field(0.95, ge=0, le=1)
    """Only the likeliest tokens that together hold this probability may be drawn; 0 to 1, 1 is off."""
    min_p: float = Field(0, ge=0, le=1)
    """Only tokens of at least this share of the likeliest one's probability may be drawn; 0 is off."""
    repetition_penalty: float = Field(1.2, ge=1, le=2)
    """Makes tokens that already stand in prompt or output less likely; 1 to 2, 1 is off."""
    presence_penalty: float = Field(0, ge=-2, le=2)
    """Taken off the logits of tokens that stand in the output."""
    frequency_penalty: float = Field(0, ge=-2, le=2)
    """Taken off the logits of tokens of the output for each time that they stand there."""
    logit_bias: dict[int, Annotated[float, Field(ge=-100, le=100)]] = Field({}, max_length=1024)
    """Added to the logits of these tokens."""
    min_tokens: int = Field(0, ge=0, le=32_768)
    """Tokens before the end of the text may be drawn; a stop string ends it even so."""
    max_tokens: int = Field(256, ge=1, le=32_768)
    """Tokens to generate at most."""
    keep_tokens: int = Field(0, ge=0, le=32_768)
    """Tokens of the prompt's beginning that stay in sight when the text outgrows the context; at most half of that."""
    seed: int | None = Field(None, ge=0, lt=2**63)
    """The same seed gives the same text; without one, a seed is drawn."""
    stop: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = Field((), max_length=4)
    """Texts that end the generation; they are not part of it. At most 4."""


def bounds(parameter: str) -> tuple[float, float]:
    """The smallest and largest value of a number among the sampling parameters."""
    metadata = SamplingParameters.model_fields[parameter].metadata
    low = next(float(item.ge) for item in metadata if hasattr(item, "ge"))
    return low, next(float(item.le) for item in metadata if hasattr(item, "le"))


Precision = Literal["fp32", "bf16", "int8"]


class EngineConfig(Section):
    """How one engine shares one model among its requests."""

    max_running: int = Field(16, ge=1, le=1024)
    """Requests that decode side by side; each holds a row of the KV cache."""
    max_waiting: int = Field(64, ge=0)
    """Requests that may wait for a row; one more is refused."""
    precision: Precision = "fp32"
    """Of products: fp32, bf16, or int8 with a scale for each output and each token; the cache is bf16 but for fp32."""
    chunk: int = Field(128, ge=16, le=8192)
    """Tokens of prompts that one step reads at the most: how long a prompt can hold the others up."""
    max_unread: int = Field(4096, ge=1)
    """Tokens that are kept for a reader who does not take them; with one more the request is cancelled."""
    batch_invariant: bool = False
    """Start only where a request's logits are the same bits whoever its neighbours are: with our own kernels."""
    cache_tokens: int | None = Field(None, ge=16)
    """Tokens that the KV cache holds, at least the context; by default a context for each running request."""
    kernels: Literal["auto", "native", "torch"] = "auto"
    """Our own, compiled on this machine, where its CPU and its compiler allow; else the network as torch runs it."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of the network; by default every core."""


class ServiceConfig(Section):
    """What a service serves, and where: the arguments of `serve_config.yaml`."""

    artifact: str = "runs"
    """A model directory, or a folder of runs, whose newest artifact is taken; `pretrained` is the package's own."""
    model_name: str | None = Field(None, min_length=1, max_length=100)
    """Name that clients see; by default the recipe's."""
    engine: EngineConfig = EngineConfig()


def first_problem(error: ValidationError) -> str:
    """The first of pydantic's complaints as one line: where, what was expected, what came."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    if not where:
        return message
    return f"{where}: {message}, got {problem['input']!r}"[:500]


def read_recipe(text: str | bytes, origin: str) -> Recipe:
    """The recipe stored as JSON in `text`; `origin` names the place for the ConfigError of a bad one."""
    try:
        return Recipe.model_validate_json(text)
    except ValidationError as error:
        raise ConfigError(f"{origin} does not hold a recipe: {first_problem(error)}") from error


def differences(ours: Section, theirs: Section) -> list[str]:
    """Fields in which two values of one type differ, as `path: ours, not theirs`."""

    def flat(value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            return {path: value}
        return {k: v for name, item in value.items() for k, v in flat(item, f"{path}.{name}".strip(".")).items()}

    left, right = flat(ours.model_dump(), ""), flat(theirs.model_dump(), "")
    return [
        f"{path}: {json.dumps(left[path])}, not {json.dumps(right[path])}" for path in left if left[path] != right[path]
    ]


def service_url() -> str:
    """The service that clients talk to: VICTORIAN_URL, else this machine's port 8000."""
    return os.environ.get("VICTORIAN_URL", DEFAULT_URL)


class CacheSettings(Section):
    """Where a machine keeps the shards that it has fetched from an object store."""

    folder: Path
    """Absolute, on a disk of the machine itself: a cache is shared by its processes and not with other machines."""
    max_bytes: int = Field(ge=1)
    """Bytes that the cache may hold."""


def cache_settings() -> CacheSettings:
    """VICTORIAN_CACHE, else `~/.cache/victorian`, and VICTORIAN_CACHE_BYTES, else 64 GiB; ConfigError for bad ones."""
    folder = Path(os.environ.get("VICTORIAN_CACHE") or DEFAULT_CACHE)
    size = os.environ.get("VICTORIAN_CACHE_BYTES") or str(DEFAULT_CACHE_BYTES)
    try:
        folder = folder.expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{folder} has no home to stand in: set VICTORIAN_CACHE to an absolute folder") from error
    if not folder.is_absolute():
        raise ConfigError(f"expected an absolute folder in VICTORIAN_CACHE, got {str(folder)!r}")
    if not re.fullmatch(r"0*[1-9][0-9]{0,17}", size):
        raise ConfigError(f"expected a number of bytes in VICTORIAN_CACHE_BYTES, such as 68719476736, got {size!r}")
    return CacheSettings(folder=folder, max_bytes=int(size))
