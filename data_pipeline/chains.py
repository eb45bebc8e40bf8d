"""Evidence chains: trails through a temporal graph, each edge no earlier than the one before it.

    found, counted, statistics = chains(graph.as_of(40.0), seed=0, source_id="train-3", hops=2, min_spread=5.0)

VST (arXiv 2603.12262, section 2.3 and appendix C): a random start node, depth-first search over temporally valid
edges, and less than 10% of shared entities between two chains of a video. The paper leaves open how long a chain is,
when two edges are temporally valid, and by what the overlap is measured. Here an edge may follow another if it starts
no earlier; a chain has `hops` edges at least; shared entities are counted against the smaller of the two chains.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from data_pipeline.graph import Edge, Graph
from data_pipeline.source import Yield, draw

BUDGET = 200  # edges that one search may try: dense graphs have more trails than anybody can walk


@dataclass(frozen=True)
class Chain:
    """A trail: `edges` (ids) in order, and the `nodes` (ids) that they link, one more.

    `spread` is the time from the start of the first edge to that of the last one (seconds).
    """

    edges: tuple[str, ...]
    nodes: tuple[str, ...]
    spread: float

    @property
    def hops(self) -> int:
        """How many edges it has."""
        return len(self.edges)


def chains(
    graph: Graph,
    *,
    seed: int,
    source_id: str,
    hops: int = 2,
    most_hops: int = 6,
    min_spread: float = 0.0,
    max_overlap: float = 0.10,
    attempts: int = 32,
    most: int | None = None,
    hub_share: float = 0.5,
    taken: Sequence[Chain] = (),
) -> tuple[list[Chain], Yield, Counter[str]]:
    """Chains of `hops` to `most_hops` edges that spread over `min_spread` seconds, the same for the same seed.

    Each of `attempts` starts at a random node; the search ends early with `most` chains. Two chains, those of `taken`
    among them, share less than `max_overlap` of their nodes. A node that is linked to more than `hub_share` of
    the others (such as the actor of every step) is only walked through where an attempt finds no other trail.

    The yield counts attempts (taken), chains (made) and why the others gave none; the statistics count chains by hops
    ("hops 3") and those that pass a hub ("through a hub").

    Raises:
        ValueError: for bounds that no chain can meet.
    """
    if not 1 <= hops <= most_hops or attempts < 1 or min_spread < 0 or max_overlap <= 0:
        raise ValueError(
            f"chains of {source_id}: hops {hops} to {most_hops}, min_spread {min_spread} s, max_overlap {max_overlap}, "
            f"attempts {attempts}: needs 1 <= hops <= most_hops, min_spread >= 0, max_overlap > 0 and attempts >= 1"
        )
    touching = _touching(graph)
    hubs = frozenset(node for node in touching if len(_linked(node, touching)) > hub_share * (len(touching) - 1))
    starts = sorted(touching)
    found: list[Chain] = []
    counted, statistics = Yield(), Counter[str]()
    for attempt in range(attempts):
        if most is not None and len(found) >= most:
            break
        counted.taken += 1
        rng = draw(seed, source_id, "chain", attempt)
        chain, reason = _attempt(touching, hubs, starts, rng, (hops, most_hops, min_spread))
        if chain is None:
            counted.reject(reason)
        elif any(overlap(chain, other) >= max_overlap for other in (*taken, *found)):
            counted.reject("entity overlap")
        else:
            found.append(chain)
            counted.made += 1
            statistics[f"hops {chain.hops}"] += 1
            statistics["through a hub"] += bool(hubs.intersection(chain.nodes[1:-1]))
    counted.check(f"chains of {source_id}")
    return found, counted, +statistics


def overlap(one: Chain, other: Chain) -> float:
    """The part of the smaller chain's nodes that the other one has too, from 0 to 1."""
    mine, theirs = set(one.nodes), set(other.nodes)
    return len(mine & theirs) / min(len(mine), len(theirs))


def _touching(graph: Graph) -> dict[str, list[Edge]]:
    """The edges of every node; one from a node to itself leads nowhere and is left out."""
    touching: dict[str, list[Edge]] = defaultdict(list)
    for edge in sorted(graph.edges, key=lambda edge: (edge.start, edge.id)):
        if edge.head != edge.tail:
            touching[edge.head].append(edge)
            touching[edge.tail].append(edge)
    return dict(touching)


def _linked(node: str, touching: dict[str, list[Edge]]) -> set[str]:
    """The other ends of a node's edges."""
    return {edge.tail if edge.head == node else edge.head for edge in touching[node]}


def _attempt(
    touching: dict[str, list[Edge]],
    hubs: frozenset[str],
    starts: list[str],
    rng: random.Random,
    bounds: tuple[int, int, float],
) -> tuple[Chain | None, str]:
    """A chain from one random start, around the hubs if it can be; or None, and why."""
    if not starts:
        return None, "no edges"
    start, reason = rng.choice(starts), "too few hops"
    for closed in (hubs, frozenset[str]()) if hubs else (hubs,):
        search = _Search(touching, closed, rng, *bounds)
        search.walk([], [start])
        if search.best is not None:
            return search.best, ""
        reason = search.reason
    return None, reason


class _Search:
    """One depth-first search, up to the first trail that meets the bounds and cannot go on."""

    def __init__(
        self,
        touching: dict[str, list[Edge]],
        closed: frozenset[str],
        rng: random.Random,
        hops: int,
        most_hops: int,
        min_spread: float,
    ) -> None:
        self.touching, self.closed, self.rng = touching, closed, rng
        self.hops, self.most_hops, self.min_spread = hops, most_hops, min_spread
        self.best: Chain | None = None
        self.reason = "too few hops"
        self.tries = 0

    def walk(self, edges: list[Edge], nodes: list[str]) -> bool:
        """Go on from the last node; True when there is nothing more to look for."""
        if len(edges) >= self.hops:
            self._keep(edges, nodes)
        here = nodes[-1]
        if len(edges) == self.most_hops or (here in self.closed and edges):
            return self.best is not None
        follow = [edge for edge in self.touching[here] if _may_follow(edge, edges)]
        self.rng.shuffle(follow)
        for edge in follow:
            self.tries += 1
            if self.tries > BUDGET:
                return True
            if self.walk([*edges, edge], [*nodes, edge.tail if edge.head == here else edge.head]):
                return True
        return self.best is not None

    def _keep(self, edges: list[Edge], nodes: list[str]) -> None:
        spread = edges[-1].start - edges[0].start
        if spread < self.min_spread:
            self.reason = "too short a spread"
        elif self.best is None or len(edges) > self.best.hops:
            self.best = Chain(tuple(edge.id for edge in edges), tuple(nodes), spread)


def _may_follow(edge: Edge, edges: list[Edge]) -> bool:
    """Whether an edge is temporally valid after a trail, and says something that the trail does not say yet."""
    if not edges:
        return True
    return edge.start >= edges[-1].start and all(edge.text != other.text for other in edges)
