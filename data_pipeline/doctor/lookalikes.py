"""Videos that show the same: a perceptual hash of few frames, and the pairs whose hashes hardly differ.

The hash of a frame is its picture in 8 x 8 cells of mean colour, so it does not depend on codec, size or rate. Two
videos are alike when they last equally long and each of their frames has the same cells, but for one. A hash of
brightness steps (dHash) is shorter, but it is blind to colour, and in plain areas it hashes the noise of the codec.
Videos that were cut differently, mirrored or framed anew are not found.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

CELLS = 8  # a side of the hash
FRAMES = 9  # of a video
LEVELS = 20  # grey levels (of 255) by which a cell may differ in any colour: codecs stay far below
ODD_CELLS = 1  # of a frame that may differ by more, such as a logo
BUSY = 8  # cells of a frame that are compared before all
SECONDS, SHARE = 0.5, 0.02  # by which durations may differ, whichever is more: containers round


def picture_hash(image: np.ndarray) -> np.ndarray:
    """The hash (8, 8, 3) uint8 of a picture (H, W, 3) uint8."""
    return np.asarray(Image.fromarray(image).resize((CELLS, CELLS), Image.Resampling.BOX))


def groups(hashes: np.ndarray, durations: Sequence[float]) -> list[list[int]]:
    """Which videos are alike, as lists of indices, each in increasing order; those that are like no other are left out.

    hashes: (N, FRAMES, 8, 8, 3) uint8. durations: N times in seconds. Of a group, every video is like some other one.
    The time it takes grows with the pairs of one duration: 5,000 videos that all last equally long take seconds.
    """
    order = np.argsort(durations, kind="stable")
    lengths = np.asarray(durations, dtype=np.float64)[order]
    # By frame: (FRAMES, N, 64, 3). What fails on some of the cells fails on all, so the most varied ones go first.
    cells = hashes[order].reshape(len(order), FRAMES, CELLS * CELLS, 3).swapaxes(0, 1)
    some = cells[:, :: 1 + len(order) // 1000]
    varied = np.argsort(-some.var(axis=1).sum(axis=2), axis=1, kind="stable")[:, :BUSY]
    busy = np.stack([frame[:, chosen] for frame, chosen in zip(cells, varied, strict=True)]).astype(np.int16)
    leader = np.arange(len(order))
    for i, length in enumerate(lengths):
        last = int(np.searchsorted(lengths, length + max(SECONDS, SHARE * length), side="right"))
        others = i + 1 + np.flatnonzero(_alike(busy[0, i + 1 : last], busy[0, i]))
        for part in (*busy[1:], *cells):
            others = others[_alike(part[others], part[i])]
            if not len(others):
                break
        for j in others:
            one, other = _find(leader, i), _find(leader, int(j))
            leader[max(one, other)] = min(one, other)
    found: dict[int, list[int]] = {}
    for i in range(len(order)):
        found.setdefault(_find(leader, i), []).append(int(order[i]))
    return sorted(sorted(group) for group in found.values() if len(group) > 1)


def _alike(others: np.ndarray, one: np.ndarray) -> np.ndarray:
    """Which of the frames (M, C, 3) have the cells (C, 3), but for ODD_CELLS."""
    return (np.abs(others - one.astype(np.int16)) > LEVELS).any(axis=2).sum(axis=1) <= ODD_CELLS


def _find(leader: np.ndarray, i: int) -> int:
    while leader[i] != i:
        leader[i] = leader[leader[i]]
        i = int(leader[i])
    return i
