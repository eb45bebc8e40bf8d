"""GRPO: a run that is killed and goes on ends as if nothing had happened, bit for bit."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import FAMILIES
from tests.train import grpo_runs
from tests.train.grpo_runs import KV, PACKED, grpo_recipe, logged, run_and_kill, run_apart, sft_folder, weights
from tests.train.zygote import Zygote
from train.checkpoint_files import MANIFEST, PART, contents, last_checkpoint, publish, read_manifest
from train.episodes import PER_TURN
from train.grpo import run
from train.grpo_recipe import GRPOError, LossSettings
from train.stage import LoraSettings, ModelSettings
from whilst.files import fingerprints

pytestmark = pytest.mark.usefixtures("rewards_of_tests")
rewards_of_tests = grpo_runs.rewards_of_tests


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return grpo_runs.write_samples(tmp_path_factory.mktemp("samples"))


@pytest.fixture(scope="module")
def folders(
    checkpoints: Mapping[str, Path], samples: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[Any, Path]:
    """What SFT left, by family and by kind of memory."""
    out = tmp_path_factory.mktemp("sft")
    return {
        (family, kind): sft_folder(checkpoints[family], samples, out / f"{family}-{kind}", render)
        for family in FAMILIES
        for kind, render in (("text", PACKED), ("kv", KV))
    }


def assert_equal(ours: Path, theirs: Path) -> None:
    """Weights and curves of two runs, bit for bit."""
    assert all(torch.equal(value, weights(ours)[name]) for name, value in weights(theirs).items())
    for name in ("reward", "loss", "grad_norm", "entropy"):
        assert logged(ours, name) == logged(theirs, name), name


LOSS = LossSettings(max_gap=1e-3, max_mean_gap=1e-4)
# a generation lasts updates * iterations steps
INSIDE = replace(LOSS, updates=2, iterations=2, importance="token_truncate", beta=0.1)


@pytest.mark.parametrize("kind", ("text", "kv"))
def test_resume_is_bitwise(family: str, kind: str, folders: Any, samples: Path, tmp_path: Path) -> None:
    recipe = grpo_recipe(folders[family, kind], samples, tmp_path / "killed", save_steps=2)
    recipe = replace(recipe, optim=replace(recipe.optim, steps=6, accumulation=2))
    whole = run(replace(recipe, output=str(tmp_path / "whole")))
    run_and_kill(recipe, 5)
    assert last_checkpoint(recipe.output) == tmp_path / "killed" / "checkpoint-4"
    assert not list((tmp_path / "killed" / "checkpoint-4").glob("rollouts*")), "between generations nothing is kept"
    assert_equal(run(recipe), whole)
    assert len(set(logged(whole, "reward"))) > 1, "nothing would show a generation that is made twice"


MODELS = {
    "pixels": ModelSettings(""),
    "features": ModelSettings("", freeze_vision="tower+merger"),  # of a frozen tower: the buffer holds no pixels
    "lora": ModelSettings("", freeze_vision="tower+merger", lora=LoraSettings(rank=4, alpha=8)),
}


@pytest.mark.parametrize("model", MODELS)
def test_a_checkpoint_inside_a_generation_keeps_its_rows(
    model: str, folders: Any, samples: Path, tmp_path: Path
) -> None:
    """Checkpoints at steps 3 and 6 fall into generations of 4 steps. The reference of the KL term is the first
    checkpoint, not the resumed one."""
    start = folders["qwen3_vl", "text"]
    recipe = grpo_recipe(start, samples, tmp_path / "killed", save_steps=3, loss=INSIDE)
    settings = replace(MODELS[model], path=str(start))
    recipe = replace(recipe, model=settings, optim=replace(recipe.optim, steps=8, accumulation=2))
    whole = run(replace(recipe, output=str(tmp_path / "whole")))
    run_and_kill(recipe, 5)
    checkpoint = last_checkpoint(recipe.output)
    assert checkpoint == tmp_path / "killed" / "checkpoint-3"
    buffer = torch.load(checkpoint / "rollouts-0-of-1.pt", weights_only=True)
    assert len(buffer) == 4  # two updates of two micro-batches
    assert {*PER_TURN, "old_per_token_logps", "ref_per_token_logps"} <= buffer[0].keys()
    assert ("pixel_values_videos" in buffer[0]["forward"]) == (model == "pixels")
    resumed = run(recipe)
    name = "adapter_model.safetensors" if model == "lora" else "model.safetensors"
    assert (resumed / name).read_bytes() == (whole / name).read_bytes()
    for figure in ("reward", "loss", "grad_norm", "entropy", "kl"):
        assert logged(resumed, figure) == logged(whole, figure), figure
    assert logged(whole, "kl")[-1] > 0


def test_a_generation_is_not_made_twice_where_its_rows_are_lost(folders: Any, samples: Path, tmp_path: Path) -> None:
    """Made again under weights that it has trained already, it would be another one. So with other numbers of ranks."""
    recipe = grpo_recipe(folders["qwen3_vl", "text"], samples, tmp_path / "run", save_steps=1)
    recipe = replace(recipe, loss=replace(LOSS, updates=2), optim=replace(recipe.optim, steps=2))
    run_and_kill(recipe, 1)
    saved, part = tmp_path / "run" / "checkpoint-1", tmp_path / "part"
    manifest = read_manifest(saved)
    saved.rename(part)
    (part / "rollouts-0-of-1.pt").rename(part / "rollouts-0-of-2.pt")
    (part / MANIFEST).unlink()
    publish(part, saved, replace(manifest, files=fingerprints(part, contents(part))))
    with pytest.raises(GRPOError, match=r"rollouts-0-of-1.pt is missing.*resumed on as many ranks"):
        run(recipe)


@pytest.mark.slow
def test_sigkill_while_saving_and_resume_is_bitwise(forks: Zygote, folders: Any, samples: Path, tmp_path: Path) -> None:
    """The real thing: the process is killed while it writes its second checkpoint, which is torn."""
    start = folders["qwen2_5_vl", "text"]
    recipe = grpo_recipe(start, samples, tmp_path / "killed", save_steps=3, loss=replace(LOSS, updates=2))
    recipe = replace(recipe, optim=replace(recipe.optim, steps=8))
    (killed,) = run_apart(forks, [recipe], tmp_path, fault="killed_in_save")
    assert killed.code == -signal.SIGKILL, killed.output[-3000:]
    torn = tmp_path / "killed" / "checkpoint-6"
    assert not torn.exists() and list((tmp_path / "killed").glob(f"{PART}*/checkpoint-6/*")), "not killed in a save"
    whole = run(replace(recipe, output=str(tmp_path / "whole")))
    assert_equal(run(recipe), whole)
    assert torn.exists() and not list((tmp_path / "killed").glob(f"{PART}*"))
