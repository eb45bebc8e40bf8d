"""Other futures: a source as it would be if all that comes after a moment were missing, or were otherwise.

Whoever may know only what is known at `time` must say the same up to then for `cut` and `otherwise` as for the whole.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

from data_pipeline.builders.script import Script
from data_pipeline.graph import Edge, Graph, make_graph
from data_pipeline.source import Source, draw

LATER = 977.0  # seconds that the other future lasts longer, so that a length of the video that is told of shows


@dataclass(frozen=True)
class Future:
    """One variant: its name, up to when it is as it was (seconds of the source), and what a builder is to tell."""

    name: str
    time: float
    source: Source
    script: Script


def cut(source: Source, script: Script, time: float) -> Future:
    """Nothing happens after `time` (seconds of the source), and nothing is asked.

    The segments are kept: they are received, and that a video has come to its end is something to go by.
    """
    return Future("cut", time, _known(source, source.graph.as_of(time), script, time), _asked(script, time))


def otherwise(source: Source, script: Script, time: float, seed: int) -> Future:
    """Other things happen after `time` (seconds of the source), between other entities, and the video lasts longer.

    What is known at `time` and goes on ends at another time.
    """
    video = source.video if source.video.end is None else replace(source.video, end=source.video.end + LATER)
    other = replace(_known(source, _other_graph(source.graph, time, seed), script, time), video=video)
    return Future("otherwise", time, other, _asked(script, time))


def _known(source: Source, graph: Graph, script: Script, time: float) -> Source:
    """The source with another graph, and with those exchanges alone that the script asks by `time`.

    One that is answered later gets another answer.
    """
    asked = {ask.slots["exchange"] for ask in script.asks if ask.time <= time and "exchange" in ask.slots}
    exchanges = tuple(
        replace(one, answer=f"unheard-of answer to {one.id}") if one.wait is not None and one.wait > time else one
        for one in source.exchanges
        if one.id in asked
    )
    return replace(source, graph=graph, exchanges=exchanges)


def _asked(script: Script, time: float) -> Script:
    asks = tuple(ask for ask in script.asks if ask.time <= time)
    questions = {ask.id: script.questions[ask.id] for ask in asks}
    return replace(script, asks=asks, questions=questions)


def _other_graph(graph: Graph, time: float, seed: int) -> Graph:
    duration = graph.duration + LATER
    nodes = [(node.id, node.kind, node.name) for node in graph.nodes]
    known = [edge for edge in graph.edges if edge.knowable_at <= time]
    seen = {node for edge in known for node in (edge.head, edge.tail)}
    edges = [_goes_on(edge, time, draw(seed, graph.id, "end", edge.id, time)) for edge in known]
    for i, edge in enumerate(edge for edge in graph.edges if edge.knowable_at > time):
        rng = draw(seed, graph.id, "other", edge.id, time)
        model = rng.choice(graph.edges)  # things of the same sorts happen, to others
        kind = graph.by_id[model.head].kind
        stranger = f"unheard-of {kind} {i}"
        nodes.append((f"other-{i}", kind, stranger))
        # An entity that had been seen by then may take part in what comes; one that had not stays out of it.
        tail = model.tail if model.tail in seen else f"other-{i}"
        text = model.text.replace(graph.name(model.head), stranger)
        text = f"{text} anew, for the {i + 1}. time" if tail != model.tail or text == model.text else text
        start = rng.uniform(time, duration)
        end = start if model.kind == "point" else rng.uniform(start, duration)
        knowable_at = max(rng.uniform(start, duration), math.nextafter(time, duration))
        edges.append(
            Edge(edge.id, f"other-{i}", model.relation, tail, start, end, model.kind, knowable_at, text, edge.level)
        )
    aliases = {
        node.id: (*(alias for alias in node.aliases if alias[1] <= time), (f"former {node.name}", duration))
        for node in graph.nodes
    }
    other = make_graph(graph.id, duration, nodes, edges, aliases=aliases, meta=graph.meta)
    # Edges that become known at one time stay in the order in which they were: a thought tells them in that order.
    return replace(other, edges=(*edges[: len(known)], *other.edges[len(known) :]))


def _goes_on(edge: Edge, time: float, rng: random.Random) -> Edge:
    """The edge with another end, where at `time` it has not come to one as far as can be seen."""
    if edge.kind == "point" or edge.end < time:
        return edge
    return replace(edge, end=time + rng.uniform(0.0, LATER))
