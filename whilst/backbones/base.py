"""What every backbone family shares: frames -> patches -> features once, and one forward with our mask and positions.

A family file (qwen2_5_vl.py, qwen3_vl.py) gives its constants, which say how vision is written into text (clip_parts),
and how its tower and its language model are called. The stock transformers classes are used as they are; `attach` only
routes the inner model's forward, so that Trainer, TRL's fused head and PEFT call the same code as the runtime.
"""

from __future__ import annotations

import types
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer, PreTrainedModel
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLModelOutputWithPast

from whilst.attention import set_backend, unpack_mask
from whilst.positions import Grid

VISION_START, VISION_END, VIDEO_PAD = "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"
# never sampled: a generated pad would be a visual token without a feature
VISION_TOKENS = (VISION_START, VISION_END, VIDEO_PAD, "<|image_pad|>", "<|vision_pad|>")


class BackboneError(ValueError):
    """A checkpoint, clip or feature table that does not fit."""


@dataclass(frozen=True)
class ClipShape:
    """What the renderer must know of a clip: patch grid (t, h, w) before the merge, frame times (s), sampling fps."""

    grid: tuple[int, int, int]
    times: tuple[float, ...]
    fps: float


@dataclass(frozen=True)
class VisionSpec:
    """M-RoPE and preprocessing constants of a checkpoint. Pixels are counted a frame."""

    family: str
    patch: int
    merge: int
    temporal_patch: int
    tokens_per_second: (
        float | None
    )  # Qwen2.5-VL: t positions a second; None: every temporal patch is a block of its own
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    min_pixels: int = 0
    max_pixels: int = 1 << 40

    def merged(self, shape: ClipShape) -> Grid:
        """The grid of visual tokens of a clip (t, h / merge, w / merge)."""
        t, h, w = shape.grid
        return Grid(t, h // self.merge, w // self.merge)

    def clip_parts(self, shape: ClipShape) -> list[str | Grid]:
        """How this family writes a clip: text pieces and grids of visual tokens, in order."""
        grid = self.merged(shape)
        if self.tokens_per_second is not None:
            # Qwen2.5-VL: one block; t advances by tokens_per_second a second of video
            stride = self.tokens_per_second * self.temporal_patch / shape.fps
            return [VISION_START, Grid(grid.t, grid.h, grid.w, stride), VISION_END]
        parts: list[str | Grid] = []
        for i in range(grid.t):  # Qwen3-VL: each temporal patch has its timestamp (mean of its first and last frame)
            patch = shape.times[i * self.temporal_patch : (i + 1) * self.temporal_patch]
            parts += [f"<{(patch[0] + patch[-1]) / 2:.1f} seconds>", VISION_START, Grid(1, grid.h, grid.w), VISION_END]
        return parts

    def frame_size(self, height: int, width: int) -> tuple[int, int]:
        """Size in pixels after resizing: multiples of patch * merge within [min_pixels, max_pixels], aspect kept."""
        factor = self.patch * self.merge
        if max(height, width) / min(height, width) > 200:
            raise BackboneError(f"frame of {width}x{height} pixels: aspect ratio above 200 cannot be encoded")
        h, w = max(factor, round(height / factor) * factor), max(factor, round(width / factor) * factor)
        if h * w > self.max_pixels:
            shrink = (height * width / self.max_pixels) ** 0.5
            h, w = (max(factor, int(side / shrink / factor) * factor) for side in (height, width))
        elif h * w < self.min_pixels:
            grow = (self.min_pixels / (height * width)) ** 0.5
            h, w = (-int(-side * grow // factor) * factor for side in (height, width))
        return h, w

    def shape(self, times: Sequence[float], height: int, width: int, fps: float) -> ClipShape:
        """Shape of a clip of len(times) frames of height x width pixels."""
        h, w = self.frame_size(height, width)
        t = -(-len(times) // self.temporal_patch)
        return ClipShape((t, h // self.patch, w // self.patch), tuple(times), fps)

    def patchify(self, images: np.ndarray) -> torch.Tensor:
        """Frames (T, H, W, 3) uint8 -> patches (t*h*w, 3 * temporal_patch * patch^2), as the family's processor does.

        An odd last frame is repeated to fill its temporal patch.
        """
        T, H, W, C = images.shape
        height, width = self.frame_size(H, W)
        frames = resized(images, height, width)
        mean, std = torch.tensor(self.mean).view(1, 3, 1, 1), torch.tensor(self.std).view(1, 3, 1, 1)
        frames = (frames / 255 - mean) / std
        missing = -T % self.temporal_patch
        if missing:
            frames = torch.cat([frames, frames[-1:].expand(missing, -1, -1, -1)])
        t, h, w = frames.shape[0] // self.temporal_patch, height // self.patch, width // self.patch
        m, p = self.merge, self.patch
        blocks = frames.view(t, self.temporal_patch, C, h // m, m, p, w // m, m, p)
        return blocks.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(t * h * w, C * self.temporal_patch * p * p)


def resized(images: np.ndarray, height: int, width: int) -> torch.Tensor:
    """Frames (T, H, W, 3) uint8 at another size: (T, 3, height, width) float32, whole numbers from 0 to 255."""
    frames = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
    if (height, width) == images.shape[1:3]:
        return frames
    frames = nn.functional.interpolate(frames, (height, width), mode="bicubic", antialias=True)
    return frames.round_().clamp_(0, 255)


@dataclass(frozen=True)
class Features:
    """Visual tokens ready for the language model: (N, D), and one (N, D) for each deepstack layer (Qwen3-VL)."""

    tokens: torch.Tensor
    deepstack: tuple[torch.Tensor, ...] = ()

    def take(self, index: torch.Tensor) -> Features:
        return Features(self.tokens[index], tuple(layer[index] for layer in self.deepstack))

    def split(self, sizes: Sequence[int]) -> list[Features]:
        layers = [layer.split(list(sizes)) for layer in self.deepstack]
        return [Features(t, tuple(x[i] for x in layers)) for i, t in enumerate(self.tokens.split(list(sizes)))]

    @staticmethod
    def cat(parts: Sequence[Features]) -> Features:
        layers = zip(*(part.deepstack for part in parts), strict=True)
        return Features(torch.cat([p.tokens for p in parts]), tuple(torch.cat(layer) for layer in layers))


def pixel_limits(preprocessor: dict[str, Any]) -> tuple[int, int]:
    """(least, most) pixels a frame of a preprocessor_config.json, under either pair of names that Qwen-VL files use."""
    size = preprocessor.get("size") or {}
    for where, least, most in ((size, "shortest_edge", "longest_edge"), (preprocessor, "min_pixels", "max_pixels")):
        if least in where and most in where:
            return where[least], where[most]
    raise BackboneError(
        "preprocessor_config.json: neither size.shortest_edge and size.longest_edge nor min_pixels and max_pixels; "
        "without them frames would be encoded at any size"
    )


class Family:
    """Calls into one family's stock model. Stateless; `core` is the inner VL model (e.g. Qwen3VLModel)."""

    name: str

    def spec(self, config: Any, preprocessor: dict[str, Any]) -> VisionSpec:
        raise BackboneError(f"{self.name}: a family must say its constants")

    def encode(self, core: Any, pixels: torch.Tensor, grids: torch.Tensor) -> Features:
        """Patches (P, C) and grids (n, 3) -> features of all clips, concatenated in order."""
        out = core.visual(pixels.to(core.visual.dtype), grid_thw=grids, return_dict=True)
        return Features(out.pooler_output)

    def visual_inputs(self, visual_mask: torch.Tensor, features: Features) -> dict[str, Any]:
        """Further language-model arguments that carry visual features (deepstack); none by default."""
        return {}


@dataclass
class Backbone:
    """A loaded checkpoint: stock model, tokenizer, constants."""

    model: Any  # PreTrainedModel, or its PEFT wrapper
    tokenizer: Any
    spec: VisionSpec
    family: Family
    backend: str = "whilst_sdpa"
    banned: tuple[int, ...] = field(default=())

    @property
    def core(self) -> Any:
        """The inner VL model, under a PEFT wrapper or not."""
        base = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        return base.model

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def encode(self, pixels: torch.Tensor, grids: torch.Tensor) -> Features:
        return self.family.encode(self.core, pixels.to(self.device), grids.to(self.device))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.model.get_output_embeddings()(hidden)

    def hidden(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        mask: Any,
        visual_mask: torch.Tensor | None = None,
        features: Features | None = None,
        cache: Any = None,
        reader: Any = None,
    ) -> torch.Tensor:
        """Last hidden states (B, L, D) of tokens (B, L) at positions (3, B, L) under `mask`.

        features: one row for each True of visual_mask (B, L), in row-major order. reader: rotates queries and keys
        itself (whilst.retrieval.Reader); the stock rotation is then that of position 0, which changes nothing.
        """
        if reader is not None:
            positions = torch.zeros_like(positions)
        return decode(self.family, self.core, input_ids, positions, mask, visual_mask, features, cache, reader)

    def turn(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """RoPE of positions (3, B, n): cos and sin, each (B, n, D of a head)."""
        weight = self.core.get_input_embeddings().weight
        cos, sin = self.core.language_model.rotary_emb(weight, positions.to(weight.device))
        return cos, sin


def decode(
    family: Family,
    core: Any,
    input_ids: torch.Tensor,
    positions: torch.Tensor,
    mask: Any,
    visual_mask: torch.Tensor | None,
    features: Features | None,
    cache: Any = None,
    reader: Any = None,
) -> torch.Tensor:
    embeds = core.get_input_embeddings()(input_ids)
    extra: dict[str, Any] = {}
    slots = int(visual_mask.sum()) if visual_mask is not None else 0
    if features is None and slots:
        raise BackboneError(f"{slots} visual placeholders but no features: a video must not be dropped")
    if features is not None and visual_mask is not None:
        if slots != features.tokens.shape[0]:
            raise BackboneError(
                f"{slots} visual placeholders for {features.tokens.shape[0]} features: they must be equal"
            )
        embeds = embeds.masked_scatter(visual_mask[..., None], features.tokens.to(embeds.dtype))
        if slots:
            extra = family.visual_inputs(visual_mask, features)
    if reader is not None:
        extra = extra | {"reader": reader}
    out = core.language_model(
        inputs_embeds=embeds,
        position_ids=positions,
        attention_mask=mask,
        past_key_values=cache,
        use_cache=cache is not None,
        **extra,
    )
    return out.last_hidden_state


def attach(model: PreTrainedModel, family: Family) -> None:
    """Route the inner model's forward through `decode` when it is given `visual_index`; anything else is untouched.

    Batch keys: input_ids (B, L), position_ids (3, B, L), attention_mask (from pack_mask), pixel_values_videos (P, C),
    video_grid_thw (n, 3) of the distinct clips, visual_mask (B, L) bool, visual_index (V,): which feature each True of
    visual_mask takes, so that a clip that stands in several turns is encoded once; kept (N,), optional: the slots of
    the flattened (B * L) batch whose hidden states are returned, as (1, N, D). visual_features (F, D) with
    visual_deepstack (a list of (F, D)) take the place of the pixels where a frozen tower has encoded them before. thin,
    optional: makes rows shorter by what their features are (train.dropping.Thinning); slots stay those of the whole
    rows.
    """
    core = model.model
    stock = core.forward

    def forward(
        self: Any,
        *args: Any,
        visual_index: torch.Tensor | None = None,
        kept: torch.Tensor | None = None,
        thin: Any = None,
        **kwargs: Any,
    ) -> Any:
        if visual_index is None:
            return stock(*args, **kwargs)
        if "visual_features" in kwargs:
            features = Features(kwargs["visual_features"], tuple(kwargs["visual_deepstack"]))
        else:
            features = family.encode(self, kwargs["pixel_values_videos"], kwargs["video_grid_thw"])
        mask = unpack_mask(kwargs["attention_mask"], kwargs["input_ids"].device)
        put_back = None
        if thin is not None:
            visual_index, kwargs, mask, put_back = thin(features.tokens, visual_index, kwargs, mask)
        hidden: Any = decode(
            family,
            self,
            kwargs["input_ids"],
            kwargs["position_ids"],
            mask,
            kwargs["visual_mask"],
            features.take(visual_index),
        )
        if put_back is not None:
            hidden = put_back(hidden, kept)
        if kept is not None:
            hidden = hidden.flatten(0, 1)[None, kept]
        # the stock heads of both families read rope_deltas, which our explicit positions never use
        return Qwen3VLModelOutputWithPast(last_hidden_state=hidden, rope_deltas=None)

    core.forward = types.MethodType(forward, core)


def load(
    path: str | Path,
    *,
    backend: str = "whilst_sdpa",
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> Backbone:
    """Load a checkpoint by Hub id or local folder. Never runs code from it.

    min_pixels, max_pixels: pixels a frame after resizing; default: the checkpoint's own.
    """
    from whilst.backbones import FAMILIES

    config = AutoConfig.from_pretrained(path)
    if config.model_type not in FAMILIES:
        raise BackboneError(f"{path}: model type {config.model_type!r} has no adapter; known: {', '.join(FAMILIES)}")
    family = FAMILIES[config.model_type]
    model: Any = AutoModelForImageTextToText.from_pretrained(path, dtype=dtype)
    model.to(device)
    tokenizer = AutoTokenizer.from_pretrained(path)
    spec = load_spec(path, min_pixels=min_pixels, max_pixels=max_pixels)
    set_backend(model, backend)
    attach(model, family)
    known = tokenizer.get_vocab()
    missing = [
        token for token in (VISION_START, VISION_END, VIDEO_PAD, "<|im_start|>", "<|im_end|>") if token not in known
    ]
    if missing:
        raise BackboneError(f"{path}: the tokenizer lacks {missing}; it is not a tokenizer of this family")
    banned = tuple(known[token] for token in VISION_TOKENS if token in known)
    return Backbone(model, tokenizer, spec, family, backend, banned)


def load_spec(path: str | Path, *, min_pixels: int | None = None, max_pixels: int | None = None) -> VisionSpec:
    """The constants of a checkpoint without its weights (for rendering and planning)."""
    import json

    from transformers.utils import cached_file

    from whilst.backbones import FAMILIES

    config = AutoConfig.from_pretrained(path)
    if config.model_type not in FAMILIES:
        raise BackboneError(f"{path}: model type {config.model_type!r} has no adapter; known: {', '.join(FAMILIES)}")
    file = cached_file(str(path), "preprocessor_config.json", _raise_exceptions_for_missing_entries=False)
    if file is None:
        raise BackboneError(f"{path}: preprocessor_config.json is missing; save the processor beside the model")
    preprocessor = json.loads(Path(file).read_text())
    spec = FAMILIES[config.model_type].spec(config, preprocessor)
    return replace(
        spec,
        min_pixels=spec.min_pixels if min_pixels is None else min_pixels,
        max_pixels=spec.max_pixels if max_pixels is None else max_pixels,
    )


def freeze_vision(backbone: Backbone, parts: str = "tower") -> None:
    """parts: 'none'; 'tower' (tower without merger); 'tower+merger' (VST freezes both)."""
    if parts not in ("none", "tower", "tower+merger"):
        raise BackboneError(f"freeze {parts!r}: choose none, tower or tower+merger")
    if parts == "none":
        return
    for name, parameter in backbone.core.visual.named_parameters():
        parameter.requires_grad_(parts == "tower" and "merger" in name)


BANNED = -1e9  # added to a logit: no probability in any dtype, and finite, so that p * log p stays 0


def ban_vision_tokens(model: Any, banned: Sequence[int]) -> None:
    """Take vision tokens out of the model's vocabulary: they get no probability, here and in the trainer alike.

    The ban is a bias of the LM head that is no parameter and not saved, so sampling, the fused log-probs and a
    reference model share one distribution. Idempotent. Raises BackboneError where the head has a bias of its own.
    """
    head = (model.get_base_model() if hasattr(model, "get_base_model") else model).get_output_embeddings()
    if head._parameters.get("bias") is not None:
        raise BackboneError("the LM head has a trained bias; banning tokens through it would change what is saved")
    head._parameters.pop("bias", None)
    head._buffers.pop("bias", None)
    bias = torch.zeros(head.out_features, dtype=head.weight.dtype, device=head.weight.device)
    bias[list(banned)] = BANNED
    head.register_buffer("bias", bias, persistent=False)


def add_lora(
    backbone: Backbone, rank: int, alpha: int, dropout: float, targets: Sequence[str], full: Sequence[str] = ()
) -> None:
    """Wrap the model with LoRA adapters (PEFT) on the language model's `targets` modules. full: names that modules end
    with which are trained whole and saved beside the adapters (merger, lm_head); BackboneError for one that none has.
    """
    from peft import LoraConfig, get_peft_model

    for name in full:
        if not any(module == name or module.endswith(f".{name}") for module, _ in backbone.model.named_modules()):
            raise BackboneError(f"lora.full: no module of {backbone.spec.family} is called {name!r}")
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=r".*language_model.*\.(" + "|".join(targets) + ")",
        modules_to_save=list(full) or None,
        task_type="CAUSAL_LM",
    )
    # adapters keep the weights' dtype: ZeRO-3 gathers them in one buffer
    backbone.model = get_peft_model(backbone.model, config, autocast_adapter_dtype=False)
