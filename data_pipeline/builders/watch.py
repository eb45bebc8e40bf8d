"""What shows at each moment of watching: what is new, what goes on, what is over. And the grid of frames.

`watch` says of every moment t what `graph.as_of(t)` says, but walks through a graph once instead of building a graph a
moment: a dialogue has a moment for every frame. Tests hold the two against each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from data_pipeline.graph import Edge, Graph
from data_pipeline.thoughts import STRUCTURE
from whilst.sample import Segment


@dataclass(frozen=True)
class Moment:
    """As of `time` (seconds), of the edges watched for, each in order of `knowable_at`.

    new: known since the moment before. now: what has not come to its end, as far as can be seen: at the very moment at
    which a span ends nobody knows yet that it does. ended: over since the moment before. last: what was over last.
    """

    time: float
    new: tuple[Edge, ...]
    now: tuple[Edge, ...]
    ended: tuple[Edge, ...]
    last: tuple[Edge, ...]


def any_event(edge: Edge) -> bool:
    """Whatever happens: all but states, and how annotations hang together."""
    return edge.kind != "state" and edge.relation not in STRUCTURE


def watch(
    graph: Graph, times: Iterable[float], wanted: Callable[[Edge], bool] = any_event, since: float = -1.0
) -> Iterator[Moment]:
    """The moments at `times` (seconds, rising), of the edges that are `wanted` and do not end before `since`.

    What is known at the first of them and was not known at `since` is new to it. A point is never `now`: it is over
    once it is known.
    """
    edges = sorted(filter(wanted, graph.edges), key=lambda edge: edge.knowable_at)
    waiting, now, last = 0, list[Edge](), tuple[Edge, ...]()
    before = since
    for time in times:
        known = waiting
        while waiting < len(edges) and edges[waiting].knowable_at <= time:
            waiting += 1
        # Nothing beyond this index is looked at: it is not known yet. Nor is an end that is not before `time`.
        fresh = [edge for edge in edges[known:waiting] if min(edge.end, time) >= since]
        open_now = now + fresh
        ended = tuple(edge for edge in open_now if edge.kind == "point" or edge.end < time)
        now = [edge for edge in open_now if edge.kind != "point" and edge.end >= time]
        pool = (*last, *ended)
        latest = max((edge.end for edge in pool), default=0.0)
        last = tuple(edge for edge in pool if edge.end == latest)
        yield Moment(time, tuple(edge for edge in fresh if edge.knowable_at > before), tuple(now), ended, last)
        before = time


# ---- The grid of frames: LIVE rounds the times of users down to it, those of replies up.

_DIGITS = 6  # of a frame: what is nearer to a frame than a millionth of the way to the next lies on it


def floor_to(time: float, fps: float) -> float:
    """The last frame time at or before `time` (seconds)."""
    return math.floor(round(time * fps, _DIGITS)) / fps


def ceil_to(time: float, fps: float) -> float:
    """The first frame time at or after `time` (seconds)."""
    return math.ceil(round(time * fps, _DIGITS)) / fps


def frames(start: float, end: float, fps: float) -> tuple[Segment, ...]:
    """[start, end] s cut into frames of 1 / fps s; `start` lies on the grid; a last piece of a frame is left out."""
    first, last = round(start * fps), math.floor(round(end * fps, _DIGITS))
    return tuple(Segment(k / fps, (k + 1) / fps) for k in range(first, last))


def cut_at(segments: Sequence[Segment], times: Iterable[float], shortest: float) -> tuple[Segment, ...]:
    """The segments, cut at each time that lies in one, where no piece gets shorter than `shortest` seconds."""
    cut: list[Segment] = []
    wanted = sorted(set(times))
    for segment in segments:
        edges = [segment.start]
        for time in wanted:
            if edges[-1] + shortest <= time <= segment.end - shortest:
                edges.append(time)
        cut += [Segment(start, end) for start, end in zip(edges, [*edges[1:], segment.end], strict=True)]
    return tuple(cut)
