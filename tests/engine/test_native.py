"""The kernels in machine code against the network in torch, and against themselves in other company."""

import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from victorian.config import EngineConfig, ModelConfig, Precision
from victorian.engine import compilation
from victorian.engine.compilation import why_not
from victorian.engine.distribution import Floats, select
from victorian.engine.engine import Engine
from victorian.engine.native import NativeNetwork
from victorian.errors import ConfigError
from victorian.model.gpt2 import GPT
from victorian.tokens.bpe import get_encoding

SHAPE = ModelConfig(layers=3, channels=96, heads=3, context=128, vocabulary=320, dropout=0)
PRECISIONS: dict[Precision, float] = {"fp32": 1e-5, "bf16": 0.02, "int8": 0.05}

pytestmark = pytest.mark.skipif(why_not(SHAPE) is not None, reason=f"no kernels here: {why_not(SHAPE)}")


@pytest.fixture(scope="module")
def model() -> GPT:
    made = GPT(SHAPE).eval()
    made.initialize(0)
    with torch.no_grad():  # larger than at the beginning of training, so that layers matter
        for parameter in made.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
    return made


@pytest.fixture(scope="module", params=PRECISIONS)
def network(request: pytest.FixtureRequest, model: GPT) -> Iterator[NativeNetwork]:
    made = NativeNetwork(model, request.param, tokens=256, blocks=64, threads=2)
    yield made
    made.close()


IDS = [int(i) for i in np.random.default_rng(3).integers(0, 320, 100)]
TABLES = np.arange(64, dtype=np.int32).reshape(8, 8)


