"""Configurations of published checkpoints, so that a recipe can be planned where its checkpoint is not.

`whilst plan` builds the model of such a configuration on the meta device: no network, no weights, no memory. Where the
checkpoint is on this machine (a folder, or the Hub's cache) it is read instead; training always reads it.

The sizes are those of each model's config.json and preprocessor_config.json on huggingface.co/Qwen at their release;
tests/train/test_plan.py checks the parameter totals that come of them against the published ones. A Thinking variant of
Qwen3-VL has the sizes of its Instruct one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig, Qwen2_5_VLConfig, Qwen3VLConfig
from transformers.utils import cached_file

from whilst.backbones.base import BackboneError

# decoder: hidden, intermediate, layers, heads, KV heads, vocabulary, tied embeddings
# vision: hidden, intermediate, depth
QWEN25_TEXT = {
    "3B": (2048, 11008, 36, 16, 2, 151936, True),
    "7B": (3584, 18944, 28, 28, 4, 152064, False),
    "32B": (5120, 27648, 64, 40, 8, 152064, False),
}
QWEN25_VISION = {"3B": (1280, 3420, 32), "7B": (1280, 3420, 32), "32B": (1280, 3456, 32)}
QWEN3_TEXT = {
    "2B": (2048, 6144, 28, 16, 8, 151936, True),
    "4B": (2560, 9728, 36, 32, 8, 151936, True),
    "8B": (4096, 12288, 36, 32, 8, 151936, False),
}
QWEN3_VISION = {"2B": (1024, 4096, 24), "4B": (1024, 4096, 24), "8B": (1152, 4304, 27)}
DEEPSTACK = {24: [5, 11, 17], 27: [8, 16, 24]}  # by the depth of the tower

QWEN25_PREPROCESSOR = {
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
QWEN3_PREPROCESSOR = {
    "size": {"shortest_edge": 65536, "longest_edge": 16777216},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def _text(sizes: tuple[int, int, int, int, int, int, bool]) -> dict[str, Any]:
    hidden, intermediate, layers, heads, kv_heads, vocabulary, _ = sizes
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "rms_norm_eps": 1e-6,
    }


def qwen2_5_vl(size: str) -> Qwen2_5_VLConfig:
    """Qwen2.5-VL (arXiv 2502.13923, table 1)."""
    hidden, intermediate, depth = QWEN25_VISION[size]
    return Qwen2_5_VLConfig(
        text_config=_text(QWEN25_TEXT[size])
        | {
            "max_position_embeddings": 128000,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        },
        vision_config={
            "depth": depth,
            "hidden_size": hidden,
            "intermediate_size": intermediate,
            "num_heads": 16,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "tokens_per_second": 2,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
            "out_hidden_size": QWEN25_TEXT[size][0],
        },
        tie_word_embeddings=QWEN25_TEXT[size][-1],
    )


def qwen3_vl(size: str) -> Qwen3VLConfig:
    """Qwen3-VL (arXiv 2511.21631)."""
    hidden, intermediate, depth = QWEN3_VISION[size]
    return Qwen3VLConfig(
        text_config=_text(QWEN3_TEXT[size])
        | {
            "head_dim": 128,
            "max_position_embeddings": 262144,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5e6,
                "mrope_section": [24, 20, 20],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": depth,
            "hidden_size": hidden,
            "intermediate_size": intermediate,
            "num_heads": 16,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 2304,
            "deepstack_visual_indexes": DEEPSTACK[depth],
            "out_hidden_size": QWEN3_TEXT[size][0],
        },
        tie_word_embeddings=QWEN3_TEXT[size][-1],
    )


# Hub id -> (maker, size)
PUBLISHED: dict[str, tuple[Any, str]] = {
    **{f"Qwen/Qwen2.5-VL-{size}-Instruct": (qwen2_5_vl, size) for size in QWEN25_TEXT},
    **{f"Qwen/Qwen3-VL-{size}-{kind}": (qwen3_vl, size) for size in QWEN3_TEXT for kind in ("Instruct", "Thinking")},
}


def is_local(path: str | Path) -> bool:
    """Whether config.json of a checkpoint can be read without a network."""
    return _local(path, "config.json") is not None


def _local(path: str | Path, name: str) -> str | None:
    if Path(path).is_dir():
        file = Path(path, name)
        return str(file) if file.exists() else None
    if str(path).startswith((".", "/")) or str(path).count("/") != 1:
        return None
    found: str | None = cached_file(
        str(path),
        name,
        local_files_only=True,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return found


def config_of(path: str | Path) -> PreTrainedConfig:
    """The configuration of a checkpoint: its own where it is on this machine, else the published one.

    Raises:
        BackboneError: it is neither here nor known; says how to go on.
    """
    if is_local(path):
        return AutoConfig.from_pretrained(path, local_files_only=True)
    if str(path) in PUBLISHED:
        maker, size = PUBLISHED[str(path)]
        config: PreTrainedConfig = maker(size)
        return config
    raise BackboneError(
        f"{path}: no config.json on this machine, and not a published checkpoint that is known here "
        f"({', '.join(PUBLISHED)}). If an earlier stage writes this folder, run it first, or plan with model.path=<its "
        f"base>; a Hub checkpoint is fetched with `hf download {path}`"
    )


def preprocessor_of(path: str | Path) -> dict[str, Any]:
    """preprocessor_config.json of a checkpoint, in the same way."""
    file = _local(path, "preprocessor_config.json")
    if file is not None:
        found: dict[str, Any] = json.loads(Path(file).read_text(encoding="utf-8"))
        return found
    if str(path) in PUBLISHED:
        return dict(QWEN25_PREPROCESSOR if PUBLISHED[str(path)][0] is qwen2_5_vl else QWEN3_PREPROCESSOR)
    raise BackboneError(f"{path}: preprocessor_config.json is missing; save the processor beside the model")
