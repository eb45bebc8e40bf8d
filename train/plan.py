"""What an SFT recipe would do, before anything is trained: parameters, masks and the first rows.

Nothing is loaded but configuration, tokenizer and a few samples: the model is built on the meta device, without memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer

from train.rows import Item, Rejected, load_items
from train.sft import SFTRecipe
from train.stage import ModelSettings
from whilst.attention import BACKENDS, check_backend
from whilst.backbones import FAMILIES
from whilst.backbones.base import Backbone, add_lora, freeze_vision, load_spec
from whilst.render import IGNORE, Renderer
from whilst.sample import samples_exist
from whilst.visibility import Rule, VisibilityError

FIRST_SAMPLES = 8


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters; `vision` counts the tower with its merger, `trainable` after freezing and LoRA."""

    total: int
    vision: int
    trainable: int

    @property
    def state_bytes(self) -> int:
        """Bytes of float32 weights, and of gradients and two AdamW moments for what is trained; no activations."""
        return 4 * self.total + 12 * self.trainable


@dataclass(frozen=True)
class Rows:
    """The rows of the first `samples` samples: lengths in tokens, and how many tokens are visual or learned."""

    samples: int
    lengths: tuple[int, ...]
    visual: int
    learned: int
    rejected: tuple[Rejected, ...]


@dataclass(frozen=True)
class Plan:
    """`masks`: how each attention back-end takes the recipe's rule; `rows` is None until there are samples."""

    parameters: Parameters
    masks: dict[str, str]
    rows: Rows | None


def plan(recipe: SFTRecipe) -> Plan:
    """Plan a recipe.

    Raises:
        VisibilityError, PositionError, RenderError: layout, rule, scheme and back-end do not fit together.
        BackboneError, OSError: the checkpoint has no adapter here, or cannot be found.
    """
    rule = recipe.render.check()
    check_backend(recipe.model.attention, rule)
    return Plan(count_parameters(recipe.model), {name: mask_of(name, rule) for name in BACKENDS}, first_rows(recipe))


def count_parameters(settings: ModelSettings) -> Parameters:
    """Parameters of the checkpoint as the recipe trains it, from its configuration alone."""
    config = AutoConfig.from_pretrained(settings.path)
    spec = load_spec(settings.path)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
        backbone = Backbone(model, None, spec, FAMILIES[config.model_type])
        vision = sum(parameter.numel() for parameter in backbone.core.visual.parameters())
        freeze_vision(backbone, settings.freeze_vision)
        if settings.lora is not None:
            lora = settings.lora
            add_lora(backbone, lora.rank, lora.alpha, lora.dropout, lora.targets)
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in backbone.model.parameters()]
    return Parameters(sum(n for n, _ in sizes), vision, sum(n for n, trained in sizes if trained))


def mask_of(backend: str, rule: Rule) -> str:
    """How a back-end takes `rule`, here."""
    try:
        check_backend(backend, rule)
    except VisibilityError as error:
        return f"refuses: {error}"
    cuda = torch.cuda.is_available()
    if backend.startswith("flash"):
        return "no mask needed" if cuda else "no mask needed; needs a CUDA device, which this machine has not"
    if backend == "whilst_flex":
        return "BlockMask" if cuda else "BlockMask; forward alone on this machine: no backward pass on CPU"
    return "dense mask, memory grows with the square of the row"


def first_rows(recipe: SFTRecipe) -> Rows | None:
    """Decode and render the first samples of data.train; None where they do not exist yet."""
    data, model = recipe.data, recipe.model
    first = data.train if isinstance(data.train, str) else data.train[0]
    if not samples_exist(first):
        return None
    spec = load_spec(model.path, min_pixels=model.min_pixels, max_pixels=model.max_pixels)
    renderer = Renderer(AutoTokenizer.from_pretrained(model.path), spec, recipe.render)
    limit = FIRST_SAMPLES if data.limit is None else min(FIRST_SAMPLES, data.limit)
    items, rejected = load_items(first, renderer, data.fps, thoughts=data.thoughts, limit=limit)
    return _rows(items, rejected)


def _rows(items: Sequence[Item], rejected: Sequence[Rejected]) -> Rows:
    rows = [item.row for item in items]
    return Rows(
        samples=len({row.sample_id for row in rows}) + len(rejected),
        lengths=tuple(len(row) for row in rows),
        visual=int(sum(np.count_nonzero(row.visual_index >= 0) for row in rows)),
        learned=int(sum(np.count_nonzero(row.labels != IGNORE) for row in rows)),
        rejected=tuple(rejected),
    )


def lines(found: Plan) -> list[tuple[str, str]]:
    """A plan as (name, text) pairs for people to read."""
    p, rows = found.parameters, found.rows
    told = [
        ("parameters", f"{p.total:,}, of which vision {p.vision:,}; trained {p.trainable:,}"),
        ("weights, gradients, AdamW", f"{p.state_bytes / 2**20:,.1f} MiB in float32 on one device, no activations"),
    ]
    told += [(f"mask on {name}", text) for name, text in found.masks.items()]
    if rows is None:
        return [*told, ("rows", "data.train does not exist yet")]
    if rows.lengths:
        shortest, middle, longest = min(rows.lengths), int(np.median(rows.lengths)), max(rows.lengths)
        tokens = sum(rows.lengths)
        told += [
            ("rows", f"{len(rows.lengths)} from the first {rows.samples} samples"),
            ("tokens a row", f"{shortest} to {longest}, median {middle}"),
            ("of these tokens", f"{rows.visual / tokens:.0%} visual, {rows.learned / tokens:.0%} learned"),
        ]
    return told + [(f"rejected {r.sample}", r.reason) for r in rows.rejected]
