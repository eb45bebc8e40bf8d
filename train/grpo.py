"""GRPO over multi-turn video episodes: TRL's GRPOTrainer with episodes for completions.

    whilst grpo recipes/tiny/grpo.yaml                          # one process
    torchrun --nproc_per_node 8 -m whilst.cli grpo RECIPE       # several; DeepSpeed by optim.deepspeed

Starts from a folder that `whilst sft` wrote: its streaming contract says layout, rule, scheme and whether it thinks.
The run directory gets what sft writes, and rejected.jsonl, episodes/ (tables and pages of full episodes) and, if
training stops because rollout and trainer disagree, the row on which they do.

Recipe: train/grpo_recipe.py. Trainer: train/grpo_trainer.py. How it works and what stops it: docs/RL.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from transformers import PrinterCallback, set_seed

from rewards.mix import RewardMix
from train.attempt import attempt, claim
from train.checkpoints import Resumable, WholeCheckpoints
from train.collate import Collator
from train.difficulty import keep_by_difficulty, measure, rolled_out
from train.episodes import Weighing, blank_row
from train.final import save_final
from train.grpo_recipe import GRPOError, GRPORecipe, at_ranks, check, contract_of, most_tokens, render_config
from train.grpo_trainer import EpisodeGRPOTrainer
from train.policies import Policy, StreamPolicy, ViewStore
from train.pool import ClipStore, SamplePool
from train.prepare import samples_digest
from train.reporting import prepare_reporting
from train.rollouts import Rollouts
from train.segments import note_segments
from train.sharding import spread_model
from train.stage import ranks
from train.vllm_policy import check_installed, check_servable
from train.vllm_weights import connect
from whilst.backbones.base import Features, ban_vision_tokens
from whilst.clips import SegmentClip
from whilst.render import Renderer
from whilst.sample import JSON, Sample, read_samples


def leave_out_easy_and_hard(trainer: EpisodeGRPOTrainer, policy: Policy) -> None:
    """Apply data.difficulty. Ranks share the rollouts; a resumed run reads what they gave. Called before the first
    generation of an attempt, within the whole model."""
    recipe, rollouts = trainer.recipe, trainer.rollouts
    settings, out, samples = recipe.data.difficulty, Path(recipe.output), rollouts.samples
    assert settings is not None
    file, first = out / "difficulty.jsonl", rollouts.mix.terms[0].called
    made_with: dict[str, JSON] = {"checkpoint": recipe.model.path, "seed": recipe.seed, "reward": first}
    if trainer.state.global_step and not file.exists():
        raise GRPOError(f"{file}: it is gone, and the policy is no longer the first; put it back, or begin anew")

    def successes(some: Mapping[int, Sample]) -> dict[str, list[float]]:
        return measure(some, policy, rollouts.store, rollouts.mix, settings, rollouts.limits, recipe.seed)

    success = rolled_out(file, samples, settings, made_with, successes)
    kept, rejected = keep_by_difficulty({one.id: success[one.id] for one in samples}, settings)
    if trainer.is_world_process_zero():
        (out / "too_easy_or_hard.jsonl").write_text("".join(json.dumps(asdict(r)) + "\n" for r in rejected))
    if not kept:
        raise GRPOError(f"data.difficulty: none of {len(samples)} samples is kept; widen low and high ({file})")
    rollouts.samples = [sample for sample in samples if sample.id in set(kept)]
    rollouts.pool = SamplePool(rollouts.samples, recipe.seed, recipe.data.curriculum)


def build_trainer(recipe: GRPORecipe) -> EpisodeGRPOTrainer:
    """Everything a run needs, ready for .train()."""
    set_seed(recipe.seed)
    contract = contract_of(recipe)
    render = render_config(contract, recipe.context)
    check(recipe, contract, render)
    if recipe.policy == "vllm":
        check_installed()
    out = Path(recipe.output)
    claim(recipe)
    prepare_reporting(recipe)
    seen = replace(recipe.model, min_pixels=contract.min_pixels, max_pixels=contract.max_pixels)
    recipe = replace(recipe, model=seen)  # frames as large as the contract says
    backbone = spread_model(recipe)
    ban_vision_tokens(backbone.model, backbone.banned)
    renderer = Renderer(backbone.tokenizer, backbone.spec, render)
    if recipe.policy == "vllm":
        check_servable(renderer)
    samples = read_samples(recipe.data.train)[: recipe.data.limit]
    note_segments(samples, out)
    recipe = at_ranks(recipe, ranks(), len(samples))
    views = ViewStore(backbone)
    policy = StreamPolicy(backbone, renderer, thinks=contract.thinks, batch=recipe.rollout.batch, store=views)
    store = ClipStore(contract.fps, recipe.rollout.keep_megabytes)
    mix = RewardMix(recipe.rewards)
    rollouts = Rollouts(
        samples,
        SamplePool(samples, recipe.seed, recipe.data.curriculum),
        store,
        policy,
        mix,
        recipe.rollout,
        advantage=recipe.loss.advantage,
        seed=recipe.seed,
        max_rejected=recipe.data.max_rejected,
        rejected_file=out / "rejected.jsonl",
    )
    encoded = None
    if recipe.model.freeze_vision == "tower+merger":  # features that the rollout made once serve the trainer too

        def encoded(clips: Sequence[SegmentClip]) -> list[Features]:
            return [view.features for view in views.views(clips)]

    collator = Collator(
        backbone.spec, renderer.rule, recipe.model.attention, backbone.tokenizer.pad_token_id, encoded=encoded
    )
    loss = recipe.loss
    weighing = Weighing(loss.type, loss.roles, loss.cut_off, most_tokens(samples, recipe.rollout, contract.thinks))
    trainer = EpisodeGRPOTrainer(
        recipe=recipe,
        backbone=backbone,
        renderer=renderer,
        collator=collator,
        rollouts=rollouts,
        weighing=weighing,
        blank=blank_row(renderer, contract.fps),
        views=views,
        callbacks=[Resumable()],
    )
    trainer.keep, trainer.data = recipe.keep_checkpoints, samples_digest(samples)
    trainer.remove_callback(PrinterCallback)
    if recipe.data.difficulty is not None:
        trainer.choose = partial(leave_out_easy_and_hard, trainer, policy)
    if recipe.policy == "vllm":
        rollouts.policy = connect(backbone, renderer, recipe.vllm, trainer.accelerator, thinks=contract.thinks)
    return trainer


def run(recipe: GRPORecipe) -> Path:
    """Train, resuming from the last checkpoint in the output folder if there is one."""

    def save(trainer: WholeCheckpoints) -> None:
        assert isinstance(trainer, EpisodeGRPOTrainer)
        render = trainer.renderer.config
        save_final(trainer, recipe, replace(contract_of(recipe), base=recipe.model.path, render=render))

    return attempt(recipe, lambda: build_trainer(recipe), save)
