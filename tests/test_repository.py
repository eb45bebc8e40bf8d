"""The house: what its papers say exists, its arrows run one way, and every recipe is one."""

import ast
import importlib.util
import re
import stat
import subprocess
import sys
import tomllib
from dataclasses import fields
from itertools import chain, takewhile
from pathlib import Path
from typing import Any

import pytest
import setuptools
import typer.main

from data_pipeline.builders import BUILDERS
from data_pipeline.filters import FilterSettings
from data_pipeline.queries.kinds import KINDS
from whilst import __version__
from whilst.attention import BACKENDS, check_backend
from whilst.cli import PACKAGES, STAGES, app, load_for
from whilst.demo import FRAGMENT, jobs_of
from whilst.positions import SCHEMES
from whilst.recipe import stage_of
from whilst.visibility import RULES

ROOT = Path(__file__).parents[1]
DOOR = ROOT / "whilst" / "cli"
RECIPES = sorted(path for path in (ROOT / "recipes").rglob("*.yaml") if path.name != FRAGMENT)
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *(path for path in sorted((ROOT / "docs").glob("*.md")) if path.stem not in ("LOG", "BENCHMARKS")),
    *sorted((ROOT / "recipes").glob("*/README.md")),
]
STAGE_PACKAGES = ("data_pipeline", "train", "evaluation")
COMMANDS = {command for command in typer.main.get_command(app).commands}  # type: ignore[attr-defined]


def recipe_id(path: Path) -> str:
    return str(path.relative_to(ROOT))


# ---- Arrows.


def modules(file: Path) -> set[str]:
    """All that a file imports, anywhere in it: modules, and what is taken from them, with its module's name."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: write imports from the top"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def imports(file: Path) -> set[str]:
    """The top packages that a file imports, anywhere in it."""
    return {name.partition(".")[0] for name in modules(file)}


@pytest.mark.parametrize(
    ("package", "may"),
    [
        ("whilst", {"whilst"}),
        ("rewards", {"whilst", "rewards"}),
        ("slurm", {"whilst", "slurm"}),
        *[(stage, {"whilst", "rewards", stage}) for stage in STAGE_PACKAGES],
    ],
)
def test_arrows_run_one_way(package: str, may: set[str]) -> None:
    for file in (ROOT / package).rglob("*.py"):
        wrong = imports(file) & {*PACKAGES, "benchmarks", "tests"} - may
        assert not wrong, f"{file} imports {wrong}"


def test_only_the_door_loads_stages_by_name() -> None:
    users = {file for file in (ROOT / "whilst").rglob("*.py") if "importlib" in imports(file)}
    assert users == {DOOR / "door.py"}


def through_the_door(file: Path) -> set[str]:
    """What a file imports of the door, through which it could load any stage."""
    return {name for name in modules(file) if f"{name}.".startswith("whilst.cli.")}


@pytest.mark.parametrize("package", PACKAGES)
def test_nobody_inside_goes_through_the_door(package: str) -> None:
    for file in (ROOT / package).rglob("*.py"):
        wrong = set() if DOOR in file.parents else through_the_door(file)
        assert not wrong, f"{file} imports {wrong}"


def test_the_check_of_arrows_sees_imports_inside_functions(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text(
        "def late():\n    from train.sft import run\n    import evaluation.run\n    from whilst import cli\n"
    )
    assert imports(file) == {"train", "evaluation", "whilst"} and through_the_door(file) == {"whilst.cli"}


# ---- Installation.


def setup_arguments(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What setup.py hands to setuptools."""
    given: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: given.update(arguments))
    monkeypatch.chdir(ROOT)
    spec = importlib.util.spec_from_file_location("whilst_setup", ROOT / "setup.py")
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    return given


def test_setup_has_one_table_of_pins(monkeypatch: pytest.MonkeyPatch) -> None:
    given = setup_arguments(monkeypatch)
    assert given["version"] == __version__
    assert set(given["extras_require"]) == {"gpu", "vllm", "synth", "eval", "tensorboard", "dev"}
    everything = [*given["install_requires"], *chain(*given["extras_require"].values())]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*", pin) for pin in everything), everything
    # One version a package, however many extras name it.
    assert len({pin.partition("==")[0].lower() for pin in everything}) == len(set(everything))
    for name in ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "deepspeed", "wandb", "av"):
        assert any(pin.startswith(f"{name}==") for pin in given["install_requires"]), name


