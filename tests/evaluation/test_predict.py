"""Predictions on tiny checkpoints: one reply a poll, nothing from the future, controls that act on queries alone."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from evaluation.controls import drop_thoughts, last_frames, shuffle_thoughts, unasked, without_video
from evaluation.predict import Episode, predict
from whilst.checkpoint import Checkpoint
from whilst.clips import SegmentClip
from whilst.episode import polls
from whilst.runtime import RuntimeStateError
from whilst.sample import Answer, Query, Sample

LIMITS: dict[str, Any] = {"thought_tokens": 3, "answer_tokens": 3}
CONTRACTS: dict[str, dict[str, Any]] = {
    "text_memory": {"layout": "recurrent"},
    "packed": {"layout": "recurrent_packed", "rule": "text_memory"},
    "kv_memory": {"layout": "interleaved", "rule": "last_segments", "rule_params": {"n": 1}},
    "split": {"layout": "split", "rule": "unit", "scheme": "batch"},
}
New = Callable[..., Checkpoint]


@pytest.fixture
def samples(new_sample: Callable[..., Sample]) -> list[Sample]:
    return [new_sample(name, segments) for name, segments in (("a", 4), ("b", 2), ("c", 3))]


@pytest.fixture
def clips(samples: list[Sample], new_clips: Callable[..., list[SegmentClip]]) -> list[list[SegmentClip]]:
    return [new_clips(sample, seed) for seed, sample in enumerate(samples)]


def replies(episodes: list[Episode]) -> list[list[tuple[str, float, str]]]:
    return [[(r.query, r.time, r.text) for r in episode.replies] for episode in episodes]


def test_polls_stand_where_events_are(sample: Sample) -> None:
    assert [[(p.query.id, p.time) for p in step] for step in polls(sample)] == [
        [],
        [("f0", 11.0)],
        [("f0", 12.0), ("b0", 12.0)],
        [("f0", 13.0)],
        [("f0", 14.0)],
    ]
    early = sample.with_events((Query("e", 10.0, "who ?"), Answer(10.0, "me", "e"), *sample.events))
    assert [p.query.id for p in polls(early)[0]] == ["e"]


@pytest.mark.parametrize("contract", CONTRACTS)
def test_one_reply_a_poll_and_one_thought_a_segment(
    new_checkpoint: New, samples: list[Sample], clips: list[list[SegmentClip]], contract: str
) -> None:
    episodes = predict(new_checkpoint(**CONTRACTS[contract]), samples, clips, batch=2, **LIMITS)
    assert [episode.sample for episode in episodes] == ["a", "b", "c"]
    for sample, episode in zip(samples, episodes, strict=True):
        asked = [(poll.query.id, poll.time) for step in polls(sample) for poll in step]
        assert [(reply.query, reply.time) for reply in episode.replies] == asked
        assert [time for time, _, _ in episode.thoughts] == [segment.end for segment in sample.segments()]


@pytest.mark.parametrize("contract", CONTRACTS)
def test_a_batch_is_as_good_as_single_streams(
    new_checkpoint: New, samples: list[Sample], clips: list[list[SegmentClip]], contract: str
) -> None:
    checkpoint = new_checkpoint(**CONTRACTS[contract])
    together = predict(checkpoint, samples, clips, **LIMITS)
    assert together == predict(checkpoint, samples, clips, batch=1, **LIMITS)
    assert together == predict(checkpoint, samples, clips, **LIMITS), "and the same again"


def test_nothing_comes_from_the_future(
    new_checkpoint: New, sample: Sample, new_clips: Callable[..., list[SegmentClip]]
) -> None:
    checkpoint, clips = new_checkpoint(), new_clips(sample)
    other = [*clips[:-1], replace(clips[-1], images=255 - clips[-1].images)]
    before, after = (predict(checkpoint, [sample], [c], **LIMITS)[0] for c in (clips, other))
    assert before.thoughts[:3] == after.thoughts[:3] and before.replies[:-1] == after.replies[:-1]
    first = [replace(clips[0], images=255 - clips[0].images), *clips[1:]]
    assert predict(checkpoint, [sample], [first], **LIMITS)[0].thoughts[0] != before.thoughts[0], "it does look"


def test_an_arm_that_does_not_think_writes_no_thoughts(
    new_checkpoint: New, samples: list[Sample], clips: list[list[SegmentClip]]
) -> None:
    episodes = predict(new_checkpoint(thinks=False), samples, clips, **LIMITS)
    assert all(not episode.thoughts and episode.replies for episode in episodes)


def test_given_thoughts_are_written_in_place_of_its_own(
    new_checkpoint: New, samples: list[Sample], clips: list[list[SegmentClip]]
) -> None:
    given = [[f"in-{i} none ." for i, _ in enumerate(of_sample)] for of_sample in clips]
    for contract in CONTRACTS.values():
        # room for the words and the boundary token, whatever the tokenizer makes of them
        episodes = predict(
            new_checkpoint(**contract), samples, clips, batch=2, thoughts=given, thought_tokens=16, answer_tokens=2
        )
        assert [[text for _, text, _ in episode.thoughts] for episode in episodes] == given
        assert all(finished for episode in episodes for _, _, finished in episode.thoughts)


def test_given_thoughts_are_written_whole_and_an_empty_one_is_silence(
    new_checkpoint: New, samples: list[Sample], clips: list[list[SegmentClip]]
) -> None:
    checkpoint = new_checkpoint(layout="recurrent_packed", rule="text_memory")
    long = [["in-1 red-circle . " * 6 for _ in of_sample] for of_sample in clips]
    assert [text for _, text, _ in predict(checkpoint, samples, clips, **LIMITS, thoughts=long)[0].thoughts] == long[0]
    silent = predict(checkpoint, samples, clips, **LIMITS, thoughts=[["" for _ in of_sample] for of_sample in clips])
    assert {thought[1:] for episode in silent for thought in episode.thoughts} == {("", True)}
    never = predict(new_checkpoint(False, layout="recurrent_packed", rule="text_memory"), samples, clips, **LIMITS)
    assert replies(silent) == replies(never), "nothing is kept of a silence"


def test_a_reader_of_its_own_thoughts_replies_as_ever(
    new_checkpoint: New, samples: list[Sample], clips: list[list[SegmentClip]]
) -> None:
    checkpoint = new_checkpoint(layout="recurrent_packed", rule="text_memory")
    given = [[text for _, text, _ in e.thoughts] for e in predict(checkpoint, unasked(samples), clips, **LIMITS)]
    # An unfinished thought is closed when it is read again; the memory takes its words alone, so replies stay.
    whole = predict(checkpoint, samples, clips, **LIMITS)
    assert [[text for _, text, _ in e.thoughts] for e in whole] == given, "thoughts do not depend on queries"
    assert replies(predict(checkpoint, samples, clips, **LIMITS, thoughts=given)) == replies(whole)


def test_drawn_thoughts_depend_on_seed_and_sample_alone(
    new_checkpoint: New, samples: list[Sample], clips: list[list[SegmentClip]]
) -> None:
    checkpoint = new_checkpoint()
    one = predict(checkpoint, samples, clips, **LIMITS, temperature=1.0, seed=3)
    assert one == predict(checkpoint, samples, clips, **LIMITS, temperature=1.0, seed=3, batch=1)
    assert one[1:] == predict(checkpoint, samples[1:], clips[1:], **LIMITS, temperature=1.0, seed=3)
    thoughts = [episode.thoughts for episode in one]
    assert thoughts != [e.thoughts for e in predict(checkpoint, samples, clips, **LIMITS, temperature=1.0, seed=4)]
    greedy = predict(checkpoint, samples, clips, **LIMITS)
    assert thoughts != [e.thoughts for e in greedy]
    cold = predict(checkpoint, samples, clips, **LIMITS, temperature=1e-6, seed=3)
    assert cold == greedy


def test_dropped_thoughts_answer_as_if_there_had_been_none(
    new_checkpoint: New, samples: list[Sample], clips: list[list[SegmentClip]]
) -> None:
    thinking = new_checkpoint()
    whole = predict(thinking, samples, clips, **LIMITS)
    dropped = predict(thinking, samples, clips, **LIMITS, before_asking=drop_thoughts)
    never = predict(new_checkpoint(thinks=False), samples, clips, **LIMITS)
    assert replies(dropped) == replies(never) != replies(whole)
    assert [e.thoughts for e in dropped] == [e.thoughts for e in whole], "the memory is put back after the queries"


def test_shuffled_thoughts_answer_from_the_next_streams_memory(
    new_checkpoint: New, new_sample: Callable[..., Sample], new_clips: Callable[..., list[SegmentClip]]
) -> None:
    checkpoint = new_checkpoint()
    samples = [new_sample(name, 3) for name in "abc"]
    clips = [new_clips(sample, seed) for seed, sample in enumerate(samples)]
    given = [[f"in-{i} {name} ." for i in range(3)] for name in ("red-circle", "blue-square", "none")]
    limits: dict[str, Any] = {"thought_tokens": 32, "answer_tokens": 3}
    whole = predict(checkpoint, samples, clips, **limits, thoughts=given)
    shuffled = predict(checkpoint, samples, clips, **limits, thoughts=given, before_asking=shuffle_thoughts)
    moved = predict(checkpoint, samples, clips, **limits, thoughts=given[1:] + given[:1])
    assert replies(shuffled) == replies(moved) != replies(whole)


def test_kept_keys_and_values_cannot_be_swapped(
    new_checkpoint: New, samples: list[Sample], clips: list[list[SegmentClip]]
) -> None:
    with pytest.raises(RuntimeStateError, match="needs text memory"):
        predict(new_checkpoint(**CONTRACTS["kv_memory"]), samples, clips, **LIMITS, before_asking=drop_thoughts)


def test_kept_queries_are_refused(new_checkpoint: New, samples: list[Sample], clips: list[list[SegmentClip]]) -> None:
    with pytest.raises(ValueError, match="queries: branch"):
        predict(new_checkpoint(layout="interleaved", queries="kept"), samples, clips, **LIMITS)


@pytest.mark.parametrize("contract", CONTRACTS)
def test_deprived_samples_are_asked_all_the_same(
    new_checkpoint: New, samples: list[Sample], clips: list[list[SegmentClip]], contract: str
) -> None:
    checkpoint = new_checkpoint(**CONTRACTS[contract])
    asked = sorted((s.id, p.query.id, p.time) for s in samples for step in polls(s) for p in step)
    for deprived in (without_video(samples, clips), last_frames(samples, clips, 2)):
        episodes = predict(checkpoint, *deprived, batch=3, **LIMITS)
        assert sorted((e.sample, r.query, r.time) for e in episodes for r in e.replies) == asked


def test_text_only_does_not_see(new_checkpoint: New, samples: list[Sample], clips: list[list[SegmentClip]]) -> None:
    checkpoint = new_checkpoint()
    other = [[replace(c, images=np.zeros_like(c.images)) for c in of_sample] for of_sample in clips]
    one, two = (predict(checkpoint, *without_video(samples, c), **LIMITS) for c in (clips, other))
    assert one == two and not any(episode.thoughts for episode in one)


def test_text_memory_that_a_sample_starts_with_is_read(
    new_checkpoint: New, sample: Sample, new_clips: Callable[..., list[SegmentClip]]
) -> None:
    told = replace(sample, memory="in-1 blue-square .\n")
    runs = [predict(new_checkpoint(), [s], [new_clips(sample)], **LIMITS)[0] for s in (sample, told)]
    assert runs[0].replies != runs[1].replies
