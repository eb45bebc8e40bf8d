"""What a text tells of a graph: which entities and clauses it names, since when they are known, and whether it is true.

A text is read as words, and at each place the longest name or clause of the graph that stands there counts: `box` is
not named by `box lid`, nor `blue` by `blue square`.

The clause of an edge often names its head, then says something, then names its tail: `the red circle` + ` goes into
the ` + `box`. Where a text holds such a middle between two names, it makes that claim, and the graph must hold it. A
paraphrase makes no claim that can be read this way; its names are read all the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from data_pipeline.filters.words import words
from data_pipeline.graph import Edge, Graph
from data_pipeline.thoughts import STRUCTURE

Words: TypeAlias = tuple[str, ...]
Claim: TypeAlias = tuple[Words, Words, Words]
"""(head's name, what stands between, tail's name)."""


@dataclass(frozen=True)
class Language:
    """How a graph speaks. Times are seconds of the graph.

    `since`: from when on each name, alias or clause is known. `by_first`: all of them by their first word, longest
    first; `clauses` are those of events and states. `claims`: from when on each claim is true. `middles` by their first
    word; `names` alone.
    """

    since: Mapping[Words, float]
    by_first: Mapping[str, list[Words]]
    clauses: frozenset[Words]
    claims: Mapping[Claim, float]
    middles: Mapping[str, list[Words]]
    names: frozenset[Words]


def language(graph: Graph) -> Language:
    """How the whole graph speaks."""
    since: dict[Words, float] = {}
    claims: dict[Claim, float] = {}
    met: dict[str, float] = {}  # when each node is known: with the first edge that touches it
    for edge in graph.edges:
        for node in (edge.head, edge.tail):
            met[node] = min(met.get(node, edge.knowable_at), edge.knowable_at)
        _earliest(since, words(edge.text), edge.knowable_at)
        claim = _claim(edge, graph)
        if claim is not None:
            claims[claim] = min(claims.get(claim, edge.knowable_at), edge.knowable_at)
    for node_ in graph.nodes:
        known = met.get(node_.id, graph.duration)
        _earliest(since, words(node_.name), known)
        for alias, time in node_.aliases:
            _earliest(since, words(alias), max(known, time))
    names = {words(node_.name) for node_ in graph.nodes} | {words(a) for node_ in graph.nodes for a, _ in node_.aliases}
    middles = {middle for _, middle, _ in claims}
    clauses = frozenset(words(edge.text) for edge in graph.edges if edge.relation not in STRUCTURE)
    return Language(since, _by_first(since), clauses, claims, _by_first(middles), frozenset(names - {()}))


def unknown(text: str, time: float, spoken: Language) -> list[str]:
    """The names and clauses in `text` that are not known at `time` (seconds of the graph)."""
    return [" ".join(phrase) for phrase in _named(text, spoken) if spoken.since[phrase] > time]


def clauses(text: str, time: float, spoken: Language) -> list[str]:
    """The clauses in `text` that were known at `time` (seconds of the graph); those of one or two words are let be."""
    return [" ".join(p) for p in _named(text, spoken) if len(p) > 2 and p in spoken.clauses and spoken.since[p] <= time]


def false_claims(text: str, time: float, spoken: Language) -> list[str]:
    """The clauses in `text` between two entities that nothing known at `time` (seconds of the graph) says."""
    told = words(text)
    found = []
    for i, word in enumerate(told):
        for middle in spoken.middles.get(word, ()):
            end = i + len(middle)
            if told[i:end] == middle:
                head, tail = _ending(told, i, spoken.names), _beginning(told, end, spoken.names)
                if head and tail and spoken.claims.get((head, middle, tail), float("inf")) > time:
                    found.append(" ".join((*head, *middle, *tail)))
                break  # the longest middle that stands here is meant
    return found


def unnamed(text: str, spoken: Language) -> str:
    """The words of a text that belong to no name or clause of the graph."""
    told = words(text)
    inside = {k for at, phrase in _placed(told, spoken.by_first) for k in range(at, at + len(phrase))}
    return " ".join(word for k, word in enumerate(told) if k not in inside)


def _placed(told: Words, by_first: Mapping[str, list[Words]]) -> Iterator[tuple[int, Words]]:
    """(number of its first word, phrase) of all that a text holds, from its beginning on, none inside another."""
    at = 0
    while at < len(told):
        here = next((p for p in by_first.get(told[at], ()) if told[at : at + len(p)] == p), None)
        if here is not None:
            yield at, here
        at += 1 if here is None else len(here)


def _named(text: str, spoken: Language) -> list[Words]:
    return [phrase for _, phrase in _placed(words(text), spoken.by_first)]


def _claim(edge: Edge, graph: Graph) -> Claim | None:
    head, tail, text = words(graph.name(edge.head)), words(graph.name(edge.tail)), words(edge.text)
    if not head or not tail or text[-len(tail) :] != tail:
        return None
    for start in range(len(text)):
        if text[start : start + len(head)] == head:
            middle = text[start + len(head) : -len(tail)]
            return (head, middle, tail) if middle and start + len(head) < len(text) - len(tail) else None
    return None


def _ending(told: Words, end: int, names: frozenset[Words]) -> Words | None:
    """The longest name that ends before the word number `end`."""
    return next((told[start:end] for start in range(max(0, end - 8), end) if told[start:end] in names), None)


def _beginning(told: Words, start: int, names: frozenset[Words]) -> Words | None:
    """The longest name that begins with the word number `start`."""
    ends = range(min(len(told), start + 8), start, -1)
    return next((told[start:end] for end in ends if told[start:end] in names), None)


def _earliest(since: dict[Words, float], phrase: Words, time: float) -> None:
    if phrase:
        since[phrase] = min(since.get(phrase, time), time)


def _by_first(phrases: Mapping[Words, float] | set[Words]) -> dict[str, list[Words]]:
    found: dict[str, list[Words]] = defaultdict(list)
    for phrase in sorted(phrases, key=lambda one: (-len(one), one)):
        found[phrase[0]].append(phrase)
    return dict(found)
