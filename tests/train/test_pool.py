"""The pool: epochs, ranks, replacements, curricula, difficulty, and clips in memory."""

from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from tests.streams import frames
from train.pool import (
    ClipStore,
    Curriculum,
    PoolError,
    Ramp,
    SamplePool,
    capped_fps,
)
from whilst.clips import segment_clips
from whilst.sample import Sample, Segment, Video
from whilst.video import VideoError, write_video


def sample(id: str, *ends: float, start: float = 0.0, video: str = "video.mp4") -> Sample:
    """Segments that follow each other from `start` to each of `ends`."""
    begins = (start, *ends[:-1])
    return Sample(id, Video(video), tuple(Segment(a, b) for a, b in zip(begins, ends, strict=True)))


def pool_of(*durations: float, seed: int = 0, **ramps: Ramp) -> SamplePool:
    samples = [sample(f"s{i}", seconds) for i, seconds in enumerate(durations)]
    return SamplePool(samples, seed, Curriculum(**ramps))


def generation(pool: SamplePool, number: int, ranks: int, count: int) -> list[int]:
    return list(chain(*(pool.groups(number, rank, ranks, count) for rank in range(ranks))))


# --- Epochs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("samples", "ranks", "count"), [(12, 2, 3), (7, 2, 2), (5, 1, 3), (4, 4, 1), (10, 3, 3)])
def test_every_sample_once_an_epoch_and_no_sample_twice_a_generation(samples: int, ranks: int, count: int) -> None:
    """After any number of generations, uses differ by one at most; after N generations all are equal."""
    pool, used = pool_of(*[1.0] * samples), Counter(range(samples))
    for number in range(samples):
        chosen = generation(pool, number, ranks, count)
        assert len(chosen) == len(set(chosen)) == ranks * count
        used.update(chosen)
        if (number + 1) * ranks * count % samples == 0:
            assert len(set(used.values())) == 1
        assert max(used.values()) - min(used.values()) <= 1
    assert set(used.values()) == {1 + ranks * count}


def test_epochs_and_seeds_have_their_own_order() -> None:
    pool = pool_of(*[1.0] * 20)
    epochs = [tuple(generation(pool, number, 1, 20)) for number in range(3)]
    assert len(set(epochs)) == 3 and all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert generation(pool_of(*[1.0] * 20, seed=1), 0, 1, 20) != list(epochs[0])


def test_a_generation_follows_from_its_number_alone() -> None:
    """A fresh pool that starts at generation 23, one that went there, and one that is asked backwards agree."""
    ramp = Ramp(4.0, 12.0, 20)
    durations = tuple(float(seconds) for seconds in range(1, 13))
    walked = pool_of(*durations, duration=ramp)
    history = [generation(walked, number, 2, 2) for number in range(24)]
    assert generation(pool_of(*durations, duration=ramp), 23, 2, 2) == history[23]
    back = [generation(walked, number, 2, 2) for number in reversed(range(24))]
    assert back[::-1] == history
    # another number of groups in between leaves no trace
    walked.groups(5, 0, 1, 3)
    assert generation(walked, 23, 2, 2) == history[23]


def test_too_few_samples_are_an_error() -> None:
    with pytest.raises(PoolError, match="generation 0 takes 6 samples over all ranks, but there are 5; use fewer"):
        pool_of(*[1.0] * 5).groups(0, 0, 2, 3)
    with pytest.raises(PoolError, match="no sample to roll out"):
        SamplePool([], 0)
    with pytest.raises(PoolError, match="sample still: no segment"):
        SamplePool([Sample("still", Video("video.mp4"), ())], 0)


# --- Replacements -------------------------------------------------------------------------------------------------


