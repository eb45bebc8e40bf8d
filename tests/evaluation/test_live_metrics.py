"""LIVE's metrics: worked examples by hand, and the arrays of a tiny checkpoint against a one-pass forward."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from evaluation.live_metrics import (
    Frame,
    LiveError,
    LiveTurn,
    fluency,
    frame_diff,
    frames_per_second,
    live_figures,
    live_scores,
    live_turns,
    perplexity,
    prefix_right,
    speaks,
    trials,
    turn_spans,
)
from tests.streams import one_pass, rows_of
from whilst.backbones.base import Backbone
from whilst.checkpoint import Checkpoint, Contract
from whilst.clips import SegmentClip
from whilst.render import IGNORE, Renderer
from whilst.render_config import RenderConfig
from whilst.runtime import encode_clips
from whilst.sample import Answer, Event, Query, Sample, Segment, Silence, Thought, Video, validate

QUIET, LOUD = Frame(0.9, True), Frame(0.2, False)


def turn(frames: str, after: str = "", next_frames: int | None = 5, tokens: int = 2) -> LiveTurn:
    """frames and after: "." silent, "!" speaking."""
    kinds = {".": QUIET, "!": LOUD}
    return LiveTurn(
        tuple(kinds[sign] for sign in frames),
        (0.5,) * tokens,
        (True,) * tokens,
        next_frames,
        tuple(kinds[sign] for sign in after),
    )


# ---- Arithmetic, by hand.


def test_perplexity_and_correctness() -> None:
    # losses ln 2 and ln 8: mean (ln 2 + ln 8) / 2 = ln 16 / 2 = ln 4, so the perplexity is 4
    assert perplexity([math.log(2), math.log(8)]) == pytest.approx(4.0)
    assert prefix_right([True, True, False, True]) == 2  # tokens before the first wrong one, not all right ones
    assert prefix_right([True, True]) == 2
    assert prefix_right([False, True]) == 0


@pytest.mark.parametrize(
    ("frames", "after", "next_frames", "expected"),
    [
        ("...!", "", 5, (0, "on_time")),  # fires at i = 3 of 4: 4 - 3 - 1 = 0
        (".!.!", "", 5, (2, "early")),  # fires first at i = 1: 4 - 1 - 1 = 2
        ("!", "", 5, (0, "on_time")),
        ("....", ".!.", 5, (-2, "late")),  # fires at j = 1 of those tried: -(1 + 1)
        ("....", "...", 5, (-3, "never")),  # tried min(5, 4 - 1) = 3, none fires: -3
        ("....", "..", 2, (-2, "never")),  # the next turn has 2 frames: min(2, 3)
        ("....", "", None, (0, "untried")),  # the last turn: published as on time
        (".", "", 5, (0, "untried")),  # a turn of one frame: min(5, 1 - 1) = 0, published as on time
        ("....", "...!", 5, (-3, "never")),  # a fourth frame is not looked at
    ],
)
def test_frame_diff(frames: str, after: str, next_frames: int | None, expected: tuple[int, str]) -> None:
    assert frame_diff(turn(frames, after, next_frames)) == expected


def test_trials_are_limited_to_both_sides_equally() -> None:
    assert [trials(4, 5), trials(4, 2), trials(1, 5), trials(4, None)] == [3, 2, 0, 0]


def test_a_silent_turn_without_measured_frames_is_refused() -> None:
    with pytest.raises(LiveError, match="1 of 3 further frames"):
        frame_diff(turn("....", "."))


def test_threshold_makes_an_unsure_silence_speak() -> None:
    unsure = Frame(0.7, True)  # silence is the likeliest token, with 0.7
    assert [speaks(unsure, 0.0), speaks(unsure, 0.7), speaks(unsure, 0.725)] == [False, False, True]
    assert speaks(Frame(0.9, False), 0.0)
    late = LiveTurn((unsure, unsure, unsure), (0.5,), (True,), 2, (unsure, QUIET))
    assert frame_diff(late, 0.0) == (-2, "never")
    assert frame_diff(late, 0.725) == (2, "early")


def test_fluency() -> None:
    # n_v = 4 frames, n_lm = 6 tokens of which the first 3 are right
    assert fluency(4, 6, 3, 0) == pytest.approx((4 + 3) / 10)
    assert fluency(4, 6, 3, 2) == pytest.approx((4 - 2) / 10)  # early: its tokens do not count
    assert fluency(4, 6, 3, -1) == fluency(4, 6, 3, -3) == pytest.approx((4 - 1) / 10)  # late, however late


def test_scores_of_a_sample_and_means_over_samples() -> None:
    turns = [
        turn("...!"),  # diff 0, fluency (4 + 2) / 6 = 1
        turn("!..!"),  # diff 3, fluency (4 - 3) / 6
        turn("....", ".!.", 5),  # diff -2, fluency (4 - 1) / 6
        turn("..", "", None),  # untried: diff 0, fluency (2 + 2) / 4 = 1
    ]
    scores = live_scores(turns, fps=2.0)
    assert scores.frame_diff == pytest.approx((0 + 3 + 2 + 0) / 4)
    assert scores.time_diff == pytest.approx(1.25 / 2)  # s
    assert scores.fluency == pytest.approx((1 + 1 / 6 + 3 / 6 + 1) / 4)
    assert scores.lm_ppl == pytest.approx(math.exp(0.5))
    assert scores.shares == {"on_time": 0.25, "early": 0.25, "late": 0.25, "never": 0.0, "untried": 0.25}
    other = live_scores([turn("!", next_frames=None)], fps=2.0)
    figures = live_figures([scores, other])
    assert figures["time_diff"].value == pytest.approx((0.625 + 0.0) / 2)  # every sample weighs the same
    assert figures["share_untried"].value == pytest.approx(0.125)
    assert all("teacher_forced" in figure.definition for figure in figures.values())
    assert live_figures([]) == {}


def test_a_silent_model_is_favoured_by_short_turns_and_the_shares_say_so() -> None:
    """Published arithmetic: always silent, turns of one frame -> TimeDiff 0. `untried` shows it."""
    scores = live_scores([turn("."), turn("."), turn(".", next_frames=None)], fps=1.0)
    assert scores.time_diff == 0.0
    assert scores.shares["untried"] == 1.0


@pytest.mark.parametrize("turns", [[], [LiveTurn((), (0.5,), (True,))], [LiveTurn((QUIET,), (), ())]])
def test_nothing_to_measure_is_refused(turns: list[LiveTurn]) -> None:
    with pytest.raises(LiveError, match="nothing to measure"):
        live_scores(turns, 1.0)


# ---- A checkpoint's arrays.

GOLD = {2: "now", 5: "red-circle now", 7: "now"}  # segment: what is said there; silence elsewhere
BASE = 8  # segments


def narrated(gold: dict[int, str] = GOLD, segments: int = BASE) -> Sample:
    """A standing query over segments of a second, with an answer at some and silence at the others."""
    events: list[Event] = [Query("s", 0.0, "tell-when out red-circle ?")]
    for k in range(segments):
        events.append(Segment(float(k), k + 1.0))
        events.append(Answer(k + 1.0, gold[k], "s") if k in gold else Silence(k + 1.0, "s"))
    sample = Sample("n", Video("n.mp4"), tuple(events))
    validate(sample)
    return sample


def noise(sample: Sample, seed: int = 3) -> list[SegmentClip]:
    rng = np.random.default_rng(seed)
    return [
        SegmentClip(s, rng.integers(0, 256, (2, 32, 32, 3)).astype(np.uint8), (s.start, s.start + 0.5), 2.0)
        for s in sample.segments()
    ]


def checkpoint_of(backbone: Backbone, config: RenderConfig, thinks: bool = False) -> Checkpoint:
    return Checkpoint(
        backbone, Renderer(backbone.tokenizer, backbone.spec, config), Contract("tiny", 2.0, thinks, config)
    )


KEPT = RenderConfig(layout="interleaved", queries="kept")
BRANCH = RenderConfig(layout="interleaved", queries="branch")
RECURRENT = RenderConfig(layout="recurrent")


def one_pass_frames(checkpoint: Checkpoint, sample: Sample) -> tuple[list[Frame], list[list[float]], list[list[bool]]]:
    """Frames, losses and hits of every generated turn of a sample by one masked forward over its rendered row."""
    backbone, renderer = checkpoint.backbone, checkpoint.renderer
    views = encode_clips(backbone, [(c.segment, c.images, c.times) for c in noise(sample)], 2.0)
    (row,) = rows_of(renderer, sample, views)
    logits = backbone.logits(one_pass(backbone, renderer, row, views)).detach().double()
    logits[:, list(backbone.banned)] = -torch.inf
    frames, losses, hits = [], [], []
    learned = np.flatnonzero(row.labels != IGNORE)
    for start in [i for i in learned if row.labels[i - 1] == IGNORE]:
        scores = logits[start - 1]
        frames.append(Frame(float(scores.softmax(-1)[renderer.boundary]), int(scores.argmax()) == renderer.boundary))
        losses.append([])
        hits.append([])
        at = start
        while row.labels[at] != IGNORE:
            scores = logits[at - 1].clone()
            if at == start:
                if row.labels[at] == renderer.boundary:
                    break
                scores[renderer.boundary] = -torch.inf
            losses[-1].append(-float(scores.log_softmax(-1)[row.labels[at]]))
            hits[-1].append(int(scores.argmax()) == row.labels[at])
            if row.labels[at] == renderer.boundary:
                break
            at += 1
    return frames, losses, hits


def close(found: tuple[Frame, ...] | list[Frame], expected: list[Frame]) -> bool:
    return [f.likeliest for f in found] == [f.likeliest for f in expected] and np.allclose(
        [f.silence for f in found], [f.silence for f in expected], atol=1e-5
    )


def test_arrays_are_those_of_one_forward(backbone: Backbone) -> None:
    checkpoint = checkpoint_of(backbone, KEPT)
    sample = narrated()
    turns = live_turns(checkpoint, sample, noise(sample), "s")
    frames, losses, hits = one_pass_frames(checkpoint, sample)
    assert [len(one.frames) for one in turns] == [3, 3, 2]  # silences before, and the frame at which it should speak
    assert [one.next_frames for one in turns] == [3, 2, None]
    assert close([frame for one in turns for frame in one.frames], frames)
    spoken = [k for k in range(BASE) if k in GOLD]
    for one, k in zip(turns, spoken, strict=True):
        assert np.allclose(one.losses, losses[k], atol=1e-5)
        assert list(one.right) == hits[k]
        assert len(one.losses) == len(checkpoint.renderer.encode(GOLD[k])) + 1  # and the boundary token


def silenced(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """The boundary token is always the likeliest: a model that never speaks of itself."""
    boundary = Renderer(backbone.tokenizer, backbone.spec, KEPT).boundary
    logits = type(backbone).logits

    def quiet(self: Backbone, hidden: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = logits(self, hidden).clone()
        scores[..., boundary] = scores.amax(-1) + 1.0
        return scores

    monkeypatch.setattr(type(backbone), "logits", quiet)


def test_late_turns_are_played_on_in_silence(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """The further frames of a turn are those of a stream in which it said nothing from there on."""
    silenced(backbone, monkeypatch)
    checkpoint = checkpoint_of(backbone, KEPT)
    sample = narrated()
    turns = live_turns(checkpoint, sample, noise(sample), "s")
    # turn 0 may try min(3 next frames, 3 - 1) = 2, turn 1 min(2, 2) = 2, the last none
    assert [len(one.after) for one in turns] == [2, 2, 0]
    for one, first, gold in ((turns[0], 3, {}), (turns[1], 6, {2: GOLD[2]})):
        quiet = narrated({**gold, 7: "now"})  # silent from the turn's own reply on
        frames, _, _ = one_pass_frames(checkpoint, quiet)
        assert close(one.after, frames[first : first + 2])
    assert [frame_diff(one) for one in turns] == [(-2, "never"), (-2, "never"), (0, "untried")]
    spoken, _, _ = one_pass_frames(checkpoint, sample)
    assert not np.allclose([f.silence for f in turns[0].after], [f.silence for f in spoken[3:5]], atol=1e-6)


@pytest.mark.parametrize("config", [BRANCH, RECURRENT], ids=["branch", "recurrent"])
def test_a_reply_on_a_branch_changes_no_later_frame(
    backbone: Backbone, config: RenderConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where replies leave the stream, the frames after a missed reply are the next turn's own."""
    silenced(backbone, monkeypatch)
    sample = narrated()
    turns = live_turns(checkpoint_of(backbone, config), sample, noise(sample), "s")
    assert close(turns[0].after, list(turns[1].frames[:2]))
    scores = live_scores(turns, frames_per_second(sample))
    assert scores.shares["never"] == pytest.approx(2 / 3)
    assert scores.time_diff == pytest.approx((2 + 2 + 0) / 3)  # 1 frame a second


