"""How well a model predicts a text: loss in nats a token, bits per byte, perplexity per word.

Two ways to walk through a split: windows side by side, which are cheap, for the validation loss while training; and
windows that overlap by a stride, so that tokens have a long past, for evaluation.
"""

import math
import sys
from dataclasses import dataclass

import numpy as np
import torch

from victorian.model.gpt2 import GPT
from victorian.model.head import sum_loss
from victorian.tokens.batches import Batch, Batches
from victorian.tokens.stream import TokenStream


def perplexity(nats: float) -> float | None:
    """e to the power of a loss; None where that is above the largest float, as it is from 709.8 nats on."""
    return None if nats > math.log(sys.float_info.max) else math.exp(nats)


@dataclass(frozen=True)
class Score:
    """The negative log-likelihood of some tokens. Scores of parts of a text add up to the score of the whole."""

    nats: float
    tokens: int

    def __add__(self, other: "Score") -> "Score":
        return Score(self.nats + other.nats, self.tokens + other.tokens)

    @property
    def loss(self) -> float:
        """Nats a token."""
        return self.nats / self.tokens

    def bits_per_byte(self, size: float) -> float:
        """Bits for every byte of a text of `size` bytes: what a compressor driven by the model would need."""
        return self.nats / math.log(2) / size

    def word_perplexity(self, words: float) -> float | None:
        """Perplexity per word of white space, as PG19 reports it (Rae et al. 2019, https://arxiv.org/abs/1911.05507)."""
        return perplexity(self.nats / words)


@torch.no_grad()
def score_batch(model: GPT, batch: Batch) -> Score:
    """Score every target of a batch once, in float32."""
    inputs, targets = (part.to(model.token_embedding.weight.device) for part in batch)
    was_training = model.training
    model.eval()
    hidden = model.hidden(inputs).flatten(0, 1)
    nats = sum_loss(hidden, model.token_embedding.weight, targets.flatten())
    model.train(was_training)
    return Score(float(nats), targets.numel())


def score_windows(model: GPT, batches: Batches, first: int, count: int, at_once: int = 8) -> Score:
    """Score `count` windows from the `first` on, in the order of the text; the windows do not overlap."""
    score = Score(0.0, 0)
    last = min(first + count, batches.windows)
    for start in range(first, last, at_once):
        score += score_batch(model, batches.in_order(start, min(at_once, last - start)))
    return score


def window_count(length: int, stride: int) -> int:
    """Overlapping windows of a text of `length` tokens, of which the first is only ever read."""
    return -(-(length - 1) // stride)


@torch.no_grad()
def score_overlapping(
    model: GPT, stream: TokenStream, first: int, last: int, stride: int, ignore: int, at_once: int = 8
) -> Score:
    """Score the tokens that windows `first` to `last` are there for, each token of the text once over all windows.

    Window k predicts `stride` tokens from position 1 + k * stride on, and sees as much before them as fits into the
    context with them: at least context - stride tokens, but for those at the very beginning.

    Args:
        ignore: an id that is read but not scored: `<|endoftext|>` is no part of any book.
    """
    device, context = model.token_embedding.weight.device, model.config.context
    assert 1 <= stride <= context
    was_training = model.training
    model.eval()
    score = Score(0.0, 0)
    waiting: list[torch.Tensor] = []
    for index in range(first, last):
        begin, end = 1 + index * stride, min(1 + (index + 1) * stride, stream.length)
        tokens = torch.from_numpy(stream.read(max(0, end - 1 - context), end).astype(np.int64))
        full = end - begin == stride and len(tokens) == context + 1
        if not full:  # at one of the two ends: nothing to share a batch with
            score += _score_ends(model, tokens[None].to(device), end - begin, ignore)
            continue
        waiting.append(tokens)
        if len(waiting) == at_once:
            score += _score_ends(model, torch.stack(waiting).to(device), stride, ignore)
            waiting.clear()
    if waiting:
        score += _score_ends(model, torch.stack(waiting).to(device), stride, ignore)
    model.train(was_training)
    return score


def _score_ends(model: GPT, tokens: torch.Tensor, count: int, ignore: int) -> Score:
    """Score the last `count` tokens of every row, given those before them."""
    hidden = model.hidden(tokens[:, :-1])[:, -count:].flatten(0, 1)
    targets = tokens[:, -count:].flatten()
    counted = targets != ignore
    nats = sum_loss(hidden[counted], model.token_embedding.weight, targets[counted])
    return Score(float(nats), int(counted.sum()))
