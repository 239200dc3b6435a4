"""Names and layouts of the Hugging Face GPT-2 format, both ways.

Their linear layers are `Conv1D`, whose weights are transposed: (in, out) where ours are (out, in).
"""

import re
from typing import Any

import torch

from victorian.config import ModelConfig
from victorian.errors import ArtifactError

_NAMES = {
    "token_embedding.weight": "transformer.wte.weight",
    "position_embedding.weight": "transformer.wpe.weight",
    "final_norm": "transformer.ln_f",
    "attention_norm": "ln_1",
    "attention.query_key_value": "attn.c_attn",
    "attention.projection": "attn.c_proj",
    "feed_forward_norm": "ln_2",
    "feed_forward.expand": "mlp.c_fc",
    "feed_forward.contract": "mlp.c_proj",
}
_TRANSPOSED = ("query_key_value.weight", "projection.weight", "expand.weight", "contract.weight")

State = dict[str, torch.Tensor]


def their_name(name: str) -> str:
    """`blocks.3.attention.projection.bias` -> `transformer.h.3.attn.c_proj.bias`."""
    if name in _NAMES:
        return _NAMES[name]
    if match := re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", name):
        return f"transformer.h.{match[1]}.{_NAMES[match[2]]}.{match[3]}"
    stem, _, kind = name.rpartition(".")
    return f"{_NAMES[stem]}.{kind}"


def to_hugging_face(state: State) -> State:
    """Our state dict with their names and layouts. The head is left out: it is tied to the embedding."""
    return {
        their_name(name): (tensor.t() if name.endswith(_TRANSPOSED) else tensor).contiguous()
        for name, tensor in state.items()
    }


def from_hugging_face(theirs: State, ours: State) -> State:
    """Their state dict with our names and layouts.

    Args:
        theirs: as read from a `model.safetensors`; a tied head and attention masks in it are ignored.
        ours: a state dict of the model it is for, which says what names and shapes are expected.

    Raises:
        ArtifactError: if a tensor is missing or has another shape.
    """
    # Files saved from GPT2Model alone lack the prefix.
    found = {name if name.startswith("transformer.") else f"transformer.{name}": t for name, t in theirs.items()}
    state: State = {}
    for name, expected in ours.items():
        tensor = found.get(their_name(name))
        if tensor is None:
            raise ArtifactError(f"the weights lack {their_name(name)}")
        if name.endswith(_TRANSPOSED):
            tensor = tensor.t()
        if tensor.shape != expected.shape:
            raise ArtifactError(
                f"{their_name(name)} has shape {tuple(tensor.shape)}, the configuration wants {tuple(expected.shape)}"
            )
        state[name] = tensor.contiguous()
    return state


def to_config(model: ModelConfig, end_of_text: int) -> dict[str, Any]:
    """The `config.json` with which `transformers.GPT2LMHeadModel` builds the same network."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "n_layer": model.layers,
        "n_embd": model.channels,
        "n_head": model.heads,
        "n_positions": model.context,
        "n_ctx": model.context,
        "vocab_size": model.vocabulary,
        "attn_pdrop": model.dropout,
        "embd_pdrop": model.dropout,
        "resid_pdrop": model.dropout,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
    }


def from_config(config: dict[str, Any]) -> ModelConfig:
    """The shape that a `config.json` describes; ArtifactError if it is not a GPT-2 that this network can be."""
    expected = {"model_type": "gpt2", "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5}
    for key, value in expected.items():
        if config.get(key, value) != value:
            raise ArtifactError(f"config.json says {key}: {config[key]!r}, expected {value!r}")
    try:
        return ModelConfig(
            layers=config["n_layer"],
            channels=config["n_embd"],
            heads=config["n_head"],
            context=config["n_positions"],
            vocabulary=config["vocab_size"],
            dropout=config.get("resid_pdrop", 0.1),
        )
    except KeyError as error:
        raise ArtifactError(f"config.json lacks {error}") from error
