"""Memory policies: without a limit they are full attention; with one, what they drop is gone and nothing else is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.streams import (
    frames,
    learned,
    row_features,
    rows_of,
    stream,
    timeline,
    trained,
    views_of,
)
from whilst import retrieval
from whilst.attention import build_mask
from whilst.backbones.base import Backbone, Features
from whilst.chunks import Role, TurnFormat
from whilst.clips import View
from whilst.keeping import Keeping
from whilst.memory import rotate
from whilst.policies import POLICIES, PolicyError, Watched, make_policy
from whilst.policies.base import ranks
from whilst.positions import Grid, place
from whilst.render import Renderer
from whilst.render_config import RenderConfig
from whilst.retrieval import OffloadError, Store
from whilst.runtime import RuntimeStateError, StreamBatch, encode_clips
from whilst.sample import Answer, Query, Sample, Segment, Thought, Video
from whilst.slots import positions_of
from whilst.visibility import GENERATED, RECEIVED, Tokens

TOLERANCE = 1e-5
DIFFERENT = 1e-3
MANY = 1_000_000

INTERLEAVED = RenderConfig(layout="interleaved")
SPLIT = RenderConfig(layout="split", rule="unit", scheme="group_decoupled")
RECURRENT = RenderConfig(layout="recurrent")
BARE = TurnFormat(system="")

# without a limit, and with one that is never reached: the second walks through the code
UNLIMITED: Mapping[str, Any] = {
    "unbounded": {"name": "unbounded"},
    "unbounded, re-indexed": {"name": "unbounded", "reindex": True},
    "visual_window": {"name": "visual_window"},
    "visual_window, out of reach": {"name": "visual_window", "budget": MANY, "reindex": True},
    "sink_window": {"name": "sink_window"},
    "sink_window, out of reach": {"name": "sink_window", "sink": 3, "window": MANY, "vision_seconds": 1e6},
    "drop_similar": {"name": "drop_similar"},
    "drop_similar, out of reach": {"name": "drop_similar", "ratio": 0.0},
    "recent_frames": {"name": "recent_frames"},
    "recent_frames, out of reach": {"name": "recent_frames", "frames": MANY},
    "retrieval": {"name": "retrieval"},
    "retrieval, out of reach": {"name": "retrieval", "window": MANY, "segments": 1},
    "key_norm": {"name": "key_norm"},
    "key_norm, out of reach": {"name": "key_norm", "tokens": MANY, "share": 1.0},
    "surprise": {"name": "surprise"},
    "surprise, out of reach": {"name": "surprise", "budget": MANY},
    "curvature": {"name": "curvature"},
    "curvature, out of reach": {"name": "curvature", "clear": -1e9, "blurred": -1e9, "budget": MANY},
    "carrier": {"name": "carrier"},
    "chain": [
        {"name": "drop_similar"},
        {"name": "sink_window", "window": MANY, "vision_seconds": 1e6},
        {"name": "visual_window", "budget": MANY},
    ],
}
# what bounds a stream for hours, at small sizes
BOUNDED: Mapping[str, Any] = {
    "visual_window": [
        {"name": "visual_window", "budget": 12, "whole_turns": True},
        {"name": "sink_window", "sink": 4, "window": 16, "reindex": False},
    ],
    "sink_window": {"name": "sink_window", "sink": 4, "window": 16, "vision_seconds": 2.0},
    "drop_similar": [
        {"name": "drop_similar", "threshold": 0.5},
        {"name": "sink_window", "sink": 4, "window": 16, "vision_seconds": 2.0},
    ],
    "recent_frames": {"name": "recent_frames", "frames": 4},
    "retrieval": [{"name": "retrieval", "window": 12, "segments": 2}, {"name": "sink_window", "window": 16}],
    "key_norm": [
        {"name": "key_norm", "tokens": 3},
        {"name": "sink_window", "window": 16, "vision_seconds": 2.0, "reindex": False},
    ],
    "surprise": [{"name": "surprise", "budget": 18}, {"name": "sink_window", "window": 16, "reindex": False}],
    "curvature": [
        {"name": "curvature", "clear": 0.5, "blurred": 0.0, "budget": 18},
        {"name": "sink_window", "window": 16, "reindex": False},
    ],
    "carrier": [{"name": "carrier", "frames": 4}, {"name": "sink_window", "window": 16, "reindex": False}],
}


def renderer_of(backbone: Backbone, config: RenderConfig) -> Renderer:
    return Renderer(backbone.tokenizer, backbone.spec, config)


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())


def unthinking(sample: Sample) -> Sample:
    """The sample without thoughts and without what stands for them."""
    return sample.with_events(
        event for event in sample.events if not isinstance(event, Thought) and getattr(event, "query", "") is not None
    )


def keeping(batch: StreamBatch) -> Keeping:
    assert batch.keeping is not None
    return batch.keeping


def stored(batch: StreamBatch) -> Store:
    store = keeping(batch).store
    assert store is not None
    return store


def entries(batch: StreamBatch, b: int = 0) -> Tokens:
    """What is known of the valid entries of a stream, in order of arrival."""
    held = batch.held()[b]
    here = (held.valid > 0).nonzero()[:, 0]
    return held[here[held.index[here].argsort()]]


# --- unlimited == full attention ----------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [INTERLEAVED, SPLIT, RECURRENT], ids=lambda config: config.layout)
@pytest.mark.parametrize("name", UNLIMITED)
def test_without_a_limit_a_policy_is_full_attention(backbone: Backbone, name: str, config: RenderConfig) -> None:
    policy = make_policy(UNLIMITED[name])
    assert policy is not None
    renderer = renderer_of(backbone, config)
    sample = unthinking(timeline()) if policy.rereads else timeline()
    views = views_of(backbone, sample)
    if config.layout not in policy.layouts:
        with pytest.raises(PolicyError, match="is not defined for layout"):
            stream(backbone, renderer, [sample], [views], policy=policy)
        return
    (run,) = stream(backbone, renderer, [sample], [views], policy=policy)
    assert far(run.logits, trained(backbone, renderer, sample, views)) <= TOLERANCE


@pytest.mark.parametrize("name", BOUNDED)
def test_a_limit_changes_what_is_seen(backbone: Backbone, name: str) -> None:
    """Were a limit without effect, the test above would say nothing."""
    policy = make_policy(BOUNDED[name])
    assert policy is not None
    renderer = renderer_of(backbone, INTERLEAVED)
    sample = unthinking(timeline()) if policy.rereads else timeline()
    views = views_of(backbone, sample)
    (run,) = stream(backbone, renderer, [sample], [views], policy=policy)
    assert far(run.logits, trained(backbone, renderer, sample, views)) > DIFFERENT


def long_stream(segments: int) -> Sample:
    events: list[Any] = []
    for k in range(segments):
        events += [Segment(float(k), k + 1.0)]
    events += [Query("q", float(segments), "which in-1 ?"), Answer(float(segments), "in-1", "q")]
    return Sample("long", Video("video.mp4"), tuple(events))


@pytest.mark.parametrize(
    ("name", "thinks"),
    [(name, thinks) for name in BOUNDED for thinks in (True, False) if not (thinks and name == "recent_frames")],
)
def test_entries_stop_growing(backbones: Mapping[str, Backbone], name: str, thinks: bool) -> None:
    backbone = backbones["qwen3_vl"]
    policy = make_policy(BOUNDED[name])
    batch = StreamBatch(backbone, renderer_of(backbone, INTERLEAVED), 1, policy=policy)
    lengths = []
    for view in views_of(backbone, long_stream(60)):
        batch.watch([view])
        if thinks:
            batch.think([True], 4)
        lengths.append(sum(batch.cache.lengths()))
    assert max(lengths[40:]) <= 1.25 * max(lengths[20:40])  # thoughts differ in length, frames in what is dropped
    rooms = [buffer.data.shape[2] for layer in batch.cache.two for buffer in layer.keys_of if buffer.data is not None]
    assert max(rooms) <= 4 * max(lengths)
    batch.close()


def test_streams_of_a_batch_do_not_meet(backbone: Backbone) -> None:
    renderer = renderer_of(backbone, INTERLEAVED)
    whole = timeline("a")
    short = timeline("b", ("none", "in-2 blue-square .", "", "now .")).with_events(whole.events[:6])
    of_each = [views_of(backbone, sample, seed) for seed, sample in enumerate((whole, short))]
    for name in (
        "visual_window",
        "sink_window",
        "drop_similar",
        "retrieval",
        "key_norm",
        "surprise",
        "curvature",
        "carrier",
    ):
        if name == "key_norm" and backbone.family.name == "qwen3_vl":
            continue  # its keys are normalised, so with random weights all norms are equal but for rounding
        policy = make_policy(BOUNDED[name])
        together = stream(backbone, renderer, [whole, short], of_each, policy=policy)
        for run, sample, views in zip(together, (whole, short), of_each, strict=True):
            (alone,) = stream(backbone, renderer, [sample], [views], policy=policy)
            assert far(run.logits, alone.logits) <= TOLERANCE, name


@pytest.mark.parametrize("settings", [{"name": "surprise", "budget": 6}, {"name": "carrier", "frames": 1}], ids=str)
def test_a_stream_that_waits_loses_nothing(backbones: Mapping[str, Backbone], settings: Any) -> None:
    """Two streams, of which the second pauses whilst the first goes on: it is as if it were alone."""
    backbone = backbones["qwen2_5_vl"]
    renderer, query = renderer_of(backbone, INTERLEAVED), Query("q", 9.0, "which in-1 ?")
    views = views_of(backbone, long_stream(6))
    together = StreamBatch(backbone, renderer, 2, policy=make_policy(settings))
    alone = StreamBatch(backbone, renderer, 1, policy=make_policy(settings))
    for i, view in enumerate(views):
        pauses = i in (2, 3)
        together.watch([view, None if pauses else view])
        if not pauses:
            alone.watch([view])
    scores: dict[str, torch.Tensor] = {}
    for name, batch in (("together", together), ("alone", alone)):
        batch.ask([query] * batch.size, 1)
        scores[name] = batch.logits[-1]
    assert far(scores["together"], scores["alone"]) <= TOLERANCE


# --- one policy each ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queries", ["branch", "kept"])
def test_visual_window_is_the_rule_with_fewer_entries(backbone: Backbone, queries: Any) -> None:
    """VST Eq. 3: what the rule hides for good leaves the cache, and the logits are those that training saw."""
    config = replace(INTERLEAVED, rule="visual_window", rule_params={"budget": 9}, queries=queries)
    renderer, sample = renderer_of(backbone, config), timeline()
    views = views_of(backbone, sample)
    (whole,) = stream(backbone, renderer, [sample], [views])
    (run,) = stream(backbone, renderer, [sample], [views], policy=make_policy({"name": "visual_window", "budget": 9}))
    assert far(run.logits, trained(backbone, renderer, sample, views)) <= TOLERANCE
    assert sum(run.batch.cache.lengths()) < sum(whole.batch.cache.lengths())


def test_sink_window_keeps_what_it_says(backbone: Backbone) -> None:
    policy = make_policy({"name": "sink_window", "sink": 3, "window": 5, "vision_seconds": 2.0})
    renderer, sample = renderer_of(backbone, INTERLEAVED), timeline()
    views = views_of(backbone, sample)
    batch = StreamBatch(backbone, renderer, 1, policy=policy)
    for view in views:
        batch.watch([view])
        batch.think([True], 4)
    before = entries(batch)
    text_before = before.index[(before.segment < 0) & (before.role != Role.SYSTEM)]
    extra = encode_clips(backbone, [(Segment(99.0, 100.0), frames(np.random.default_rng(0), 2), (99.0, 99.5))], 2.0)[0]
    batch.watch([extra])
    after = entries(batch)
    now = int(after.segment.max())
    text = after.index[(after.segment < 0) & (after.role != Role.SYSTEM)]
    assert text.tolist() == text_before[:3].tolist() + text_before[-5:].tolist()
    assert set(after.segment.tolist()) == {-1, now}  # all others ended more than two seconds before 100 s
    system = renderer.system()
    assert int((after.role == Role.SYSTEM).sum()) == len(system)
    # re-indexed: the positions are those of the kept pieces laid out anew
    pieces = [*system.pieces, len(text), *renderer.received(extra.shape, extra.segment, None).pieces]
    lead = len(renderer.follow())
    laid, free = place([*pieces[: len(system.pieces) + 1], lead, *pieces[len(system.pieces) + 1 :]], 0)
    assert torch.equal(torch.stack([after.t, after.h, after.w]), torch.from_numpy(laid).int())
    assert batch.numbering[0].scheme.next == free


def test_re_indexed_keys_are_rotated_to_their_new_positions(backbone: Backbone) -> None:
    policy = make_policy(BOUNDED["sink_window"])
    batch = stream(
        backbone, renderer_of(backbone, INTERLEAVED), [timeline()], [views_of(backbone, timeline())], policy=policy
    )[0].batch
    for kind in (RECEIVED, GENERATED):
        turn = backbone.turn(positions_of(batch.slots[kind]))
        for layer in batch.cache.two:
            assert layer.raw_of is not None
            assert torch.equal(layer.keys_of[kind].view(), rotate(layer.raw_of[kind].view(), turn))


def test_positions_that_all_move_alike_change_nothing(backbone: Backbone) -> None:
    """Without a system prompt the oldest segment leaves at the front: closing that gap shifts all positions equally."""
    renderer = renderer_of(backbone, replace(INTERLEAVED, format=BARE))
    sample = unthinking(timeline())
    views = views_of(backbone, sample)
    runs = {}
    for reindex in (True, False):
        policy = make_policy({"name": "sink_window", "vision_seconds": 2.0, "reindex": reindex})
        (runs[reindex],) = stream(backbone, renderer, [sample], [views], policy=policy)
    assert far(runs[True].logits, runs[False].logits) <= TOLERANCE
    last = {reindex: int(entries(run.batch).t.max()) for reindex, run in runs.items()}
    assert last[True] < last[False]
    thoughtful = {}
    for reindex in (True, False):  # with texts between, gaps close in the middle: another computation
        policy = make_policy({"name": "sink_window", "vision_seconds": 1.0, "reindex": reindex})
        (thoughtful[reindex],) = stream(
            backbone, renderer, [timeline()], [views_of(backbone, timeline())], policy=policy
        )
    assert far(thoughtful[True].logits, thoughtful[False].logits) > DIFFERENT


def still_views(backbone: Backbone, still: bool) -> list[View]:
    """Two clips of two temporal patches; with `still`, the second clip repeats the last patch of the first."""
    rng = np.random.default_rng(3)
    pictures = [frames(rng, 2), frames(rng, 2)]
    first = np.concatenate(pictures)
    second = np.concatenate([pictures[1], pictures[1]]) if still else frames(rng, 4)
    clips = [
        (Segment(2.0 * k, 2.0 * k + 2), images, tuple(2.0 * k + i / 2 for i in range(4)))
        for k, images in enumerate((first, second))
    ]
    return [encode_clips(backbone, [clip], 2.0)[0] for clip in clips]


def test_drop_similar_hides_the_tokens_and_keeps_positions(backbone: Backbone) -> None:
    renderer = renderer_of(backbone, INTERLEAVED)
    sample = Sample(
        "a",
        Video("video.mp4"),
        (Segment(0.0, 2.0), Thought(2.0, "none ."), Segment(2.0, 4.0), Thought(4.0, "in-1 now .")),
    )
    views = still_views(backbone, still=True)
    policy = make_policy({"name": "drop_similar", "threshold": 0.9999})
    (run,) = stream(backbone, renderer, [sample], [views], policy=policy)
    (row,) = rows_of(renderer, sample, views)
    size = views[0].features.tokens.shape[0] // 2
    dropped = torch.from_numpy(row.visual_index >= 2 * size)  # the second clip repeats what was there before it
    mask = build_mask("whilst_sdpa", renderer.rule, Tokens.of(row.meta)[None])
    mask &= ~dropped[None, None, None, :] | torch.eye(len(row), dtype=torch.bool)
    with torch.no_grad():
        hidden = backbone.hidden(
            torch.from_numpy(row.input_ids)[None],
            torch.from_numpy(row.positions)[:, None],
            mask,
            torch.from_numpy(row.visual_index >= 0)[None],
            row_features(row, views),
        )[0]
        wanted = backbone.logits(hidden[learned(row)])
    assert far(run.logits, wanted) <= TOLERANCE
    assert far(run.logits, trained(backbone, renderer, sample, views)) > DIFFERENT
    watched = keeping(run.batch).watched[0]
    assert (watched.seen, watched.kept) == (4 * size, 2 * size)
    (other,) = stream(backbone, renderer, [sample], [still_views(backbone, still=False)], policy=policy)
    assert keeping(other.batch).watched[0].kept == 4 * size  # nothing alike, nothing dropped


def test_drop_similar_compares_with_the_whole_frame_before() -> None:
    """Slow drift: each frame is like the one before it, so all but the first go, however far the stream has come."""
    angles = torch.linspace(0, 3, 7)
    tokens = torch.stack([angles.cos(), angles.sin()], dim=1)
    policy = make_policy({"name": "drop_similar", "threshold": 0.8})
    assert policy is not None
    watched, kept = Watched(), []
    for part in (tokens[:3], tokens[3:]):
        selection = policy.select(watched, Features(part), Grid(len(part), 1, 1))
        assert selection is not None
        kept += selection.kept.tolist()
    assert kept == [True] + [False] * 6
    ratio = make_policy({"name": "drop_similar", "ratio": 0.5})
    assert ratio is not None
    selection = ratio.select(Watched(), Features(torch.tensor([[1.0, 0], [1, 0.1], [0, 1], [0, 1.01]])), Grid(4, 1, 1))
    assert selection is not None
    assert selection.kept.tolist() == [True, False, True, False]


def test_recent_frames_sees_nothing_older(backbone: Backbone) -> None:
    renderer = renderer_of(backbone, INTERLEAVED)
    sample = unthinking(timeline())
    views = views_of(backbone, sample)
    policy = make_policy({"name": "recent_frames", "frames": 3})
    query = Query("q", 8.0, "which in-1 ?")

    def answer(shown: Sequence[View], policy: Any) -> tuple[torch.Tensor, list[Any]]:
        batch = StreamBatch(backbone, renderer, 1, policy=policy)
        taken: list[torch.Tensor] = []

        def sampler(scores: torch.Tensor, active: Sequence[bool]) -> list[int]:
            taken.append(scores.clamp(min=-100))
            return [5]

        batch.sampler = sampler
        for view in shown:
            batch.watch([view])
        batch.ask([query], 3)
        return torch.cat(taken), keeping(batch).recent[0] if policy else []

    seen, recent = answer(views, policy)
    assert sum(len(view.shape.times) for view in recent) <= 3
    assert recent[-1].segment == views[-1].segment
    fresh, _ = answer(recent, None)
    assert far(seen, fresh) <= TOLERANCE
    older = [
        encode_clips(backbone, [(v.segment, frames(np.random.default_rng(9), len(v.shape.times)), v.shape.times)], 2.0)[
            0
        ]
        for v in views[:2]
    ]
    assert torch.equal(answer([*older, *views[2:]], policy)[0], seen)
    with pytest.raises(PolicyError, match="an arm that thinks cannot have it"):
        stream(backbone, renderer, [timeline()], [views_of(backbone, timeline())], policy=policy)


# --- retrieval ----------------------------------------------------------------------------------------------------


def asked(backbone: Backbone, policy: Any, segments: int = 6) -> tuple[torch.Tensor, StreamBatch, Any]:
    """First scores of an answer after `segments` segments, the batch, and what was recalled."""
    renderer = renderer_of(backbone, replace(INTERLEAVED, format=BARE))
    batch = StreamBatch(backbone, renderer, 1, policy=policy)
    taken: list[Any] = []

    def sampler(scores: torch.Tensor, active: Sequence[bool]) -> list[int]:
        taken.append((scores.clamp(min=-100), batch.recall))
        return [5]

    batch.sampler = sampler
    for view in views_of(backbone, long_stream(segments)):
        batch.watch([view])
    batch.ask([Query("q", float(segments), "which in-1 ?")], 3)
    return torch.cat([scores for scores, _ in taken]), batch, taken[0][1]


def test_retrieval_of_everything_sees_everything(backbone: Backbone) -> None:
    """Reading sees the window alone; a query that brings all segments back sees all, as in one masked pass."""
    size = views_of(backbone, long_stream(1))[0].features.tokens.shape[0]
    policy = make_policy({"name": "retrieval", "window": size})
    scores, batch, recall = asked(backbone, policy)
    renderer, sample = batch.renderer, long_stream(6)
    views = views_of(backbone, sample)
    (row,) = rows_of(renderer, sample, views)
    meta = Tokens.of(row.meta)
    mask = build_mask("whilst_sdpa", renderer.rule, meta[None])[0, 0]
    hidden_from = (
        (meta.branch[:, None] == 0) & (meta.segment[None, :] >= 0) & (meta.segment[None, :] < meta.now[:, None] - 1)
    )
    with torch.no_grad():
        hidden = backbone.hidden(
            torch.from_numpy(row.input_ids)[None],
            torch.from_numpy(row.positions)[:, None],
            (mask & ~hidden_from)[None, None],
            torch.from_numpy(row.visual_index >= 0)[None],
            row_features(row, views),
        )[0]
        wanted = backbone.logits(hidden[learned(row)])
    sampled = scores[0] > -100  # vision tokens are banned
    assert far(scores[0, sampled], wanted[0, sampled]) <= TOLERANCE
    assert recall.chosen == {layer: [[0, 1, 2, 3]] for layer in range(2)}
    full, _, _ = asked(backbone, None)
    assert far(full.clamp(min=-100), scores.clamp(min=-100)) > DIFFERENT


def test_retrieval_brings_back_the_nearest(backbone: Backbone) -> None:
    size = views_of(backbone, long_stream(1))[0].features.tokens.shape[0]
    policy = make_policy({"name": "retrieval", "window": size, "segments": 2})
    _, batch, recall = asked(backbone, policy)
    assert [block.segment for block in stored(batch).blocks[0]] == [0, 1, 2, 3]
    assert all(len(found[0]) == 2 and found[0] == sorted(found[0]) for found in recall.chosen.values())
    # the nearest by hand: mean query of the first layer, summed over the heads that share a key, times mean key
    chunk = batch.renderer.received(None, None, Query("q", 6.0, "which in-1 ?"))
    layer = backbone.core.language_model.layers[0]
    with torch.no_grad():
        states = layer.input_layernorm(backbone.core.get_input_embeddings()(torch.from_numpy(chunk.ids)[None]))
        query = layer.self_attn.q_proj(states).view(len(chunk), -1, layer.self_attn.head_dim)
        if hasattr(layer.self_attn, "q_norm"):
            query = layer.self_attn.q_norm(query)
    keys = torch.stack([block.means[0] for block in stored(batch).blocks[0]])
    shared = query.mean(0).view(keys.shape[1] // query.shape[-1], -1, query.shape[-1]).sum(1).flatten()
    assert recall.chosen[0] == [sorted((keys @ shared).argsort(descending=True)[:2].tolist())]
    assert sum(batch.cache.lengths()) < 6 * size + 60


def test_retrieval_on_disk_is_retrieval_in_memory(backbone: Backbone, tmp_path: Path) -> None:
    size = views_of(backbone, long_stream(1))[0].features.tokens.shape[0]
    settings = {"name": "retrieval", "window": size, "segments": 2}
    memory, held, _ = asked(backbone, make_policy(settings))
    disk, batch, _ = asked(backbone, make_policy(settings | {"store": str(tmp_path)}))
    assert torch.equal(memory, disk)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 4
    assert stored(batch).bytes() > stored(held).bytes() > 0  # files have a header
    batch.close()
    batch.close()
    assert list(tmp_path.rglob("*")) == []


def test_a_full_disk_ends_this_stream_and_no_other(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = views_of(backbone, long_stream(1))[0].features.tokens.shape[0]
    policies = {
        name: make_policy({"name": "retrieval", "window": size, "segments": 2, "store": str(tmp_path / name)})
        for name in "ab"
    }
    whole, first, _ = asked(backbone, policies["a"])
    first.close()
    streams = {name: StreamBatch(backbone, first.renderer, 1, policy=policy) for name, policy in policies.items()}
    write: Callable[..., None] = retrieval.save_file

    def full(tensors: Any, path: Any) -> None:
        if "/b/" in str(path):
            raise OSError(28, "No space left on device")
        write(tensors, path)

    monkeypatch.setattr(retrieval, "save_file", full)
    views = views_of(backbone, long_stream(6))
    taken: list[torch.Tensor] = []

    def sampler(scores: torch.Tensor, active: Sequence[bool]) -> list[int]:
        taken.append(scores.clamp(min=-100))
        return [5]

    streams["a"].sampler = sampler
    with pytest.raises(
        OffloadError, match=r"segment 0 cannot be offloaded: .*No space left on device; free space there"
    ):
        for view in views:
            streams["b"].watch([view])
    for view in views:
        streams["a"].watch([view])
    streams["a"].ask([Query("q", 6.0, "which in-1 ?")], 3)
    assert torch.equal(torch.cat(taken), whole)
    for batch in streams.values():
        batch.close()


def test_a_segment_of_which_nothing_was_new_can_be_brought_back(backbone: Backbone) -> None:
    """A still picture: every clip but the first loses all of its visual tokens; its marks can be found all the same."""
    images = frames(np.random.default_rng(1), 2)
    clips = [(Segment(float(k), k + 1.0), images, (float(k), k + 0.5)) for k in range(5)]
    size = views_of(backbone, long_stream(1))[0].features.tokens.shape[0]
    settings = [{"name": "retrieval", "window": 1}, {"name": "drop_similar", "threshold": 0.99}]
    renderer = renderer_of(backbone, replace(INTERLEAVED, format=BARE))
    batch = StreamBatch(
        backbone, renderer, 1, policy=make_policy([*settings, {"name": "sink_window", "vision_seconds": 1.0}])
    )
    for clip in clips:
        batch.watch([encode_clips(backbone, [clip], 2.0)[0]])
    assert keeping(batch).watched[0].kept == size
    assert [block.segment for block in stored(batch).blocks[0]] == [0, 1, 2, 3]
    assert all(bool(block.means.isfinite().all()) for block in stored(batch).blocks[0])
    batch.ask([Query("q", 5.0, "which in-1 ?")], 2)
    assert bool(batch.logits.isfinite().all())


def test_a_segment_that_cannot_be_read_back_is_an_error(backbone: Backbone, tmp_path: Path) -> None:
    size = views_of(backbone, long_stream(1))[0].features.tokens.shape[0]
    _, batch, _ = asked(backbone, make_policy({"name": "retrieval", "window": size, "store": str(tmp_path)}))
    for file in tmp_path.rglob("*.safetensors"):
        file.write_bytes(b"torn")
    with pytest.raises(OffloadError, match="segment 0 cannot be read back"):
        batch.ask([Query("r", 6.0, "which ?")], 3)


# --- what others choose -------------------------------------------------------------------------------------------


def test_key_norm_keeps_the_smallest_keys_of_each_layer(backbone: Backbone) -> None:
    renderer = renderer_of(backbone, INTERLEAVED)
    (view,) = views_of(backbone, long_stream(1))
    whole = StreamBatch(backbone, renderer, 1)
    whole.watch([view])
    batch = StreamBatch(backbone, renderer, 1, policy=make_policy({"name": "key_norm", "tokens": 2}))
    batch.watch([view])
    chunk = renderer.received(view.shape, view.segment, None)
    visual = np.flatnonzero(np.append(np.zeros(len(renderer.system())), chunk.roles == Role.VISION))
    chosen = []
    for mine, theirs in zip(batch.cache.two, whole.cache.two, strict=True):
        norms = theirs.keys_of[RECEIVED].view()[0].norm(dim=-1).mean(0)[visual]
        stays = sorted(visual[norms.argsort(stable=True)[:2].numpy()])
        chosen.append(stays)
        kept = [i for i in range(theirs.keys_of[RECEIVED].length) if i in stays or i not in visual]
        assert torch.equal(mine.keys_of[RECEIVED].view()[0], theirs.keys_of[RECEIVED].view()[0][:, kept])
        assert torch.equal(mine.values_of[RECEIVED].view()[0], theirs.values_of[RECEIVED].view()[0][:, kept])
    assert len(chosen) == 2 and batch.slots[RECEIVED].length == whole.slots[RECEIVED].length - len(visual) + 2


def test_surprise_drops_what_was_foreseen() -> None:
    policy = make_policy({"name": "surprise", "budget": 3})
    assert policy is not None
    watched = Watched()
    scenes = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1], [1, 1]])  # 0, 2 and 4 are new
    assert policy.select(watched, Features(scenes), Grid(5, 1, 1)) is None
    fields = {"frame": [-1, 0, 1, 2, 3, 4], "segment": [-1, 0, 0, 0, 0, 0], "valid": [1] * 6}
    held = Tokens({name: torch.tensor([values], dtype=torch.int32) for name, values in fields.items()})
    keep = policy.keep(held, held, [watched])
    assert keep is not None
    assert keep.tolist() == [[True, True, False, True, False, True]]
    left = Tokens({name: value[:, [0, 1, 3, 5]] for name, value in held.values.items()})
    assert policy.keep(left, left, [watched]) is not None
    assert sorted(watched.scores) == [0, 2, 4]  # what is known of frames that have left goes as well


def test_curvature_routes_frames() -> None:
    """A stream that goes straight bends nowhere; where it turns, a frame is clear."""
    policy = make_policy({"name": "curvature", "clear": 1.0, "blurred": 0.5})
    assert policy is not None
    angles = [0.0, 0.1, 0.2, 0.3, 0.42, 0.5, 0.6, -0.4]
    tokens = torch.tensor([[np.cos(a), np.sin(a), 0.0] for a in angles], dtype=torch.float32)
    tokens = tokens[:, None].repeat(1, 4, 1).flatten(0, 1)
    selection = policy.select(Watched(), Features(tokens), Grid(8, 2, 2))
    assert selection is not None
    counts = selection.kept.view(8, 4).sum(1).tolist()
    assert counts[:2] == [4, 4]  # too early to bend
    assert counts[-1] == 4  # the turn
    assert 0 in counts
    blurred = make_policy({"name": "curvature", "clear": 1e9, "blurred": -1e9})
    assert blurred is not None
    one = torch.arange(8.0).view(4, 2) + 1
    selection = blurred.select(Watched(), Features(torch.cat([one, one, one * 2])), Grid(3, 2, 2))
    assert selection is not None and selection.features is not None
    assert selection.kept.view(3, 4).tolist()[2] == [True, False, False, False]
    assert selection.features.tokens[8].tolist() == (one * 2).mean(0).tolist()


def test_a_carrier_stands_for_its_frame(backbone: Backbone) -> None:
    """A clip of two temporal patches: behind each a token with the mean of its features; afterwards these two alone."""
    renderer = renderer_of(backbone, INTERLEAVED)
    (view,) = encode_clips(
        backbone, [(Segment(0.0, 2.0), frames(np.random.default_rng(5), 4), (0.0, 0.5, 1.0, 1.5))], 2.0
    )
    batch = StreamBatch(backbone, renderer, 1, policy=make_policy({"name": "carrier", "frames": 9}))
    taken: list[Features] = []
    hidden = backbone.hidden

    def spy(*args: Any, **kwargs: Any) -> torch.Tensor:
        if args[4] is not None:
            taken.append(args[4])
        return hidden(*args, **kwargs)

    batch.backbone = replace(backbone)
    batch.backbone.hidden = spy  # type: ignore[method-assign]
    batch.watch([view])
    size = view.features.tokens.shape[0] // 2
    (features,) = taken
    for layer, own in zip(
        (features.tokens, *features.deepstack), (view.features.tokens, *view.features.deepstack), strict=True
    ):
        first, second = own.split(size)
        assert torch.allclose(
            layer, torch.cat([first, first.mean(0, keepdim=True), second, second.mean(0, keepdim=True)]), atol=1e-6
        )
    after = entries(batch)
    assert after.carrier[after.frame >= 0].tolist() == [1, 1]
    assert after.frame[after.frame >= 0].tolist() == [0, 1]
    assert len(after.index) == len(after.index.unique())


def test_carriers_that_are_alike_leave_first() -> None:
    policy = make_policy({"name": "carrier", "frames": 2})
    assert policy is not None
    watched = Watched()
    scenes = torch.tensor([[1.0, 0], [1, 0.01], [0, 1], [-1, 0]])
    selection = policy.select(watched, Features(scenes), Grid(4, 1, 1))
    assert selection is not None and selection.carriers is not None
    fields = {"frame": [0, 1, 2, 3], "segment": [0, 0, 0, 0], "valid": [1] * 4, "carrier": [1] * 4}
    held = Tokens({name: torch.tensor([values], dtype=torch.int32) for name, values in fields.items()})
    keep = policy.keep(held, held, [watched])
    assert keep is not None
    # 0 and 1 are one scene, so 0 leaves; then 1 and 2 are at a right angle, and so are 2 and 3: the nearer pair loses
    assert keep.tolist() == [[False, False, True, True]]
    left = Tokens({name: value[:, 2:] for name, value in held.values.items()})
    assert policy.keep(left, left, [watched]) is not None
    assert sorted(watched.carriers) == [2, 3]


def test_ranks_are_of_the_order_of_arrival() -> None:
    index = torch.tensor([[5, 0, 9, 2]])
    among = torch.tensor([[True, True, False, True]])
    assert ranks(index, among)[among].tolist() == [2, 0, 1]


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "forget"}, "policy.name: 'forget' is not one of unbounded, visual_window"),
        ({"name": "visual_window", "tokens": 3}, "policy visual_window: unknown setting 'tokens'"),
        ({"name": "visual_window", "budget": 0}, "budget must be above 0"),
        ({"name": "visual_window", "budget": "9"}, "budget must be int"),
        ({"name": "sink_window", "sink": -1}, "sink must be 0 or more"),
        ({"name": "drop_similar", "ratio": 1.0}, r"ratio must lie in \[0, 1\)"),
        ({"name": "drop_similar", "ratio": 0.5, "threshold": 0.5}, "threshold or ratio, not both"),
        ({"name": "retrieval", "reindex": False}, "reindex must be true"),
        ({"name": "key_norm", "share": 0.0}, r"share must lie in \(0, 1\]"),
        ({"name": "key_norm", "reindex": True}, "reindex must be false"),
        ({"name": "curvature", "clear": 1.0}, "give clear and blurred, or neither"),
        ({"name": "curvature", "clear": 0.0, "blurred": 1.0}, "clear must not lie below blurred"),
    ],
)
def test_settings_that_make_no_policy(settings: Mapping[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        make_policy(settings)


def test_what_a_policy_cannot_serve(backbone: Backbone) -> None:
    cases: list[tuple[Any, RenderConfig, str]] = [
        ({"name": "visual_window", "budget": 9}, replace(SPLIT, rule="row_shift", queries="kept"), "use rule unit"),
        (
            {"name": "sink_window", "window": 9},
            replace(INTERLEAVED, scheme="overlapped"),
            "positions of scheme 'overlapped' follow from what left",
        ),
        ({"name": "retrieval", "window": 9}, replace(INTERLEAVED, queries="kept"), "set queries: branch"),
        (
            {"name": "key_norm", "tokens": 3},
            replace(INTERLEAVED, rule="visual_window", rule_params={"budget": 9}),
            "layers would hold other metadata",
        ),
        ([{"name": "key_norm"}, {"name": "carrier"}], INTERLEAVED, "key_norm and carrier both prune a clip"),
        ([{"name": "retrieval"}, {"name": "retrieval"}], INTERLEAVED, "both bring segments back"),
        ([{"name": "retrieval"}, {"name": "surprise"}], INTERLEAVED, "but surprise takes parts of them"),
        ([{"name": "recent_frames"}, {"name": "drop_similar"}], INTERLEAVED, "it cannot be joined with another"),
        ([{"name": "key_norm"}, {"name": "sink_window", "window": 9}], INTERLEAVED, "policies that do not re-index"),
    ]
    for settings, config, message in cases:
        with pytest.raises(PolicyError, match=message):
            StreamBatch(backbone, renderer_of(backbone, config), 1, policy=make_policy(settings))
    assert set(POLICIES) == {settings["name"] for settings in UNLIMITED.values() if isinstance(settings, dict)}


@pytest.mark.parametrize("name", [name for name in UNLIMITED if not name.startswith("recent_frames")])
def test_without_a_limit_text_memory_stays(backbones: Mapping[str, Backbone], name: str) -> None:
    backbone = backbones["qwen2_5_vl"]
    renderer = renderer_of(backbone, INTERLEAVED)
    sample = replace(timeline(), memory="in-2 none . out-1 .")
    views = views_of(backbone, sample)
    (run,) = stream(backbone, renderer, [sample], [views], policy=make_policy(UNLIMITED[name]))
    assert far(run.logits, trained(backbone, renderer, sample, views)) <= TOLERANCE


def test_sink_window_counts_text_memory_as_text(backbone: Backbone) -> None:
    """StreamingVLM: the first of the text before stay, however long the stream is."""
    policy = make_policy({"name": "sink_window", "sink": 6, "window": 2, "vision_seconds": 1.0})
    batch = StreamBatch(backbone, renderer_of(backbone, INTERLEAVED), 1, policy=policy)
    batch.remember(["in-2 none . out-1 ."])
    for view in views_of(backbone, timeline()):
        batch.watch([view])
        batch.think([True], 4)
    kept = entries(batch)
    turn = batch.renderer.memory_turn("in-2 none . out-1 .")
    assert int((kept.role == Role.MEMORY).sum()) == 6 < len(turn)
    first = len(batch.renderer.system())
    assert kept.order[kept.role == Role.MEMORY].tolist() == list(range(first, first + 6))


def test_a_stream_of_frames_alone_takes_no_text_memory(backbone: Backbone) -> None:
    policy = make_policy({"name": "recent_frames", "frames": 4})
    batch = StreamBatch(backbone, renderer_of(backbone, INTERLEAVED), 1, policy=policy)
    with pytest.raises(PolicyError, match="policy 'recent_frames' keeps nothing but frames: a stream that starts"):
        batch.remember(["in-1 ."])


def test_a_stream_refuses_other_back_ends(backbone: Backbone) -> None:
    with pytest.raises(RuntimeStateError, match="needs attention back-end whilst_sdpa, not eager"):
        StreamBatch(replace(backbone, backend="eager"), renderer_of(backbone, INTERLEAVED), 1)
