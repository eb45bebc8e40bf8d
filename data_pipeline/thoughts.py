"""Thoughts: what becomes known in each segment, and nothing else. Written off the graph as of the segment's end.

Rules (VST appendix C; issue of the field: no paper checks them): one thought a segment, the delta alone, short where
nothing changes, and grounded: no entity or relation that was not known by the segment's end.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeAlias

from data_pipeline.graph import Edge, Graph
from data_pipeline.source import Source
from data_pipeline.text.task import Task, Write
from whilst.sample import Segment

STRUCTURE = frozenset({"then", "part_of"})  # how annotations hang together: nobody sees that happen
RECENT = 8  # clauses from before that a writer gets to know


def thought(
    source: Source, segment: Segment, previous_end: float, write: Write, seed: int, previous: str = ""
) -> tuple[str, tuple[str, ...]]:
    """The thought of a segment, and the ids of the edges that it says.

    `previous_end` (seconds) is the end of the segment before, so that (previous_end, segment.end] is what is new;
    `previous` is the thought before. Only the source as of `segment.end` is read. The writer gets a key of seed, source
    and time.

    Raises:
        TextRejected: by the writer.
    """
    known = source.graph.as_of(segment.end)
    states = _states(known.edges)
    new = [edge for edge in known.new(previous_end, segment.end) if _is_news(edge, states)]
    before = [edge.text for edge in known.edges if edge.knowable_at <= previous_end and edge.relation not in STRUCTURE]
    return _written(source, segment, new, before[-RECENT:], write, seed, previous)


def thoughts(source: Source, segments: Sequence[Segment], write: Write, seed: int) -> list[tuple[str, tuple[str, ...]]]:
    """The `thought` of each segment, in order; the first one tells all that is known by the end of its segment.

    Between two segments that do not touch nothing is lost: the later one's thought tells of the gap too. This goes
    through the graph once, which for long videos is much faster than a graph as of every segment's end.
    """
    edges = sorted(source.graph.edges, key=lambda edge: edge.knowable_at)
    told: list[tuple[str, tuple[str, ...]]] = []
    states: dict[_Held, list[Edge]] = {}
    recent: list[str] = []
    seen, previous = 0, ""
    for segment in segments:
        known = seen
        while seen < len(edges) and edges[seen].knowable_at <= segment.end:
            seen += 1
        fresh = edges[known:seen]  # nothing beyond is looked at: it is not known yet
        for held, found in _states(fresh).items():
            states.setdefault(held, []).extend(found)
        new = [edge for edge in fresh if _is_news(edge, states)]
        told.append(_written(source, segment, new, recent, write, seed, previous))
        recent = [*recent, *(edge.text for edge in fresh if edge.relation not in STRUCTURE)][-RECENT:]
        previous = told[-1][0]
    return told


def _written(
    source: Source, segment: Segment, new: Sequence[Edge], known: list[str], write: Write, seed: int, previous: str
) -> tuple[str, tuple[str, ...]]:
    facts = {"new": list(dict.fromkeys(edge.text for edge in new)), "known": known, "previous": previous}
    text = write(Task("thought", facts, key=f"{seed}/{source.id}/{segment.end:g}"))
    return text, tuple(edge.id for edge in new)


def news(graph: Graph) -> list[Edge]:
    """The edges that are worth telling, in order of `knowable_at`.

    A state that goes on is no news, nor is how annotations hang together (`STRUCTURE`). Whether an edge is news depends
    on nothing that becomes known after it.
    """
    states = _states(graph.edges)
    return [edge for edge in sorted(graph.edges, key=lambda edge: edge.knowable_at) if _is_news(edge, states)]


_Held: TypeAlias = "tuple[str, str, str]"
"""What holds: head, relation and tail of a state."""


def _states(edges: Iterable[Edge]) -> dict[_Held, list[Edge]]:
    found: dict[_Held, list[Edge]] = {}
    for edge in edges:
        if edge.kind == "state":
            found.setdefault((edge.head, edge.relation, edge.tail), []).append(edge)
    return found


def _is_news(edge: Edge, states: Mapping[_Held, Sequence[Edge]]) -> bool:
    """Whether an edge tells of something that nobody knew of before."""
    if edge.relation in STRUCTURE:
        return False
    # The same state, known from an earlier record that lasts until this one begins: it just goes on.
    return edge.kind != "state" or not any(
        one.start < edge.start <= one.end and one.knowable_at <= edge.knowable_at
        for one in states[edge.head, edge.relation, edge.tail]
    )


# ---- Is a chain of evidence covered by thoughts?


def covered(chain: Iterable[Edge], told: Collection[str]) -> float:
    """The longest run of edges, in the order of the chain, of which each was told, over all its edges.

    `told` are the ids of the edges that thoughts say. Edges of `STRUCTURE` are not said by anybody and do not count.

    Raises:
        ValueError: a chain without an edge that could be told.
    """
    edges = [edge for edge in chain if edge.relation not in STRUCTURE]
    if not edges:
        raise ValueError("a chain without any edge that could be told of has no coverage")
    longest = run = 0
    for edge in edges:
        run = run + 1 if edge.id in told else 0
        longest = max(longest, run)
    return longest / len(edges)
