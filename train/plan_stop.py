"""What a stop costs: the room that checkpoints take, and how long training goes on after it was told to stop."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from train.flops import Work
from train.grpo_recipe import GRPORecipe
from train.memory import Precision, Sharding, checkpoint_bytes
from train.sizes import Sizes
from train.stage import TrainRecipe

WRITTEN = 1e9  # bytes a second that the file system of a cluster takes: an assumption


@dataclass(frozen=True)
class Stops:
    """checkpoint: bytes of one. most: how many are on the disk at a time; None: steps are not known, and none is ever
    removed. unbroken: seconds between two moments at which training can be left, before it saves; None without GPUs."""

    checkpoint: float
    most: int | None
    unbroken: float | None

    @property
    def room(self) -> float | None:
        """Bytes of all checkpoints."""
        return None if self.most is None else self.most * self.checkpoint

    @property
    def notice(self) -> float | None:
        """Seconds from the signal to a checkpoint that is whole."""
        return None if self.unbroken is None else self.unbroken + self.checkpoint / WRITTEN


def stops_of(
    recipe: TrainRecipe,
    sizes: Sizes,
    sharding: Sharding,
    precision: Precision,
    work: Work,
    generation: tuple[int, int],
    rate: float | None,
) -> Stops:
    """generation: of RL its updates, and its episodes on a rank. rate: operations a second of all ranks."""
    trained = sizes.parts.trained
    saved = trained if recipe.model.lora is not None else sizes.parts.total
    zero = sharding.stage if recipe.optim.deepspeed is not None else 0
    size = checkpoint_bytes(trained, saved, 2 if precision == "mixed" else 4, zero)
    return Stops(size, _most(recipe, work), None if rate is None else _unbroken(recipe, work, generation) / rate)


def _most(recipe: TrainRecipe, work: Work) -> int | None:
    """One more than are kept: the oldest goes when the new one is whole."""
    if not recipe.save_steps:
        return 1  # where it is told to stop
    made = None if work.steps is None else math.ceil(work.steps / recipe.save_steps)
    kept = None if recipe.keep_checkpoints is None else recipe.keep_checkpoints + 1
    return min((one for one in (made, kept) if one is not None), default=None)


def _unbroken(recipe: Any, work: Work, generation: tuple[int, int]) -> float:
    """Operations. Episodes of vLLM are waited for, and an update follows them; others are left between two batches."""
    if not isinstance(recipe, GRPORecipe):
        return work.flops.total
    updates, episodes = generation
    if recipe.policy == "vllm":
        return work.flops.total + work.rollout * updates
    batches = max(1, math.ceil(episodes / recipe.rollout.batch))
    return max(work.flops.total, work.rollout * updates / batches)
