"""Every recipe does what it says on a tiny scale: the world is made, the model built, each arm takes a step, all are
evaluated. What the figures are is the demo's business."""

import json
from pathlib import Path

import pytest

from data_pipeline.source import write_sources
from evaluation.controls import REGISTRY
from tests.data_pipeline.worlds import world_sources
from whilst.cli import load_for, stage_module
from whilst.demo import FRAGMENT
from whilst.recipe import stage_of
from whilst.sample import read_samples

ROOT = Path(__file__).parents[1]
KINDS = {"backward", "present", "order", "forward", "unanswerable"}
RECIPES = sorted(path for path in (ROOT / "recipes").rglob("*.yaml") if path.name != FRAGMENT)
PAPERS = {path.stem for path in (ROOT / "tests" / "published").glob("*.yaml")}  # theirs: tests/test_paper_recipes.py
ARMS = [path for path in RECIPES if stage_of(path) == "sft" and path.parent.name not in PAPERS]
RL_ARMS = [path for path in RECIPES if stage_of(path) == "grpo" and path.parent.name not in PAPERS]
SYNTHS = [
    path
    for path in RECIPES
    if stage_of(path) == "synth" and path.parent.name not in ("tiny", "layouts", "annotations", "quickstart")
]
ANNOTATED = [path for path in RECIPES if path.parent.name == "annotations"]
REAL_FILES = ROOT.parent / "shared" / "data"
TINY = ROOT / "recipes" / "tiny"
ONE_STEP = ("optim.steps=1", "optim.warmup_steps=0", "optim.batch_size=2", "data.limit=4", "log_steps=1")


