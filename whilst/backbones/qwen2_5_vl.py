"""Qwen2.5-VL: one vision block a clip, absolute time on the t axis (tokens_per_second), no timestamps in text."""

from __future__ import annotations

from typing import Any

from whilst.backbones.base import Family, VisionSpec, pixel_limits


class Qwen25VL(Family):
    name = "qwen2_5_vl"

    def spec(self, config: Any, preprocessor: dict[str, Any]) -> VisionSpec:
        vision = config.vision_config
        min_pixels, max_pixels = pixel_limits(preprocessor)
        return VisionSpec(
            family=self.name,
            patch=vision.patch_size,
            merge=vision.spatial_merge_size,
            temporal_patch=vision.temporal_patch_size,
            tokens_per_second=float(vision.tokens_per_second),
            mean=tuple(preprocessor["image_mean"]),
            std=tuple(preprocessor["image_std"]),
            min_pixels=min_pixels,
            max_pixels=max_pixels,
        )
