"""Perturbed tasks: which pictures move, and that nothing else does."""

from dataclasses import replace
from itertools import chain

import numpy as np
import pytest

from rewards.base import PERTURBATIONS, RewardError
from rewards.contrast import evidence_segments
from train.perturb import GREY, perturbed
from train.policies import Task
from whilst.clips import SegmentClip
from whilst.sample import Answer, Query, Sample, Segment, Video

Spans = tuple[tuple[float, float], ...]


def task(*evidence: Spans, counts: tuple[int, ...] = (2, 3, 1, 2), seed: tuple[int, ...] = (3, 1)) -> Task:
    """Segments of 1 s with these many frames; frame i of the video is all of grey level 10 * (i + 1)."""
    queries = [Query(f"q{i}", 4.0, "which ?", evidence=spans) for i, spans in enumerate(evidence)]
    answers = [Answer(4.0, "now", query.id) for query in queries]
    segments = tuple(Segment(float(i), i + 1.0) for i in range(len(counts)))
    clips, shown = [], 0
    for segment, count in zip(segments, counts, strict=True):
        levels = 10 * (1 + shown + np.arange(count))
        images = np.broadcast_to(levels[:, None, None, None], (count, 4, 6, 3)).astype(np.uint8)
        times = tuple(segment.start + i / count for i in range(count))
        clips.append(SegmentClip(segment, images, times, 2.0))
        shown += count
    sample = Sample("a", Video("video.mp4"), (*segments, *queries, *answers))
    return Task(sample, tuple(clips), seed, rollout=5)


def levels(task: Task) -> list[list[int]]:
    """The grey level of every frame, by segment; a frame must be of one level."""
    for clip in task.clips:
        assert (clip.images == clip.images[:, :1, :1, :1]).all()
    return [clip.images[:, 0, 0, 0].tolist() for clip in task.clips]


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_only_pictures_and_the_name_change(name: str) -> None:
    given = task(((1.0, 2.0),))
    before = [clip.images.copy() for clip in given.clips]
    made = perturbed(given, name)
    assert made.perturbation == name and made.no_memory == (name == "no_memory")
    assert (made.sample, made.seed, made.rollout) == (given.sample, given.seed, given.rollout)
    for new, old, pictures in zip(made.clips, given.clips, before, strict=True):
        assert (new.segment, new.times, new.fps) == (old.segment, old.times, old.fps)
        assert new.images.shape == old.images.shape and new.images.dtype == np.uint8
        assert np.array_equal(old.images, pictures) and new.images.flags.writeable  # torch takes no other array
        if name == "no_memory":
            assert new.images is old.images
    assert given.perturbation == "" and not given.no_memory


def test_an_unknown_name_is_named() -> None:
    with pytest.raises(RewardError, match=r"'reversed' is not known; choose from shuffled_frames, no_memory"):
        perturbed(task(), "reversed")


# --- shuffled_frames ----------------------------------------------------------------------------------------------


def test_shuffling_keeps_every_picture_and_crosses_segments() -> None:
    given = task()
    made = levels(perturbed(given, "shuffled_frames"))
    assert [len(part) for part in made] == [2, 3, 1, 2]
    assert sorted(chain(*made)) == [10, 20, 30, 40, 50, 60, 70, 80]
    assert any(set(new) != set(old) for new, old in zip(made, levels(given), strict=True))


def test_the_seed_decides_the_order() -> None:
    def order(*seed: int) -> list[list[int]]:
        return levels(perturbed(task(seed=seed), "shuffled_frames"))

    assert order(3, 1) == order(3, 1)
    assert len({str(order(3, i)) for i in range(20)}) > 15


@pytest.mark.parametrize("seed", range(30))
def test_the_order_always_changes(seed: int) -> None:
    """Of two frames half of all permutations are the identity: 30 seeds would find it. Of five frames of which four
    are equal, a permutation may move frames and still show the same."""
    assert levels(perturbed(task(counts=(1, 1), seed=(seed,)), "shuffled_frames")) == [[20], [10]]
    given = task(counts=(2, 3), seed=(seed,))
    clips = tuple(replace(clip, images=np.where(clip.images == 30, 30, 10).astype(np.uint8)) for clip in given.clips)
    made = levels(perturbed(replace(given, clips=clips), "shuffled_frames"))
    assert sorted(chain(*made)) == [10, 10, 10, 10, 30] and made != [[10, 10], [30, 10, 10]]


def test_equal_frames_and_no_frames_stay() -> None:
    given = task(counts=(2, 2))
    clips = tuple(replace(clip, images=np.full_like(clip.images, 7)) for clip in given.clips)
    assert levels(perturbed(replace(given, clips=clips), "shuffled_frames")) == [[7, 7], [7, 7]]
    assert perturbed(task(counts=()), "shuffled_frames").clips == ()


# --- evidence_removed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [
        # the last frame before the segment
        ([((1.0, 2.0),)], [[10, 20], [20, 20, 20], [60], [70, 80]]),
        # a part of two segments blanks both, each with the same frame
        ([((1.5, 2.5),)], [[10, 20], [20, 20, 20], [20], [70, 80]]),
        # nothing before: the first frame after, past other evidence
        ([((0.2, 0.4), (1.2, 1.3))], [[60, 60], [60, 60, 60], [60], [70, 80]]),
        # the evidence of every query
        ([((2.0, 3.0),), (), ((3.0, 4.0),)], [[10, 20], [30, 40, 50], [50], [50, 50]]),
        # nothing left
        ([((0.0, 4.0),)], [[GREY] * 2, [GREY] * 3, [GREY], [GREY] * 2]),
        # a moment between two segments may show in both; at the end of the video there is one
        ([((2.0, 2.0),)], [[10, 20], [20, 20, 20], [20], [70, 80]]),
        ([((4.0, 4.0),)], [[10, 20], [30, 40, 50], [60], [60, 60]]),
    ],
)
def test_evidence_is_replaced_by_its_neighbour(evidence: list[Spans], expected: list[list[int]]) -> None:
    assert levels(perturbed(task(*evidence), "evidence_removed")) == expected


def test_a_span_that_only_touches_a_segment_does_not_hide_it() -> None:
    assert evidence_segments(task(((1.0, 2.0),)).sample) == {1}


@pytest.mark.parametrize("evidence", [[], [()], [((9.0, 10.0),)]])
def test_a_sample_without_evidence_is_named(evidence: list[Spans]) -> None:
    assert not evidence_segments(task(*evidence).sample)
    with pytest.raises(RewardError, match="sample a: no segment shows evidence"):
        perturbed(task(*evidence), "evidence_removed")
