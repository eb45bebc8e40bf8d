"""Format: is a reply, or a thought, written as asked? Says nothing of what is in it: weigh it below accuracy.

Replies: the mean over all queries of the sample, each judged by the reply that counts (queries.py); a reply that is
missing, silent, cut off or too early scores 0. Thoughts: a cost, 0 at best, since silence is well-formed too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from rewards.base import RewardError, Scene, Scored
from rewards.parsing import boxed, boxes, number, tagged
from rewards.queries import judged_text
from whilst.episode import Episode

THINK_ANSWER = r"<think>.*?</think>\s*<answer>.*?</answer>"
THINK_ANSWER_GLUE = THINK_ANSWER + r"\s*<glue>.*?</glue>"

_PAIR = r"[\[(]\s*([^\[\](),\s]+)\s*,\s*([^\[\](),\s]+)\s*[\])]"
_PAIRS = re.compile(rf"\[\s*(?:{_PAIR}\s*(?:,\s*{_PAIR}\s*)*,?\s*)?\]")


def _share(episode: Episode, well_formed: Callable[[str], bool]) -> Scored | None:
    """The share of queries whose reply is well-formed; None for a sample without queries."""
    queries = episode.sample.queries()
    if not queries:
        return None
    texts = [judged_text(query, episode.replies_to(query.id)) for query in queries]
    return Scored(sum(text is not None and well_formed(text.strip()) for text in texts) / len(queries))


@dataclass(frozen=True)
class Pattern:
    """1 if the whole reply matches a regular expression, `.` standing for line breaks too.

    As Video-R1's with its default, which also takes empty sections and repeated tags; `sections` takes neither.
    """

    perturbations: ClassVar[tuple[str, ...]] = ()

    pattern: str = THINK_ANSWER

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise RewardError(f"pattern: {self.pattern!r} is no regular expression: {error}") from error

    def __call__(self, episode: Episode, scene: Scene) -> Scored | None:
        return _share(episode, lambda text: re.fullmatch(self.pattern, text, re.DOTALL) is not None)


@dataclass(frozen=True)
class Sections:
    """1 if the reply is `<a>...</a>`, `<b>...</b>` and so on, in this order, each once and not empty, and no more."""

    perturbations: ClassVar[tuple[str, ...]] = ()

    names: tuple[str, ...] = ("think", "answer")

    def __post_init__(self) -> None:
        if not self.names or len(set(self.names)) < len(self.names):
            raise RewardError(f"sections: names are {list(self.names)}; give one or more that differ")

    def __call__(self, episode: Episode, scene: Scene) -> Scored | None:
        return _share(episode, self._well_formed)

    def _well_formed(self, text: str) -> bool:
        order = r"\s*".join(f"<{re.escape(name)}>.*</{re.escape(name)}>" for name in self.names)
        return bool(re.fullmatch(order, text, re.DOTALL)) and all(tagged(text, name) for name in self.names)


@dataclass(frozen=True)
class BoxedOnce:
    r"""1 if `\boxed{...}` stands in the reply exactly once, closed and not empty."""

    perturbations: ClassVar[tuple[str, ...]] = ()

    def __call__(self, episode: Episode, scene: Scene) -> Scored | None:
        return _share(episode, lambda text: boxes(text) == 1 and bool(boxed(text)))


@dataclass(frozen=True)
class Intervals:
    """1 if the reply matches `pattern` and holds, in one `tag`, a list of `least` or more pairs `(start, end)`, numbers
    with 0 <= start <= end. As VideoChat-R1's grounded questions, which take an empty list (its variant here)."""

    perturbations: ClassVar[tuple[str, ...]] = ()

    pattern: str = THINK_ANSWER_GLUE
    tag: str = "glue"
    least: int = 1

    def __post_init__(self) -> None:
        Pattern(self.pattern)  # checks it

    def __call__(self, episode: Episode, scene: Scene) -> Scored | None:
        return _share(episode, self._well_formed)

    def _well_formed(self, text: str) -> bool:
        inside = tagged(text, self.tag)
        if inside is None or not re.fullmatch(self.pattern, text, re.DOTALL) or not _PAIRS.fullmatch(inside):
            return False
        pairs = [(number(start), number(end)) for start, end in re.findall(_PAIR, inside)]
        return len(pairs) >= self.least and all(
            start is not None and end is not None and 0 <= start <= end for start, end in pairs
        )


@dataclass(frozen=True)
class ThoughtFormat:
    """Minus the share of thoughts that are cut off, over `most` tokens (the boundary token included), or of more lines
    than `lines`. 0 is the best, and a silent thought has it. None for a sample without segments."""

    perturbations: ClassVar[tuple[str, ...]] = ()

    most: int | None = None
    lines: int | None = None

    def __call__(self, episode: Episode, scene: Scene) -> Scored | None:
        if not episode.sample.segments():
            return None
        thoughts = episode.thoughts
        long = [self.most is not None and thought.tokens > self.most for thought in thoughts]
        tall = [self.lines is not None and len(thought.text.splitlines()) > self.lines for thought in thoughts]
        cut = [not thought.finished for thought in thoughts]
        n = max(1, len(thoughts))
        bad = sum(any(faults) for faults in zip(long, tall, cut, strict=True))
        return Scored(
            -bad / n, {"unfinished": sum(cut) / n, "too_long": sum(long) / n, "too_many_lines": sum(tall) / n}
        )


REWARDS: dict[str, type] = {
    "pattern": Pattern,
    "sections": Sections,
    "boxed_once": BoxedOnce,
    "intervals": Intervals,
    "thought_format": ThoughtFormat,
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "video_r1_format": ("pattern", {"pattern": THINK_ANSWER}),
    "videochat_r1_gqa_format": ("intervals", {"pattern": THINK_ANSWER_GLUE, "tag": "glue", "least": 0}),
}
