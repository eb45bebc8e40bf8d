"""Trains GRPO recipes one after the other in this process, or on ranks (tests/train/grpo_runs.run_apart).

Faults: policy_on_rank_1 (the rollout raises there), killed_in_save (SIGKILL while the second checkpoint is written).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from transformers import Trainer

from rewards.registry import REWARDS
from tests.train.grpo_runs import TEST_REWARDS
from train import grpo
from train.policies import Limits, StreamPolicy, Task
from whilst.episode import Episode
from whilst.recipe import load_recipe


def policy_on_rank_1() -> None:
    rollout = StreamPolicy.rollout

    def broken(self: StreamPolicy, tasks: Sequence[Task], limits: Limits) -> list[Episode]:
        if os.environ["RANK"] == "1":
            raise ZeroDivisionError("a policy with a bug")
        return rollout(self, tasks, limits)

    StreamPolicy.rollout = broken  # type: ignore[method-assign]


def killed_in_save() -> None:
    save = Trainer._save_checkpoint

    def killed(self: Any, model: Any, trial: Any) -> None:
        save(self, model, trial)  # all that Trainer writes is there, ours is not
        if list(Path(self.args.output_dir).glob("checkpoint-*")):
            os.kill(os.getpid(), signal.SIGKILL)

    Trainer._save_checkpoint = killed  # type: ignore[method-assign]


FAULTS: dict[str, Callable[[], None]] = {
    "": lambda: None,
    "policy_on_rank_1": policy_on_rank_1,
    "killed_in_save": killed_in_save,
}


def without_ds_kernels() -> None:
    """DeepSpeed would build its shared-memory all-reduce with g++, for a minute: gloo does."""
    import deepspeed  # noqa: F401

    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # type: ignore[attr-defined]


def main(fault: str, paths: Sequence[str]) -> None:
    REWARDS.update(TEST_REWARDS)
    FAULTS[fault]()
    recipes = [load_recipe(path, grpo.GRPORecipe) for path in paths]
    if any(recipe.optim.deepspeed for recipe in recipes):
        without_ds_kernels()
    end = Accelerator.end_training  # would take the process group from the recipes that follow
    for i, recipe in enumerate(recipes):
        Accelerator.end_training = end if i + 1 == len(recipes) else lambda self: None  # type: ignore[method-assign]
        grpo.run(recipe)
        if recipe.optim.deepspeed:
            print("ZeRO stage", AcceleratorState().deepspeed_plugin.zero_stage)
