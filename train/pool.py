"""Which samples are rolled out when, and at which rate their videos are read.

A generation is one batch of episodes: `count` groups on each of `ranks` ranks. What it holds follows from the seed and
its number alone, so a resumed run goes on exactly, without a state to save.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from whilst.clips import SegmentClip, segment_clips
from whilst.sample import Sample


class PoolError(ValueError):
    """Samples that cannot be rolled out as asked; names the setting, the sample or the file, and the fix."""


# ---- Curriculum.


@dataclass(frozen=True)
class Ramp:
    """A setting that goes from `start` to `end` in a straight line over `generations`, and stays there.

    step: it moves by whole steps only, the last one shortened to meet `end`. VST's frames: Ramp(80, max, 200, step=20).
    """

    start: float
    end: float
    generations: int
    step: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start) and math.isfinite(self.end)):
            raise PoolError(f"a ramp goes from a finite number to another, not from {self.start} to {self.end}")
        if self.generations < 1:
            raise PoolError(f"a ramp takes at least 1 generation, not {self.generations}; for a constant: start = end")
        if self.step is not None and not (math.isfinite(self.step) and self.step > 0):
            raise PoolError(f"a ramp's step must be a positive number, not {self.step}")

    def value(self, generation: int) -> float:
        if generation >= self.generations:
            return self.end
        moved = (self.end - self.start) * generation / self.generations
        if self.step is not None:
            moved = math.copysign(math.floor(abs(moved) / self.step + 1e-9) * self.step, moved)
        return self.start + moved


@dataclass(frozen=True)
class Curriculum:
    """frames: most frames a video (`capped_fps`). duration: longest video that is rolled out, in seconds from its first
    segment's start to its last segment's end."""

    frames: Ramp | None = None
    duration: Ramp | None = None

    def __post_init__(self) -> None:
        if self.frames is not None and min(self.frames.start, self.frames.end) < 1:
            raise PoolError(f"curriculum.frames must stay at 1 frame or more, not {self.frames}")
        if self.duration is not None and min(self.duration.start, self.duration.end) <= 0:
            raise PoolError(f"curriculum.duration must stay above 0 s, not {self.duration}")

    def frames_at(self, generation: int) -> int | None:
        return None if self.frames is None else int(self.frames.value(generation))

    def duration_at(self, generation: int) -> float:
        return math.inf if self.duration is None else self.duration.value(generation)


def duration(sample: Sample) -> float:
    """Seconds from the first segment's start to the last segment's end."""
    segments = sample.segments()
    if not segments:
        raise PoolError(f"sample {sample.id}: no segment, so there is nothing to watch; leave it out")
    return segments[-1].end - segments[0].start


def capped_fps(sample: Sample, fps: float, cap: int | None) -> float:
    """The rate at which a sample has at most `cap` frames, thinned evenly over the whole video; never above `fps`.

    A segment without a frame cannot be read (VideoError), so the rate stays at one frame in the time of the shortest
    segment: a sample of many short segments keeps more frames than `cap`. One frame is enough for a segment, the
    backbone repeats it to fill a temporal patch.
    """
    if cap is None:
        return fps
    shortest = min((segment.end - segment.start for segment in sample.segments()), default=math.inf)
    return min(fps, max(cap / duration(sample), 1.0 / shortest))


# ---- Which samples.


@dataclass
class _Walk:
    """Where the walk through the epochs stands after a generation."""

    generation: int = -1
    eligible: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    queue: list[int] = field(default_factory=list)  # what is left of the epoch
    chosen: list[int] = field(default_factory=list)


class SamplePool:
    """Indices of samples by generation: every sample once an epoch, in an order of its own.

    A sample that the curriculum lets in joins the epoch that is under way. A generation that spans two epochs holds no
    sample twice. Other `ranks * count` is another order, so resume with the numbers of the run.
    """

    def __init__(self, samples: Sequence[Sample], seed: int, curriculum: Curriculum | None = None) -> None:
        if not samples:
            raise PoolError("no sample to roll out")
        self.ids = [sample.id for sample in samples]
        self.durations = np.array([duration(sample) for sample in samples])
        self.seed = seed
        self.curriculum = curriculum or Curriculum()
        self._walks: dict[int, _Walk] = {}  # by ranks * count: only spares walking from the first generation each time

    def groups(self, generation: int, rank: int, ranks: int, count: int) -> list[int]:
        """The `count` samples that a rank rolls out; those of other ranks are others.

        Raises:
            PoolError: fewer samples than `ranks * count` are short enough for this generation.
        """
        return self._walk(generation, ranks * count).chosen[rank * count : (rank + 1) * count]

    def reserve(self, generation: int, rank: int, ranks: int, round: int, count: int, groups: int) -> list[int]:
        """`count` <= `groups` samples in place of groups that teach nothing or cannot be read (dynamic sampling).

        `groups` is the count that `groups()` was called with; `round` counts from 0 in each generation. No two ranks
        and no two rounds share a sample, and none is of the generation itself, until the pool is used up: then samples
        of the generation follow, and the rank's reserve begins anew. A draw here does not count for the epoch.
        """
        if count > groups:
            raise PoolError(f"{count} replacements were asked for, but the generation has {groups} groups on a rank")
        walk = self._walk(generation, ranks * groups)
        own = set(walk.chosen)
        drawn = np.random.default_rng([self.seed, generation, 1]).permutation(walk.eligible).tolist()
        order = [i for i in drawn if i not in own] + [i for i in drawn if i in own]
        mine = order[rank::ranks]
        return [mine[(round * groups + k) % len(mine)] for k in range(count)]

    def _walk(self, generation: int, width: int) -> _Walk:
        walk = self._walks.get(width)
        if walk is None or walk.generation > generation:
            walk = self._walks[width] = _Walk()
        while walk.generation < generation:
            self._step(walk, width)
        return walk

    def _step(self, walk: _Walk, width: int) -> None:
        generation = walk.generation + 1
        eligible = self._eligible(generation, width)
        shuffle = np.random.default_rng([self.seed, generation, 0])
        if not np.array_equal(eligible, walk.eligible):
            known, allowed = set(walk.eligible.tolist()), set(eligible.tolist())
            joined = [i for i in eligible.tolist() if i not in known]
            if walk.queue:
                walk.queue = shuffle.permutation([i for i in walk.queue if i in allowed] + joined).tolist()
            walk.eligible = eligible
        walk.chosen, walk.queue = walk.queue[:width], walk.queue[width:]
        missing = width - len(walk.chosen)
        if missing:
            order = shuffle.permutation(eligible).tolist()
            before = set(walk.chosen)
            first = [i for i in order if i not in before][:missing]
            begun = set(first)
            walk.chosen, walk.queue = walk.chosen + first, [i for i in order if i not in begun]
        walk.generation = generation

    def _eligible(self, generation: int, width: int) -> np.ndarray:
        longest = self.curriculum.duration_at(generation)
        eligible = np.flatnonzero(self.durations <= longest)
        if len(eligible) == 0:
            i = int(self.durations.argmin())
            raise PoolError(
                f"curriculum.duration: at most {longest:g} s in generation {generation}, but the shortest sample, "
                f"{self.ids[i]}, lasts {self.durations[i]:g} s; let the ramp start there or later"
            )
        if len(eligible) < width:
            limit = f" of at most {longest:g} s" if math.isfinite(longest) else ""
            raise PoolError(
                f"generation {generation} takes {width} samples over all ranks, but there are {len(eligible)}{limit}; "
                "use fewer groups, or let in more samples"
            )
        return eligible


# ---- Clips.


class ClipStore:
    """Clips of samples, decoded when they are asked for; the last used stay, up to `keep_megabytes` of pixels.

    Samples that cut the same video in the same way share their clips, which nobody may write to.
    """

    def __init__(self, fps: float, keep_megabytes: float) -> None:
        if not (math.isfinite(keep_megabytes) and keep_megabytes >= 0):
            raise PoolError(f"keep_megabytes must be a finite number >= 0, not {keep_megabytes}")
        self.fps = fps
        self.most = int(keep_megabytes * 1e6)
        self.used = 0  # bytes
        self._kept: OrderedDict[object, tuple[SegmentClip, ...]] = OrderedDict()

    def get(self, sample: Sample, fps: float | None = None) -> tuple[SegmentClip, ...]:
        """One clip a segment at `fps` (the store's own if None). VideoError: the video cannot be read now."""
        rate = self.fps if fps is None else fps
        key = (sample.video.path, rate, sample.segments())
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        clips = tuple(segment_clips(sample, rate))
        if _bytes(clips) <= self.most:
            self._kept[key] = clips
            self.used += _bytes(clips)
        while self.used > self.most:
            self.used -= _bytes(self._kept.popitem(last=False)[1])
        return clips


def _bytes(clips: Sequence[SegmentClip]) -> int:
    """Of the arrays that the clips are cut from: frames in gaps between segments stay in memory too."""
    owners = [clip.images if clip.images.base is None else clip.images.base for clip in clips]
    return sum({id(owner): owner.nbytes for owner in owners}.values())
