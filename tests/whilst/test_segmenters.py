"""Segmenters: their boundaries, that no frame is lost, and that causal ones never look ahead."""

import inspect
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pytest

from whilst.segmenters import SEGMENTERS, Clip, clips_of, equal_parts, fixed, query_aligned, shots, token_budget
from whilst.video import Frames, VideoError

Cut = Callable[..., Iterator[Clip]]

# Each segmenter with settings that give several clips of `film`.
SETTINGS: dict[str, dict[str, object]] = {
    "fixed": {"seconds": 3.0},
    "token_budget": {"budget": 100, "tokens_per_frame": 16},
    "query_aligned": {"query_times": [2.2, 2.4, 9.0], "max_seconds": 4.0},
    "shots": {"threshold": 20.0},
    "equal_parts": {"n": 3},
}


def film(seconds: float = 10.0, fps: float = 2.0, start: float = 0.0) -> Frames:
    """Three still shots, which change at 4.0 and at 7.5 s."""
    times = start + np.arange(int(seconds * fps)) / fps
    grey = np.where(times < 4.0, 50, np.where(times < 7.5, 100, 200)).astype(np.uint8)
    return Frames(np.broadcast_to(grey[:, None, None, None], (len(times), 4, 4, 3)).copy(), times)


def stream(frames: Frames) -> Iterator[tuple[float, np.ndarray]]:
    return zip(frames.times.tolist(), frames.images, strict=True)


def spans(clips: Iterator[Clip]) -> list[tuple[float, float]]:
    return [(clip.start, clip.end) for clip in clips]


def test_every_segmenter_is_tested_here() -> None:
    assert SETTINGS.keys() == SEGMENTERS.keys()
    assert [name for name, segmenter in SEGMENTERS.items() if not segmenter.causal] == ["equal_parts"]


def test_fixed() -> None:
    assert spans(fixed(film(), seconds=4.0)) == [(0.0, 4.0), (4.0, 8.0), (8.0, 10.0)]
    assert spans(fixed(film(), seconds=4.0, end=9.8)) == [(0.0, 4.0), (4.0, 8.0), (8.0, 9.8)]
    assert spans(fixed(film(start=3.0), seconds=5.0)) == [(3.0, 8.0), (8.0, 13.0)]
    assert [len(clip.frames) for clip in fixed(film(), seconds=0.75, end=3.0)] == [2, 1, 2, 1]
    with pytest.raises(VideoError, match=r"no frame in \[0.25, 0.5\) s: use longer segments"):
        list(fixed(film(), seconds=0.25))


def test_token_budget() -> None:
    clips = list(token_budget(film(), budget=100, tokens_per_frame=16))
    assert [len(clip.frames) for clip in clips] == [6, 6, 6, 2]
    assert spans(iter(clips)) == [(0.0, 3.0), (3.0, 6.0), (6.0, 9.0), (9.0, 10.0)]
    assert [len(c.frames) for c in token_budget(film(), 112, 16)] == [6, 6, 6, 2]  # 7 would need a fourth patch
    assert [len(c.frames) for c in token_budget(film(), 112, 16, temporal_patch=1)] == [7, 7, 6]
    with pytest.raises(VideoError, match="2 frames need 32"):
        list(token_budget(film(), budget=31, tokens_per_frame=16))


def test_query_aligned() -> None:
    assert spans(query_aligned(film(), [2.0, 9.0], 4.0)) == [(0.0, 2.0), (2.0, 6.0), (6.0, 9.0), (9.0, 10.0)]
    assert spans(query_aligned(film(), [], 6.0)) == [(0.0, 6.0), (6.0, 10.0)]
    # no frame arrives between two queries at 2.2 and 2.4 s, nor after one at 9.7 s
    assert spans(query_aligned(film(), [9.7, 2.4, 2.2], 60.0)) == [(0.0, 2.2), (2.4, 9.7)]
    assert spans(query_aligned(film(start=5.0), [1.0, 7.0], 60.0)) == [(5.0, 7.0), (7.0, 15.0)]


def test_shots() -> None:
    assert spans(shots(film(), threshold=20.0)) == [(0.0, 4.0), (4.0, 7.5), (7.5, 10.0)]
    assert spans(shots(film(), threshold=60.0)) == [(0.0, 7.5), (7.5, 10.0)]
    assert spans(shots(film(), threshold=101.0)) == [(0.0, 10.0)]


def test_equal_parts() -> None:
    assert spans(equal_parts(film(), n=4)) == [(0.0, 2.5), (2.5, 5.0), (5.0, 7.5), (7.5, 10.0)]
    assert spans(equal_parts(film(), n=1, end=9.9)) == [(0.0, 9.9)]
    with pytest.raises(VideoError, match="holds no frame"):
        list(equal_parts(film(), n=40))


