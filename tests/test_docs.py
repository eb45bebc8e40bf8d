"""The pages under docs/: what they tell a reader to type is typed.

Blocks marked `sh` are run, one page after the other, in a scratch folder with the repository's recipes in it; `python`
blocks of the pages in SCRIPTED too, each page in a namespace of its own. Blocks marked `sh cluster` need what is not
here (GPUs, a Slurm, gigabytes): their commands are read as the command line reads them, their recipes are loaded, and
what is launched is checked.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from slurm.chain import spread
from slurm.checks import LaunchError, check
from whilst.cli import STAGES, app, load_for
from whilst.recipe import stage_of
from whilst.visibility import RULES

ROOT = Path(__file__).parents[1]
FIRST = "QUICKSTART"  # what it makes, the other pages use
PAGES = sorted(path.stem for path in (ROOT / "docs").glob("*.md") if path.stem not in ("LOG", "BENCHMARKS"))
SCRIPTED = ("ADD_A_METHOD",)
MUST_RUN = ("QUICKSTART", "ADD_A_METHOD", "REPRODUCE_VST", "CLUSTER", "DATA", "EVALUATION", "TROUBLESHOOTING")
GROUP = typer.main.get_command(app)


def blocks(page: str) -> list[tuple[str, str]]:
    """(kind, text) of the fenced blocks of a page."""
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(r"^```([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> Iterator[list[str]]:
    """The words of every line, comments left out; a line that ends in a backslash goes on."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


def run(words: list[str]) -> None:
    assert words[0] == "whilst", f"only commands of whilst are run here: {words}"
    found = CliRunner().invoke(app, words[1:])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == 0, f"{' '.join(words)}\n{found.output}"


def read(words: list[str]) -> None:
    """Parse a command without running it, and load the recipes that it names."""
    while words and ("=" in words[0] or words[0] in ("srun", "HF_TOKEN")):
        words = words[1:]
    if words[0] in ("torchrun", "accelerate"):
        words = ["whilst", *words[words.index("whilst.cli") + 1 :]]
    if words[0] != "whilst":
        return
    command: Any = GROUP
    rest = words[1:]
    while hasattr(command, "commands"):
        assert rest and rest[0] in command.commands, f"no such command: {' '.join(words)}"
        command, rest = command.commands[rest[0]], rest[1:]
    context: Any = command.make_context(command.name, list(rest), resilient_parsing=False)
    asked = context.params
    recipes = [ROOT / word for word in rest if word.startswith("recipes/") and word.endswith(".yaml")]
    stages = [stage_of(recipe) for recipe in recipes]
    assert set(stages) <= set(STAGES)
    launches = command.name == "launch"
    own = asked.get("overrides") or ()
    overrides = [own if recipe == ROOT / str(asked.get("recipe")) else () for recipe in recipes]
    if launches:
        options = {"time": asked["limit"]} | {name: asked[name] for name in ("nodes", "gpus_per_node", "partition")}
        overrides = spread(list(zip(recipes, stages, strict=True)), asked["overrides"] or (), options)
    for recipe, stage, given in zip(recipes, stages, overrides, strict=True):
        loaded = load_for(stage, recipe, given)
        if launches:
            check(loaded)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the quickstart has been gone through."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "recipes").symlink_to(ROOT / "recipes")
    (folder / "docs").symlink_to(ROOT / "docs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for kind, text in blocks(FIRST):
            if kind == "sh":
                for words in commands(text):
                    run(words)
    return folder


def test_the_pages_that_must_run_hold_commands() -> None:
    assert set(MUST_RUN) <= set(PAGES)
    for page in MUST_RUN:
        assert any(kind == "sh" for kind, _ in blocks(page)), f"docs/{page}.md has no block marked sh"


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_says_works(page: str, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scratch)
    names: dict[str, Any] = {}
    for kind, text in blocks(page):
        if kind == "sh" and page != FIRST:
            for words in commands(text):
                run(words)
        elif kind == "sh cluster":
            for words in commands(text):
                read(words)
        elif kind == "python" and page in SCRIPTED:
            exec(compile(text, f"docs/{page}.md", "exec"), names)


@pytest.fixture(autouse=True)
def rules_stay() -> Iterator[None]:
    """A page may add a rule; the tests that come after do not see it."""
    before = dict(RULES)
    yield
    RULES.clear()
    RULES.update(before)


def test_the_reader_of_commands_sees_what_is_wrong() -> None:
    read(["whilst", "sft", "recipes/quickstart/sft.yaml", "optim.steps=3"])
    with pytest.raises(AssertionError, match="no such command"):
        read(["whilst", "sftt", "recipes/quickstart/sft.yaml"])
    with pytest.raises(Exception, match="no such option|No such option"):
        read(["whilst", "launch", "recipes/quickstart/sft.yaml", "--no-such-option"])
    with pytest.raises(LaunchError, match="launch.tasks: 8"):
        read(["whilst", "launch", "recipes/vst/synth.yaml", "--nodes", "8"])
    with pytest.raises(LaunchError, match="several recipes"):
        read(["whilst", "launch", "recipes/vst/synth.yaml", "--then", "recipes/vst/sft_7b.yaml", "seed=1"])
