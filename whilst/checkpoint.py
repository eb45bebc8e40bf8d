"""A trained folder as a stream: the model and its streaming contract (`streaming.yaml`)."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from whilst.backbones.base import Backbone, BackboneError, load
from whilst.policies import Policy, make_policy
from whilst.recipe import load_recipe
from whilst.render import RENDERER, Renderer
from whilst.render_config import RenderConfig

CONTRACT = "streaming.yaml"
NOT_PUBLISHED = "not-published"  # the base of an exported model whose own base is on no Hub
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Contract:
    """What inference must know of training: sampling fps, whether it thinks, the render configuration, and pixels a
    frame (None: the checkpoint's own). segment_seconds: how long a segment mostly was (train/segments.py); None: not
    known. policy: the memory policies that it is served with (whilst/policies/), a mapping each with a `name`; none:
    nothing leaves the caches. renderer: the version that wrote its training rows
    (whilst.render.RENDERER); a file that does not say it is of version 1. base: what it was trained from, a folder or
    Hub id; of an adapter, what it is put on."""

    base: str
    fps: float
    thinks: bool
    render: RenderConfig
    min_pixels: int | None = None
    max_pixels: int | None = None
    segment_seconds: float | None = None
    policy: tuple[dict[str, Any], ...] = ()
    renderer: int = RENDERER

    def __post_init__(self) -> None:
        if self.segment_seconds is not None and not 0 < self.segment_seconds < math.inf:
            raise BackboneError(f"segment_seconds must be a positive number of seconds, not {self.segment_seconds}")
        if (policy := make_policy(self.policy)) is not None:
            policy.check(self.render)

    @property
    def cut_seconds(self) -> float:
        """How long the segments of a live stream are where nobody says otherwise: as in training, else 1 s."""
        return 1.0 if self.segment_seconds is None else self.segment_seconds


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


def folder_of(path: str | Path, revision: str | None = None) -> Path:
    """The folder of a checkpoint: `path` itself, or that of a Hub id in the local cache, all files of one commit.

    Downloads what is missing, unless HF_HUB_OFFLINE is set. BackboneError: neither a folder nor to be had.
    """
    if Path(path).is_dir():
        if revision is not None:
            raise BackboneError(f"{path}: it is a folder, which has no revision {revision!r}; leave revision out")
        return Path(path)
    if not HUB_ID.fullmatch(str(path)):
        raise BackboneError(f"{path}: no such folder, and no id of the Hub (owner/name) either")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(path), revision=revision))
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        where = f"{path}{f' at {revision}' if revision else ''}"
        raise BackboneError(
            f"{where}: no such folder here, and not to be had from the Hub: {' '.join(str(error).split())}"
        ) from error


def read_contract(path: str | Path) -> Contract:
    """The contract of a folder, or of a Hub id. BackboneError: there is none, or it is of another renderer."""
    file = Path(path, CONTRACT)
    if not Path(path).is_dir() and HUB_ID.fullmatch(str(path)):
        found = cached_file(str(path), CONTRACT, _raise_exceptions_for_missing_entries=False)
        file = Path(found) if found else file
    if not file.exists():
        raise BackboneError(
            f"{path}: {CONTRACT} is missing, so layout, rule and scheme are unknown; train with whilst sft"
        )
    said = re.search(r"^renderer:", file.read_text(encoding="utf-8"), re.MULTILINE)
    contract = load_recipe(file, Contract, () if said else ("renderer=1",))
    if contract.renderer != RENDERER:
        older = contract.renderer < RENDERER
        fix = "install the version of whilst that trained it, or train it again" if older else "upgrade whilst"
        raise BackboneError(
            f"{file}: renderer: its rows were written by version {contract.renderer}, this whilst writes version "
            f"{RENDERER}, which it would misread; {fix}"
        )
    return contract


def load_checkpoint(path: str | Path, *, device: str = "cpu", revision: str | None = None) -> Checkpoint:
    """Load a folder that `whilst sft`, `whilst grpo` or `whilst export` wrote, or the Hub id of one. Adapters (LoRA)
    are put on their base model. revision: branch, tag or commit of a Hub id."""
    path = folder_of(path, revision)
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
