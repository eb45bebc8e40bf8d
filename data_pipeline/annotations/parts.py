"""Nodes and edges of fitted annotations: activities with actors, order and steps; relations with their entities."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

from data_pipeline.annotations.fit import Fitted
from data_pipeline.annotations.phrases import base_form, clause
from data_pipeline.annotations.record import Entity, Triple
from data_pipeline.annotations.relations import distinct_names, predicate
from data_pipeline.graph import Edge, Kind

SCENE = Entity("scene", "scene", "scene")  # the actor of a text that says itself who acts

Named: TypeAlias = "tuple[str, str, str]"
"""Id, kind and name of a node."""


def graph_parts(kept: Sequence[Fitted]) -> tuple[list[Named], list[Edge]]:
    """The nodes and edges of what was annotated, for `make_graph`. `kept` stands in the order in which it is known."""
    relations = [one for one in kept if one.annotation.triple is not None]
    activities = [one for one in kept if one.annotation.triple is None]
    nodes, edges = _relation_graph(relations)
    more_nodes, more_edges = _activity_graph(activities)
    known = {node[0] for node in nodes}
    return nodes + [node for node in more_nodes if node[0] not in known], edges + more_edges


def _relation_graph(kept: Sequence[Fitted]) -> tuple[list[Named], list[Edge]]:
    triples: list[tuple[Fitted, Triple]] = [(one, one.annotation.triple) for one in kept if one.annotation.triple]
    entities = {entity.id: entity for _, triple in triples for entity in (triple.head, triple.tail)}
    names = distinct_names(entities.values())
    edges = [
        Edge(
            id=f"r{i}",
            head=triple.head.id,
            relation=triple.relation,
            tail=triple.tail.id,
            start=one.start,
            end=one.end,
            kind=one.annotation.kind,
            knowable_at=one.knowable_at,
            text=predicate(names[triple.head.id], triple.relation, names[triple.tail.id]),
            level=one.annotation.level,
            source=one.annotation.source_id,
        )
        for i, (one, triple) in enumerate(triples)
    ]
    return [(entity.id, entity.kind, names[entity.id]) for entity in entities.values()], edges


def _activity_graph(kept: Sequence[Fitted]) -> tuple[list[Named], list[Edge]]:
    nodes: dict[str, Named] = {}
    edges: list[Edge] = []
    says: list[str] = []
    for i, one in enumerate(kept):
        actor = one.annotation.actor or SCENE
        text = clause(f"the {actor.name}", one.text) if one.annotation.actor else one.text
        says.append(text)
        nodes.setdefault(actor.id, (actor.id, actor.kind, actor.name))
        nodes[f"a{i}"] = (f"a{i}", "activity", base_form(one.text) if one.annotation.actor else one.text)
        edges.append(_edge(f"d{i}", actor.id, "does", f"a{i}", one, one.annotation.kind, one.knowable_at, text))
    for i, j in _successions(kept):
        known = max(kept[i].knowable_at, kept[j].knowable_at)
        point = replace(kept[j], end=kept[j].start)
        text = f"{says[j]} again" if says[i] == says[j] else f"after {says[i]}, {says[j]}"
        edges.append(_edge(f"t{j}", f"a{i}", "then", f"a{j}", point, "point", known, text))
    step_of = {one.annotation.source_id: i for i, one in enumerate(kept)}
    for j, one in enumerate(kept):
        step = step_of.get(one.annotation.parent or "")
        if step is not None:  # the step itself may have been rejected
            known = max(kept[step].knowable_at, one.knowable_at)
            text = f"{says[j]} as a part of this: {nodes[f'a{step}'][2]}"
            edges.append(_edge(f"p{j}", f"a{j}", "part_of", f"a{step}", one, one.annotation.kind, known, text))
    return list(nodes.values()), edges


def _edge(id: str, head: str, relation: str, tail: str, one: Fitted, kind: Kind, known: float, text: str) -> Edge:
    source, level = one.annotation.source_id, one.annotation.level
    return Edge(id, head, relation, tail, one.start, one.end, kind, known, text, level, source)


def _successions(kept: Sequence[Fitted]) -> list[tuple[int, int]]:
    """Which activity follows which on its level: the last one to begin of those that are known when it is known.

    So what becomes known later, even if it lies between two, changes nothing that was said before.
    """
    found = []
    known: dict[int, list[tuple[float, int]]] = {}
    for j, one in enumerate(kept):
        begun = known.setdefault(one.annotation.level, [])
        place = bisect(begun, (one.start, j))
        if place:
            found.append((begun[place - 1][1], j))
        begun.insert(place, (one.start, j))
    return found
