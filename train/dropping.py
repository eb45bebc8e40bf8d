"""Visual tokens that equal those of the frame before are left out of training rows: TimeChat-Online's DTD (2504.17343).

    data:
      drop_similar: {by: feature, threshold: 0.7, probability: 0.5}

A frame is a temporal patch. Frame t is compared with frame t - 1 as it was, dropped or not, at the same place after the
merge; the first frame of a sample stays. By `feature`: the cosine of the vision tower's outputs after the merger; by
`pixel`: the mean absolute difference of the normalised pixels of a token. (The release compares the first picture of
one pair with the last of the next; here all are compared.) What stays keeps its position, and ids, labels, mask and
deepstack features are cut by one selection: the thinned row computes what the whole row would if nobody saw the dropped
tokens (tests/train/test_dropping.py). Serving does the same, with the same functions, where the recipe's `policy` says
so (`{name: drop_similar, threshold: ...}`, whilst/policies/tokens.py); there is none by pixel.

By `pixel` rows are cut when they are collated, under any attention back-end. By `feature` they get shorter inside the
forward, where the features are: under whilst_sdpa, whose dense mask is cut with them, or FlashAttention, which has none
(one row a batch).

Which samples are thinned is drawn from the seed, the sample's id and the epoch alone, so a resumed run draws the same.
A held-out loss is that of whole rows.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from transformers import TrainerCallback

from train.rows import Item
from whilst.backbones.base import BackboneError, VisionSpec
from whilst.policies.tokens import Alike, cosine, likeness, unlike
from whilst.render import TokenRow
from whilst.render_config import RenderConfig


class DroppingError(ValueError):
    """A recipe that cannot drop similar tokens; names the key and the fix."""


@dataclass(frozen=True)
class DropSimilar:
    """TimeChat-Online's DTD (2504.17343, 3.2): of a frame, the visual tokens that equal those of the frame before at
    the same place are left out of the row; the rest keep their positions. by feature: those whose cosine is above
    `threshold`; by pixel: those whose mean absolute difference is below it. ratio: the share that goes instead, the
    most alike first, of each clip. probability: how often a sample is thinned at all."""

    by: Literal["feature", "pixel"] = "feature"
    threshold: float | None = None
    ratio: float | None = None
    probability: float = 1.0

    def __post_init__(self) -> None:
        if (self.threshold is None) == (self.ratio is None):
            raise ValueError("drop_similar: give threshold or ratio, one of them")
        if self.ratio is not None and not 0.0 <= self.ratio < 1.0:
            raise ValueError(f"drop_similar.ratio is a share from 0 to 1, not {self.ratio}")
        if not 0.0 <= self.probability <= 1.0:
            raise ValueError(f"drop_similar.probability must lie from 0 to 1, not {self.probability}")


def check(settings: DropSimilar, render: RenderConfig, backend: str) -> None:
    """DroppingError where rows cannot be thinned so."""
    if render.layout not in ("interleaved", "split"):
        raise DroppingError(
            f"data.drop_similar compares each segment with the one before, which a row of layout {render.layout!r} "
            f"need not hold: use layout interleaved or split"
        )
    if settings.by == "feature" and backend != "whilst_sdpa" and not backend.startswith("flash"):
        raise DroppingError(
            f"data.drop_similar.by: feature makes rows shorter inside the forward, which takes the dense mask of "
            f"whilst_sdpa or none at all, not that of {backend}: set by: pixel, or model.attention: whilst_sdpa"
        )


def pixel_likeness(before: torch.Tensor, now: torch.Tensor) -> torch.Tensor:
    """Minus the mean absolute difference, so that more is more alike."""
    return -(before - now).abs().mean(-1)


def staying(clips: Sequence[torch.Tensor], settings: DropSimilar) -> list[torch.Tensor]:
    """Which tokens of a sample's clips, (t, N, D) each and in order, stay: (t * N,) bool each."""
    alike: Alike = cosine if settings.by == "feature" else pixel_likeness
    threshold = settings.threshold
    if threshold is not None and settings.by == "pixel":
        threshold = -threshold
    before: torch.Tensor | None = None
    found = []
    for frames in clips:
        found.append(unlike(likeness(before, frames, alike), threshold, settings.ratio))
        before = frames[-1]
    return found


PutBack = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]


@dataclass(frozen=True)
class Run:
    """The clips of one sample that is thinned: where in the feature table of the batch each begins, and how many frames
    of how many tokens it has."""

    starts: tuple[int, ...]
    frames: tuple[tuple[int, int], ...]


