"""GPT-2 from scratch, in plain PyTorch (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners").

Token and learned position embeddings, blocks of LayerNorm before causal self-attention and before a feed-forward
network of four times the width, residual connections, a last LayerNorm, and a head that shares the embedding's weights.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from victorian.config import ModelConfig
from victorian.model.attention import causal_attention
from victorian.model.head import Shared, head_loss, look_up
from victorian.model.kv_cache import CacheView, KVCache


class CausalSelfAttention(nn.Module):
    """Each token looks at itself and the tokens before it, in `heads` subspaces at once."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.dropout = config.dropout
        self.attend_on_cpu = causal_attention
        self.query_key_value = nn.Linear(config.channels, 3 * config.channels)
        self.projection = nn.Linear(config.channels, config.channels)

    def forward(self, x: torch.Tensor, layer: int, cache: CacheView | None) -> torch.Tensor:
        """(batch, time, channels) -> the same."""
        batch, time, channels = x.shape
        # (batch, time, 3 * channels) -> three of (batch, heads, time, head_dim)
        heads = self.query_key_value(x).view(batch, time, 3, self.heads, channels // self.heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4).unbind(0)
        dropout = self.dropout if self.training else 0.0
        if cache is not None:
            k, v = cache.update(layer, k, v)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=cache.mask, is_causal=cache.mask is None)
        elif x.device.type == "cpu":
            y = self.attend_on_cpu(q, k, v, dropout)
        else:
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        return F.dropout(self.projection(y.transpose(1, 2).reshape(batch, time, channels)), dropout)


class FeedForward(nn.Module):
    """Four times the width, GELU in its tanh form, and back."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.expand = nn.Linear(config.channels, 4 * config.channels)
        self.contract = nn.Linear(4 * config.channels, config.channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, time, channels) -> the same."""
        y = self.contract(F.gelu(self.expand(x), approximate="tanh"))
        return F.dropout(y, self.dropout, self.training)


class Block(nn.Module):
    """Attention and feed-forward, each on a normalised copy of the residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.channels)
        self.attention = CausalSelfAttention(config)
        self.feed_forward_norm = nn.LayerNorm(config.channels)
        self.feed_forward = FeedForward(config)

    def forward(self, x: torch.Tensor, layer: int, cache: CacheView | None) -> torch.Tensor:
        """(batch, time, channels) -> the same."""
        x = x + self.attention(self.attention_norm(x), layer, cache)
        y: torch.Tensor = x + self.feed_forward(self.feed_forward_norm(x))
        return y


class GPT(nn.Module):
    """The whole network, from token ids to logits over the vocabulary."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocabulary, config.channels)
        self.position_embedding = nn.Embedding(config.context, config.channels)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.final_norm = nn.LayerNorm(config.channels)

    def initialize(self, seed: int) -> None:
        """GPT-2's initialisation: normal with deviation 0.02, biases zero; projections into the residual stream
        are scaled by 1/sqrt(2 * layers), since so many of them add up."""
        generator = torch.Generator().manual_seed(seed)
        residual = 0.02 / math.sqrt(2 * self.config.layers)
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                nn.init.constant_(parameter, 1.0 if name.endswith("norm.weight") else 0.0)
                continue
            deviation = residual if name.endswith(("projection.weight", "contract.weight")) else 0.02
            with torch.no_grad():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * deviation)

    def forward(
        self, tokens: torch.Tensor, targets: torch.Tensor | None = None, cache: CacheView | None = None
    ) -> torch.Tensor:
        """Logits, or the loss where targets are given.

        Args:
            tokens: int64 (batch, time), time at most the context.
            targets: int64 (batch, time), the ids that should have been predicted.
            cache: what earlier calls left for these rows; it says where the tokens stand.

        Returns:
            Logits (batch, time, vocabulary), or the mean cross-entropy in nats as a scalar.
        """
        if targets is None:
            return self.logits(self.hidden(tokens, cache))
        shared: Shared = []
        hidden = self.hidden(tokens, cache, shared).flatten(0, 1)
        return head_loss(hidden, self.token_embedding.weight, targets.flatten(), shared)

    def hidden(
        self, tokens: torch.Tensor, cache: CacheView | None = None, shared: Shared | None = None
    ) -> torch.Tensor:
        """What the last LayerNorm gives: (batch, time) -> (batch, time, channels)."""
        time = tokens.shape[1]
        if time > self.config.context:
            raise ValueError(f"expected at most {self.config.context} tokens, got {time}; use a shorter window")
        positions = torch.arange(time, device=tokens.device) if cache is None else cache.positions
        weight = self.token_embedding.weight
        looked_up = F.embedding(tokens, weight) if shared is None else look_up(tokens, weight, shared)
        x = looked_up + self.position_embedding(positions)
        x = F.dropout(x, self.config.dropout, self.training)
        for layer, block in enumerate(self.blocks):
            # Without a cache nobody asks for the layer, and one compiled block can serve all.
            x = block(x, layer if cache is not None else 0, cache)
        normed: torch.Tensor = self.final_norm(x)
        return normed

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """The head, tied to the embedding: (..., channels) -> (..., vocabulary)."""
        return F.linear(hidden, self.token_embedding.weight)

    def compile_blocks(self) -> None:
        """Compile the blocks; they are alike, and the first one's code serves all."""
        # Numpy's draws cannot be traced. To say so where the function stands would take every process a second and a
        # half, in which it imports the compiler.
        untraced = torch.compiler.disable(causal_attention)  # type: ignore[no-untyped-call]
        for block in self.blocks:
            assert isinstance(block, Block)
            block.attention.attend_on_cpu = untraced
            block.compile()

    def new_cache(self, slots: int) -> KVCache:
        """An empty cache for `slots` tokens, in the type and on the device of the weights."""
        c, weight = self.config, self.token_embedding.weight
        return KVCache(c.layers, slots, c.heads, c.head_dim, weight.dtype, weight.device)

    def parameter_count(self) -> int:
        """Parameters, the shared embedding counted once."""
        return sum(parameter.numel() for parameter in self.parameters())
