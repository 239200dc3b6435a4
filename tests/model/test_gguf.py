"""GGUF files, read back with llama.cpp's own reader; `tests/engine/test_peers.py` has llama.cpp write with them."""

from pathlib import Path
from typing import get_args

import gguf
import numpy as np
import pytest
import torch

from victorian.artifact import Artifact, new_record, read_artifact, write_artifact, write_gguf
from victorian.config import Recipe, TokensConfig
from victorian.errors import ConfigError, StorageError
from victorian.model.gguf import Weights
from victorian.model.gpt2 import GPT

NAMES = {
    "token_embedding.weight": "token_embd.weight",
    "position_embedding.weight": "position_embd.weight",
    "blocks.1.attention_norm.weight": "blk.1.attn_norm.weight",
    "blocks.1.attention_norm.bias": "blk.1.attn_norm.bias",
    "blocks.1.attention.query_key_value.weight": "blk.1.attn_qkv.weight",
    "blocks.1.attention.query_key_value.bias": "blk.1.attn_qkv.bias",
    "blocks.1.attention.projection.weight": "blk.1.attn_output.weight",
    "blocks.1.attention.projection.bias": "blk.1.attn_output.bias",
    "blocks.1.feed_forward_norm.weight": "blk.1.ffn_norm.weight",
    "blocks.1.feed_forward_norm.bias": "blk.1.ffn_norm.bias",
    "blocks.1.feed_forward.expand.weight": "blk.1.ffn_up.weight",
    "blocks.1.feed_forward.expand.bias": "blk.1.ffn_up.bias",
    "blocks.1.feed_forward.contract.weight": "blk.1.ffn_down.weight",
    "blocks.1.feed_forward.contract.bias": "blk.1.ffn_down.bias",
    "final_norm.weight": "output_norm.weight",
    "final_norm.bias": "output_norm.bias",
}
"""Of the last block of the toy, and all that is not in a block."""
ROUNDING = {"fp32": 0.0, "fp16": 2**-11, "bf16": 2**-8, "q8_0": 1 / 254 + 2**-11}
"""Largest error of a value, as a share of the largest of its row; the scale of q8_0 is itself rounded to fp16."""


@pytest.fixture
def artifact(toy: Recipe, tmp_path: Path) -> Artifact:
    model = GPT(toy.model)
    model.initialize(3)
    with torch.no_grad():  # biases and norms too, so that a mix-up of any two would show
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    record = new_record(toy, step=5, seconds=1.5, loss=2.0, validation_loss=None, data_sha256="d")
    write_artifact(str(tmp_path / "artifact"), model, toy, record)
    return read_artifact(str(tmp_path / "artifact"))


@pytest.mark.parametrize("weights", get_args(Weights))
def test_every_tensor_is_read_back_as_precisely_as_its_type_allows(
    artifact: Artifact, tmp_path: Path, weights: Weights
) -> None:
    write_gguf(str(tmp_path / "toy.gguf"), artifact, weights)
    found = {t.name: t for t in gguf.GGUFReader(tmp_path / "toy.gguf").tensors}
    state = artifact.model.state_dict()
    assert len(found) == len(state)
    for ours, theirs in NAMES.items():
        tensor = found[theirs]
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        expected = state[ours].numpy()
        if ours == "token_embedding.weight":
            expected = expected[: artifact.encoding.size]  # the rest is padding
        exact = values.ndim == 1 or ours == "position_embedding.weight"
        assert (tensor.tensor_type == gguf.GGMLQuantizationType.F32) == (exact or weights == "fp32")
        bound = 0.0 if exact else ROUNDING[weights] * np.abs(expected).max(-1, keepdims=True)
        assert values.shape == expected.shape
        assert (np.abs(values - expected) <= bound).all(), ours


