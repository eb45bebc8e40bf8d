"""Samples, clips and the two ways to run them that the tests of the core compare: one pass over a rendered row, and a
stream. Neither knows the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from whilst.attention import build_mask
from whilst.backbones.base import Backbone, ClipShape, Features
from whilst.clips import View
from whilst.policies import Policy
from whilst.render import IGNORE, Renderer, TokenRow
from whilst.runtime import StreamBatch, encode_clips
from whilst.sample import Answer, Query, Sample, Segment, Silence, Thought, Video
from whilst.visibility import Tokens

FPS = 2.0
HEIGHT, WIDTH = 32, 48  # pixels; 2 x 3 visual tokens a temporal patch: height and width differ


def timeline(
    sample_id: str = "a", thoughts: Sequence[str] = ("in-1 red-circle .", "", "out-1 blue-square .", ".")
) -> Sample:
    """Four segments (2, 3, 1 and 2 frames), one thought each (an empty one is a silence), a query in mid-stream, a
    standing query (first silence, later two answers), and a query after all of it."""

    def think(time: float, text: str) -> Thought | Silence:
        return Thought(time, text) if text else Silence(time)

    a, b, c, d = thoughts
    return Sample(
        sample_id,
        Video("video.mp4"),
        (
            Segment(0.0, 1.0),
            think(1.0, a),
            Query("q", 1.0, "which in-1 ?"),
            Answer(1.0, "red-circle", "q"),
            Segment(1.0, 2.5),
            think(2.5, b),
            Query("standing", 2.5, "tell-when out red-circle ?"),
            Silence(2.5, "standing"),
            Segment(2.5, 3.0),
            think(3.0, c),
            Answer(3.0, "now", "standing"),
            Segment(3.0, 4.0),
            Answer(4.0, "now", "standing"),
            think(4.0, d),
            Query("last", 4.0, "which out-1 ?"),
            Answer(4.0, "blue-square", "last"),
        ),
    )


def frames(rng: np.random.Generator, n: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """n random images (n, H, W, 3) uint8."""
    return rng.integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def clips_of(sample: Sample, seed: int = 0) -> list[tuple[Segment, np.ndarray, tuple[float, ...]]]:
    """Random frames at FPS for each segment of a sample."""
    rng = np.random.default_rng(seed)
    clips = []
    for segment in sample.segments():
        n = round((segment.end - segment.start) * FPS)
        clips.append((segment, frames(rng, n), tuple(segment.start + i / FPS for i in range(n))))
    return clips


def shapes_of(backbone: Backbone, sample: Sample) -> list[ClipShape]:
    """What the renderer needs of the clips of a sample."""
    return [backbone.spec.shape(times, HEIGHT, WIDTH, FPS) for _, _, times in clips_of(sample)]


def views_of(backbone: Backbone, sample: Sample, seed: int = 0) -> list[View]:
    """The clips of a sample, each encoded when it arrives: on its own."""
    return [encode_clips(backbone, [clip], FPS)[0] for clip in clips_of(sample, seed)]


# --- one pass -----------------------------------------------------------------------------------------------------


def rows_of(renderer: Renderer, sample: Sample, views: Sequence[View]) -> list[TokenRow]:
    return renderer.rows(sample, [view.shape for view in views])


def row_features(row: TokenRow, views: Sequence[View]) -> Features | None:
    """What the visual tokens of a row take, in their order."""
    if not row.clips:
        return None
    table = Features.cat([views[clip].features for clip in row.clips])
    return table.take(torch.from_numpy(row.visual_index[row.visual_index >= 0]))


def one_pass(
    backbone: Backbone, renderer: Renderer, row: TokenRow, views: Sequence[View], ids: np.ndarray | None = None
) -> torch.Tensor:
    """Last hidden states (L, D) of a row in one masked forward; `ids` in place of the row's own."""
    with torch.no_grad():
        hidden: torch.Tensor = backbone.hidden(
            torch.from_numpy(row.input_ids if ids is None else ids)[None],
            torch.from_numpy(row.positions)[:, None],
            build_mask("whilst_sdpa", renderer.rule, Tokens.of(row.meta)[None]),
            torch.from_numpy(row.visual_index >= 0)[None],
            row_features(row, views),
        )
    return hidden[0]