def test_thoughts_are_measured_too(backbone: Backbone) -> None:
    sample = narrated()
    events: list[Event] = []
    for event in sample.events:
        events.append(event)
        if isinstance(event, Segment):
            events.append(Thought(event.end, "in-1 .") if event.end % 3 == 0 else Silence(event.end))
    thinking = replace(sample, events=tuple(events))
    turns = live_turns(checkpoint_of(backbone, RECURRENT, thinks=True), thinking, noise(sample), None)
    assert [len(one.frames) for one in turns] == [3, 3]  # at 3 s and 6 s; the silences after belong to no turn
    with pytest.raises(LiveError, match="writes no thoughts"):
        live_turns(checkpoint_of(backbone, RECURRENT), thinking, noise(sample), None)


def test_a_sample_of_the_demo_kind(
    sample: Sample, new_clips: Callable[..., list[SegmentClip]], new_checkpoint: Callable[..., Checkpoint]
) -> None:
    """Thoughts are forced too, and replies to other queries leave no trace."""
    turns = live_turns(new_checkpoint(), sample, new_clips(sample), "f0")
    assert [len(one.frames) for one in turns] == [4]
    scores = live_scores(turns, frames_per_second(sample))
    assert scores.lm_ppl > 1 and 0 <= scores.fluency <= 1


def test_spans_and_what_cannot_be_measured() -> None:
    sample = narrated()
    assert [len(span) for span in turn_spans(sample, "s")] == [3, 3, 2]
    with pytest.raises(LiveError, match="no answer to 'x'"):
        turn_spans(sample, "x")
    with pytest.raises(LiveError, match="no thought"):
        turn_spans(sample, None)
    with pytest.raises(LiveError, match="no segments"):
        frames_per_second(replace(sample, events=()))
    assert frames_per_second(sample) == 1.0
