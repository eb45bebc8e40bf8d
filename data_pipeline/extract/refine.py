"""From triples to edges: what is malformed, an overlay on the picture or said already is left out, and counted.

VST (section 2.3 of its paper) lets a model clean the entity bank of the whole video at its end. That would let the end
of a video change what is known of its beginning, so here every clip is refined when it arrives and stays as it is. One
thing only changes later: a state or span that goes on is made longer, and `Graph.as_of` cuts it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from data_pipeline.extract.describe import Triple, View
from data_pipeline.extract.names import normal, relation, words
from data_pipeline.extract.settings import RefineSettings
from data_pipeline.graph import Edge, Kind
from data_pipeline.source import Yield
from whilst.video import EPSILON

# Relations that say the same with their ends swapped.
MUTUAL = frozenset(
    map(relation, ("touches", "is next to", "is near", "is beside", "meets", "collides with", "talks to", "same_as"))
)


@dataclass
class Edges:
    """The edges of a video so far, by id; `triples` counts what was described, made and rejected, by reason.

    `seen` is where the last clip ended (seconds): an edge that reaches it may go on.
    """

    by_id: dict[str, Edge] = field(default_factory=dict)
    latest: dict[tuple[str, str, str], list[str]] = field(default_factory=dict)  # ids by head, relation and tail
    touched: set[str] = field(default_factory=set)  # entities at the ends of edges
    triples: Yield = field(default_factory=Yield)
    clipped: int = 0  # times that lay outside the window by no more than the slack
    seen: float = 0.0


def refine(
    triples: Sequence[Triple],
    found: Mapping[str, str],
    ignored: frozenset[str],
    edges: Edges,
    view: View,
    settings: RefineSettings,
) -> None:
    """Add what is new in these triples of a clip to `edges`, known from the end of the clip on.

    `found` are the entities of this clip by normal name, `ignored` the normal names of mentions that were rejected: a
    triple about one of them goes with it.
    """
    edges.triples.taken += len(triples)
    for number, triple in enumerate(triples):
        reason = _reason_against(triple, found, ignored, settings)
        if reason is None:
            span = _span(triple, view, settings.slack)
            reason = span if isinstance(span, str) else _add(triple, span, number, found, edges, view, settings)
        if reason is None:
            edges.triples.made += 1
        else:
            edges.triples.reject(reason)
    edges.seen = view.end


def clause(text: str) -> str:
    """One clause: lower case, single spaces, no full stop at its end."""
    return " ".join(text.split()).rstrip(" .!").lower()


def _reason_against(
    triple: Triple, found: Mapping[str, str], ignored: frozenset[str], settings: RefineSettings
) -> str | None:
    ends = normal(triple.head), normal(triple.tail)
    if any(end in ignored for end in ends):
        return "of a rejected entity"
    if any(end not in found for end in ends):
        return "entity not listed"
    if found[ends[0]] == found[ends[1]]:
        return "of an entity with itself"
    if not relation(triple.relation):
        return "no relation"
    if settings.relations and triple.relation not in settings.relations:
        return "relation not allowed"
    said = words(triple.text)
    if len(said) > settings.text_words or "\n" in triple.text.strip() or ". " in triple.text.strip():
        return "not one clause"
    # Thoughts repeat the clause, so it must say who and what, in the names that were linked.
    if any(not set(end.split()) <= set(said) for end in ends):
        return "clause does not name both"
    return None


def _span(triple: Triple, view: View, slack: float) -> tuple[float, float, float] | str:
    """(start, end, seconds cut off), inside the window; or the reason against it."""
    start, end = triple.start, triple.end
    if end < start:
        return "runs backwards"
    if start < view.start - slack or end > view.end + slack:
        return "outside the window"
    inside = min(max(start, view.start), view.end), min(max(end, view.start), view.end)
    if triple.kind == "point":
        inside = (inside[0], inside[0])
    elif inside[1] <= inside[0]:
        return "without length"
    return *inside, max(abs(start - inside[0]), abs(end - inside[1])) if triple.kind != "point" else 0.0


def _add(
    triple: Triple,
    span: tuple[float, float, float],
    number: int,
    found: Mapping[str, str],
    edges: Edges,
    view: View,
    settings: RefineSettings,
) -> str | None:
    """Add the edge, or make an open one longer, or say why not."""
    start, end, cut = span
    head, tail = found[normal(triple.head)], found[normal(triple.tail)]
    kind: Kind = triple.kind  # type: ignore[assignment]  # `parse` has checked it
    plain = relation(triple.relation)
    keys = [(head, plain, tail)] + ([(tail, plain, head)] if plain in MUTUAL else [])
    for id in [id for key in keys for id in edges.latest.get(key, ())]:
        old = edges.by_id[id]
        goes_on = old.kind != "point" and kind != "point" and old.end >= edges.seen - EPSILON and old.end < end
        if goes_on and start <= old.end + EPSILON:
            edges.by_id[id] = replace(old, end=end)
            return "goes on"
        if _same(old, kind, start, end, settings):
            return "said already"
    id = f"e{view.clip}-{number}"
    edges.by_id[id] = Edge(
        id, head, triple.relation.strip(), tail, start, end, kind, view.end, clause(triple.text), source=str(view.clip)
    )
    edges.latest.setdefault(keys[0], []).append(id)
    edges.touched |= {head, tail}
    edges.clipped += cut > EPSILON
    return None


def _same(old: Edge, kind: str, start: float, end: float, settings: RefineSettings) -> bool:
    """Whether a report is of what `old` says."""
    if old.kind == "point" or kind == "point":
        return start <= old.end + settings.slack and end >= old.start - settings.slack
    joint = max(end, old.end) - min(start, old.start)
    return (min(end, old.end) - max(start, old.start)) / joint >= settings.overlap
