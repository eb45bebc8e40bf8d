"""Texts as words, so that `Red-circle.` and `the red circle` can be compared. No language model, no stemming."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from difflib import SequenceMatcher
from functools import lru_cache

BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
TAGGED = re.compile(r"<think>(.*?)</think><answer>(.*?)</answer>", re.DOTALL)

# A time of the clock: `12 s`, `3.5 seconds`, `1:05`. Not `the second one`.
SECONDS = re.compile(
    r"(?<![\w.:])(\d+(?:\.\d+)?)\s?-?(?:s|secs?|seconds?)\b|(?<![\w.:])(\d{1,2}):([0-5]\d)(?![\w:])", re.I
)

_WORD = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+(?:'[^\W\d_]+)?|\d+")


@lru_cache(maxsize=16384)
def words(text: str) -> tuple[str, ...]:
    """The words and numbers of a text, case-folded, without punctuation; `1.5` is one word."""
    return tuple(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def same(one: str, other: str) -> bool:
    """Whether two texts say the same but for case, white space and punctuation; signs alone (`+`) compare as such."""
    if words(one) or words(other):
        return words(one) == words(other)
    return one.strip() == other.strip()


def holds(text: Sequence[str], part: Sequence[str]) -> bool:
    """Whether the words `part` stand in a row somewhere in the words `text`. No words stand nowhere."""
    size = len(part)
    return size > 0 and any(tuple(text[i : i + size]) == tuple(part) for i in range(len(text) - size + 1))


def repeated(text: Sequence[str], n: int) -> float:
    """The share of n-grams that have stood in the text before, 0 to 1; 0 for a text of fewer than n words."""
    grams = [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


def likeness(one: Sequence[str], other: Sequence[str]) -> float:
    """How alike two word sequences are, 0 to 1 (the ratio of matching words in order); two empty ones are alike."""
    if one == other:
        return 1.0
    return SequenceMatcher(None, one, other, autojunk=False).ratio()


def seconds(text: str) -> list[float]:
    """The times of the clock that a text names, in seconds."""
    return [
        float(match[1]) if match[1] is not None else 60.0 * int(match[2]) + int(match[3])
        for match in SECONDS.finditer(text)
    ]


def unboxed(text: str) -> str:
    """The text with `\\boxed{...}`, and the tags of a thinking and an answer, replaced by what they hold."""
    return TAGGED.sub(r"\1 \2", BOXED.sub(r"\1", text))
