"""Thought utility: answers with text memory less answers without, worked out by hand."""

import pytest

from rewards.base import RewardError, Scene
from rewards.utility import PAST, Utility
from tests.rewards.episodes import ask, episode, sample
from whilst.episode import Episode

# Two queries of the past, one of the present, which needs no memory.
WORLD = sample(ask("q", "red", kind="backward"), ask("r", "blue", kind="order"), ask("now", "star-red", kind="present"))


def rollout(q: str, r: str, now: str = "star-red", perturbation: str = "") -> Episode:
    return episode(WORLD, replies={"q": q, "r": r, "now": now}, perturbation=perturbation)


WITHOUT = (
    rollout("red", "?", perturbation="no_memory"),  # a lucky guess: 1/2
    rollout("?", "?", perturbation="no_memory"),  # 0
)


def score(one: Episode, reward: Utility | None = None) -> float:
    found = (reward or Utility())(one, Scene((one,), {"no_memory": WITHOUT}))
    assert found is not None
    return found.score


def test_worked_out_by_hand() -> None:
    # without memory: (1/2 + 0) / 2 = 1/4
    assert score(rollout("red", "blue")) == pytest.approx(0.75)
    assert score(rollout("red", "?")) == pytest.approx(0.25)
    assert score(rollout("?", "?")) == pytest.approx(-0.25)
    one = rollout("red", "blue")
    found = Utility()(one, Scene((one,), {"no_memory": WITHOUT}))
    assert found is not None and found.parts == {"with_memory": 1.0, "without_memory": 0.25}


def test_what_needs_no_memory_does_not_count() -> None:
    assert score(rollout("red", "blue", "star-red")) == score(rollout("red", "blue", "wrong"))
    # the present alone: right with and without memory
    assert score(rollout("?", "?"), Utility(kinds=("present",))) == 0.0


@pytest.mark.parametrize("text", ["", " ", "A B C D", "red blue", "nan", "inf", "9" * 5000, "blue " * 50, "💥"])
def test_nothing_constant_is_worth_anything(text: str) -> None:
    assert score(rollout(text, text, text)) < 0.0


def test_a_constant_that_happens_to_be_right_is_right_without_memory_too() -> None:
    one = rollout("red", "red", "red")
    scored = Utility()(one, Scene((one,), {"no_memory": (rollout("red", "red", "red", "no_memory"),)}))
    assert scored is not None and scored.score == 0.0


def test_a_sample_without_queries_of_the_past_is_not_scored() -> None:
    one = episode(sample(ask("now", "star-red", kind="present")), replies={"now": "star-red"})
    assert Utility()(one, Scene((one,))) is None
    assert "present" not in PAST and "forward" not in PAST


def test_rollouts_without_memory_must_have_been_made() -> None:
    assert Utility.perturbations == ("no_memory",)
    with pytest.raises(RewardError, match="no rollouts under 'no_memory'"):
        Utility()(rollout("red", "blue"), Scene((rollout("red", "blue"),)))
