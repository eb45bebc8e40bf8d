"""Accuracy: is what a policy replied what the sample says? One class a type of answer, and `accuracy`, which chooses.

A query is judged by one reply (queries.py); one that is missing, silent, cut off or too early scores 0. The score of an
episode is the mean over the queries that a reward applies to; where the sample has none, the reward does not apply.

The answer of a sample is that of its first answer to the query. `answer_in` says where a reply holds its answer
(parsing.py); the sample's own is taken out in the same way, or whole where it is written plainly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from rewards.base import RewardError, Scene, Scored
from rewards.overlap import rouge, token_f1, word_accuracy
from rewards.parsing import Place, answer_in, choice, gold_in, normal, number, yes_no
from rewards.queries import judged_text
from whilst.episode import Episode
from whilst.sample import Query


def gold_of(episode: Episode, query: Query, place: Place) -> str:
    """What the sample answers to a query."""
    return gold_in(episode.sample.answers_to(query.id)[0].text, place)


def said_to(episode: Episode, query: Query, place: Place) -> str | None:
    """What the episode answers to a query; None where that is wrong without a look at it."""
    text = judged_text(query, episode.replies_to(query.id))
    return (None if text is None else answer_in(text, place)) or None


def by_kind(grades: Mapping[str, tuple[Query, float]]) -> Scored | None:
    """The mean of grades by query id; parts: mean and count of every kind of query. None where there are none."""
    if not grades:
        return None
    kinds: dict[str, list[float]] = {}
    for query, grade in grades.values():
        kinds.setdefault(query.kind or "other", []).append(grade)
    parts = {f"accuracy/{kind}": math.fsum(of_kind) / len(of_kind) for kind, of_kind in sorted(kinds.items())}
    parts |= {f"queries/{kind}": float(len(of_kind)) for kind, of_kind in sorted(kinds.items())}
    return Scored(math.fsum(grade for _, grade in grades.values()) / len(grades), parts)


@dataclass(frozen=True)
class Graded:
    """What the rewards below share. kinds: the kinds of queries that count, None for all (`other` has no kind)."""

    perturbations: ClassVar[tuple[str, ...]] = ()

    answer_in: Place = "whole"
    kinds: tuple[str, ...] | None = None

    def applies(self, query: Query, gold: str) -> bool:
        """Whether a query is of the type; depends on the sample alone."""
        return True

    def grade(self, said: str, gold: str, query: Query) -> float:
        """0 to 1. `said` is not empty."""
        raise NotImplementedError

    def judged(self, episode: Episode) -> list[tuple[Query, str]]:
        """The queries that count, each with its answer."""
        golds = [(query, gold_of(episode, query, self.answer_in)) for query in episode.sample.queries()]
        wanted = [(q, gold) for q, gold in golds if self.kinds is None or (q.kind or "other") in self.kinds]
        return [(query, gold) for query, gold in wanted if self.applies(query, gold)]

    def __call__(self, episode: Episode, scene: Scene) -> Scored | None:
        grades = {}
        for query, gold in self.judged(episode):
            said = said_to(episode, query, self.answer_in)
            grades[query.id] = (query, 0.0 if said is None else self.grade(said, gold, query))
        return by_kind(grades)


@dataclass(frozen=True)
class MultipleChoice(Graded):
    """Queries with options: 1 if the reply is the right option, by its letter or its text, alone. No letter fishing."""

    def applies(self, query: Query, gold: str) -> bool:
        return query.options is not None

    def grade(self, said: str, gold: str, query: Query) -> float:
        assert query.options is not None
        right = choice(gold, query.options)
        if right is None:
            raise RewardError(f"query {query.id!r}: its answer {gold!r} is none of its options {list(query.options)}")
        picked = choice(said, query.options)
        # two options with one text are one option
        return float(picked is not None and query.options[picked] == query.options[right])


@dataclass(frozen=True)
class YesNo(Graded):
    """Queries that are answered by yes or no: 1 if the reply is the right word alone."""

    def applies(self, query: Query, gold: str) -> bool:
        return query.options is None and yes_no(gold) is not None

    def grade(self, said: str, gold: str, query: Query) -> float:
        return float(yes_no(said) == yes_no(gold))


@dataclass(frozen=True)
class _Numeric(Graded):
    def applies(self, query: Query, gold: str) -> bool:
        return query.options is None and number(gold) is not None


@dataclass(frozen=True)
class Number(_Numeric):
    """Queries that are answered by a number g: 1 if the reply is a number p, |p - g| <= max(absolute, relative |g|).

    relative: below 1, else 0 would always be right.
    """

    absolute: float = 0.0
    relative: float = 0.0

    def __post_init__(self) -> None:
        if self.absolute < 0:
            raise RewardError(f"number: absolute is {self.absolute}; give a tolerance of at least 0")
        if not 0 <= self.relative < 1:
            raise RewardError(f"number: relative is {self.relative}; give a share of at least 0 and below 1")

    def grade(self, said: str, gold: str, query: Query) -> float:
        p, g = number(said), number(gold)
        assert g is not None
        return float(p is not None and abs(p - g) <= max(self.absolute, self.relative * abs(g)))


@dataclass(frozen=True)
class Rounded(_Numeric):
    """As Video-R1 for numbers: both or neither have a decimal sign (point or comma), and both round to the same
    `digits` after it."""

    digits: int = 2

    def grade(self, said: str, gold: str, query: Query) -> float:
        p, g = number(said), number(gold)
        assert g is not None
        if p is None or _has_decimals(said) != _has_decimals(gold):
            return 0.0
        return float(round(p, self.digits) == round(g, self.digits))


def _has_decimals(text: str) -> bool:
    return any(sign in normal(text) for sign in ".,")


@dataclass(frozen=True)
class Regression(_Numeric):
    """1 - clip((|p - g| + epsilon) / (|g| + epsilon), 0, 1); with epsilon 0 and g = 0, 1 for p = 0 and 0 else.

    Video-R1 has epsilon 1e-9 (its variant here): under it nothing scores where g is 0, the right reply neither.
    """

    epsilon: float = 0.0

    def __post_init__(self) -> None:
        if self.epsilon < 0:
            raise RewardError(f"regression: epsilon is {self.epsilon}; give at least 0")

    def grade(self, said: str, gold: str, query: Query) -> float:
        p, g = number(said), number(gold)
        assert g is not None
        if p is None:
            return 0.0
        scale = abs(g) + self.epsilon
        if scale == 0.0:
            return float(p == g)
        return 1.0 - min(1.0, (abs(p - g) + self.epsilon) / scale)


@dataclass(frozen=True)
class Verbatim(Graded):
    """1 if the reply is the answer, character for character but for white space around it: as evaluation/scores.py."""

    def grade(self, said: str, gold: str, query: Query) -> float:
        return float(said == gold)


@dataclass(frozen=True)
class Exact(Graded):
    """1 if the reply is the answer but for `normal` (parsing.py): case, spaces, one full stop, parentheses."""

    def grade(self, said: str, gold: str, query: Query) -> float:
        return float(normal(said) == normal(gold))


@dataclass(frozen=True)
class F1(Graded):
    """Token F1 (SQuAD)."""

    def grade(self, said: str, gold: str, query: Query) -> float:
        return token_f1(said, gold)


@dataclass(frozen=True)
class Rouge(Graded):
    """Mean F of ROUGE-1, ROUGE-2 and ROUGE-L, as Video-R1 for free-form answers, but not stemmed (overlap.py)."""

    def grade(self, said: str, gold: str, query: Query) -> float:
        return rouge(said, gold)


@dataclass(frozen=True)
class Ocr(Graded):
    """1 - word error rate, not below 0, as Video-R1 for text in the picture."""

    def grade(self, said: str, gold: str, query: Query) -> float:
        return word_accuracy(said, gold)


OPEN: dict[str, Callable[..., Graded]] = {"exact": Exact, "verbatim": Verbatim, "f1": F1, "rouge": Rouge, "ocr": Ocr}


# problem_type of Video-R1 (open_r1/grpo.py, accuracy_reward), beside its choices
VIDEO_R1: dict[str, Graded] = {
    "numerical": Rounded(digits=2),
    "ocr": Ocr(),
    "free_form": Rouge(),
    "regression": Regression(epsilon=1e-9),
}


@dataclass(frozen=True)
class Accuracy(Graded):
    """Each query by the type of its answer: multiple choice where it has options, else yes/no, number, or open.

    open: how open answers are compared, a name of OPEN. absolute, relative: tolerance of numbers. types: whether the
    answer says its type, or first of all the query's kind, one of VIDEO_R1, as that paper grades them.
    """

    open: Literal["exact", "verbatim", "f1", "rouge", "ocr"] = "exact"
    absolute: float = 0.0
    relative: float = 0.0
    types: Literal["answer", "video_r1"] = "answer"

    def __post_init__(self) -> None:
        Number(absolute=self.absolute, relative=self.relative)  # checks them

    def grade(self, said: str, gold: str, query: Query) -> float:
        return self._type(gold, query).grade(said, gold, query)

    def _type(self, gold: str, query: Query) -> Graded:
        of_kind = VIDEO_R1.get(query.kind or "") if self.types == "video_r1" else None
        found = (MultipleChoice(), of_kind, YesNo(), Number(absolute=self.absolute, relative=self.relative))
        for of_type in filter(None, found):
            if of_type.applies(query, gold):
                return of_type
        return OPEN[self.open]()


REWARDS: dict[str, type] = {
    "accuracy": Accuracy,
    "multiple_choice": MultipleChoice,
    "yes_no": YesNo,
    "number": Number,
    "rounded": Rounded,
    "regression": Regression,
    "verbatim": Verbatim,
    "exact": Exact,
    "f1": F1,
    "rouge": Rouge,
    "ocr": Ocr,
}
_VIDEO_R1 = {"answer_in": "tag"}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "video_r1_multiple_choice": ("multiple_choice", _VIDEO_R1),
    "video_r1_numerical": ("rounded", _VIDEO_R1 | {"digits": 2}),
    "video_r1_ocr": ("ocr", _VIDEO_R1),
    "video_r1_free_form": ("rouge", _VIDEO_R1),
    "video_r1_regression": ("regression", _VIDEO_R1 | {"epsilon": 1e-9}),
    "vst_accuracy": ("accuracy", {"answer_in": "boxed"}),
}