@dataclass
class Thinning:
    """What a batch's forward takes to make its rows shorter by feature. lengths: tokens of each row, padding left out.

    dropped: (visual tokens left out, all of them), once the forward was called.
    """

    settings: DropSimilar
    runs: Sequence[Run]
    lengths: Sequence[int]
    dropped: tuple[int, int] = (0, 0)

    def table(self, tokens: torch.Tensor) -> torch.Tensor:
        """Which rows of the feature table (F, D) stay, (F,) bool."""
        stays = torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)
        for run in self.runs:
            places = zip(run.starts, run.frames, strict=True)
            clips = [tokens[at : at + t * n].detach().view(t, n, -1) for at, (t, n) in places]
            for at, of_clip in zip(run.starts, staying(clips, self.settings), strict=True):
                stays[at : at + len(of_clip)] = of_clip
        return stays

    def __call__(
        self, tokens: torch.Tensor, visual_index: torch.Tensor, batch: Mapping[str, Any], mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, dict[str, Any], torch.Tensor | None, PutBack]:
        """visual_index, batch (input_ids, position_ids, visual_mask) and mask (B, 1, L, L) of the shorter rows, and
        what puts their hidden states (B, L', D) back where they were, (B, L, D), given the slots that are read."""
        visual_mask = batch["visual_mask"]
        B, L = visual_mask.shape
        chosen = self.table(tokens)[visual_index]
        self.dropped = int((~chosen).sum()), len(chosen)
        lengths = torch.tensor(self.lengths, device=visual_mask.device)
        stays = torch.arange(L, device=visual_mask.device) < lengths[:, None]
        stays = stays.masked_scatter(visual_mask, chosen)
        counts = stays.sum(1)
        order = (~stays).to(torch.int8).argsort(dim=1, stable=True)[:, : int(counts.max())]
        real = torch.arange(order.shape[1], device=order.device) < counts[:, None]
        if mask is None and not bool(real.all()):
            raise DroppingError("rows without a mask cannot be padded when they get shorter: set optim.batch_size: 1")
        if mask is not None:
            rows = torch.arange(B, device=order.device)[:, None, None]
            seen = mask[rows, 0, order[:, :, None], order[:, None, :]] & real[:, None]
            seen |= ~real[..., None] & torch.eye(order.shape[1], dtype=torch.bool, device=order.device)  # pads: itself
            mask = seen[:, None]
        shorter = {
            "input_ids": batch["input_ids"].gather(1, order),
            "position_ids": batch["position_ids"].gather(2, order.expand(3, -1, -1)),
            "visual_mask": visual_mask.gather(1, order) & real,
        }

        def put_back(hidden: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
            if kept is not None and not bool(stays.flatten()[kept].all()):
                raise BackboneError("a label is predicted by a visual token that was dropped")
            whole = hidden.new_zeros(B, L, hidden.shape[-1])
            whole[stays] = hidden[real]
            return whole

        return visual_index[chosen], shorter, mask, put_back


@dataclass
class Dropping:
    """Thins the rows that a Collator makes."""

    settings: DropSimilar
    spec: VisionSpec
    seed: int
    epoch: int = 0
    _by_pixel: dict[int, np.ndarray] = field(default_factory=dict)  # by identity of the item, which the run keeps

    def thins(self, sample_id: str) -> bool:
        """Whether a sample is thinned in this epoch."""
        draw = np.random.default_rng([self.seed, self.epoch, zlib.crc32(sample_id.encode())]).random()
        return bool(draw < self.settings.probability)

    def cut(self, row: TokenRow, items: Sequence[Item]) -> TokenRow:
        """By pixel: the row of these items without the tokens that are dropped; by feature: the row."""
        if self.settings.by == "feature":
            return row
        table = np.concatenate([np.zeros(0, bool), *(self._stays(item) for item in items)])
        shown = row.visual_index >= 0
        stays = np.ones(len(row), bool)
        stays[shown] = table[row.visual_index[shown]]
        meta = {name: values[stays] for name, values in row.meta.items()}
        return replace(
            row,
            input_ids=row.input_ids[stays],
            labels=row.labels[stays],
            loss_weight=row.loss_weight[stays],
            roles=row.roles[stays],
            visual_index=row.visual_index[stays],
            positions=row.positions[:, stays],
            meta=meta | {"index": np.arange(int(stays.sum()), dtype=np.int32)},
        )

    def thinning(self, packs: Sequence[Sequence[Item]], start: Callable[[Any], int], rows: Sequence[TokenRow]) -> Any:
        """By feature: what the forward of a batch takes; `start`: where in its feature table a clip begins."""
        runs = []
        for item in (item for items in packs for item in items):
            if self.thins(item.row.sample_id):
                starts = tuple(start(clip) for clip in item.clips)
                runs.append(Run(starts, tuple(self._frames(grid) for grid in item.row.grids)))
        return Thinning(self.settings, runs, [len(row) for row in rows])

    def _frames(self, grid: tuple[int, int, int]) -> tuple[int, int]:
        return grid[0], grid[1] * grid[2] // self.spec.merge**2

    def _stays(self, item: Item) -> np.ndarray:
        """Which features of an item's clips stay, by pixel."""
        if not self.thins(item.row.sample_id):
            return np.ones(sum(t * n for t, n in map(self._frames, item.row.grids)), bool)
        if id(item) not in self._by_pixel:
            clips = []
            for clip, (t, n) in zip(item.clips, map(self._frames, item.row.grids), strict=True):
                # the patches of a token lie together
                clips.append(self.spec.patchify(clip.images).view(t, n, -1))
            self._by_pixel[id(item)] = torch.cat(staying(clips, self.settings)).numpy()
        return self._by_pixel[id(item)]


class Epochs(TrainerCallback):
    """Tells the collator the epoch before its first batch is made."""

    def __init__(self, dropping: Dropping) -> None:
        self.dropping = dropping

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.dropping.epoch = int((state.epoch or 0.0) + 1e-9)
