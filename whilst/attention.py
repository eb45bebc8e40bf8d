"""Attention back-ends: registered under our own names, so that a rule is applied or refused, never dropped.

| back-end | mask it takes | rules | where |
|---|---|---|---|
| whilst_sdpa | bool (B, 1, Q, K) | all | CPU reference, short rows on GPU |
| whilst_flex | FlexAttention BlockMask | all | GPU training; CPU has no backward |
| eager | additive float (B, 1, Q, K): a bool one is silently added as 0/1 | all | inspection |
| flash_attention_2, flash_attention_3 | none | causal, unpacked | GPU only |

transformers returns a 4-D mask or a BlockMask untouched (masking_utils), but with an attention name whose mask function
is not registered, or with FlashAttention, a mask can vanish without an error. Ours raise when the mask is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from whilst.visibility import Rule, Tokens, VisibilityError, block_mask, dense_mask

BACKENDS = ("whilst_sdpa", "whilst_flex", "eager", "flash_attention_2", "flash_attention_3")


def check_backend(backend: str, rule: Rule) -> None:
    """Raise where `backend` would not apply `rule`."""
    if backend not in BACKENDS:
        raise VisibilityError(f"unknown attention back-end {backend!r}; known: {', '.join(BACKENDS)}")
    if backend.startswith("flash") and not rule.plain_causal:
        raise VisibilityError(
            f"{backend} ignores attention masks and would train rule {rule.name!r} as plain causal; "
            f"use whilst_flex (GPU) or whilst_sdpa"
        )


def build_mask(backend: str, rule: Rule, tokens: Tokens, dtype: torch.dtype = torch.float32) -> Any:
    """The mask of `rule` over fields of shape (B, L), in the form that `backend` takes."""
    check_backend(backend, rule)
    if backend.startswith("flash"):
        if bool((tokens.sample != tokens.sample[:, :1]).any()):
            raise VisibilityError(f"{backend} takes one unpadded sample a row: set per-device batch 1 and no packing")
        if bool((tokens.branch > 0).any()):
            raise VisibilityError(f"{backend} would let later tokens see a query's branch: set queries: kept")
        return None
    if backend == "whilst_flex":
        return block_mask(rule, tokens)
    mask = dense_mask(rule, tokens)[:, None]
    if backend == "eager":
        return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)
    return mask


def pack_mask(backend: str, rule: Rule, tokens: Tokens, dtype: torch.dtype = torch.float32) -> Any:
    """As `build_mask`, in a form that goes through queues, checkpoints and devices. A BlockMask does not: the predicate
    of its kernel holds the tokens' metadata on the device where it was made. For whilst_flex, metadata and rule."""
    if backend != "whilst_flex":
        return build_mask(backend, rule, tokens, dtype)
    check_backend(backend, rule)
    fields = tokens.only(("index", "sample", "branch", *rule.kind.fields))
    return {"rule": rule.name, "params": dict(rule.params), "fields": dict(fields.values)}


def unpack_mask(packed: Any, device: torch.device) -> Any:
    """The mask behind `pack_mask`, on the device of the model."""
    if not isinstance(packed, Mapping):
        return packed
    fields = {name: value.to(device) for name, value in packed["fields"].items()}
    return block_mask(Rule(packed["rule"], packed["params"]), Tokens(fields))


def _sdpa(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, reader: Any = None, **kwargs: Any) -> Any:
    """reader: whilst.retrieval.Reader, where the keys of the cache are kept un-rotated."""
    if attention_mask is None:
        raise VisibilityError("whilst_sdpa was called without a mask: pass the 4-D mask of a rule")
    if reader is not None:
        query, key, value, attention_mask = reader(module.layer_idx, query, key, value, attention_mask)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


def _flex(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **kwargs: Any) -> Any:
    from torch.nn.attention.flex_attention import BlockMask
    from transformers.integrations.flex_attention import flex_attention_forward

    if not isinstance(attention_mask, BlockMask):
        raise VisibilityError(f"whilst_flex takes a BlockMask, got {type(attention_mask).__name__}")
    if query.device.type == "cpu" and torch.is_grad_enabled() and query.requires_grad:
        raise VisibilityError("FlexAttention has no backward pass on CPU; train with attention: whilst_sdpa")
    return flex_attention_forward(module, query, key, value, attention_mask, **kwargs)


def _mask_must_be_given(*args: Any, **kwargs: Any) -> Any:
    raise VisibilityError("no mask was given: build one with whilst.attention.build_mask and pass it to the forward")


def register() -> None:
    """Register our back-ends with transformers (idempotent)."""
    AttentionInterface.register("whilst_sdpa", _sdpa)
    AttentionInterface.register("whilst_flex", _flex)
    AttentionMaskInterface.register("whilst_sdpa", _mask_must_be_given)
    AttentionMaskInterface.register("whilst_flex", _mask_must_be_given)


def set_backend(model: PreTrainedModel, backend: str) -> None:
    """Use `backend` for the language model; the vision tower keeps sdpa. Raises where the hardware is missing."""
    if backend not in BACKENDS:
        raise VisibilityError(f"unknown attention back-end {backend!r}; known: {', '.join(BACKENDS)}")
    if backend.startswith("flash") and not torch.cuda.is_available():
        raise VisibilityError(f"{backend} needs a CUDA device; on this machine use whilst_sdpa")
    register()
    model.set_attn_implementation({"text_config": backend, "vision_config": "sdpa"})


register()
