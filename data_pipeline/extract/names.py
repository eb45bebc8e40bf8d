"""Names, compared: what of a name counts, and which names can never mean one thing."""

from __future__ import annotations

import re
import unicodedata


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


ARTICLES = _set("a an the this that these those some another his her its their my your our")
# Words that add nothing to the one before them: a red coloured circle is a red circle.
FILLERS = _set("colored coloured shaped sized looking")
PRONOUNS = _set(
    "he she it they him them we us you i me one who what something someone somebody thing things "
    "everything everyone anybody anyone nothing himself herself itself themselves"
)
# After one of these comes what only tells more: the head of `man in a blue shirt` is `man`.
PREPOSITIONS = _set("of with in on at from near behind under beside inside holding wearing")

# Words of one set exclude each other: a red cup is no blue cup, whatever an encoder thinks of the two names.
EXCLUSIVE: tuple[frozenset[str], ...] = tuple(
    map(
        _set,
        (
            "red green blue yellow purple cyan orange pink black white grey gray brown beige",
            "left right middle",
            "top bottom upper lower",
            "front back rear",
            "first second third fourth fifth",
            "one two three four five six seven eight nine ten",
            "man woman boy girl child baby",
            "small large",
            "young old",
            "circle square triangle diamond cross rectangle",
            "0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20",
        ),
    )
)

COPULA = _set("is are be being was were")
BEINGS = ("person", "animal")
ALONE = ("activity", "scene", "cell", "colour", "text", *BEINGS)  # kinds that are never taken for another kind


def words(name: str) -> tuple[str, ...]:
    """The words of a name that count, in order: no case, accents' forms, punctuation, articles or fillers."""
    plain = unicodedata.normalize("NFKC", name).casefold().replace("'s ", " ")
    return tuple(
        word for word in re.findall(r"\w+", plain.replace("_", " ")) if word not in ARTICLES and word not in FILLERS
    )


def normal(name: str) -> str:
    """The name in its plainest form; two names with one normal form are one name."""
    return " ".join(words(name))


def head(name: tuple[str, ...]) -> str:
    """The word that says what it is: the last one before a preposition; empty for no words."""
    cut = next((i for i, word in enumerate(name) if i and word in PREPOSITIONS), len(name))
    return name[cut - 1] if name else ""


def part(shorter: tuple[str, ...], longer: tuple[str, ...]) -> bool:
    """Whether one name says less than the other about the same sort of thing: `cup`, `white cup`; not `cup lid`."""
    return set(shorter) < set(longer) and head(shorter) == head(longer)


def exclude(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether two sets of words say things that exclude each other, such as two colours."""
    return any(one & among and other & among and not one & other & among for among in EXCLUSIVE)


def alike(kind: str, other: str) -> bool:
    """Whether entities of two kinds can be one: things of any sort can, a person and a cup cannot."""
    return kind == other or (kind not in ALONE and other not in ALONE)


def relation(text: str) -> str:
    """A relation in its plainest form: `is going into` and `goes into` both become `go into`; empty for no words."""
    said = words(text)
    first, *rest = [word for word in said if word not in COPULA] or ["be" if said else ""]
    return " ".join([_stem(first), *rest])


def _stem(verb: str) -> str:
    """Cut alike what inflection makes different; the result need be no word: `carries`, `carrying` become `carri`."""
    if verb.endswith("ing") and re.search("[aeiouy]", verb[:-3]):
        verb = verb[:-3]
    elif verb.endswith("s") and not verb.endswith("ss"):
        verb = verb[:-1]
    verb = verb.removesuffix("e") if len(verb) > 2 else verb
    verb = verb[:-1] if len(verb) > 2 and verb[-1] == verb[-2] else verb
    return verb[:-1] + "i" if verb.endswith("y") else verb
