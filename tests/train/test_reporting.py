"""Where a training reports: modes of W&B and who chose them, what its config holds, and that keys stay unwritten."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from train.reporting import ReportingError, check_reporting, prepare_reporting, wandb_mode
from train.sft import DataSettings, SFTRecipe
from train.stage import ModelSettings, OptimSettings, WandbSettings

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


SCRIPT = """
import sys, wandb
from train import reporting
from dataclasses import replace
from train.reporting import prepare_reporting
from train.sft import DataSettings, SFTRecipe
from train.stage import ModelSettings, OptimSettings, WandbSettings
recipe = SFTRecipe(name="test", stage="sft", output=sys.argv[1], model=ModelSettings("nothing"),
    data=DataSettings("nothing"), optim=OptimSettings(steps=1, learning_rate=0.25), report_to=("wandb",),
    wandb=WandbSettings(project="streams", mode=sys.argv[2], tags=("tiny",)))
reporting.LOGIN_SECONDS = 3.0
prepare_reporting(recipe)
run = wandb.run
print(run.project, run.name, run.tags, run.config["recipe"]["optim"]["learning_rate"], run.settings.mode)
"""


def begin(folder: Path, mode: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Begin a run in a process of its own: wandb keeps state for a whole process."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    command = [sys.executable, "-c", SCRIPT, str(folder), mode]
    root = Path(__file__).parents[2]
    return subprocess.run(command, cwd=root, env=own | environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_a_run_kept_in_files_holds_the_recipe_and_no_key(tmp_path: Path) -> None:
    done = begin(tmp_path, "offline", WANDB_API_KEY=KEY)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "streams test ('tiny',) 0.25 offline" in done.stdout.splitlines()
    assert len(list(tmp_path.glob("wandb/offline-run-*/*.wandb"))) == 1
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert not [file for file in written if KEY.encode() in file.read_bytes()]


@pytest.mark.slow
def test_an_online_run_that_cannot_begin_stops_before_training(tmp_path: Path) -> None:
    """A server that refuses connections: an error, not a run that is quietly kept in files."""
    done = begin(tmp_path, "online", WANDB_API_KEY=KEY[:40], WANDB_BASE_URL="http://127.0.0.1:9")
    assert done.returncode == 1
    assert "ReportingError: wandb: a run could not be begun online" in done.stderr, done.stderr[-2000:]
    assert "wandb.mode=offline" in done.stderr
