"""A stream with caches equals the one-pass masked forward, in every layout, rule and scheme; and what follows from it.

The two sides share the renderer's chunks and nothing else: one side builds a mask over the whole row, the other only
decides what its caches hold. Where the two are meant to differ the tests demand that they do, so the equality can fail.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from streams import (
    clips_of,
    forced,
    frames,
    learned,
    one_pass,
    rows_of,
    said,
    stream,
    timeline,
    trained,
    views_of,
)

from train.rows import Collator, Item, pack_rows, pad_tokens
from whilst.attention import build_mask
from whilst.backbones.base import Backbone, Features
from whilst.clips import SegmentClip
from whilst.render import IGNORE, RenderConfig, Renderer
from whilst.runtime import View, encode_clips
from whilst.sample import Answer, Query, Sample, Segment, Thought
from whilst.visibility import GENERATED, RECEIVED

TOLERANCE = 1e-5  # on logits of size 1 to 10
DIFFERENT = 1e-3

SCHEMES: dict[str, dict[str, int]] = {
    "interleaved": {},
    "batch": {},
    "overlapped": {},
    "group_decoupled": {"phi": 7},
    "gap_isolated": {"delta": 500},
    "tww": {},
}
GROWING: dict[str, dict[str, int]] = {
    "causal": {},
    "visual_window": {"budget": 9},  # one and a half of the clips' 6-token blocks
    "last_segments": {"n": 1},
    "sink_window": {"sink": 5, "window": 40},
}


def configs() -> dict[str, RenderConfig]:
    """Every combination of layout, rule, scheme and queries that a recipe may ask for."""
    found: dict[str, RenderConfig] = {}

    def add(**settings: Any) -> None:
        parts = (settings["layout"], settings["rule"], settings.get("scheme"), settings.get("queries"))
        name = "-".join(part for part in parts if part)
        found[name + ("-capped" if "memory_tokens" in settings else "")] = RenderConfig(**settings)

    for queries in ("kept", "branch"):
        for rule, params in GROWING.items():
            add(layout="interleaved", rule=rule, rule_params=params, queries=queries)
        for scheme in ("overlapped", "group_decoupled", "gap_isolated", "tww"):
            add(layout="interleaved", rule="causal", scheme=scheme, scheme_params=SCHEMES[scheme], queries=queries)
        for scheme, params in SCHEMES.items():
            add(layout="split", rule="unit", scheme=scheme, scheme_params=params, queries=queries)
    for scheme, params in SCHEMES.items():
        add(layout="split", rule="row_shift", scheme=scheme, scheme_params=params, queries="kept")
    for layout, rule in (("recurrent", "causal"), ("recurrent_packed", "text_memory")):
        add(layout=layout, rule=rule)
        add(layout=layout, rule=rule, memory_tokens=9)  # the third entry pushes out the first
    return found


CONFIGS = configs()


def renderer_of(backbone: Backbone, config: RenderConfig | str) -> Renderer:
    return Renderer(backbone.tokenizer, backbone.spec, CONFIGS[config] if isinstance(config, str) else config)


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())


# --- 1. streaming == one pass -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_stream_equals_one_pass(backbone: Backbone, name: str) -> None:
    renderer, sample = renderer_of(backbone, name), timeline()
    views = views_of(backbone, sample)
    learned_ids = [row.input_ids[row.labels != IGNORE] for row in rows_of(renderer, sample, views)]
    assert [token for _, token in forced(renderer, sample)] == np.concatenate(learned_ids).tolist()
    (run,) = stream(backbone, renderer, [sample], [views])
    assert sorted(set(run.events)) == [i for i, _ in said(sample)]
    assert far(run.logits, trained(backbone, renderer, sample, views)) <= TOLERANCE
