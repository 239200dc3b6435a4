"""Steps of padded shapes, and the engine on an accelerator."""

from pathlib import Path

import numpy as np
import pytest
import torch

from victorian.artifact import read_artifact
from victorian.config import EngineConfig, ModelConfig, Precision, SamplingParameters
from victorian.engine.blocks import BLOCK_TOKENS
from victorian.engine.decoding import Decoding
from victorian.engine.engine import Engine
from victorian.engine.mailbox import complete
from victorian.model.gpt2 import GPT
from victorian.model.kv_cache import CacheView

SHAPE = ModelConfig(layers=2, channels=32, heads=2, context=512, vocabulary=320, dropout=0)


def test_rows_and_lengths_that_are_filled_up_change_nothing() -> None:
    model = GPT(SHAPE).eval().requires_grad_(False)
    model.initialize(0)
    random = np.random.default_rng(0)
    texts = [random.integers(0, 320, length) for length in (5, 300, 17)]
    blocks = 40
    cache = model.new_cache((blocks + 1) * BLOCK_TOKENS)
    decoding = Decoding(model, cache, most=8, record=False)
    windows = []
    free = list(range(blocks))
    for text in texts:  # all but the last token of each are read first
        taken = [free.pop(random.integers(len(free))) for _ in range(-(-len(text) // BLOCK_TOKENS))]
        slots = torch.tensor([b * BLOCK_TOKENS + i for b in taken for i in range(BLOCK_TOKENS)])[: len(text)]
        windows.append(slots)
        places = torch.arange(len(text) - 1)[None]
        model.hidden(torch.tensor(text[None, :-1]), CacheView(cache, places, slots[None, :-1]))
    before = cache.keys.clone()
    longest = max(len(text) for text in texts)
    for group in ((0,), (2, 0), (0, 1, 2)):
        slots = torch.stack([torch.nn.functional.pad(windows[i], (0, longest - len(windows[i]))) for i in group])
        ids = torch.tensor([[int(texts[i][-1])] for i in group])
        positions = torch.tensor([[len(texts[i]) - 1] for i in group])
        hidden = decoding.hidden(ids, positions, slots)
        for row, index in enumerate(group):
            expected = model.hidden(torch.tensor(texts[index][None]))[0, -1]
            torch.testing.assert_close(hidden[row], expected, rtol=1e-4, atol=1e-5)
    changed = (cache.keys != before).any(dim=3).any(dim=2).any(dim=0).nonzero().flatten().tolist()
    allowed = {int(slots[-1]) for slots in windows} | set(range(blocks * BLOCK_TOKENS, (blocks + 1) * BLOCK_TOKENS))
    assert set(changed) <= allowed


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no accelerator")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_engine_on_a_gpu_writes_what_it_writes_on_a_cpu(
    toy_artifact: Path, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = read_artifact(str(toy_artifact))
    greedy = SamplingParameters(temperature=0, repetition_penalty=1, max_tokens=100)
    texts = []
    for device in ("cuda", "cpu"):
        monkeypatch.setattr("victorian.engine.engine.pick_device", lambda device=device: torch.device(device))
        with Engine(artifact.model, artifact.encoding, EngineConfig(max_running=4, precision=precision)) as engine:
            texts.append([complete(engine, engine.request(prompt, greedy))[0] for prompt in ("It was", "The", "A")])
    same = sum(a == b for a, b in zip(*texts, strict=True))
    assert same == 3 if precision == "fp32" else same >= 1
