"""Sample -> TokenRow(s). The one renderer: SFT, RL, evaluation and the runtime call it.

Events are written as *chunks* (a received turn, a generated turn, a memory entry; whilst/wording.py). Each is tokenised
on its own and carries its metadata from here on; nothing is found later by searching ids or characters. `Renderer.rows`
lays the chunks of a sample out in one of four layouts; the runtime feeds the same chunks to its caches one at a time.
`Numbering` numbers both, so metadata and positions agree by construction and only visibility and caching remain to be
proven (by test).

| layout | a row | rules |
|---|---|---|
| interleaved | arrival order: V1 A1 V2 A2 ... (a plain chat) | causal, visual_window, last_segments, sink_window |
| split | everything received, then everything generated | unit, row_shift |
| recurrent | one turn: text memory + current segment (+ query) + reply | causal |
| recurrent_packed | all turns of the recurrent layout, exactly, in one row | text_memory |

`Sample.memory`, the text memory that a sample starts with, stands right behind the system turn: in the first two
layouts as a received turn of its own, absent where there is none; in the others as the first entry of the text memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from whilst.backbones.base import ClipShape
from whilst.chunks import Chunk, Numbering, Role
from whilst.episode import Turn
from whilst.memory import TextMemory
from whilst.positions import Interleaved, make_scheme, place
from whilst.sample import Answer, Query, Sample, Segment, Silence, Thought
from whilst.silence import Ends
from whilst.visibility import FIELDS, GENERATED, RECEIVED
from whilst.wording import RenderError, Wording

IGNORE = -100
RENDERER = 1
"""The version of what this file, whilst/wording.py and whilst/chunks.py write. Raise it by one whenever an equal sample
under an equal RenderConfig would give other ids, labels, weights or positions: models trained before read another
language from then on, and whilst/checkpoint.py refuses them instead of answering badly. A new setting whose default
changes nothing needs no new number. tests/whilst/test_renderer_version.py holds what version 1 writes."""


@dataclass(frozen=True)
class TokenRow:
    """One row of training tokens. Arrays of L tokens; positions (3, L).

    meta holds the fields of whilst.visibility.FIELDS. clips: which segments of the sample it shows, in the order of its
    feature table; visual_index: which row of that table a visual token takes, -1 elsewhere. labels: what the token
    before each slot learns; with silence: implicit it may be another token than the one that stands there.
    """

    sample_id: str
    input_ids: np.ndarray
    labels: np.ndarray
    loss_weight: np.ndarray
    roles: np.ndarray
    visual_index: np.ndarray
    positions: np.ndarray
    meta: Mapping[str, np.ndarray]
    clips: tuple[int, ...]
    grids: tuple[tuple[int, int, int], ...]  # patch grids (t, h, w) of `clips`, before the merge

    def __len__(self) -> int:
        return len(self.input_ids)


class RowWriter:
    """Collects stamped chunks into a TokenRow. Split layouts order received before generated at the end."""

    def __init__(self, numbering: Numbering) -> None:
        self.numbering = numbering
        self.parts: list[tuple[int, Chunk, dict[str, np.ndarray], int]] = []

    def write(self, chunk: Chunk, stream: int, *, clip: int = -1, **where: int) -> None:
        """Append; `clip` names the segment whose clip the chunk shows, whether or not the chunk is hidden with it."""
        if len(chunk):
            self.parts.append((stream, chunk, self.numbering.stamp(chunk, stream, **where), clip))


class Renderer(Wording):
    """Writes the rows of samples: what whilst/wording.py makes of their events, laid out."""

    def rows(self, sample: Sample, clips: Sequence[ClipShape], turns: Sequence[Turn] | None = None) -> list[TokenRow]:
        """The rows of a sample, whose i-th segment shows clips[i].

        turns: the sampled turns behind its thoughts, answers and silences, one each, in order (an episode's): their
        token ids are written, and carry the loss, in place of the encoded texts.

        Raises RenderError when the counts differ, when a row is longer than max_tokens, or when a text holds special
        tokens.
        """
        segments = [event for event in sample.events if isinstance(event, Segment)]
        if len(segments) != len(clips):
            raise RenderError(
                f"sample {sample.id}: {len(segments)} segments but {len(clips)} clips: they must be equal"
            )
        if turns is not None and self.implicit:
            raise RenderError("sampled turns are trained with silence: turn: implicit silence is no turn of its own")
        said = _Said(self, turns)
        if self.config.layout == "recurrent":
            rows = self._recurrent(sample, clips, said)
        elif self.config.layout == "recurrent_packed":
            rows = self._recurrent_packed(sample, clips, said)
        else:
            rows = [self._stream(sample, clips, said)]
        if left := said.rest():
            raise RenderError(f"sample {sample.id}: {left} more sampled turns than thoughts, answers and silences")
        limit = self.config.max_tokens
        for row in rows:
            if limit is not None and len(row) > limit:
                raise RenderError(
                    f"sample {sample.id}: a row of {len(row)} tokens exceeds max_tokens {limit}; cut the sample at a "
                    f"segment (or lower the pixels a frame): a cut inside it could split a vision span"
                )
        return rows

    def received_end(self, sample: Sample, clips: Sequence[ClipShape]) -> int:
        """First position after everything that the main timeline of a sample receives (batch scheme)."""
        pieces = list(self.system().pieces)
        if sample.memory:
            pieces += self.memory_turn(sample.memory).pieces
        i = 0
        for event in sample.events:
            if isinstance(event, Segment):
                pieces += self.received(clips[i], event, None).pieces
                i += 1
            elif isinstance(event, Query) and self.config.queries == "kept":
                pieces += self.received(None, None, event).pieces
        return place(pieces, 0)[1]

    def scheme(self, received_end: int | None = None) -> Interleaved:
        return make_scheme(self.config.scheme, received_end, **self.config.scheme_params)

    def _stream(self, sample: Sample, clips: Sequence[ClipShape], said: _Said) -> TokenRow:
        """interleaved and split: one growing stream; a branch is a query turn that later tokens do not see."""
        config = self.config
        split = config.layout == "split"
        end = self.received_end(sample, clips) if config.scheme == "batch" else None
        numbering = Numbering(self.scheme(end))
        writer = RowWriter(numbering)
        writer.write(self.system(), RECEIVED)
        if sample.memory:
            writer.write(self.memory_turn(sample.memory), RECEIVED)
        spoke = False  # a boundary token stands at the end of the stream that is written next
        ends = Ends(self.opening, self.boundary) if self.implicit else None
        turns = branches = 0
        queries: dict[str, Query] = {}

        def lead(chunk: Chunk) -> Chunk:
            return Chunk.join(self.follow(), chunk) if spoke else chunk

        def receive(chunk: Chunk, **where: int) -> None:
            nonlocal spoke
            writer.write(chunk if split else lead(chunk), RECEIVED, **where)
            spoke = spoke and split
            if ends is not None:
                ends.received(len(writer.parts), segment="clip" in where)

        def generate(text: str, role: Role, where: str, branch: int) -> None:
            nonlocal spoke
            if ends is not None and not ends.generated(bool(text)):
                raise RenderError(
                    f"{where}: silence: implicit decides once after each received turn, and this one is decided: use "
                    f"silence: turn, or one kind of turns a segment"
                )
            if ends is not None and not text:
                return
            writer.write(lead(self.prefix()), GENERATED, branch=branch)
            writer.write(said.next(text, role, where, closed=not branch), GENERATED, branch=branch)
            spoke = True

        for i, event in enumerate(sample.events):
            where = f"sample {sample.id}, events[{i}]"
            if isinstance(event, Segment):
                numbering.unit, numbering.now = turns, numbering.now + 1
                turns += 1
                chunk = self.received(clips[numbering.now], event, None)
                receive(chunk, segment=numbering.now, clip=numbering.now)
            elif isinstance(event, Query):
                queries[event.id] = event
                if config.queries == "kept":
                    numbering.unit = turns
                    turns += 1
                    receive(self.received(None, None, event))
            elif isinstance(event, Thought) or (isinstance(event, Silence) and event.query is None):
                generate(event.text if isinstance(event, Thought) else "", Role.THOUGHT, where, 0)
            else:
                text = event.text if isinstance(event, Answer) else ""
                if config.queries == "kept":
                    generate(text, Role.ANSWER, where, 0)
                    continue
                branches += 1
                mark, before = numbering.mark(), spoke
                left = ends.leave() if ends is not None else None
                receive(self.received(None, None, queries[str(event.query)]), branch=branches)
                generate(text, Role.ANSWER, where, branches)
                numbering.reset(mark)
                spoke = before
                if ends is not None:
                    ends.come_back(left)
        if ends is None:
            return self._finish(sample, clips, writer)
        learned = ends.finish()
        if len(writer.parts) in learned:  # the stream ends in silence: its label needs a slot
            writer.write(self.tokens([self.boundary], Role.MARK), GENERATED)
        return self._finish(sample, clips, writer, learned)

    def _turns(self, sample: Sample) -> list[tuple[int, Query | None, str, Role, str]]:
        """The turns of the recurrent layouts: (segment ordinal or -1, query, text, role, where)."""
        turns: list[tuple[int, Query | None, str, Role, str]] = []
        now = -1
        queries: dict[str, Query] = {}
        for i, event in enumerate(sample.events):
            where = f"sample {sample.id}, events[{i}]"
            if isinstance(event, Segment):
                now += 1
            elif isinstance(event, Query):
                queries[event.id] = event
            elif isinstance(event, Thought) or (isinstance(event, Silence) and event.query is None):
                turns.append((now, None, event.text if isinstance(event, Thought) else "", Role.THOUGHT, where))
            else:
                text = event.text if isinstance(event, Answer) else ""
                turns.append((now, queries[str(event.query)], text, Role.ANSWER, where))
        return turns

    def turn_prompt(self, shape: ClipShape | None, segment: Segment | None, query: Query | None) -> Chunk:
        """What a recurrent turn adds to the text memory: its close, the current segment, the query, the prefix."""
        return Chunk.join(self.memory_close(), self.received(shape, segment, query), self.prefix())

    def memory(self) -> TextMemory:
        return TextMemory(self.config.memory_tokens)

    def _recurrent_packed(self, sample: Sample, clips: Sequence[ClipShape], said: _Said) -> list[TokenRow]:
        """Each thought is written twice: generated (loss, sees its segment) and as a memory copy (text alone)."""
        segments = [event for event in sample.events if isinstance(event, Segment)]
        memory = self.memory()
        if sample.memory:
            memory.add(self.memory_given(sample.memory))
        rows: list[TokenRow] = []

        def start() -> RowWriter:
            writer = RowWriter(Numbering(self.scheme()))
            writer.write(Chunk.join(self.system(), self.memory_open(), *memory.entries), RECEIVED)
            return writer

        writer = start()
        turn = 0
        for now, query, text, role, where in self._turns(sample):
            numbering = writer.numbering
            mark = numbering.mark()
            shape, segment = (clips[now], segments[now]) if now >= 0 else (None, None)
            numbering.now = now
            writer.write(self.turn_prompt(shape, segment, query), RECEIVED, segment=now, clip=now, turn=turn)
            writer.write(said.next(text, role, where), GENERATED, turn=turn)
            numbering.reset(mark)
            turn += 1
            if role == Role.THOUGHT and text:
                if segment is None:
                    raise RenderError(f"{where}: a thought before the first segment has nothing to think about")
                entry = self.memory_entry(text, segment)
                if memory.add(entry):  # FIFO took something away: the prefix changed, so a new row starts
                    rows.append(self._finish(sample, clips, writer))
                    writer = start()
                else:
                    writer.write(entry, RECEIVED)
        if any(part[1].learn.any() for part in writer.parts):
            rows.append(self._finish(sample, clips, writer))
        return rows

    def _recurrent(self, sample: Sample, clips: Sequence[ClipShape], said: _Said) -> list[TokenRow]:
        """One row a turn: the prompt that inference sees."""
        segments = [event for event in sample.events if isinstance(event, Segment)]
        memory = self.memory()
        if sample.memory:
            memory.add(self.memory_given(sample.memory))
        rows = []
        for now, query, text, role, where in self._turns(sample):
            writer = RowWriter(Numbering(self.scheme()))
            shape, segment = (clips[now], segments[now]) if now >= 0 else (None, None)
            writer.write(Chunk.join(self.system(), self.memory_open(), *memory.entries), RECEIVED)
            writer.numbering.now = now
            writer.write(self.turn_prompt(shape, segment, query), RECEIVED, segment=now, clip=now)
            writer.write(said.next(text, role, where), GENERATED)
            rows.append(self._finish(sample, clips, writer))
            if role == Role.THOUGHT and text:
                if segment is None:
                    raise RenderError(f"{where}: a thought before the first segment has nothing to think about")
                memory.add(self.memory_entry(text, segment))
        return rows

    def _weight(self, chunk: Chunk) -> np.ndarray:
        """Loss weights (n,) of a chunk's tokens."""
        config = self.config
        if np.array_equal(chunk.ids[chunk.learn], [self.boundary]):  # an empty turn
            return np.where(chunk.learn, config.silence_weight, 0.0)
        weights = np.where(chunk.roles == Role.THOUGHT, config.thought_weight, config.answer_weight)
        return np.where(chunk.learn, weights, 0.0)

    def _finish(
        self, sample: Sample, clips: Sequence[ClipShape], writer: RowWriter, ends: Mapping[int, int] | None = None
    ) -> TokenRow:
        """The row of what was written. ends: what the token before a part learns (silence: implicit)."""
        parts = writer.parts
        if self.config.layout == "split":
            parts = [p for p in parts if p[0] == RECEIVED] + [p for p in parts if p[0] == GENERATED]
        used: list[int] = []
        offsets: dict[int, int] = {}
        total = 0
        visual_index = []
        for _, chunk, _, clip in parts:
            local = np.full(len(chunk), -1, np.int64)
            pads = chunk.roles == Role.VISION
            if pads.any():
                if clip not in offsets:
                    offsets[clip] = total
                    used.append(clip)
                    total += self.spec.merged(clips[clip]).tokens
                local[pads] = offsets[clip] + np.arange(int(pads.sum()))
            visual_index.append(local)
        meta = {name: np.concatenate([p[2][name] for p in parts]) for name in FIELDS}
        ids = np.concatenate([p[1].ids for p in parts])
        roles = np.concatenate([p[1].roles for p in parts])
        learn = np.concatenate([p[1].learn for p in parts])
        meta["index"] = np.arange(len(ids), dtype=np.int32)
        meta["next_unit"] = _next_unit(meta)
        labels = np.where(learn, ids, IGNORE)
        weights = np.concatenate([self._weight(p[1]) for p in parts]).astype(np.float32)
        starts = np.cumsum([0, *(len(p[1]) for p in parts)])
        for part, label in (ends or {}).items():
            assert labels[starts[part]] == IGNORE, "what follows a received turn is received, or opens a turn"
            labels[starts[part]], weights[starts[part]] = label, self.config.stream_weight
        return TokenRow(
            sample_id=sample.id,
            input_ids=ids,
            labels=labels,
            loss_weight=weights,
            roles=roles,
            visual_index=np.concatenate(visual_index),
            positions=np.concatenate([p[2]["positions"] for p in parts], axis=1),
            meta=meta,
            clips=tuple(used),
            grids=tuple(clips[c].grid for c in used),
        )


class _Said:
    """The generated texts of a sample as chunks, one after the other: encoded, or as they were sampled."""

    def __init__(self, renderer: Renderer, turns: Sequence[Turn] | None) -> None:
        self.renderer = renderer
        self.turns: Iterator[Turn] | None = None if turns is None else iter(turns)

    def next(self, text: str, role: Role, where: str, *, closed: bool = False) -> Chunk:
        if self.turns is None:
            return self.renderer.generated(text, role, where)
        turn = next(self.turns, None)
        if turn is None or turn.text != text:
            raise RenderError(f"{where}: says {text!r}, but the sampled turn is {turn.text if turn else None!r}")
        return self.renderer.sampled(turn, role, closed=closed)

    def rest(self) -> int:
        """How many sampled turns no event took."""
        return 0 if self.turns is None else sum(1 for _ in self.turns)


def _next_unit(meta: Mapping[str, np.ndarray]) -> np.ndarray:
    """unit of the next generated token of the row; the last one keeps its own."""
    unit, generated = meta["unit"], meta["stream"] == GENERATED
    following = np.append(unit[1:], unit[-1:])
    return np.where(generated, following, unit).astype(np.int32)