def test_replacements_are_others_and_no_rank_or_round_shares_them() -> None:
    """20 samples, 2 ranks of 3 groups: 14 are left, 7 a rank, enough for two rounds of 3."""
    pool = pool_of(*[1.0] * 20)
    own = set(generation(pool, 4, 2, 3))
    drawn = [pool.reserve(4, rank, 2, round, 3, 3) for rank in range(2) for round in range(2)]
    assert len(set(chain(*drawn))) == 12 and not own & set(chain(*drawn))
    assert pool.reserve(4, 1, 2, 1, 3, 3) == drawn[3] == pool_of(*[1.0] * 20).reserve(4, 1, 2, 1, 3, 3)
    assert pool.reserve(4, 1, 2, 1, 2, 3) == drawn[3][:2]  # ranks may need unequal numbers
    assert pool.reserve(5, 1, 2, 1, 3, 3) != drawn[3]


def test_a_reserve_that_is_used_up_falls_back_on_the_generation() -> None:
    """5 samples, 4 of them rolled out: the one left comes first, then those of the generation, then it begins anew."""
    pool = pool_of(*[1.0] * 5)
    own = set(generation(pool, 0, 1, 4))
    first, second = pool.reserve(0, 0, 1, 0, 4, 4), pool.reserve(0, 0, 1, 1, 4, 4)
    assert {first[0]} == set(range(5)) - own and set(first[1:]) < own and len(set(first)) == 4
    assert second[1] == first[0] and len(set(second)) == 4
    with pytest.raises(PoolError, match="5 replacements were asked for, but the generation has 4 groups"):
        pool.reserve(0, 0, 1, 0, 5, 4)


def test_a_draw_from_the_reserve_changes_no_epoch() -> None:
    quiet, drawn = pool_of(*[1.0] * 9), pool_of(*[1.0] * 9)
    for number in range(6):
        drawn.reserve(number, 0, 1, 0, 2, 2)
        assert quiet.groups(number, 0, 1, 2) == drawn.groups(number, 0, 1, 2)


# --- Curriculum ---------------------------------------------------------------------------------------------------


def test_a_ramp_is_a_line_that_ends() -> None:
    ramp = Ramp(10.0, 30.0, 4)
    assert [ramp.value(g) for g in (0, 1, 2, 4, 99)] == [10.0, 15.0, 20.0, 30.0, 30.0]
    assert Ramp(3.0, 1.0, 2).value(1) == 2.0


def test_vst_frames_go_from_80_to_the_maximum_by_20() -> None:
    """280 - 80 = 10 steps of 20 over 200 updates: one every 20 updates. A maximum between steps is met at the end."""
    ramp = Ramp(80, 280, 200, step=20)
    assert [ramp.value(g) for g in (0, 19, 20, 39, 40, 199, 200)] == [80, 80, 100, 100, 120, 260, 280]
    assert {ramp.value(g) for g in range(201)} == set(range(80, 281, 20))
    assert [Ramp(80, 110, 3, step=20).value(g) for g in range(4)] == [80, 80, 100, 110]
    assert [Ramp(110, 80, 3, step=20).value(g) for g in range(4)] == [110, 110, 90, 80]


@pytest.mark.parametrize(
    ("ramp", "told"),
    [
        ({"start": float("nan"), "end": 1.0, "generations": 1}, "finite number"),
        ({"start": 1.0, "end": float("inf"), "generations": 1}, "finite number"),
        ({"start": 1.0, "end": 2.0, "generations": 0}, "at least 1 generation, not 0"),
        ({"start": 1.0, "end": 2.0, "generations": 1, "step": 0.0}, "step must be a positive number"),
    ],
)
def test_ramps_that_make_no_sense_are_named(ramp: dict[str, float], told: str) -> None:
    with pytest.raises(PoolError, match=told):
        Ramp(**ramp)  # type: ignore[arg-type]


def test_curricula_that_make_no_sense_are_named() -> None:
    with pytest.raises(PoolError, match=r"curriculum.frames must stay at 1 frame or more"):
        Curriculum(frames=Ramp(0.5, 8, 3))
    with pytest.raises(PoolError, match=r"curriculum.duration must stay above 0 s"):
        Curriculum(duration=Ramp(4.0, 0.0, 3))
    assert Curriculum().frames_at(3) is None and Curriculum(frames=Ramp(4, 8, 8)).frames_at(3) == 5


