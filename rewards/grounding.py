"""Thought grounding: do the thoughts say the evidence of the answers, and nothing that did not happen?

What is true of a segment is what the sample's own thought of it says. The facts of a segment are the words of that
thought: names and relations, without articles, forms of be and the words that frame a thought ("here", "I see"). The
evidence of a query is in the segments whose thought says an edge of `meta["answer_edges"]`.

- coverage: of the facts in the segments of a query's evidence, the share that the policy's thoughts of the same
  segments say; mean over the queries that have evidence which was told.
- precision: of the words that the policy's thoughts say, the share that are facts of their segment. What an earlier
  segment's thought said weighs `stale` of a word that nothing has said so far, later ones included.

The score is their F. Words are counted once a segment, so repeating them gains nothing. A list of all names in every
thought covers everything, at a precision of about one segment's facts over all names; what is right covers it at 1.
Nothing said is worth 0. Order of words is not looked at: "a touches b" and "b touches a" are the same here.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from rewards.base import Reward, RewardError, Scene, Scored
from rewards.parsing import normal
from rewards.silence import Silences, Told, idle_texts, told, written
from whilst.episode import Episode
from whilst.sample import Sample

# Of texts in English: no name and no relation. Prepositions stay, they tell "goes into" from "comes out of".
FRAMES = frozenset(
    """
    a an the is are was were be been being am and or then that this these those it its there here now i see we what new
    time point part moment again once more another still
    """.split()  # noqa: SIM905 - a list of words reads best as text
)

_WORD = re.compile(r"[^\W_]+(?:[-'.][^\W_]+)*")


def content(text: str) -> frozenset[str]:
    """The words of a text that may name something: case folded; `red-circle`, `in-2` and `1.5` are one word each."""
    return frozenset(_WORD.findall(unicodedata.normalize("NFKC", text).casefold())) - FRAMES


@dataclass(frozen=True)
class Grounding:
    """F-beta of coverage and precision, 0 to 1; see the module. beta > 1 weighs coverage more.

    judged: which of the policy's words count in precision. `every` one that may name something, so that entities of
    other videos are found out but paraphrases cost too; or those of the `sample` alone (its thoughts, answers and
    options), where other words are neither good nor bad. silences: see `silence.told`. What is said of a segment is not
    judged where it is unknown whether anything happens in it, or in which words.
    None for a sample that does not record what its thoughts and answers rest on, or has no query whose evidence a
    thought told. Parts: coverage, precision.
    """

    beta: float = 1.0
    stale: float = 0.5
    judged: Literal["every", "sample"] = "every"
    silences: Silences = "idle"

    perturbations: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if not self.beta > 0 or not 0 <= self.stale <= 1:
            raise RewardError(f"grounding: beta {self.beta} must be above 0, stale {self.stale} in [0, 1]")

    def __call__(self, episode: Episode, scene: Scene) -> Scored | None:
        segments = told(episode.sample, self.silences)
        chains = evidence(episode.sample, segments) if segments is not None else []
        if segments is None or not chains:
            return None
        nothing, texts = idle_texts(segments), written(episode)
        said = [content(texts.get(i, "")) for i in range(len(segments))]
        said = [frozenset() if normal(texts.get(i, "")) in nothing else words for i, words in enumerate(said)]
        facts = [content(one.text) if one is not None and one.edges else frozenset() for one in segments]
        coverage = sum(_coverage(chain, facts, said) for chain in chains) / len(chains)
        precision = self._precision(episode.sample, segments, facts, said)
        if coverage == 0.0 or precision == 0.0:
            score = 0.0
        else:
            square = self.beta**2
            score = (1 + square) * precision * coverage / (square * precision + coverage)
        return Scored(score, {"coverage": coverage, "precision": precision})

    def _precision(
        self,
        sample: Sample,
        segments: list[Told | None],
        facts: list[frozenset[str]],
        said: list[frozenset[str]],
    ) -> float:
        names = vocabulary(sample, facts) if self.judged == "sample" else None
        right, wrong = 0, 0.0
        earlier: frozenset[str] = frozenset()
        for one, own, words in zip(segments, facts, said, strict=True):
            if one is not None and not (one.edges and not one.text):
                others = (words if names is None else words & names) - own
                right += len(words & own)
                wrong += self.stale * len(others & earlier) + len(others - earlier)
            earlier |= own
        return right / (right + wrong) if right else 0.0


def evidence(sample: Sample, segments: list[Told | None]) -> list[list[int]]:
    """For each query whose evidence was told: the ordinals of the segments whose thoughts say an edge of it."""
    record: Any = sample.meta.get("answer_edges") or {}
    chains = []
    for query in sample.queries():
        edges = set(record.get(query.id, ()))
        found = [
            i
            for i, one in enumerate(segments)
            if one is not None and edges.intersection(one.edges) and content(one.text)
        ]
        if found:
            chains.append(found)
    return chains


def vocabulary(sample: Sample, facts: list[frozenset[str]]) -> frozenset[str]:
    """The words of the sample that may name something: of its thoughts, its answers and their options."""
    texts = [answer.text for query in sample.queries() for answer in sample.answers_to(query.id)]
    texts += [option for query in sample.queries() for option in query.options or ()]
    return frozenset().union(*facts, *map(content, texts))


def _coverage(chain: list[int], facts: list[frozenset[str]], said: list[frozenset[str]]) -> float:
    wanted = sum(len(facts[i]) for i in chain)
    return sum(len(facts[i] & said[i]) for i in chain) / wanted


REWARDS: dict[str, type[Reward]] = {"grounding": Grounding}
VARIANTS: dict[str, tuple[str, dict]] = {
    "grounding_sample_words": ("grounding", {"judged": "sample"}),
    "grounding_coverage": ("grounding", {"beta": 2.0}),
}