def read_whole(network: NativeNetwork) -> Floats:
    return network.step(IDS, range(100), [0, 100], TABLES[:1], range(100))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_logits_are_those_of_the_network_in_torch(model: GPT, precision: Precision) -> None:
    network = NativeNetwork(model, precision, tokens=128, blocks=8, threads=2)
    with torch.no_grad():
        expected = model(torch.tensor([IDS]))[0].numpy()
    ours = read_whole(network)[:, : SHAPE.vocabulary]
    network.close()
    expected -= expected.mean(axis=1, keepdims=True)
    ours = ours - ours.mean(axis=1, keepdims=True)
    error = np.linalg.norm(ours - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert error.max() < PRECISIONS[precision]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_context_need_not_be_whole_blocks(precision: Precision) -> None:
    odd = GPT(SHAPE.model_copy(update={"context": 100})).eval()
    odd.initialize(0)
    network = NativeNetwork(odd, precision, tokens=128, blocks=8, threads=2)
    with torch.no_grad():
        expected = odd(torch.tensor([IDS]))[0].numpy()
    ours = read_whole(network)[:, : SHAPE.vocabulary]
    network.close()
    assert np.abs(ours - expected).max() < PRECISIONS[precision]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("part", ["final_norm.weight", "blocks.1.attention.query_key_value.weight"])
def test_weights_that_are_no_numbers_are_not_hidden(model: GPT, precision: Precision, value: float, part: str) -> None:
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.get_parameter(part).flatten()[7] = value
    network = NativeNetwork(broken, precision, tokens=128, blocks=8, threads=1)
    *_, good = network.select(read_whole(network)[:, : SHAPE.vocabulary], 5)
    network.close()
    assert not good.any()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("bits", [0x7FFFFFFF, -1, 0x7FFFE000])
def test_whatever_the_bits_of_one_that_is_no_number(model: GPT, precision: Precision, bits: int) -> None:
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.blocks[0].feed_forward.expand.weight.view(torch.int32)[0] = bits  # type: ignore[union-attr, operator]
    network = NativeNetwork(broken, precision, tokens=128, blocks=8, threads=1)
    *_, good = network.select(read_whole(network)[:, : SHAPE.vocabulary], 5)
    network.close()
    assert not good.any()


def test_a_token_gets_the_same_bits_alone_in_chunks_and_in_any_crowd(network: NativeNetwork) -> None:
    whole = read_whole(network)
    for place, token in enumerate(IDS):
        alone = network.step([token], [place], [0, 1], TABLES[1:2], [0])
        assert np.array_equal(alone[0], whole[place])
    for size in range(2, 17):
        # Others read prompts of other lengths in the same step; ours goes in two chunks, among them.
        cut = 5 * size + 3
        for start, stop in ((0, cut), (cut, 100)):
            ids, places, starts, mine = [], [], [0], -1
            for index in range(size):
                if index == size // 2:
                    ids += IDS[start:stop]
                    places += range(start, stop)
                    mine = len(ids) - 1
                else:
                    ids += [(7 * index + i) % 320 for i in range(index % 5 + 1)]
                    places += range(index % 5 + 1)
                starts.append(len(ids))
            crowd = np.stack([TABLES[2] if i == size // 2 else TABLES[3 + i % 5] for i in range(size)])
            logits = network.step(ids, places, starts, crowd, [mine])
            assert np.array_equal(logits[0], whole[stop - 1])


def test_the_number_of_threads_changes_no_bit(model: GPT) -> None:
    one, two = (NativeNetwork(model, "bf16", tokens=128, blocks=8, threads=threads) for threads in (1, 2))
    assert np.array_equal(read_whole(one), read_whole(two))
    one.close()
    two.close()


def test_the_largest_are_found_as_torch_finds_them(network: NativeNetwork) -> None:
    rows = np.random.default_rng(0).standard_normal((7, 320)).astype(np.float32)
    rows[1] = np.round(rows[1])  # many equals
    rows[2] = 1.0
    rows[3, 5:] = -np.inf
    rows[4, 17] = np.nan
    rows[5, 18] = np.inf
    for count in (1, 16, 100, 320):
        ours, plain = network.select(rows[:, :320], count), select(rows, count)
        assert ours[2].tolist() == plain[2].tolist() == [True] * 4 + [False] * 2 + [True]
        for row in (0, 1, 2, 3, 6):
            assert ours[0][row].tolist() == plain[0][row].tolist()
            assert ours[1][row].tolist() == plain[1][row].tolist()


def test_what_cannot_be_used_is_said_and_torch_takes_over(
    model: GPT, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compilation.shutil, "which", lambda _: None)
    with Engine(model, get_encoding(256), EngineConfig(max_running=1)) as engine:
        assert engine.healthy
    assert "slower: there is no C++ compiler: install g++" in caplog.text
    for config in (EngineConfig(kernels="native"), EngineConfig(batch_invariant=True)):
        with pytest.raises(ConfigError, match="there is no C\\+\\+ compiler"):
            Engine(model, get_encoding(256), config)
    with pytest.raises(ConfigError, match="int8 needs the engine's own kernels"):
        Engine(model, get_encoding(256), EngineConfig(precision="int8"))


def test_a_compiler_that_fails_is_quoted(
    model: GPT, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("VICTORIAN_CACHE", str(tmp_path / "cache"))
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\necho 'no room on the device' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(compilation.shutil, "which", lambda _: str(broken))
    with pytest.raises(ConfigError, match="could not compile the engine's kernels: no room on the device"):
        NativeNetwork(model, "fp32", 16, 8, 1)
    with Engine(model, get_encoding(256), EngineConfig(max_running=1)) as engine:
        assert "slower: " in caplog.text
        assert "no room on the device" in caplog.text
        assert engine.healthy
    assert not list((tmp_path / "cache" / "kernels").iterdir())
    (tmp_path / "cache" / "kernels").chmod(0o777)
    with pytest.raises(ConfigError, match="can be written by others: set VICTORIAN_CACHE"):
        NativeNetwork(model, "fp32", 16, 8, 1)


def test_a_cache_that_others_could_fill_is_refused(model: GPT, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    elsewhere, cache = tmp_path / "elsewhere", tmp_path / "cache"
    for folder in (elsewhere, cache):
        folder.mkdir()
    monkeypatch.setenv("VICTORIAN_CACHE", str(cache))
    (cache / "kernels").symlink_to(elsewhere)
    with pytest.raises(ConfigError, match="can be written by others"):
        NativeNetwork(model, "fp32", 16, 8, 1)
    (cache / "kernels").unlink()
    cache.chmod(0o777)
    with pytest.raises(ConfigError, match="can be written by others"):
        NativeNetwork(model, "fp32", 16, 8, 1)
