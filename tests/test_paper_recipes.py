"""Every recipe of a paper: it says what the paper says, plans without a GPU or a network, renders its Slurm script, and
a tiny twin of it takes two updates that change its weights."""

from __future__ import annotations

import json
import math
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

from whilst.checkpoint import read_contract
from whilst.cli import app, load_for, stage_module
from whilst.demo import FRAGMENT
from whilst.recipe import load_recipe, stage_of
from whilst.twin import STEPS, Step, TwinError, steps_of, take

ROOT = Path(__file__).parents[1]
PUBLISHED = Path(__file__).parent / "published"
PAPERS = sorted(path.stem for path in PUBLISHED.glob("*.yaml"))
TRAINED = sorted(
    path
    for paper in PAPERS
    for path in (ROOT / "recipes" / paper).glob("*.yaml")
    if path.name != FRAGMENT and stage_of(path) in ("sft", "grpo")
)


def recipe_id(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def table(paper: str) -> dict[str, dict[str, Any]]:
    """Published values by recipe file and dotted key."""
    return yaml.safe_load((PUBLISHED / f"{paper}.yaml").read_text(encoding="utf-8"))["recipes"]


def said(recipe: Any, dotted: str) -> Any:
    """What a loaded recipe says under a key of the table; `ranks`, `global_batch` and `groups` are worked out."""
    ranks = recipe.launch.ranks
    if dotted == "ranks":
        return ranks
    if dotted == "global_batch":
        return recipe.optim.global_batch or recipe.optim.batch_size * recipe.optim.accumulation * ranks
    if dotted == "groups":
        return recipe.rollout.global_groups or recipe.rollout.groups * ranks
    value: Any = recipe
    for key in dotted.split("."):
        if isinstance(value, dict):
            value = value[key]
        elif isinstance(value, tuple):
            value = value[int(key)]
        else:
            value = getattr(value, key)
    return plain(value)


def plain(value: Any) -> Any:
    return [plain(one) for one in value] if isinstance(value, tuple | list) else value


def test_all_papers_of_the_house_are_here() -> None:
    asked = {"vst", "tww", "sww", "tays", "live", "streamingvlm", "timechat_online", "streamo"}
    assert asked | {"video_r1", "time_r1", "mmduet2"} <= set(PAPERS)
    assert {path.parent.name for path in TRAINED} == set(PAPERS), "every paper has a recipe that trains"


@pytest.mark.parametrize("path", TRAINED, ids=recipe_id)
def test_a_recipe_says_what_the_paper_says(path: Path) -> None:
    recipe = load_for(stage_of(path), path)
    values = table(path.parent.name).get(path.name)
    assert values, f"tests/published/{path.parent.name}.yaml has no table for {path.name}"
    for dotted, given in values.items():
        assert said(recipe, dotted) == given["value"], f"{dotted}: {given['cite']}"
        assert given["cite"].strip(), f"{dotted}: a value without a source"
    assert recipe.source.strip() and recipe.notes.strip(), "source and notes (what is open, deviations) are asked for"


@pytest.mark.parametrize("paper", PAPERS)
def test_no_table_without_its_recipe(paper: str) -> None:
    assert set(table(paper)) == {path.name for path in TRAINED if path.parent.name == paper}


@pytest.mark.parametrize("path", TRAINED, ids=recipe_id)
def test_a_recipe_plans_without_gpu_and_network(path: Path, tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["plan", str(path), "--samples", "10000", "--json", str(tmp_path / "plan.json")])
    assert found.exit_code == 0, found.output
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["parameters"]["total"] > 2e9 and 0 < plan["parameters"]["trainable"] <= plan["parameters"]["total"]


@pytest.mark.parametrize("path", TRAINED, ids=recipe_id)
def test_a_recipe_renders_its_script(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    found = CliRunner().invoke(app, ["launch", str(path), f"output={out}", "--dry-run"])
    assert found.exit_code == 0, found.output
    asked = load_for(stage_of(path), path)
    assert load_recipe(out / "launch" / "recipe.yaml", type(asked)) == replace(asked, output=str(out))
    (script,) = (out / "launch").glob("*.sbatch")
    subprocess.run(["bash", "-n", str(script)], check=True)
    text = script.read_text()
    nodes = asked.launch.nodes + asked.launch.server_nodes
    assert f"#SBATCH --nodes={nodes}\n" in text and f"#SBATCH --gpus-per-node={asked.launch.gpus_per_node}\n" in text
    assert "srun" in text and str(out / "launch" / "recipe.yaml") in text


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that all twins share: one world, one set of samples a builder, one model a family."""
    return tmp_path_factory.mktemp("twins")


def test_a_twin_is_not_made_over_what_is_there(tmp_path: Path) -> None:
    path = ROOT / "recipes" / "vst" / "sft_7b.yaml"
    steps = steps_of(path, load_for("sft", path), tmp_path)
    (tmp_path / "vst-sft_7b").mkdir()
    (tmp_path / "vst-sft_7b" / "recipe.yaml").write_text("a run of days")
    ran: list[str] = []

    def made(step: Step) -> None:
        step.output.mkdir()
        ran.append(step.output.name)

    with pytest.raises(TwinError, match="vst-sft_7b: is there, and no twin made it"):
        take(steps, made)
    assert (tmp_path / "vst-sft_7b" / "recipe.yaml").read_text() == "a run of days"
    (tmp_path / "vst-sft_7b" / "recipe.yaml").unlink()
    (tmp_path / "vst-sft_7b").rmdir()
    ran.clear()
    take(steps, made)
    assert ran == ["vst-sft_7b"], "world, samples and model were done"
    take(steps, made)
    assert ran == ["vst-sft_7b"]


def changed(start: Path, out: Path) -> bool:
    """Whether the weights of a trained folder are others than those that it started from."""
    adapter = out / "adapter_model.safetensors"
    if adapter.exists():  # B is zero before training
        return any(bool(tensor.any()) for name, tensor in load_file(adapter).items() if "lora_B" in name)
    before, after = load_file(start / "model.safetensors"), load_file(out / "model.safetensors")
    assert before.keys() == after.keys()
    return any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("path", TRAINED, ids=recipe_id)
def test_a_twin_takes_two_updates(path: Path, twins: Path) -> None:
    whole = load_for(stage_of(path), path)
    steps = steps_of(path, whole, twins)
    take(steps, lambda step: stage_module(step.stage).run(load_for(step.stage, step.recipe, step.overrides)))
    out = steps[-1].output
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    updates = [entry for entry in history if "grad_norm" in entry]
    assert [entry["step"] for entry in updates] == [*range(1, STEPS + 1)]
    assert all(math.isfinite(entry["loss"]) and math.isfinite(entry["grad_norm"]) for entry in updates)
    ran = load_recipe(out / "recipe.yaml", type(whole))
    # both: weight decay alone would change weights too
    assert any(entry["grad_norm"] > 0 for entry in updates), "nothing was learned"
    assert changed(Path(ran.model.path), out), "the trained weights are those of the start"
    if whole.stage == "sft":
        assert (ran.render.layout, ran.render.rule) == (whole.render.layout, whole.render.rule)
        assert (ran.render.scheme, ran.loss, ran.data.drop_similar) == (
            whole.render.scheme,
            whole.loss,
            whole.data.drop_similar,
        )
    else:
        made = [entry for entry in updates if "reward" in entry]  # updates that begin a generation
        assert made and all(entry["rollout_gap/max"] < 1e-3 for entry in made)
        assert any(entry["groups/equal_groups"] < ran.rollout.groups for entry in made), "no reward told replies apart"
        assert (ran.rewards, ran.context, ran.loss) == (whole.rewards, whole.context, whole.loss)
        if whole.contract is not None:
            assert read_contract(ran.model.path).render == whole.contract.render
    assert ran.model.freeze_vision == whole.model.freeze_vision and ran.model.lora == whole.model.lora
    assert (out / "streaming.yaml").is_file()
