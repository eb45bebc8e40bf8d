"""The temporal knowledge graph of one video: what is in it, what holds or happens when, and from when on it is known.

    graph.as_of(12.0)     # what could be known at 12 s, and nothing that came later
    graph.new(10.0, 12.0) # what became known in (10 s, 12 s]

Both roads lead here: videos that a model describes, and annotations that people made. Everything that is written about
a video (thoughts, questions, answers) is read off its graph, and a text at time t off `as_of(t)` alone.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import networkx

from whilst.sample import JSON, json_lines, replacing

SCHEMA = "whilst.graph/1"

Kind = Literal["point", "span", "state"]
KINDS = ("point", "span", "state")


class GraphError(ValueError):
    """A graph that breaks a rule. The message names the graph, the node or edge, the field and the fix."""


@dataclass(frozen=True)
class Node:
    """An entity. `kind` is its type, such as `object`, `person` or `activity`; `name` is how texts call it.

    `first_seen` and `last_seen` (seconds) enclose the edges that touch it. `aliases` are its other names, each with the
    time at which it became known that they are the same.
    """

    id: str
    kind: str
    name: str
    first_seen: float
    last_seen: float
    aliases: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Edge:
    """`head` `relation` `tail`, in [start, end) s of the video; a point has start == end.

    kind: `point` happens at a moment; `span` happens over a time; `state` holds over a time. `knowable_at` is the first
    moment at which somebody who watches can know all that `text` says. `text` says it as one English clause, lower case
    and without a full stop. `level` is 0 for what is coarsest; `source` is the id of the record it comes from.
    """

    id: str
    head: str
    relation: str
    tail: str
    start: float
    end: float
    kind: Kind
    knowable_at: float
    text: str
    level: int = 0
    source: str = ""


@dataclass(frozen=True)
class Graph:
    """Nodes and edges of a video that lasts `duration` seconds; edges stand in order of `knowable_at`."""

    id: str
    duration: float
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    meta: Mapping[str, JSON] = field(default_factory=dict, hash=False)

    @cached_property
    def by_id(self) -> dict[str, Node]:
        """Nodes by id."""
        return {node.id: node for node in self.nodes}

    def name(self, node: str) -> str:
        """How texts call a node."""
        return self.by_id[node].name

    def of(self, relation: str) -> list[Edge]:
        """The edges of one relation."""
        return [edge for edge in self.edges if edge.relation == relation]

    def new(self, after: float, until: float) -> list[Edge]:
        """The edges that become known in (after, until] s."""
        return [edge for edge in self.edges if after < edge.knowable_at <= until]

    def as_of(self, time: float) -> Graph:
        """What can be known at `time`: edges known by then, the nodes that they touch, and times no later than it.

        An edge that goes on is cut at `time`, and so is the last sight of a node: that they go on is not known yet.
        """
        count = bisect_right(self.edges, time, key=lambda edge: edge.knowable_at)
        edges = tuple(e if e.end <= time else replace(e, end=time) for e in self.edges[:count])
        seen = _sights(edges)
        nodes = tuple(_seen(node, *seen[node.id], time) for node in self.nodes if node.id in seen)
        return replace(self, nodes=nodes, edges=edges)

    def networkx(self) -> networkx.MultiDiGraph[str]:
        """As a multigraph: nodes by id, edges keyed by id, all fields as attributes."""
        graph: networkx.MultiDiGraph[str] = networkx.MultiDiGraph(id=self.id, duration=self.duration)
        for node in self.nodes:
            graph.add_node(node.id, **asdict(node))
        for edge in self.edges:
            graph.add_edge(edge.head, edge.tail, key=edge.id, **asdict(edge))
        return graph


def _sights(edges: Iterable[Edge]) -> dict[str, tuple[float, float]]:
    """When each node is first and last seen, by the edges that touch it."""
    seen: dict[str, tuple[float, float]] = {}
    for edge in edges:
        for node in (edge.head, edge.tail):
            first, last = seen.get(node, (edge.start, edge.end))
            seen[node] = (min(first, edge.start), max(last, edge.end))
    return seen


def _seen(node: Node, first: float, last: float, time: float) -> Node:
    """The node as of `time`, with these sights."""
    if node.first_seen == first and node.last_seen == last and all(known <= time for _, known in node.aliases):
        return node
    aliases = tuple(alias for alias in node.aliases if alias[1] <= time)
    return replace(node, first_seen=first, last_seen=last, aliases=aliases)


def make_graph(
    id: str,
    duration: float,
    nodes: Iterable[tuple[str, str, str]],
    edges: Iterable[Edge],
    *,
    aliases: Mapping[str, tuple[tuple[str, float], ...]] | None = None,
    meta: Mapping[str, JSON] | None = None,
) -> Graph:
    """A valid graph of (id, kind, name) nodes and edges in any order; first and last sights are worked out here.

    A node that no edge touches is left out: nothing tells when it was seen.

    Raises:
        GraphError: see `validate_graph`.
    """
    ordered = tuple(sorted(edges, key=lambda edge: (edge.knowable_at, edge.start, edge.id)))
    seen = _sights(ordered)
    known = aliases or {}
    kept = tuple(Node(n, kind, name, *seen[n], aliases=known.get(n, ())) for n, kind, name in nodes if n in seen)
    graph = Graph(id, duration, kept, ordered, meta or {})
    validate_graph(graph)
    return graph


def validate_graph(graph: Graph) -> None:
    """Check every rule.

    Raises:
        GraphError: ids that come twice, an edge to no node, a time outside [0, duration], a span that runs backwards, a
            point with a length, an edge known before it begins, edges out of order, or an empty name or text.
    """
    nodes: set[str] = set()
    for node in graph.nodes:
        if node.id in nodes:
            raise GraphError(f"graph {graph.id}: node {node.id!r}: a second node with this id; give each its own")
        nodes.add(node.id)
        if not node.name.strip():
            raise GraphError(f"graph {graph.id}: node {node.id!r}: name is empty; texts need one")
    edges: set[str] = set()
    for edge in graph.edges:
        where = f"graph {graph.id}: edge {edge.id!r}"
        if edge.id in edges:
            raise GraphError(f"{where}: a second edge with this id; give each its own")
        edges.add(edge.id)
        if {edge.head, edge.tail} - nodes:
            raise GraphError(f"{where}: {edge.head!r} or {edge.tail!r} is no node of this graph; add it")
        if edge.kind not in KINDS:
            raise GraphError(f"{where}: kind {edge.kind!r} is not one of {', '.join(KINDS)}")
        if not 0.0 <= edge.start <= edge.end <= graph.duration:
            raise GraphError(f"{where}: [{edge.start}, {edge.end}] s does not lie in [0, {graph.duration}] s")
        if edge.kind == "point" and edge.end != edge.start:
            raise GraphError(f"{where}: a point from {edge.start} to {edge.end} s; a point has no length")
        if not edge.start <= edge.knowable_at <= graph.duration:
            raise GraphError(f"{where}: knowable_at {edge.knowable_at} s must lie in [start, {graph.duration}] s")
        if not edge.text.strip():
            raise GraphError(f"{where}: text is empty; say what happens in one clause")
    if any(later.knowable_at < edge.knowable_at for edge, later in pairwise(graph.edges)):
        raise GraphError(f"graph {graph.id}: edges must stand in order of knowable_at; sort them, or use make_graph")


# ---- Files: one graph a line, as JSON.


def to_record(graph: Graph) -> dict[str, Any]:
    """The graph as a JSON object."""
    return {
        "schema": SCHEMA,
        "id": graph.id,
        "duration": graph.duration,
        "nodes": [dict(vars(node)) for node in graph.nodes],
        "edges": [dict(vars(edge)) for edge in graph.edges],
        "meta": dict(graph.meta),
    }


def from_record(record: object, where: str = "") -> Graph:
    """The valid graph of a JSON object; `where` (such as file:line) begins the message of an error.

    Raises:
        GraphError: another schema, a missing or unknown field, or what `validate_graph` turns away.
    """
    prefix = f"{where}: " if where else ""
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise GraphError(f"{prefix}not a graph of schema {SCHEMA!r}; write it with write_graphs")
    try:
        nodes = tuple(
            Node(**{**node, "aliases": tuple((name, time) for name, time in node.get("aliases", ()))})
            for node in record["nodes"]
        )
        edges = tuple(Edge(**edge) for edge in record["edges"])
        graph = Graph(record["id"], record["duration"], nodes, edges, record["meta"])
        validate_graph(graph)
    except (KeyError, TypeError) as error:
        raise GraphError(f"{prefix}a field is missing, unknown or of the wrong type: {error}") from error
    except GraphError as error:
        raise GraphError(f"{prefix}{error}") from error
    return graph


def write_graphs(graphs: Iterable[Graph], path: str | Path) -> None:
    """One graph a line, or `path` as it was."""
    with replacing(path) as part, open(part, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(to_record(graph), ensure_ascii=False, allow_nan=False) + "\n" for graph in graphs)


def scan_graphs(path: str | Path) -> Iterator[Graph]:
    """The graphs of a file, one by one.

    Raises:
        GraphError: at the first line that is no valid graph; names file and line.
    """
    for line, record in json_lines(path):
        yield from_record(record, f"{path}:{line}")
