"""A stream with caches equals the one-pass masked forward, in every layout, rule and scheme; and what follows from it.

The two sides share the renderer's chunks and nothing else: one side builds a mask over the whole row, the other only
decides what its caches hold. Where the two are meant to differ the tests demand that they do, so the equality can fail.
"""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.streams import clips_of, forced, one_pass, rows_of, said, stream, timeline, trained, views_of
from train.collate import Collator
from train.rows import Item
from whilst.backbones.base import Backbone
from whilst.clips import SegmentClip, View
from whilst.render import IGNORE, Renderer, TokenRow
from whilst.render_config import MemoryCut, RenderConfig
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
        add(layout=layout, rule=rule, memory_tokens=5)  # one thought pushes out another, twice
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


def test_every_config_is_another_model(backbone: Backbone) -> None:
    """A rule, a scheme or a way to keep queries that changed nothing would make the test above vacuous."""
    sample = timeline()
    views = views_of(backbone, sample)
    logits = {name: trained(backbone, renderer_of(backbone, name), sample, views) for name in CONFIGS}
    same = {
        (a, b): distance
        for a, b in itertools.combinations(CONFIGS, 2)
        if (distance := far(logits[a], logits[b])) <= DIFFERENT
    }
    # the two recurrent layouts are one computation, written as many rows or as one
    assert set(same) == {
        ("recurrent-causal", "recurrent_packed-text_memory"),
        ("recurrent-causal-capped", "recurrent_packed-text_memory-capped"),
    }
    assert max(same.values()) <= TOLERANCE


@pytest.mark.parametrize("layout", ["recurrent", "recurrent_packed"])
@pytest.mark.parametrize("cap", [None, 8])
def test_text_memory_that_a_sample_starts_with(backbone: Backbone, layout: Any, cap: int | None) -> None:
    rule = "causal" if layout == "recurrent" else "text_memory"
    renderer = renderer_of(backbone, RenderConfig(layout=layout, rule=rule, memory_tokens=cap))
    sample = replace(timeline(), memory="in-2 none .\n")
    views = views_of(backbone, sample)
    (run,) = stream(backbone, renderer, [sample], [views])
    logits = trained(backbone, renderer, sample, views)
    assert far(run.logits, logits) <= TOLERANCE
    assert far(logits, trained(backbone, renderer, timeline(), views)) > DIFFERENT


MEMORY = "in-2 none . out-1 red-circle .\n"


@pytest.mark.parametrize("cut", [None, MemoryCut(2, 1)], ids=["whole", "cut"])
@pytest.mark.parametrize("name", [n for n in CONFIGS if "recurrent" not in n])
def test_text_memory_that_a_growing_stream_starts_with(backbone: Backbone, name: str, cut: MemoryCut | None) -> None:
    renderer = renderer_of(backbone, replace(CONFIGS[name], memory_cut=cut))
    sample = replace(timeline(), memory=MEMORY)
    views = views_of(backbone, sample)
    (run,) = stream(backbone, renderer, [sample], [views])
    logits = trained(backbone, renderer, sample, views)
    assert far(run.logits, logits) <= TOLERANCE
    assert far(logits, trained(backbone, renderer, timeline(), views)) > DIFFERENT
    if cut is not None:
        assert far(logits, trained(backbone, renderer_of(backbone, name), sample, views)) > DIFFERENT


@pytest.mark.parametrize(
    "name", ["interleaved-visual_window-kept", "interleaved-causal-overlapped-branch", "split-unit-batch-branch"]
)
def test_streams_of_a_batch_start_with_their_own_memory(backbone: Backbone, name: str) -> None:
    renderer = renderer_of(backbone, name)
    samples, seeds = three_samples()
    samples = [replace(samples[0], memory=MEMORY), samples[1], replace(samples[2], memory="none .\n")]
    views = [views_of(backbone, sample, seed) for sample, seed in zip(samples, seeds, strict=True)]
    for sample, own, run in zip(samples, views, stream(backbone, renderer, samples, views, read_tokens=3), strict=True):
        assert far(run.logits, trained(backbone, renderer, sample, own)) <= TOLERANCE


# --- 2. the equality can fail -------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["interleaved", "group_decoupled"])
@pytest.mark.parametrize("rule", ["unit", "row_shift"])
def test_boundary_written_at_the_wrong_time_differs(backbone: Backbone, rule: str, scheme: str) -> None:
    renderer, sample = renderer_of(backbone, f"split-{rule}-{scheme}-kept"), timeline()
    views = views_of(backbone, sample)
    (run,) = stream(backbone, renderer, [sample], [views], flip_boundary=True)
    assert far(run.logits, trained(backbone, renderer, sample, views)) > DIFFERENT