def test_torchvision_stays_off_cpu_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    given = setup_arguments(monkeypatch)
    with_it = {extra for extra, pins in given["extras_require"].items() if any("torchvision" in pin for pin in pins)}
    assert with_it == {"gpu"}
    assert not any("torchvision" in pin for pin in given["install_requires"])


def test_setup_packs_every_package_and_the_console_script(monkeypatch: pytest.MonkeyPatch) -> None:
    given = setup_arguments(monkeypatch)
    there = {name for name in PACKAGES if (ROOT / name / "__init__.py").exists()}
    assert there <= set(given["packages"])
    assert {name.partition(".")[0] for name in given["packages"]} == there
    for file in (file for name in there for file in (ROOT / name).rglob("*.py")):
        assert (file.parent / "__init__.py").exists(), f"{file.parent} is no package: it would not be installed"
    assert given["entry_points"] == {
        "console_scripts": ["whilst=whilst.cli:main"],
        "lmms_eval.models": ["whilst = evaluation.lmms_plugin:manifest"],  # found by lmms-eval, where that is installed
    }


def test_mypy_checks_every_package() -> None:
    checked = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["packages"]
    there = {name for name in (*PACKAGES, "benchmarks") if (ROOT / name / "__init__.py").exists()}
    assert set(checked) == there


# ---- Papers.


def test_the_readme_opens_with_the_two_commands() -> None:
    lines = [line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if line.strip()]
    assert lines[0].startswith("# ") and lines[1].startswith("```")
    assert [line.split("#")[0].strip() for line in lines[2:4]] == ["make demo", "make test"]


@pytest.mark.parametrize("target", ["demo", "test", "check", "bench"])
def test_make_has_what_the_papers_name(target: str) -> None:
    told = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert ".venv/bin" in told


@pytest.mark.parametrize("page", PAGES, ids=recipe_id)
def test_files_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    linked = [page.parent / found for found in re.findall(r"\]\(([^)#:]+)\)", text)]
    named = re.findall(r"`([\w./-]+/[\w.-]+\.(?:py|md|yaml))`", text)
    for path in [*linked, *(ROOT / name for name in named)]:
        assert path.exists(), f"{page.name} names {path}, which does not exist"


@pytest.mark.parametrize("page", PAGES, ids=recipe_id)
def test_commands_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for command in re.findall(r"(?:^|`|    )whilst ([a-z]+)", text, re.MULTILINE):
        assert command in COMMANDS, f"{page.name}: whilst {command}"


def test_the_readme_lists_every_command() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert {command for command in re.findall(r"^\| `whilst ([a-z]+)", text, re.MULTILINE)} == COMMANDS


def test_the_page_of_data_names_every_builder_kind_and_filter() -> None:
    text = (ROOT / "docs" / "DATA.md").read_text(encoding="utf-8")
    for name in (*BUILDERS, *KINDS, *(one.name for one in fields(FilterSettings))):
        assert re.search(rf"\b{name}\b", text), name


def test_concepts_names_every_rule_scheme_and_layout() -> None:
    text = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
    tables = set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE))
    layouts = {layout for rule in RULES.values() for layout in rule.layouts}
    assert tables >= {*RULES, *SCHEMES, *layouts}
    row = re.compile(r"^\| `(\w+)` \|.*\| (?:KV|text) \| (.*) \|$", re.MULTILINE)
    told = {layout: set(re.findall(r"`(\w+)`", rules)) for layout, rules in row.findall(text)}
    assert told == {layout: {name for name, rule in RULES.items() if layout in rule.layouts} for layout in layouts}


def test_the_licence_is_whole() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text


def test_ci_is_a_program_that_bash_accepts() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & stat.S_IXUSR
    subprocess.run(["bash", "-n", str(script)], check=True)
    text = script.read_text()
    assert "set -euo pipefail" in text and "make test" in text and "make check" in text


# ---- Recipes.


