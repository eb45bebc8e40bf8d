"""Where a training reports: modes of W&B and who chose them, what its config holds, and that keys stay unwritten."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from tests.train.zygote import Finished, Zygote
from train.reporting import ReportingError, check_reporting, prepare_reporting, wandb_mode
from train.sft import DataSettings, SFTRecipe
from train.stage import ModelSettings, OptimSettings, WandbSettings
from whilst.recipe import save_resolved

KEY = "0123456789abcdef" * 3


@pytest.fixture
def recipe(tmp_path: Path) -> SFTRecipe:
    return SFTRecipe(
        name="test",
        stage="sft",
        output=str(tmp_path),
        model=ModelSettings("nothing"),
        data=DataSettings("nothing"),
        optim=OptimSettings(steps=1, learning_rate=0.25),
        report_to=("wandb",),
        wandb=WandbSettings(project="streams", tags=("tiny", "cpu")),
    )


def test_the_mode_is_the_recipes_then_the_environments_then_by_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_mode(WandbSettings(mode="online"), has_key=True) == ("online", "")
    assert wandb_mode(WandbSettings(), has_key=True) == ("disabled", "")
    monkeypatch.delenv("WANDB_MODE")
    assert wandb_mode(WandbSettings(), has_key=True) == ("online", "")
    mode, told = wandb_mode(WandbSettings(), has_key=False)
    assert mode == "offline" and "wandb: offline, as there is neither" in told and "\n" not in told
    with pytest.raises(ReportingError, match="online needs a key"):
        wandb_mode(WandbSettings(mode="online"), has_key=False)
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(ReportingError, match="WANDB_MODE: 'sometimes'"):
        wandb_mode(WandbSettings(), has_key=True)


def test_unknown_reports_and_missing_packages_are_refused(recipe: SFTRecipe) -> None:
    with pytest.raises(ReportingError, match="'mlflow' is not known; choose from wandb, tensorboard"):
        check_reporting(replace(recipe, report_to=("mlflow",)))
    board = replace(recipe, report_to=("tensorboard",))
    if importlib.util.find_spec("tensorboard") is None:
        with pytest.raises(ReportingError, match=r"pip install 'whilst\[tensorboard\]'"):
            check_reporting(board)
    else:
        check_reporting(board)


def test_only_rank_0_begins_a_run(recipe: SFTRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    prepare_reporting(replace(recipe, wandb=WandbSettings(mode="online")))
    assert not list(Path(recipe.output).iterdir())


def begin(forks: Zygote, recipe: SFTRecipe, mode: Literal["online", "offline"], **environment: str) -> Finished:
    """Begin a run in a process of its own: wandb keeps state for a whole process."""
    path = Path(recipe.output, "recipe.yaml")
    save_resolved(replace(recipe, wandb=replace(recipe.wandb, mode=mode)), path)
    own = dict.fromkeys(name for name in os.environ if name.startswith("WANDB"))
    seconds = 3.0 if mode == "online" else 120.0  # one that nobody answers, and one that a busy machine takes time for
    (done,) = forks.call("tests.train.reporting_worker", str(path), seconds, env=own | environment).wait()
    return done


@pytest.mark.slow
def test_a_run_kept_in_files_holds_the_recipe_and_no_key(forks: Zygote, recipe: SFTRecipe, tmp_path: Path) -> None:
    done = begin(forks, recipe, "offline", WANDB_API_KEY=KEY)
    assert done.code == 0, done.output[-2000:]
    assert "streams test ('tiny', 'cpu') 0.25 offline" in done.output.splitlines(), done.output[-2000:]
    assert len(list(tmp_path.glob("wandb/offline-run-*/*.wandb"))) == 1
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert not [file for file in written if KEY.encode() in file.read_bytes()]


@pytest.mark.slow
def test_an_online_run_that_cannot_begin_stops_before_training(forks: Zygote, recipe: SFTRecipe) -> None:
    """A server that refuses connections: an error, not a run that is quietly kept in files."""
    done = begin(forks, recipe, "online", WANDB_API_KEY=KEY[:40], WANDB_BASE_URL="http://127.0.0.1:9")
    assert done.code == 1
    assert "ReportingError: wandb: a run could not be begun online" in done.output, done.output[-2000:]
    assert "wandb.mode=offline" in done.output
