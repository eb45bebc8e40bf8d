"""Repetition within a turn, and between thoughts."""

from typing import Any

import pytest

from rewards.base import RewardError
from rewards.repetition import Repetition, Restated, own_thoughts, repeated_share
from tests.rewards.episodes import alone, ask, episode, sample
from whilst.episode import Episode


def scored(reward: Any, one: Episode) -> float | None:
    given = reward(one, alone(one))
    return None if given is None else given.score


@pytest.mark.parametrize(
    ("ids", "n", "share"),
    [
        ((1, 2, 3, 4), 2, 0.0),
        ((1, 2, 1, 2, 1), 2, 0.5),  # 12 21 12 21: two distinct of four
        ((7,) * 6, 3, 0.75),  # one distinct of four
        ((1, 2), 3, 0.0),
        ((), 1, 0.0),
    ],
)
def test_repeated_share(ids: tuple[int, ...], n: int, share: float) -> None:
    assert repeated_share(ids, n) == share


def test_repetition_is_a_mean_over_all_thoughts() -> None:
    # 0.75, 0 and twice 0 for what is short or silent, over four thoughts
    one = episode(sample(ask("q", "x"), segments=4), ["a a a a a a", "a b c d", "a a"], {"q": "b b b b b b"})
    assert scored(Repetition(), one) == pytest.approx(-0.75 / 4)
    assert scored(Repetition(roles=("answer",)), one) == -0.75
    given = Repetition(roles=("thought", "answer"))(one, alone(one))
    assert given is not None and given.score == pytest.approx(-1.5 / 5) and given.parts == {"worst": 0.75}
    assert scored(Repetition(), episode(sample(segments=0))) is None
    assert scored(Repetition(), Episode(one.sample, ())) == 0.0


def test_longer_runs_cost_more() -> None:
    costs = [scored(Repetition(), episode(sample(segments=1), ["word " * n])) for n in (2, 4, 10, 1000)]
    assert costs == [0.0, -0.5, -1 + 1 / 8, -1 + 1 / 998]


@pytest.mark.parametrize(
    ("thoughts", "restated"),
    [
        (["the cat sits", "the dog runs", "", ""], 0),
        (["the cat sits", "the cat sits", "", ""], 1),
        (["the cat sits", "the cat sits", "the cat sits", "the cat sits"], 3),
        (["the cat sits", "the dog runs", "the cat sits", ""], 1),  # not only the one before
        (["a b c d e f", "a b c d e x", "", ""], 1),  # 4 of 5 pairs: 0.8
        (["a b c d e", "a b c d x", "", ""], 0),  # 3 of 4 pairs
        (["a b", "b a", "", ""], 0),  # order counts
        (["a", "a", "", ""], 1),
        (["a", "a b", "", ""], 0),
        (["a b c", "b c", "", ""], 1),  # a part of it
        (["b c", "a b c", "", ""], 0),  # it and something new: half of the pairs
        (["", "", "", ""], 0),
    ],
)
def test_restated(thoughts: list[str], restated: int) -> None:
    assert scored(Restated(), episode(sample(segments=4), thoughts)) == -restated / 4


def test_what_the_sample_says_twice_may_be_said_twice() -> None:
    shown = sample(segments=3, thoughts=["a b c", "", "a b c"])
    assert own_thoughts(shown) == {0: "a b c", 2: "a b c"}
    assert scored(Restated(), episode(shown, ["a b c", "", "a b c"])) == 0.0
    assert scored(Restated(), episode(shown, ["a b c", "a b c", "a b c"])) == pytest.approx(-1 / 3)
    assert scored(Restated(), episode(sample(segments=0))) is None


@pytest.mark.parametrize("make", [lambda: Repetition(n=0), lambda: Restated(n=0), lambda: Restated(share=0.0)])
def test_wrong_parameters(make: Any) -> None:
    with pytest.raises(RewardError):
        make()