@pytest.mark.parametrize("path", RECIPES, ids=recipe_id)
def test_a_recipe_is_one(path: Path) -> None:
    recipe = load_for(stage_of(path), path)
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = "\n".join(takewhile(lambda line: line.startswith("#"), lines))
    assert comment, f"{path}: begin with a comment that says what it is"
    folder = str(path.parent.relative_to(ROOT))
    ways = (f"whilst {recipe.stage} {recipe_id(path)}", f"whilst demo --recipes {folder}")
    assert any(way in comment for way in ways), f"{path}: give the command that runs it: {ways[0]}"
    assert recipe.source, f"{path}: say what is reproduced, or that nothing is"


@pytest.mark.parametrize("path", [path for path in RECIPES if stage_of(path) == "sft"], ids=recipe_id)
def test_an_sft_recipe_asks_for_what_goes_together(path: Path) -> None:
    recipe = load_for("sft", path)
    rule = recipe.render.check()
    assert recipe.model.attention in BACKENDS
    check_backend(recipe.model.attention, rule)


def test_names_of_recipes_are_their_own() -> None:
    names = [load_for(stage_of(path), path).name for path in RECIPES]
    assert len(set(names)) == len(names)


def test_every_folder_of_recipes_has_a_readme() -> None:
    for folder in {path.parent for path in RECIPES}:
        assert (folder / "README.md").is_file(), folder


def test_the_arms_of_the_demo_differ_in_what_they_claim_to() -> None:
    arms = {name: load_for("sft", ROOT / "recipes" / "tiny" / f"{name}.yaml") for name in DEMO_ARMS}
    asked = {
        name: (a.render.layout, a.render.rule, dict(a.render.rule_params), a.data.thoughts) for name, a in arms.items()
    }
    assert asked == DEMO_ARMS
    # Everything else is the same, or the comparison would be unfair.
    for name, arm in arms.items():
        first = arms["thinking"]
        assert (arm.model, arm.optim, arm.seed) == (first.model, first.optim, first.seed), name
        assert (arm.data.train, arm.data.fps, arm.data.limit) == (first.data.train, first.data.fps, first.data.limit)
        assert (arm.render.format, arm.render.queries) == (first.render.format, "branch"), name


DEMO_ARMS = {
    "answers_only": ("recurrent_packed", "text_memory", {}, "drop"),
    "thinking": ("recurrent_packed", "text_memory", {}, "keep"),
    "thinking_kv": ("interleaved", "last_segments", {"n": 1}, "keep"),
    "offline": ("interleaved", "causal", {}, "drop"),
}


def test_the_recipes_of_the_demo_meet_in_files() -> None:
    folder = ROOT / "recipes" / "tiny"
    names = ("world.yaml", "samples.yaml", "model.yaml", "eval.yaml")
    world, samples, model, final = (load_for(stage_of(folder / name), folder / name) for name in names)
    given = {split: one.sources for split, one in samples.inputs.items()}
    assert given == {split: (f"{world.output}/{split}.sources.jsonl",) for split in world.counts}
    assert model.words_from == f"{samples.output}/words.txt"
    assert final.samples == f"{samples.output}/data/test" and world.counts["test"] > 0
    arms = {
        path.stem: load_for("sft", path)
        for path in folder.glob("*.yaml")
        if path in RECIPES and stage_of(path) == "sft"
    }
    rl = load_for("grpo", folder / "grpo.yaml")
    lazy = load_for("synth", folder / "lazy_samples.yaml")
    assert final.arms == {name: arm.output for name, arm in arms.items()} | {"grpo": rl.output}
    assert {arm.model.path for arm in arms.values()} == {model.output}
    assert rl.model.path == arms["lazy_sft"].output
    assert arms["lazy_sft"].data.train == rl.data.train == f"{lazy.output}/data/train"
    others = {arm.data.train for name, arm in arms.items() if name != "lazy_sft"}
    assert others == {f"{samples.output}/data/train"}
    assert [wave[0].stage for wave in jobs_of(folder, Path("logs"))] == list(STAGES)


def test_python_is_new_enough() -> None:
    assert sys.version_info >= (3, 11)
