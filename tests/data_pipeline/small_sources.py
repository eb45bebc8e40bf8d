"""Small hand-made sources of every sort that builders meet: steps of two levels, narrations, states, exchanges."""

from collections.abc import Sequence

from data_pipeline.graph import Edge, Graph, make_graph
from data_pipeline.source import Exchange, Source, fixed_segments
from whilst.sample import Video

STEPS = (  # start, end (seconds), level, text
    (2.2, 40.3, 0, "makes the dough"),
    (3.1, 12.4, 1, "pours the flour into the bowl"),
    (14.0, 25.7, 1, "adds the water"),
    (26.1, 39.9, 1, "kneads the dough"),
    (45.5, 80.2, 0, "bakes the bread"),
    (46.0, 52.5, 1, "opens the oven"),
    (53.3, 79.0, 1, "waits by the oven"),
    (85.0, 95.0, 0, "cuts the bread"),
)


def source_of(graph: Graph, seconds: float = 5.0, exchanges: Sequence[Exchange] = (), start: float = 0.0) -> Source:
    """A source of a graph, cut every `seconds`, whose video starts at `start` s of its file."""
    video = Video(f"{graph.id}.mp4", start, start + graph.duration)
    segments = fixed_segments(graph.duration, seconds)
    return Source(graph.id, video, graph, segments, "small", graph.id, "CC0", tuple(exchanges))


def steps_source(
    clue: float = 0.0,
    steps: Sequence[tuple[float, float, int, str]] = STEPS,
    duration: float = 100.0,
    id: str = "steps",
    start: float = 0.0,
    seconds: float = 5.0,
) -> Source:
    """Annotated steps; each can be known when the part `clue` of it has passed."""
    nodes = [("c", "person", "cook"), *((f"a{i}", "activity", text) for i, (*_, text) in enumerate(steps))]
    edges, last = [], dict[int, int]()
    for i, (begin, end, level, text) in enumerate(steps):
        known = begin + clue * (end - begin)
        edges.append(Edge(f"d{i}", "c", "does", f"a{i}", begin, end, "span", known, f"the cook {text}", level, f"s{i}"))
        if level in last:
            before = last[level]
            said = f"after the cook {steps[before][3]}, the cook {text}"
            known = max(known, steps[before][0] + clue * (steps[before][1] - steps[before][0]))
            edges.append(Edge(f"t{i}", f"a{before}", "then", f"a{i}", begin, begin, "point", known, said, level))
        last[level] = i
    return source_of(make_graph(id, duration, nodes, edges), seconds, start=start)


def narrated_source(texts: Sequence[tuple[float, str]], duration: float = 20.0, id: str = "narrated") -> Source:
    """Narrations: points in time."""
    nodes = [("c", "person", "cook"), *((f"a{i}", "activity", text) for i, (_, text) in enumerate(texts))]
    edges = [Edge(f"d{i}", "c", "does", f"a{i}", at, at, "point", at, text) for i, (at, text) in enumerate(texts)]
    return source_of(make_graph(id, duration, nodes, edges))


def states_source(duration: float = 20.0, id: str = "held") -> Source:
    """States that begin, go on from record to record, end and come back; and one span."""
    nodes = [("l", "object", "lamp"), ("r", "colour", "red"), ("g", "colour", "green"), ("d", "animal", "dog")]
    shows = [(0.0, 4.0, "r"), (4.0, 8.0, "r"), (8.0, 12.0, "g"), (12.0, 20.0, "r")]
    edges = [
        Edge(
            f"s{i}", "l", "shows", colour, low, high, "state", low, f"the lamp is {'red' if colour == 'r' else 'green'}"
        )
        for i, (low, high, colour) in enumerate(shows)
    ]
    edges.append(Edge("e", "d", "touches", "l", 5.0, 7.0, "span", 7.0, "the dog touches the lamp"))
    return source_of(make_graph(id, duration, nodes, edges), 2.0)


def asked_source(id: str = "asked") -> Source:
    """Steps, with exchanges of every sort."""
    source = steps_source(1.0, id=id)
    exchanges = (
        Exchange("x0", "What is made?", "dough", time=41.0, evidence=((2.0, 40.0),)),
        Exchange("x1", "Which is baked?", "bread", time=82.5, options=("bread", "cake"), kind="present"),
        Exchange("x2", "Tell me when the oven opens.", "It opens.", time=42.0, wait=53.0, window=(52.5, 60.0)),
        Exchange("x3", "What was cut at the end?", "the bread"),
        Exchange("x4", "Which one?", "pie", time=90.0, options=("bread", "cake")),
    )
    return source_of(source.graph, 5.0, exchanges)
