"""Implicit silence: what the ends of received turns learn, and that a stream decides as it was trained."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from evaluation.live_metrics import live_turns
from tests.streams import FPS, clips_of, forced, frames, rows_of, said, stream, trained, views_of
from whilst.backbones.base import Backbone
from whilst.checkpoint import Checkpoint, Contract
from whilst.clips import SegmentClip
from whilst.proactive import Proactive
from whilst.render import IGNORE, Renderer, RenderError
from whilst.render_config import RenderConfig
from whilst.runtime import RuntimeStateError, StreamBatch
from whilst.sample import Answer, Query, Sample, Segment, Silence, Thought, Video
from whilst.session import StreamSession
from whilst.visibility import VisibilityError

IMPLICIT = RenderConfig(silence="implicit", stream_weight=0.5, thought_weight=2.0, answer_weight=3.0)
KEPT = replace(IMPLICIT, queries="kept")


def thinking() -> Sample:
    """Thoughts and silences; a query in mid-stream; a standing one that is put again; silence at the end."""
    events = (
        Segment(0.0, 1.0),
        Thought(1.0, "in-1 red-circle ."),
        Query("q", 1.0, "which in-1 ?"),
        Answer(1.0, "red-circle", "q"),
        Segment(1.0, 2.5),
        Silence(2.5),
        Query("standing", 2.5, "tell-when out red-circle ?"),
        Silence(2.5, "standing"),
        Segment(2.5, 3.0),
        Thought(3.0, "none"),
        Answer(3.0, "now", "standing"),
        Segment(3.0, 4.0),
        Silence(4.0),
    )
    return Sample("a", Video("video.mp4"), events)


def narrating() -> Sample:
    """One standing query that stays in the stream, as LIVE's narrations have it."""
    events = (
        Segment(0.0, 1.0),
        Query("tell", 1.0, "tell-when ?"),
        Silence(1.0, "tell"),
        Segment(1.0, 2.0),
        Silence(2.0, "tell"),
        Segment(2.0, 3.0),
        Answer(3.0, "in-1 now", "tell"),
        Segment(3.0, 4.0),
        Answer(4.0, "out-1", "tell"),
    )
    return Sample("n", Video("video.mp4"), events)


def renderer_of(backbone: Backbone, config: RenderConfig) -> Renderer:
    return Renderer(backbone.tokenizer, backbone.spec, config)


@pytest.fixture
def one(backbones: Mapping[str, Backbone]) -> Backbone:
    return backbones["qwen2_5_vl"]


def told(renderer: Renderer, row: Any) -> list[tuple[str, str, float]]:
    """(token that learns, what it learns, weight) of every label."""
    decode = renderer.tokenizer.decode
    slots = np.flatnonzero(row.labels != IGNORE)
    return [(decode(row.input_ids[i - 1]), decode(row.labels[i]), float(row.loss_weight[i])) for i in slots]


def test_a_deciding_stream_starts_with_text_memory(backbone: Backbone) -> None:
    for config, sample in ((IMPLICIT, thinking()), (KEPT, narrating())):
        renderer, sample = renderer_of(backbone, config), replace(sample, memory="in-2 none .")
        views = views_of(backbone, sample)
        (run,) = stream(backbone, renderer, [sample], [views])
        wanted = trained(backbone, renderer, sample, views)
        assert run.logits.shape == wanted.shape and float((run.logits - wanted).abs().max()) <= 1e-5
        bare = trained(backbone, renderer, replace(sample, memory=""), views)
        assert float((bare - wanted).abs().max()) > 1e-3


# ---- What is learned.


def test_the_end_of_a_segment_learns_what_follows_it(one: Backbone) -> None:
    """Worked example. The token behind a received turn's newline is what it learns; nothing is written for silence."""
    renderer = renderer_of(one, KEPT)
    (row,) = rows_of(renderer, narrating(), views_of(one, narrating()))
    text = one.tokenizer.decode([i for i, r in zip(row.input_ids, row.roles, strict=True) if r != 5])
    user, model, end = "<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>"
    clip = f"{user}<|vision_start|><|vision_end|>{end}\n"
    assert text.split("\n", 2)[2] == (
        f"{clip}{user}tell-when ?{end}\n{clip}{clip}{model}in-1 now{end}\n{clip}{model}out-1{end}"
    )
    assert told(renderer, row) == [
        ("\n", end, 0.5),  # after the query; the first segment, which the query follows, learns nothing
        ("\n", end, 0.5),
        ("\n", "<|im_start|>", 0.5),
        ("\n", "in-1", 3.0),
        ("in-1", " now", 3.0),
        (" now", end, 3.0),
        ("\n", "<|im_start|>", 0.5),
        ("\n", "out-1", 3.0),
        ("out-1", end, 3.0),
    ]


