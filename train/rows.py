"""Samples on disk -> rendered rows with their frames, and several of them in one row.

What cannot be used is counted with its reason (`Rejected`), never replaced: items in = rows' samples + rejected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from train.pool import capped_fps
from whilst.backbones.base import BackboneError
from whilst.clips import SegmentClip, segment_clips, shapes, within
from whilst.memory import MemoryCapError
from whilst.positions import PositionError
from whilst.progress import progress
from whilst.render import IGNORE, Renderer, RenderError, TokenRow
from whilst.sample import Sample, Silence, Thought, read_samples
from whilst.video import VideoError
from whilst.visibility import FIELDS


class DataError(ValueError):
    """A training set that cannot be used; names the file and the fix."""


# what is wrong with one sample, not with the recipe: its video, its texts, its size, its length
UNUSABLE = (VideoError, RenderError, BackboneError, MemoryCapError, PositionError)


@dataclass(frozen=True)
class Rejected:
    """A sample that was left out, and why."""

    sample: str
    reason: str


@dataclass(frozen=True)
class Item:
    """A row and the clips that it shows, in the order of its feature table."""

    row: TokenRow
    clips: tuple[SegmentClip, ...]


@dataclass(frozen=True)
class Limits:
    """Most of a sample's video that is read; None: no limit. frames: above it they are thinned evenly (`capped_fps`).
    total_pixels: above it they are made smaller (`whilst.clips.size_within`)."""

    frames: int | None = None
    total_pixels: int | None = None

    def __post_init__(self) -> None:
        for name in ("frames", "total_pixels"):
            if (most := getattr(self, name)) is not None and most < 1:
                raise DataError(f"data.{name} must be at least 1, not {most}; leave it out for no limit")


NO_LIMITS = Limits()
Thoughts = Literal["keep", "drop", "silence"]


def with_thoughts(sample: Sample, thoughts: Thoughts) -> Sample:
    """The sample as an arm sees it: keep its thoughts, drop them, or put an empty turn (silence) in place of each."""
    if thoughts == "keep":
        return sample
    if thoughts == "drop":
        return sample.without_thoughts()
    return sample.with_events([Silence(e.time) if isinstance(e, Thought) else e for e in sample.events])


def load_items(
    path: str | Path,
    renderer: Renderer,
    fps: float,
    *,
    thoughts: Thoughts = "keep",
    limit: int | None = None,
    limits: Limits = NO_LIMITS,
) -> tuple[list[Item], list[Rejected]]:
    """Read, decode and render samples (the first `limit`); `path` is as `read_samples` takes it."""
    samples = read_samples(path)[:limit]
    items: list[Item] = []
    rejected: list[Rejected] = []
    with progress("decode and render", len(samples)) as advance:
        for sample in samples:
            try:
                items += render_items(with_thoughts(sample, thoughts), renderer, fps, limits)
            except UNUSABLE as error:
                rejected.append(Rejected(sample.id, str(error)))
            advance(1)
    return items, rejected


def render_items(sample: Sample, renderer: Renderer, fps: float, limits: Limits = NO_LIMITS) -> list[Item]:
    """The rows of one sample. Rows without a label teach nothing and are an error."""
    if sample.segments():
        fps = capped_fps(sample, fps, limits.frames)
    clips = within(segment_clips(sample, fps), renderer.spec, limits.total_pixels)
    rows = renderer.rows(sample, shapes(clips, renderer.spec))
    if not any((row.labels != IGNORE).any() for row in rows):
        raise RenderError(f"sample {sample.id}: nothing to learn: no thought and no answer")
    return [Item(row, tuple(clips[c] for c in row.clips)) for row in rows]


def pack(lengths: Sequence[int], tokens: int, names: Sequence[str]) -> list[list[int]]:
    """Numbers of rows into packs of at most `tokens`, first fit in the given order (deterministic); a longer row is an
    error that says whose it is."""
    packs: list[list[int]] = []
    room: list[int] = []
    for row, size in enumerate(lengths):
        if size > tokens:
            raise DataError(f"sample {names[row]}: a row of {size} tokens does not fit pack_tokens {tokens}")
        place = next((i for i in range(max(0, len(room) - 64), len(room)) if room[i] >= size), None)
        if place is None:
            packs.append([])
            room.append(tokens)
            place = len(packs) - 1
        packs[place].append(row)
        room[place] -= size
    return packs


def pack_rows(rows: Sequence[TokenRow]) -> TokenRow:
    """Several samples in one row: block-diagonal with any rule, since a token sees its own sample alone."""
    meta: dict[str, list[np.ndarray]] = {name: [] for name in FIELDS}
    visual, base, features = [], 0, 0
    for number, row in enumerate(rows):
        for name in FIELDS:
            meta[name].append(row.meta[name])
        meta["index"][-1] = row.meta["index"] + base
        meta["sample"][-1] = np.full(len(row), number, np.int32)
        visual.append(np.where(row.visual_index < 0, -1, row.visual_index + features))
        base += len(row)
        features += int(row.visual_index.max()) + 1
    return replace(
        rows[0],
        sample_id="+".join(row.sample_id for row in rows),
        input_ids=np.concatenate([row.input_ids for row in rows]),
        labels=np.concatenate([row.labels for row in rows]),
        loss_weight=np.concatenate([row.loss_weight for row in rows]),
        roles=np.concatenate([row.roles for row in rows]),
        visual_index=np.concatenate(visual),
        positions=np.concatenate([row.positions for row in rows], axis=1),
        meta={name: np.concatenate(parts) for name, parts in meta.items()},
        clips=tuple(c for row in rows for c in row.clips),
        grids=tuple(g for row in rows for g in row.grids),
    )
