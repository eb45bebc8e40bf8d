"""StreamBatch: a model watches videos as they arrive, thinks, and is asked at any time; B independent streams in step.

Training needs the mask; inference needs only cache discipline. What a token may see is what the two caches (received,
generated) hold when it is written; the rule also says when the boundary token of a generated turn is written, before or
after the next read (whilst.visibility.RULES). The one-pass masked forward over the rendered row gives the same logits
(tests/whilst/test_equivalence.py).

Sequential: reading waits for writing (whilst/parallel.py does both at once). `StreamSession` (whilst/session.py) is one
stream of frames. What leaves the caches whilst a stream goes on is said by a policy (whilst/policies/).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from whilst.backbones.base import Backbone, Features
from whilst.chunks import Chunk, Numbering, Role
from whilst.clips import View
from whilst.keeping import Keeping
from whilst.memory import TextMemory, TwoStreamCache
from whilst.policies import Policy, PolicyError, RecentFrames
from whilst.render import Renderer
from whilst.retrieval import Reader, Recall
from whilst.sample import Query, Segment
from whilst.sampling import Sampler, greedy
from whilst.slots import ALL_FIELDS, SlotTable, piece_numbers, tokens_of
from whilst.visibility import FIELDS, GENERATED, RECEIVED, Rule, Tokens
from whilst.written import Written


class RuntimeStateError(RuntimeError):
    """A call that the state of the session does not allow, e.g. thinking before anything was watched."""


@dataclass(frozen=True)
class Generated:
    """A generated text. `finished`: the boundary token was sampled, not cut by the token limit.

    Special tokens stand in `ids` alone: in a text that is remembered or shown they would change the turns around it.
    """

    text: str
    ids: tuple[int, ...]
    finished: bool


def encode_clips(
    backbone: Backbone, clips: Sequence[tuple[Segment, np.ndarray, Sequence[float]]], fps: float
) -> list[View]:
    """Clips (segment, images (T, H, W, 3) uint8, times (T,) s) -> views; frames become features once."""
    if not clips:
        return []
    shapes = [backbone.spec.shape(times, images.shape[1], images.shape[2], fps) for _, images, times in clips]
    with torch.no_grad():
        pixels = torch.cat([backbone.spec.patchify(images) for _, images, _ in clips])
        features = backbone.encode(pixels, torch.tensor([shape.grid for shape in shapes]))
    parts = features.split([backbone.spec.merged(shape).tokens for shape in shapes])
    return [View(clip[0], shape, part) for clip, shape, part in zip(clips, shapes, parts, strict=True)]


class StreamBatch:
    """B streams in step on shared buffers. A row that takes no part in a step passes None; its slots stay invalid."""

    def __init__(
        self,
        backbone: Backbone,
        renderer: Renderer,
        size: int,
        *,
        sampler: Sampler = greedy,
        received_ends: Sequence[int] | None = None,
        read_tokens: int | None = None,
        policy: Policy | None = None,
    ) -> None:
        """received_ends: see positions.Batch. read_tokens: most tokens that one forward reads; None: a turn at once.
        policy: what leaves the caches; None: nothing does.

        Raises:
            PolicyError: the policy cannot serve this layout, rule or scheme.
            RuntimeStateError: an attention back-end that does not take the mask of a stream.
        """
        if backbone.backend != "whilst_sdpa":
            raise RuntimeStateError(
                f"a stream needs attention back-end whilst_sdpa, not {backbone.backend}: load it so"
            )
        self.backbone, self.renderer, self.size = backbone, renderer, size
        self.sampler, self.read_tokens = sampler, read_tokens
        config = renderer.config
        self.recurrent = config.layout.startswith("recurrent")
        self.split = config.layout == "split"
        # split and recurrent streams see all that their caches hold; only a growing interleaved stream hides by rule
        self.rule = renderer.rule if config.layout == "interleaved" else Rule("causal")
        self.hold_boundary = renderer.rule.kind.boundary == "after"
        ends: Sequence[int | None] = received_ends if received_ends is not None else [None] * size
        self.numbering = [Numbering(renderer.scheme(end)) for end in ends]
        self.memories: list[TextMemory] = [renderer.memory() for _ in range(size)]
        self.current: list[View | None] = [None] * size
        self.turns = [0] * size
        self.spoke = [False] * size  # a boundary token ends the stream that is written next
        self.pending: list[Written | None] = [None] * size  # the held boundary token (row_shift)
        self.undecided = [False] * size  # a received turn ends the stream, and may be followed by a turn or by silence
        layers = backbone.core.config.get_text_config().num_hidden_layers
        self.reindexes = policy is not None and policy.reindex
        self.cache = TwoStreamCache(layers, received_alone=self.split, keeps_raw=self.reindexes)
        fields = FIELDS if policy is None else ALL_FIELDS
        self.slots = (SlotTable(fields), SlotTable(fields))  # what is known of the entries of the two caches
        self.keeping = Keeping(self, policy) if policy is not None else None
        self.recall: Recall | None = None  # whilst a query is answered that brings segments back
        self.logits = torch.zeros(size, 0)
        prefix = renderer.system()
        self._feed([prefix] * size, RECEIVED)
        if self.recurrent:
            self._feed([renderer.memory_open()] * size, RECEIVED)
        self.begun = [numbering.mark() for numbering in self.numbering]

    def close(self) -> None:
        """Give back what lies outside the caches: offloaded segments and their files."""
        if self.keeping is not None:
            self.keeping.close()

    # --- what a stream can do ---------------------------------------------------------------------------------------

    def remember(self, texts: Sequence[str | None]) -> None:
        """Text memory that the streams start with, before anything arrives (`Sample.memory`).

        A recurrent stream has it as the first entry of its text memory. A growing one reads it as a turn behind the
        system turn: its keys and values are there like those of any text, for the rule and the policy to keep.

        Raises RuntimeStateError on a growing stream that has begun, PolicyError where a policy keeps frames alone.
        """
        chunks = [self.renderer.memory_given(text) if text else None for text in texts]
        if self.recurrent:
            self._keep(chunks)
            return
        for b, chunk in enumerate(chunks):
            if chunk is None:
                continue
            if self.memories[b].entries or self.numbering[b].mark() != self.begun[b]:
                raise RuntimeStateError(
                    f"stream {b}: text memory stands at the beginning of a stream of layout "
                    f"{self.renderer.config.layout!r}, and this one has begun: give it first, once"
                )
            if self.keeping is not None and self.keeping.policy.rereads:
                raise PolicyError(
                    f"policy {self.keeping.policy.name!r} keeps nothing but frames: a stream that starts with text "
                    f"memory cannot have it"
                )
        for b, chunk in enumerate(chunks):
            self.memories[b].entries += [chunk] if chunk is not None else []
        self._feed([self.renderer.memory_turn(text) if text else None for text in texts], RECEIVED)

    def watch(self, views: Sequence[View | None]) -> None:
        """A segment has arrived on each stream that passes a view."""
        keeping = self.keeping
        if keeping is not None:
            keeping.select(views)
            if isinstance(keeping.policy, RecentFrames):
                keeping.watch_recent(views, keeping.policy)
                return
            if not self.recurrent:
                keeping.forget(views)
        before = self.slots[RECEIVED].length
        self.read(views)
        if keeping is not None and not self.recurrent:
            keeping.prune(before)

    def restart(self, b: int) -> None:
        """Stream b goes back to its beginning; its entries have been taken out."""
        self.numbering[b].reset(self.begun[b])
        self.spoke[b] = False

    def read(self, views: Sequence[View | None]) -> None:
        """Read the segments of `views` (a recurrent stream reads them with every turn)."""
        chunks: list[Chunk | None] = [None] * self.size
        for b, view in enumerate(views):
            if view is None:
                continue
            self.current[b] = view
            self.numbering[b].now += 1
            self.numbering[b].unit = self.turns[b]
            self.turns[b] += 1
            if not self.recurrent:
                chunks[b] = self._lead(b, self.renderer.received(view.shape, view.segment, None), RECEIVED)
                self.undecided[b] = True
        if not self.recurrent:
            self._feed(chunks, RECEIVED, views=views, segment=True)

    def think(self, rows: Sequence[bool], limit: int) -> list[Generated | None]:
        """One thought about the segment that has just arrived, at most `limit` tokens, on each chosen stream."""
        missing = [b for b, row in enumerate(rows) if row and self.current[b] is None]
        if missing:
            raise RuntimeStateError(f"stream {missing[0]}: think() before any segment was watched")
        if any(rows) and self.keeping is not None and self.keeping.policy.rereads:
            raise PolicyError(
                f"policy {self.keeping.policy.name!r} keeps nothing but frames: an arm that thinks cannot have it"
            )
        if not self.recurrent:
            return self._generate(rows, Role.THOUGHT, limit)
        mark = self._leave()
        self._turn(rows, [None] * self.size)
        thoughts = self._generate(rows, Role.THOUGHT, limit, closed=False)
        self._return(mark)
        self._keep([self._entry(b, thought) for b, thought in enumerate(thoughts)])
        return thoughts

    def ask(self, queries: Sequence[Query | None], limit: int) -> list[Generated | None]:
        """Ask on each stream that passes a query, and get its answer."""
        rows = [query is not None for query in queries]
        config = self.renderer.config
        if config.queries == "kept":
            self.hear(queries)
            return self._generate(rows, Role.ANSWER, limit)
        mark = self._leave()
        self.recall = self.keeping.recall() if self.keeping is not None else None
        if self.recurrent:
            self._turn(rows, queries)
        else:
            chunks: list[Chunk | None] = [
                None if query is None else self._lead(b, self.renderer.received(None, None, query), RECEIVED)
                for b, query in enumerate(queries)
            ]
            self.undecided = list(rows)
            self._feed(chunks, RECEIVED)
        answers = self._generate(rows, Role.ANSWER, limit, closed=False)
        self.recall = None
        self._return(mark)
        return answers

    def hear(self, queries: Sequence[Query | None]) -> None:
        """A query arrives on each stream that passes one and stays in it (queries: kept); `respond` replies to it."""
        if self.renderer.config.queries != "kept":
            raise RuntimeStateError("hear() needs queries: kept; on a branch a query is read when it is asked")
        chunks: list[Chunk | None] = [None] * self.size
        for b, query in enumerate(queries):
            if query is not None:
                self.numbering[b].unit = self.turns[b]
                self.turns[b] += 1
                chunks[b] = self._lead(b, self.renderer.received(None, None, query), RECEIVED)
                self.undecided[b] = True
        self._feed(chunks, RECEIVED)

    def respond(self, rows: Sequence[bool], limit: int) -> list[Generated | None]:
        """A further generated turn on kept streams, e.g. to an earlier query."""
        self._must_not_be_recurrent("respond")
        return self._generate(rows, Role.ANSWER, limit)

    def forget(self) -> None:
        """Empty the text memory (control: thoughts dropped)."""
        self.replace_memory([[] for _ in range(self.size)])

    def memory_entries(self) -> list[list[Chunk]]:
        return [list(memory.entries) for memory in self.memories]

    def replace_memory(self, entries: Sequence[Sequence[Chunk]]) -> None:
        """Put other entries into the text memory (control: thoughts swapped); an error with KV memory."""
        self._must_be_recurrent("swapping or dropping thoughts")
        for memory, new in zip(self.memories, entries, strict=True):
            memory.entries = list(new)
        self._rebuild()

    # --- text memory ------------------------------------------------------------------------------------------------

    def _must_be_recurrent(self, what: str) -> None:
        if not self.recurrent:
            raise RuntimeStateError(
                f"{what} needs text memory (layout recurrent); layout {self.renderer.config.layout!r} keeps keys and "
                f"values, which also carry what they saw"
            )

    def _must_not_be_recurrent(self, what: str) -> None:
        if self.recurrent:
            raise RuntimeStateError(f"{what} needs a growing stream; a recurrent turn ends with its reply")

    def _entry(self, b: int, thought: Generated | None) -> Chunk | None:
        view = self.current[b]
        return self.renderer.memory_entry(thought.text, view.segment) if thought and thought.text and view else None

    def _keep(self, chunks: Sequence[Chunk | None]) -> None:
        evicted = [self.memories[b].add(chunk) for b, chunk in enumerate(chunks) if chunk is not None]
        if any(evicted):
            self._rebuild()
        elif evicted:
            self._feed(chunks, RECEIVED)

    def _rebuild(self) -> None:
        """Read the text memory anew: its beginning changed."""
        self._truncate((0, 0))
        for b in range(self.size):
            now, unit = self.numbering[b].now, self.numbering[b].unit
            self.numbering[b] = Numbering(self.renderer.scheme())
            self.numbering[b].now, self.numbering[b].unit = now, unit
        prefix = Chunk.join(self.renderer.system(), self.renderer.memory_open())
        self._feed([Chunk.join(prefix, *memory.entries) for memory in self.memories], RECEIVED)

    def _turn(self, rows: Sequence[bool], queries: Sequence[Query | None]) -> None:
        chunks: list[Chunk | None] = [None] * self.size
        for b, row in enumerate(rows):
            if row:
                view = self.current[b]
                shape, segment = (view.shape, view.segment) if view else (None, None)
                chunks[b] = self.renderer.turn_prompt(shape, segment, queries[b])
        self._feed(chunks, RECEIVED, views=self.current)

    # --- streams ----------------------------------------------------------------------------------------------------

    def _leave(self) -> tuple[Any, ...]:
        """Where the main timeline stands, before a branch or a turn."""
        return (
            self.cache.lengths(),
            [numbering.mark() for numbering in self.numbering],
            list(self.spoke),
            list(self.undecided),
            self.logits,
        )

    def _return(self, mark: tuple[Any, ...]) -> None:
        lengths, marks, self.spoke, self.undecided, self.logits = mark
        self._truncate(lengths)
        for numbering, numbers in zip(self.numbering, marks, strict=True):
            numbering.reset(numbers)

    def held(self, received_alone: bool = False) -> Tokens:
        """What is known of all entries of the caches, fields (B, N), received ones first."""
        tables = self.slots[:1] if received_alone else self.slots
        parts = [part for table in tables for part in table.buffer.parts()]
        return tokens_of(parts[0] if len(parts) == 1 else torch.cat(parts, dim=2), tables[0].fields)

    def _truncate(self, lengths: tuple[int, int]) -> None:
        self.cache.truncate(lengths)
        for table, length in zip(self.slots, lengths, strict=True):
            table.buffer.length = length

    def _lead(self, b: int, chunk: Chunk, stream: int) -> Chunk:
        """After a boundary token, `follow` is written first; in a split layout only before generated turns."""
        if not self.spoke[b] or (self.split and stream == RECEIVED):
            return chunk
        if not self.split:
            self.spoke[b] = False
        return Chunk.join(self.renderer.follow(), chunk)

    def _prefix(self, rows: Sequence[bool]) -> None:
        """Open a generated turn: the held boundary token if there is one, then the prefix."""
        held = [pending if row else None for pending, row in zip(self.pending, rows, strict=True)]
        for b, pending in enumerate(held):
            if pending is not None:  # it keeps its position; it is written now, so it sees what has been read since
                index = np.array([self.numbering[b].index], np.int32)
                self.numbering[b].index += 1
                held[b] = Written(pending.chunk, {**pending.numbers, "index": index})
                self.pending[b] = None
        self._write(held, GENERATED)
        prefix = self.renderer.prefix()
        self._feed([self._lead(b, prefix, GENERATED) if row else None for b, row in enumerate(rows)], GENERATED)

    def _generate(self, rows: Sequence[bool], role: Role, limit: int, *, closed: bool = True) -> list[Generated | None]:
        """Text on the chosen rows, at most `limit` tokens with the boundary token.

        closed: the boundary token is written too, since the stream goes on. With silence: implicit a row that stays
        silent writes nothing, and one that speaks says at least one token.
        """
        if not any(rows):
            return [None] * self.size
        implicit = self.renderer.implicit
        speaking = self._decide(rows) if implicit else list(rows)
        if not self.recurrent:
            self._prefix(speaking)
        said: list[list[int]] = [[] for _ in rows]
        active, finished = list(speaking), [not speaks for speaks in speaking]
        for step in range(limit if any(speaking) else 0):
            scores = self._scores()
            if implicit and step == 0:
                scores[:, self.renderer.boundary] = -torch.inf
            chosen = self.sampler(scores, active)
            chunks: list[Chunk | None] = [None] * self.size
            for b in range(self.size):
                if active[b] and chosen[b] == self.renderer.boundary:
                    active[b], finished[b] = False, True
                elif active[b]:
                    said[b].append(int(chosen[b]))
                    chunks[b] = self.renderer.tokens([int(chosen[b])], role)
            if not any(active) or (step + 1 == limit and not closed):
                break
            self._feed(chunks, GENERATED)
        if closed:
            self._close(speaking, role)
        texts = [self.backbone.tokenizer.decode(ids, skip_special_tokens=True) for ids in said]
        return [Generated(texts[b], tuple(said[b]), finished[b]) if row else None for b, row in enumerate(rows)]

    def _scores(self) -> torch.Tensor:
        """What samplers draw from, (B, V)."""
        scores = self.logits.clone()
        scores[:, list(self.backbone.banned)] = -torch.inf
        return scores

    def _decide(self, rows: Sequence[bool]) -> list[bool]:
        """silence: implicit: which of the chosen rows speak, from what follows their last received token. One draw:
        the boundary token is silence, any other is to speak."""
        again = [b for b, row in enumerate(rows) if row and not self.undecided[b]]
        if again:
            raise RuntimeStateError(
                f"stream {again[0]}: with silence: implicit a received turn is followed by one turn or by silence, and "
                f"that was decided: watch() or hear() something first, or train with silence: turn"
            )
        chosen = self.sampler(self._scores(), rows)
        self.undecided = [was and not row for was, row in zip(self.undecided, rows, strict=True)]
        return [row and chosen[b] != self.renderer.boundary for b, row in enumerate(rows)]

    def _close(self, rows: Sequence[bool], role: Role) -> None:
        """Write the boundary token, now or (row_shift) after the next read. Its position is fixed now."""
        boundary = self.renderer.tokens([self.renderer.boundary], role)
        stamped = [self._stamp(b, boundary, GENERATED) if row else None for b, row in enumerate(rows)]
        self.spoke = [spoke or row for spoke, row in zip(self.spoke, rows, strict=True)]
        if self.hold_boundary:
            self.pending = [new or old for new, old in zip(stamped, self.pending, strict=True)]
        else:
            self._write(stamped, GENERATED)

    def _stamp(
        self, b: int, chunk: Chunk | None, stream: int, view: View | None = None, segment: int = -1
    ) -> Written | None:
        if chunk is None or len(chunk) == 0:
            return None
        numbers = self.numbering[b].stamp(chunk, stream, segment=segment)
        features = view.features if view is not None else None
        if self.keeping is None:
            return Written(chunk, numbers, features)
        end = round(1000 * view.segment.end) if view is not None else -1
        first = self.keeping.patches[b] - (view.shape.grid[0] if view is not None else 0)
        numbers |= piece_numbers(chunk, numbers["positions"], end, first)
        selection = self.keeping.selections[b] if view is not None else None
        written = Written(chunk, numbers, features)
        if selection is None:
            return written
        if selection.carriers is not None:
            self.numbering[b].index += selection.carriers.tokens.shape[0]
            return written.with_carriers(selection.carriers)
        return written.without_dropped(selection)

    def _feed(
        self,
        chunks: Sequence[Chunk | None],
        stream: int,
        *,
        views: Sequence[View | None] | None = None,
        segment: bool = False,
    ) -> None:
        """Number one chunk a stream (None: nothing) and write it; segment: hidden with the current segment."""
        shown = views if views is not None else [None] * self.size
        written = [
            self._stamp(b, chunk, stream, shown[b], self.numbering[b].now if segment else -1)
            for b, chunk in enumerate(chunks)
        ]
        n = max((len(w.chunk) for w in written if w is not None), default=0)
        step = self.read_tokens or max(n, 1)
        for start in range(0, n, step):
            self._write([w.cut(start, start + step) if w is not None else None for w in written], stream)

    @torch.no_grad()
    def _write(self, written: Sequence[Written | None], stream: int) -> None:
        """One forward: append to the received or the generated cache, and keep the logits of each row's last token."""
        n = max((len(w.chunk) for w in written if w is not None), default=0)
        if n == 0:
            return
        ids = torch.zeros(self.size, n, dtype=torch.long)
        positions = torch.zeros(3, self.size, n, dtype=torch.long)
        visual_mask = torch.zeros(self.size, n, dtype=torch.bool)
        features: list[Features] = []
        for b, w in enumerate(written):
            if w is None:
                continue
            size = len(w.chunk)
            ids[b, :size] = torch.from_numpy(w.chunk.ids)
            positions[:, b, :size] = torch.from_numpy(np.array(w.numbers["positions"]))
            visual_mask[b, :size] = torch.from_numpy(w.chunk.roles == Role.VISION)
            if w.features is not None:
                features.append(w.features)
        table = self.slots[stream]
        block = table.block([w.numbers if w is not None else None for w in written], n)
        table.buffer.append(block)
        alone = stream == RECEIVED and self.split
        queries = tokens_of(block[..., None], table.fields)
        columns = self.held(alone)[:, None]
        mask = self.rule.allowed(queries, columns) & (columns.valid > 0)
        mask |= (queries.valid == 0) & (columns.index == -1)  # padding sees padding: finite rows of no use
        device = self.backbone.device
        reader = None
        if self.reindexes:
            reader = Reader(self.backbone.turn(positions), block[-1] > 0, self.recall)
        self.cache.write_to(stream, reader.turn if reader is not None else None)
        hidden = self.backbone.hidden(
            ids.to(device),
            positions.to(device),
            mask[:, None].to(device),
            visual_mask.to(device),
            Features.cat(features) if features else None,
            self.cache,
            reader,
        )
        lengths = block[-1].sum(-1)
        logits = self.backbone.logits(hidden[torch.arange(self.size), (lengths - 1).clamp(min=0)]).float()
        if self.logits.shape[1] == 0:
            self.logits = logits
        self.logits = torch.where((lengths > 0)[:, None].to(device), logits, self.logits)