def test_only_short_samples_at_first() -> None:
    """Most seconds: 2, 4, 6, 8, then 8. A sample of 8 s cannot come before generation 3."""
    durations = (2.0, 2.0, 4.0, 6.0, 8.0)
    pool = pool_of(*durations, duration=Ramp(2.0, 8.0, 3))
    for number in range(12):
        longest = (2.0, 4.0, 6.0, 8.0)[min(number, 3)]
        assert all(durations[i] <= longest for i in generation(pool, number, 1, 2))
    # From then on all are used in turn: 20 epochs, of which the first and the last may be cut.
    used = Counter(chain(*(generation(pool, number, 1, 2) for number in range(3, 53))))
    assert set(used) == set(range(5)) and all(19 <= times <= 21 for times in used.values())


def test_a_late_sample_does_not_catch_up_on_epochs_it_missed() -> None:
    """Two short samples, one a generation, 10 epochs; the third joins at generation 20 and comes once an epoch too."""
    pool = pool_of(1.0, 1.0, 5.0, duration=Ramp(1.0, 5.0, 20))
    used = Counter(chain(*(generation(pool, number, 1, 1) for number in range(20, 50))))
    assert used == {0: 10, 1: 10, 2: 10}


def test_duration_is_that_of_the_segments() -> None:
    late = sample("late", 52.0, start=50.0)
    pool = SamplePool([late, sample("long", 9.0)], 0, Curriculum(duration=Ramp(2.0, 2.0, 1)))
    assert pool.groups(0, 0, 1, 1) == [0]


def test_a_curriculum_that_lets_nothing_in_names_the_shortest() -> None:
    pool = pool_of(8.0, 5.0, 9.0, duration=Ramp(2.0, 8.0, 10))
    with pytest.raises(PoolError, match="at most 2 s in generation 0, but the shortest sample, s1, lasts 5 s"):
        pool.groups(0, 0, 1, 1)
    pool = pool_of(8.0, 5.0, 9.0, duration=Ramp(5.0, 8.0, 10))
    assert pool.groups(9, 0, 1, 1) == [1]
    with pytest.raises(PoolError, match="takes 2 samples over all ranks, but there are 1 of at most 5 s"):
        pool.groups(0, 0, 1, 2)


# --- Frames -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ends", "cap", "fps", "expected"),
    [
        ((2.0, 4.0, 6.0, 8.0), None, 4.0, [8, 8, 8, 8]),
        ((2.0, 4.0, 6.0, 8.0), 99, 4.0, [8, 8, 8, 8]),  # 32 frames are fewer than 99: as the recipe says
        ((2.0, 4.0, 6.0, 8.0), 16, 2.0, [4, 4, 4, 4]),  # 16 frames in 8 s: 2 fps
        ((2.0, 4.0, 6.0, 8.0), 8, 1.0, [2, 2, 2, 2]),
        ((2.0, 4.0, 6.0, 8.0), 2, 0.5, [1, 1, 1, 1]),  # four segments keep a frame each, though only 2 are asked for
        ((1.0, 5.0, 8.0), 2, 1.0, [1, 4, 3]),  # the shortest segment lasts 1 s
    ],
)
def test_frames_are_thinned_over_the_whole_video(
    tmp_path: Path, ends: tuple[float, ...], cap: int | None, fps: float, expected: list[int]
) -> None:
    write_video(tmp_path / "v.mp4", frames(np.random.default_rng(0), 32), 4.0)
    one = sample("a", *ends, video=str(tmp_path / "v.mp4"))
    rate = capped_fps(one, 4.0, cap)
    assert rate == fps
    clips = ClipStore(4.0, 0.0).get(one, rate)
    assert [len(clip.images) for clip in clips] == expected and clips[0].fps == rate


