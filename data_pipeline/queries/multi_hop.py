"""Multi-hop queries: over an evidence chain, from one entity to the next, none of them named on the way.

    Take the object that comes out of the box first. Find the object that goes into the box right before it. ...

Each step must lead to one entity and no other in what is known, or the chain cannot be asked about. VST (arXiv
2603.12262, section 2.3 and appendix C) has a model write such questions from chains; here the route itself is the
question, and it is walked again to reply.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from data_pipeline.chains import Chain, chains
from data_pipeline.graph import Edge
from data_pipeline.queries.ask import Ask, Reply
from data_pipeline.queries.clauses import noun, nth, same
from data_pipeline.queries.kind import Kind, Moment, Slots, Subkind, many, names_like, rest_on
from data_pipeline.queries.known import View, beside, comes_after
from whilst.sample import JSON

ATTEMPTS = 6  # random starts of chains for one query
MOST_HOPS = 4


@dataclass(frozen=True)
class Step:
    """One step of a route. `by` says how it leads on, `text` is the clause part it goes by, `of` the kind it leads to.

    `by`: `name` (start at what is called so), `head` and `tail` (the head or tail of a clause part that is given in
    full), `does` and `done` (the tail or head of what `it` does, or what is done to it), `sibling` (who does the same
    right after or before it), `then` (what begins right after or before), `part_of` (what it is part of). `number`
    counts where there are several, from 1; of `sibling` and `then` it is 1 (after) or -1 (before). 0: there is one.
    """

    by: str
    text: str
    of: str
    number: int = 0

    def words(self) -> str:
        """The step as part of a question, after "take" for a start and "find" for the others."""
        thing = f"{nth(self.number)} {noun(self.of)}" if self.number > 0 else noun(self.of)
        side = "after" if self.number > 0 else "before"
        return {
            "name": f"this: {self.text}",
            "head": f"the {thing} that {self.text}",
            "tail": f"the {thing} that {self.text}",
            "does": f"the {thing} that it {self.text}",
            "done": f"the {thing} that {self.text} it",
            "sibling": f"the {noun(self.of)} that {self.text} right {side} it",
            "then": f"what begins right {side} it",
            "part_of": "the larger step that it is part of",
        }[self.by]

    def record(self) -> dict[str, JSON]:
        """The step as JSON."""
        return dict(vars(self))


# ---- Walking a route in what is known.


def walk(view: View, steps: Sequence[Step]) -> tuple[str, list[Edge]] | None:
    """The node that a route leads to and the edges it goes by; None where a step leads nowhere, or to several."""
    node, used = "", list[Edge]()
    for step in steps:
        found = _step(view, step, node)
        if found is None:
            return None
        node, edges = found
        used += [edge for edge in edges if edge not in used]
    return node, used


def _step(view: View, step: Step, node: str) -> tuple[str, list[Edge]] | None:
    if step.by == "name":
        edge = view.once(step.text)
        return (edge.tail, [edge]) if edge else None
    if step.by == "head":
        return _one(view, step, [(edge.head, edge) for edge in view.by_predicate.get(step.text, ())])
    if step.by == "tail":
        return _one(view, step, [(edge.tail, edge) for edge in view.by_stem.get(step.text, ())])
    if step.by in ("does", "done"):
        same_verb = [edge for edge in _at(view, node) if _verb(view, edge) == step.text]
        if step.by == "does":
            return _one(view, step, [(edge.tail, edge) for edge in same_verb if edge.head == node])
        return _one(view, step, [(edge.head, edge) for edge in same_verb if edge.tail == node])
    if step.by == "sibling":
        return _sibling(view, step, node)
    edges = [edge for edge in _at(view, node) if edge.relation == step.by]
    edges = [edge for edge in edges if (edge.head if step.number >= 0 else edge.tail) == node]
    if len(edges) != 1 or (step.by == "then" and not _one_after_the_other(view, edges[0])):
        return None
    return (edges[0].tail if step.number >= 0 else edges[0].head), edges


def _one_after_the_other(view: View, then: Edge) -> bool:
    """Whether the activities that `then` links do not go on at the same time."""
    return all(comes_after(one, two) for one in _doing(view, then.head) for two in _doing(view, then.tail))


def _doing(view: View, node: str) -> list[Edge]:
    """The edges that say when an activity goes on."""
    return [edge for edge in _at(view, node) if edge.relation == "does" and edge.tail == node]


def _at(view: View, node: str) -> list[Edge]:
    return view.of_node.get(node, [])


def _verb(view: View, edge: Edge) -> str | None:
    clause = view.clauses.get(edge.id)
    return clause.verb if clause else None


def _one(view: View, step: Step, ends: list[tuple[str, Edge]]) -> tuple[str, list[Edge]] | None:
    """The only end, or the one of this number where they begin one after the other."""
    ends = [(node, edge) for node, edge in ends if view.kind_of(node) == step.of]
    first: dict[str, Edge] = {}
    for node, edge in ends:
        first.setdefault(node, edge)
    if step.number == 0:
        return (ends[0][0], [edge for _, edge in ends]) if len(first) == 1 else None
    if len({edge.start for edge in first.values()}) < len(first) or len(first) < step.number:
        return None
    node = list(first)[step.number - 1]
    return node, [first[node]]


def _sibling(view: View, step: Step, node: str) -> tuple[str, list[Edge]] | None:
    row = [edge for edge in view.by_predicate.get(step.text, ()) if view.kind_of(edge.head) == step.of]
    own = [i for i, edge in enumerate(row) if edge.head == node]
    if len(own) != 1 or not 0 <= own[0] + step.number < len(row):
        return None
    edge, other = row[own[0]], row[own[0] + step.number]
    starts = [one.start for one in row]
    if starts.count(edge.start) > 1 or starts.count(other.start) > 1 or other.head == node:
        return None
    return other.head, [edge, other]


# ---- From a chain to a route.


def _propose(moment: Moment) -> Iterator[Slots]:
    view = moment.known
    found, _, _ = chains(
        view.graph,
        seed=moment.seed,
        source_id=f"{moment.source_id}/{moment.time}/{moment.turn}",
        hops=moment.hops,
        most_hops=max(MOST_HOPS, moment.hops),
        min_spread=moment.spread,
        attempts=ATTEMPTS,
        max_overlap=1.01,  # for one query any chain will do
    )
    for chain in found:
        for edges, nodes in _directions(view, chain):
            for i in range(len(edges) - moment.hops + 1):
                slots = _slots(moment, _route(view, edges[i:], nodes[i:]))
                if slots:
                    yield slots


def _directions(view: View, chain: Chain) -> Iterator[tuple[list[Edge], list[str]]]:
    by_id = {edge.id: edge for edge in view.graph.edges}
    edges, nodes = [by_id[id] for id in chain.edges], list(chain.nodes)
    yield edges, nodes
    yield edges[::-1], nodes[::-1]


def _route(view: View, edges: list[Edge], nodes: list[str]) -> list[Step]:
    """The steps along these edges; empty where one cannot be put into words that lead to one entity."""
    start = _start(view, edges[0], nodes)
    if start is None:
        return []
    steps, at = [start[0]], start[1]
    while at < len(edges):
        here, edge = nodes[at], edges[at]
        sibling = _sibling_step(view, edges[at : at + 2], nodes[at : at + 3])
        if sibling and walk(view, [*steps, sibling]):
            steps.append(sibling)
            at += 2
            continue
        step = _named(view, _hop(view, edge, here, nodes[at + 1]), here, nodes[at + 1])
        # What there is only one of leads nowhere: the question could as well begin behind it.
        if step is None or not many(view, view.kind_of(nodes[at + 1])):
            return []
        steps.append(step)
        at += 1
    return steps


def _start(view: View, edge: Edge, nodes: list[str]) -> tuple[Step, int] | None:
    """The first step, and how many edges it takes up."""
    if edge.relation in ("then", "part_of"):
        does = _doing(view, nodes[0])
        if len(does) == 1 and view.once(does[0].text):
            return Step("name", does[0].text, view.kind_of(nodes[0])), 0
        return None
    clause = view.clauses.get(edge.id)
    if clause is None or not many(view, view.kind_of(nodes[1])):
        return None
    if nodes[1] == edge.head:
        step = _named(view, Step("head", clause.predicate, view.kind_of(nodes[1])), "", nodes[1])
    elif clause.stem:
        step = _named(view, Step("tail", clause.stem, view.kind_of(nodes[1])), "", nodes[1])
    else:
        step = None
    return (step, 1) if step else None


def _hop(view: View, edge: Edge, here: str, there: str) -> Step | None:
    of = view.kind_of(there)
    if edge.relation == "then":
        return Step("then", "", of, 1 if edge.head == here else -1)
    if edge.relation == "part_of":
        return Step("part_of", "", of) if edge.head == here else None
    verb = _verb(view, edge)
    if verb is None:
        return None
    return Step("does" if edge.head == here else "done", verb, of)


def _named(view: View, step: Step | None, here: str, there: str) -> Step | None:
    """The step with the number that leads to `there`, where without one it leads to several."""
    if step is None:
        return None
    found = _step(view, step, here)
    if found:
        return step if found[0] == there else None
    if step.by in ("then", "part_of", "name"):
        return None
    for number in range(1, 5):
        numbered = Step(step.by, step.text, step.of, number)
        found = _step(view, numbered, here)
        if found and found[0] == there:
            return numbered
    return None


def _sibling_step(view: View, edges: list[Edge], nodes: list[str]) -> Step | None:
    """Two edges that meet in one thing: who else does this to it, right before or after."""
    if len(edges) < 2 or edges[0].head != nodes[0] or edges[1].head != nodes[2] or nodes[0] == nodes[2]:
        return None
    clauses = [view.clauses.get(edge.id) for edge in edges]
    if clauses[0] is None or clauses[1] is None or clauses[0].predicate != clauses[1].predicate:
        return None
    side = 1 if edges[1].start > edges[0].start else -1
    return Step("sibling", clauses[0].predicate, view.kind_of(nodes[2]), side)


def _slots(moment: Moment, steps: list[Step]) -> Slots | None:
    """Slots of a route of two steps or more, which must not name what it leads to."""
    view = moment.known
    found = walk(view, steps) if len(steps) > 1 else None
    if found is None or len(found[1]) < moment.hops:
        return None
    node, edges = found
    route = _in_words(steps)
    if _names(view, node, route) or not any(max(e.end, e.knowable_at) <= moment.since for e in edges):
        return None
    of = view.kind_of(node)
    return {"route": route, "steps": [step.record() for step in steps], "of": of, "noun": noun(of)}


def _in_words(steps: Sequence[Step]) -> str:
    first, *rest = steps
    lines = [f"take {first.words()}", *(f"find {step.words()}" for step in rest)]
    return "; then ".join([lines[0], *lines[1:]])


def _names(view: View, node: str, route: str) -> bool:
    return re.search(rf"\b{re.escape(same(view.graph.name(node)))}\b", same(route)) is not None


def _answer(ask: Ask, view: View) -> Reply | None:
    found = walk(view, _steps(ask))
    return rest_on(view.graph.name(found[0]), *found[1]) if found else None


def _steps(ask: Ask) -> list[Step]:
    records = ask.slots["steps"]
    if not isinstance(records, (list, tuple)):
        raise ValueError(f"ask {ask.id!r}: slot 'steps' must be a list of steps, not {records!r}")
    return [Step(**record) for record in records]  # type: ignore[arg-type]


def _wrong(ask: Ask, view: View) -> list[str]:
    """Names of the kind that is asked for, without what lies on the way, and without what goes on beside the answer."""
    found = walk(view, _steps(ask))
    if found is None:
        return []
    node, edges = found
    out = {end for edge in edges for end in (edge.head, edge.tail)}
    out |= {edge.tail for edge in view.edges if any(beside(edge, own) for own in _doing(view, node))}
    names = {view.graph.name(one) for one in out}
    return [name for name in names_like(ask, view) if name not in names]


MULTI_HOP = Kind("multi_hop", {"route": Subkind(_propose, _answer, ("open", "choice"), _wrong)})
