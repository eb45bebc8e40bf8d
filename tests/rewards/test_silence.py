"""Silence at polls and after segments: figures worked out by hand, and the two lazy policies, mute and talkative."""

from collections.abc import Sequence

import pytest

from rewards.base import Reward, RewardError, Scored
from rewards.silence import FalseAlarms, PollSilence, ThoughtSilence, Told, told
from tests.rewards.episodes import alone, ask, episode, right, sample
from whilst.sample import Sample

# Asked at 1 s, polled to 6 s; three polls outside the windows (1, 2, 6), two things to say, from 3 s and from 4 s.
POLLED = sample(
    ask(
        "q",
        *[(1.0, ""), (2.0, ""), (3.0, "a cat"), (4.0, "a dog"), (5.0, ""), (6.0, "")],
        time=1.0,
        kind="forward",
        window=(3.0, 5.0),
    ),
    segments=6,
)
# Of six segments two are idle by the sample's own thoughts, and one by its silence.
THINKING = sample(
    segments=6,
    thoughts=["in-1 red .", "none .", "", "out-1 red .", "in-2 blue .", "none ."],
    meta={"thought_edges": [["e0"], [], ["e1"], ["e2"], []]},
)


def polled(said: Sequence[tuple[float, str]] | str) -> Scored | None:
    one = episode(POLLED, replies={"q": said})
    return PollSilence()(one, alone(one))


def thinking(reward: Reward, thoughts: Sequence[str], of: Sample = THINKING) -> float:
    one = episode(of, thoughts)
    scored = reward(one, alone(one))
    assert scored is not None
    return scored.score


# speaking: of two answers; silence: of three polls
@pytest.mark.parametrize(
    ("said", "spoke", "silent"),
    [
        ([(3.0, "x"), (4.0, "y")], 1.0, 1.0),
        ([(3.0, "x"), (5.0, "y")], 1.0, 1.0),  # the second is valid until 5 s
        ([(4.0, "x"), (5.0, "y")], 0.5, 1.0),
        ([(1.0, "x"), (3.0, "x"), (6.0, "x")], 0.5, 1 / 3),
        ([], 0.0, 1.0),
        ("x", 1.0, 0.0),
        (" \n", 0.0, 1.0),
    ],
)
def test_decisions_at_polls(said: list[tuple[float, str]] | str, spoke: float, silent: float) -> None:
    scored = polled(said)
    assert scored is not None
    assert scored.score == pytest.approx(spoke + silent - 1)
    assert scored.parts == pytest.approx({"spoke": spoke, "silent": silent})


@pytest.mark.parametrize("text", ["", "x", "A B C D", "nan", "9" * 5000, "💥 " * 100])
def test_always_and_never_are_worth_nothing(text: str) -> None:
    scored = polled(text)
    assert scored is not None and scored.score == 0.0
    assert thinking(ThoughtSilence(), [text] * 6) == 0.0
    assert thinking(FalseAlarms(), [text] * 6) == (-1.0 if text else 0.0)


def test_a_sample_without_both_kinds_of_polls_is_not_scored() -> None:
    inside = sample(ask("q", (4.0, "now"), kind="forward", window=(4.0, 4.0)))
    plain = sample(ask("q", "red"))
    for of in (inside, plain):
        assert PollSilence()(right(of), alone(right(of))) is None


def test_polls_of_all_queries_count_alike() -> None:
    # one thing to say and one poll outside each; q is met, r is talked to all the time: 2/2 + 1/2 - 1
    asks = [ask(name, (2.0, ""), (3.0, "now"), time=2.0, kind="forward", window=(3.0, 3.0)) for name in "qr"]
    of = sample(*asks)
    one = episode(of, replies={"q": [(3.0, "now")], "r": "now"})
    scored = PollSilence()(one, alone(one))
    assert scored is not None and scored.score == 0.5


