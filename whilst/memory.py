"""What is kept while watching: text memory (thoughts re-read as text) and the two caches of the runtime.

Text memory and KV memory are two different things (docs/concepts.md): the first keeps words, the second keeps the keys
and values of words, which also carry what they saw.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from whilst.visibility import GENERATED, RECEIVED

if TYPE_CHECKING:
    from whilst.chunks import Chunk


class MemoryCapError(ValueError):
    """A memory entry that cannot be kept."""


class TextMemory:
    """Entries in order, at most `cap` tokens in all; the oldest leave first (FIFO, VST section 3)."""

    def __init__(self, cap: int | None) -> None:
        if cap is not None and cap < 1:
            raise MemoryCapError(f"memory_tokens must be at least 1, got {cap}; None keeps everything")
        self.cap = cap
        self.entries: list[Chunk] = []

    @property
    def tokens(self) -> int:
        return sum(len(entry) for entry in self.entries)

    def add(self, entry: Chunk) -> int:
        """Append; returns how many old entries left. An entry longer than the whole cap is an error."""
        if self.cap is not None and len(entry) > self.cap:
            raise MemoryCapError(
                f"a memory entry of {len(entry)} tokens is longer than memory_tokens {self.cap}; raise the cap"
            )
        self.entries.append(entry)
        evicted = 0
        while self.cap is not None and self.tokens > self.cap:
            self.entries.pop(0)
            evicted += 1
        return evicted


class _Buffer:
    """An append-only tensor (B, H, n, D) with spare room, so that a token does not copy the past."""

    def __init__(self) -> None:
        self.data: torch.Tensor | None = None
        self.length = 0

    def append(self, new: torch.Tensor) -> None:
        n = new.shape[2]
        if self.data is None or self.length + n > self.data.shape[2]:
            room = max(64, 2 * (self.length + n))
            grown = new.new_empty(*new.shape[:2], room, new.shape[3])
            if self.data is not None:
                grown[:, :, : self.length] = self.data[:, :, : self.length]
            self.data = grown
        self.data[:, :, self.length : self.length + n] = new
        self.length += n

    def view(self) -> list[torch.Tensor]:
        return [] if self.data is None else [self.data[:, :, : self.length]]


class TwoStreamLayer(CacheLayerMixin):
    """Keys and values of one decoder layer, received and generated apart.

    A received token of a split layout reads the received stream alone; any other reads [received | generated].
    """

    is_sliding = False

    def __init__(self, received_alone: bool) -> None:
        super().__init__()
        self.received_alone = received_alone
        self.key_buffers = (_Buffer(), _Buffer())
        self.value_buffers = (_Buffer(), _Buffer())
        self.writing = RECEIVED
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.key_buffers[self.writing].append(key_states)
        self.value_buffers[self.writing].append(value_states)
        return self._read(self.key_buffers), self._read(self.value_buffers)

    def _read(self, buffers: tuple[_Buffer, _Buffer]) -> torch.Tensor:
        if self.writing == RECEIVED and self.received_alone:
            return buffers[RECEIVED].view()[0]
        views = buffers[RECEIVED].view() + buffers[GENERATED].view()
        return views[0] if len(views) == 1 else torch.cat(views, dim=2)

    def truncate(self, received: int, generated: int) -> None:
        for buffers in (self.key_buffers, self.value_buffers):
            buffers[RECEIVED].length, buffers[GENERATED].length = received, generated

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return self.key_buffers[RECEIVED].length + self.key_buffers[GENERATED].length

    def get_max_length(self) -> int:
        return -1


class TwoStreamCache(Cache):
    """The received and the generated cache of every decoder layer; append-only but for leaving a branch."""

    def __init__(self, layers: int, received_alone: bool) -> None:
        self.two: list[TwoStreamLayer] = [TwoStreamLayer(received_alone) for _ in range(layers)]
        super().__init__(layers=list(self.two))

    def write_to(self, stream: int) -> None:
        for layer in self.two:
            layer.writing = stream

    def lengths(self) -> tuple[int, int]:
        layer = self.two[0]
        return layer.key_buffers[RECEIVED].length, layer.key_buffers[GENERATED].length

    def truncate(self, lengths: tuple[int, int]) -> None:
        for layer in self.two:
            layer.truncate(*lengths)
