"""How much two texts have in common, 0 to 1: token F1, ROUGE, word error rate. A text without words has nothing in
common with any."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Hashable, Sequence

_WORD = re.compile(r"\w+")
_ARTICLES = {"a", "an", "the"}
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def token_f1(reply: str, gold: str) -> float:
    """F1 of the words that both have, without case, punctuation and English articles (SQuAD, arXiv 1606.05250)."""
    said, wanted = _squad_words(reply), _squad_words(gold)
    return _f(sum((Counter(said) & Counter(wanted)).values()), len(said), len(wanted))


def rouge(reply: str, gold: str) -> float:
    """Mean F of ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004), words in lower case, unlike the usual package not stemmed.

    ROUGE-2 is left out of the mean where the gold answer has a single word: no reply could score in it.
    """
    said, wanted = _words(reply), _words(gold)
    common = common_subsequence(said, wanted)
    parts = [rouge_n(said, wanted, 1), _f(common, len(said), len(wanted))]
    if len(wanted) > 1:
        parts.append(rouge_n(said, wanted, 2))
    return sum(parts) / len(parts)


def rouge_n(said: Sequence[str], wanted: Sequence[str], n: int) -> float:
    """F of the n-grams that both have."""
    one, other = ngrams(said, n), ngrams(wanted, n)
    return _f(sum((Counter(one) & Counter(other)).values()), len(one), len(other))


def word_accuracy(reply: str, gold: str) -> float:
    """1 - word error rate, not below 0. Words are what white space separates; case and punctuation count."""
    said, wanted = reply.split(), gold.split()
    return max(0.0, 1.0 - edits(said, wanted) / len(wanted)) if said and wanted else 0.0


def ngrams(items: Sequence[Hashable], n: int) -> list[tuple[Hashable, ...]]:
    """All runs of n items, in order; none where there are fewer."""
    return [tuple(items[i : i + n]) for i in range(len(items) - n + 1)]


def common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for item in one:
        before = row
        row = [0]
        for j, another in enumerate(other):
            row.append(before[j] + 1 if item == another else max(before[j + 1], row[j]))
    return row[-1]


def edits(one: Sequence[str], other: Sequence[str]) -> int:
    """Fewest insertions, deletions and substitutions of items that turn one into the other."""
    row = list(range(len(other) + 1))
    for i, item in enumerate(one, start=1):
        before = row
        row = [i]
        for j, another in enumerate(other):
            row.append(min(before[j] + (item != another), before[j + 1] + 1, row[j] + 1))
    return row[-1]


def _f(common: int, said: int, wanted: int) -> float:
    return 2.0 * common / (said + wanted) if common else 0.0


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold()) or text.split()


def _squad_words(text: str) -> list[str]:
    """An answer that is an article or a sign alone keeps it: else it could be met by saying nothing."""
    bare = [word for word in text.casefold().translate(_NO_PUNCTUATION).split() if word not in _ARTICLES]
    return bare or text.casefold().split()
