"""What attention writes and reads while decoding: keys and values of earlier tokens.

A `KVCache` holds one row per running sequence. A forward pass sees it through a `CacheView`, which knows for a few
rows where the new tokens stand and which of the cached ones each of them may look at. Rows in use are kept at the
front, so that a view over them is a slice and no copy.
"""

import torch


class KVCache:
    """Keys and values of `rows` sequences: each of shape (layers, rows, heads, context, head_dim)."""

    def __init__(
        self,
        layers: int,
        rows: int,
        heads: int,
        context: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (layers, rows, heads, context, head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)

    @property
    def context(self) -> int:
        return self.keys.shape[3]

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` cached tokens of one row over another."""
        self.keys[:, target, :, :length] = self.keys[:, source, :, :length]
        self.values[:, target, :, :length] = self.values[:, source, :, :length]

    def extend(self, row: int, start: int, count: int) -> "CacheView":
        """A view for `count` new tokens of one row, at positions `start` to `start + count`."""
        positions = torch.arange(start, start + count, device=self.keys.device)[None, :]
        return CacheView(self, slice(row, row + 1), positions, start + count)

    def append(self, positions: list[int]) -> "CacheView":
        """A view for one new token in each of the first `len(positions)` rows."""
        column = torch.tensor(positions, device=self.keys.device)[:, None]
        return CacheView(self, slice(0, len(positions)), column, max(positions) + 1)


class CacheView:
    """Where one forward pass writes its keys and values, and which cached tokens it reads.

    Attributes:
        positions: where the new tokens stand in their windows, int64 (rows, time).
        mask: None where plain causal attention over the new tokens is right, else what to add to the attention
            scores, 0 or -inf: (rows, 1, time, length).
    """

    def __init__(self, cache: KVCache, rows: slice, positions: torch.Tensor, length: int) -> None:
        self._cache = cache
        self._rows = rows
        self._length = length
        self.positions = positions
        self._row_index = torch.arange(rows.start, rows.stop, device=positions.device)[:, None]
        self._fresh = positions.shape[1] == length  # nothing cached is read, so causal attention needs no mask
        self.mask: torch.Tensor | None = None
        if not self._fresh:
            hidden = torch.arange(length, device=positions.device) > positions[:, :, None]
            mask = torch.zeros(hidden.shape, dtype=cache.keys.dtype, device=positions.device)
            self.mask = mask.masked_fill_(hidden, float("-inf"))[:, None]

    def update(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new keys and values, (rows, heads, time, head_dim); return all that may be read, time = length."""
        for cached, new in ((self._cache.keys[layer], keys), (self._cache.values[layer], values)):
            # Advanced indexing puts rows and time first: (rows, time, heads, head_dim).
            cached[self._row_index, :, self.positions] = new.transpose(1, 2).to(cached.dtype)
        if self._fresh:
            return keys, values
        read = (self._rows, slice(None), slice(0, self._length))
        return self._cache.keys[layer][read], self._cache.values[layer][read]
