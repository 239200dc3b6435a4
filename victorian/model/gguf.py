"""A network as a GGUF file, which llama.cpp and what is built on it read.

llama.cpp has this network under the name `gpt2`. Its matrices are (out, in) as ours are, and the head is tied to the
embedding when the file has none. Rows of the embedding that stand for no token are left out: llama.cpp wants as many
rows as tokens, and would draw from all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import gguf
import numpy as np

from victorian.config import ModelConfig
from victorian.errors import ConfigError
from victorian.model.huggingface import State, their_name

Weights = Literal["fp32", "fp16", "bf16", "q8_0"]
"""Type of the matrices; q8_0 is 32 integers of eight bits with a common scale."""

_TYPES: dict[Weights, tuple[gguf.GGMLQuantizationType, gguf.LlamaFileType]] = {
    "fp32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "fp16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a byte-level BPE."""

    tokens: Sequence[str]
    """By id, written as `vocab.json` writes them; the last ends a text and is not text itself."""
    merges: Sequence[str]
    """Best first, as in `merges.txt`."""


def write_gguf(
    path: Path, state: State, config: ModelConfig, vocabulary: Vocabulary, name: str, weights: Weights
) -> None:
    """Write a file that `llama-cli -m` runs; OSError if it cannot be written.

    Args:
        state: of a `GPT` of this shape, in any type, on the CPU.
        name: what programs show.
        weights: type of the matrices; vectors, and the positions, whose rows are added and not multiplied, are fp32.

    Raises:
        ConfigError: if the rows of the matrices cannot be had in that type.
    """
    kind, file_type = _TYPES[weights]
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    if config.channels % block:
        others = ", ".join(other for other in get_args(Weights) if other != weights)
        raise ConfigError(
            f"{weights} wants rows of a multiple of {block} channels, the model has {config.channels}: take {others}"
        )
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.GPT2])
    writer.add_name(name)
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.channels)
    writer.add_feed_forward_length(4 * config.channels)
    writer.add_block_count(config.layers)
    writer.add_head_count(config.heads)
    writer.add_layer_norm_eps(1e-5)
    _add_vocabulary(writer, vocabulary)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, config.layers)
    for ours, tensor in state.items():
        theirs = names.get_name(their_name(ours), try_suffixes=(".weight", ".bias"))
        assert theirs, f"llama.cpp has no name for {ours}"
        values = tensor.detach().float().contiguous().numpy()
        if ours == "token_embedding.weight":
            values = values[: len(vocabulary.tokens)]
        if values.ndim == 1 or ours == "position_embedding.weight":
            writer.add_tensor(theirs, values)
        else:
            writer.add_tensor(theirs, np.ascontiguousarray(gguf.quants.quantize(values, kind)), raw_dtype=kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _add_vocabulary(writer: gguf.GGUFWriter, vocabulary: Vocabulary) -> None:
    end = len(vocabulary.tokens) - 1
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")  # how text is cut before it is merged
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * end + [gguf.TokenType.CONTROL])
    writer.add_token_merges(vocabulary.merges)
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)
    writer.add_add_bos_token(False)  # a text continues; only an empty prompt begins a book
