"""Begins what a recipe reports to, as a training does, and says what W&B's run is (tests/train/test_reporting.py)."""

import wandb

from train import reporting
from train.sft import SFTRecipe
from whilst.recipe import load_recipe


def main(path: str, login_seconds: float) -> None:
    reporting.LOGIN_SECONDS = login_seconds
    reporting.prepare_reporting(load_recipe(path, SFTRecipe))
    run = wandb.run
    assert run is not None
    print(run.project, run.name, run.tags, run.config["recipe"]["optim"]["learning_rate"], run.settings.mode)
