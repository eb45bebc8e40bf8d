"""Policies: what makes episodes of samples. One interface, two engines.

| policy | engine | rules |
|---|---|---|
| transformers | StreamBatch (whilst/runtime.py), many episodes in step | all |
| vllm | vLLM, colocated or as a server (train/vllm_policy.py) | recurrent layouts: plain causal prompts |

Everything drawn in an episode comes from its task's seed alone, so that an episode does not depend on which others run
beside it, and a resumed training needs no generator's state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from train.stopping import check
from whilst.backbones.base import Backbone
from whilst.clips import SegmentClip, View
from whilst.episode import Episode
from whilst.render import Renderer
from whilst.runtime import Generated, StreamBatch, encode_clips
from whilst.sample import Sample
from whilst.sampling import Sampling
from whilst.watching import received_ends, watch_samples


@dataclass(frozen=True)
class Task:
    """An episode to be made: a sample, its clips (one a segment), and the seed of everything that is drawn in it.

    rollout, perturbation: as in Episode. no_memory: the text memory is empty whenever a query is put.
    """

    sample: Sample
    clips: tuple[SegmentClip, ...]
    seed: tuple[int, ...]
    rollout: int = 0
    perturbation: str = ""
    no_memory: bool = False


@dataclass(frozen=True)
class Limits:
    """Most tokens of a turn, the boundary token included, and the sampling temperature (0: greedy)."""

    thought_tokens: int
    answer_tokens: int
    temperature: float = 1.0


class Policy(Protocol):
    def rollout(self, tasks: Sequence[Task], limits: Limits) -> list[Episode]:
        """One episode a task, in order."""
        ...

    def sync(self) -> None:
        """Take over the trainer's weights; called once before a batch of episodes."""
        ...


class ViewStore:
    """Clips as views: their frames become features once, however many turns and rollouts show them.

    Clips are told apart by identity, so tasks of one sample must hold the same clip objects.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._views: dict[int, tuple[SegmentClip, View]] = {}
        self.encoded = 0  # clips that went through the vision tower

    def views(self, clips: Sequence[SegmentClip]) -> list[View]:
        fresh = [clip for clip in clips if id(clip) not in self._views]
        for fps in sorted({clip.fps for clip in fresh}):
            part = [clip for clip in fresh if clip.fps == fps]
            encoded = encode_clips(self.backbone, [(c.segment, c.images, c.times) for c in part], fps)
            self._views |= {id(clip): (clip, view) for clip, view in zip(part, encoded, strict=True)}
        self.encoded += len(fresh)
        return [self._views[id(clip)][1] for clip in clips]

    def clear(self) -> None:
        """Forget everything: the tower has changed, or other samples come."""
        self._views.clear()


class StreamPolicy:
    """The `transformers` policy: episodes as streams of the model that is being trained, `batch` of them in step."""

    def __init__(
        self, backbone: Backbone, renderer: Renderer, *, thinks: bool, batch: int = 64, store: ViewStore | None = None
    ) -> None:
        self.backbone, self.renderer, self.thinks, self.batch = backbone, renderer, thinks, batch
        self.store = store or ViewStore(backbone)

    def sync(self) -> None:
        """The model is the trainer's own: only features of older weights must go."""
        self.store.clear()

    def rollout(self, tasks: Sequence[Task], limits: Limits) -> list[Episode]:
        training = self.backbone.model.training
        self.backbone.model.eval()
        episodes: list[Episode] = []
        try:
            for start in range(0, len(tasks), self.batch):
                check()
                episodes += self._watch(tasks[start : start + self.batch], limits)
        finally:
            self.backbone.model.train(training)
        return episodes

    def _watch(self, tasks: Sequence[Task], limits: Limits) -> list[Episode]:
        samples = [task.sample for task in tasks]
        self.store.views([clip for clip in _distinct(tasks)])  # one pass through the tower for all of them
        views = [self.store.views(task.clips) for task in tasks]
        sampling = Sampling([task.seed for task in tasks], limits.temperature)
        ends = received_ends(self.renderer, samples, views)
        streams = StreamBatch(self.backbone, self.renderer, len(tasks), sampler=sampling, received_ends=ends)

        def think(batch: StreamBatch, segment: int, rows: Sequence[bool]) -> Sequence[Generated | None]:
            return batch.think(rows, limits.thought_tokens)

        def without_memory(batch: StreamBatch) -> None:
            entries = batch.memory_entries()
            batch.replace_memory([[] if task.no_memory else own for task, own in zip(tasks, entries, strict=True)])

        turns = watch_samples(
            streams,
            samples,
            views,
            think=think if self.thinks else None,
            answer_tokens=limits.answer_tokens,
            before_asking=without_memory if any(task.no_memory for task in tasks) else None,
            logprobs=sampling.take,
        )
        return [
            Episode(task.sample, tuple(of_task), task.rollout, task.perturbation)
            for task, of_task in zip(tasks, turns, strict=True)
        ]


def _distinct(tasks: Sequence[Task]) -> list[SegmentClip]:
    return list({id(clip): clip for task in tasks for clip in task.clips}.values())
