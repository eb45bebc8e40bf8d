"""The same task with something taken from it: what a reward that compares rollouts is compared with.

| name | what changes | source |
|---|---|---|
| shuffled_frames | the order of all frames of the video | T-GRPO (Video-R1) |
| no_memory | the text memory is empty whenever a query is put | utility of thoughts |
| evidence_removed | segments that show a query's evidence repeat what was seen before them | VideoPerceiver |

Times, segments and events stay as they are, and so does the number of frames a segment: only pictures move. The clips
of the task that is given are never written to: all rollouts of a sample share them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from rewards.base import PERTURBATIONS, RewardError
from rewards.contrast import evidence_segments
from train.policies import Task
from whilst.clips import SegmentClip

EVIDENCE = "evidence_removed"  # the one that does not apply to every sample
GREY = 128  # of 255: the picture where the whole video is evidence


def perturbed(task: Task, name: str) -> Task:
    """The task under one of rewards.base.PERTURBATIONS.

    Raises:
        RewardError: no such perturbation, or a sample without evidence where evidence is to be removed.
    """
    if name not in _MAKERS:
        raise RewardError(f"perturbation {name!r} is not known; choose from {', '.join(PERTURBATIONS)}")
    return replace(_MAKERS[name](task), perturbation=name)


def shuffled_frames(task: Task) -> Task:
    """Frames permuted over the whole video, as `task.seed` says, and filled into the segments in their new order.

    The order of pictures always changes, except for a video of which all frames are equal.
    """
    if not task.clips:
        return task
    images = np.concatenate([clip.images for clip in task.clips])
    shuffled, rng = images, np.random.default_rng(task.seed)
    # Of N frames that are not all equal, at most 1 in N orders shows the same pictures as the first: this ends.
    while np.array_equal(shuffled, images) and not (images == images[0]).all():
        shuffled = images[rng.permutation(len(images))]
    ends = np.cumsum([len(clip.images) for clip in task.clips])[:-1]
    return _with_images(task, np.split(shuffled, ends))


def no_memory(task: Task) -> Task:
    return replace(task, no_memory=True)


def evidence_removed(task: Task) -> Task:
    """Every segment that shows evidence of some query is a still: the last frame before it that shows none, or else the
    first one after it, or else grey.

    Raises:
        RewardError: no query has evidence, or no segment shows it: a reward must leave such a sample out (None).
    """
    hidden = evidence_segments(task.sample)
    if not hidden:
        raise RewardError(
            f"sample {task.sample.id}: no segment shows evidence of a query, so none can be removed; give the query "
            "`evidence` inside the segments, or a reward that is None for this sample"
        )
    images = []
    for i, clip in enumerate(task.clips):
        if i in hidden:
            images.append(np.broadcast_to(_neighbour(task.clips, hidden, i), clip.images.shape).copy())
        else:
            images.append(clip.images)
    return _with_images(task, images)


def _neighbour(clips: Sequence[SegmentClip], hidden: frozenset[int], i: int) -> np.ndarray | int:
    before = next((clips[j].images[-1] for j in range(i - 1, -1, -1) if j not in hidden), None)
    if before is not None:
        return before
    after = next((clips[j].images[0] for j in range(i + 1, len(clips)) if j not in hidden), None)
    return GREY if after is None else after


def _with_images(task: Task, images: Sequence[np.ndarray]) -> Task:
    clips = zip(task.clips, images, strict=True)
    return replace(task, clips=tuple(replace(clip, images=pictures) for clip, pictures in clips))


_MAKERS: dict[str, Callable[[Task], Task]] = {
    "shuffled_frames": shuffled_frames,
    "no_memory": no_memory,
    EVIDENCE: evidence_removed,
}
