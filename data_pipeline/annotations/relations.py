"""Relation triples in words: entities that share a class get names of their own, predicates become clauses.

    predicate("adult", "hold_hand_of", "child")   # "the adult holds hand of the child"
    predicate("dog", "walk_front", "person")      # "the dog walks in front of the person"

The vocabularies are those of VidOR, VidVRD, PVSG and Action Genome (`walk_front`, `sitting on`, `covered_by`).
"""

from __future__ import annotations

from collections.abc import Iterable

from data_pipeline.annotations.phrases import clause, clean
from data_pipeline.annotations.record import Entity

# a direction as the last word of a predicate, as English wants it before its object
_DIRECTIONS = {
    "front": "in front of",
    "left": "to the left of",
    "right": "to the right of",
    "away": "away from",
    "above": "above",
}
_PLACES = frozenset(
    """
    above across against along among around at attached away behind below beneath beside between by connected covered
    down filled in inside near next not on over past to toward towards under underneath up with
    """.split()  # noqa: SIM905
)
_COMPARED = frozenset({"taller", "larger", "faster", "smaller", "bigger"})
_ORDINALS = ("", "", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


def predicate(head: str, relation: str, tail: str) -> str:
    """The triple as one clause; `relation` with underscores or spaces, base form or gerund."""
    words = clean(relation.replace("_", " ").replace("/", " or ")).split(" ")
    if words == ["have", "it", "on", "the", "back"]:
        return f"the {head} has the {tail} on the back"
    if words[-1] in _DIRECTIONS and "".join(words[-3:]) != "infrontof":
        words[-1:] = _DIRECTIONS[words[-1]].split(" ")
    phrase = " ".join(words)
    if words[0] in _COMPARED:
        return f"the {head} is {phrase} than the {tail}"
    if words[0] in _PLACES:
        return f"the {head} is {phrase} the {tail}"
    return clause(f"the {head}", f"{phrase} the {tail}")


def distinct_names(entities: Iterable[Entity]) -> dict[str, str]:
    """A name for every entity id: the first of a name keeps it, the next become "second dog", "third dog".

    Give the entities in the order in which they become known: then no name tells of one that is still to come.
    """
    names: dict[str, str] = {}
    used: dict[str, int] = {}
    for entity in entities:
        if entity.id in names:
            continue
        used[entity.name] = count = used.get(entity.name, 0) + 1
        ordinal = _ORDINALS[count] if count < len(_ORDINALS) else f"number {count}"
        names[entity.id] = entity.name if count == 1 else f"{ordinal} {entity.name}"
    return names
