"""Annotations of one video -> a Source with its temporal graph. Times are checked here, and what fails is counted.

    source = to_source(annotated, segment_seconds=2.0, videos="videos/{video_id}.mp4", span_clue=1.0)

The graph. Text without entities becomes an activity: actor --does--> activity. The next activity of the same level
hangs on by `then`, a substep on its step by `part_of`. Relation triples become edges between their own entities.

When a text can be known is a matter of its kind: a point at its moment, a state at its first frame, a span when the
part `span_clue` of it has passed. Datasets say only when something is, not when it can be told; the two differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal

from data_pipeline.annotations.fit import DIGITS, Clock, fit_annotations, fit_exchanges
from data_pipeline.annotations.parts import graph_parts
from data_pipeline.annotations.record import NUMBER, AnnotationError, StrPath, VideoAnnotations, is_a, read_json
from data_pipeline.graph import make_graph
from data_pipeline.source import Rejected, Source, SynthError, Yield, fixed_segments
from whilst.sample import JSON, Video

UnknownDuration = Literal["reject", "last_annotation", "file"]


@dataclass
class Converted:
    """What came of one video: a source or a rejection, and what became of each annotation and exchange."""

    source: Source | None = None
    rejected: Rejected | None = None
    annotations: Yield = field(default_factory=Yield)
    exchanges: Yield = field(default_factory=Yield)
    dropped: list[Rejected] = field(default_factory=list)
    clipped: int = 0


def to_source(annotated: VideoAnnotations, **settings: Any) -> Source | Rejected:
    """As `convert`, of which it takes the settings: the source, or why there is none.

    What was left out of a source is counted in its meta, under `annotations` and `exchanges`.
    """
    done = convert(annotated, **settings)
    return done.source or done.rejected  # type: ignore[return-value]  # convert gives one of the two


def convert(
    annotated: VideoAnnotations,
    *,
    segment_seconds: float,
    videos: StrPath,
    span_clue: float = 1.0,
    tolerance: float = 0.5,
    durations: Mapping[str, float] | None = None,
    unknown_duration: UnknownDuration = "reject",
) -> Converted:
    """The source of one video, with its yields.

    Args:
        segment_seconds: length of the segments in which the video arrives.
        videos: a folder, or a pattern with {video_id} and {file} (the video's path as the dataset writes it). Whether
            the file is there is not asked; `whilst doctor data` does.
        span_clue: the part of a span that must have passed before its text can be known: 1.0 at its end, 0.0 at once.
        tolerance: seconds by which a time may lie outside the video and is then clipped; beyond, it is rejected.
        durations: seconds by video id, for datasets that do not say; goes before the dataset's own.
        unknown_duration: what to do where nobody says: `reject` the video; watch it as far as the `last_annotation`
            reaches; or ask the `file`.

    Raises:
        SynthError: a setting out of range, or a pattern with another name in it.
        VideoError: with `file`, a video that cannot be read.
    """
    if segment_seconds <= 0 or not 0.0 <= span_clue <= 1.0 or tolerance < 0:
        found = f"segment_seconds {segment_seconds}, span_clue {span_clue}, tolerance {tolerance}"
        raise SynthError(f"{found}: they need to be > 0, in [0, 1] and >= 0")
    name = "-".join(part for part in (annotated.dataset, annotated.video_id, annotated.part) if part)
    done = Converted()
    done.annotations.taken, done.exchanges.taken = len(annotated.annotations), len(annotated.exchanges)
    path = video_path(annotated, videos)
    duration = _duration(annotated, path, durations or {}, unknown_duration)
    if not annotated.annotations and not annotated.exchanges:
        return _turned_down(done, Rejected(name, "no annotations"))
    if duration is None:
        fix = "give durations, or set unknown_duration"
        return _turned_down(done, Rejected(name, "no duration", f"{annotated.dataset} has none; {fix}"))
    if duration <= 0:
        return _turned_down(done, Rejected(name, "bad duration", f"{duration} s"))

    duration = round(duration, DIGITS)
    clock = Clock(annotated.start, duration, tolerance, span_clue)
    kept, dropped = fit_annotations(annotated.annotations, clock)
    exchanges, dropped_exchanges = fit_exchanges(annotated.exchanges, clock)
    done.annotations.rejected.update(one.reason for one in dropped)
    done.exchanges.rejected.update(one.reason for one in dropped_exchanges)
    done.dropped = dropped + dropped_exchanges
    if not kept and not exchanges:
        reasons = sorted(done.annotations.rejected | done.exchanges.rejected)
        return _turned_down(done, Rejected(name, "nothing usable", ", ".join(reasons)))
    nodes, edges = graph_parts(kept)
    done.clipped = clock.clipped
    done.annotations.made, done.exchanges.made = len(kept), len(exchanges)
    done.source = Source(
        id=name,
        video=Video(path, annotated.start, annotated.start + duration),
        graph=make_graph(name, duration, nodes, edges),
        segments=fixed_segments(duration, segment_seconds),
        dataset=annotated.dataset,
        video_id=annotated.video_id,
        licence=annotated.licence,
        exchanges=tuple(exchanges),
        meta=dict(annotated.meta)
        | {"annotations": counts(done.annotations), "exchanges": counts(done.exchanges), "clipped": done.clipped}
        | {"span_clue": span_clue},
    )
    return done


def read_durations(path: StrPath) -> dict[str, float]:
    """Seconds by video id, of a JSON object; for `durations` of `convert`.

    Raises:
        AnnotationError: for anything else.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise AnnotationError(str(path), "", "must be an object of seconds by video id")
    for video_id, seconds in found.items():
        if not is_a(NUMBER, seconds) or seconds <= 0:
            raise AnnotationError(str(path), video_id, f"must be seconds, above 0, not {seconds!r}")
    return {video_id: float(seconds) for video_id, seconds in found.items()}


def counts(found: Yield) -> dict[str, JSON]:
    """A yield as JSON."""
    return {"taken": found.taken, "made": found.made, "rejected": dict(sorted(found.rejected.items()))}


def video_path(annotated: VideoAnnotations, videos: StrPath) -> str:
    """Where a video lies: in a folder under its own path, or as a pattern says.

    Raises:
        SynthError: a pattern with another name in it.
    """
    file = annotated.file or f"{annotated.video_id}.mp4"
    if "{" not in str(videos):
        return str(PurePosixPath(str(videos)) / file)
    try:
        return str(videos).format(video_id=annotated.video_id, file=file)
    except (KeyError, IndexError, ValueError) as error:
        raise SynthError(
            f"videos {str(videos)!r}: a pattern may name {{video_id}} and {{file}} alone ({error})"
        ) from error


def _turned_down(done: Converted, why: Rejected) -> Converted:
    """No source: everything that had not been dropped before goes with the video."""
    done.rejected = why
    for found in (done.annotations, done.exchanges):
        left = found.taken - sum(found.rejected.values())
        if left:
            found.rejected[f"video: {why.reason}"] += left
    return done


def _duration(
    annotated: VideoAnnotations, path: str, durations: Mapping[str, float], unknown: UnknownDuration
) -> float | None:
    if annotated.video_id in durations:
        return durations[annotated.video_id]
    if annotated.duration is not None or unknown == "reject":
        return annotated.duration
    if unknown == "file":
        from whilst.video import probe

        return probe(path).duration - annotated.start
    ends = [one.end for one in annotated.annotations]
    for exchange in annotated.exchanges:
        times = (exchange.time, exchange.wait, *(exchange.window or ()), *(end for _, end in exchange.evidence))
        ends += [time for time in times if time is not None]
    last = max(ends, default=annotated.start) - annotated.start
    return last if last > 0 else None
