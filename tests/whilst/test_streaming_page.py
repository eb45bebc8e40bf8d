"""docs/STREAMING.md does what it says: its commands are parsed and run on a tiny checkpoint, its Python is run."""

import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np
import pytest
import typer.main
import yaml
from typer.testing import CliRunner

from tests.streams import frames
from whilst.cli import app
from whilst.events import StreamEvent
from whilst.render_config import RenderConfig
from whilst.video import write_video

PAGE = (Path(__file__).parents[2] / "docs" / "STREAMING.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    whilst (.+)$", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def model(checkpoints: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    shutil.copytree(checkpoints["qwen3_vl"], folder)
    contract = {"base": str(folder), "fps": 2.0, "thinks": True, "render": asdict(RenderConfig())}
    (folder / "streaming.yaml").write_text(yaml.safe_dump(contract))
    return folder


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "street.mp4"
    write_video(path, frames(np.random.default_rng(0), 4), 2.0)
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands_are_commands(command: str) -> None:
    name, *arguments = shlex.split(command)
    group = typer.main.get_command(app)
    assert isinstance(group, click.Group | typer.core.TyperGroup)
    group.commands[name].make_context(name, arguments)  # an unknown option is an error


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("watch street.mp4")])
def test_its_commands_run(command: str, model: Path, video: Path) -> None:
    changed = re.sub(r"runs/demo/\w+", str(model), command).replace("street.mp4", str(video))
    found = CliRunner().invoke(app, [*shlex.split(changed), "--thought-tokens", "2", "--answer-tokens", "2"])
    assert found.exit_code == 0, found.output


def test_the_options_that_it_names_exist() -> None:
    group = typer.main.get_command(app)
    known = {
        option
        for name in ("watch", "serve")
        for parameter in group.commands[name].params  # type: ignore[attr-defined]
        for option in parameter.opts
    }
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", PAGE)) <= known


def test_its_python_runs(model: Path, video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (script,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(script, "STREAMING.md", "exec"), {"model": model, "video": video})
    told = capsys.readouterr().out
    assert told.startswith("1.0 ") and "\n2.0 " in told and told.count("tell-when in-1 ?") == 2


def test_it_names_every_event() -> None:
    for kind in StreamEvent.__subclasses__():
        assert f"`{kind.type}`" in PAGE, kind