def test_no_segment_loses_its_last_frame() -> None:
    """Random cuts: at the capped rate every segment holds a tick, at a rate 1% below the shortest some do not."""
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(300):
        ends = np.cumsum(rng.uniform(0.2, 3.0, 6))
        one = sample("a", *ends.tolist())
        rate = capped_fps(one, 50.0, 3)
        for thinned, allowed in ((rate, False), (0.6 * rate, True)):
            ticks = np.arange(0.0, ends[-1], 1.0 / thinned)
            empty = sum(not ((s.start <= ticks + 1e-6) & (ticks < s.end - 1e-6)).any() for s in one.segments())
            assert allowed or not empty
            missed += empty
    assert missed > 50


# --- Clips --------------------------------------------------------------------------------------------------------

SIZE = 8 * 32 * 48 * 3  # bytes of 8 frames


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """0.mp4, 1.mp4, 2.mp4: 4 s of 2 fps each, random and different."""
    for seed in range(3):
        write_video(tmp_path / f"{seed}.mp4", frames(np.random.default_rng(seed), 8), 2.0)
    return tmp_path


def of(videos: Path, number: int, id: str = "a") -> Sample:
    return sample(id, 1.0, 2.5, 4.0, video=str(videos / f"{number}.mp4"))


def test_clips_are_decoded_once_while_they_fit(videos: Path) -> None:
    store = ClipStore(2.0, 2.5 * SIZE / 1e6)
    first = store.get(of(videos, 0))
    for clip, expected in zip(first, segment_clips(of(videos, 0), 2.0), strict=True):
        assert np.array_equal(clip.images, expected.images) and clip.times == expected.times
    assert store.get(of(videos, 0, "another id")) is first  # the same video, cut in the same way
    assert store.used == SIZE
    store.get(of(videos, 1))
    store.get(of(videos, 0))  # used again: 1 is now the oldest
    store.get(of(videos, 2))
    assert store.used == 2 * SIZE and store.get(of(videos, 0)) is first
    (videos / "1.mp4").unlink()
    with pytest.raises(VideoError, match="1.mp4"):  # it had to go, and is decoded anew
        store.get(of(videos, 1))
    assert store.used == 2 * SIZE


def test_rates_and_cuts_are_told_apart(videos: Path) -> None:
    store = ClipStore(2.0, 1.0)
    assert [len(clip.images) for clip in store.get(of(videos, 0))] == [2, 3, 3]
    assert [len(clip.images) for clip in store.get(of(videos, 0), 1.0)] == [1, 2, 1]
    whole = sample("a", 4.0, video=str(videos / "0.mp4"))
    assert [len(clip.images) for clip in store.get(whole)] == [8]


def test_frames_in_gaps_count_too(videos: Path) -> None:
    """Segments of 1 s at both ends: 4 frames are shown, 8 are decoded and held."""
    ends = Sample("a", Video(str(videos / "0.mp4")), (Segment(0.0, 1.0), Segment(3.0, 4.0)))
    store = ClipStore(2.0, 1.0)
    assert sum(len(clip.images) for clip in store.get(ends)) == 4 and store.used == SIZE


def test_what_does_not_fit_is_not_kept(videos: Path) -> None:
    store = ClipStore(2.0, 1.5 * SIZE / 1e6)
    small = store.get(of(videos, 0))
    fine = sample("fine", 4.0, video=str(videos / "1.mp4"))
    assert len(store.get(fine, 8.0)[0].images) == 32  # four times the size: the small one stays
    assert store.used == SIZE and store.get(of(videos, 0)) is small
    nothing = ClipStore(2.0, 0.0)
    assert nothing.get(of(videos, 0)) is not nothing.get(of(videos, 0)) and nothing.used == 0
    with pytest.raises(PoolError, match="keep_megabytes must be a finite number >= 0, not -1"):
        ClipStore(2.0, -1.0)
