"""The network, proved against transformers' own GPT-2, logits to logits."""

import json
import math
from pathlib import Path

import pytest
import safetensors.torch
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from victorian.artifact import read_artifact
from victorian.config import ModelConfig
from victorian.errors import ArtifactError
from victorian.model.gpt2 import GPT
from victorian.model.huggingface import from_config, from_hugging_face, to_config, to_hugging_face
from victorian.model.kv_cache import CacheView
from victorian.recipes import GPT2_124M, SMALL, TINY

SHAPE = ModelConfig(layers=3, channels=48, heads=4, context=40, vocabulary=320, dropout=0.1)


def random_model(seed: int = 0) -> GPT:
    model = GPT(SHAPE).eval()
    model.initialize(seed)
    with torch.no_grad():  # biases and norms too, so that a mix-up of any two would show
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed + 1))
    return model


def some_tokens(rows: int = 2, time: int = 40) -> torch.Tensor:
    return torch.randint(0, 320, (rows, time), generator=torch.Generator().manual_seed(7))


def test_our_weights_give_the_same_logits_in_transformers(tmp_path: Path) -> None:
    ours = random_model()
    (tmp_path / "config.json").write_text(json.dumps(to_config(SHAPE, end_of_text=300)))
    safetensors.torch.save_file(
        to_hugging_face(ours.state_dict()), tmp_path / "model.safetensors", metadata={"format": "pt"}
    )
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    tokens = some_tokens()
    with torch.no_grad():
        assert torch.allclose(ours(tokens), theirs(tokens).logits, atol=1e-4, rtol=0)


def test_their_weights_give_the_same_logits_here(tmp_path: Path) -> None:
    torch.manual_seed(3)
    config = GPT2Config(n_layer=3, n_embd=48, n_head=4, n_positions=40, vocab_size=320, initializer_range=0.2)
    theirs = GPT2LMHeadModel(config).eval()
    theirs.save_pretrained(tmp_path)
    shape = from_config(json.loads((tmp_path / "config.json").read_text()))
    ours = GPT(shape).eval()
    weights = safetensors.torch.load_file(tmp_path / "model.safetensors")
    ours.load_state_dict(from_hugging_face(weights, ours.state_dict()))
    tokens = some_tokens()
    with torch.no_grad():
        assert torch.allclose(ours(tokens), theirs(tokens).logits, atol=1e-4, rtol=0)


