"""Controls take away what they say, and nothing else: every query is still put, at its time."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from evaluation.constants import best_constants
from evaluation.controls import (
    CONTROLS,
    GREEDY,
    REGISTRY,
    SWAPPED,
    Whole,
    check_distinct,
    drop_thoughts,
    evidence_only,
    filled,
    last_frames,
    named,
    run_control,
    shuffle_thoughts,
    swapped,
    unasked,
    uncovered,
    untouched,
    without,
    without_video,
)
from evaluation.predict import Episode, EvaluationError, Reply, predict
from evaluation.rereading import blind, reread
from evaluation.scores import score
from whilst.backbones.base import load
from whilst.checkpoint import Checkpoint, Contract
from whilst.clips import SegmentClip
from whilst.episode import polls
from whilst.render_config import RenderConfig
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


# ---- The registry, on tiny checkpoints. What is taken away must not matter, and what is left must be the whole run.

LIMITS: dict[str, Any] = {"thought_tokens": 3, "answer_tokens": 3, "batch": 3}
CONTRACTS: dict[str, dict[str, Any]] = {
    "text_memory": {"layout": "recurrent"},
    "packed": {"layout": "recurrent_packed", "rule": "text_memory"},
    "last_segments": {"layout": "interleaved", "rule": "last_segments", "rule_params": {"n": 1}},
    "split": {"layout": "split", "rule": "unit", "scheme": "group_decoupled"},
    "split_batch": {"layout": "split", "rule": "unit", "scheme": "batch"},
}
KV = ("last_segments", "split", "split_batch")
TEXT = ("text_memory", "packed")
New = Callable[..., Checkpoint]
Clips = list[list[SegmentClip]]


def other_pixels(clips: Clips, seed: int = 9) -> Clips:
    rng = np.random.default_rng(seed)
    return [
        [replace(c, images=rng.integers(0, 256, c.images.shape).astype(np.uint8)) for c in of_sample]
        for of_sample in clips
    ]


def said(episodes: list[Episode]) -> list[tuple[str, str, float, str, bool]]:
    """Replies in an order that does not depend on how samples are cut."""
    return sorted((e.sample, r.query, r.time, r.text, r.finished) for e in episodes for r in e.replies)


def test_every_control_says_what_it_takes_and_where_it_is_valid(new_checkpoint: New) -> None:
    assert set(CONTROLS) | {SWAPPED, GREEDY} <= set(REGISTRY)
    assert all(control.takes.endswith(".") and control.name == name for name, control in REGISTRY.items())
    text = new_checkpoint(**CONTRACTS["packed"]).contract
    kv = new_checkpoint(**CONTRACTS["split"]).contract
    silent = new_checkpoint(thinks=False).contract

    def refused(contract: Any) -> set[str]:
        return {name for name, control in REGISTRY.items() if control.valid(contract)}

    assert refused(text) == {SWAPPED, "kv_as_text", "kv_as_text_now"}
    assert refused(kv) == {"thoughts_shuffled", "thoughts_dropped", "thoughts_only"}
    of_thoughts = {"thoughts_shuffled", "thoughts_dropped", "thoughts_only", "filler_tokens", SWAPPED, GREEDY}
    assert refused(silent) == of_thoughts | {"kv_as_text", "kv_as_text_now"}
    assert "needs text memory" in named("thoughts_dropped").valid(kv)
    assert "base" in named("untouched_backbone").valid(replace(kv, base=""))


def test_a_control_that_is_not_valid_is_refused(new_checkpoint: New, samples: list[Sample], clips: Clips) -> None:
    whole = Whole(new_checkpoint(**CONTRACTS["split"]), samples, clips, LIMITS)
    with pytest.raises(EvaluationError, match="control thoughts_only: layout 'split' keeps keys and values"):
        run_control("thoughts_only", whole)
    with pytest.raises(EvaluationError, match="unknown control 'x'; known: thoughts_shuffled"):
        run_control("x", whole)


VALID = [
    (contract, name)
    for contract in ("packed", "split")
    for name, control in REGISTRY.items()
    if not control.valid(Contract("tiny", 2.0, True, RenderConfig(**CONTRACTS[contract])))
]


@pytest.mark.parametrize(("contract", "name"), VALID)
def test_every_valid_control_asks_every_query_that_it_covers(
    new_checkpoint: New, samples: list[Sample], clips: Clips, name: str, contract: str, checkpoint: Path
) -> None:
    made = new_checkpoint(**CONTRACTS[contract])
    made = replace(made, contract=replace(made.contract, base=str(checkpoint)))
    found = run_control(name, Whole(made, samples, clips, LIMITS))
    covered = without(samples, found.left_out)
    assert sorted(put(list(found.samples))) == sorted(put(covered))
    assert sorted(put(covered)) == sorted((s, q, t) for s, q, t, _, _ in said(found.episodes))
    assert bool(found.left_out) == (name == "oracle_evidence")


@pytest.mark.parametrize("contract", TEXT)
def test_thoughts_only_does_not_see(new_checkpoint: New, samples: list[Sample], clips: Clips, contract: str) -> None:
    """With the same thoughts, other pixels change no reply; and thoughts themselves are as in the whole run."""
    checkpoint = new_checkpoint(**CONTRACTS[contract])
    given = [["in-1 red-circle .", "", "now", "none .", "now", "."][: len(s.segments())] for s in samples]
    limits = {**LIMITS, "thoughts": given}
    one, two = (
        run_control("thoughts_only", Whole(checkpoint, samples, c, limits)) for c in (clips, other_pixels(clips))
    )
    assert one.episodes == two.episodes
    seen = [predict(checkpoint, samples, c, **limits) for c in (clips, other_pixels(clips))]
    assert said(seen[0]) != said(seen[1]), "the whole run does see"
    own = run_control("thoughts_only", Whole(checkpoint, samples, clips, LIMITS)).episodes
    whole = predict(checkpoint, samples, clips, **LIMITS)
    assert [e.thoughts for e in own] == [e.thoughts for e in whole] and said(own) != said(whole)


def test_thoughts_only_of_a_query_before_any_segment_is_the_whole_run(
    new_checkpoint: New, sample: Sample, new_clips: Callable[..., list[SegmentClip]]
) -> None:
    early = sample.with_events((Query("e", 10.0, "which in-1 ?"), Answer(10.0, "unknown", "e"), *sample.segments()))
    whole = Whole(new_checkpoint(), [early], [new_clips(early)], LIMITS)
    assert said(run_control("thoughts_only", whole).episodes) == said(
        predict(whole.checkpoint, [early], whole.clips, **LIMITS)
    )


@pytest.mark.parametrize("contract", CONTRACTS)
def test_text_only_is_blind_to_pixels_and_the_last_frames_to_older_ones(
    new_checkpoint: New, samples: list[Sample], clips: Clips, contract: str
) -> None:
    checkpoint = new_checkpoint(**CONTRACTS[contract])
    one, two = (run_control("text_only", Whole(checkpoint, samples, c, LIMITS)) for c in (clips, other_pixels(clips)))
    assert one.episodes == two.episodes
    asked_late = [s.with_events([e for e in s.events if isinstance(e, Segment)] + late(s)) for s in samples]
    older = [[*changed[:-1], own[-1]] for changed, own in zip(other_pixels(clips), clips, strict=True)]
    cut = [run_control("last_frames", Whole(checkpoint, asked_late, c, LIMITS, frames=2)) for c in (clips, older)]
    assert cut[0].episodes == cut[1].episodes
    everything = run_control("last_frames", Whole(checkpoint, asked_late, clips, LIMITS, frames=1000))
    assert said(everything.episodes) == said(predict(checkpoint, asked_late, clips, **LIMITS))


def late(sample: Sample) -> list[Any]:
    """A backward query at the end of a sample, about its first segment."""
    segments = sample.segments()
    end = segments[-1].end
    evidence = ((segments[0].start, segments[0].end),)
    return [Query("late", end, "which in-1 ?", "backward", evidence=evidence), Answer(end, "red-circle", "late")]


@pytest.mark.parametrize("contract", CONTRACTS)
def test_oracle_evidence_shows_nothing_but_the_evidence(
    new_checkpoint: New, samples: list[Sample], clips: Clips, contract: str
) -> None:
    checkpoint = new_checkpoint(**CONTRACTS[contract])
    asked = [s.with_events([*s.segments(), *late(s)]) for s in samples]
    others = [[own[0], *changed[1:]] for changed, own in zip(other_pixels(clips), clips, strict=True)]
    one, two = (run_control("oracle_evidence", Whole(checkpoint, asked, c, LIMITS)) for c in (clips, others))
    assert one.episodes == two.episodes and not one.left_out
    wrong = [[changed[0], *own[1:]] for changed, own in zip(other_pixels(clips), clips, strict=True)]
    assert said(run_control("oracle_evidence", Whole(checkpoint, asked, wrong, LIMITS)).episodes) != said(one.episodes)
    cut, shown = evidence_only(asked, clips)
    assert [c.segment for of_sample in shown for c in of_sample] == [s.segments()[0] for s in asked]
    assert all(len(kept) <= len(own) for kept, own in zip(shown, clips, strict=True)) and put(cut) == put(asked)
    everything = [s.with_events([*s.segments(), *all_of_it(s)]) for s in samples]
    assert said(run_control("oracle_evidence", Whole(checkpoint, everything, clips, LIMITS)).episodes) == said(
        predict(checkpoint, everything, clips, **LIMITS)
    )


def all_of_it(sample: Sample) -> list[Any]:
    query, answer = late(sample)
    return [replace(query, evidence=((sample.segments()[0].start, query.time),)), answer]


def test_queries_without_evidence_are_listed_not_judged(samples: list[Sample], clips: Clips) -> None:
    left_out = uncovered(samples)
    assert [(item.sample, item.query) for item in left_out] == [("a", "f0"), ("b", "f0"), ("c", "f0")]
    assert {item.reason for item in left_out} == {"no evidence is given"}
    rest = without(samples, left_out)
    assert [[q.id for q in s.queries()] for s in rest] == [["b0"]] * 3
    assert all(s.segments() == whole.segments() for s, whole in zip(rest, samples, strict=True))
    gap = samples[0].with_events(
        [e for e in samples[0].events if not (isinstance(e, Segment) and e.start == samples[0].video.start)]
    )
    assert [(i.query, i.reason) for i in uncovered([gap])] == [
        ("f0", "no evidence is given"),
        ("b0", "no segment that has arrived overlaps its evidence"),
    ]


def test_a_moment_and_a_border_of_evidence(sample: Sample, new_clips: Callable[..., list[SegmentClip]]) -> None:
    """Segments are [start, end): evidence that ends where a segment starts is not in it; a moment is in one."""
    asked = sample.with_events([*sample.segments(), *late(sample)])
    *segments, query, answer = asked.events

    def shown(*evidence: tuple[float, float]) -> list[float]:
        of = asked.with_events([*segments, replace(query, evidence=evidence), answer])
        return [clip.segment.start for clip in evidence_only([of], [new_clips(of)])[1][0]]

    assert shown((11.0, 12.0)) == [11.0]
    assert shown((12.0, 12.0)) == [12.0]
    assert shown((10.5, 11.5)) == [10.0, 11.0]
    assert shown((10.0, 10.2), (13.0, 14.0)) == [10.0, 13.0]


@pytest.mark.parametrize("contract", CONTRACTS)
def test_filler_has_no_words_but_as_many_tokens(
    new_checkpoint: New, samples: list[Sample], clips: Clips, contract: str
) -> None:
    checkpoint = new_checkpoint(**CONTRACTS[contract])
    texts = [["in-1 red-circle .", "", "now", "none .", "now", "."][: len(s.segments())] for s in samples]
    filler = filled(checkpoint.renderer, texts, " .")
    for own, other in zip(texts, filler, strict=True):
        for text, fill in zip(own, other, strict=True):
            assert len(checkpoint.renderer.encode(text)) == len(checkpoint.renderer.encode(fill))
            assert set(fill.split()) <= {"."} and bool(text) == bool(fill)
    assert filled(checkpoint.renderer, filler, " .") == filler, "with nothing to take away nothing changes"
    whole = predict(checkpoint, samples, clips, **LIMITS)
    found = run_control("filler_tokens", Whole(checkpoint, samples, clips, LIMITS))
    for own, other in zip(whole, found.episodes, strict=True):
        lengths = [[len(checkpoint.renderer.encode(t)) for _, t, _ in e.thoughts] for e in (own, other)]
        assert lengths[0] == lengths[1]
        assert all(set(text.split()) <= {"."} for _, text, _ in other.thoughts)


def test_a_filler_must_be_one_token(new_checkpoint: New) -> None:
    with pytest.raises(EvaluationError, match="name another filler"):
        filled(new_checkpoint().renderer, [["in-1 ."]], " ab")


@pytest.mark.parametrize("contract", KV)
def test_kv_as_text_has_words_and_no_pixels(
    new_checkpoint: New, samples: list[Sample], clips: Clips, contract: str
) -> None:
    checkpoint = new_checkpoint(**CONTRACTS[contract])
    texts = [["in-1 red-circle .", "", "now", "none .", "now", "."][: len(s.segments())] for s in samples]

    def replies(shown: Clips, show_now: bool, words: list[list[str]] = texts) -> list[Any]:
        cut, cut_clips, cut_texts = reread(samples, shown, words, show_now=show_now)
        return said(predict(blind(checkpoint), cut, cut_clips, **LIMITS, thoughts=cut_texts))

    assert replies(clips, False) == replies(other_pixels(clips), False)
    assert replies(clips, True) != replies(other_pixels(clips), True)
    swapped_words = [["out-1 blue-square ."] * len(of_sample) for of_sample in texts]
    assert replies(clips, False) != replies(clips, False, swapped_words), "the words are read"
    whole = predict(checkpoint, samples, clips, **LIMITS, thoughts=texts)
    assert replies(clips, False) != said(whole)
    found = run_control("kv_as_text", Whole(checkpoint, samples, clips, {**LIMITS, "thoughts": texts}))
    assert said(found.episodes) == replies(clips, False)


@pytest.mark.parametrize("contract", KV)
def test_kv_as_text_now_sees_the_last_segment_alone(
    new_checkpoint: New, samples: list[Sample], clips: Clips, contract: str
) -> None:
    """Older pixels do not matter once the thoughts are given; and where there is one segment it is the whole run."""
    checkpoint = new_checkpoint(**CONTRACTS[contract])
    asked = [s.with_events([*s.segments(), *late(s)]) for s in samples]
    texts = [["in-1 red-circle .", "", "now", "none .", "now", "."][: len(s.segments())] for s in samples]
    older = [[*changed[:-1], own[-1]] for changed, own in zip(other_pixels(clips), clips, strict=True)]
    runs = [
        run_control("kv_as_text_now", Whole(checkpoint, asked, c, {**LIMITS, "thoughts": texts})).episodes
        for c in (clips, older)
    ]
    assert runs[0] == runs[1]
    longer = {**LIMITS, "answer_tokens": 16, "thoughts": texts}
    whole = [predict(checkpoint, asked, c, **longer) for c in (clips, older)]
    assert said(whole[0]) != said(whole[1]), "kept keys and values do carry older pixels"
    short = [s.with_events([s.segments()[0], *late(replace(s, events=s.events[:1]))]) for s in samples]
    first = [of_sample[:1] for of_sample in clips]
    one = {**LIMITS, "thoughts": [of_sample[:1] for of_sample in texts]}
    own = run_control("kv_as_text_now", Whole(checkpoint, short, first, one)).episodes
    assert said(own) == said(predict(checkpoint, short, first, **one))


def test_an_unseen_segment_leaves_an_empty_turn(new_checkpoint: New, samples: list[Sample], clips: Clips) -> None:
    checkpoint = blind(new_checkpoint(**CONTRACTS["last_segments"]))
    cut, cut_clips, _ = reread(samples[:1], clips[:1], [["now"] * 4], show_now=True)
    renderer = checkpoint.renderer
    shapes = [clip.shape(checkpoint.backbone.spec) for clip in cut_clips[-1]]
    assert len(cut[-1].segments()) == 4
    turns = [renderer.received(shape, s, None) for shape, s in zip(shapes, cut[-1].segments(), strict=True)]
    empty = renderer.received(None, None, None)
    assert all((turn.ids == empty.ids).all() for turn in turns[:-1]) and len(turns[-1]) > len(empty)


@pytest.mark.parametrize("contract", ["packed", "split"])
def test_the_untouched_backbone_has_not_been_trained(
    new_checkpoint: New,
    samples: list[Sample],
    clips: Clips,
    contract: str,
    family: str,
    checkpoints: Mapping[str, Path],
) -> None:
    """Untrained, the arm is its base; trained (its weights are others), it is not, but its control still is."""
    arm = new_checkpoint(**CONTRACTS[contract])
    arm = replace(arm, contract=replace(arm.contract, base=str(checkpoints[family])))
    plain = predict(arm, samples, clips, **LIMITS)
    assert run_control("untouched_backbone", Whole(arm, samples, clips, LIMITS)).episodes == plain
    trained = replace(arm, backbone=load(checkpoints[family]))
    with torch.no_grad():
        for parameter in trained.backbone.model.parameters():
            parameter.mul_(-1.5)
    assert predict(trained, samples, clips, **LIMITS) != plain
    assert run_control("untouched_backbone", Whole(trained, samples, clips, LIMITS)).episodes == plain


def test_a_base_that_is_gone_is_an_error(new_checkpoint: New) -> None:
    arm = new_checkpoint()
    for base in ("runs/a/base/gone", "/nowhere/base"):
        with pytest.raises(EvaluationError, match="does not exist; restore it"):
            untouched(replace(arm, contract=replace(arm.contract, base=base)))


def test_thoughts_greedy_of_a_drawn_arm(new_checkpoint: New, samples: list[Sample], clips: Clips) -> None:
    drawn = {**LIMITS, "temperature": 2.0, "seed": 1}
    checkpoint = new_checkpoint()
    found = run_control(GREEDY, Whole(checkpoint, samples, clips, drawn))
    assert found.episodes == predict(checkpoint, samples, clips, **LIMITS)
    assert found.episodes != predict(checkpoint, samples, clips, **drawn)


def test_no_constant_does_better_than_the_best_ones(new_checkpoint: New, samples: list[Sample], clips: Clips) -> None:
    answers = [("x", "red-circle"), ("y", "blue-square"), ("z", "red-circle")]
    asked = [
        s.with_events([*s.segments(), *(replace(e, text=t) if isinstance(e, Answer) else e for e in late(s))])
        for s, (_, t) in zip(samples, answers, strict=True)
    ]
    whole = Whole(new_checkpoint(), asked, clips, LIMITS, constant="blue-square")

    def right(name: str, of: Whole) -> int:
        found = run_control(name, of)
        return sum(item.right for item in score(found.samples, found.episodes))

    assert run_control("constant_answers", whole).constants == {"backward": "red-circle"}
    assert right("constant_answers", whole) == 2
    assert right("constant_named", whole) == 1
    texts = {text for _, text in answers} | {"", "ABCDE"}
    assert all(right("constant_named", replace(whole, constant=t)) <= 2 for t in texts)


def test_a_constant_speaks_too_early_for_a_standing_query(
    new_checkpoint: New, samples: list[Sample], clips: Clips
) -> None:
    found = run_control("constant_answers", Whole(new_checkpoint(), samples, clips, LIMITS))
    assert set(found.constants) == {"backward", "forward"}
    right = {item.kind: item.right for item in score(found.samples, found.episodes)}
    assert right == {"backward": True, "forward": False}


def test_no_constant_is_chosen_without_an_answer(sample: Sample) -> None:
    asked = sample.with_events([event for event in sample.events if not isinstance(event, Answer)])
    with pytest.raises(EvaluationError, match="sample a, query f0: no answer"):
        best_constants([asked])
