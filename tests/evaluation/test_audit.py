"""The causality audit: nothing leaks where nothing should, and every planted leak is found, with a report of it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from evaluation.audit import (
    Audit,
    CausalityError,
    Output,
    audit,
    audit_streams,
    change,
    compare,
    predicted,
    require_causal,
    streamed,
)
from evaluation.predict import predict
from whilst.backbones.base import Backbone, Features
from whilst.checkpoint import Checkpoint
from whilst.clips import SegmentClip, View
from whilst.episode import polls
from whilst.runtime import StreamBatch, encode_clips
from whilst.sample import Query, Sample, Segment

LIMITS: dict[str, Any] = {"thought_tokens": 3, "answer_tokens": 3}
CONTRACTS: dict[str, dict[str, Any]] = {
    "text_memory": {"layout": "recurrent"},
    "packed": {"layout": "recurrent_packed", "rule": "text_memory"},
    "visual_window": {"layout": "interleaved", "rule": "visual_window", "rule_params": {"budget": 4}},
    "causal": {"layout": "interleaved"},
    "split": {"layout": "split", "rule": "unit", "scheme": "overlapped"},
    "row_shift": {"layout": "split", "rule": "row_shift", "queries": "kept"},
}
New = Callable[..., Checkpoint]
Clips = list[list[SegmentClip]]


@pytest.fixture
def samples(new_sample: Callable[..., Sample]) -> list[Sample]:
    return [new_sample(name, segments) for name, segments in (("a", 4), ("b", 3))]


@pytest.fixture
def clips(samples: list[Sample], new_clips: Callable[..., list[SegmentClip]]) -> Clips:
    return [new_clips(sample, seed) for seed, sample in enumerate(samples)]


@pytest.mark.parametrize("contract", CONTRACTS)
def test_streams_are_causal(new_checkpoint: New, samples: list[Sample], clips: Clips, contract: str) -> None:
    found = audit_streams(new_checkpoint(**CONTRACTS[contract]), samples, clips, cuts=9, **LIMITS)
    require_causal(found)
    assert (found.samples, found.runs, found.skipped) == (2, 2 * (3 + 2), ())
    assert found.compared == 2 * sum(_said_by(s, cut) for s in samples for cut in _ends(s)[:-1])
    assert found.moved == 3 + 2, "other frames later do change what is said later"
    record = json.loads(json.dumps(found.record()))
    assert record["causal"] and record["leaks"] == []


def _ends(sample: Sample) -> list[float]:
    return [segment.end for segment in sample.segments()]


def _said_by(sample: Sample, time: float) -> int:
    asked = [poll for step in polls(sample) for poll in step if poll.time <= time]
    return len(asked) + sum(end <= time for end in _ends(sample))


def test_drawn_thoughts_are_audited_too(new_checkpoint: New, samples: list[Sample], clips: Clips) -> None:
    require_causal(audit_streams(new_checkpoint(), samples, clips, temperature=1.0, seed=3, **LIMITS))


def test_what_is_audited_is_what_evaluation_says(new_checkpoint: New, samples: list[Sample], clips: Clips) -> None:
    checkpoint = new_checkpoint(**CONTRACTS["split"])
    for sample, of_sample in zip(samples, clips, strict=True):
        outputs = streamed(checkpoint, sample, of_sample, "frames", temperature=1.0, seed=4, **LIMITS)
        (episode,) = predict(checkpoint, [sample], [of_sample], temperature=1.0, seed=4, **LIMITS)
        assert [(o.time, o.text) for o in outputs if o.query is None] == [(t, x) for t, x, _ in episode.thoughts]
        assert [(o.query, o.time, o.text) for o in outputs if o.query] == [
            (r.query, r.time, r.text) for r in episode.replies
        ]
        assert all(o.ids is not None and o.scores for o in outputs)
        through = predicted(checkpoint, sample, of_sample, "frames", temperature=1.0, seed=4, **LIMITS)
        plain = sorted((o.time, o.query or "", o.text) for o in outputs)
        assert sorted((o.time, o.query or "", o.text) for o in through) == plain


def test_predict_is_audited_by_its_texts(new_checkpoint: New, samples: list[Sample], clips: Clips) -> None:
    found = audit(new_checkpoint(), samples, clips, watch=partial(predicted, **LIMITS), futures=("frames",))
    require_causal(found)
    assert found.compared


# ---- Planted leaks.


def leaks_of(found: Audit) -> list[tuple[str, str]]:
    return sorted({(leak.future, leak.differs) for leak in found.leaks})


def test_positions_that_know_the_end_are_found(new_checkpoint: New, samples: list[Sample], clips: Clips) -> None:
    """Scheme batch puts generated text after everything received: it knows how long the stream will be."""
    checkpoint = new_checkpoint(layout="split", rule="unit", scheme="batch")
    found = audit_streams(checkpoint, samples, clips, **LIMITS)
    assert found.leaks and {leak.future for leak in found.leaks} == {"end"}
    leak = found.leaks[0]
    with pytest.raises(CausalityError) as error:
        require_causal(found)
    message = str(error.value)
    assert f"sample {leak.sample}: the thought at {leak.time:g} s (turn 0) depends on what comes after" in message
    assert repr(leak.before) in message and repr(leak.after) in message and len(message.splitlines()) == 1
    record = found.record()
    assert not record["causal"] and record["leaks"][0]["message"] == str(leak)


def test_a_peek_at_the_next_clip_is_found(new_checkpoint: New, samples: list[Sample], clips: Clips) -> None:
    """Each segment shows the clip of the next one, where there is one."""

    def peeking(checkpoint: Checkpoint, sample: Sample, shown: Sequence[SegmentClip], future: Any) -> list[Output]:
        ahead = [*shown[1:], shown[-1]] if shown else []
        moved = [replace(own, images=later.images) for own, later in zip(shown, ahead, strict=True)]
        return streamed(checkpoint, sample, moved, future, **LIMITS)

    found = audit(new_checkpoint(), samples, clips, watch=peeking)
    assert {leak.future for leak in found.leaks} == {"frames", "end"}
    for leak in found.leaks:
        assert leak.time == leak.cut, "only the segment that ends at the cut saw beyond it"


def test_a_tower_that_looks_across_clips_is_found(new_checkpoint: New, samples: list[Sample], clips: Clips) -> None:
    """Features of all clips mixed: a thousandth of the mean over the whole video."""

    def mixed(backbone: Backbone, triples: Sequence[Any], fps: float) -> list[View]:
        views = encode_clips(backbone, triples, fps)
        if not views:
            return views
        mean = torch.cat([view.features.tokens for view in views]).mean(0, keepdim=True)
        return [replace(v, features=Features(v.features.tokens + 0.001 * mean, v.features.deepstack)) for v in views]

    found = audit_streams(new_checkpoint(), samples, clips, encode=mixed, **LIMITS)
    assert found.leaks and {leak.future for leak in found.leaks} == {"frames"}
    assert ("frames", "scores of the first token") in leaks_of(found), "before any text changes"


def test_a_prompt_that_names_the_length_of_the_video_is_found(
    new_checkpoint: New, samples: list[Sample], clips: Clips
) -> None:
    def told(checkpoint: Checkpoint, sample: Sample, shown: Sequence[SegmentClip], future: Any) -> list[Output]:
        named = [
            replace(e, text=f"{sample.video.end:g} {e.text}") if isinstance(e, Query) else e for e in sample.events
        ]
        return streamed(checkpoint, sample.with_events(named), shown, future, **LIMITS)

    found = audit(new_checkpoint(), samples, clips, watch=told)
    assert found.leaks and all(leak.query is not None and leak.future == "end" for leak in found.leaks)


def test_a_stream_that_keeps_the_future_in_its_cache_is_found(
    new_checkpoint: New, samples: list[Sample], clips: Clips
) -> None:
    """A stream that reads the next clip before it is due (cached future keys and values)."""

    def ahead(checkpoint: Checkpoint, sample: Sample, shown: Sequence[SegmentClip], future: Any) -> list[Output]:
        views = encode_clips(checkpoint.backbone, [(c.segment, c.images, c.times) for c in shown], 2.0)

        class Eager(StreamBatch):
            def watch(self, arriving: Sequence[View | None]) -> None:
                i = [view is not None and view.segment for view in arriving]
                now = next(n for n, view in enumerate(views) if view.segment == i[0])
                super().watch([views[min(now + 1, len(views) - 1)]])
                super().watch(arriving)

        return streamed(checkpoint, sample, shown, future, streams=Eager, **LIMITS)

    found = audit(new_checkpoint(**CONTRACTS["causal"]), samples, clips, watch=ahead)
    assert {"frames", "end"} == {leak.future for leak in found.leaks}


# ---- Its parts.


@pytest.mark.parametrize("future", ["frames", "end"])
def test_a_changed_future_leaves_the_past_alone(sample: Sample, new_clips: Callable[..., Any], future: Any) -> None:
    shown = new_clips(sample)
    for cut in _ends(sample)[:-1]:
        changed, other = change(sample, shown, cut, future, 1)
        n = sum(end <= cut for end in _ends(sample))
        assert all(a is b for a, b in zip(shown[:n], other[:n], strict=True))
        past = [e for e in sample.events if e.time <= cut]
        kept = changed.events[: len(past)]
        assert [type(e) for e in kept] == [type(e) for e in past]
        assert [e.text for e in kept if isinstance(e, Query)] == [e.text for e in past if isinstance(e, Query)]
        assert all(e.window is None or e.window[1] <= cut for e in kept if isinstance(e, Query))
        later = changed.events[len(past) :]
        if future == "end":
            assert not later and len(other) == n and changed.video.end == cut
            continue
        assert [type(e) for e in later] == [type(e) for e in sample.events[len(past) :]]
        assert [s for s in later if isinstance(s, Segment)] == list(sample.segments()[n:])
        assert all((a.images != b.images).any() for a, b in zip(shown[n:], other[n:], strict=True))
        assert all(a.images.shape == b.images.shape for a, b in zip(shown, other, strict=True))
        assert changed.meta != sample.meta


def test_turns_that_come_or_go_are_leaks() -> None:
    one, two = Output(1.0, None, "a", True), Output(2.0, "q", "b", True)
    leaks, n, later = compare("s", 2.0, "frames", [one, two], [one])
    assert n == 2 and not later and [str(leak.differs) for leak in leaks] == ["the turns themselves"]
    assert "'b' became '(nothing)'" in str(leaks[0]) and "the reply to 'q' at 2 s (turn 1)" in str(leaks[0])
    assert compare("s", 1.0, "frames", [one, two], [one]) == ([], 1, True)
    for change_to, name in (
        ({"text": "c"}, "texts"),
        ({"finished": False}, "ends"),
        ({"ids": (1,)}, "token ids"),
        ({"scores": b"1"}, "scores of the first token"),
        ({"time": 1.5}, "time or query"),
    ):
        (leak,) = compare("s", 2.0, "frames", [one, two], [one, replace(two, **change_to)])[0]
        assert leak.differs == name


def test_nothing_compared_is_no_pass(new_checkpoint: New, sample: Sample, new_clips: Callable[..., Any]) -> None:
    only = sample.with_events([sample.segments()[0]])
    found = audit_streams(new_checkpoint(), [only], [new_clips(only)], **LIMITS)
    assert found.skipped == ("a",) and found.runs == 0
    with pytest.raises(CausalityError, match="nothing was compared"):
        require_causal(found)


def test_cuts_are_drawn_by_the_seed(new_checkpoint: New, new_sample: Callable[..., Sample]) -> None:
    """Without a checkpoint: which futures are asked for."""
    sample = new_sample("a", 6)
    shown = [SegmentClip(s, np.zeros((2, 8, 8, 3), np.uint8), (s.start, s.start + 0.5), 2.0) for s in sample.segments()]

    def cuts(seed: int) -> list[float]:
        asked: list[float] = []

        def watch(checkpoint: Checkpoint, changed: Sample, shown: Sequence[SegmentClip], future: Any) -> list[Output]:
            asked.append(changed.segments()[-1].end)
            return [Output(s.end, None, "", True) for s in changed.segments()]

        audit(new_checkpoint(), [sample], [shown], watch=watch, cuts=2, seed=seed, futures=("end",))
        return asked[1:]

    drawn = [cuts(seed) for seed in range(8)]
    assert drawn == [cuts(seed) for seed in range(8)] and len({tuple(d) for d in drawn}) > 1
    assert all(len(d) == 2 and d == sorted(d) and max(d) < 16.0 for d in drawn)
