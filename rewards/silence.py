"""Silence: to say nothing when there is nothing to say, and not otherwise.

Balanced scores are recall of speaking + recall of silence - 1 (Youden's J): 0 for always silent, always speaking and
any coin in between, 1 for right alone. `FalseAlarms` is a penalty: 0 at best, which silence has too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NoReturn

from rewards.base import Reward, RewardError, Scene, Scored
from rewards.parsing import normal
from rewards.standing import spoken, standing
from whilst.episode import Episode
from whilst.sample import Sample, Segment, Silence, Thought

# ---- Replies.


@dataclass(frozen=True)
class PollSilence:
    """Balanced decisions at the polls of standing queries, in [-1, 1], over all of a sample.

    Speaking: the share of answers of the sample (see `standing.Gold`) during which something was said at least once.
    Silence: the share of polls outside of all of them at which nothing was. What is said is not looked at.
    None for a sample without polls of both kinds. Parts: spoke, silent (the two shares).
    """

    perturbations: ClassVar[tuple[str, ...]] = ()

    def __call__(self, episode: Episode, scene: Scene) -> Scored | None:
        spoke, silent = [], []
        for one in standing(episode.sample):
            times = {turn.time for turn in spoken(episode, one.query)}
            # an answer between two polls cannot be met
            met = [gold for gold in one.golds if any(gold.holds(time) for time in one.polls)]
            spoke += [any(gold.holds(time) for time in times) for gold in met]
            silent += [time not in times for time in one.outside]
        return _balanced(spoke, silent)


def _balanced(spoke: Sequence[bool], silent: Sequence[bool]) -> Scored | None:
    if not spoke or not silent:
        return None
    parts = {"spoke": sum(spoke) / len(spoke), "silent": sum(silent) / len(silent)}
    return Scored(parts["spoke"] + parts["silent"] - 1.0, parts)


# ---- Thoughts.

Silences = Literal["idle", "unknown"]


@dataclass(frozen=True)
class Told:
    """What a sample's own thought of a segment says: its text, and the ids of the edges in it (none: nothing new).

    Edges without a text: something happens, and the sample does not say in which words.
    """

    text: str
    edges: tuple[str, ...]


def told(sample: Sample, silences: Silences = "idle") -> list[Told | None] | None:
    """What the sample's thought of each segment says. `meta["thought_edges"]` has a list for every thought;
    `meta["shown_edges"]`, where there is one, a list for every segment, also for those that are left untold.

    silences: where `shown_edges` does not tell, a segment with a silence in the thought's place is `idle`, as where
    nothing happens; or `unknown` (None), as where annotators were lazy. None for a sample that records neither.

    Raises:
        RewardError: another number of lists than of thoughts or segments.
    """
    record: Any = sample.meta.get("thought_edges") or ()
    shown: Any = sample.meta.get("shown_edges")
    count = sum(isinstance(event, Thought) for event in sample.events)
    if shown is None and not (record and count):
        return None
    if count and len(record) != count:
        _refuse(sample, "thought_edges", len(record), count, "thought")
    if shown is not None and len(shown) != len(sample.segments()):
        _refuse(sample, "shown_edges", len(shown), len(sample.segments()), "segment")
    found: list[Told | None] = []
    edges = iter(record)
    for event in sample.events:
        if isinstance(event, Segment):
            found.append(None)
        elif isinstance(event, Thought):
            own = tuple(next(edges))
            if found:
                before = found[-1] or Told("", ())
                found[-1] = Told(f"{before.text} {event.text}".strip(), before.edges + own)
        elif isinstance(event, Silence) and event.query is None and found and silences == "idle" and shown is None:
            found[-1] = found[-1] or Told("", ())
    if shown is not None:
        found = [one or Told("", tuple(ids)) for one, ids in zip(found, shown, strict=True)]
    return found


def _refuse(sample: Sample, name: str, lists: int, count: int, what: str) -> NoReturn:
    raise RewardError(
        f"sample {sample.id!r}: meta.{name} has {lists} lists for {count} {what}s; give it one for each {what}"
    )


def written(episode: Episode) -> dict[int, str]:
    """What the policy thought, by segment."""
    found: dict[int, str] = {}
    for turn in episode.thoughts:
        found[turn.segment] = f"{found.get(turn.segment, '')} {turn.text}".strip()
    return found


def idle_texts(segments: Sequence[Told | None]) -> set[str]:
    """The ways in which a sample's own thoughts say that nothing is new, as `parsing.normal` has them; and silence."""
    return {""} | {normal(one.text) for one in segments if one is not None and not one.edges}


@dataclass(frozen=True)
class ThoughtSilence:
    """Balanced decisions to write something after a segment, in [-1, 1]: something happens in it, or it is idle.

    A thought says something unless it is empty or says nothing is new in the words of one of the sample's own thoughts
    ("none ."). silences: see `told`. None for a sample without segments of both kinds. Parts: spoke, silent.
    """

    silences: Silences = "idle"

    perturbations: ClassVar[tuple[str, ...]] = ()

    def __call__(self, episode: Episode, scene: Scene) -> Scored | None:
        segments = told(episode.sample, self.silences)
        if segments is None:
            return None
        says = _says_something(episode, segments)
        spoke = [said for said, one in zip(says, segments, strict=True) if one is not None and one.edges]
        silent = [not said for said, one in zip(says, segments, strict=True) if one is not None and not one.edges]
        return _balanced(spoke, silent)


@dataclass(frozen=True)
class FalseAlarms:
    """Less the share of idle segments after which a thought says something, in [-1, 0]; see `ThoughtSilence`.

    None for a sample without idle segments, or without a record of what its thoughts say.
    """

    silences: Silences = "idle"

    perturbations: ClassVar[tuple[str, ...]] = ()

    def __call__(self, episode: Episode, scene: Scene) -> Scored | None:
        segments = told(episode.sample, self.silences)
        if segments is None:
            return None
        says = _says_something(episode, segments)
        alarms = [said for said, one in zip(says, segments, strict=True) if one is not None and not one.edges]
        return Scored(-sum(alarms) / len(alarms)) if alarms else None


def _says_something(episode: Episode, segments: Sequence[Told | None]) -> list[bool]:
    nothing, texts = idle_texts(segments), written(episode)
    return [normal(texts.get(i, "")) not in nothing for i in range(len(segments))]


REWARDS: dict[str, type[Reward]] = {
    "poll_silence": PollSilence,
    "thought_silence": ThoughtSilence,
    "false_alarms": FalseAlarms,
}
VARIANTS: dict[str, tuple[str, dict]] = {}