@pytest.mark.parametrize("name", SEGMENTERS)
def test_no_frame_is_lost_and_none_lies_outside_its_clip(name: str) -> None:
    frames = film()
    clips = list(SEGMENTERS[name].function(frames, **SETTINGS[name], end=10.0))
    assert len(clips) > 1
    whole = Frames.concat([clip.frames for clip in clips])
    assert (whole.times == frames.times).all() and (whole.images == frames.images).all()
    for clip in clips:
        assert (clip.start <= clip.frames.times).all() and (clip.frames.times < clip.end).all()
    assert all(before.end <= after.start for before, after in pairwise(clips))


@pytest.mark.parametrize("name", SEGMENTERS)
def test_a_stream_is_cut_as_frames_are(name: str) -> None:
    cut, settings = SEGMENTERS[name].function, SETTINGS[name]
    of_frames, of_stream = list(cut(film(), **settings)), list(cut(stream(film()), **settings))
    assert spans(iter(of_frames)) == spans(iter(of_stream))
    for a, b in zip(of_frames, of_stream, strict=True):
        assert (a.frames.images == b.frames.images).all() and (a.frames.times == b.frames.times).all()


@pytest.mark.parametrize("name", [name for name, segmenter in SEGMENTERS.items() if segmenter.causal])
def test_a_causal_segmenter_yields_a_clip_when_the_next_frame_arrives_and_changes_none_later(name: str) -> None:
    cut, settings, frames = SEGMENTERS[name].function, SETTINGS[name], film()
    taken: list[float] = []

    def watched() -> Iterator[tuple[float, np.ndarray]]:
        for time, image in stream(frames):
            taken.append(time)
            yield time, image

    for clip in cut(watched(), **settings, end=10.0):
        assert taken[-1] == frames.times[-1] or taken[-1] <= clip.end + 0.5
        other = Frames(frames.images.copy(), frames.times)
        later = other.times > taken[-1]
        other.images[later] = 255 - other.images[later]
        assert (clip.start, clip.end) in spans(cut(other, **settings, end=10.0))


def test_the_segmenter_that_is_not_causal_would_fail_that_test() -> None:
    first = next(equal_parts(film(), n=2))
    assert first.end != next(equal_parts(film().slice(0.0, 8.0), n=2)).end


def test_true_timestamps_stay_with_the_frames() -> None:
    frames = film()
    frames = Frames(frames.images, frames.times, frames.times - 0.01 * (frames.times > 0))
    for clips in (list(fixed(frames, seconds=3.0)), clips_of(frames, [(0.0, 3.0), (3.0, 6.0)])):
        assert clips[1].frames.pts[0] == pytest.approx(2.99)


def test_clips_of_cuts_by_spans() -> None:
    clips = clips_of(film(), [(0.0, 1.0), (1.5, 1.6), (4.0, 10.0)])
    assert [len(clip.frames) for clip in clips] == [2, 1, 12]
    with pytest.raises(VideoError, match=r"the span \[1.6, 1.9\) s holds no frame \(frames: 0.0 to 9.5 s\): read"):
        clips_of(film(), [(0.0, 1.0), (1.6, 1.9)])
    with pytest.raises(VideoError, match=r"frames: none"):
        clips_of(film().slice(50.0, 60.0), [(0.0, 1.0)])


def test_one_frame_alone_needs_an_end() -> None:
    one = film().slice(0.0, 0.4)
    assert spans(fixed(one, seconds=1.0, end=0.4)) == [(0.0, 0.4)]
    with pytest.raises(VideoError, match="pass end"):
        list(fixed(one, seconds=1.0))


@pytest.mark.parametrize("name", SEGMENTERS)
def test_no_frames_give_no_clips(name: str) -> None:
    assert list(SEGMENTERS[name].function(iter(()), **SETTINGS[name])) == []
    assert list(SEGMENTERS[name].function(film().slice(50.0, 60.0), **SETTINGS[name])) == []


@pytest.mark.parametrize("name", ["fixed", "token_budget", "query_aligned", "shots", "equal_parts"])
def test_settings_must_be_positive(name: str) -> None:
    function = SEGMENTERS[name].function
    numbers = [key for key, value in SETTINGS[name].items() if isinstance(value, int | float)]
    for key in numbers:
        assert key in inspect.signature(function).parameters
        with pytest.raises(VideoError):
            list(function(film(), **{**SETTINGS[name], key: 0}))
