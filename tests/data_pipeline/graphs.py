"""Small graphs to ask about: things that go into a box, a recipe; and short ways to plan and to reply."""

from itertools import pairwise

from data_pipeline.graph import Edge, make_graph
from data_pipeline.queries.ask import Ask
from data_pipeline.queries.formats import FORMATS
from data_pipeline.queries.kinds import KINDS
from data_pipeline.queries.plan import plan_asks
from data_pipeline.source import Source, fixed_segments
from whilst.sample import Video

EVERY = dict.fromkeys(FORMATS, 1.0)


def edge(id, head, relation, tail, start, end, text, kind="span", known=None, level=0):
    return Edge(id, head, relation, tail, start, end, kind, end if known is None else known, text, level)


def source_of(graph, seconds=1.0, id="v"):
    return Source(id, Video("v.mp4", 0.0, graph.duration), graph, fixed_segments(graph.duration, seconds), "test", id)


def box(*edges, duration=12.0, aliases=None):
    """Things that go into a box, and a lamp."""
    nodes = [(name, "object", name) for name in ("red ball", "blue cube", "green cone", "lamp")]
    colours = [(name, "colour", name) for name in ("white", "yellow")]
    return make_graph("g", duration, [*nodes, ("box", "container", "box"), *colours], edges, aliases=aliases)


def goes_in(id, thing, start):
    return edge(id, thing, "in", "box", start, start + 1.0, f"the {thing} goes into the box")


def shines(id, colour, start, end):
    text = f"the lamp shows {colour}"
    return edge(id, "lamp", "shows", colour, start, end, text, kind="state", known=start)


BOX = box(
    goes_in("1", "red ball", 0.0),
    goes_in("2", "blue cube", 2.0),
    shines("l1", "white", 0.0, 5.0),
    shines("l2", "yellow", 5.0, 12.0),
    edge("3", "red ball", "out", "box", 4.0, 5.0, "the red ball comes out of the box"),
    goes_in("4", "green cone", 6.0),
)


STEPS = (
    ("a0", "chops onions", 0.0, 4.0),
    ("a1", "heats oil", 4.0, 8.0),
    ("a2", "fries onions", 8.0, 14.0),
    ("a3", "adds salt", 14.0, 16.0),
    ("a4", "serves", 17.0, 20.0),
)


def steps(*spans, level=0):
    """A recipe: (id, text, start, end), each followed by the next."""
    says = [f"the cook {text}" for _, text, _, _ in spans]
    does = [
        edge(f"d{id}", "cook", "does", id, start, end, say, level=level)
        for (id, _, start, end), say in zip(spans, says, strict=True)
    ]
    then = [
        edge(f"t{two[0]}", one[0], "then", two[0], two[2], two[2], f"after this: {one[1]}", "point", two[3])
        for one, two in pairwise(spans)
    ]
    return [(id, "activity", text) for id, text, _, _ in spans], does + then


def recipe():
    nodes, edges = steps(*STEPS)
    return make_graph("r", 24.0, [("cook", "person", "cook"), *nodes], edges)


def plan(source, kinds, formats=EVERY, times=None, seed=0, **more):
    ends = [segment.end for segment in source.segments]
    return plan_asks(source, ends if times is None else times, kinds, formats, seed, **more)


def reply(graph, kind, subkind, time, now=None, **slots):
    ask = Ask("q0", kind, subkind, time, slots)
    return KINDS[kind].reply(ask, graph.as_of(time if now is None else now))


def told(*args, **slots):
    found = reply(*args, **slots)
    return None if found is None else found.text
