"""Requests -> streams -> replies: each video is watched as it would arrive, and asked where its requests say.

A request that stands alone sees the segments that our own evaluation would give it: one ends every `segment_seconds`,
and the last one where its span ends (`evaluation.benchmarks.reading.cuts`). Requests about one video from one start
share a stream, whatever their order, where all that each would see alone is a beginning of what the last one sees; they
share exactly or not at all. A question is put on a branch and leaves nothing behind; with `queries: kept` it would, so
there every request has a stream to itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from evaluation.benchmarks.reading import SHORTEST, cuts
from evaluation.lmms_plugin.asks import Ask, PluginError
from whilst.checkpoint import Checkpoint
from whilst.progress import progress
from whilst.runtime import StreamBatch, encode_clips
from whilst.sample import Query, Segment
from whilst.segmenters import Clip, query_aligned
from whilst.video import ROUNDED_END, VideoError, probe, stream_frames


@dataclass(frozen=True)
class Settings:
    """fps: frames a second. failures: whether a video that cannot be read ends the run, or its requests get an empty
    reply that says why. Anything else that goes wrong ends the run."""

    fps: float
    segment_seconds: float
    thought_tokens: int
    batch_size: int = 1
    failures: Literal["raise", "count"] = "raise"


@dataclass(frozen=True)
class Reply:
    """received: tokens that had arrived on the stream (system prompt, segments, the question), each counted once.
    thought, answer: sampled tokens of the thoughts so far and of the reply, boundary tokens included.
    """

    text: str
    finished: bool = True
    received: int = 0
    thought: int = 0
    answer: int = 0
    failure: str = ""


@dataclass(frozen=True)
class Stream:
    """A video watched once. asks: (end of what they may see in s, indices of the requests), in order of time."""

    path: str
    start: float
    asks: tuple[tuple[float, tuple[int, ...]], ...]

    @property
    def end(self) -> float:
        return self.asks[-1][0]


@dataclass
class Work:
    """What was done, over all requests: streams and segments watched, tokens sampled for thoughts and for answers."""

    streams: int = 0
    segments: int = 0
    thoughts: int = 0
    answers: int = 0

    @property
    def tokens(self) -> int:
        return self.thoughts + self.answers


Event: TypeAlias = Clip | tuple[int, ...]  # a segment arrives, or requests are put


def answer(checkpoint: Checkpoint, asks: Sequence[Ask], settings: Settings) -> tuple[list[Reply], Work]:
    """The replies to `asks`, in their order. Raises VideoError as `settings.failures` says."""
    config = checkpoint.renderer.config
    if config.scheme == "batch":
        raise PluginError(
            "position scheme 'batch' must know how long a stream is before it begins, and here it arrives: "
            "train with scheme 'overlapped' or 'group_decoupled'"
        )
    replies: dict[int, Reply] = {}
    durations: dict[str, float] = {}
    ends: list[float | None] = []
    for i, ask in enumerate(asks):
        try:
            ends.append(_end(ask, durations))
        except VideoError as error:
            if settings.failures == "raise":
                raise
            replies[i] = Reply("", failure=str(error))
            ends.append(None)
    streams = plan(asks, ends, settings.segment_seconds, shared=config.queries == "branch")
    work = Work(streams=len(streams))
    with progress("watch", len(streams)) as advance:
        for first in range(0, len(streams), settings.batch_size):
            part = streams[first : first + settings.batch_size]
            _Watching(checkpoint, part, asks, settings, replies, work).run()
            advance(len(part))
    return [replies[i] for i in range(len(asks))], work


def _end(ask: Ask, durations: dict[str, float]) -> float:
    """Where the span of a request ends (s). Raises VideoError where its video cannot be read or is too short: later
    this would fail the other requests of its stream as well."""
    span = ask.span
    if span.path not in durations:
        durations[span.path] = probe(span.path).duration
    duration = durations[span.path]
    end = duration if span.end is None else span.end
    if not 0 <= span.start < end <= duration + ROUNDED_END:
        raise VideoError(f"{span.path}: no span [{span.start}, {end}) s in a video of {duration:.3f} s")
    return end


def segment_ends(end: float, seconds: float, start: float) -> list[float]:
    """Ends of the segments that a lone request with this end (s) sees; a very short span is one segment."""
    return cuts([end], seconds, start) or [end]


def plan(asks: Sequence[Ask], ends: Sequence[float | None], segment_seconds: float, *, shared: bool) -> list[Stream]:
    """Streams that put every request with a known end as if it were alone; see above.

    In the order in which their videos are first asked about.
    """
    videos: dict[tuple[str, float], dict[float, list[int]]] = {}
    for i, (ask, end) in enumerate(zip(asks, ends, strict=True)):
        if end is not None:
            videos.setdefault((ask.span.path, ask.span.start), {}).setdefault(end, []).append(i)
    streams = []
    for (path, start), by_end in videos.items():
        moments = [(end, tuple(indices)) for end, indices in sorted(by_end.items())]
        if not shared:
            streams += [Stream(path, start, ((end, (i,)),)) for end, indices in moments for i in indices]
            continue
        while moments:
            whole = segment_ends(moments[-1][0], segment_seconds, start)
            part = {
                end: [cut for cut in whole if cut <= end] == segment_ends(end, segment_seconds, start)
                for end, _ in moments
            }
            streams.append(Stream(path, start, tuple(moment for moment in moments if part[moment[0]])))
            moments = [moment for moment in moments if not part[moment[0]]]
    return streams


class _Watching:
    """Streams side by side in one StreamBatch. A stream that has ended, or whose video failed, waits for the others."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        streams: Sequence[Stream],
        asks: Sequence[Ask],
        settings: Settings,
        replies: dict[int, Reply],
        work: Work,
    ) -> None:
        self.checkpoint, self.asks, self.settings = checkpoint, asks, settings
        self.streams, self.replies, self.work = streams, replies, work
        self.batch = StreamBatch(checkpoint.backbone, checkpoint.renderer, len(streams), policy=checkpoint.policy)
        self.events = [_events(stream, settings) for stream in streams]
        self.received = [len(checkpoint.renderer.system())] * len(streams)
        self.thought = [0] * len(streams)

    def run(self) -> None:
        """Event by event, until every stream has ended."""
        while True:
            now = [self._next(b) for b in range(len(self.streams))]
            if all(event is None for event in now):
                return
            clips = [event if isinstance(event, Clip) else None for event in now]
            if any(clip is not None for clip in clips):
                self._watch(clips)
            self._ask([event if isinstance(event, tuple) else () for event in now])

    def _next(self, b: int) -> Event | None:
        try:
            return next(self.events[b], None)
        except VideoError as error:
            if self.settings.failures == "raise":
                raise
            for _, indices in self.streams[b].asks:
                for i in indices:
                    self.replies.setdefault(i, Reply("", failure=str(error)))
            return None

    def _watch(self, clips: Sequence[Clip | None]) -> None:
        shown = [
            (Segment(clip.start, clip.end), clip.frames.images, clip.frames.times.tolist())
            for clip in clips
            if clip is not None
        ]
        encoded = iter(encode_clips(self.checkpoint.backbone, shown, self.settings.fps))
        views = [next(encoded) if clip is not None else None for clip in clips]
        self.batch.watch(views)
        self.work.segments += len(shown)
        for b, view in enumerate(views):
            if view is not None:
                self.received[b] += len(self.checkpoint.renderer.received(view.shape, view.segment, None))
        if self.checkpoint.contract.thinks:
            thoughts = self.batch.think([view is not None for view in views], self.settings.thought_tokens)
            for b, thought in enumerate(thoughts):
                if thought is not None:
                    self.thought[b] += len(thought.ids) + thought.finished
                    self.work.thoughts += len(thought.ids) + thought.finished

    def _ask(self, due: Sequence[tuple[int, ...]]) -> None:
        for turn in range(max(map(len, due))):
            now = [indices[turn] if turn < len(indices) else None for indices in due]
            for limit in sorted({self.asks[i].limit for i in now if i is not None}):
                self._put([i if i is not None and self.asks[i].limit == limit else None for i in now], limit)

    def _put(self, now: Sequence[int | None], limit: int) -> None:
        """One request a stream, of one token limit."""
        queries = [
            Query(f"ask-{i}", self._time(b, i), self.asks[i].text) if i is not None else None for b, i in enumerate(now)
        ]
        for b, said in enumerate(self.batch.ask(queries, limit)):
            i, query = now[b], queries[b]
            if said is None or i is None:
                continue
            tokens = len(said.ids) + said.finished
            received = self.received[b] + len(self.checkpoint.renderer.received(None, None, query))
            self.replies[i] = Reply(self.asks[i].cut(said.text), said.finished, received, self.thought[b], tokens)
            self.work.answers += tokens

    def _time(self, b: int, index: int) -> float:
        return next(end for end, indices in self.streams[b].asks if index in indices)


def _events(stream: Stream, settings: Settings) -> Iterator[Event]:
    """The segments of a stream as they are decoded, and its requests, each when what it may see has been shown.

    Raises VideoError for a segment without frames.
    """
    ends = segment_ends(stream.end, settings.segment_seconds, stream.start)
    waiting = dict(stream.asks)
    frames = stream_frames(stream.path, settings.fps, stream.start, stream.end)
    longest = settings.segment_seconds + SHORTEST  # cuts lie closer than that, so they alone end a segment
    clips = query_aligned(frames, ends, 2 * longest, end=stream.end)
    start = stream.start
    for end in ends:
        clip = next(clips, None)
        if clip is None or clip.end > end:
            raise VideoError(f"{stream.path}: no frame in [{start}, {end}) s: use longer segments or a higher fps")
        yield clip
        if end in waiting:
            yield waiting.pop(end)
        start = end
