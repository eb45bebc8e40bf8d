"""Which samples are rolled out when, at which rate their videos are read, and which are too easy or too hard.

A generation is one batch of episodes: `count` groups on each of `ranks` ranks. What it holds follows from the seed and
its number alone, so a resumed run goes on exactly, without a state to save.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from train.rows import Rejected
from whilst.clips import SegmentClip, segment_clips
from whilst.sample import JSON, Sample, json_lines, replacing, to_record


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


# ---- Difficulty.


@dataclass(frozen=True)
class Difficulty:
    """Samples are kept whose mean success over `rollouts` of the first policy lies in [low, high], of 0 to 1 (after
    Time-R1's filter): what always fails or always succeeds has no advantage to learn from."""

    rollouts: int
    low: float
    high: float

    def __post_init__(self) -> None:
        if self.rollouts < 1 or not 0.0 <= self.low <= self.high <= 1.0:
            raise PoolError(f"difficulty: needs rollouts >= 1 and 0 <= low <= high <= 1, not {self}")


def keep_by_difficulty(
    success: Mapping[str, Sequence[float]], settings: Difficulty
) -> tuple[list[str], list[Rejected]]:
    """The ids that are kept, in order, and the others with their reason. Samples in = kept + rejected.

    success: by sample id, one value of 0 to 1 a rollout. PoolError: other numbers of rollouts, or another value.
    """
    kept, rejected = [], []
    for sample, values in success.items():
        if len(values) != settings.rollouts or not all(0.0 <= value <= 1.0 for value in values):
            raise PoolError(f"sample {sample}: needs {settings.rollouts} successes of 0 to 1, not {list(values)}")
        mean = math.fsum(values) / len(values)
        told = f"mean success {mean:.3g} of {settings.rollouts} rollouts"
        if mean < settings.low:
            rejected.append(Rejected(sample, f"too hard: {told} is below {settings.low:g}"))
        elif mean > settings.high:
            rejected.append(Rejected(sample, f"too easy: {told} is above {settings.high:g}"))
        else:
            kept.append(sample)
    return kept, rejected


_SCHEMA = "whilst.difficulty/1"


def write_difficulty(
    path: Path,
    samples: Sequence[Sample],
    success: Mapping[str, Sequence[float]],
    settings: Difficulty,
    made_with: Mapping[str, JSON],
) -> None:
    """Keep what was rolled out; made_with: all else that decides it (checkpoint, limits, reward, seed), as JSON."""
    head = {"schema": _SCHEMA, "rollouts": settings.rollouts, "made_with": made_with}
    lines = [{"sample": s.id, "digest": _digest(s), "success": list(success[s.id])} for s in samples]
    with replacing(path) as part, open(part, "w", encoding="utf-8", newline="\n") as file:
        for line in (head, *lines):
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")


def read_difficulty(
    path: Path, samples: Sequence[Sample], settings: Difficulty, made_with: Mapping[str, JSON]
) -> dict[str, list[float]]:
    """Success by sample id, as `write_difficulty` had it, so that a resumed run does not roll out again.

    `low` and `high` may differ from those it was written with. PoolError: a file of other samples or settings.
    """
    head, rows = _lines(path)
    wanted = {"rollouts": settings.rollouts, **json.loads(json.dumps(dict(made_with)))}
    stored = {"rollouts": head["rollouts"], **head["made_with"]}
    for name in sorted(wanted.keys() | stored.keys()):
        if wanted.get(name) != stored.get(name):
            raise PoolError(f"{path}: made with {name} = {stored.get(name)!r}, not {wanted.get(name)!r}; {_REMOVE}")
    digests = {row["sample"]: row["digest"] for row in rows}
    for id in sorted({sample.id for sample in samples} ^ digests.keys()):
        raise PoolError(f"{path}: sample {id} is in the file or in the data, but not in both; {_REMOVE}")
    for sample in samples:
        if digests[sample.id] != _digest(sample):
            raise PoolError(f"{path}: sample {sample.id} has changed since it was rolled out; {_REMOVE}")
    return {row["sample"]: row["success"] for row in rows}


_REMOVE = "remove it, and the samples are rolled out again"


def _lines(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The head and the samples of a difficulty file."""
    head: dict[str, Any] | None = None
    rows = []
    for number, line in json_lines(path):
        keys = {"schema", "rollouts", "made_with"} if head is None else {"sample", "digest", "success"}
        if not isinstance(line, dict) or line.keys() != keys or line.get("schema", _SCHEMA) != _SCHEMA:
            raise PoolError(f"{path}:{number}: not a line of schema {_SCHEMA!r}; {_REMOVE}")
        if head is None:
            head = line
        else:
            rows.append(line)
    if head is None:
        raise PoolError(f"{path}: the file is empty; {_REMOVE}")
    return head, rows


def _digest(sample: Sample) -> str:
    """Of what is watched and asked; not of the video's path, so that a folder may move."""
    record = to_record(sample)
    told = json.dumps([record["memory"], record["events"]], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


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
