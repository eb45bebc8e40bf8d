"""Rows -> batches: padded, with a mask, positions, and each distinct clip once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from train.dropping import Dropping
from train.rows import DataError, Item, pack_rows
from whilst.attention import pack_mask
from whilst.backbones.base import Features, VisionSpec
from whilst.clips import SegmentClip
from whilst.render import IGNORE, TokenRow
from whilst.visibility import FIELDS, Rule, Tokens


def pad_tokens(rows: Sequence[TokenRow], multiple: int = 1) -> tuple[Tokens, int]:
    """Metadata (B, L) of rows padded to one length; padding is sample -1 and sees only padding."""
    length = -(-max(len(row) for row in rows) // multiple) * multiple
    arrays = {name: np.full((len(rows), length), -1, np.int32) for name in FIELDS}
    arrays["branch"][:] = 0
    arrays["index"][:] = np.arange(length)
    for b, row in enumerate(rows):
        for name in FIELDS:
            arrays[name][b, : len(row)] = row.meta[name]
    return Tokens.of(arrays), length


@dataclass
class Collator:
    """Packs of items -> a batch for the forward that whilst.backbones.base.attach installs.

    input_ids, labels (B, L) int64; loss_weight (B, L) float32; position_ids (3, B, L); attention_mask as the back-end
    takes it; pixel_values_videos (P, C) and video_grid_thw (n, 3) of the distinct clips; visual_mask (B, L) bool;
    visual_index (V,) which feature each visual token takes. A clip that several rows show is there once: clips are told
    apart by identity.

    encoded: features of clips from a frozen tower; they then take the place of the pixels (visual_features (F, D),
    visual_deepstack). dropping: leaves similar visual tokens out; by pixel here, and `dropped` counts (those left out,
    all of them); by feature in the forward, which takes `thin`.
    """

    spec: VisionSpec
    rule: Rule
    backend: str
    pad_id: int
    dtype: torch.dtype = torch.float32
    encoded: Callable[[Sequence[SegmentClip]], Sequence[Features]] | None = None
    dropping: Dropping | None = None

    def __call__(self, packs: Sequence[Sequence[Item]]) -> dict[str, Any]:
        rows = [items[0].row if len(items) == 1 else pack_rows([item.row for item in items]) for items in packs]
        whole = rows
        if self.dropping is not None:
            rows = [self.dropping.cut(row, items) for row, items in zip(rows, packs, strict=True)]
        multiple = 128 if self.backend == "whilst_flex" else 1
        tokens, length = pad_tokens(rows, multiple)
        B = len(rows)
        ids = np.full((B, length), self.pad_id, np.int64)
        labels = np.full((B, length), IGNORE, np.int64)
        weights = np.zeros((B, length), np.float32)
        positions = np.zeros((3, B, length), np.int64)
        visual = np.full((B, length), -1, np.int64)
        table = _FeatureTable(self.spec.merge)
        for b, (row, items) in enumerate(zip(rows, packs, strict=True)):
            n = len(row)
            ids[b, :n], labels[b, :n], weights[b, :n] = row.input_ids, row.labels, row.loss_weight
            positions[:, b, :n] = row.positions
            places = table.places(row, [clip for item in items for clip in item.clips])
            shown = row.visual_index >= 0
            visual[b, :n][shown] = places[row.visual_index[shown]]
        if not table.clips:
            raise DataError(
                f"a batch without a clip ({rows[0].sample_id}): the vision tower must be touched on every batch, or "
                f"ranks with and without video fall out of step"
            )
        visual_mask = torch.from_numpy(visual >= 0)
        return {
            "input_ids": torch.from_numpy(ids),
            "labels": torch.from_numpy(labels),
            "loss_weight": torch.from_numpy(weights),
            "position_ids": torch.from_numpy(positions),
            "attention_mask": pack_mask(self.backend, self.rule, tokens, self.dtype),
            "visual_mask": visual_mask,
            "visual_index": torch.from_numpy(visual)[visual_mask],
            **self._vision(table),
            **self._dropped(packs, whole, rows, table),
        }

    def _dropped(
        self,
        packs: Sequence[Sequence[Item]],
        whole: Sequence[TokenRow],
        rows: Sequence[TokenRow],
        table: _FeatureTable,
    ) -> dict[str, Any]:
        if self.dropping is None:
            return {}
        if self.dropping.settings.by == "feature":
            return {"thin": self.dropping.thinning(packs, table.start, rows)}
        before, after = (sum(int((row.visual_index >= 0).sum()) for row in some) for some in (whole, rows))
        return {"dropped": torch.tensor([before - after, before])}

    def _vision(self, table: _FeatureTable) -> dict[str, Any]:
        if self.encoded is not None:
            features = Features.cat(self.encoded(table.clips))
            return {"visual_features": features.tokens, "visual_deepstack": list(features.deepstack)}
        return {
            "pixel_values_videos": patchify_clips(self.spec, table.clips),
            "video_grid_thw": torch.tensor(table.grids, dtype=torch.long),
        }


class _FeatureTable:
    """The distinct clips of a batch, in the order in which rows first show them, and where their features begin."""

    def __init__(self, merge: int) -> None:
        self.merge = merge
        self.clips: list[SegmentClip] = []
        self.grids: list[tuple[int, int, int]] = []
        self._starts: dict[int, int] = {}
        self._size = 0

    def start(self, clip: SegmentClip) -> int:
        """Where the features of a clip of the batch begin."""
        return self._starts[id(clip)]

    def places(self, row: TokenRow, clips: Sequence[SegmentClip]) -> np.ndarray:
        """For each feature of the row's own table, in order, its place in the batch's table."""
        spans = [np.zeros(0, np.int64)]
        for clip, grid in zip(clips, row.grids, strict=True):
            size = grid[0] * grid[1] * grid[2] // self.merge**2
            if id(clip) not in self._starts:
                self._starts[id(clip)] = self._size
                self._size += size
                self.clips.append(clip)
                self.grids.append(grid)
            spans.append(self._starts[id(clip)] + np.arange(size))
        return np.concatenate(spans)


def patchify_clips(spec: VisionSpec, clips: Sequence[SegmentClip]) -> torch.Tensor:
    """Patches of all clips (P, C); clips of one shape are cut together."""
    if len({clip.images.shape for clip in clips}) == 1 and len(clips[0].images) % spec.temporal_patch == 0:
        return spec.patchify(np.concatenate([clip.images for clip in clips]))
    return torch.cat([spec.patchify(clip.images) for clip in clips])
