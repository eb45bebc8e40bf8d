"""One stream on append-only caches that several threads read: what is read, what is thought, what is answered.

`Cache` entries are written by one owner each. What the owner has written up to now it gives away as a `Past`: the
tensors up to a length, and where its position cursor stands. A past never changes: the owner writes behind it, and when
its tensors have to grow they are new ones while the past keeps the old. So a thought or an answer reads a past without
a lock and without a copy of the cache, while the owner writes on.

| layout | owned by the reading side | owned by the writing side |
|---|---|---|
| split | received cache, received cursor | generated cache, generated cursor, held boundary token (row_shift) |
| recurrent, recurrent_packed | nothing: it encodes frames | cache of the text memory with its one cursor |

An answer reads two pasts and writes to buffers of its own, which are thrown away with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from whilst.backbones.base import Backbone, Features
from whilst.chunks import Chunk, Role
from whilst.clips import View
from whilst.memory import GrowingTensor
from whilst.positions import GroupDecoupled, Interleaved
from whilst.render import Renderer
from whilst.runtime import Generated, RuntimeStateError, encode_clips
from whilst.sample import Query, Segment
from whilst.sampling import greedy

Layers = tuple[tuple[torch.Tensor, torch.Tensor], ...]  # keys and values (1, H, n, D) of each decoder layer
Token = Callable[[], None]  # called when a token has been chosen; what it raises ends the text


@dataclass(frozen=True)
class Past:
    """What an owner had written at a moment: keys and values up to then, and the mark of its position cursor."""

    layers: Layers
    mark: Any = None

    @property
    def length(self) -> int:
        """Entries of a layer."""
        return self.layers[0][0].shape[2] if self.layers else 0


@dataclass(frozen=True)
class Unit:
    """The first `number` segments as they can be thought and asked about; `segment` is the last of them.

    received: what a split stream has read. shown: the clip of the last segment, which recurrent turns show.
    """

    number: int
    segment: Segment | None = None
    received: Past | None = None
    shown: View | None = None


@dataclass(frozen=True)
class Finished:
    """What finished thoughts left: the generated cache (split) or the text memory (recurrent). spoke: there is one."""

    past: Past
    spoke: bool = False


class Entries:
    """Append-only keys and values of every decoder layer; one thread writes, any thread reads what it gives away."""

    def __init__(self, layers: int) -> None:
        self._layers = [(GrowingTensor(2), GrowingTensor(2)) for _ in range(layers)]

    def __len__(self) -> int:
        """Layers."""
        return len(self._layers)

    def append(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Append keys and values (1, H, n, D) to a layer; returns all of its keys and values."""
        of_keys, of_values = self._layers[layer]
        of_keys.append(keys)
        of_values.append(values)
        return of_keys.view(), of_values.view()

    def length(self, layer: int) -> int:
        return self._layers[layer][0].length

    def past(self, mark: Any = None) -> Past:
        """What has been written up to now; between two forwards of the owner."""
        return Past(tuple((k.view(), v.view()) for k, v in self._layers if k.data is not None), mark)


class _Layer(CacheLayerMixin):
    is_sliding = False

    def __init__(self, layer: int, pasts: Sequence[Past], own: Entries) -> None:
        super().__init__()
        self.layer, self.own = layer, own
        self.before = [past.layers[layer] for past in pasts if past.layers]
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = self.own.append(self.layer, key_states, value_states)
        if not self.before:
            return keys, values
        return torch.cat([*(k for k, _ in self.before), keys], 2), torch.cat([*(v for _, v in self.before), values], 2)

    def get_seq_length(self) -> int:
        return sum(keys.shape[2] for keys, _ in self.before) + self.own.length(self.layer)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return -1


class Page(Cache):
    """What one forward after the other reads and writes: pasts, which stay as they are, and the entries of an owner."""

    def __init__(self, pasts: Sequence[Past], own: Entries) -> None:
        super().__init__(layers=[_Layer(i, pasts, own) for i in range(len(own))])


