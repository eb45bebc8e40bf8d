"""When a standing query (standing.py) is replied to: area under the score curve, one-to-one windows, duplicates,
replies that draw out earlier ones, replies out of span, and their sum in MMDuet2."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

from rewards.base import Reward, RewardError, Scene, Scored
from rewards.parsing import normal
from rewards.standing import Gold, Match, Standing, agreement, spoken, standing
from whilst.episode import Episode, Turn


def _mean(episode: Episode, of: Callable[[Standing, list[Turn]], float], found: Sequence[Standing]) -> float:
    return sum(of(one, spoken(episode, one.query)) for one in found) / len(found)


# ---- Area under the curve.


@dataclass(frozen=True)
class Pauc:
    """PAUC of MMDuet2 (arXiv 2512.06810; the metric of ProactiveVideoQA), 0 to 1: how soon the right thing is said.

    With replies of scores s_1 .. s_P at tau_1 .. tau_P in [ts, te]:
    ((tau_1 - ts) * before + sum (tau_p+1 - tau_p) * s_p + (te - tau_P) * s_P) / ((te - ts) * most): the last reply
    counts until the next, and `before` (0.5 of 2) until the first: silence is worth 0.25, a wrong reply less. A score
    is `most` times how right the reply is. A window without length has the score that holds at its end.

    delay: how much of a reply's delay counts; MMDuet2's code halves it, so that a right reply at te is worth more than
    half, and scores replies 0 to 4 (`most`).
    early: the formula reads replies in the window alone (`ignored`), so that the same reply at every poll is worth 1.
    `void`: a reply before the window leaves nothing of the first answer's area; it was a guess.
    Mean over answers, then over queries; None for a sample without standing queries.
    """

    early: Literal["void", "ignored"] = "void"
    match: Match = "exact"
    most: float = 2.0
    before: float = 0.5
    delay: float = 1.0

    perturbations: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.before < self.most:
            raise RewardError(f"pauc: before {self.before} must be in [0, most), most is {self.most}")
        if not 0 < self.delay <= 1:
            raise RewardError(f"pauc: delay {self.delay} must be above 0 and at most 1")

    def __call__(self, episode: Episode, scene: Scene) -> Scored | None:
        found = standing(episode.sample)
        return Scored(_mean(episode, self._of, found)) if found else None

    def _of(self, one: Standing, replies: list[Turn]) -> float:
        areas = []
        for gold in one.golds:
            scores = [
                (self._counted(gold, reply.time), self.most * agreement(reply, one.query, gold.text, self.match))
                for reply in replies
                if gold.holds(reply.time)
            ]
            areas.append(self.area(gold, scores))
        if self.early == "void" and any(reply.time < one.golds[0].start for reply in replies):
            areas[0] = 0.0
        return sum(areas) / len(areas)

    def _counted(self, gold: Gold, time: float) -> float:
        return time if self.delay == 1.0 else gold.start + self.delay * (time - gold.start)

    def area(self, gold: Gold, scores: list[tuple[float, float]]) -> float:
        steps = [(gold.start, self.before), *scores]
        if gold.end == gold.start:
            return steps[-1][1] / self.most
        area = sum((later - time) * value for (time, value), (later, _) in pairwise([*steps, (gold.end, 0.0)]))
        return area / ((gold.end - gold.start) * self.most)


# ---- One reply for each answer.


@dataclass(frozen=True)
class WindowF1:
    """F1 of replies and answers matched one to one, each reply to an answer that is valid at its time and that it says.

    Precision is over all replies, so talking at every poll is paid for; recall over all answers. match: `exact`, or an
    F1 of words of at least `least`. late: see `standing`; [t, t + 5 s] or 10 s are the windows of TRACE, which end
    where the next one begins (here they may overlap, and matching is best possible).
    Mean over queries; None for a sample without standing queries. Parts: precision, recall.
    """

    match: Match = "exact"
    least: float = 0.5
    late: float | None = None

    perturbations: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if not 0 < self.least <= 1 or (self.late is not None and not self.late >= 0):
            raise RewardError(f"window_f1: least {self.least} must be in (0, 1], late {self.late} None or 0 s or more")

    def __call__(self, episode: Episode, scene: Scene) -> Scored | None:
        found = standing(episode.sample, self.late)
        if not found:
            return None
        scores, precisions, recalls = [], [], []
        for one in found:
            replies = spoken(episode, one.query)
            fitting = [
                [i for i, gold in enumerate(one.golds) if gold.holds(reply.time) and self._says(one, reply, gold)]
                for reply in replies
            ]
            matched = len(best_matching(fitting))
            scores.append(2 * matched / (len(replies) + len(one.golds)))
            precisions.append(matched / len(replies) if replies else 0.0)
            recalls.append(matched / len(one.golds))
        count = len(found)
        return Scored(sum(scores) / count, {"precision": sum(precisions) / count, "recall": sum(recalls) / count})

    def _says(self, one: Standing, reply: Turn, gold: Gold) -> bool:
        return agreement(reply, one.query, gold.text, self.match) >= (1.0 if self.match == "exact" else self.least)


def best_matching(fitting: Sequence[Sequence[int]]) -> dict[int, int]:
    """A largest one-to-one matching: {answer: reply}. fitting[reply] lists the answers that the reply fits.

    By augmenting paths, found breadth first: which answers a reply fits depends on its words and not on time alone, so
    taking the earliest end first would not do.
    """
    owner: dict[int, int] = {}
    held: dict[int, int] = {}  # reply: answer
    for reply in range(len(fitting)):
        reached: dict[int, int] = {}  # answer: the reply from which it was reached
        waiting = [reply]
        for one in waiting:
            for answer in fitting[one]:
                if answer in reached:
                    continue
                reached[answer] = one
                if answer in owner:
                    waiting.append(owner[answer])
                    continue
                free: int | None = answer
                while free is not None:  # hand answers on along the path, back to the reply that had none
                    taker = reached[free]
                    owner[free] = taker
                    held[taker], free = free, held.get(taker)
                waiting.clear()
                break
    return owner


# ---- What spoils a dialogue. Penalties: 0 at best, which silence has too; they are for adding to a reward.


@dataclass(frozen=True)
class Duplicates:
    """Less the share of replies that say again what was said to the same query, in [-1, 0]; `rep` of MMDuet2.

    The same but for `parsing.normal`. A text may be said as often as the sample has answers of these words, and once
    in any case. Mean over standing queries; None for a sample without any.
    """

    perturbations: ClassVar[tuple[str, ...]] = ()

    def __call__(self, episode: Episode, scene: Scene) -> Scored | None:
        found = standing(episode.sample)
        return Scored(-_mean(episode, self._of, found)) if found else None

    def _of(self, one: Standing, replies: list[Turn]) -> float:
        wanted = Counter(normal(gold.text) for gold in one.golds)
        said = Counter(normal(reply.text) for reply in replies)
        again = sum(max(0, count - max(1, wanted[text])) for text, count in said.items())
        return again / len(replies) if replies else 0.0


@dataclass(frozen=True)
class Prefix:
    """Less the share of replies that begin with an earlier reply to the same query, or are its beginning: [-1, 0].

    What MMDuet2 calls `prefix` is only named in what is public; this reading is ours: a reply that draws out or cuts
    short an earlier one says nothing new, and escapes `Duplicates` by a word. By words; equal replies are duplicates
    and do not count here, nor do texts that are answers of the sample. Mean over standing queries.
    """

    perturbations: ClassVar[tuple[str, ...]] = ()

    def __call__(self, episode: Episode, scene: Scene) -> Scored | None:
        found = standing(episode.sample)
        return Scored(-_mean(episode, self._of, found)) if found else None

    def _of(self, one: Standing, replies: list[Turn]) -> float:
        wanted = {tuple(normal(gold.text).split()) for gold in one.golds}
        said = [tuple(normal(reply.text).split()) for reply in replies]
        extending = sum(
            words not in wanted and any(_extends(words, earlier) for earlier in set(said[:i]))
            for i, words in enumerate(said)
        )
        return extending / len(said) if said else 0.0


def _extends(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    size = min(len(one), len(other))
    return one != other and one[:size] == other[:size]


@dataclass(frozen=True)
class InSpan:
    """Share of replies while there is something to say, less the share of others, in [-1, 1]; silence is worth 0.

    Of time alone: what is said is not looked at. Mean over standing queries that are polled outside their windows too,
    where saying something every time is worth less than 1; None for a sample without any. `in_span` of MMDuet2.
    """

    perturbations: ClassVar[tuple[str, ...]] = ()

    def __call__(self, episode: Episode, scene: Scene) -> Scored | None:
        found = [one for one in standing(episode.sample) if one.outside]
        return Scored(_mean(episode, self._of, found)) if found else None

    def _of(self, one: Standing, replies: list[Turn]) -> float:
        inside = sum(one.inside(reply.time) for reply in replies)
        return (2 * inside - len(replies)) / len(replies) if replies else 0.0


@dataclass(frozen=True)
class MMDuet2:
    """w1 PAUC + w2 rep + w3 in_span + w4 prefix (MMDuet2): `Pauc` with replies before the window ignored, as published.

    The weights are not in what is public of the paper; one each is ours, those of the released script are in
    recipes/mmduet2. most, delay: as in `Pauc`; the release has 4 and 0.5. Parts: the four, unweighted; in_span is left
    out (0) for samples that it does not apply to. None for a sample without standing queries.
    """

    pauc: float = 1.0
    rep: float = 1.0
    in_span: float = 1.0
    prefix: float = 1.0
    match: Match = "exact"
    most: float = 2.0
    delay: float = 1.0

    perturbations: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        self._area()  # checks them

    def _area(self) -> Pauc:
        return Pauc("ignored", self.match, self.most, delay=self.delay)

    def __call__(self, episode: Episode, scene: Scene) -> Scored | None:
        area = self._area()(episode, scene)
        if area is None:
            return None
        rest: dict[str, Reward] = {"rep": Duplicates(), "in_span": InSpan(), "prefix": Prefix()}
        parts = {"pauc": area.score}
        for name, reward in rest.items():
            scored = reward(episode, scene)
            parts[name] = 0.0 if scored is None else scored.score
        return Scored(sum(getattr(self, name) * value for name, value in parts.items()), parts)


REWARDS: dict[str, type[Reward]] = {
    "pauc": Pauc,
    "window_f1": WindowF1,
    "duplicates": Duplicates,
    "prefix": Prefix,
    "in_span": InSpan,
    "mmduet2": MMDuet2,
}
VARIANTS: dict[str, tuple[str, dict]] = {
    "pauc_mmduet2": ("pauc", {"early": "ignored"}),
    "window_f1_5s": ("window_f1", {"late": 5.0}),
    "window_f1_10s": ("window_f1", {"late": 10.0}),
}