@pytest.mark.parametrize(
    ("training", "running"),
    [
        ("interleaved-causal-kept", "interleaved-last_segments-kept"),
        ("interleaved-causal-branch", "interleaved-visual_window-branch"),
        ("interleaved-causal-branch", "interleaved-causal-kept"),
        ("split-unit-tww-kept", "split-row_shift-tww-kept"),
        ("split-unit-tww-branch", "split-unit-overlapped-branch"),
        ("recurrent-causal", "recurrent-causal-capped"),
        ("interleaved-causal-branch", "recurrent-causal"),  # KV memory in training, text memory at inference
    ],
)
def test_training_and_running_under_two_configs_differ(backbone: Backbone, training: str, running: str) -> None:
    sample = timeline()
    views = views_of(backbone, sample)
    (run,) = stream(backbone, renderer_of(backbone, running), [sample], [views])
    assert far(run.logits, trained(backbone, renderer_of(backbone, training), sample, views)) > DIFFERENT


# --- 3. causality -------------------------------------------------------------------------------------------------

SOME = [
    "interleaved-causal-branch",
    "interleaved-visual_window-kept",
    "interleaved-last_segments-branch",
    "interleaved-sink_window-branch",
    "split-unit-group_decoupled-branch",
    "split-row_shift-overlapped-kept",
    "recurrent-causal",
    "recurrent_packed-text_memory-capped",
]
NOW = 2.5  # s: what comes after is edited


def another_future(sample: Sample, views: list[View], other: list[View]) -> tuple[Sample, list[View]]:
    """The sample with all that comes after NOW edited: texts (of other lengths), frames, and one query less."""

    def edited(event: Any) -> Any:
        if event.time <= NOW or isinstance(event, Segment):
            return event
        return replace(event, text="unknown now in-2" if isinstance(event, Thought) else f"{event.text} which ?")

    events = [edited(event) for event in sample.events if getattr(event, "query", getattr(event, "id", "")) != "last"]
    kept = [view.segment.end <= NOW for view in views]
    return sample.with_events(events), [a if keep else b for a, b, keep in zip(views, other, kept, strict=True)]


@pytest.mark.parametrize("name", SOME)
def test_a_stream_does_not_know_its_future(backbone: Backbone, name: str) -> None:
    renderer, sample = renderer_of(backbone, name), timeline()
    views = views_of(backbone, sample)
    future, future_views = another_future(sample, views, views_of(backbone, sample, seed=1))
    (a,) = stream(backbone, renderer, [sample], [views])
    (b,) = stream(backbone, renderer, [future], [future_views])
    past = sum(sample.events[i].time <= NOW for i in a.events)
    assert a.events[:past] == b.events[:past] and 0 < past < len(b.events)
    assert torch.equal(a.logits[:past], b.logits[:past])
    assert far(a.logits[past : past + 1], b.logits[past : past + 1]) > DIFFERENT


@pytest.mark.parametrize("name", [*(n for n in SOME if "recurrent" not in n), "recurrent_packed-text_memory"])
def test_one_pass_does_not_know_its_future(backbone: Backbone, name: str) -> None:
    """Same shapes, so bitwise: tokens and frames after NOW are edited in place."""
    renderer, sample = renderer_of(backbone, name), timeline()
    views = views_of(backbone, sample)
    (row,) = rows_of(renderer, sample, views)
    past = past_slots(renderer, sample, views, row)
    later = np.setdiff1d(np.arange(len(row)), past)
    ids = row.input_ids.copy()
    text = later[row.visual_index[later] < 0]
    ids[text] = (ids[text] + 1) % 250
    kept = [view.segment.end <= NOW for view in views]
    other = [a if keep else b for a, b, keep in zip(views, views_of(backbone, sample, seed=1), kept, strict=True)]
    a, b = one_pass(backbone, renderer, row, views), one_pass(backbone, renderer, row, other, ids)
    assert torch.equal(a[past], b[past])
    assert bool((a[later] != b[later]).any(dim=1).all())


def past_slots(renderer: Renderer, sample: Sample, views: list[View], row: TokenRow) -> np.ndarray:
    """Slots of the tokens that were written until NOW: those of the row of the sample cut off then."""
    cut = sample.with_events(event for event in sample.events if event.time <= NOW)
    start = rows_of(renderer, cut, [view for view in views if view.segment.end <= NOW])[0]
    if renderer.config.layout != "split":
        slots = np.arange(len(start))
    else:
        received = [np.flatnonzero(r.meta["stream"] == RECEIVED) for r in (start, row)]
        generated = [np.flatnonzero(r.meta["stream"] == GENERATED) for r in (start, row)]
        # under row_shift the last boundary token is written after the next read
        done = len(generated[0]) - (renderer.rule.name == "row_shift")
        slots = np.concatenate([received[1][: len(received[0])], generated[1][:done]])
        start = replace(start, input_ids=start.input_ids[: len(slots)])
    assert np.array_equal(row.input_ids[slots], start.input_ids) and len(slots) < len(row)
    return slots


