"""Small runs that the tests of the plan's arithmetic measure: models of some megabytes, random frames."""

from pathlib import Path
from typing import Any

import numpy as np

from rewards.mix import RewardTerm
from train.grpo_recipe import EpisodeData, GRPORecipe, LossSettings
from train.rollouts import RolloutSettings
from train.sft import DataSettings, SFTRecipe
from train.sizes import Batch, Sizes, decoder_of, parts_of, tower_of
from train.stage import LoraSettings, ModelSettings, OptimSettings
from whilst.backbones import FAMILIES
from whilst.backbones.base import Backbone, load_spec
from whilst.backbones.tiny import build_tiny
from whilst.checkpoint import Contract
from whilst.hardware import Launch
from whilst.render import IGNORE
from whilst.render_config import RenderConfig
from whilst.sample import Answer, Query, Sample, Segment, Thought, Video, write_jsonl
from whilst.video import write_video

WIDE = {
    "hidden": 256,
    "layers": 6,
    "heads": 8,
    "kv_heads": 2,
    "head_dim": 32,
    "intermediate": 768,
    "vision_depth": 4,
    "vision_hidden": 128,
    "vision_intermediate": 320,
}


def write_samples(folder: Path, count: int, seconds: int, side: int) -> Path:
    """Samples of `seconds` one-second segments with thoughts and one question."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(count):
        write_video(folder / f"{i}.mp4", rng.integers(0, 255, (2 * seconds, side, side, 3), dtype=np.uint8), 2)
        events: list = []
        for k in range(seconds):
            events += [Segment(float(k), k + 1.0), Thought(k + 1.0, "in-1 red-circle . " * 4)]
        end = float(seconds)
        events += [Query("q", end, "which in-1 ?", kind="backward"), Answer(end, "red-circle", "q")]
        made.append(Sample(f"s{i}", Video(f"{i}.mp4"), tuple(events)))
    write_jsonl(made, folder / "train.jsonl")
    return folder / "train.jsonl"


def recipe_of(
    folder: Path,
    family: Any,
    steps: int,
    *,
    checkpointing: bool = False,
    freeze: Any = "none",
    lora: bool = False,
    accumulation: int = 1,
    seconds: int = 8,
    side: int = 96,
    **sizes: Any,
) -> SFTRecipe:
    """A recipe over data and a model that are written to `folder`."""
    base = build_tiny(family, folder / "base", ("in-1", "red-circle", ".", "which", "?"), **sizes)
    return SFTRecipe(
        name="plan",
        stage="sft",
        output=str(folder / "run"),
        model=ModelSettings(str(base), freeze_vision=freeze, lora=LoraSettings(rank=4) if lora else None),
        data=DataSettings(str(write_samples(folder, 4, seconds, side))),
        optim=OptimSettings(steps=steps, batch_size=2, accumulation=accumulation, gradient_checkpointing=checkpointing),
        render=RenderConfig(rule="last_segments", rule_params={"n": 1}),
        log_steps=1,
    )


def grpo_recipe_of(
    folder: Path, family: Any, *, checkpointing: bool = False, beta: float = 0.0, updates: int = 1
) -> GRPORecipe:
    """Two generations of episodes of the same samples, watched in one growing stream. A random model ends its turns at
    their limits."""
    base = build_tiny(family, folder / "base", ("in-1", "red-circle", ".", "which", "?"), **WIDE)
    return GRPORecipe(
        name="plan",
        stage="grpo",
        output=str(folder / "run"),
        model=ModelSettings(str(base)),
        contract=Contract("", 2.0, True, RenderConfig(rule="last_segments", rule_params={"n": 1})),
        data=EpisodeData(str(write_samples(folder, 4, seconds=8, side=96))),
        rollout=RolloutSettings(groups=updates, rollouts=4, thought_tokens=32, answer_tokens=8, drop_equal=False),
        rewards=(RewardTerm("exact"),),
        loss=LossSettings(beta=beta, updates=updates),
        optim=OptimSettings(steps=2 * updates, accumulation=2, gradient_checkpointing=checkpointing),
        launch=Launch(gpus_per_node=0),
        log_steps=1,
    )


def sizes_of_trainer(trainer: Any, recipe: SFTRecipe) -> Sizes:
    """Sizes of the very model that is trained."""
    config = trainer.model.config
    backbone = Backbone(trainer.model, None, load_spec(recipe.model.path), FAMILIES[config.model_type])
    return Sizes(decoder_of(config), tower_of(config), parts_of(backbone))


def batch_of(trainer: Any) -> Batch:
    """The shape of a batch; all samples are alike."""
    batch = next(iter(trainer.get_train_dataloader()))
    rows, length = batch["input_ids"].shape
    _, high, wide = batch["video_grid_thw"][0].tolist()
    learned = int((batch["labels"] != IGNORE).sum())
    return Batch(rows, length, learned, batch["pixel_values_videos"].shape[0], high * wide)
