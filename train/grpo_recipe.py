"""What a GRPO recipe says, and what of it contradicts itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from trl import GRPOConfig

from rewards.mix import RewardTerm
from train.difficulty import Difficulty
from train.episodes import (
    LossType,
    Roles,
)
from train.pool import Curriculum
from train.rollouts import RolloutSettings
from train.sharding import sharding_arguments
from train.stage import (
    TrainRecipe,
    optimiser_arguments,
)
from train.vllm_policy import VLLMSettings
from whilst.checkpoint import CONTRACT, Contract, read_contract
from whilst.episode import polls
from whilst.render_config import RenderConfig
from whilst.sample import Sample


class GRPOError(ValueError):
    """A run that cannot go on: settings that contradict each other, a rank that failed, a loss that is not finite."""


@dataclass(frozen=True)
class EpisodeData:
    """Samples to roll out, as `whilst.sample.read_samples` takes them; their thoughts are not read. max_rejected: how
    many samples may turn out to be unusable. difficulty: leaves out what the first policy always or never does."""

    train: str
    limit: int | None = None
    max_rejected: int = 0
    curriculum: Curriculum = field(default_factory=Curriculum)
    difficulty: Difficulty | None = None


@dataclass(frozen=True)
class LossSettings:
    """The objective.

    clip_low, clip_high: the ratio is clipped to 1 - low to 1 + high (DAPO: higher above; for cispo, clip_high is the
    cap of the ratio itself). beta: weight of the KL estimate k3 to the first checkpoint. updates: optimiser steps a
    generation; iterations: passes over it (mu). importance: token_truncate multiplies each token by
    min(trainer / rollout probability, importance_cap). max_gap, max_mean_gap: training stops where log-probs of rollout
    and trainer differ by more, on one token or on average over a micro-batch.
    """

    type: LossType = "dapo"
    advantage: Literal["mean", "mean_std"] = "mean"
    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float | None = None
    beta: float = 0.0
    roles: Roles = ("thought", "answer")
    cut_off: Literal["train", "mask"] = "train"
    updates: int = 1
    iterations: int = 1
    importance: Literal["off", "token_truncate"] = "off"
    importance_cap: float = 2.0
    max_gap: float = 1.0
    max_mean_gap: float = 0.05

    def __post_init__(self) -> None:
        if self.updates < 1 or self.iterations < 1:
            raise ValueError("loss.updates and loss.iterations must be at least 1")
        if not self.roles:
            raise ValueError("loss.roles is empty: nothing would be trained; give thought, answer or both")

    @property
    def needs_old(self) -> bool:
        """Whether log-probs under the rollout's weights are computed apart (else the loss's own pass gives them)."""
        return self.updates > 1 or self.iterations > 1 or self.importance != "off"


Context = Literal["recurrent", "recurrent_packed", "in_context"]


@dataclass(frozen=True)
class GRPORecipe(TrainRecipe):
    """One GRPO stage. context: how turns become rows; None takes the checkpoint's own layout. contract: what a
    checkpoint that has no streaming.yaml is to be read as (its base is model.path); one that has its own keeps it.
    log_episodes: full episodes that each logged step writes to tables."""

    data: EpisodeData = field(kw_only=True)
    rollout: RolloutSettings = field(kw_only=True)
    rewards: tuple[RewardTerm, ...] = field(kw_only=True)
    loss: LossSettings = field(kw_only=True, default=LossSettings())
    context: Context | None = field(kw_only=True, default=None)
    contract: Contract | None = field(kw_only=True, default=None)
    policy: Literal["transformers", "vllm"] = field(kw_only=True, default="transformers")
    vllm: VLLMSettings = field(kw_only=True, default_factory=VLLMSettings)
    log_episodes: int = field(kw_only=True, default=8)


def contract_of(recipe: GRPORecipe) -> Contract:
    """The streaming contract that episodes are watched under: the checkpoint's, or the recipe's where it has none.
    Pixels are the recipe's where it gives them."""
    model = recipe.model
    if recipe.contract is None:
        contract = read_contract(model.path)
    elif Path(model.path, CONTRACT).exists():
        raise GRPOError(
            f"contract: {model.path} has a {CONTRACT} of its own, which training must keep to; leave it out"
        )
    else:
        contract = replace(recipe.contract, base=model.path)
    return replace(
        contract,
        min_pixels=contract.min_pixels if model.min_pixels is None else model.min_pixels,
        max_pixels=contract.max_pixels if model.max_pixels is None else model.max_pixels,
    )


