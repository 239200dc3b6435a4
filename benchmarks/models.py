"""One model in the form of every engine that `decode.py` measures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from victorian.artifact import new_record, read_artifact, write_artifact, write_gguf
from victorian.config import Recipe
from victorian.model.gguf import Weights
from victorian.model.gpt2 import GPT


@dataclass(frozen=True)
class Models:
    """One model in every engine's form, in a folder."""

    folder: Path

    @property
    def directory(self) -> str:
        """As Hugging Face's libraries and our engine read it; without padding rows, which CTranslate2 refuses."""
        return str(self.folder / "directory")

    @property
    def ctranslate2(self) -> str:
        return str(self.folder / "ctranslate2")

    def gguf(self, weights: str) -> str:
        return str(self.folder / f"{weights}.gguf")


def write_models(folder: Path, model: GPT, recipe: Recipe, sides: Sequence[str]) -> Models:
    """Write a model in the forms that these sides read."""
    models = Models(folder)
    tokens = recipe.tokens.ranks + 1
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"vocabulary": tokens})})
    trimmed = GPT(recipe.model)
    state = model.state_dict()
    trimmed.load_state_dict(state | {"token_embedding.weight": state["token_embedding.weight"][:tokens]})
    write_artifact(models.directory, trimmed, recipe, new_record(recipe, 0, 0, None, None, ""))
    if any(side.startswith("ctranslate2") for side in sides):
        from ctranslate2.converters import TransformersConverter

        TransformersConverter(models.directory).convert(models.ctranslate2)
    for side in sides:
        if side.startswith("llama.cpp"):
            weights: Weights = "fp16" if side.endswith("fp16") else "q8_0"
            write_gguf(models.gguf(weights), read_artifact(models.directory), weights)
    return models
