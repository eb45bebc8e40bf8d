"""The world's own short language: `in-2 red-circle .`, `which in-2 ?`. One word is one token of a tiny checkpoint.

Every query is asked at the end of a segment, the current one. What a query about the past rests on lies before the
current segment, so that the current segment alone can never answer it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

from data_pipeline.builders.assemble import Said, assemble
from data_pipeline.builders.script import Builder, Plan, Script
from data_pipeline.graph import Edge, Graph
from data_pipeline.queries.ask import Ask, Reply
from data_pipeline.source import Rejected, Source, SynthError, draw
from data_pipeline.text.task import Write
from whilst.sample import Sample

KINDS = ("backward", "present", "order", "forward", "unanswerable")
SUBKINDS = ("which_in", "which_out", "count", "star", "before", "first", "tell_when", "unknown_in", "unknown_out")
SHOWN = ("in", "out", "touch", "hide", "change", "move")  # what thoughts tell of: all but the star


@dataclass(frozen=True)
class WorldSettings:
    """Weights need not add up to one; `subkinds` weighs a finer kind within its kind, 1 where left out.

    `idle` is the thought of a segment in which nothing happens, "" for silence. `silent`: the share of the other
    thoughts that are left silent as well, as a lazy annotator leaves them; replies are right all the same.
    """

    queries: Mapping[str, float] = field(
        default_factory=lambda: {
            "backward": 0.4,
            "present": 0.15,
            "order": 0.15,
            "forward": 0.15,
            "unanswerable": 0.15,
        }
    )
    subkinds: Mapping[str, float] = field(default_factory=dict)
    queries_per_video: int = 3
    idle: Literal["none .", ""] = "none ."
    silent: float = 0.0

    def __post_init__(self) -> None:
        for name, weights, known in (("queries", self.queries, KINDS), ("subkinds", self.subkinds, SUBKINDS)):
            for key, weight in weights.items():
                if key not in known:
                    raise SynthError(f"world.{name}: {key!r}: must be one of {', '.join(known)}")
                if weight < 0 or (name == "subkinds" and weight == 0):
                    raise SynthError(f"world.{name}.{key}: {weight!r}: must be a weight above 0")
        if sum(self.queries.values()) <= 0:
            raise SynthError(f"world.queries: {dict(self.queries)!r}: must be weights of which one is above 0")
        if self.queries_per_video < 1:
            raise SynthError(f"world.queries_per_video: {self.queries_per_video!r}: must be at least 1")
        if not 0.0 <= self.silent <= 1.0:
            raise SynthError(f"world.silent: {self.silent!r}: must be a share from 0 to 1")


def plan(source: Source, settings: WorldSettings, write: Write, seed: int) -> Plan:
    """One script a source, with `queries_per_video` queries in order of time, or a rejection where there are fewer.

    A kind is drawn by its weight, then a subkind by its own, then a text and a time, each evenly. Nothing is asked
    twice at one time, and a video has at most one standing query, whose `now` would otherwise not say what it is about.
    """
    pool = [(ask, words) for ask, words in questions(source) if settings.queries.get(ask.kind, 0.0) > 0]
    chosen = _choose(pool, settings, draw(seed, source.id, "ask"))
    planned = Plan()
    planned.queries.taken = settings.queries_per_video
    if len(chosen) < settings.queries_per_video:
        planned.rejected.append(Rejected(source.id, "too few queries", f"{len(chosen)} are possible"))
        planned.queries.rejected["too few queries"] += settings.queries_per_video
        return planned
    chosen.sort(key=lambda one: one[0].time)
    asks = {f"q{i}": (replace(ask, id=f"q{i}"), words) for i, (ask, words) in enumerate(chosen)}
    planned.queries.made = len(asks)
    questions_by_id = {id: words for id, (_, words) in asks.items()}
    planned.scripts.append(Script(source.id, source.segments, tuple(ask for ask, _ in asks.values()), questions_by_id))
    planned.statistics.update(f"subkind {ask.subkind}" for ask, _ in asks.values())
    return planned


def _choose(pool: list[tuple[Ask, str]], settings: WorldSettings, rng: random.Random) -> list[tuple[Ask, str]]:
    chosen: list[tuple[Ask, str]] = []
    while pool and len(chosen) < settings.queries_per_video:
        kinds = sorted({ask.kind for ask, _ in pool})
        kind = rng.choices(kinds, [settings.queries[kind] for kind in kinds])[0]
        options = [one for one in pool if one[0].kind == kind]
        subkinds = sorted({ask.subkind for ask, _ in options})
        subkind = rng.choices(subkinds, [settings.subkinds.get(name, 1.0) for name in subkinds])[0]
        text = rng.choice(sorted({words for ask, words in options if ask.subkind == subkind}))
        one = rng.choice([one for one in options if one[1] == text])
        chosen.append(one)
        pool.remove(one)
        if kind == "forward":
            pool = [one for one in pool if one[0].kind != "forward"]
    return chosen


def tell(source: Source, script: Script, settings: WorldSettings, write: Write, seed: int) -> Sample:
    """A thought or a silence a segment, and the replies, each off the graph as of its moment.

    `meta.shown_edges` holds the edges of every segment, whether its thought says them or not.
    """
    thoughts: list[Said | None] = []
    shown, seen = [], 0.0
    for segment in script.segments:
        known = source.graph.as_of(segment.end)
        new = [edge for edge in known.new(seen, segment.end) if edge.relation in SHOWN]
        text = f"{' '.join(_phrase(edge, known) for edge in new)} ." if new else settings.idle
        untold = bool(new) and draw(seed, source.id, "silent", segment.end).random() < settings.silent
        ids = tuple(edge.id for edge in new)
        thoughts.append((text, ids) if text and not untold else None)
        shown.append(list(ids))
        seen = segment.end
    replies = {ask.id: _replies(ask, source, script) for ask in script.asks}
    return assemble(source, script, "world", thoughts, replies, {"shown_edges": shown})


def _replies(ask: Ask, source: Source, script: Script) -> list[tuple[float, Reply | None]]:
    """What is said at every segment end from the ask on (a standing one from the next on), up to the first reply."""
    said: list[tuple[float, Reply | None]] = []
    standing = ask.until is not None
    for segment in script.segments:
        if segment.end < ask.time or (standing and segment.end == ask.time):
            continue
        found = reply(ask, source.graph.as_of(segment.end), segment.end)
        said.append((segment.end, found))
        if found is not None or not standing:
            break
    return said


# ---- Questions, and what can be replied.


def questions(source: Source) -> Iterator[tuple[Ask, str]]:
    """All queries that could be asked about a world, with their words; their ids are empty."""
    for segment in source.segments:
        time, known = segment.end, source.graph.as_of(segment.end)
        yield _ask("present", "star", time), "now star ?"
        for relation in ("in", "out"):
            edges = known.of(relation)
            past = [edge for edge in edges if edge.end < time]
            for number in range(1, len(past) + 1):
                slots: dict[str, str | int] = {"relation": relation, "ordinal": number}
                yield _ask("backward", f"which_{relation}", time, **slots), f"which {relation}-{number} ?"
            if past:
                yield _ask("backward", "count", time, relation=relation), f"count {relation} ?"
            for later in past[1:]:
                slots = {"relation": relation, "object": later.head}
                yield _ask("order", "before", time, **slots), f"before {relation} {later.head} ?"
            # The next one, which has not happened yet: further off, the number alone would tell.
            slots = {"relation": relation, "ordinal": len(edges) + 1}
            yield _ask("unanswerable", f"unknown_{relation}", time, **slots), f"which {relation}-{len(edges) + 1} ?"
        gone_in = [edge.head for edge in known.of("in") if edge.end < time]
        for i, earlier in enumerate(gone_in):
            for later_one in gone_in[i + 1 :]:
                for one, other in ((earlier, later_one), (later_one, earlier)):
                    yield _ask("order", "first", time, one=one, other=other), f"first {one} {other} ?"
        for edge in source.graph.of("out"):
            if edge.knowable_at > time:  # what is awaited lies ahead: only who asks knows of it
                until = min(edge.knowable_at + (segment.end - segment.start), source.graph.duration)
                ask = replace(_ask("forward", "tell_when", time, object=edge.head), until=until)
                yield ask, f"tell-when out {edge.head} ?"


def _ask(kind: str, subkind: str, time: float, **slots: str | int) -> Ask:
    return Ask("", kind, subkind, time, slots)


def reply(ask: Ask, known: Graph, time: float) -> Reply | None:
    """What can be replied at `time`, the end of a segment, by who knows `known`; None where that says nothing of it."""
    found: Reply | None = _REPLIES[ask.subkind](ask, known, time)
    return found


def _which(ask: Ask, known: Graph, time: float) -> Reply:
    edges, number = known.of(str(ask.slots["relation"])), int(str(ask.slots["ordinal"]))
    if number > len(edges):
        return Reply("unknown", ((0.0, time),), (), time)
    return _resting_on(edges[number - 1].head, edges[number - 1])


def _count(ask: Ask, known: Graph, time: float) -> Reply | None:
    # One more could come until now, so the count is known now and not earlier.
    edges = known.of(str(ask.slots["relation"]))
    return replace(_resting_on(f"n-{len(edges)}", *edges), knowable_at=time) if edges else None


def _star(ask: Ask, known: Graph, time: float) -> Reply | None:
    edge = next((edge for edge in known.of("shows") if edge.start < time <= edge.end), None)
    return Reply(edge.tail, ((max(edge.start, time - 1.0), time),), (edge.id,), time) if edge else None


def _before(ask: Ask, known: Graph, time: float) -> Reply | None:
    pairs = pairwise(known.of(str(ask.slots["relation"])))
    found = next((pair for pair in pairs if pair[1].head == ask.slots["object"]), None)
    return _resting_on(found[0].head, *found) if found else None


def _first(ask: Ask, known: Graph, time: float) -> Reply | None:
    both = [edge for edge in known.of("in") if edge.head in (ask.slots["one"], ask.slots["other"])]
    return _resting_on(both[0].head, *both) if len(both) == 2 else None


def _tell_when(ask: Ask, known: Graph, time: float) -> Reply | None:
    out = [edge for edge in known.of("out") if edge.head == ask.slots["object"]]
    return _resting_on("now", *out) if out else None


_REPLIES = {
    "which_in": _which,
    "which_out": _which,
    "unknown_in": _which,
    "unknown_out": _which,
    "count": _count,
    "star": _star,
    "before": _before,
    "first": _first,
    "tell_when": _tell_when,
}


def _resting_on(text: str, *edges: Edge) -> Reply:
    spans = tuple((edge.start, edge.end) for edge in edges)
    return Reply(text, spans, tuple(edge.id for edge in edges), max(edge.knowable_at for edge in edges))


def _phrase(edge: Edge, known: Graph) -> str:
    if edge.relation in ("in", "out"):
        ids = [one.id for one in known.of(edge.relation)]
        return f"{edge.relation}-{ids.index(edge.id) + 1} {edge.head}"
    if edge.relation == "touch":
        return f"touch {edge.head} {edge.tail}"
    return f"{edge.relation} {edge.tail if edge.relation == 'hide' else edge.head}"


BUILDER = Builder(WorldSettings, plan, tell)
