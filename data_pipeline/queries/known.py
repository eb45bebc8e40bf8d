"""What is known at a time, sorted for asking: events and states, who did what, and what follows what.

    view = known_at(graph, 12.0)   # a View of graph.as_of(12.0); asked for again, it is not worked out again

Everything here is a function of the graph that it is given, so of `as_of(t)` it tells nothing that came after t.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from data_pipeline.graph import Edge, Graph
from data_pipeline.queries.clauses import Clause, parts, same

STRUCTURAL = ("then", "part_of")  # these relate activities to one another; they are no events of their own
OVERLAP = 0.1  # part of the shorter of two events by which they may overlap and still count as one after the other


@dataclass(frozen=True)
class View:
    """A graph, and what questions look up in it. Edges are in order of their start (seconds)."""

    graph: Graph

    @cached_property
    def edges(self) -> list[Edge]:
        """What happens and what holds: all but the structural edges."""
        return [e for e in sorted(self.graph.edges, key=_by_time) if e.relation not in STRUCTURAL]

    @cached_property
    def events(self) -> list[Edge]:
        """What happens: points and spans."""
        return [edge for edge in self.edges if edge.kind != "state"]

    @cached_property
    def states(self) -> list[Edge]:
        """What holds for a time."""
        return [edge for edge in self.edges if edge.kind == "state"]

    @cached_property
    def items(self) -> list[Edge]:
        """What can be put in order: the events, or in a graph that has none of them the states."""
        return self.events or self.states

    @cached_property
    def known_times(self) -> list[float]:
        """When each edge becomes known (seconds), in order."""
        return sorted(edge.knowable_at for edge in self.graph.edges)

    @cached_property
    def levels(self) -> list[int]:
        """The levels of detail that events have, the coarsest first."""
        return sorted({edge.level for edge in self.events})

    @cached_property
    def at_level(self) -> dict[int, list[Edge]]:
        """The events of each level."""
        return {level: [edge for edge in self.events if edge.level == level] for level in self.levels}

    @cached_property
    def by_text(self) -> dict[str, list[Edge]]:
        """Edges by their clause, compared as `same` does."""
        return _grouped((same(edge.text), edge) for edge in self.edges)

    @cached_property
    def clauses(self) -> dict[str, Clause]:
        """The clause of every edge that could be taken apart, by edge id."""
        name = self.graph.name
        taken = ((edge.id, parts(edge.text, name(edge.head), name(edge.tail))) for edge in self.edges)
        return {edge: clause for edge, clause in taken if clause is not None}

    @cached_property
    def by_predicate(self) -> dict[str, list[Edge]]:
        """Edges by what their head does: "goes into the box"."""
        return _grouped((self.clauses[edge.id].predicate, edge) for edge in self.edges if edge.id in self.clauses)

    @cached_property
    def by_stem(self) -> dict[str, list[Edge]]:
        """Edges by their clause without its object: "the red circle goes into"."""
        stems = ((self.clauses[edge.id].stem, edge) for edge in self.edges if edge.id in self.clauses)
        return _grouped((stem, edge) for stem, edge in stems if stem is not None)

    @cached_property
    def of_node(self) -> dict[str, list[Edge]]:
        """All edges of each node, structural ones too."""
        ends = ((node, e) for e in sorted(self.graph.edges, key=_by_time) for node in dict.fromkeys((e.head, e.tail)))
        return _grouped(ends)

    @cached_property
    def names(self) -> dict[str, list[str]]:
        """The names of the nodes of each kind, none of them twice."""
        found: dict[str, dict[str, None]] = defaultdict(dict)
        for node in self.graph.nodes:
            found[node.kind][node.name] = None
        return {kind: list(names) for kind, names in found.items()}

    @cached_property
    def other_names(self) -> dict[str, set[str]]:
        """What else the nodes of a name are called, as far as it is known; all compared as `same` does."""
        found: dict[str, set[str]] = defaultdict(set)
        for node in self.graph.nodes:
            found[same(node.name)] |= {same(alias) for alias, _ in node.aliases}
        return found

    def kind_of(self, node: str) -> str:
        """The kind of a node."""
        return self.graph.by_id[node].kind

    def once(self, text: str) -> Edge | None:
        """The one edge with this clause; None where there is none, or more than one."""
        found = self.by_text.get(same(text), [])
        return found[0] if len(found) == 1 else None


def _grouped(pairs) -> dict[str, list[Edge]]:  # type: ignore[no-untyped-def]
    groups: dict[str, list[Edge]] = defaultdict(list)
    for key, edge in pairs:
        groups[key].append(edge)
    return dict(groups)


def _by_time(edge: Edge) -> tuple[float, float, str]:
    return edge.start, edge.end, edge.id


def comes_after(earlier: Edge, later: Edge) -> bool:
    """Whether one edge clearly comes after another: it begins later, and they overlap by little if at all."""
    shorter = min(earlier.end - earlier.start, later.end - later.start)
    return earlier.start < later.start and earlier.end - later.start <= OVERLAP * shorter


def beside(one: Edge, other: Edge) -> bool:
    """Whether neither of two edges clearly comes after the other, so that both may tell of the same."""
    return not comes_after(one, other) and not comes_after(other, one)


def neighbours(row: list[Edge]) -> list[tuple[Edge, Edge]]:
    """The pairs of a row (in order of start) of which the second clearly is the next one after the first."""
    pairs = []
    for i, (one, two) in enumerate(pairwise(row)):
        clear = all(comes_after(other, two) and comes_after(other, one) for other in row[max(0, i - 2) : i])
        clear = clear and all(comes_after(two, other) for other in row[i + 2 : i + 4])
        if clear and comes_after(one, two):
            pairs.append((one, two))
    return pairs


# ---- The same view is wanted many times in a row (plan, reply, filters), so the last ones are kept.

_KEPT = 64
_lock = threading.Lock()
_views: OrderedDict[tuple[int, float | None], tuple[Graph, View]] = OrderedDict()


def known_at(graph: Graph, time: float) -> View:
    """The view of `graph.as_of(time)` (seconds)."""
    return _kept(graph, time)


def view_of(known: Graph) -> View:
    """The view of a graph as it is."""
    return _kept(known, None)


def asked_at(known: Graph, time: float) -> View:
    """The view of what was known at `time`, from a graph as of then or later."""
    late = any(edge.knowable_at > time or edge.end > time for edge in known.edges)
    return known_at(known, time) if late else view_of(known)


def _kept(graph: Graph, time: float | None) -> View:
    key = (id(graph), time)  # the entry holds the graph, so no other one can take its id
    with _lock:
        if key in _views:
            _views.move_to_end(key)
            return _views[key][1]
    view = View(graph if time is None else graph.as_of(time))
    with _lock:
        _views[key] = (graph, view)
        while len(_views) > _KEPT:
            _views.popitem(last=False)
    return view
