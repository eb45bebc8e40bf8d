"""A small world, the checkpoint built for it, and the same with streaming contracts; each once a session."""

import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from tests.whilst.cli.command import TINY, invoke, make_world
from whilst.render_config import RenderConfig


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The samples of a small world: data/train, data/test and words.txt."""
    return make_world(tmp_path_factory.mktemp("world"), "world.segments=[3, 4]")


@pytest.fixture(scope="session")
def base(world: Path) -> Path:
    """The demo's checkpoint for that world, built through the door."""
    out = world / "base"
    code, told, _, _ = invoke("tiny", TINY / "model.yaml", f"output={out}", f"words_from={world / 'words.txt'}")
    assert code == 0 and told.strip().splitlines()[-1] == str(out)
    return out


@pytest.fixture(scope="session", params=[("recurrent_packed", "text_memory"), ("interleaved", "causal")])
def streaming(request: pytest.FixtureRequest, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The untrained checkpoint with a streaming contract: what it says is noise, when it says it is not."""
    layout, rule = request.param
    folder = tmp_path_factory.mktemp("model") / "model"
    shutil.copytree(base, folder)
    contract = {"base": str(base), "fps": 2.0, "thinks": True, "render": asdict(RenderConfig(layout=layout, rule=rule))}
    (folder / "streaming.yaml").write_text(yaml.safe_dump(contract))
    return folder
