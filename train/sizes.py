"""Sizes of a model and of a batch, from which train/memory.py and train/flops.py do their arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from whilst.backbones.base import Backbone

LoRA = "lora_"


@dataclass(frozen=True)
class Decoder:
    """The language model. `qk_norm`: queries and keys are normed a head (Qwen3-VL)."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int
    qk_norm: bool

    @property
    def query(self) -> int:
        """Width of all queries, and of attention's output."""
        return self.heads * self.head_dim

    @property
    def key(self) -> int:
        """Width of all keys, and of all values."""
        return self.kv_heads * self.head_dim

    @property
    def layer_weights(self) -> int:
        """Weights of a layer's matrices."""
        return 2 * self.hidden * (self.query + self.key) + 3 * self.hidden * self.intermediate


@dataclass(frozen=True)
class Tower:
    """The vision tower. `patch`: values of a patch; `merged`: patches a visual token; `mergers`: one, and one for each
    deepstack layer; `gated`: RMSNorm and a gated MLP (Qwen2.5-VL), else LayerNorm and a plain one. `window`: patches a
    window of the blocks that do not attend to the whole frame; `full`: the blocks that do."""

    hidden: int
    intermediate: int
    depth: int
    heads: int
    patch: int
    merged: int
    mergers: int
    out: int
    gated: bool
    window: int
    full: int

    @property
    def block_weights(self) -> int:
        """Weights of a block's matrices."""
        return 4 * self.hidden**2 + (3 if self.gated else 2) * self.hidden * self.intermediate

    @property
    def merger_weights(self) -> int:
        """Weights of one merger's matrices."""
        wide = self.merged * self.hidden
        return wide * (wide + self.out)


@dataclass(frozen=True)
class Parts:
    """Parameters of the parts of a model, all and those that are trained. Tied embeddings stand under `embedding`."""

    layers: int
    embedding: int
    head: int
    tower: int
    merger: int
    trained_layers: int
    trained_embedding: int
    trained_head: int
    trained_tower: int
    trained_merger: int
    lora_rank: int = 0
    lora: int = 0  # of trained_layers, those of adapters

    @property
    def total(self) -> int:
        return self.layers + self.embedding + self.head + self.tower + self.merger

    @property
    def vision(self) -> int:
        return self.tower + self.merger

    @property
    def trained(self) -> int:
        return self.trained_text + self.trained_tower + self.trained_merger

    @property
    def trained_text(self) -> int:
        return self.trained_layers + self.trained_embedding + self.trained_head

    @property
    def largest(self) -> int:
        """Parameters of the largest single matrix: embedding or head."""
        return max(self.embedding, self.head)


@dataclass(frozen=True)
class Batch:
    """One micro-batch of one rank: `rows` of `length` tokens (padded), `learned` labels in all of them, `patches` of
    the distinct clips, in pairs of frames of `frame` patches each."""

    rows: int
    length: int
    learned: int
    patches: int
    frame: int

    @property
    def tokens(self) -> int:
        return self.rows * self.length


@dataclass(frozen=True)
class Sizes:
    """A model as a recipe trains it."""

    decoder: Decoder
    tower: Tower
    parts: Parts


def decoder_of(config: Any) -> Decoder:
    """Sizes of the language model of a Qwen-VL configuration."""
    text = config.text_config
    heads = text.num_attention_heads
    return Decoder(
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        layers=text.num_hidden_layers,
        heads=heads,
        kv_heads=text.num_key_value_heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
        vocabulary=text.vocab_size,
        context=text.max_position_embeddings,
        qk_norm=config.model_type == "qwen3_vl",
    )


def tower_of(config: Any) -> Tower:
    """Sizes of the vision tower of a Qwen-VL configuration."""
    vision = config.vision_config
    gated = config.model_type == "qwen2_5_vl"
    return Tower(
        hidden=vision.hidden_size,
        intermediate=vision.intermediate_size,
        depth=vision.depth,
        heads=vision.num_heads,
        patch=3 * vision.temporal_patch_size * vision.patch_size**2,
        merged=vision.spatial_merge_size**2,
        mergers=1 if gated else 1 + len(vision.deepstack_visual_indexes),
        out=vision.out_hidden_size,
        gated=gated,
        window=(vision.window_size // vision.patch_size) ** 2 if gated else 0,
        full=len(vision.fullatt_block_indexes) if gated else vision.depth,
    )


def parts_of(backbone: Backbone) -> Parts:
    """Parameters of a model's parts, counted on the model as it is frozen and wrapped; it may be on the meta device."""
    names = ("layers", "embedding", "head", "tower", "merger")
    total, trained = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    rank = adapters = 0
    for name, parameter in backbone.model.named_parameters():
        part = _part(name)
        total[part] += parameter.numel()
        if parameter.requires_grad:
            trained[part] += parameter.numel()
        if "lora_A" in name:
            rank = parameter.shape[0]
        if LoRA in name:
            adapters += parameter.numel()
    return Parts(**total, **{f"trained_{name}": trained[name] for name in names}, lora_rank=rank, lora=adapters)


def _part(name: str) -> str:
    if "visual." in name:
        return "merger" if "merger" in name else "tower"
    if "lm_head" in name:
        return "head"
    return "embedding" if "embed_tokens" in name else "layers"