def test_what_the_samples_thoughts_say() -> None:
    assert told(THINKING) == [
        Told("in-1 red .", ("e0",)),
        Told("none .", ()),
        Told("", ()),
        Told("out-1 red .", ("e1",)),
        Told("in-2 blue .", ("e2",)),
        Told("none .", ()),
    ]
    unknown = told(THINKING, "unknown")
    assert unknown is not None and unknown[2] is None and unknown[1] == Told("none .", ())


# Something happens in segments 0, 3, 4; 1, 2, 5 are idle.
@pytest.mark.parametrize(
    ("thoughts", "balanced", "alarms"),
    [
        (["in-1 red .", "none .", "", "out-1 red .", "in-2 blue .", "none ."], 1.0, 0.0),
        (["x", "", "None.", "y", "z", ""], 1.0, 0.0),  # another word for nothing that the sample has too
        (["x", "y", "", "", "z", ""], 2 / 3 + 2 / 3 - 1, -1 / 3),
        (["none ."] * 6, 0.0, 0.0),
        (["", "x", "x", "", "", "x"], -1.0, -1.0),
    ],
)
def test_thoughts_where_something_happens(thoughts: list[str], balanced: float, alarms: float) -> None:
    assert thinking(ThoughtSilence(), thoughts) == pytest.approx(balanced)
    assert thinking(FalseAlarms(), thoughts) == pytest.approx(alarms)


def test_a_lazy_silence_is_not_judged_where_it_is_unknown() -> None:
    alarm = ["x", "none .", "y", "y", "z", "none ."]
    assert thinking(FalseAlarms(), alarm) == pytest.approx(-1 / 3)
    assert thinking(FalseAlarms("unknown"), alarm) == 0.0
    assert thinking(ThoughtSilence("unknown"), alarm) == 1.0


def test_what_a_lazy_annotator_left_untold_is_no_false_alarm() -> None:
    """As the world writes it: silence after idle segments and after half of what happens; shown_edges tells which."""
    meta = {"thought_edges": [["e0"]], "shown_edges": [["e0"], [], ["e1"], []]}
    of = sample(thoughts=["in-1 red .", "", "", ""], meta=meta)
    assert told(of) == [Told("in-1 red .", ("e0",)), Told("", ()), Told("", ("e1",)), Told("", ())]
    # 0 and 2 are told, 1 and 3 idle
    assert thinking(ThoughtSilence(), ["x", "", "y", ""], of) == 1.0
    assert thinking(FalseAlarms(), ["x", "", "y", ""], of) == 0.0
    assert thinking(ThoughtSilence(), ["x", "", "", "y"], of) == 0.0
    assert thinking(FalseAlarms(), ["x", "", "", "y"], of) == -0.5
    # the same without any thought of its own: what happens is still known
    assert thinking(ThoughtSilence(), ["x", "", "y", ""], of.without_thoughts()) == 1.0


def test_a_sample_that_does_not_tell_is_not_scored() -> None:
    silent = sample(meta={"thought_edges": []})
    bare = sample(thoughts=["a", "b"])
    busy = sample(thoughts=["a"], segments=1, meta={"thought_edges": [["e"]]})
    for of in (silent, bare, THINKING.without_thoughts()):
        assert ThoughtSilence()(episode(of), alone(episode(of))) is None
        assert FalseAlarms()(episode(of), alone(episode(of))) is None
    assert ThoughtSilence()(episode(busy), alone(episode(busy))) is None
    assert FalseAlarms()(episode(busy), alone(episode(busy))) is None


def test_a_record_that_does_not_fit_is_an_error() -> None:
    of = sample(thoughts=["a", "b"], meta={"thought_edges": [["e"]]})
    with pytest.raises(RewardError, match=r"sample 'a': meta.thought_edges has 1 lists for 2 thoughts"):
        FalseAlarms()(episode(of), alone(episode(of)))
    of = sample(meta={"shown_edges": [["e"]]})
    with pytest.raises(RewardError, match=r"meta.shown_edges has 1 lists for 4 segments"):
        FalseAlarms()(episode(of), alone(episode(of)))
