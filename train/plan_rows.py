"""The rows that a recipe would make: of its first samples where there are some, else of a nominal sample.

The recipe's own renderer writes them, so that layout, format and visual tokens are exact. Those of RL are of episodes
whose every turn is as long as it may be: a policy that has learned to ramble makes such. Where the checkpoint's
tokenizer is not on this machine, `Approximate` stands in for it: special tokens and digits are one token each, a word
is one for every 8 letters begun, other signs one a run. Expect it to be off by a fifth either way on English prose.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from train.dropping import Dropping, DropSimilar
from train.pool import capped_fps
from train.rollouts import RolloutSettings
from train.rows import NO_LIMITS, UNUSABLE, DataError, Item, Limits, Rejected, Thoughts, load_items, with_thoughts
from whilst.backbones.base import VISION_TOKENS, ClipShape, VisionSpec
from whilst.backbones.published import is_local
from whilst.clips import size_within
from whilst.episode import Episode, Turn, polls
from whilst.render import IGNORE, Renderer, TokenRow
from whilst.render_config import RenderConfig
from whilst.sample import Answer, Event, Query, Sample, Segment, Thought, Video, read_samples, samples_exist

FIRST_SAMPLES = 8
SPECIAL = (*VISION_TOKENS, "<|im_start|>", "<|im_end|>", "<|endoftext|>")
WORDS = re.compile(r"(<\|[^|>]*\|>|</?think>)|(\d)|([^\W\d_]+)|(\n)|([^\w\s]+|_+)")
LETTERS = 8


class Approximate:
    """Counts tokens about as Qwen's tokenizer does, without its files. Ids mean nothing."""

    def __init__(self) -> None:
        self._vocabulary = {token: i for i, token in enumerate(SPECIAL)}

    def get_vocab(self) -> dict[str, int]:
        return dict(self._vocabulary)

    def get_added_vocab(self) -> dict[str, int]:
        return dict(self._vocabulary)

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        ids: list[int] = []
        for special, _, letters, _, _ in WORDS.findall(text):
            count = -(-len(letters) // LETTERS) if letters else 1
            ids += [self._vocabulary.get(special, len(SPECIAL))] * count
        return ids


@dataclass(frozen=True)
class Nominal:
    """A sample to count by where there is none: `seconds` of video in segments, frames of width x height, a thought of
    `words` words a segment, and one question at the end."""

    seconds: float = 60.0
    segment: float = 4.0
    width: int = 640
    height: int = 360
    words: int = 40

    def __post_init__(self) -> None:
        if self.segment <= 0 or self.seconds < self.segment:
            raise DataError(f"--seconds {self.seconds:g} must be at least --segment {self.segment:g}, and both above 0")

    def __str__(self) -> str:
        return (
            f"{self.seconds:g} s of {self.width}x{self.height} in segments of {self.segment:g} s, thoughts of "
            f"{self.words} words, one question"
        )


@dataclass(frozen=True)
class Rows:
    """Rows of `samples` samples: lengths in tokens, visual and learned tokens, patches and turns. nominal: the sample
    that stands for those of the data; None: they are of the data. exact: tokens of text were counted by the
    checkpoint's tokenizer. `segments`, `asked`: of all samples; `clip`: visual tokens of a segment's clip; `frame`:
    patches of a pair of frames; `memory_cut`: tokens that render.memory_cut leaves out of what samples start with;
    `dropped`: the share of visual tokens that data.drop_similar leaves out over many epochs, None where nobody can know
    it yet (`dropped_share`)."""

    samples: int
    lengths: tuple[int, ...]
    visual: int
    learned: int
    rejected: tuple[Rejected, ...]
    nominal: Nominal | None
    exact: bool
    most_learned: int
    patches: int
    most_patches: int
    frame: int
    segments: int
    asked: int
    clip: float
    memory_cut: int = 0
    dropped: float | None = 0.0

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    @property
    def thinned(self) -> float:
        """Share of all tokens that stay when similar ones are left out; 1 where that is not known."""
        return 1.0 - (self.dropped or 0.0) * self.visual / max(1, self.tokens)

    @property
    def a_sample(self) -> float:
        """Rows of a sample."""
        usable = max(1, self.samples - len(self.rejected))
        return len(self.lengths) / usable


def tokenizer_of(path: str) -> Any:
    """The checkpoint's tokenizer where it is on this machine, else an approximate one."""
    if is_local(path):
        return AutoTokenizer.from_pretrained(path, local_files_only=True)
    return Approximate()


def first_rows(
    paths: Sequence[str],
    path: str,
    spec: VisionSpec,
    render: RenderConfig,
    *,
    fps: float,
    thoughts: Thoughts,
    limit: int | None,
    nominal: Nominal,
    limits: Limits = NO_LIMITS,
    dropping: DropSimilar | None = None,
    rollout: RolloutSettings | None = None,
) -> Rows:
    """Rows of the first samples of the first of `paths` that is there, else of the nominal sample; `path` is the
    checkpoint's. rollout: of the longest episodes of these samples, not of what the samples say."""
    tokenizer = tokenizer_of(path)
    renderer: Renderer = Renderer(tokenizer, spec, render)
    if rollout is not None:
        renderer = _Longest(tokenizer, spec, render, rollout, thinks=thoughts == "keep")
    exact = not isinstance(tokenizer, Approximate)
    here = next((one for one in paths if samples_exist(one)), None)
    if here is not None:
        most = FIRST_SAMPLES if limit is None else min(FIRST_SAMPLES, limit)
        items, rejected = load_items(here, renderer, fps, thoughts=thoughts, limit=most, limits=limits)
        made = _rows([item.row for item in items], rejected, spec, nominal=None, exact=exact)
        cut = 0
        if render.memory_cut is not None:
            cut = sum(renderer.memory_left_out(sample.memory) for sample in read_samples(here)[:most])
        return replace(made, memory_cut=cut, dropped=dropped_share(dropping, items, spec))
    sample = with_thoughts(_sample(nominal), thoughts)
    fps = capped_fps(sample, fps, limits.frames)
    times = [tuple(s.start + i / fps for i in range(max(1, round((s.end - s.start) * fps)))) for s in sample.segments()]
    size = nominal.height, nominal.width
    if limits.total_pixels is not None:
        patches = sum(-(-len(t) // spec.temporal_patch) for t in times)
        size = size_within(spec, *size, patches, limits.total_pixels)
    try:
        nominal_rows = renderer.rows(sample, [spec.shape(t, *size, fps) for t in times])
    except UNUSABLE as error:  # too long for the recipe: say so, as of a sample
        return _rows([], [Rejected("nominal", str(error))], spec, nominal=nominal, exact=exact)
    made = _rows(nominal_rows, [], spec, nominal=nominal, exact=exact)
    return replace(made, dropped=dropped_share(dropping, [Item(row, ()) for row in nominal_rows], spec))


class _Longest(Renderer):
    """Renders the longest episode of a sample in its place: every turn ends at its limit."""

    def __init__(
        self, tokenizer: Any, spec: VisionSpec, config: RenderConfig, rollout: RolloutSettings, *, thinks: bool
    ) -> None:
        super().__init__(tokenizer, spec, config)
        self.rollout, self.thinks = rollout, thinks

    def rows(self, sample: Sample, clips: Sequence[ClipShape], turns: Sequence[Turn] | None = None) -> list[TokenRow]:
        episode = self.longest(sample)
        return super().rows(episode.lived(), clips, episode.turns)

    def longest(self, sample: Sample) -> Episode:
        """A thought a segment where it thinks, and a reply to each poll."""
        turns: list[Turn] = []
        for segment, (arrived, due) in enumerate(zip((None, *sample.segments()), polls(sample), strict=True), start=-1):
            if self.thinks and arrived is not None:
                thought = self._said(self.rollout.thought_tokens)
                turns.append(Turn("thought", arrived.end, segment, None, *thought, finished=True))
            for poll in due:
                answer = self._said(self.rollout.answer_tokens)
                turns.append(Turn("answer", poll.time, segment, poll.query.id, *answer, finished=True))
        return Episode(sample, tuple(turns))

    def _said(self, limit: int) -> tuple[str, tuple[int, ...]]:
        """Text and ids of a turn of `limit` tokens, the boundary token included."""
        word = self.encode(" word")
        return " word" * max(1, (limit - 1) // len(word)), tuple(islice(cycle(word), limit - 1))


def dropped_share(settings: DropSimilar | None, items: Sequence[Item], spec: VisionSpec) -> float | None:
    """The share of the visual tokens of `items` that is left out, over many epochs: of samples that are thinned, times
    the probability that one is. None: by feature against a threshold, which the tower's outputs decide; or by pixel
    against one, of items without frames."""
    if settings is None or not any(item.row.grids for item in items):
        return 0.0
    gone = total = 0
    for item in items:
        clips = [t * h * w // spec.merge**2 for t, h, w in item.row.grids]
        total += sum(clips)
        if settings.ratio is not None:  # of each clip, but never of the first frame of the sample
            first = clips[0] // item.row.grids[0][0]
            gone += sum(min(int(settings.ratio * n), n - first * (k == 0)) for k, n in enumerate(clips))
        elif settings.by == "feature" or not item.clips:
            return None
        else:
            thins = Dropping(replace(settings, probability=1.0), spec, 0)
            gone += len(item.row) - len(thins.cut(item.row, [item]))
    return settings.probability * gone / total


def _sample(nominal: Nominal) -> Sample:
    events: list[Event] = []
    count = max(1, round(nominal.seconds / nominal.segment))
    for k in range(count):
        end = (k + 1) * nominal.segment
        events += [Segment(k * nominal.segment, end), Thought(end, "word " * nominal.words)]
    end = count * nominal.segment
    events += [Query("q", end, "what happened before the end of the video ?"), Answer(end, "something else", "q")]
    return Sample("nominal", Video("nominal.mp4"), tuple(events))


def _rows(
    rows: Sequence[TokenRow], rejected: Sequence[Rejected], spec: VisionSpec, *, nominal: Nominal | None, exact: bool
) -> Rows:
    patches = [sum(t * h * w for t, h, w in row.grids) for row in rows]
    learned = [int(np.count_nonzero(row.labels != IGNORE)) for row in rows]
    grids = {(row.sample_id, clip): grid for row in rows for clip, grid in zip(row.clips, row.grids, strict=True)}
    shown = [t * h * w // spec.merge**2 for t, h, w in grids.values()]
    names = {row.sample_id for row in rows}
    return Rows(
        samples=len(names) + len(rejected),
        lengths=tuple(len(row) for row in rows),
        visual=int(sum(np.count_nonzero(row.visual_index >= 0) for row in rows)),
        learned=sum(learned),
        rejected=tuple(rejected),
        nominal=nominal,
        exact=exact,
        most_learned=max(learned, default=0),
        patches=sum(patches),
        most_patches=max(patches, default=0),
        frame=max((h * w for _, h, w in grids.values()), default=0),
        segments=len(grids),
        asked=len(names),
        clip=float(np.mean(shown)) if shown else 0.0,
    )