# --- 4. what is received does not depend on what is generated -----------------------------------------------------


@pytest.mark.parametrize("name", ["split-unit-group_decoupled-branch", "split-row_shift-tww-kept"])
def test_generated_tokens_leave_received_rows_unchanged(backbone: Backbone, name: str) -> None:
    renderer, sample = renderer_of(backbone, name), timeline()
    views = views_of(backbone, sample)
    (row,) = rows_of(renderer, sample, views)
    received = row.meta["stream"] == RECEIVED
    first = int(np.flatnonzero(~received)[0])
    ids = row.input_ids.copy()
    ids[first] = (ids[first] + 1) % 250
    a, b = one_pass(backbone, renderer, row, views), one_pass(backbone, renderer, row, views, ids)
    assert torch.equal(a[received], b[received])
    main = ~received & (row.meta["branch"] == 0)
    assert bool((a[main] != b[main]).any(dim=1).all())


@pytest.mark.parametrize("name", ["split-unit-group_decoupled-branch", "split-row_shift-tww-kept"])
def test_thoughts_leave_the_received_cache_unchanged(backbone: Backbone, name: str) -> None:
    renderer = renderer_of(backbone, name)
    samples = [timeline(), timeline(thoughts=("", "none", "now now .", "in-2"))]
    views = views_of(backbone, samples[0])
    runs = [stream(backbone, renderer, [sample], [views])[0].batch for sample in samples]
    for a, b in zip(*(run.cache.two for run in runs), strict=True):
        for buffers in ("keys_of", "values_of"):
            mine, theirs = getattr(a, buffers), getattr(b, buffers)
            assert torch.equal(mine[RECEIVED].view(), theirs[RECEIVED].view())
            assert mine[GENERATED].length != theirs[GENERATED].length


# --- 5. chunks, batches, packs ------------------------------------------------------------------------------------


def three_samples() -> tuple[list[Sample], list[int]]:
    """Samples that do different things at one step, and the seeds of their frames."""
    whole = timeline("a")
    early = (Query("early", 0.0, "which ?"), Answer(0.0, "unknown", "early"))
    late = timeline("b", ("none", "in-2 blue-square .", "", "out-1 red-circle now ."))
    short = timeline("c").with_events(whole.events[:6])
    return [whole, late.with_events((*early, *late.events)), short], [0, 1, 2]


@pytest.mark.parametrize("name", SOME)
def test_a_turn_may_be_read_in_parts(backbone: Backbone, name: str) -> None:
    renderer, sample = renderer_of(backbone, name), timeline()
    views = views_of(backbone, sample)
    (parts,) = stream(backbone, renderer, [sample], [views], read_tokens=3)
    assert far(parts.logits, trained(backbone, renderer, sample, views)) <= TOLERANCE


@pytest.mark.parametrize("name", [*SOME, "split-unit-batch-kept"])
def test_a_batch_equals_its_streams(backbone: Backbone, name: str) -> None:
    renderer = renderer_of(backbone, name)
    samples, seeds = three_samples()
    views = [views_of(backbone, sample, seed) for sample, seed in zip(samples, seeds, strict=True)]
    together = stream(backbone, renderer, samples, views)
    for sample, own, run in zip(samples, views, together, strict=True):
        assert far(run.logits, trained(backbone, renderer, sample, own)) <= TOLERANCE


@pytest.mark.parametrize("name", [*SOME, "split-row_shift-batch-kept"])
def test_packed_and_padded_rows_equal_single_rows(backbone: Backbone, name: str) -> None:
    """Through the collator and the routed forward of the model: the path of training."""
    renderer = renderer_of(backbone, name)
    items, single = [], []
    for sample, seed in zip(*three_samples(), strict=True):
        clips = [SegmentClip(segment, images, times, 2.0) for segment, images, times in clips_of(sample, seed)]
        views = views_of(backbone, sample, seed)
        for row in rows_of(renderer, sample, views):
            items.append(Item(row, tuple(clips[c] for c in row.clips)))
            with torch.no_grad():
                single.append(backbone.logits(one_pass(backbone, renderer, row, views)))
    collate = Collator(backbone.spec, renderer.rule, "whilst_sdpa", pad_id=0)
    (packed,) = routed_logits(backbone, collate([items]))
    for want, got in zip(single, packed.split([len(item.row) for item in items]), strict=True):
        assert far(want, got) <= TOLERANCE
    padded = routed_logits(backbone, collate([[item] for item in items]))
    assert bool(torch.isfinite(padded).all())
    for want, got in zip(single, padded, strict=True):
        assert far(want, got[: len(want)]) <= TOLERANCE


def routed_logits(backbone: Backbone, batch: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        inputs = {key: value for key, value in batch.items() if key not in ("labels", "loss_weight")}
        logits: torch.Tensor = backbone.model(**inputs, use_cache=False).logits
    return logits
