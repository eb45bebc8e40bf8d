"""Small GRPO runs that tests share: samples, a folder as SFT leaves it, recipes, a reward that needs no trained model,
and runs in processes of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import TrainerCallback

from rewards.base import Scene, Scored
from rewards.mix import RewardTerm
from rewards.registry import REWARDS
from tests.train.zygote import Finished, Zygote
from train import sft
from train.grpo import build_trainer, run
from train.grpo_recipe import EpisodeData, GRPORecipe, LossSettings
from train.rollouts import RolloutSettings
from train.stage import ModelSettings, OptimSettings, TrainRecipe
from whilst.episode import Episode
from whilst.render_config import RenderConfig
from whilst.sample import Answer, Query, Sample, Segment, Thought, Video, write_jsonl
from whilst.video import write_video

ROOT = Path(__file__).parents[2]
WORKER = "tests.train.grpo_worker"
FPS = 2.0

# the two kinds of memory: text (a row an episode, exactly the turns of `recurrent`) and KV (one growing row)
PACKED = RenderConfig(layout="recurrent_packed", rule="text_memory")
RECURRENT = RenderConfig(layout="recurrent", rule="causal")
KV = RenderConfig(layout="interleaved", rule="last_segments", rule_params={"n": 1})

# --- a reward that random weights can win -----------------------------------------------------------------------------


@dataclass(frozen=True)
class TokenSum:
    """Last digit of the sum of all sampled ids, over 10: groups have spread, and nothing of it can be guessed.

    flat: samples whose rollouts all score 0. fails_on: samples on whose rollout 1 it raises.
    """

    perturbations: ClassVar[tuple[str, ...]] = ()
    flat: tuple[str, ...] = ()
    fails_on: tuple[str, ...] = ()

    def __call__(self, episode: Episode, scene: Scene) -> Scored:
        if episode.sample.id in self.fails_on and episode.rollout == 1:
            raise ZeroDivisionError("a reward with a bug")
        if episode.sample.id in self.flat:
            return Scored(0.0)
        return Scored(sum(sum(turn.ids) for turn in episode.turns) % 10 / 10)


TEST_REWARDS: Mapping[str, type] = {"token_sum": TokenSum}


@pytest.fixture
def rewards_of_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes of the test may name the rewards of TEST_REWARDS."""
    for name, reward in TEST_REWARDS.items():
        monkeypatch.setitem(REWARDS, name, reward)


# --- samples, checkpoints, recipes ------------------------------------------------------------------------------------


def write_samples(folder: Path, seconds: Sequence[int] = (1, 4, 2, 3, 4, 1, 3, 2)) -> Path:
    """A samples file: sample s{i} has seconds[i] segments of a second each, a thought on each, a query at the end, and
    another in the middle where there is one: of unequal numbers of turns."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for i, length in enumerate(seconds):
        write_video(folder / f"{i}.mp4", rng.integers(0, 255, (2 * length, 32, 32, 3), dtype=np.uint8), FPS)
        events: list[Any] = []
        for k in range(length):
            events += [Segment(float(k), k + 1.0), Thought(k + 1.0, f"in-{k % 2 + 1} red-circle ."[: 5 * (i % 3) + 5])]
            if k == 1 and length > 2:
                events += [Query("middle", 2.0, "which out-1 ?"), Answer(2.0, "blue-square", "middle")]
        end = float(length)
        events += [Query("end", end, "which in-1 ?", kind="backward"), Answer(end, "red-circle", "end")]
        made.append(Sample(f"s{i}", Video(f"{i}.mp4"), tuple(events)))
    write_jsonl(made, folder / "train.jsonl")
    return folder / "train.jsonl"


def sft_folder(checkpoint: Path, samples: Path, out: Path, render: RenderConfig, steps: int = 20) -> Path:
    """What `whilst sft` leaves after a few steps: it ends some turns before their limit and not others."""
    recipe = sft.SFTRecipe(
        name="before",
        stage="sft",
        output=str(out),
        model=ModelSettings(str(checkpoint)),
        data=sft.DataSettings(str(samples), fps=FPS),
        optim=OptimSettings(steps=steps, batch_size=4, learning_rate=3e-3, schedule="constant"),
        render=render,
    )
    return sft.run(recipe)


def grpo_recipe(model: Path, samples: Path, output: Path, **changes: Any) -> GRPORecipe:
    """A recipe of three updates over 4 groups of 4 rollouts each; `changes` replace its fields."""
    recipe = GRPORecipe(
        name="test",
        stage="grpo",
        output=str(output),
        model=ModelSettings(str(model)),
        data=EpisodeData(str(samples)),
        rollout=RolloutSettings(groups=4, rollouts=4, thought_tokens=6, answer_tokens=4),
        rewards=(RewardTerm("token_sum"),),
        loss=LossSettings(max_gap=1e-3, max_mean_gap=1e-4),
        optim=OptimSettings(steps=3, learning_rate=1e-3, schedule="constant"),
        log_steps=1,
        log_episodes=0,
    )
    return replace(recipe, **changes)


# --- runs -------------------------------------------------------------------------------------------------------------


class Killed(RuntimeError):
    pass


class KillAt(TrainerCallback):
    """Stops the process, as far as training can tell, after a step (and after its checkpoint, where it has one)."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise Killed


def run_and_kill(recipe: GRPORecipe, step: int) -> None:
    """Train until `step` updates are done, and no further."""
    trainer = build_trainer(recipe)
    trainer.add_callback(KillAt(step))
    with pytest.raises(Killed):
        trainer.train()


def write_recipe(recipe: TrainRecipe, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(json.loads(json.dumps(asdict(recipe)))))
    return path


def run_apart(
    forks: Zygote,
    recipes: Sequence[TrainRecipe],
    folder: Path,
    *,
    ranks: int = 1,
    fault: str = "",
    worker: str = WORKER,
) -> list[Finished]:
    """Train recipes one after the other in processes of their own, each a rank (gloo); fault: see the worker.

    Unlike torchrun, nobody ends a rank when another fails: each must end by itself, or the test fails.
    """
    paths = [str(write_recipe(recipe, folder / f"{i}.yaml")) for i, recipe in enumerate(recipes)]
    return forks.call(worker, fault, paths, ranks=ranks).wait()


def trained(recipe: GRPORecipe) -> dict[str, torch.Tensor]:
    """The weights after training a recipe in this process."""
    return weights(run(recipe))


def weights(folder: str | Path) -> dict[str, torch.Tensor]:
    return load_file(Path(folder, "model.safetensors"))


def drift(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor], start: str | Path) -> float:
    """How far two trained models lie apart, of the way that training went: |ours - theirs| / |theirs - start|."""
    begun = weights(start)
    assert ours.keys() == theirs.keys() == begun.keys()

    def distance(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> float:
        return sum(float((a[name].double() - b[name].double()).square().sum()) for name in a) ** 0.5

    went = distance(theirs, begun)
    assert went > 0, "nothing was trained"
    return distance(ours, theirs) / went


def logged(folder: str | Path, name: str) -> list[float]:
    """A figure of every logged step."""
    history = json.loads(Path(folder, "trainer_state.json").read_text())["log_history"]
    return [entry[name] for entry in history if name in entry]
