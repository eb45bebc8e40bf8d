"""The shape of a graph: is it a hub with spokes, or does it hold chains?

A model that is asked what happens tends to tell what the protagonist does, and nothing else. Every chain in such a
graph passes through the hub, so its questions need one hop. VST's prompt forbids it and requires object-object edges;
here the graph itself is measured, and turned down if it is so.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import networkx

from data_pipeline.extract.names import BEINGS
from data_pipeline.extract.settings import ShapeLimits
from data_pipeline.graph import Graph

SAME_AS = "same_as"


@dataclass(frozen=True)
class Shape:
    """Counts and shares. Edges `same_as` are not counted; the nodes that they join count as one.

    `hub` is the name of the entity that most edges touch ("" in an empty graph), `hub_share` their part of all edges,
    `object_object_share` the part of edges without a person or animal. `largest_component` is the part of all nodes
    that hangs together; `reach` is how many edges lie between the hub and the node furthest from it: 1 for a hub with
    its spokes.
    """

    nodes: int
    edges: int
    hub: str
    hub_share: float
    object_object_edges: int
    object_object_share: float
    components: int
    largest_component: float
    reach: int


def shape(graph: Graph) -> Shape:
    """Measure a graph."""
    one = {edge.head: edge.tail for edge in graph.edges if edge.relation == SAME_AS}

    def root(node: str) -> str:
        while node in one:
            node = one[node]
        return node

    happenings = [edge for edge in graph.edges if edge.relation != SAME_AS]
    plain: networkx.Graph[str] = networkx.Graph()
    plain.add_nodes_from(root(node.id) for node in graph.nodes)
    touched: Counter[str] = Counter()
    between_objects = 0
    for edge in happenings:
        ends = {root(edge.head), root(edge.tail)}
        touched.update(sorted(ends))
        plain.add_edge(root(edge.head), root(edge.tail))
        between_objects += not any(graph.by_id[end].kind in BEINGS for end in (edge.head, edge.tail))
    hub, most = max(touched.items(), key=lambda item: item[1], default=("", 0))
    parts = list(networkx.connected_components(plain))
    return Shape(
        nodes=len(plain),
        edges=len(happenings),
        hub=graph.name(hub) if hub else "",
        hub_share=_share(most, len(happenings)),
        object_object_edges=between_objects,
        object_object_share=_share(between_objects, len(happenings)),
        components=len(parts),
        largest_component=_share(max(map(len, parts), default=0), len(plain)),
        reach=max(networkx.single_source_shortest_path_length(plain, hub).values()) if hub else 0,
    )


def against(found: Shape, limits: ShapeLimits) -> tuple[str, str] | None:
    """(reason, detail) against a graph of this shape; None if it will do."""
    if found.edges < limits.edges:
        return "too few edges", f"{found.edges} edges, at least {limits.edges} are wanted"
    if found.hub_share > limits.hub_share:
        return "hub and spokes", f"{found.hub} is in {found.hub_share:.0%} of edges, at most {limits.hub_share:.0%}"
    if found.object_object_share < limits.object_share:
        share = found.object_object_share
        return "no object-object edges", f"{share:.0%} of edges, at least {limits.object_share:.0%} are wanted"
    return None


def _share(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0
