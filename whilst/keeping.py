"""A policy (whilst/policies/) at work on the caches of a StreamBatch: what is read, what leaves, what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch

from whilst.backbones.base import Backbone, ClipShape
from whilst.chunks import Numbering, Role
from whilst.clips import View
from whilst.memory import TwoStreamCache
from whilst.policies import Policy, RecentFrames, Selection, Watched, retrieval_of
from whilst.render import Renderer
from whilst.retrieval import Recall, Store
from whilst.sample import Segment
from whilst.slots import ALL_FIELDS, SlotTable, close_gaps, kept_index, positions_of, tokens_of
from whilst.visibility import RECEIVED, Tokens


class Streams(Protocol):
    """What a policy works on: a StreamBatch."""

    backbone: Backbone
    renderer: Renderer
    size: int
    slots: tuple[SlotTable, SlotTable]
    cache: TwoStreamCache
    numbering: list[Numbering]

    def held(self) -> Tokens: ...
    def read(self, views: Sequence[View | None]) -> None: ...
    def restart(self, b: int) -> None: ...


class Keeping:
    """A policy at work on the streams of one batch."""

    def __init__(self, streams: Streams, policy: Policy) -> None:
        policy.check(streams.renderer.config)
        self.streams, self.policy = streams, policy
        self.watched = [Watched() for _ in range(streams.size)]
        self.selections: list[Selection | None] = [None] * streams.size  # of the current clip of each stream
        self.patches = [0] * streams.size  # temporal patches that have arrived
        self.recent: list[list[View]] = [[] for _ in range(streams.size)]  # what recent_frames reads anew
        retrieval = retrieval_of(policy)
        self.store = Store(streams.size, retrieval.folder) if retrieval is not None else None
        self.most = retrieval.segments if retrieval is not None else None

    def select(self, views: Sequence[View | None]) -> None:
        """Choose which visual tokens of the arriving clips are read."""
        for b, view in enumerate(views):
            if view is None:
                continue
            grid = self.streams.backbone.spec.merged(view.shape)
            self.selections[b] = selection = self.policy.select(self.watched[b], view.features, grid)
            self.watched[b].seen += grid.tokens
            self.watched[b].kept += grid.tokens if selection is None else int(selection.kept.sum())
            self.patches[b] += grid.t

    def forget(self, views: Sequence[View | None]) -> None:
        """Take out what the policy no longer keeps, now that the segments of `views` arrive."""
        streams = self.streams
        if not sum(streams.cache.lengths()):
            return
        held = streams.held()
        now = dict.fromkeys(ALL_FIELDS, torch.zeros(streams.size, 1, dtype=torch.int32))
        for name, values in {
            "order": [numbering.order for numbering in streams.numbering],
            "now": [numbering.now + 1 for numbering in streams.numbering],
            "visual_count": [numbering.visual for numbering in streams.numbering],
            "end": [round(1000 * view.segment.end) if view is not None else 0 for view in views],
        }.items():
            now[name] = torch.tensor(values, dtype=torch.int32)[:, None]
        keep = self.policy.keep(held, Tokens(now), self.watched)
        if keep is None:
            return
        valid = held.valid > 0
        arriving = torch.tensor([view is not None for view in views])[:, None]
        keep = (keep | ~arriving) & valid
        if torch.equal(keep, valid):
            return
        if self.store is not None:
            self._offload(held, valid & ~keep, self.store)
        self._drop(keep)

    def prune(self, before: int) -> None:
        """Prune the clips whose entries stand in the received cache from `before` on."""
        streams = self.streams
        table = streams.slots[RECEIVED]
        new = tokens_of(table.buffer.view()[:, :, before:], table.fields)
        keys = [layer.keys_of[RECEIVED].view()[:, :, before:] for layer in streams.cache.two]
        kept = self.policy.prune(keys, new)
        if kept is None:
            return
        chosen = [kept_index(of_layer & (new.valid > 0)) for of_layer in kept]
        older = torch.arange(before).expand(streams.size, before)
        indices = [torch.cat([older, before + index], dim=1) for index, _ in chosen]
        valid = torch.cat([table.buffer.view()[-1, :, :before] > 0, chosen[0][1]], dim=1)
        table.gather(indices[0], valid)
        streams.cache.gather(RECEIVED, [index.to(streams.backbone.device) for index in indices])

    def watch_recent(self, views: Sequence[View | None], policy: RecentFrames) -> None:
        """Read what has arrived, or, where frames must leave, start anew with the last ones."""
        streams = self.streams
        queue: list[list[View]] = [[] for _ in views]
        anew = torch.zeros(streams.size, 1, dtype=torch.bool)
        for b, view in enumerate(views):
            if view is None:
                continue
            self.recent[b].append(view)
            queue[b] = [view]
            if policy.frames is not None and sum(len(v.shape.times) for v in self.recent[b]) > policy.frames:
                self.recent[b] = last_frames(self.recent[b], policy.frames, streams.backbone.spec.temporal_patch)
                queue[b], anew[b] = list(self.recent[b]), True
        if bool(anew.any()):
            held = streams.held()
            self._drop((held.valid > 0) & (~anew | (held.role == Role.SYSTEM)))
            for b in anew[:, 0].nonzero()[:, 0].tolist():
                streams.restart(b)
        for i in range(max(len(of_row) for of_row in queue)):
            streams.read([of_row[i] if i < len(of_row) else None for of_row in queue])

    def recall(self) -> Recall | None:
        """What brings segments back for the queries that are put now; None where none has left."""
        streams = self.streams
        if self.store is None or not any(self.store.blocks):
            return None
        system = int((streams.held().role[0] == Role.SYSTEM).sum())
        raw = [layer.raw_of[RECEIVED].view()[:, :, :system] for layer in streams.cache.two if layer.raw_of is not None]
        return Recall(self.store, self.most, raw, streams.backbone.turn)

    def close(self) -> None:
        """Give back offloaded segments and their files."""
        if self.store is not None:
            self.store.close()

    def _drop(self, keep: torch.Tensor) -> None:
        """Keep the entries keep (B, N) of both caches."""
        streams = self.streams
        for stream, part in enumerate(keep.split([table.length for table in streams.slots], dim=1)):
            index, valid = kept_index(part)
            streams.slots[stream].gather(index, valid)
            streams.cache.gather(stream, index.to(streams.backbone.device))
        if self.policy.reindex:
            self._close_gaps()

    def _close_gaps(self) -> None:
        streams = self.streams
        if streams.renderer.config.scheme == "interleaved":
            cursors: list[tuple[str, Sequence[SlotTable], int]] = [("next", streams.slots, 0)]
        else:  # two cursors
            phi = int(streams.renderer.config.scheme_params.get("phi", 0))
            received, generated = streams.slots
            cursors = [("next", (received,), 0), ("next_generated", (generated,), phi)]
        for name, tables, base in cursors:
            if any(table.length for table in tables):
                for numbering, free in zip(streams.numbering, close_gaps(tables, base), strict=True):
                    setattr(numbering.scheme, name, int(free))
        for stream, table in enumerate(streams.slots):
            if table.length:
                streams.cache.turn_to(stream, streams.backbone.turn(positions_of(table)))

    def _offload(self, held: Tokens, leaving: torch.Tensor, store: Store) -> None:
        """Put the segments that leave into the store."""
        for b in range(self.streams.size):
            for segment in held.segment[b][leaving[b] & (held.segment[b] >= 0)].unique().tolist():
                at = (leaving[b] & (held.segment[b] == segment)).nonzero()[:, 0]
                layers = []
                for layer in self.streams.cache.two:
                    assert layer.raw_of is not None
                    raw, value = layer.raw_of[RECEIVED].view()[b], layer.values_of[RECEIVED].view()[b]
                    layers.append(torch.stack([raw[:, at.to(raw.device)], value[:, at.to(raw.device)]]))
                starts = held.start[b][at]
                first, last = int(starts.min()), int((starts + held.extent[b][at]).max())
                places = torch.stack([held.t[b][at], held.h[b][at], held.w[b][at]]).long()
                store.put(b, segment, layers, places - first, last - first, held.frame[b][at] >= 0)


def last_frames(views: Sequence[View], frames: int, patch: int) -> list[View]:
    """The views of the last `frames` frames, the first of them cut to whole temporal patches of `patch` frames."""
    kept: list[View] = []
    left = frames
    for view in reversed(views):
        patches = view.shape.grid[0] if len(view.shape.times) <= left else left // patch
        dropped = view.shape.grid[0] - patches
        if patches < 1:
            break
        if dropped:
            times = view.shape.times[dropped * patch :]
            size = view.features.tokens.shape[0] // view.shape.grid[0]
            features = view.features.take(torch.arange(dropped * size, view.features.tokens.shape[0]))
            shape = ClipShape((patches, *view.shape.grid[1:]), times, view.shape.fps)
            view = replace(view, segment=Segment(times[0], view.segment.end), shape=shape, features=features)
        kept.append(view)
        left -= len(view.shape.times)
    return kept[::-1]
