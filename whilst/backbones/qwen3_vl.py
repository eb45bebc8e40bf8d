"""Qwen3-VL: each temporal patch carries its timestamp as text; deepstack features enter the first decoder layers."""

from __future__ import annotations

from typing import Any

import torch

from whilst.backbones.base import Family, Features, VisionSpec, pixel_limits


class Qwen3VL(Family):
    name = "qwen3_vl"

    def spec(self, config: Any, preprocessor: dict[str, Any]) -> VisionSpec:
        vision = config.vision_config
        min_pixels, max_pixels = pixel_limits(preprocessor)
        return VisionSpec(
            family=self.name,
            patch=vision.patch_size,
            merge=vision.spatial_merge_size,
            temporal_patch=vision.temporal_patch_size,
            tokens_per_second=None,
            mean=tuple(preprocessor["image_mean"]),
            std=tuple(preprocessor["image_std"]),
            min_pixels=min_pixels,
            max_pixels=max_pixels,
        )

    def encode(self, core: Any, pixels: torch.Tensor, grids: torch.Tensor) -> Features:
        out = core.visual(pixels.to(core.visual.dtype), grid_thw=grids, return_dict=True)
        return Features(out.pooler_output, tuple(out.deepstack_features))

    def visual_inputs(self, visual_mask: torch.Tensor, features: Features) -> dict[str, Any]:
        return {"visual_pos_masks": visual_mask, "deepstack_visual_embeds": list(features.deepstack)}
