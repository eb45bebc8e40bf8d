"""Every recipe does what it says on a tiny scale: the world is made, the model built, each arm takes a step, all are
evaluated. What the figures are is the demo's business."""

import json
from pathlib import Path

import pytest

from whilst.cli import load_for, stage_module
from whilst.demo import FRAGMENT
from whilst.recipe import stage_of

ROOT = Path(__file__).parents[1]
KINDS = {"backward", "present", "order", "forward", "unanswerable"}
RECIPES = sorted(path for path in (ROOT / "recipes").rglob("*.yaml") if path.name != FRAGMENT)
ARMS = [path for path in RECIPES if stage_of(path) == "sft"]
TINY = ROOT / "recipes" / "tiny"
ONE_STEP = ("optim.steps=1", "optim.warmup_steps=0", "optim.batch_size=2", "data.limit=4", "log_steps=1")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small world and a checkpoint, from the demo's recipes."""
    out = tmp_path_factory.mktemp("recipes")
    counts = "counts={train: 4, validation: 1, test: 3}"
    for stage, name, *overrides in (
        ("synth", "world", f"output={out / 'world'}", counts),
        ("tiny", "model", f"output={out / 'base'}", f"words_from={out / 'world' / 'words.txt'}"),
    ):
        stage_module(stage).run(load_for(stage, TINY / f"{name}.yaml", overrides))
    return out


def step(path: Path, made: Path, output: Path) -> Path:
    """Train one step of an arm."""
    paths = (f"output={output}", f"model.path={made / 'base'}", f"data.train={made / 'world' / 'train.jsonl'}")
    trained: Path = stage_module("sft").run(load_for("sft", path, (*paths, *ONE_STEP)))
    return trained


@pytest.mark.parametrize("path", ARMS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_an_arm_takes_a_step(path: Path, made: Path, tmp_path: Path) -> None:
    out = step(path, made, tmp_path / "arm")
    (logged, *_) = json.loads((out / "trainer_state.json").read_text())["log_history"]
    assert logged["step"] == 1 and logged["loss"] > 0.0
    assert (out / "streaming.yaml").is_file() and (out / "model.safetensors").is_file()


def test_the_demo_s_evaluation_reports_every_arm_and_control(made: Path, tmp_path: Path) -> None:
    recipe = load_for("eval", TINY / "eval.yaml")
    arms = {name: str(step(TINY / f"{name}.yaml", made, tmp_path / name)) for name in recipe.arms}
    overrides = (
        f"output={tmp_path}",
        f"samples={made / 'world' / 'test.jsonl'}",
        f"arms={json.dumps(arms)}",
        "jobs=1",
        "bootstrap_draws=20",
        "thought_tokens=4",
        "answer_tokens=4",
    )
    stage_module("eval").run(load_for("eval", TINY / "eval.yaml", overrides))
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report["arms"]) == set(arms)
    asked = {arm: figures["all"]["n"] for arm, figures in report["arms"].items()}
    assert len(set(asked.values())) == 1, f"every arm answers the same queries: {asked}"
    for figures in (*report["arms"].values(), *report["controls"].values(), *report["controls_kv"].values()):
        assert KINDS & set(figures) and set(figures["all"]) == {"n", "accuracy", "ci_low", "ci_high"}
    assert set(report["controls"]) == {"thoughts_shuffled", "thoughts_dropped", "text_only", "last_frames"}
    page = (tmp_path / "report.html").read_text()
    assert all(arm in page for arm in arms)
