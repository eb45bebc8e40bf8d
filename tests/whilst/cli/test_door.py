"""The door: its help, one line for a mistake, a traceback for a bug."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.whilst.cli.command import ROOT, TINY, fails, invoke
from whilst import __version__, cli
from whilst.recipe import RecipeError


def test_help_names_every_command() -> None:
    code, told, _, _ = invoke("--help")
    assert code == 0
    for command in (*cli.STAGES, "plan", "watch", "serve", "benchmark", "score", "compare", "view", "demo"):
        assert command in told


def test_the_door_opens_without_torch() -> None:
    heavy = {"torch", "transformers", "trl", "numpy", "pyarrow", "datasets", "av", "PIL", "jinja2", "huggingface_hub"}
    script = f"import sys, whilst.cli; assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def test_it_runs_as_a_module() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "whilst.cli", "--version"], check=True, cwd=ROOT, capture_output=True, text=True
    )
    assert found.stdout.strip() == f"whilst {__version__}"


def test_a_bad_recipe_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    recipe = tmp_path / "bad.yaml"
    recipe.write_text("name: bad\nstage: tiny\noutput: x\nfamily: qwen3_vl\nsizes:\n  hiden: 8\n")
    told = fails("tiny", recipe)
    assert f"{recipe}:6" in told and "sizes.hiden" in told and "did you mean sizes.hidden?" in told
    assert "no such recipe file" in fails("sft", tmp_path / "none.yaml")


def test_a_real_process_ends_with_exit_code_2(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "whilst.cli", "tiny", str(tmp_path / "none.yaml")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 2 and found.stdout == ""
    assert found.stderr.startswith("error: ") and found.stderr.count("\n") == 1


def test_traceback_shows_where_it_arose(tmp_path: Path) -> None:
    for arguments in (("--traceback", "tiny", tmp_path / "no.yaml"), ("tiny", tmp_path / "no.yaml", "--traceback")):
        _, _, _, error = invoke(*arguments)
        assert isinstance(error, RecipeError)


def test_another_stage_s_recipe_is_refused() -> None:
    assert f"run it with `whilst eval {TINY / 'eval.yaml'}`" in fails("sft", TINY / "eval.yaml")


def test_a_bug_is_not_taken_for_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr("whilst.cli.door.stage_of", broken)
    _, _, told, error = invoke("plan", TINY / "thinking.yaml")
    assert type(error) is ValueError and "error:" not in told
