"""A trained folder as a stream: the model and its streaming contract (`streaming.yaml`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whilst.backbones.base import Backbone, BackboneError, load
from whilst.policies import Policy, make_policy
from whilst.recipe import load_recipe
from whilst.render import RenderConfig, Renderer

CONTRACT = "streaming.yaml"


@dataclass(frozen=True)
class Contract:
    """What inference must know of training: sampling fps, whether it thinks, the render configuration, and pixels a
    frame (None: the checkpoint's own). policy: the memory policies that it is served with (whilst/policies/), a
    mapping each with a `name`; none: nothing leaves the caches."""

    base: str
    fps: float
    thinks: bool
    render: RenderConfig
    min_pixels: int | None = None
    max_pixels: int | None = None
    policy: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if (policy := make_policy(self.policy)) is not None:
            policy.check(self.render)


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint with the renderer that its contract asks for."""

    backbone: Backbone
    renderer: Renderer
    contract: Contract

    @property
    def policy(self) -> Policy | None:
        """The memory policy that its streams have."""
        return make_policy(self.contract.policy)


def read_contract(path: str | Path) -> Contract:
    file = Path(path, CONTRACT)
    if not file.exists():
        raise BackboneError(
            f"{path}: {CONTRACT} is missing, so layout, rule and scheme are unknown; train with whilst sft"
        )
    return load_recipe(file, Contract)


def load_checkpoint(path: str | Path, *, device: str = "cpu") -> Checkpoint:
    """Load a folder that `whilst sft` wrote. Adapters (LoRA) are put on their base model."""
    contract = read_contract(path)
    adapter = Path(path, "adapter_config.json").exists()
    backbone = load(
        contract.base if adapter else path,
        device=device,
        min_pixels=contract.min_pixels,
        max_pixels=contract.max_pixels,
    )
    if adapter:
        from peft import PeftModel

        backbone.model = PeftModel.from_pretrained(backbone.model, str(path))
    backbone.model.eval()
    return Checkpoint(backbone, Renderer(backbone.tokenizer, backbone.spec, contract.render), contract)
