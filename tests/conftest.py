"""What all tests share: no network, one thread, and a tiny checkpoint of each backbone family, built once a session."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from whilst.backbones.base import Backbone, load
from whilst.backbones.tiny import Family, build_tiny

torch.set_num_threads(1)

FAMILIES: tuple[Family, ...] = ("qwen3_vl", "qwen2_5_vl")
# Words of one token each; any other text is its bytes, so texts of many tokens are at hand too.
WORDS = ("in-1", "in-2", "out-1", "red-circle", "blue-square", "none", "now", "unknown", "which", "tell-when", ".", "?")


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """A tiny checkpoint folder of each family."""
    return {name: build_tiny(name, tmp_path_factory.mktemp(name), WORDS, layers=2) for name in FAMILIES}


@pytest.fixture(scope="session")
def backbones(checkpoints: Mapping[str, Path]) -> Mapping[str, Backbone]:
    """The tiny checkpoints, loaded in float32 on the CPU. Shared: a test that changes a model loads its own."""
    loaded = {name: load(path) for name, path in checkpoints.items()}
    for backbone in loaded.values():
        backbone.model.eval()
    return loaded


@pytest.fixture(scope="session", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """Each family in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def checkpoint(family: str, checkpoints: Mapping[str, Path]) -> Path:
    """The tiny checkpoint of each family in turn."""
    return checkpoints[family]


@pytest.fixture(scope="session")
def backbone(family: str, backbones: Mapping[str, Backbone]) -> Backbone:
    """The loaded tiny checkpoint of each family in turn."""
    return backbones[family]
