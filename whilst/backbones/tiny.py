"""Tiny checkpoints of both backbone families, built offline from a seed.

    build_tiny("qwen3_vl", "runs/tiny", words=["red-circle", "?"])

The directory that comes out is an ordinary Hugging Face checkpoint: `AutoModelForImageTextToText` and `AutoTokenizer`
load it without a network, and every field that code may read from a real checkpoint (special token ids,
`mrope_section`, patch and merge sizes, processor files, chat template) is there and true. Only the sizes and the
vocabulary differ.

Why the tokenizer is not a trained one: a tiny model can only learn a task whose words are single tokens, and the core
may only be tested on a tokenizer that loses nothing. So the vocabulary is the 256 bytes, then whole words (each with
and without its leading space), then the special tokens. Text is cut into newlines and words; a word in the vocabulary
is one token, any other text is its UTF-8 bytes, and `decode(encode(text)) == text` for every text.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForImageTextToText,
    GenerationConfig,
    PreTrainedConfig,
    Qwen2_5_VLConfig,
    Qwen3VLConfig,
)

Family = Literal["qwen2_5_vl", "qwen3_vl"]

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
THINK_TOKENS = ("<think>", "</think>")  # one token each, but not "special": decoding keeps them, as Qwen3 does
CHAT_WORDS = ("system", "user", "assistant", "previous", "text", "seconds>")

# Newline, or a word with at most one space before it. What matches neither (runs of spaces, tabs) is a piece by itself.
WORD_PATTERN = r"\n| ?\S+"

CHAT_TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.content is string %}
        {{- message.content }}
    {%- else %}
        {%- for part in message.content %}
            {%- if part.type == 'video' %}
                {{- '<|vision_start|><|video_pad|><|vision_end|>' }}
            {%- elif part.type == 'image' %}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' }}
            {%- elif part.type == 'text' %}
                {{- part.text }}
            {%- else %}
                {{- raise_exception('content type must be text, image or video, got ' + part.type) }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def build_tiny(
    family: Family,
    out_dir: str | Path,
    words: Sequence[str] = (),
    *,
    hidden: int = 64,
    layers: int = 3,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int | None = None,
    intermediate: int = 192,
    vision_depth: int = 1,
    vision_hidden: int = 48,
    vision_heads: int = 4,
    vision_intermediate: int = 96,
    patch: int = 8,
    merge: int = 2,
    temporal_patch: int = 2,
    deepstack_layers: tuple[int, ...] = (0,),
    timestamp_seconds: int = 64,
    initializer_range: float = 0.1,
    seed: int = 0,
) -> Path:
    """Write a randomly initialised tiny checkpoint (float32) to `out_dir` and return its path.

    Args:
        family: which architecture: `qwen2_5_vl` or `qwen3_vl`.
        out_dir: made if it does not exist; files in it of the same names are replaced.
        words: texts without whitespace that must be one token each, with and without a leading space.
        head_dim: size of an attention head. None takes 32 for qwen3_vl and `hidden / heads`, the only legal value, for
            qwen2_5_vl.
        vision_depth, vision_hidden, vision_heads, vision_intermediate: the vision tower.
        patch, merge: pixels a patch side, patches a visual token side: one token covers `(patch*merge)^2` pixels.
        temporal_patch: frames a visual token.
        deepstack_layers: vision blocks whose features enter the first text layers (qwen3_vl only).
        timestamp_seconds: `<0.0` to `<timestamp_seconds.0` in tenths are one token each, so `<0.2 seconds>` is two.
        initializer_range: standard deviation of the weights. HF's 0.02 is for wide models; at this width 0.1 is needed
            for attention to be anything but uniform at the start.
        seed: equal arguments and seed give equal bytes. The global random state is left as it was.

    Raises:
        ValueError: unknown family, a word that cannot be one token, or sizes that the family does not allow.
    """
    if family not in ("qwen2_5_vl", "qwen3_vl"):
        raise ValueError(f"unknown family {family!r}: use 'qwen2_5_vl' or 'qwen3_vl'")
    if family == "qwen2_5_vl" and head_dim is not None and head_dim * heads != hidden:
        raise ValueError(
            f"qwen2_5_vl takes its head size from hidden / heads: head_dim={head_dim} * heads={heads} must equal"
            f" hidden={hidden}; leave head_dim out"
        )
    if family == "qwen2_5_vl" and hidden % heads:
        raise ValueError(f"qwen2_5_vl needs hidden={hidden} to be a multiple of heads={heads}")
    if heads % kv_heads:
        raise ValueError(f"heads={heads} must be a multiple of kv_heads={kv_heads}")

    tokenizer = build_tokenizer(words, timestamp_seconds)
    text: dict[str, Any] = {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": 32768,
        "initializer_range": initializer_range,
    }
    vision: dict[str, Any] = {
        "depth": vision_depth,
        "hidden_size": vision_hidden,
        "num_heads": vision_heads,
        "intermediate_size": vision_intermediate,
        "patch_size": patch,
        "spatial_merge_size": merge,
        "temporal_patch_size": temporal_patch,
        "out_hidden_size": hidden,
        "initializer_range": initializer_range,
    }
    config: PreTrainedConfig
    if family == "qwen2_5_vl":
        config = _qwen2_5_vl_config(tokenizer, text, vision)
    else:
        config = _qwen3_vl_config(tokenizer, text, vision, head_dim or 32, deepstack_layers)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    model.generation_config = GenerationConfig(
        do_sample=False,
        bos_token_id=_id(tokenizer, "<|endoftext|>"),
        eos_token_id=[_id(tokenizer, "<|im_end|>"), _id(tokenizer, "<|endoftext|>")],
        pad_token_id=_id(tokenizer, "<|endoftext|>"),
    )

    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    tokenizer.save(str(out / "tokenizer.json"))
    (out / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    _write_json(out / "tokenizer_config.json", _tokenizer_config())
    _write_json(out / "preprocessor_config.json", _image_processor(family, patch, merge, temporal_patch))
    _write_json(out / "video_preprocessor_config.json", _video_processor(family, patch, merge, temporal_patch))
    return out


def build_tokenizer(words: Sequence[str], timestamp_seconds: int) -> Tokenizer:
    """Byte-level tokenizer, lossless for any text, in which each of `words` is one token with and without a space.

    Ids: 0-255 the bytes, then the words in the order given (chat words and timestamps first), then the special tokens.

    Raises:
        ValueError: a word is empty, holds whitespace or holds a special token, so that it could not be one token.
    """
    added = (*SPECIAL_TOKENS, *THINK_TOKENS)
    for word in words:
        if not word or any(character.isspace() for character in word):
            raise ValueError(f"word {word!r} cannot be one token: give non-empty words without whitespace")
        if any(token in word for token in added):
            raise ValueError(f"word {word!r} cannot be one token: it holds a special token, which is cut out of it")

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    vocabulary = {character: index for index, character in enumerate(sorted(byte_level.alphabet()))}
    # A timestamp opens a vision span, after a newline or another token: it needs no form with a leading space.
    timestamps = [f"<{tenths / 10:.1f}" for tenths in range(timestamp_seconds * 10 + 1)]
    spaced = [form for word in (*CHAT_WORDS, *words) for form in (word, f" {word}")]
    for piece in (*timestamps, *spaced):
        [(encoded, _)] = byte_level.pre_tokenize_str(piece)
        vocabulary.setdefault(encoded, len(vocabulary))

    # With ignore_merges a piece found whole in the vocabulary is that token; without merges all others are their bytes.
    # Merges could promise neither: the merges of one word can cut up another.
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(WORD_PATTERN), "isolated"), byte_level]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in THINK_TOKENS])
    return tokenizer


def _qwen2_5_vl_config(tokenizer: Tokenizer, text: dict[str, Any], vision: dict[str, Any]) -> Qwen2_5_VLConfig:
    """Sections (16, 24, 24) of 64 rotary pairs in the real model: the same quarter and two times three eighths."""
    pairs = text["hidden_size"] // text["num_attention_heads"] // 2
    temporal = max(1, pairs // 4)
    height = (pairs - temporal) // 2
    sections = [pairs - 2 * height, height, height]
    return Qwen2_5_VLConfig(
        text_config=text
        | {
            "bos_token_id": _id(tokenizer, "<|endoftext|>"),
            "eos_token_id": _id(tokenizer, "<|im_end|>"),
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections},
        },
        vision_config=vision
        | {
            "tokens_per_second": 2,
            "window_size": 4 * vision["patch_size"] * vision["spatial_merge_size"],
            "fullatt_block_indexes": list(range(vision["depth"])),
        },
        **_special_ids(tokenizer),
    )


def _qwen3_vl_config(
    tokenizer: Tokenizer,
    text: dict[str, Any],
    vision: dict[str, Any],
    head_dim: int,
    deepstack_layers: tuple[int, ...],
) -> Qwen3VLConfig:
    """Sections (24, 20, 20) of 64 rotary pairs in the real model, interleaved: each axis has a third of the pairs."""
    pairs = head_dim // 2
    third = pairs // 3
    return Qwen3VLConfig(
        text_config=text
        | {
            "head_dim": head_dim,
            "bos_token_id": _id(tokenizer, "<|endoftext|>"),
            "eos_token_id": _id(tokenizer, "<|im_end|>"),
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5e6,
                "mrope_section": [pairs - 2 * third, third, third],
                "mrope_interleaved": True,
            },
        },
        # Position table of 8 x 8 patches, interpolated to the grid of the frame.
        vision_config=vision | {"num_position_embeddings": 64, "deepstack_visual_indexes": list(deepstack_layers)},
        **_special_ids(tokenizer),
    )


def _special_ids(tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "image_token_id": _id(tokenizer, "<|image_pad|>"),
        "video_token_id": _id(tokenizer, "<|video_pad|>"),
        "vision_start_token_id": _id(tokenizer, "<|vision_start|>"),
        "vision_end_token_id": _id(tokenizer, "<|vision_end|>"),
    }


def _id(tokenizer: Tokenizer, token: str) -> int:
    index = tokenizer.token_to_id(token)
    assert index is not None, token
    return index


def _tokenizer_config() -> dict[str, Any]:
    return {
        # The generic class: a Qwen2Tokenizer would replace our pre-tokenizer by its own.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_prefix_space": False,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "model_max_length": 32768,
        "pad_token": "<|endoftext|>",
        "unk_token": None,
    }


def _normalisation(family: Family) -> dict[str, list[float]]:
    """Channel mean and standard deviation of each family's own processor (CLIP's for Qwen2.5-VL, 0.5 for Qwen3-VL)."""
    if family == "qwen2_5_vl":
        return {
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
        }
    return {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}


def _image_processor(family: Family, patch: int, merge: int, temporal_patch: int) -> dict[str, Any]:
    token_pixels = (patch * merge) ** 2
    return {
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "processor_class": _processor_class(family),
        "patch_size": patch,
        "merge_size": merge,
        "temporal_patch_size": temporal_patch,
        # One to 65,536 visual tokens: frames of any small size pass without being resized.
        "size": {"shortest_edge": token_pixels, "longest_edge": token_pixels * 65536},
        **_normalisation(family),
    }


def _video_processor(family: Family, patch: int, merge: int, temporal_patch: int) -> dict[str, Any]:
    shared = _image_processor(family, patch, merge, temporal_patch)
    del shared["image_processor_type"]
    return shared | {
        "video_processor_type": "Qwen2VLVideoProcessor" if family == "qwen2_5_vl" else "Qwen3VLVideoProcessor",
        # Frames arrive already sampled on the video's clock; sampling them again would shift time.
        "do_sample_frames": False,
        "fps": 2,
        "min_frames": temporal_patch,
        "cap_pixels_per_frame": False,
    }


def _processor_class(family: Family) -> str:
    return "Qwen2_5_VLProcessor" if family == "qwen2_5_vl" else "Qwen3VLProcessor"


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