def test_segments_without_an_event_are_silent_and_the_last_one_gets_a_slot(one: Backbone) -> None:
    renderer = renderer_of(one, KEPT)
    events = (Segment(0.0, 1.0), Segment(1.0, 2.0), Thought(2.0, "none"), Segment(2.0, 3.0))
    sample = Sample("s", Video("v.mp4"), events)
    (row,) = rows_of(renderer, sample, views_of(one, sample))
    assert [label for _, label, _ in told(renderer, row)] == [
        "<|im_end|>", "<|im_start|>", "none", "<|im_end|>", "<|im_end|>",
    ]  # fmt: skip
    assert row.labels[-1] == row.input_ids[-1] == renderer.boundary
    # a branch is no part of the timeline: the segment before it is followed by the next segment
    asked = sample.with_events([events[0], Query("q", 1.0, "which ?"), Answer(1.0, "now", "q"), *events[1:]])
    branching = renderer_of(one, IMPLICIT)
    (row,) = rows_of(branching, asked, views_of(one, asked))
    decided = ["<|im_end|>", "<|im_start|>", "now", "<|im_end|>", "<|im_start|>", "none", "<|im_end|>", "<|im_end|>"]
    assert [label for _, label, _ in told(branching, row)] == decided


def test_what_implicit_silence_cannot_be(one: Backbone) -> None:
    with pytest.raises(VisibilityError, match="use layout interleaved, or silence: turn"):
        renderer_of(one, RenderConfig(layout="split", rule="unit", silence="implicit"))
    with pytest.raises(VisibilityError, match=r"render\.stream_weight must not lie below 0"):
        renderer_of(one, replace(IMPLICIT, stream_weight=-1.0))
    with pytest.raises(RenderError, match="generated_open must not be empty"):
        renderer_of(one, replace(IMPLICIT, format=replace(IMPLICIT.format, generated_open="")))
    sample, renderer = thinking(), renderer_of(one, KEPT)
    with pytest.raises(RenderError, match=r"events\[10\]: silence: implicit decides once"):
        rows_of(renderer, sample, views_of(one, sample))  # a thought and a further answer about one segment
    with pytest.raises(RenderError, match="silence: turn"):
        renderer.rows(narrating(), [view.shape for view in views_of(one, narrating())], turns=[])


def test_an_empty_turn_has_its_own_weight(one: Backbone) -> None:
    """TaYS: 0.5 on the token that says nothing, in every layout."""
    for layout, rule in (("interleaved", "causal"), ("split", "unit"), ("recurrent_packed", "text_memory")):
        config = RenderConfig(layout=layout, rule=rule, silence_weight=0.5, answer_weight=3.0)  # type: ignore[arg-type]
        renderer = renderer_of(one, config)
        weights = []
        for row in rows_of(renderer, thinking(), views_of(one, thinking())):
            silent = [w for _, label, w in told(renderer, row) if label == "<|im_end|>"]
            weights += silent
        assert sorted(weights) == [0.5, 0.5, 0.5, 1.0, 1.0, 3.0, 3.0], layout


# ---- A stream decides as it was trained.


@pytest.mark.parametrize(
    ("config", "sample"),
    [
        (IMPLICIT, thinking()),
        (KEPT, narrating()),
        (replace(KEPT, rule="last_segments", rule_params={"n": 1}), narrating()),
        (replace(IMPLICIT, scheme="group_decoupled"), thinking()),
    ],
    ids=["branch", "kept", "last_segments", "group_decoupled"],
)
def test_stream_equals_one_pass(backbone: Backbone, config: RenderConfig, sample: Sample) -> None:
    """Every token, and before it the decision: the logits whose softmax is the probability of silence."""
    renderer = renderer_of(backbone, config)
    views = views_of(backbone, sample)
    (row,) = rows_of(renderer, sample, views)
    drawn = [token for i, token in forced(renderer, sample)]
    spoken = [i for i, text in said(sample) if text]
    assert row.labels[row.labels != IGNORE].tolist() == drawn and len(drawn) > 2 * len(spoken)
    (run,) = stream(backbone, renderer, [sample], [views])
    (other,) = stream(backbone, renderer, [sample], [views], read_tokens=3)
    want = trained(backbone, renderer, sample, views)
    assert float((run.logits - want).abs().max()) <= 1e-5 >= float((other.logits - want).abs().max())
    silence = torch.softmax(run.logits, -1)[:, renderer.boundary]
    assert silence.std() > 0
    closing = int(row.input_ids[-1] == renderer.boundary and isinstance(sample.events[-1], Silence))
    assert run.batch.cache.lengths()[0] > 0
    if config.queries == "kept":  # a silence leaves no trace in the caches
        assert sum(run.batch.cache.lengths()) == len(row) - closing


