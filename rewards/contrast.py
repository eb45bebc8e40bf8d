"""Contrast: does the policy do better on the video as it is than on one from which something was taken?

Both rewards read rollouts of the same sample under a perturbation. Right is what `accuracy.Accuracy` calls right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from rewards.accuracy import Accuracy
from rewards.base import Reward, RewardError, Scene, Scored
from rewards.parsing import Place
from whilst.episode import Episode
from whilst.sample import Sample, Segment


def accuracy_of(episode: Episode, accuracy: Accuracy) -> float | None:
    """The accuracy of one episode; None where its sample has no query that counts."""
    scored = accuracy(episode, Scene((episode,)))
    return None if scored is None else scored.score


def mean_accuracy(episodes: Sequence[Episode], accuracy: Accuracy) -> float:
    """The mean accuracy of rollouts of one sample.

    Raises:
        RewardError: no rollouts, or one of a sample without a query that counts: it is of another sample.
    """
    found = [score for one in episodes if (score := accuracy_of(one, accuracy)) is not None]
    if not found or len(found) != len(episodes):
        raise RewardError(
            f"{len(found)} of {len(episodes)} rollouts can be right or wrong; give rollouts of one sample"
        )
    return sum(found) / len(found)


@dataclass(frozen=True)
class TGRPO:
    """T-GRPO (Video-R1, arXiv 2503.21776): a bonus for being right where the group needs the order of the frames.

    `bonus` for an episode with an accuracy above `floor`, if the group's mean accuracy is at least `ratio` times that
    of rollouts on shuffled frames; else 0. ratio is 1.0 in the paper (p >= p~) and 0.8 in its code. Where both means
    are 0 the condition holds, but no episode is above `floor`: nobody gets the bonus. types: as in `Accuracy`; the code
    takes the accuracy that it rewards, ROUGE and word error included (`video_r1`).
    None for a sample without queries. Parts: group and shuffled (mean accuracies).
    """

    bonus: float = 0.3
    ratio: float = 0.8
    floor: float = 0.1
    answer_in: Place = "whole"
    types: Literal["answer", "video_r1"] = "answer"

    perturbations: ClassVar[tuple[str, ...]] = ("shuffled_frames",)

    def __post_init__(self) -> None:
        if self.ratio < 0 or not 0 <= self.floor < 1:
            raise RewardError(f"t_grpo: ratio {self.ratio} must be 0 or more, floor {self.floor} in [0, 1)")

    def __call__(self, episode: Episode, scene: Scene) -> Scored | None:
        accuracy = Accuracy(answer_in=self.answer_in, types=self.types)
        own = accuracy_of(episode, accuracy)
        if own is None:
            return None
        group, shuffled = mean_accuracy(scene.group, accuracy), mean_accuracy(scene.under("shuffled_frames"), accuracy)
        earned = own > self.floor and group >= self.ratio * shuffled
        return Scored(self.bonus if earned else 0.0, {"group": group, "shuffled": shuffled})


def evidence_segments(sample: Sample) -> frozenset[int]:
    """Ordinals of the segments that overlap evidence of any query. Empty: `evidence_removed` does not apply."""
    spans = [span for query in sample.queries() for span in query.evidence]
    segments = enumerate(sample.segments())
    return frozenset(i for i, segment in segments if any(_overlap(segment, *span) for span in spans))


def _overlap(segment: Segment, first: float, last: float) -> bool:
    """A span overlaps for some length of time. A moment overlaps the segments on both sides of it: it may show in
    either, and that of the video's end lies in no half-open segment."""
    if first == last:
        return segment.start <= first <= segment.end
    return first < segment.end and segment.start < last


@dataclass(frozen=True)
class EvidenceContrast:
    """Accuracy less the mean accuracy of rollouts on the video without its evidence: in [-1, 1].

    After the relative reward of VideoPerceiver (arXiv 2511.18823: the reply to the whole video must score above the
    one to a video without its key frames); the paper's code and exact formula are not public, the difference is ours.
    What is right without evidence was guessed, and earns nothing. None for a sample without queries of these kinds
    (None: all), or without evidence that a segment shows. Parts: whole, removed.
    """

    kinds: tuple[str, ...] | None = None
    answer_in: Place = "whole"

    perturbations: ClassVar[tuple[str, ...]] = ("evidence_removed",)

    def __call__(self, episode: Episode, scene: Scene) -> Scored | None:
        accuracy = Accuracy(answer_in=self.answer_in, kinds=self.kinds)
        own = accuracy_of(episode, accuracy)
        if own is None or not evidence_segments(episode.sample):
            return None
        removed = mean_accuracy(scene.under("evidence_removed"), accuracy)
        return Scored(own - removed, {"whole": own, "removed": removed})


REWARDS: dict[str, type[Reward]] = {"t_grpo": TGRPO, "evidence_contrast": EvidenceContrast}
VARIANTS: dict[str, tuple[str, dict]] = {"t_grpo_paper": ("t_grpo", {"ratio": 1.0})}