def recipe_id(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def inputs(world: Path, splits: tuple[str, ...] = ("train", "validation", "test")) -> list[str]:
    """Overrides that take a world's sources."""
    return [f"inputs.{split}.sources=[{world / f'{split}.sources.jsonl'}]" for split in splits]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small world and a checkpoint, from the demo's recipes."""
    out = tmp_path_factory.mktemp("recipes")
    counts = "counts={train: 4, validation: 1, test: 2}"
    for stage, name, *overrides in (
        ("world", "world", f"output={out / 'world'}", counts),
        ("synth", "samples", f"output={out / 'samples'}", *inputs(out / "world")),
        ("tiny", "model", f"output={out / 'base'}", f"words_from={out / 'samples' / 'words.txt'}"),
    ):
        stage_module(stage).run(load_for(stage, TINY / f"{name}.yaml", overrides))
    return out


def step(path: Path, made: Path, output: Path) -> Path:
    """Train one step of an arm."""
    samples = (f"data.train={made / 'samples/data/train'}", "data.validation=null")
    paths = (f"output={output}", f"model.path={made / 'base'}", *samples)
    trained: Path = stage_module("sft").run(load_for("sft", path, (*paths, *ONE_STEP)))
    return trained


def rl_step(path: Path, start: Path, made: Path, output: Path) -> Path:
    """Two updates of a GRPO recipe from a checkpoint."""
    few = ("optim.steps=2", "log_steps=1", "rollout.groups=2", "rollout.rollouts=3", "log_episodes=2")
    paths = (f"output={output}", f"model.path={start}", f"data.train={made / 'samples/data/train'}")
    trained: Path = stage_module("grpo").run(load_for("grpo", path, (*paths, *few)))
    return trained


# What a recipe asks of hours of video, for a world of seconds.
SHORT = {
    "live/dialogue": ("builder.live_dialogue.shortest=4", "builder.live_dialogue.waiting_frames=2"),
    "tww/stage3": ("builder.tww.shortest=0", "builder.tww.distractors=0", "builder.tww.rounds=[1, 2]"),
    "timechat_online/synth": ("builder.timechat_online.shortest=0",),
    "streamingvlm/synth": ("builder.text_stream={window: 8, overlap: 4, least_words_per_second: 0.5}",),
    "tays/synth": ("builder.tays.ask=entity",),
}


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sources of a world in which much happens; none of its videos is ever read."""
    folder = tmp_path_factory.mktemp("busy")
    for split in ("train", "test"):
        write_sources(world_sources(8, split=split), folder / f"{split}.sources.jsonl")
    return folder


@pytest.mark.parametrize("path", SYNTHS, ids=recipe_id)
def test_a_synth_recipe_makes_samples(path: Path, busy: Path, tmp_path: Path) -> None:
    """From the world instead of its own data and with templates instead of a server; all else is the recipe's."""
    raw = load_for("synth", path)
    inputs = [
        override
        for split, given in raw.inputs.items()
        for override in (
            f"inputs.{split}.sources=[{busy / f'{split}.sources.jsonl'}]",
            f"inputs.{split}.shards=1",
            *(f"inputs.{split}.{kind}=null" for kind in ("annotations", "extract") if getattr(given, kind)),
        )
    ]
    few = (f"output={tmp_path / 'out'}", "writer=templates", "workers=1", "filters.guesser=null")
    report = stage_module("synth").run(load_for("synth", path, (*few, *inputs, *SHORT.get(recipe_id(path), ()))))
    for split, tally in report["splits"].items():
        samples = read_samples(tmp_path / "out" / "data" / split)
        assert len(samples) == tally["samples"]["out"] >= 4, tally
    for counted in report["exports"].values():
        assert counted["out"] >= 4, counted


@pytest.mark.skipif(not REAL_FILES.is_dir(), reason="the annotation files are not beside the repository")
@pytest.mark.parametrize("path", ANNOTATED, ids=recipe_id)
def test_a_recipe_of_real_annotations_makes_samples(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(REAL_FILES)
    limits = [f"inputs.{split}.limit=12" for split in load_for("synth", path).inputs]
    recipe = load_for("synth", path, ("output=out", "workers=1", *limits))
    report = stage_module("synth").run(recipe)
    made = [sample for split in recipe.inputs for sample in read_samples(tmp_path / "out" / "data" / split)]
    assert len(made) == report["all"]["samples"]["out"] >= 3
    assert {sample.meta["dataset"] for sample in made}


@pytest.mark.parametrize("path", ARMS, ids=recipe_id)
def test_an_arm_takes_a_step(path: Path, made: Path, tmp_path: Path) -> None:
    out = step(path, made, tmp_path / "arm")
    (logged, *_) = json.loads((out / "trainer_state.json").read_text())["log_history"]
    assert logged["step"] == 1 and logged["loss"] > 0.0
    assert (out / "streaming.yaml").is_file() and (out / "model.safetensors").is_file()


@pytest.mark.parametrize("path", RL_ARMS, ids=recipe_id)
def test_an_rl_arm_takes_steps(path: Path, made: Path, tmp_path: Path) -> None:
    start = step(TINY / "lazy_sft.yaml", made, tmp_path / "sft")
    out = rl_step(path, start, made, tmp_path / "arm")
    logged = [
        entry for entry in json.loads((out / "trainer_state.json").read_text())["log_history"] if "reward" in entry
    ]
    assert [entry["step"] for entry in logged] == [1, 2]
    assert all(entry["groups/groups"] == 2 and entry["rollout_gap/max"] < 1e-4 for entry in logged)
    assert (out / "streaming.yaml").read_text() == (start / "streaming.yaml").read_text().replace(
        str(made / "base"), str(start)
    )
    assert (out / "model.safetensors").is_file()
    assert sorted(file.name for file in (out / "episodes").iterdir()) == [
        f"step-0000{n}.{suffix}" for n in (1, 2) for suffix in ("html", "parquet")
    ]


def test_the_demo_s_evaluation_reports_every_arm_and_control(made: Path, tmp_path: Path) -> None:
    recipe = load_for("eval", TINY / "eval.yaml")
    taught = [name for name in recipe.arms if stage_of(TINY / f"{name}.yaml") == "sft"]
    arms = {name: str(step(TINY / f"{name}.yaml", made, tmp_path / name)) for name in taught}
    start = tmp_path / "lazy_sft"
    arms |= {
        name: str(rl_step(TINY / f"{name}.yaml", start, made, tmp_path / name))
        for name in recipe.arms
        if name not in taught
    }
    overrides = (
        f"output={tmp_path}",
        f"samples={made / 'samples/data/test'}",
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
        assert KINDS & set(figures) and set(figures["all"]) == {"n", "accuracy", "ci_low", "ci_high", "videos"}
    for arm in arms:  # every control was run, or is not valid for the arm and says why
        taken, refused = set(report["controls_by_arm"][arm]), report["controls_not_valid"].get(arm, {})
        assert taken | set(refused) == set(REGISTRY) and not taken & set(refused) and all(refused.values())
    assert set(report["controls"]) >= {"thoughts_shuffled", "thoughts_dropped", "text_only", "last_frames"}
    assert all(not audited["leaks"] for audited in report["audit"].values())
    page = (tmp_path / "report.html").read_text()
    assert all(arm in page for arm in arms)