def test_streams_side_by_side_decide_for_themselves(one: Backbone) -> None:
    renderer = renderer_of(one, KEPT)
    samples = [narrating(), narrating().with_events([*narrating().events[:5], Segment(2.0, 3.0), Silence(3.0, "tell")])]
    views = [views_of(one, sample, seed) for seed, sample in enumerate(samples)]
    together = stream(one, renderer, samples, views)
    for sample, own, run in zip(samples, views, together, strict=True):
        assert float((run.logits - trained(one, renderer, sample, own)).abs().max()) <= 1e-5


# ---- Speaking of itself.


def watch(session: StreamSession, second: int) -> None:
    images = frames(np.random.default_rng(second), 2)
    session.watch(images, [float(second), second + 0.5], second + 1.0)


@pytest.mark.parametrize("config", [IMPLICIT, KEPT], ids=["branch", "kept"])
def test_a_session_speaks_below_the_threshold_and_else_writes_nothing(one: Backbone, config: RenderConfig) -> None:
    def run(threshold: float) -> tuple[list[Any], list[int]]:
        when = Proactive(threshold=threshold)
        with StreamSession(one, renderer_of(one, config), fps=FPS, answer_tokens=3, proactive=when) as session:
            session.gate.sampler = lambda scores, active: [
                session.renderer.boundary
                if scores[0, session.renderer.boundary] > -torch.inf and session.gate.silence >= threshold
                else int(scores[0].argmax())
            ]
            session.stand("tell-when ?")
            puts, grown = [], []
            for second in range(3):
                watch(session, second)
                before = session.tokens
                puts += session.proactive()
                grown.append(session.tokens - before)
            return puts, grown

    puts, grown = run(0.0)
    assert all(put.reply is None and 0.0 < put.silence < 1.0 for put in puts) and grown == [0, 0, 0]
    spoken, grown = run(1.0)
    assert all(put.reply is not None and put.reply.ids for put in spoken)
    assert spoken[0].silence == pytest.approx(puts[0].silence)
    assert all(n > 3 for n in grown) if config.queries == "kept" else grown == [0, 0, 0]


def test_one_decision_a_segment(one: Backbone) -> None:
    session = StreamSession(one, renderer_of(one, KEPT), fps=FPS, thought_tokens=3, answer_tokens=3)
    session.stand("tell-when ?")
    with pytest.raises(RuntimeStateError, match="one standing query at a time"):
        session.stand("which ?")
    watch(session, 0)
    session.think()
    with pytest.raises(RuntimeStateError, match="and that was decided"):
        session.proactive()
    watch(session, 1)
    assert session.proactive()  # nothing was lost
    branching = StreamSession(one, renderer_of(one, IMPLICIT), fps=FPS, thought_tokens=3, answer_tokens=3)
    branching.stand("tell-when ?")
    watch(branching, 0)
    branching.ask("which ?")  # a branch leaves the decision about the segment open
    assert branching.proactive() and branching.think() is not None


def test_a_branch_does_not_change_the_decision(one: Backbone) -> None:
    """What is decided after a branch is drawn from what follows the segment, not from what followed the branch."""
    sample = thinking()
    views = views_of(one, sample)
    renderer = renderer_of(one, IMPLICIT)
    decisions = []
    for asks in (False, True):
        batch = StreamBatch(one, renderer, 1)
        batch.watch([views[0]])
        if asks:
            batch.ask([Query("q", 1.0, "which in-1 ?")], 2)
        decisions.append(batch.logits.clone())
        batch.think([True], 2)
    assert torch.equal(*decisions)


def test_live_s_metrics_are_those_of_the_decisions(one: Backbone) -> None:
    """Frames carry the probability of silence of the one-pass forward; the tokens of a turn come after the decision."""
    sample, renderer = narrating(), renderer_of(one, KEPT)
    clips = [SegmentClip(segment, images, times, FPS) for segment, images, times in clips_of(sample)]
    turns = live_turns(Checkpoint(one, renderer, Contract("", FPS, False, KEPT)), sample, clips, "tell")
    assert [len(turn.frames) for turn in turns] == [3, 1]
    assert [len(turn.losses) for turn in turns] == [3, 2]
    logits = trained(one, renderer, sample, views_of(one, sample))
    logits[:, list(one.banned)] = -torch.inf  # never drawn
    wanted = torch.softmax(logits, -1)[[0, 1, 2, 6], renderer.boundary]
    assert [frame.silence for turn in turns for frame in turn.frames] == pytest.approx(wanted.tolist(), rel=1e-4)