def at_ranks(recipe: GRPORecipe, ranks: int, samples: int) -> GRPORecipe:
    """The recipe with groups and steps in numbers: an epoch is `samples` over the groups of a generation."""
    rollout = recipe.rollout.at(ranks)
    optim = recipe.optim
    if optim.steps is None:
        assert rollout.groups is not None and optim.epochs is not None
        generations = max(1, math.ceil(optim.epochs * samples / (rollout.groups * ranks)))
        optim = replace(optim, steps=generations * recipe.loss.updates * recipe.loss.iterations, epochs=None)
    return replace(recipe, rollout=rollout, optim=optim.at(ranks))


def render_config(contract: Contract, context: Context | None) -> RenderConfig:
    """The checkpoint's rendering under a context mode. GRPOError where it cannot be read that way."""
    render = contract.render
    recurrent = render.layout.startswith("recurrent")
    if context is None or (context == "in_context" and not recurrent) or context == render.layout:
        return render
    if context != "in_context" and recurrent:  # the same turns, exactly
        rule = "text_memory" if context == "recurrent_packed" else "causal"
        return replace(render, layout=context, rule=rule, rule_params={})
    raise GRPOError(
        f"context {context!r}: the checkpoint was trained with layout {render.layout!r}; text memory and KV memory are "
        f"two different models. Leave `context` out, or start from a checkpoint of that kind"
    )


def grpo_arguments(recipe: GRPORecipe) -> GRPOConfig:
    """The TRL configuration of a recipe. TRL's batch sizes only have to divide: batches are ours."""
    loss, rollout = recipe.loss, recipe.rollout
    return GRPOConfig(
        **optimiser_arguments(recipe),
        **sharding_arguments(recipe),
        per_device_train_batch_size=rollout.rollouts,
        num_generations=rollout.rollouts,
        steps_per_generation=recipe.optim.accumulation * loss.updates,
        num_iterations=loss.iterations,
        temperature=rollout.temperature,
        # dapo divides a masked sum by a number that we give, so that any weighing of tokens is a mask and a number
        loss_type="cispo" if loss.type == "cispo" else "dapo",
        importance_sampling_level="sequence" if loss.type == "gspo" else "token",
        epsilon=loss.clip_low,
        epsilon_high=loss.clip_high,
        delta=loss.dual_clip,
        beta=0.0,
        use_bias_correction_kl=False,
        max_completion_length=max(rollout.thought_tokens, rollout.answer_tokens),
    )


def most_tokens(samples: Sequence[Sample], rollout: RolloutSettings, thinks: bool) -> int:
    """The most tokens that an episode of any of these samples can have."""
    longest = 1
    for sample in samples:
        thoughts = len(sample.segments()) * rollout.thought_tokens if thinks else 0
        longest = max(longest, thoughts + sum(len(due) for due in polls(sample)) * rollout.answer_tokens)
    return longest


def check(recipe: GRPORecipe, contract: Contract, render: RenderConfig) -> None:
    """GRPOError where settings contradict each other."""
    if recipe.optim.global_batch is not None:
        raise GRPOError("optim.global_batch: an update's size is rollout.global_groups * rollouts / loss.updates")
    if recipe.optim.batch_size != 1:
        raise GRPOError(
            "optim.batch_size: episodes are cut into optim.accumulation micro-batches an update; leave it out"
        )
    if recipe.model.lora is not None and recipe.model.lora.dropout:
        raise GRPOError("model.lora.dropout must be 0: the trainer's log-probs would not be those of the rollout")
    if (render.memory_tokens or 1 << 30) < recipe.rollout.thought_tokens:
        raise GRPOError(
            f"rollout.thought_tokens {recipe.rollout.thought_tokens} exceeds the text memory's cap, "
            f"render.memory_tokens {render.memory_tokens}: such a thought could not be kept"
        )
    if render.silence == "implicit":
        raise GRPOError("render.silence: implicit writes no turn to train: start from a checkpoint with silence: turn")
    if not contract.thinks and recipe.loss.roles == ("thought",):
        raise GRPOError("loss.roles: the checkpoint does not think, so there is no thought to train")
