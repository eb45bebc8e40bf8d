"""Controls take away what they say, and nothing else: every query is still put, at its time."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest

from evaluation.controls import (
    check_distinct,
    drop_thoughts,
    last_frames,
    shuffle_thoughts,
    swapped,
    unasked,
    without_video,
)
from evaluation.predict import Episode, EvaluationError, Reply
from evaluation.scores import score
from whilst.clips import SegmentClip
from whilst.episode import polls
from whilst.runtime import StreamBatch
from whilst.sample import Answer, Query, Sample, Segment, Silence, Thought

Asked = list[tuple[str, str, float]]


@pytest.fixture
def samples(new_sample: Callable[..., Sample]) -> list[Sample]:
    return [new_sample(name, segments) for name, segments in (("a", 4), ("b", 2), ("c", 6))]


@pytest.fixture
def clips(samples: list[Sample], new_clips: Callable[..., list[SegmentClip]]) -> list[list[SegmentClip]]:
    return [new_clips(sample, seed) for seed, sample in enumerate(samples)]


def put(samples: list[Sample]) -> Asked:
    """(sample, query, time) of every moment at which a query is put."""
    return [(sample.id, poll.query.id, poll.time) for sample in samples for step in polls(sample) for poll in step]


class Memories:
    """The text memories of a StreamBatch, and nothing else of it."""

    def __init__(self, entries: list[list[str]]) -> None:
        self.entries, self.size = entries, len(entries)

    def memory_entries(self) -> list[list[str]]:
        return [list(entry) for entry in self.entries]

    def replace_memory(self, entries: list[list[str]]) -> None:
        assert len(entries) == self.size
        self.entries = entries

    def forget(self) -> None:
        self.replace_memory([[] for _ in range(self.size)])


@pytest.mark.parametrize("size", [2, 3, 7])
def test_shuffled_thoughts_are_never_ones_own(size: int) -> None:
    own = [[f"video {i}", "thought"] for i in range(size)]
    streams = Memories([list(entry) for entry in own])
    shuffle_thoughts(cast(StreamBatch, streams))
    assert all(new != old for new, old in zip(streams.entries, own, strict=True))
    assert sorted(streams.entries) == sorted(own), "every memory is used once"


def test_a_memory_is_never_swapped_with_its_own_video(samples: list[Sample]) -> None:
    check_distinct(samples, batch=3)
    with pytest.raises(EvaluationError, match="same video"):
        check_distinct(samples, batch=2)  # the third would be alone in its batch
    with pytest.raises(EvaluationError, match="same video"):
        check_distinct([samples[0], replace(samples[0], id="again"), samples[1]], batch=3)


def test_thoughts_of_a_silent_episode_cannot_be_swapped() -> None:
    with pytest.raises(EvaluationError, match="sample b: no thought"):
        swapped([Episode("a", [(1.0, "x", True)]), Episode("b")])


def test_dropped_thoughts_are_gone() -> None:
    streams = Memories([["a"], ["b", "c"]])
    drop_thoughts(cast(StreamBatch, streams))
    assert streams.entries == [[], []]


def test_without_video_keeps_every_query(samples: list[Sample], clips: list[list[SegmentClip]]) -> None:
    asked, shown = without_video(samples, clips)
    assert put(asked) == put(samples)
    assert shown == [[], [], []]
    for sample, before in zip(asked, samples, strict=True):
        assert not any(isinstance(event, Segment | Thought) for event in sample.events)
        replies = [e for e in before.events if isinstance(e, Query | Answer) or (isinstance(e, Silence) and e.query)]
        assert list(sample.events) == replies
    assert [len(step) for step in polls(asked[0])] == [len(put(samples[:1]))], "all before anything is watched"


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 100])
def test_last_frames_keeps_every_query_and_the_recent_past(
    samples: list[Sample], clips: list[list[SegmentClip]], frames: int
) -> None:
    cut, shown = last_frames(samples, clips, frames)
    assert put(cut) == put(samples)
    by_id = {sample.id: (sample, of_sample) for sample, of_sample in zip(samples, clips, strict=True)}
    for sample, kept in zip(cut, shown, strict=True):
        whole, all_clips = by_id[sample.id]
        assert put([sample])[0][2] == sample.events[-1].time
        assert [clip.segment for clip in kept] == list(sample.segments()), "a clip a segment"
        assert not any(isinstance(event, Thought) for event in sample.events)
        arrived = [clip for clip in all_clips if clip.segment.end <= sample.events[-1].time]
        assert kept == arrived[len(arrived) - len(kept) :], "the last ones, and none from the future"
        count = sum(len(clip.images) for clip in kept)
        assert count >= min(frames, sum(len(clip.images) for clip in arrived))
        assert len(kept) == 1 or count - len(kept[0].images) < frames, "not one segment more than needed"
        assert whole.video == sample.video


def test_last_frames_before_anything_was_watched(sample: Sample, new_clips: Callable[..., Any]) -> None:
    early = sample.with_events((Query("e", 10.0, "which in-1 ?"), Answer(10.0, "unknown", "e"), *sample.events))
    cut, shown = last_frames([early], [new_clips(early)], 4)
    assert put(cut) == put([early])
    assert cut[0].segments() == () and shown[0] == []


def test_cut_episodes_score_as_whole_samples(samples: list[Sample], clips: list[list[SegmentClip]]) -> None:
    cut, _ = last_frames(samples, clips, 2)
    episodes = []
    for sample in cut:
        (last,) = (event for event in sample.events if isinstance(event, Answer | Silence))
        text = last.text if isinstance(last, Answer) else ""
        episodes.append(Episode(sample.id, replies=[Reply(str(last.query), last.time, text, True)]))
    scored = score(samples, episodes)
    assert len(scored) == sum(len(sample.queries()) for sample in samples)
    assert all(item.right for item in scored), "gold replies are right however the sample is cut"


def test_unasked_samples_keep_their_segments(samples: list[Sample]) -> None:
    for sample, before in zip(unasked(samples), samples, strict=True):
        assert sample.segments() == sample.events == before.segments() and sample.id == before.id
    assert put(unasked(samples)) == []


def test_swapped_thoughts_are_the_next_videos() -> None:
    def episode(name: str, count: int) -> Episode:
        return Episode(name, [(float(i), f"{name}{i}", True) for i in range(count)])

    assert swapped([episode("a", 2), episode("b", 3), episode("c", 1)]) == [["b0", "b1"], ["c0"] * 3, ["a0"]]
