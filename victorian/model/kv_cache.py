"""What attention writes and reads while decoding: keys and values of earlier tokens, in blocks.

A `KVCache` is a store of slots, one a token. A forward pass sees it through a `CacheView`, which knows for a few rows
into which slots the new tokens go, which slots hold what they may look at, and where they stand in their windows.
"""

import torch


class KVCache:
    """Keys and values of `slots` tokens: each of shape (layers, slots, heads, head_dim)."""

    def __init__(
        self, layers: int, slots: int, heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (layers, slots, heads, head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)


class CacheView:
    """Where one forward pass writes its keys and values, and which cached tokens it reads.

    Args:
        positions: where the new tokens stand in their windows, int64 (rows, time).
        slots: of each row's window from its first token to its last new one, int64 (rows, length); rows that are
            shorter than the longest are filled up with any slots.

    Attributes:
        mask: None where plain causal attention over the new tokens is right, else what to add to the attention
            scores, 0 or -inf: (rows, 1, time, length).
    """

    def __init__(self, cache: KVCache, positions: torch.Tensor, slots: torch.Tensor) -> None:
        self._cache = cache
        self._slots = slots
        self.positions = positions
        self._written = slots.gather(1, positions)
        length = slots.shape[1]
        self._fresh = positions.shape[1] == length  # nothing cached is read, so causal attention needs no mask
        self.mask: torch.Tensor | None = None
        if not self._fresh:
            hidden = torch.arange(length, device=positions.device) > positions[:, :, None]
            mask = torch.zeros(hidden.shape, dtype=cache.keys.dtype, device=positions.device)
            self.mask = mask.masked_fill_(hidden, float("-inf"))[:, None]

    def update(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new keys and values, (rows, heads, time, head_dim); return all that may be read, time = length."""
        for cached, new in ((self._cache.keys[layer], keys), (self._cache.values[layer], values)):
            cached[self._written] = new.transpose(1, 2).to(cached.dtype)
        if self._fresh:
            return keys, values
        return (
            self._cache.keys[layer][self._slots].transpose(1, 2),
            self._cache.values[layer][self._slots].transpose(1, 2),
        )