def test_the_file_says_what_the_network_and_its_tokens_are(artifact: Artifact, tmp_path: Path) -> None:
    write_gguf(str(tmp_path / "toy.gguf"), artifact, "bf16")
    fields = {key: field.contents() for key, field in gguf.GGUFReader(tmp_path / "toy.gguf").fields.items()}
    shape = artifact.recipe.model
    assert fields["general.architecture"] == "gpt2"
    assert fields["general.name"] == "toy"
    assert fields["general.file_type"] == gguf.LlamaFileType.MOSTLY_BF16
    assert fields["gpt2.context_length"] == shape.context
    assert fields["gpt2.embedding_length"] == shape.channels
    assert fields["gpt2.feed_forward_length"] == 4 * shape.channels
    assert fields["gpt2.block_count"] == shape.layers
    assert fields["gpt2.attention.head_count"] == shape.heads
    assert fields["gpt2.attention.layer_norm_epsilon"] == pytest.approx(1e-5)
    encoding = artifact.encoding
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    assert len(tokens) == len(types) == encoding.size < shape.vocabulary
    assert tokens[encoding.encode(" the")[0]] == "Ġthe"
    assert tokens[encoding.end_of_text] == "<|endoftext|>"
    assert set(types[: encoding.end_of_text]) == {gguf.TokenType.NORMAL}
    assert types[encoding.end_of_text] == gguf.TokenType.CONTROL
    assert fields["tokenizer.ggml.bos_token_id"] == fields["tokenizer.ggml.eos_token_id"] == encoding.end_of_text
    assert fields["tokenizer.ggml.add_bos_token"] is False
    assert (fields["tokenizer.ggml.model"], fields["tokenizer.ggml.pre"]) == ("gpt2", "gpt-2")
    merges = fields["tokenizer.ggml.merges"]
    assert ["".join(merge.split(" ")) for merge in merges] == tokens[256 : encoding.end_of_text]


def test_a_whole_vocabulary_is_written(toy: Recipe, tmp_path: Path) -> None:
    recipe = toy.model_copy(
        update={"tokens": TokensConfig(), "model": toy.model.model_copy(update={"vocabulary": 50_304})}
    )
    model = GPT(recipe.model)
    model.initialize(1)
    record = new_record(recipe, step=5, seconds=1.5, loss=2.0, validation_loss=None, data_sha256="d")
    write_artifact(str(tmp_path / "whole"), model, recipe, record)
    write_gguf(str(tmp_path / "whole.gguf"), read_artifact(str(tmp_path / "whole")), "bf16")
    reader = gguf.GGUFReader(tmp_path / "whole.gguf")
    assert len(reader.fields["tokenizer.ggml.tokens"].data) == 50_257
    assert len(reader.fields["tokenizer.ggml.merges"].data) == 50_000
    assert next(t.shape.tolist() for t in reader.tensors if t.name == "token_embd.weight") == [32, 50_257]


def test_what_cannot_be_written_is_told(artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"expected a file whose name ends in \.gguf, got 'mine'"):
        write_gguf("mine", artifact, "bf16")
    narrow = artifact.model.config.model_copy(update={"channels": 24})
    monkeypatch.setattr(artifact.model, "config", narrow)
    with pytest.raises(ConfigError, match="q8_0 wants rows of a multiple of 32 channels, the model has 24"):
        write_gguf(str(tmp_path / "toy.gguf"), artifact, "q8_0")
    assert not (tmp_path / "toy.gguf").exists()


def test_a_file_is_there_whole_or_as_it_was(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "toy.gguf"
    write_gguf(str(target), artifact, "bf16")
    before = target.read_bytes()

    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("gguf.GGUFWriter.write_tensors_to_file", no_room)
        with pytest.raises(StorageError, match=r"cannot write toy\.gguf in .*: No space left on device"):
            write_gguf(str(target), artifact, "fp32")
    with monkeypatch.context() as patched:
        patched.setattr("victorian.storage.os.replace", no_room)
        with pytest.raises(StorageError, match=r"cannot write .*toy\.gguf: No space left on device"):
            write_gguf(str(target), artifact, "fp32")
    assert target.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"artifact", "toy.gguf"}