class Model:
    """A backbone and a renderer as reading and writing use them. Holds no state of a stream; threads share it."""

    def __init__(self, backbone: Backbone, renderer: Renderer) -> None:
        config = backbone.core.config.get_text_config()
        rope = config.rope_parameters["rope_type"]
        if "dynamic" in rope or rope == "longrope":  # transformers replaces frequency buffers in the forward of these
            raise RuntimeStateError(
                f"rope type {rope!r} changes the model while it runs, so threads cannot share it; use StreamSession"
            )
        if backbone.backend != "whilst_sdpa":
            raise RuntimeStateError(f"streams run on attention whilst_sdpa, the backbone has {backbone.backend}")
        self.backbone, self.renderer = backbone, renderer
        self.layers = int(config.num_hidden_layers)

    def entries(self) -> Entries:
        return Entries(self.layers)

    @torch.no_grad()
    def write(
        self, chunk: Chunk, positions: np.ndarray, page: Page, features: Features | None = None
    ) -> torch.Tensor | None:
        """One forward over a chunk at positions (3, n): appends its entries; the last hidden state (1, D).

        The chunk sees all of the page, and itself from its first token on (lower-right causal).
        """
        n = len(chunk)
        if n == 0:
            return None
        device, total = self.backbone.device, page.get_seq_length() + n
        hidden = self.backbone.hidden(
            torch.from_numpy(chunk.ids)[None].to(device),
            torch.from_numpy(np.array(positions))[:, None].to(device),
            torch.ones(1, 1, n, total, dtype=torch.bool, device=device).tril_(total - n),
            torch.from_numpy(chunk.roles == Role.VISION)[None].to(device),
            features,
            page,
        )
        return hidden[:, -1]

    @torch.no_grad()
    def say(
        self,
        hidden: torch.Tensor | None,
        page: Page,
        cursor: Interleaved,
        role: Role,
        limit: int,
        token: Token,
        *,
        closed: bool,
    ) -> Generated:
        """The most likely text from a hidden state on, at most `limit` tokens with the boundary token.

        closed: the stream goes on behind it, so its last token is written too; the boundary token is the caller's.
        """
        ids: list[int] = []
        finished = False
        for step in range(limit):
            assert hidden is not None
            scores = self.backbone.logits(hidden).float()
            scores[:, list(self.backbone.banned)] = -torch.inf
            (chosen,) = greedy(scores, [True])
            token()
            if chosen == self.renderer.boundary:
                finished = True
                break
            ids.append(int(chosen))
            if step + 1 < limit or closed:
                hidden = self.write(self.renderer.tokens([int(chosen)], role), cursor.generated(1), page)
        text = self.backbone.tokenizer.decode(ids, skip_special_tokens=True)
        return Generated(text, tuple(ids), finished)

    def view(self, segment: Segment, images: np.ndarray, times: Sequence[float], fps: float) -> View:
        """Frames -> features."""
        (view,) = encode_clips(self.backbone, [(segment, images, times)], fps)
        return view


class SplitStream:
    """Layout split: two caches, two cursors. `read` is called by one thread, `think` by one, `answer` by any."""

    def __init__(self, model: Model, received_end: int | None, memory: str = "") -> None:
        """received_end: see positions.Batch. memory: what the stream starts with, `Sample.memory`."""
        self.model, self.renderer, self.received_end = model, model.renderer, received_end
        config = self.renderer.config
        if not isinstance(self._cursor(), GroupDecoupled):
            raise RuntimeStateError(
                f"scheme {config.scheme!r} places received tokens after generated ones, so watching would have to wait "
                f"for thinking; use group_decoupled, gap_isolated, tww or batch, or StreamSession"
            )
        # owned by the reading thread
        self._received, self._received_cursor = model.entries(), self._cursor()
        self._reading = Page([], self._received)
        # owned by the writing thread
        self._generated, self._generated_cursor = model.entries(), self._cursor()
        self._spoke = False
        self._held: tuple[Chunk, np.ndarray] | None = None  # boundary token and its position (row_shift)
        for chunk in (self.renderer.system(), *([self.renderer.memory_turn(memory)] if memory else [])):
            model.write(chunk, self._received_cursor.received(chunk.pieces), self._reading)

    def _cursor(self, mark: Any = None) -> Interleaved:
        cursor = self.renderer.scheme(self.received_end)
        if mark is not None:
            cursor.reset(mark)
        return cursor

    def start(self) -> tuple[Unit, Finished]:
        """Before the first segment."""
        received = self._received.past(self._received_cursor.mark())
        return Unit(0, received=received), Finished(self._generated.past(self._generated_cursor.mark()))

    def read(self, number: int, view: View) -> Unit:
        """Read the turn of segment `number` (from 1)."""
        chunk = self.renderer.received(view.shape, view.segment, None)
        self.model.write(chunk, self._received_cursor.received(chunk.pieces), self._reading, view.features)
        return Unit(number, view.segment, self._received.past(self._received_cursor.mark()))

    def think(self, unit: Unit, limit: int, token: Token) -> tuple[Generated, Finished]:
        """The thought about a unit, after those about all units before it."""
        assert unit.received is not None
        cursor, page = self._generated_cursor, Page([unit.received], self._generated)
        if self._held is not None:  # written now, it sees what has been read since; its position is that of its turn
            self.model.write(*self._held, page)
            self._held = None
        prefix = self._prefix(self._spoke)
        hidden = self.model.write(prefix, cursor.generated(len(prefix)), page)
        thought = self.model.say(hidden, page, cursor, Role.THOUGHT, limit, token, closed=True)
        self._spoke = True
        boundary = self.renderer.tokens([self.renderer.boundary], Role.THOUGHT)
        self._held = boundary, cursor.generated(1)
        if self.renderer.rule.kind.boundary == "before":
            self.model.write(*self._held, page)
            self._held = None
        return thought, Finished(self._generated.past(cursor.mark()), self._spoke)

    def answer(self, unit: Unit, finished: Finished, query: Query, limit: int, token: Token) -> Generated:
        """A branch: the query is read after what `unit` has received, the answer written after finished thoughts."""
        assert unit.received is not None
        asked, said = self.model.entries(), self.model.entries()
        chunk = self.renderer.received(None, None, query)
        positions = self._cursor(unit.received.mark).received(chunk.pieces)
        self.model.write(chunk, positions, Page([unit.received], asked))
        page, cursor = Page([unit.received, asked.past(), finished.past], said), self._cursor(finished.past.mark)
        prefix = self._prefix(finished.spoke)
        hidden = self.model.write(prefix, cursor.generated(len(prefix)), page)
        return self.model.say(hidden, page, cursor, Role.ANSWER, limit, token, closed=False)

    def _prefix(self, spoke: bool) -> Chunk:
        prefix = self.renderer.prefix()
        return Chunk.join(self.renderer.follow(), prefix) if spoke else prefix


