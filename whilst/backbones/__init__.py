"""Model families: one file each, and a builder of tiny checkpoints for tests and demos."""

from whilst.backbones.base import Family
from whilst.backbones.qwen2_5_vl import Qwen25VL
from whilst.backbones.qwen3_vl import Qwen3VL

FAMILIES: dict[str, Family] = {family.name: family for family in (Qwen25VL(), Qwen3VL())}
