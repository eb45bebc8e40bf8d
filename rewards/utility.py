"""Thought utility: what the thoughts are worth to the answers, as answers with the text memory minus answers without.

The answers without come from rollouts under the perturbation `no_memory`, in which the text memory is empty whenever a
query is put. What the current segment or a guess gives away is right in both and earns nothing. All rollouts of a group
share the baseline: it shows in what is logged and where rewards are clipped, and does not change their order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rewards.accuracy import Accuracy
from rewards.base import Reward, Scene, Scored
from rewards.contrast import accuracy_of, mean_accuracy
from rewards.parsing import Place
from whilst.episode import Episode

PAST = ("backward", "order", "counting", "multi_hop")  # kinds whose evidence lies before the current segment


@dataclass(frozen=True)
class Utility:
    """Accuracy on queries of these kinds, less the mean accuracy without text memory: in [-1, 1].

    None for a sample without such a query. Parts: with_memory, without_memory.
    """

    kinds: tuple[str, ...] = PAST
    answer_in: Place = "whole"

    perturbations: ClassVar[tuple[str, ...]] = ("no_memory",)

    def __call__(self, episode: Episode, scene: Scene) -> Scored | None:
        accuracy = Accuracy(answer_in=self.answer_in, kinds=self.kinds)
        own = accuracy_of(episode, accuracy)
        if own is None:
            return None
        without = mean_accuracy(scene.under("no_memory"), accuracy)
        return Scored(own - without, {"with_memory": own, "without_memory": without})


REWARDS: dict[str, type[Reward]] = {"utility": Utility}
VARIANTS: dict[str, tuple[str, dict]] = {}