class RecurrentStream:
    """Layouts recurrent and recurrent_packed: a turn reads the text memory and the current segment.

    `read` is called by one thread (it needs no state), `think` by one, `answer` by any.
    """

    def __init__(self, model: Model, memory: str = "") -> None:
        """memory: what the stream starts with, `Sample.memory`."""
        self.model, self.renderer = model, model.renderer
        self._memory = self.renderer.memory()
        if memory:
            self._memory.add(self.renderer.memory_given(memory))
        self._rebuild()

    def _rebuild(self) -> None:
        """The text memory in fresh entries: its beginning changed. Pasts that others read keep the old ones."""
        self._entries, self._cursor = self.model.entries(), self.renderer.scheme()
        self._append(Chunk.join(self.renderer.system(), self.renderer.memory_open(), *self._memory.entries))

    def _append(self, chunk: Chunk) -> None:
        self.model.write(chunk, self._cursor.received(chunk.pieces), Page([], self._entries))

    def start(self) -> tuple[Unit, Finished]:
        """Before the first segment."""
        return Unit(0), Finished(self._entries.past(self._cursor.mark()))

    def read(self, number: int, view: View) -> Unit:
        """Segment `number` (from 1) is at hand; its turn is read when it is thought about."""
        return Unit(number, view.segment, shown=view)

    def think(self, unit: Unit, limit: int, token: Token) -> tuple[Generated, Finished]:
        """The thought about a unit, after those about all units before it; it goes into the text memory."""
        assert unit.segment is not None
        past = self._entries.past(self._cursor.mark())
        thought = self._turn(unit, past, None, Role.THOUGHT, limit, token)
        if thought.text:
            entry = self.renderer.memory_entry(thought.text, unit.segment)
            if self._memory.add(entry):
                self._rebuild()
            else:
                self._append(entry)
        return thought, Finished(self._entries.past(self._cursor.mark()), True)

    def answer(self, unit: Unit, finished: Finished, query: Query, limit: int, token: Token) -> Generated:
        """A turn of its own: the text memory of finished thoughts, the segment last read, the query."""
        return self._turn(unit, finished.past, query, Role.ANSWER, limit, token)

    def _turn(self, unit: Unit, past: Past, query: Query | None, role: Role, limit: int, token: Token) -> Generated:
        view = unit.shown
        shape, segment, features = (view.shape, view.segment, view.features) if view else (None, None, None)
        cursor, page = self.renderer.scheme(), Page([past], self.model.entries())
        cursor.reset(past.mark)
        prompt = self.renderer.turn_prompt(shape, segment, query)
        hidden = self.model.write(prompt, cursor.received(prompt.pieces), page, features)
        return self.model.say(hidden, page, cursor, role, limit, token, closed=False)
