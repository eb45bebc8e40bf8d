"""What the readers share: JSON with named complaints, durations, and a stream of queries made into a Sample.

A query sees what had arrived when it was put, so a segment ends where a query comes (`cuts`). A query that no segment
end precedes closely is put after the last one: nothing of the future is ever shown.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.benchmarks.base import BenchmarkError, Rejected
from whilst.sample import JSON, Answer, Event, Query, Sample, SampleError, Segment, Silence, Video, validate
from whilst.timeline import is_seconds
from whilst.video import probe

SHORTEST = 1.0  # s; a shorter segment may hold no frame

Types = Mapping[str, type | tuple[type, ...]]

TEXT, LIST, OBJECT = str, list, dict
NUMBER = (int, float)
SEGMENTS = "cut the stream every so many seconds, and where a query comes; none: leave it uncut"
DURATIONS = "JSON file {video: seconds}; without it, files below the folder of videos are probed"


# ---- Files.


def load_json(path: str | os.PathLike[str]) -> Any:
    """The value of a JSON file. Raises BenchmarkError naming the file."""
    try:
        return json.loads(Path(path).read_bytes())
    except FileNotFoundError as error:
        raise BenchmarkError(f"{path}: no such file; name the published annotation or result file") from error
    except (ValueError, IsADirectoryError) as error:
        raise BenchmarkError(f"{path}: not one JSON value ({error}); name the published file") from error


def load_lines(path: str | os.PathLike[str]) -> list[tuple[int, Any]]:
    """The number (from 1) and JSON value of each line that is not blank. Raises BenchmarkError naming file and line."""
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError as error:
        raise BenchmarkError(f"{path}: cannot be read ({error.strerror}); name a JSONL file") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                found.append((number, json.loads(line)))
            except ValueError as error:
                raise BenchmarkError(f"{path}:{number}: not JSON ({error}); one object a line") from error
    return found


def objects(value: Any, where: str) -> list[dict[str, Any]]:
    """A list of objects. Raises BenchmarkError."""
    if not isinstance(value, list) or not value or not all(isinstance(row, dict) for row in value):
        raise BenchmarkError(f"{where}: must be a list of objects; name the published file")
    return value


def problem(row: Mapping[str, Any], needed: Types) -> str:
    """What is wrong with the fields of a row; "" where nothing is."""
    for name, types in needed.items():
        if name not in row:
            return f"field missing: {name}"
        value = row[name]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in _all(types)):
            return f"{name}: {value!r} is of the wrong type"
    return ""


def _all(types: type | tuple[type, ...]) -> tuple[type, ...]:
    return types if isinstance(types, tuple) else (types,)


# ---- Durations.


def duration_of(videos: str, durations: str | os.PathLike[str] | None) -> Callable[[str], float | None]:
    """Seconds of a video by its path in the annotations: from a JSON file that has its path, name or stem; else of the
    file below `videos`, where that is; else None."""
    known: Mapping[str, Any] = {}
    if durations:
        known = load_json(durations)
        if not isinstance(known, dict) or not all(is_seconds(value) for value in known.values()):
            raise BenchmarkError(f"{durations}: must be one JSON object of video -> seconds")

    def found(video: str) -> float | None:
        for name in (video, Path(video).name, Path(video).stem):
            if name in known:
                return float(known[name])
        path = Path(videos, video)
        return probe(path).duration if videos and path.exists() else None

    return found


# ---- Streams.


@dataclass(frozen=True)
class Ask:
    """A query, and what is said to it at each time at which it is put. item: its gold and the like, for `meta`."""

    query: Query
    replies: tuple[Answer | Silence, ...]
    item: Mapping[str, JSON]


def asked_once(query: Query, answer: str, item: Mapping[str, JSON]) -> Ask:
    """A query that is put once, when it is asked."""
    return Ask(query, (Answer(query.time, answer, query.id),), item)


def cuts(times: Iterable[float], seconds: float, start: float = 0.0) -> list[float]:
    """Ends (s) of the segments of a stream that begins at `start`, up to the last of `times`.

    There is one at every time of `times` and every `seconds` between them, counted from `start`; none follows another
    within less than SHORTEST: of two that close, a time goes before the regular end, and the earlier time before the
    later. So no segment is longer than `seconds` by more than twice SHORTEST.
    """
    ends: list[float] = []
    last = start
    for time in sorted(set(times)):
        if time - last < SHORTEST:
            continue
        k = int((last - start) // seconds) + 1
        while start + k * seconds <= time - SHORTEST:
            end = round(start + k * seconds, 9)
            if end - last >= SHORTEST:
                ends.append(end)
                last = end
            k += 1
        ends.append(time)
        last = time
    return ends


def stream(
    benchmark: str,
    id: str,
    video: str,
    asks: Sequence[Ask],
    *,
    segment_seconds: float | None,
    start: float = 0.0,
    end: float | None = None,
    meta: Mapping[str, JSON] | None = None,
) -> Iterator[Sample | Rejected]:
    """One sample with all queries of a video in order of time, or a rejection for each of them.

    The video ends with the last reply: what comes later is never asked for. end: its end where that is known.
    """
    if not asks:
        return
    try:
        sample = _sample(benchmark, id, video, asks, segment_seconds, start, end, meta or {})
    except SampleError as error:
        if len(asks) == 1:
            yield Rejected(asks[0].query.id, str(error))
            return
        kept = []
        for ask in asks:  # which of them breaks the rule
            try:
                _sample(benchmark, id, video, [ask], None, start, end, {})
                kept.append(ask)
            except SampleError as own:
                yield Rejected(ask.query.id, str(own))
        if len(kept) == len(asks):
            yield from (Rejected(ask.query.id, str(error)) for ask in asks)
        else:
            yield from stream(
                benchmark, id, video, kept, segment_seconds=segment_seconds, start=start, end=end, meta=meta
            )
        return
    yield sample


def _sample(
    benchmark: str,
    id: str,
    video: str,
    asks: Sequence[Ask],
    segment_seconds: float | None,
    start: float,
    end: float | None,
    meta: Mapping[str, JSON],
) -> Sample:
    times = [reply.time for ask in asks for reply in ask.replies]
    last = max(times)
    ranked: list[tuple[float, int, Event]] = []
    if segment_seconds is not None:
        if not segment_seconds >= SHORTEST:
            raise BenchmarkError(f"segment_seconds: {segment_seconds}: must be at least {SHORTEST} s")
        at = start
        for cut in cuts(times, segment_seconds, start):
            ranked.append((cut, 0, Segment(at, cut)))
            at = cut
    for ask in asks:
        ranked.append((ask.query.time, 1, ask.query))
        ranked += [(reply.time, 2, reply) for reply in ask.replies]
    ranked.sort(key=lambda one: one[:2])
    items = {ask.query.id: dict(ask.item) for ask in asks}
    stop = end if end is not None else (last if last > start else None)
    events = tuple(event for _, _, event in ranked)
    sample = Sample(id, Video(video, start, stop), events, meta={"benchmark": benchmark, "items": items, **meta})
    validate(sample)
    return sample


def item_of(sample: Sample, query: Query) -> Mapping[str, Any]:
    """What the reader noted of a query: its gold and the like. Raises BenchmarkError for a sample of no reader."""
    items = sample.meta.get("items")
    found = items.get(query.id) if isinstance(items, Mapping) else None
    if not isinstance(found, Mapping):
        raise BenchmarkError(f"{sample.id}: meta.items has no {query.id!r}; convert the benchmark with its reader")
    return found


def stand_in(benchmark: str, video: str, query: Query, item: Mapping[str, Any]) -> Sample:
    """What a judge needs of a sample, for a query whose time does not matter."""
    return Sample(video, Video(video), (query,), meta={"benchmark": benchmark, "items": {query.id: item}})
