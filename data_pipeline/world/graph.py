"""What happened, exactly: who did what to whom, when, as which in order. Thoughts and answers are read off it."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import networkx

from data_pipeline.world.config import RELATIONS, SEGMENT_SECONDS
from data_pipeline.world.simulate import SCREEN, Scene, World

BOX = "box"
STAR = "star"


@dataclass(frozen=True)
class Node:
    """An entity; seen for the first and the last time at the start and the end of segments, in seconds."""

    id: str
    kind: str
    first_seen: float
    last_seen: float


@dataclass(frozen=True)
class Edge:
    """`head` did `relation` to `tail` in the segment [start, end) s, as the `ordinal`-th of its relation, from 1.

    Relations: in, out, touch, hide, change (into the tail), move (to the tail, a cell), and shows (a star its colour).
    It can be known from the end of the segment on, when both of its frames have arrived.
    """

    head: str
    relation: str
    tail: str
    start: float
    end: float
    ordinal: int
    knowable_at: float


@dataclass(frozen=True)
class WorldGraph:
    """The graph of the world of one sample, which lasts `duration` seconds."""

    id: str
    duration: float
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]

    def of(self, relation: str) -> list[Edge]:
        """The edges of one relation, in order of time."""
        return [edge for edge in self.edges if edge.relation == relation]

    def networkx(self) -> "networkx.MultiDiGraph[str]":
        """As a multigraph: nodes by id, edges keyed by (relation, ordinal), all fields as attributes."""
        graph: networkx.MultiDiGraph[str] = networkx.MultiDiGraph(id=self.id, duration=self.duration)
        for node in self.nodes:
            graph.add_node(node.id, **asdict(node))
        for edge in self.edges:
            graph.add_edge(edge.head, edge.tail, key=(edge.relation, edge.ordinal), **asdict(edge))
        return graph


def graph_of(world: World, id: str) -> WorldGraph:
    """The graph of a simulated world."""
    edges: list[Edge] = []
    counts: Counter[str] = Counter()
    kinds = {BOX: "container", STAR: "star"}
    seen: dict[str, tuple[float, float]] = {}
    for k, scene in enumerate(world.scenes):
        start, end = k * SEGMENT_SECONDS, (k + 1) * SEGMENT_SECONDS
        for head, relation, tail in (*_happenings(scene), (STAR, "shows", scene.star)):
            counts[relation] += 1
            edges.append(Edge(head, relation, tail, start, end, counts[relation], knowable_at=end))
            for entity in (head, tail):
                seen[entity] = (seen.get(entity, (start, end))[0], end)
        seen[BOX] = (0.0, end)
    for entity in seen:
        kinds.setdefault(entity, _kind(entity))
    nodes = tuple(Node(entity, kinds[entity], first, last) for entity, (first, last) in seen.items())
    return WorldGraph(id, len(world.scenes) * SEGMENT_SECONDS, nodes, tuple(edges))


def thoughts(graph: WorldGraph) -> list[str]:
    """What is new in each segment, and nothing else: `in-2 red-circle .`, `none .`; the star is not mentioned."""
    texts = ["none ."] * round(graph.duration / SEGMENT_SECONDS)
    for edge in graph.edges:
        if edge.relation != "shows":
            texts[round(edge.start / SEGMENT_SECONDS)] = f"{_phrase(edge)} ."
    return texts


def write_graphs(graphs: Iterable[WorldGraph], path: Path) -> None:
    """One graph a line, as JSON."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(asdict(graph)) + "\n" for graph in graphs)


def read_graphs(path: Path) -> dict[str, WorldGraph]:
    """The graphs that `write_graphs` wrote, by sample id."""
    graphs = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        nodes = tuple(Node(**node) for node in record["nodes"])
        edges = tuple(Edge(**edge) for edge in record["edges"])
        graphs[record["id"]] = WorldGraph(record["id"], record["duration"], nodes, edges)
    return graphs


def _happenings(scene: Scene) -> list[tuple[str, str, str]]:
    """(head, relation, tail); none where nothing happens."""
    if scene.event == "idle":
        return []
    relation, actor = RELATIONS[scene.event], scene.objects[0]
    if scene.event in ("enter", "leave"):
        return [(actor, relation, BOX)]
    if scene.event == "hide":
        return [(SCREEN, relation, actor)]
    if scene.event == "move":
        return [(actor, relation, f"cell-{scene.after[0][0]}")]
    return [(actor, relation, scene.objects[1])]


def _phrase(edge: Edge) -> str:
    if edge.relation in ("in", "out"):
        return f"{edge.relation}-{edge.ordinal} {edge.head}"
    if edge.relation == "touch":
        return f"touch {edge.head} {edge.tail}"
    return f"{edge.relation} {edge.tail if edge.relation == 'hide' else edge.head}"


def _kind(entity: str) -> str:
    if entity == SCREEN:
        return "screen"
    return {"star": "colour", "cell": "cell"}.get(entity.split("-")[0], "object")
