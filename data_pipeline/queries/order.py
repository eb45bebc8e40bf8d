"""Order queries: what came first, what came right before or after something. All of it lies in the past."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import pairwise

from data_pipeline.graph import Edge
from data_pipeline.queries.ask import Ask, Reply
from data_pipeline.queries.clauses import same
from data_pipeline.queries.kind import Kind, Moment, Slots, Subkind, int_slot, rest_on, shuffled, text_slot, texts_like
from data_pipeline.queries.known import View, comes_after, neighbours

PAIRS = 12  # of two events, tried for one query
AMONG = 4  # events that are compared, at most


def _single(view: View) -> list[Edge]:
    """What can be put in order, and is named by its clause alone."""
    return [edge for edge in view.items if view.once(edge.text) is not None]


# ---- first: "Which comes first: the person opens the door, or the person sits down?"


def _propose_first(moment: Moment) -> Iterator[Slots]:
    edges, rng = _single(moment.known), moment.rng("first")
    for _ in range(PAIRS if len(edges) > 1 else 0):
        one, other = rng.sample(edges, 2)
        yield {"one": one.text, "other": other.text}


def _answer_first(ask: Ask, view: View) -> Reply | None:
    ordered = _in_order(view, (text_slot(ask, "one"), text_slot(ask, "other")))
    return rest_on(ordered[0].text, *ordered) if ordered else None


# ---- earliest, latest: "Which of these comes first?" The options are all that is compared.


def _propose_earliest(moment: Moment) -> Iterator[Slots]:
    return _propose_extreme(moment, moment.rng("earliest"))


def _propose_latest(moment: Moment) -> Iterator[Slots]:
    return _propose_extreme(moment, moment.rng("latest"))


def _propose_extreme(moment: Moment, rng: random.Random) -> Iterator[Slots]:
    past = [edge for edge in _single(moment.known) if max(edge.end, edge.knowable_at) <= moment.since]
    for _ in range(PAIRS if len(past) > 1 else 0):
        row: list[Edge] = []
        for edge in sorted(rng.sample(past, min(AMONG, len(past))), key=lambda edge: edge.start):
            if not row or comes_after(row[-1], edge):
                row.append(edge)
        if len(row) > 1:
            yield {"among": sorted(edge.text for edge in row)}


def _answer_earliest(ask: Ask, view: View) -> Reply | None:
    ordered = _in_order(view, _among(ask))
    return rest_on(ordered[0].text, *ordered) if ordered else None


def _answer_latest(ask: Ask, view: View) -> Reply | None:
    ordered = _in_order(view, _among(ask))
    return rest_on(ordered[-1].text, *ordered) if ordered else None


def _among(ask: Ask) -> list[str]:
    among = ask.slots["among"]
    if not isinstance(among, (list, tuple)):
        raise ValueError(f"ask {ask.id!r}: slot 'among' must be a list of clauses, not {among!r}")
    return [str(text) for text in among]


def _in_order(view: View, texts: Sequence[str]) -> list[Edge]:
    """The edges of these clauses in order; none where a clause is not known or comes twice, or the order is open."""
    found = [edge for edge in map(view.once, texts) if edge is not None]
    ordered = sorted(found, key=lambda edge: edge.start)
    clear = all(comes_after(one, two) for one, two in pairwise(ordered))
    return ordered if clear and len(ordered) == len(texts) > 1 else []


# ---- before, after: "What happens right before this: the person sits down?"


def _propose_before(moment: Moment) -> Iterator[Slots]:
    return shuffled((_beside(later) for _, later in _pairs(moment.known)), moment.rng("before"))


def _propose_after(moment: Moment) -> Iterator[Slots]:
    return shuffled((_beside(earlier) for earlier, _ in _pairs(moment.known)), moment.rng("after"))


def _pairs(view: View) -> list[tuple[Edge, Edge]]:
    return [pair for level in view.levels for pair in neighbours(view.at_level[level])]


def _beside(edge: Edge) -> Slots:
    return {"event": edge.text, "level": edge.level}


def _answer_before(ask: Ask, view: View) -> Reply | None:
    for earlier, later in _named(ask, view):
        if same(later.text) == same(text_slot(ask, "event")) != same(earlier.text):
            return rest_on(earlier.text, earlier, later)
    return None


def answer_after(ask: Ask, view: View) -> Reply | None:
    """The clause of the event that comes right after the one that is named."""
    for earlier, later in _named(ask, view):
        if same(earlier.text) == same(text_slot(ask, "event")) != same(later.text):
            return rest_on(later.text, earlier, later)
    return None


def _named(ask: Ask, view: View) -> list[tuple[Edge, Edge]]:
    """The neighbours among the events of the ask's level; none where what it names is not one event."""
    if view.once(text_slot(ask, "event")) is None:
        return []
    return neighbours(view.at_level.get(int_slot(ask, "level"), []))


def wrong_beside(ask: Ask, view: View) -> list[str]:
    """The other events of the level, without the one that is named."""
    named = same(text_slot(ask, "event"))
    return [text for text in texts_like(ask, view) if same(text) != named]


def _wrong_among(ask: Ask, view: View) -> list[str]:
    return _among(ask)


ORDER = Kind(
    "order",
    {
        "first": Subkind(_propose_first, _answer_first, past=True),
        "earliest": Subkind(_propose_earliest, _answer_earliest, ("choice",), _wrong_among, past=True, closed=True),
        "latest": Subkind(_propose_latest, _answer_latest, ("choice",), _wrong_among, past=True, closed=True),
        "before": Subkind(_propose_before, _answer_before, ("open", "choice"), wrong_beside, past=True),
        "after": Subkind(_propose_after, answer_after, ("open", "choice"), wrong_beside, past=True),
    },
)
