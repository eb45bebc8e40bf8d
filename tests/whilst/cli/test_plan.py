"""`whilst plan` of the demo's recipes. What it counts is tested in tests/train/test_plan.py."""

from pathlib import Path

import pytest
import yaml

from tests.whilst.cli.command import TINY, fails, invoke
from train.plan import count_parameters, plan
from train.sft import SFTRecipe
from train.stage import LoraSettings, ModelSettings, prepare_model
from whilst.recipe import load_recipe

ARMS = ("answers_only", "thinking", "thinking_kv", "offline")


def overrides(base: Path, world: Path) -> tuple[str, str]:
    return f"model.path={base}", f"data.train={world / 'data/train'}"


@pytest.mark.parametrize("arm", ARMS)
def test_plan_of_the_demo_s_arms(arm: str, base: Path, world: Path) -> None:
    code, told, _, _ = invoke("plan", TINY / f"{arm}.yaml", *overrides(base, world))
    assert code == 0
    resolved = yaml.safe_load(told[told.index("name: ") : told.index("\nparameters")])
    assert resolved["model"]["path"] == str(base) and resolved["output"] == f"runs/demo/{arm}"
    assert "from the first 4 samples" in told and "mask on whilst_sdpa" in told
    assert ("refuses" in told) == (arm != "offline")  # FlashAttention takes plain causal alone


def test_plan_counts_the_parameters_that_training_would_train(base: Path) -> None:
    for settings in (
        ModelSettings(path=str(base)),
        ModelSettings(path=str(base), freeze_vision="tower+merger"),
        ModelSettings(path=str(base), freeze_vision="tower", lora=LoraSettings(rank=4)),
    ):
        counted, backbone = count_parameters(settings), prepare_model(settings)
        parameters = list(backbone.model.parameters())
        assert counted.total == sum(p.numel() for p in parameters)
        assert counted.trainable == sum(p.numel() for p in parameters if p.requires_grad)
        assert counted.vision == sum(p.numel() for p in backbone.core.visual.parameters())


def test_plan_without_samples_yet_says_so(base: Path, tmp_path: Path) -> None:
    recipe = load_recipe(
        TINY / "thinking.yaml", SFTRecipe, [f"model.path={base}", f"data.train={tmp_path / 'no.jsonl'}"]
    )
    assert plan(recipe).rows.nominal


def test_plan_refuses_what_does_not_go_together(base: Path, world: Path) -> None:
    told = fails("plan", TINY / "thinking.yaml", *overrides(base, world), "render.rule=causal")
    assert "not defined for layout 'recurrent_packed'" in told
    told = fails("plan", TINY / "thinking.yaml", *overrides(base, world), "model.attention=flash_attention_2")
    assert "ignores attention masks" in told


def test_plan_of_other_stages_is_their_resolved_recipe() -> None:
    code, told, _, _ = invoke("plan", TINY / "world.yaml", "world.grid=4")
    assert code == 0 and yaml.safe_load(told[: told.index("\nvideos")])["world"]["grid"] == 4
