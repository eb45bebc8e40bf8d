"""`whilst launch RECIPE --local torchrun`: this machine trains without Slurm, on the ranks that the recipe asks for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.train.grpo_runs import PACKED, drift, weights, write_recipe, write_samples
from train import sft
from train.sft import DataSettings, SFTRecipe
from train.stage import ModelSettings, OptimSettings
from whilst.cli import app
from whilst.hardware import Launch

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_torchrun_trains_on_two_ranks_what_one_process_trains(
    checkpoints: Mapping[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The command, and all that it starts: two gloo ranks, which end with the weights of one."""
    one = SFTRecipe(
        name="local",
        stage="sft",
        output=str(tmp_path / "one"),
        model=ModelSettings(str(checkpoints["qwen2_5_vl"])),
        data=DataSettings(str(write_samples(tmp_path / "samples", (1, 2, 3, 4)))),
        optim=OptimSettings(steps=2, batch_size=4, learning_rate=1e-3, schedule="constant"),
        render=PACKED,
        log_steps=1,
        launch=Launch(gpus_per_node=0, ranks_per_node=2),
    )
    two = replace(one, output=str(tmp_path / "two"), optim=replace(one.optim, batch_size=2))
    recipe = write_recipe(two, tmp_path / "recipe.yaml")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    done = CliRunner().invoke(app, ["launch", str(recipe), "--local", "torchrun"], catch_exceptions=False)
    assert done.exit_code == 0, capfd.readouterr().err[-3000:]
    assert json.loads(Path(two.output, "run.json").read_text())["ranks"] == 2
    sft.run(one)
    assert drift(weights(two.output), weights(one.output), one.model.path) < 1e-4
