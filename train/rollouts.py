"""One generation: samples from the pool -> groups of episodes -> scores -> advantages.

What can go wrong is counted or stops training, never passed over in silence:

| fault | what happens |
|---|---|
| a video cannot be read | the sample is rejected with its reason, and so is its group; stops above `max_rejected` |
| a group whose scores are all equal | dropped and replaced, `resample_rounds` times (dynamic sampling, DAPO); counted |
| a turn that never ends | cut at its token limit, counted; `cut_off: mask` takes the episode out of the loss |
| a reward or judge that fails | training stops on every rank, naming reward, sample and rollout |
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from rewards.base import Scene
from rewards.contrast import evidence_segments
from rewards.mix import Mixed, RewardMix
from train.episodes import Judged, advantages, has_spread
from train.perturb import EVIDENCE, perturbed
from train.policies import Limits, Policy, Task
from train.pool import ClipStore, SamplePool, capped_fps
from train.rows import UNUSABLE, DataError, Rejected
from whilst.clips import SegmentClip
from whilst.sample import Sample, json_lines


@dataclass(frozen=True)
class RolloutSettings:
    """How episodes are made. A generation is `groups` samples on each rank, or `global_groups` on all of them together,
    and `rollouts` episodes of each (G).

    thought_tokens, answer_tokens: most tokens of a turn, boundary token included. batch: streams in step.
    drop_equal: leave groups without spread out of the loss; resample_rounds: how often they are replaced.
    reward_threads: episodes that are scored at one time (for judges, which wait for an endpoint).
    control: permute_advantages deals a group's advantages out at random: nothing can then be learned from the scores.
    """

    rollouts: int
    groups: int | None = None
    global_groups: int | None = None
    thought_tokens: int = 64
    answer_tokens: int = 64
    temperature: float = 1.0
    batch: int = 64
    drop_equal: bool = True
    resample_rounds: int = 0
    reward_threads: int = 1
    keep_megabytes: float = 1000.0  # of decoded frames
    control: str = "none"

    def __post_init__(self) -> None:
        if (self.groups is None) == (self.global_groups is None):
            raise ValueError("rollout: give groups (a rank) or global_groups (all ranks), one of them")
        if not (self.groups or self.global_groups):
            raise ValueError("rollout.groups must be at least 1: a generation needs one")
        for name in ("rollouts", "thought_tokens", "answer_tokens", "batch", "reward_threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"rollout.{name} must be at least 1, not {getattr(self, name)}")
        if self.rollouts < 2:
            raise ValueError("rollout.rollouts must be at least 2: an advantage is over the group's mean")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(
                f"rollout.temperature must be above 0, not {self.temperature}: greedy groups are all equal"
            )
        if self.control not in ("none", "permute_advantages"):
            raise ValueError(f"rollout.control {self.control!r}: choose none or permute_advantages")

    def at(self, ranks: int) -> RolloutSettings:
        """The same with the groups of one of `ranks`. DataError where global_groups cannot be dealt out evenly."""
        if self.global_groups is None:
            return self
        if self.global_groups % ranks:
            raise DataError(
                f"rollout.global_groups {self.global_groups} is no multiple of {ranks} ranks; change either"
            )
        return replace(self, groups=self.global_groups // ranks, global_groups=None)


@dataclass
class Generation:
    """What a rank made in one generation. groups: those that are trained on; idle: scored, but without spread."""

    groups: list[list[Judged]] = field(default_factory=list)
    idle: list[list[Judged]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def judged(self) -> list[Judged]:
        """Every episode that was scored."""
        return [one for group in (*self.groups, *self.idle) for one in group]


class Rollouts:
    """Makes generations. Everything follows from the seed and the generation's number: nothing is kept between them but
    decoded frames and how many samples were rejected."""

    def __init__(
        self,
        samples: Sequence[Sample],
        pool: SamplePool,
        store: ClipStore,
        policy: Policy,
        mix: RewardMix,
        settings: RolloutSettings,
        *,
        advantage: Literal["mean", "mean_std"],
        seed: int,
        max_rejected: int,
        rejected_file: Path,
    ) -> None:
        self.samples, self.pool, self.store, self.policy, self.mix = samples, pool, store, policy, mix
        self.settings, self.advantage, self.seed = settings, advantage, seed
        self.limits = Limits(settings.thought_tokens, settings.answer_tokens, settings.temperature)
        self.max_rejected, self.rejected_file = max_rejected, rejected_file
        self.rejected: dict[str, Rejected] = {}

    def generation(self, number: int, rank: int, ranks: int) -> Generation:
        """The `number`-th generation of a rank."""
        made = Generation()
        wanted = self.settings.groups
        assert wanted is not None, "a rank's share by now: RolloutSettings.at"
        self.policy.sync()
        picks = self.pool.groups(number, rank, ranks, wanted)
        for round in range(self.settings.resample_rounds + 1):
            if round:  # in place of groups without spread, and of rejected samples
                picks = self.pool.reserve(number, rank, ranks, round - 1, wanted - len(made.groups), wanted)
                made.counts["resampled_groups"] += len(picks)
            for group in self._groups(picks, number, made):
                (made.groups if self._teaches(group) else made.idle).append(group)
            if len(made.groups) == wanted:
                break
        made.counts["groups"] += len(made.groups) + len(made.idle)
        made.counts["equal_groups"] += sum(
            not has_spread([one.mixed.total for one in group]) for group in (*made.groups, *made.idle)
        )
        return made

    def _teaches(self, group: Sequence[Judged]) -> bool:
        return not self.settings.drop_equal or has_spread([one.mixed.total for one in group])

    def _groups(self, picks: Sequence[int], number: int, made: Generation) -> list[list[Judged]]:
        """The scored groups of these samples, those that cannot be used left out."""
        usable = []
        for index in picks:
            clips = self._clips(self.samples[index], number, made)
            if clips is not None:
                usable.append((index, clips))
        G = self.settings.rollouts
        bases = [self._tasks(index, clips, number) for index, clips in usable]
        tasks = [replace(task, seed=(*task.seed, r), rollout=r) for of in bases for task in of for r in range(G)]
        episodes = iter(self.policy.rollout(tasks, self.limits))
        groups = []
        for (index, clips), of_sample in zip(usable, bases, strict=True):
            by_name = {task.perturbation: tuple(islice(episodes, G)) for task in of_sample}
            scene = Scene(by_name.pop(""), by_name)
            mixed = self._score(scene)
            signal = self._signal([one.total for one in mixed], number, index)
            groups.append([Judged(e, m, a, clips) for e, m, a in zip(scene.group, mixed, signal, strict=True)])
        return groups

    def _tasks(self, index: int, clips: tuple[SegmentClip, ...], number: int) -> list[Task]:
        """The sample as it is, and as its rewards want it besides; changed once, so that rollouts share clips."""
        task = Task(self.samples[index], clips, (self.seed, number, index))
        names = [name for name in self.mix.perturbations if name != EVIDENCE or evidence_segments(task.sample)]
        return [task, *(perturbed(task, name) for name in names)]

    def _score(self, scene: Scene) -> list[Mixed]:
        if self.settings.reward_threads == 1:
            return [self.mix.score(episode, scene) for episode in scene.group]
        with ThreadPoolExecutor(self.settings.reward_threads) as threads:
            return list(threads.map(lambda episode: self.mix.score(episode, scene), scene.group))

    def _signal(self, totals: Sequence[float], number: int, index: int) -> list[float]:
        signal = advantages(totals, self.advantage)
        if self.settings.control == "permute_advantages":
            order = np.random.default_rng([self.seed, number, index, 2]).permutation(len(signal))
            signal = [signal[i] for i in order]
        return signal

    def _clips(self, sample: Sample, number: int, made: Generation) -> tuple[SegmentClip, ...] | None:
        """The clips of a sample, or None where it is rejected now or was before."""
        fps = capped_fps(sample, self.store.fps, self.pool.curriculum.frames_at(number))
        if sample.id not in self.rejected:
            try:
                return self.store.get(sample, fps)
            except UNUSABLE as error:
                self.reject(Rejected(sample.id, str(error)))
        made.counts["rejected_groups"] += 1
        return None

    def remember_rejected(self) -> None:
        """What the run has rejected before it was interrupted: it is not tried, or written down, again."""
        for _, line in json_lines(self.rejected_file) if self.rejected_file.exists() else ():
            if isinstance(line, dict):  # a torn last line is tried again
                self.rejected[line["sample"]] = Rejected(**line)

    def reject(self, rejected: Rejected) -> None:
        """Note a sample that cannot be used. DataError where there are too many."""
        self.rejected[rejected.sample] = rejected
        with self.rejected_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(rejected), ensure_ascii=False) + "\n")
        self.check_rejected(self.rejected)

    def check_rejected(self, found: Mapping[str, Rejected]) -> None:
        """DataError where these are more than the recipe allows."""
        if len(found) > self.max_rejected:
            rejected = list(found.values())[-1]
            raise DataError(
                f"{len(found)} samples cannot be used, data.max_rejected is {self.max_rejected}; the last: "
                f"{rejected.sample}: {rejected.reason} (all: {self.rejected_file})"
            )
