"""Settings of training put in numbers: epochs, global batches and warm-up, by worked examples of published recipes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from train.grpo_recipe import EpisodeData, GRPOError, GRPORecipe, LossSettings, at_ranks, contract_of
from train.rollouts import RolloutSettings
from train.rows import DataError
from train.stage import ModelSettings, OptimSettings, StageError
from whilst.checkpoint import CONTRACT, Contract
from whilst.recipe import save_resolved
from whilst.render_config import RenderConfig


def test_epochs_global_batch_and_warm_up() -> None:
    """TaYS, release: 104,182 samples, 1 x 16 x 4 GPUs, one epoch, warm-up 0.03: 1,628 updates (1,627.8), 49 of them."""
    optim = OptimSettings(epochs=1, batch_size=1, global_batch=64, warmup_ratio=0.03, betas=(0.9, 0.95))
    at = optim.at(4, 104182)
    assert (at.steps, at.accumulation, at.warmup_steps) == (1628, 16, 49)
    assert (at.epochs, at.global_batch, at.warmup_ratio, at.betas) == (None, None, 0.0, (0.9, 0.95))
    assert at.at(4, 104182) == at  # in numbers already
    # the same update on other hardware: 8 ranks accumulate half as often, 64 not at all
    for ranks, accumulation in ((8, 8), (64, 1)):
        other = optim.at(ranks, 104182)
        assert (other.steps, other.accumulation) == (1628, accumulation)
    # two epochs are counted as one stretch: 3,255.7 updates, not 2 * 1,628
    assert replace(optim, epochs=2).at(4, 104182).steps == 3256
    assert OptimSettings(epochs=0.5, batch_size=2).at(1, 3).steps == 1  # never none


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "steps or epochs"),
        ({"steps": 1, "epochs": 1}, "steps or epochs"),
        ({"steps": 1, "global_batch": 8, "accumulation": 2}, "follows from global_batch"),
        ({"steps": 1, "warmup_steps": 1, "warmup_ratio": 0.1}, "one of them"),
        ({"steps": 1, "warmup_ratio": 1.0}, "from 0 to 1"),
        ({"steps": 1, "deepspeed": "zero2", "fsdp2": True}, "two ways to shard"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        OptimSettings(**settings)


@pytest.mark.parametrize(("global_batch", "ranks"), [(64, 3), (8, 16)])
def test_a_global_batch_that_ranks_cannot_share(global_batch: int, ranks: int) -> None:
    with pytest.raises(StageError, match=f"{global_batch} is no multiple of batch_size 1 \\* {ranks} ranks"):
        OptimSettings(steps=1, global_batch=global_batch).at(ranks)
    with pytest.raises(StageError, match="no sample to count them by"):
        OptimSettings(epochs=1).at(1, 0)


@pytest.mark.parametrize(("ranks", "groups"), [(1, 256), (32, 8), (64, 4)])
def test_a_generation_of_vst(ranks: int, groups: int) -> None:
    """11,000 rows, 256 groups, 4 updates a generation, one epoch: 43 generations by rounding up, 172 updates. The
    published run drops the last, incomplete one: 42."""
    recipe = GRPORecipe(
        name="vst",
        stage="grpo",
        output="run",
        model=ModelSettings("none"),
        data=EpisodeData(train="rows.jsonl"),
        optim=OptimSettings(epochs=1),
        rollout=RolloutSettings(rollouts=8, global_groups=256),
        rewards=(),
        loss=LossSettings(updates=4),
    )
    at = at_ranks(recipe, ranks, 11000)
    assert (at.rollout.groups, at.rollout.global_groups, at.optim.steps) == (groups, None, 43 * 4)
    assert 11000 // 256 == 42
    with pytest.raises(DataError, match="global_groups 256 is no multiple of 48 ranks"):
        at_ranks(recipe, 48, 11000)


def test_frames_are_as_large_as_the_contract_says_unless_the_recipe_does(tmp_path: Path) -> None:
    recipe = GRPORecipe(
        name="pixels",
        stage="grpo",
        output="run",
        model=ModelSettings(str(tmp_path)),
        data=EpisodeData(train="rows.jsonl"),
        optim=OptimSettings(steps=1),
        rollout=RolloutSettings(rollouts=8, groups=1),
        rewards=(),
    )
    own = Contract("base", 2.0, True, RenderConfig(), min_pixels=78400, max_pixels=150528)
    save_resolved(own, tmp_path / CONTRACT)
    assert contract_of(recipe) == own
    larger = contract_of(replace(recipe, model=replace(recipe.model, max_pixels=200704)))
    assert (larger.min_pixels, larger.max_pixels) == (78400, 200704)
    with pytest.raises(GRPOError, match="has a streaming.yaml of its own"):
        contract_of(replace(recipe, contract=own))
    stock = contract_of(replace(recipe, model=ModelSettings("stock", max_pixels=9000), contract=own))
    assert (stock.base, stock.min_pixels, stock.max_pixels) == ("stock", 78400, 9000)
