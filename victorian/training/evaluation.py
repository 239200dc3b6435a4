"""How well a model predicts a text: loss in nats a token, bits per byte, perplexity per word."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from victorian.model.gpt2 import GPT
from victorian.tokens.batches import Batch, Batches


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

    def word_perplexity(self, words: float) -> float:
        """Perplexity per word of white space, as PG19 reports it (Rae et al. 2019, https://arxiv.org/abs/1911.05507)."""
        return math.exp(self.nats / words)


@torch.no_grad()
def score_batch(model: GPT, batch: Batch) -> Score:
    """Score every target of a batch once, in float32."""
    inputs, targets = (part.to(model.token_embedding.weight.device) for part in batch)
    was_training = model.training
    model.eval()
    logits = model(inputs).flatten(0, 1).float()
    model.train(was_training)
    return Score(float(F.cross_entropy(logits, targets.flatten(), reduction="sum")), targets.numel())


def score_windows(model: GPT, batches: Batches, first: int, count: int, at_once: int = 8) -> Score:
    """Score `count` windows from the `first` on, in the order of the text; the windows do not overlap."""
    score = Score(0.0, 0)
    last = min(first + count, batches.windows)
    for start in range(first, last, at_once):
        score += score_batch(model, batches.in_order(start, min(at_once, last - start)))
    return score
