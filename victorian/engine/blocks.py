"""Blocks of the KV cache: which are free, who uses which, and what they hold. Knows no torch.

A full block is known by its tokens and all before them in the window, so a sequence that begins as another did takes
its blocks over instead of reading the tokens again (Kwon et al. 2023, https://arxiv.org/abs/2309.06180). Blocks that
nobody uses keep what they hold until somebody needs the room; those unused the longest go first.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence as Tokens

import numpy as np

BLOCK_TOKENS = 16
"""Tokens of a block."""

Key = bytes


def block_keys(tokens: Tokens[int], before: Key = b"", start: int = 0) -> list[Key]:
    """What each full block of a window is known by.

    Args:
        tokens: of the window.
        before: key of the block before `start`.
        start: first token to look at, a multiple of a block.
    """
    keys = []
    for at in range(start, len(tokens) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        content = np.asarray(tokens[at : at + BLOCK_TOKENS], np.int32).tobytes()
        before = hashlib.blake2b(before + content, digest_size=16).digest()
        keys.append(before)
    return keys


class BlockPool:
    """`count` blocks. Every block is free, in use by one sequence or several, or kept for what it holds."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = list(range(count - 1, -1, -1))
        self._users = [0] * count
        self._key: list[Key | None] = [None] * count
        self._holds: dict[Key, int] = {}
        self._kept: OrderedDict[int, None] = OrderedDict()
        """Blocks without a user that hold something, the longest unused first."""

    @property
    def available(self) -> int:
        """Blocks that can be had now."""
        return len(self._free) + len(self._kept)

    def find(self, keys: Tokens[Key]) -> list[int]:
        """Blocks that hold the first of `keys`, as many in a row as there are."""
        found = []
        for key in keys:
            block = self._holds.get(key)
            if block is None:
                break
            found.append(block)
        return found

    def unused(self, blocks: Tokens[int]) -> int:
        """How many of these blocks count as available as long as nobody shares them."""
        return sum(not self._users[block] for block in blocks)

    def share(self, blocks: Tokens[int]) -> None:
        """Another sequence uses these blocks."""
        for block in blocks:
            self._kept.pop(block, None)
            self._users[block] += 1

    def take(self, count: int) -> list[int]:
        """Blocks for new tokens; ValueError if there are not so many."""
        if count > self.available:
            raise ValueError(f"expected at most {self.available} blocks, {count} were wanted")
        taken = []
        for _ in range(count):
            if self._free:
                block = self._free.pop()
            else:
                block, _ = self._kept.popitem(last=False)
                self._forget(block)
            self._users[block] = 1
            taken.append(block)
        return taken

    def hold(self, block: int, key: Key) -> None:
        """A block in use is full, and known by a key from now on; the first that holds something stays the one."""
        if key not in self._holds:
            self._forget(block)
            self._holds[key] = block
            self._key[block] = key

    def give_back(self, blocks: Tokens[int]) -> None:
        """A sequence uses these blocks no longer. The last of them are needed first: what begins alike is kept."""
        for block in reversed(blocks):
            self._users[block] -= 1
            if self._users[block]:
                continue
            if self._key[block] is None:
                self._free.append(block)
            else:
                self._kept[block] = None

    def _forget(self, block: int) -> None:
        if (key := self._key[block]) is not None:
            del self._holds[key]
            self._key[block] = None
