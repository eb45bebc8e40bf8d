"""Clauses taken apart: "the red circle goes into the box" is who, what it does, and whereto.

    parts("the red circle goes into the box", "red circle", "box")
    # Clause(subject="the red circle", predicate="goes into the box", verb="goes into")

A question about a clause leaves one of these parts out. Nothing is guessed: a clause that does not begin with the name
of its head and go on with a verb in the third person of the present gives None, and is only ever quoted as a whole.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

NOUNS = {
    "person": "person",
    "animal": "animal",
    "object": "object",
    "scene": "place",
    "activity": "action",
    "container": "container",
    "screen": "screen",
    "colour": "colour",
    "cell": "cell",
    "text": "text",
}
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")

_ARTICLE = r"(?:(?:the|a|an|another|some|his|her|its|their)\s+)?"
_BE = {"is": "was", "are": "were"}
_IRREGULAR = {"has": "have", "does": "do", "goes": "go", "lies": "lie", "ties": "tie", "dies": "die"}
_NO_VERBS = ("always", "sometimes", "perhaps", "towards", "across", "its", "his", "this")


@dataclass(frozen=True)
class Clause:
    """`subject` and `predicate` make up the clause. `verb` is the predicate without its object, where that ends it."""

    subject: str
    predicate: str
    verb: str | None

    @property
    def stem(self) -> str | None:
        """The clause without its object: "the red circle goes into"."""
        return f"{self.subject} {self.verb}" if self.verb else None


@lru_cache(maxsize=8192)
def parts(text: str, head: str, tail: str) -> Clause | None:
    """The clause of an edge taken apart by the names of its head and tail; None where it cannot be."""
    found = re.match(rf"({_ARTICLE}{re.escape(head)})\s+(\S.*)$", text, re.IGNORECASE)
    if not found or base(found[2].split()[0]) is None or ":" in found[2]:  # what stands behind a colon is no clause
        return None
    ending = re.search(rf"\s+{_ARTICLE}{re.escape(tail)}$", found[2], re.IGNORECASE)
    return Clause(found[1], found[2], found[2][: ending.start()] if ending else None)


def base(verb: str) -> str | None:
    """The base form of a verb in the third person ("goes" -> "go"; "is" stays); None for what does not look like one.

    >>> [base(verb) for verb in ("touches", "carries", "shows", "is", "slowly", "glass")]
    ['touch', 'carry', 'show', 'is', None, None]
    """
    if verb in _BE:
        return verb
    if verb in _IRREGULAR:
        return _IRREGULAR[verb]
    if not verb.endswith("s") or verb.endswith(("ss", "us")) or len(verb) < 3 or verb in _NO_VERBS:
        return None
    if verb.endswith("ies"):
        return verb[:-3] + "y"
    return verb[:-2] if verb.endswith(("sses", "shes", "ches", "xes", "zzes", "oes")) else verb[:-1]


def inverted(subject: str, verb: str) -> tuple[str, str]:
    """How a question goes on after "which object", in the present and in the past.

    >>> inverted("the star", "shows"), inverted("the person", "is holding")
    (('does the star show', 'did the star show'), ('is the person holding', 'was the person holding'))
    """
    first, *rest = verb.split()
    if first in _BE:
        return " ".join([first, subject, *rest]), " ".join([_BE[first], subject, *rest])
    stem = base(first)
    if stem is None:
        raise ValueError(f"{verb!r} does not begin with a verb in the third person; take it from parts()")
    asked = " ".join([subject, stem, *rest])
    return f"does {asked}", f"did {asked}"


def noun(kind: str) -> str:
    """What a question calls a node of this kind; `thing` for kinds that it does not know."""
    return NOUNS.get(kind, "thing")


def nth(number: int) -> str:
    """1 -> "first"; from eleven on in figures: "11th", "22nd".

    >>> nth(2), nth(11), nth(22), nth(113)
    ('second', '11th', '22nd', '113th')
    """
    if number <= len(ORDINALS):
        return ORDINALS[number - 1]
    ending = "th" if number // 10 % 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def same(text: str) -> str:
    """A text as it is compared with others: case folded, spaces and the full stop at its ends off."""
    return " ".join(text.casefold().split()).rstrip(". ")