def learned(row: TokenRow) -> torch.Tensor:
    """Slots whose logits predict a learned token: the one before each."""
    return torch.from_numpy(np.flatnonzero(row.labels != IGNORE) - 1)


def trained(backbone: Backbone, renderer: Renderer, sample: Sample, views: Sequence[View]) -> torch.Tensor:
    """Logits (N, V) that predict every generated token of a sample, in order of arrival: what training sees."""
    parts = []
    for row in rows_of(renderer, sample, views):
        hidden = one_pass(backbone, renderer, row, views)
        with torch.no_grad():
            parts.append(backbone.logits(hidden[learned(row)]))
    return torch.cat(parts)


# --- a stream -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Streamed:
    """Logits (N, V) before every generated token of one stream, and the index of the event that each belongs to."""

    logits: torch.Tensor
    events: tuple[int, ...]
    batch: StreamBatch


def said(sample: Sample) -> Iterator[tuple[int, str]]:
    """Index and text of every event that the model generates; a silence is an empty text."""
    for i, event in enumerate(sample.events):
        if isinstance(event, Thought | Answer):
            yield i, event.text
        elif isinstance(event, Silence):
            yield i, ""


def forced(renderer: Renderer, sample: Sample) -> list[tuple[int, int]]:
    """(event, token) for every generated token of a sample."""
    return [(i, token) for i, text in said(sample) for token in _drawn(renderer, text)]


def _drawn(renderer: Renderer, text: str) -> tuple[int, ...]:
    return (*renderer.drawn(text), renderer.boundary)


def stream(
    backbone: Backbone,
    renderer: Renderer,
    samples: Sequence[Sample],
    views: Sequence[Sequence[View]],
    *,
    read_tokens: int | None = None,
    flip_boundary: bool = False,
    policy: Policy | None = None,
) -> list[Streamed]:
    """Run samples side by side through StreamBatch with the tokens that they hold (teacher forcing).

    A kept query must be followed at once by its first answer or silence, as `ask` does.
    """
    ends = None
    if renderer.config.scheme == "batch":
        ends = [renderer.received_end(s, [view.shape for view in v]) for s, v in zip(samples, views, strict=True)]
    pending = [iter(forced(renderer, sample)) for sample in samples]
    logits: list[list[torch.Tensor]] = [[] for _ in samples]
    events: list[list[int]] = [[] for _ in samples]

    def sampler(scores: torch.Tensor, active: Sequence[bool]) -> list[int]:
        chosen = [0] * len(active)
        for b in np.flatnonzero(active):
            event, chosen[b] = next(pending[b])
            logits[b].append(batch.logits[b].clone())
            events[b].append(event)
        return chosen

    batch = StreamBatch(
        backbone, renderer, len(samples), sampler=sampler, received_ends=ends, read_tokens=read_tokens, policy=policy
    )
    batch.hold_boundary ^= flip_boundary
    if any(sample.memory for sample in samples):
        batch.remember([sample.memory or None for sample in samples])
    shown = [iter(v) for v in views]
    for step in range(max(len(sample.events) for sample in samples)):
        now = [sample.events[step] if step < len(sample.events) else None for sample in samples]
        _step(batch, [s.events[:step] for s in samples], now, shown)
    assert all(next(rest, None) is None for rest in pending)
    return [Streamed(torch.stack(x), tuple(e), batch) for x, e in zip(logits, events, strict=True)]


def _step(
    batch: StreamBatch, before: Sequence[Sequence[object]], now: Sequence[object], shown: list[Iterator[View]]
) -> None:
    """One event of each stream: segments first, then thoughts, then answers; streams do not meet."""
    limit = 1 << 30
    segments = [isinstance(event, Segment) for event in now]
    if any(segments):
        batch.watch([next(views) if on else None for views, on in zip(shown, segments, strict=True)])
    batch.think([isinstance(e, Thought) or (isinstance(e, Silence) and e.query is None) for e in now], limit)
    asked: list[Query | None] = [None] * len(now)
    further = [False] * len(now)
    for b, event in enumerate(now):
        name = event.query if isinstance(event, Answer | Silence) else None
        if name is None:
            continue
        query = next(q for q in before[b] if isinstance(q, Query) and q.id == name)
        if batch.renderer.config.queries == "branch" or before[b][-1] is query:
            asked[b] = query
        else:
            further[b] = True
    if any(asked):
        batch.ask(asked, limit)
    if any(further):
        batch.respond(further, limit)
