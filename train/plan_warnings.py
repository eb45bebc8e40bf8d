"""What a plan warns of: settings that will fail, waste, or lose work."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from typing import Any

import torch

from train.flops import Work, tower_is_run_backwards
from train.grpo_recipe import GRPORecipe
from train.memory import Memory
from train.plan_rows import Approximate, Rows
from train.plan_stop import Stops
from train.sizes import Sizes
from train.stage import StageError, TrainRecipe
from train.vllm_policy import PolicyError, check_servable
from whilst.backbones.base import VisionSpec
from whilst.render import Renderer
from whilst.render_config import RenderConfig

LONG = 500  # updates without a checkpoint between them
MUCH = 2**40  # bytes of checkpoints


def warnings_of(
    recipe: TrainRecipe,
    sizes: Sizes,
    rows: Rows,
    memory: Memory,
    work: Work,
    stops: Stops,
    render: RenderConfig,
    spec: VisionSpec,
) -> Iterator[str]:
    """One line each."""
    optim, model = recipe.optim, recipe.model
    yield from _lengths(sizes, rows, render)
    try:
        if optim.global_batch is not None:
            optim.at(recipe.launch.ranks, 1)
    except StageError as error:
        yield str(error)
    if isinstance(recipe, GRPORecipe):
        yield from _rollouts(recipe, render, spec)
    yield from _backend(model.attention)
    if model.lora is not None and model.freeze_vision != "none":
        yield "model.freeze_vision: LoRA freezes the base model anyway; leave it out, or use lora.full for the merger"
    if sizes.parts.trained == 0:
        yield "nothing is trained: every parameter is frozen"
    if not sizes.parts.trained_tower and tower_is_run_backwards(sizes, optim.gradient_checkpointing):
        yield (
            "gradient checkpointing runs Qwen2.5-VL's frozen tower backwards too (transformers makes its input require "
            "gradients); memory and operations count it"
        )
    if memory.gpu is None and recipe.launch.gpus_per_node:
        yield f"launch.gpu {recipe.launch.gpu!r} is not in the table of GPUs (train/plan.py): memory and hours are open"
    if memory.fits is False:
        assert memory.gpu is not None
        yield (
            f"{memory.total / 2**30:.1f} GiB do not fit the {memory.gpu / 2**30:.0f} GiB of {recipe.launch.gpu}: "
            f"{_ways_out(recipe)}"
        )
    if not recipe.save_steps and (work.steps or 0) > LONG:
        yield f"save_steps is 0 and there are {work.steps} updates: a run that is killed starts from the beginning"
    yield from _stops(recipe, stops)


def _stops(recipe: TrainRecipe, stops: Stops) -> Iterator[str]:
    given = recipe.launch.signal_seconds
    if stops.notice is not None and stops.notice > given:
        enough = 60 * math.ceil(1.5 * stops.notice / 60)
        less = "smaller generations (rollout)" if isinstance(recipe, GRPORecipe) else "fewer rows an update"
        yield (
            f"launch.signal_seconds {given}: from the signal to a whole checkpoint it takes {stops.notice:,.0f} s or "
            f"more; when time is up, Slurm would end the job before that, without requeueing it, and a chain ends "
            f"there: launch.signal_seconds={enough}, or {less}"
        )
    if stops.room is None:
        yield f"keep_checkpoints is null: each takes {stops.checkpoint / 2**30:,.0f} GiB, and all stay"
    elif stops.room > MUCH:
        yield (
            f"keep_checkpoints {recipe.keep_checkpoints}: checkpoints will take up to {stops.room / 2**40:,.1f} TiB of "
            f"{recipe.output}'s disk"
        )


def _lengths(sizes: Sizes, rows: Rows, render: RenderConfig) -> Iterator[str]:
    longest = max(rows.lengths, default=0)
    if longest > sizes.decoder.context:
        yield f"a row of {longest} tokens is longer than the model's context of {sizes.decoder.context}"
    if render.max_tokens is not None and longest > 0.9 * render.max_tokens:
        yield f"a row of {longest} tokens comes near render.max_tokens {render.max_tokens}; longer ones are rejected"
    if rows.dropped is None:
        yield (
            "data.drop_similar: only the frames and the tower's outputs say which tokens are alike, so operations are "
            "those of whole rows"
        )
    for rejected in rows.rejected:
        yield f"sample {rejected.sample} is rejected: {rejected.reason}"


def _backend(name: str) -> Iterator[str]:
    cuda = torch.cuda.is_available()
    if name == "whilst_flex" and not cuda:
        yield "model.attention whilst_flex has no backward pass on this machine, which has no GPU"
    if name == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        yield "model.attention flash_attention_2: flash-attn is not installed here; pip install -e .[gpu]"
    if name == "eager":
        yield "model.attention eager keeps all probabilities: it is for inspection"


def _rollouts(recipe: GRPORecipe, render: RenderConfig, spec: VisionSpec) -> Iterator[str]:
    try:
        recipe.rollout.at(recipe.launch.ranks)
        if recipe.policy == "vllm":
            check_servable(Renderer(_Whole(), spec, render))
    except (PolicyError, ValueError) as error:
        yield str(error)
    if recipe.policy == "vllm" and recipe.vllm.mode == "server" and not recipe.launch.server_nodes:
        yield "vllm.mode server: launch.server_nodes is 0, so nothing serves it unless you start one yourself"


class _Whole(Approximate):
    """For check_servable: a text is one piece, so that no token spans two."""

    def decode(self, ids: Any) -> str:
        return str(list(ids))


def _ways_out(recipe: TrainRecipe) -> str:
    optim = recipe.optim
    ways = []
    if not optim.gradient_checkpointing:
        ways.append("optim.gradient_checkpointing=true")
    if optim.batch_size > 1:
        ways.append("a smaller optim.batch_size with optim.global_batch")
    if optim.deepspeed not in ("zero3", "zero3_offload"):
        ways.append("optim.deepspeed=zero3")
    elif optim.deepspeed == "zero3":
        ways.append("optim.deepspeed=zero3_offload")
    if recipe.model.attention == "whilst_sdpa":
        ways.append("model.attention=whilst_flex (no dense mask)")
    if recipe.model.lora is None:
        ways.append("model.lora")
    return ", ".join(ways) or "shorter rows, or more ranks"
