"""`Recipe`: the one value that describes a run from books to artifact, with its sections."""

from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from victorian.config.section import Section, first_problem
from victorian.errors import ConfigError

GPT2_RANKS = 50_256
"""Ranks of the whole GPT-2 encoding; `<|endoftext|>` is the next id."""


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
    """ISO 639-1 code of the one language that is kept; None keeps all."""
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
    """Nats a token above its running mean from which a loss diverges; so does a loss or gradient that is no number."""
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


def read_recipe(text: str | bytes, origin: str) -> Recipe:
    """The recipe stored as JSON in `text`; `origin` names the place for the ConfigError of a bad one."""
    try:
        return Recipe.model_validate_json(text)
    except ValidationError as error:
        raise ConfigError(f"{origin} does not hold a recipe: {first_problem(error)}") from error