def test_a_trained_artifact_loads_in_transformers(toy_artifact: Path) -> None:
    ours = read_artifact(str(toy_artifact)).model
    theirs = GPT2LMHeadModel.from_pretrained(toy_artifact).eval()
    tokens = torch.randint(0, 512, (1, 64), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(ours(tokens), theirs(tokens).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("shape", "count"),
    [
        # 50304 * 768 + 2048 * 768 + 12 * (12 * 768^2 + 13 * 768) + 2 * 768
        (GPT2_124M.model, 125_262_336),
        (TINY.model, 5_338_624),
        (SMALL.model, 10_204_160),
    ],
)
def test_parameters_are_counted_as_designed(shape: ModelConfig, count: int) -> None:
    with torch.device("meta"):
        assert GPT(shape).parameter_count() == count


def test_initialisation_is_gpt2s() -> None:
    model = GPT(ModelConfig(layers=8, channels=128, heads=4, context=64, vocabulary=512))
    model.initialize(1)
    block = model.blocks[0]
    assert model.token_embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert block.feed_forward.expand.weight.std().item() == pytest.approx(0.02, rel=0.05)
    for residual in (block.attention.projection, block.feed_forward.contract):
        assert residual.weight.std().item() == pytest.approx(0.02 / math.sqrt(16), rel=0.05)
    assert not block.attention.query_key_value.bias.any()
    assert torch.equal(model.final_norm.weight, torch.ones(128))
    again = GPT(model.config)
    again.initialize(1)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_no_token_sees_the_future() -> None:
    model, tokens = random_model(), some_tokens()
    changed = tokens.clone()
    changed[:, 20:] = (changed[:, 20:] + 1) % 320
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    assert torch.allclose(before[:, :20], after[:, :20], atol=1e-5)
    assert not torch.allclose(before[:, 20:], after[:, 20:], atol=1e-2)


def test_the_loss_is_the_cross_entropy_of_the_logits() -> None:
    model, tokens = random_model(), some_tokens()
    with torch.no_grad():
        loss = model(tokens[:, :-1], tokens[:, 1:])
        chosen = model(tokens[:, :-1]).log_softmax(-1).gather(-1, tokens[:, 1:, None])
    assert loss.item() == pytest.approx(-chosen.mean().item(), abs=1e-5)


def test_dropout_acts_in_training_alone() -> None:
    model, tokens = random_model(), some_tokens()
    with torch.no_grad():
        assert torch.equal(model(tokens), model(tokens))
        model.train()
        assert not torch.equal(model(tokens), model(tokens))


def test_a_window_longer_than_the_context_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at most 40 tokens, got 41"):
        random_model()(some_tokens(1, 41))


@pytest.mark.parametrize("chunks", [[40], [1, 39], [13, 13, 14], [39, 1], [1] * 40])
def test_cached_logits_equal_uncached_ones_however_the_text_is_cut(chunks: list[int]) -> None:
    model, tokens = random_model(), some_tokens(1)
    cache = model.new_cache(120)
    slots = torch.randperm(120, generator=torch.Generator().manual_seed(1))[None, :40]  # anywhere, in no order
    with torch.no_grad():
        expected = model(tokens)
        start = 0
        for size in chunks:
            stop = start + size
            view = CacheView(cache, torch.arange(start, stop)[None], slots[:, :stop])
            logits = model(tokens[:, start:stop], cache=view)
            assert torch.allclose(logits, expected[:, start:stop], atol=1e-4)
            start = stop


def test_rows_of_a_batch_may_stand_anywhere_and_do_not_meet() -> None:
    model, tokens = random_model(), some_tokens(3)
    cache = model.new_cache(120)
    slots = torch.randperm(120, generator=torch.Generator().manual_seed(2)).view(3, 40)
    lengths = [5, 17, 30]
    with torch.no_grad():
        for row, length in enumerate(lengths):
            view = CacheView(cache, torch.arange(length)[None], slots[row : row + 1, :length])
            model(tokens[row : row + 1, :length], cache=view)
        last = torch.stack([tokens[row, length : length + 1] for row, length in enumerate(lengths)])
        # The shorter rows are filled up with slots of others, which they must not see.
        together = model(last, cache=CacheView(cache, torch.tensor(lengths)[:, None], slots[:, :31]))
        for row, length in enumerate(lengths):
            alone = model(tokens[row : row + 1, : length + 1])[:, -1]
            assert torch.allclose(together[row], alone, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_type": "llama"}, "model_type: 'llama', expected 'gpt2'"),
        ({"activation_function": "relu"}, "expected 'gelu_new'"),
    ],
)
def test_a_configuration_of_another_network_is_refused(change: dict[str, object], reason: str) -> None:
    with pytest.raises(ArtifactError, match=reason):
        from_config(to_config(SHAPE, 300) | change)


def test_missing_and_misshapen_weights_are_named() -> None:
    ours = random_model().state_dict()
    theirs = to_hugging_face(ours)
    lacking = {k: v for k, v in theirs.items() if k != "transformer.h.1.ln_2.weight"}
    with pytest.raises(ArtifactError, match=r"the weights lack transformer\.h\.1\.ln_2\.weight"):
        from_hugging_face(lacking, ours)
    theirs["transformer.wte.weight"] = torch.zeros(10, 48)
    with pytest.raises(ArtifactError, match=r"wte\.weight has shape \(10, 48\)"):
        from_hugging_face(theirs, ours)
