"""Chunks with their numbers, as a stream writes them: cut into parts, and changed by what a policy lets in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from whilst.backbones.base import Features
from whilst.chunks import Chunk, Role
from whilst.policies import Selection


@dataclass(frozen=True)
class Written:
    """A chunk with its numbers (metadata (n,) and positions (3, n)) and the features of its visual tokens."""

    chunk: Chunk
    numbers: dict[str, np.ndarray]
    features: Features | None = None

    def cut(self, start: int, stop: int) -> Written:
        pads = self.chunk.roles == Role.VISION
        first, last = int(pads[:start].sum()), int(pads[:stop].sum())
        features = self.features.take(torch.arange(first, last)) if self.features is not None else None
        return self._of(slice(start, stop), features)

    def without_dropped(self, selection: Selection) -> Written:
        """Only the visual tokens that a policy lets in; they keep their numbers."""
        stays = self.chunk.roles != Role.VISION
        stays[~stays] = selection.kept.numpy()
        features = selection.features or self.features
        return self._of(stays, features.take(selection.kept.nonzero()[:, 0]) if features is not None else None)

    def with_carriers(self, carriers: Features) -> Written:
        """A further token behind the tokens of each frame, with the numbers of the last of them."""
        assert self.features is not None
        frame = self.numbers["frame"]
        last = np.flatnonzero((frame >= 0) & (np.append(frame[1:], -1) != frame))
        order = np.sort(np.append(np.arange(len(frame)), last), kind="stable")
        added = np.append(False, order[1:] == order[:-1])  # of two equal places the second is the carrier
        written = self._of(order, None)
        n = len(written.chunk)
        steps = np.arange(n, dtype=np.int32)
        numbers = written.numbers | {"carrier": added.astype(np.int32), "index": self.numbers["index"][0] + steps}
        pads = written.chunk.roles == Role.VISION
        count = self.features.tokens.shape[0]
        which = np.where(added[pads], count + np.cumsum(added[pads]) - 1, np.cumsum(~added[pads]) - 1)
        joined = Features.cat([self.features, carriers])
        return Written(written.chunk, numbers, joined.take(torch.from_numpy(which)))

    def _of(self, part: slice | np.ndarray, features: Features | None) -> Written:
        chunk = self.chunk
        tokens = Chunk(
            ids=chunk.ids[part],
            roles=chunk.roles[part],
            learn=chunk.learn[part],
            visual=chunk.visual[part],
            visual_end=chunk.visual_end[part],
            pieces=(),  # numbered already
        )
        return Written(tokens, {name: value[..., part] for name, value in self.numbers.items()}, features)
