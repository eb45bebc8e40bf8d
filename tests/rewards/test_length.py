"""Costs of length, and bonuses that hang on accuracy. A word is a token, and the boundary token one more."""

from dataclasses import replace
from typing import Any

import pytest

from rewards.base import RewardError, Scene
from rewards.length import Brevity, LengthBonus, SoftOverlong, Unfinished, mean_tokens
from rewards.registry import build
from tests.rewards.episodes import alone, ask, episode, sample
from whilst.episode import Episode

SHOWN = sample(ask("q", "red", time=2.0), segments=2)


def words(n: int) -> str:
    return " ".join(f"w{i}" for i in range(n))


def scored(reward: Any, one: Episode, scene: Scene | None = None) -> float | None:
    given = reward(one, scene or alone(one))
    return None if given is None else given.score


@pytest.mark.parametrize(
    ("tokens", "score"),
    # limit 10, cache 4: free up to 6, then a quarter a token
    [(0, 0.0), (6, 0.0), (7, -0.25), (9, -0.75), (10, -1.0), (11, -1.0), (1000, -1.0)],
)
def test_soft_overlong(tokens: int, score: float) -> None:
    turns = tuple(replace(turn, ids=(0,) * tokens, finished=False) for turn in episode(SHOWN).turns)
    assert scored(SoftOverlong(limit=10, cache=4), Episode(SHOWN, turns)) == score


def test_soft_overlong_is_a_mean_over_turns_of_its_roles() -> None:
    one = episode(SHOWN, [words(8), words(2)], {"q": words(5)})  # 9 and 3 tokens of thought, 6 of the reply
    assert scored(SoftOverlong(limit=10, cache=4), one) == pytest.approx(-0.75 / 3)
    assert scored(SoftOverlong(limit=10, cache=4, roles=("thought",)), one) == pytest.approx(-0.75 / 2)
    assert scored(SoftOverlong(limit=10, cache=4, roles=("answer",)), one) == 0.0
    assert scored(SoftOverlong(limit=10, cache=4, roles=("answer",)), episode(sample())) is None
    assert scored(SoftOverlong(limit=10, cache=4, roles=("thought",)), episode(sample(segments=0))) is None
    # no turn where the sample has a place for one: nothing was too long
    assert scored(SoftOverlong(limit=10, cache=4), Episode(SHOWN, ())) == 0.0


def test_unfinished() -> None:
    one = episode(SHOWN, [words(2), words(2)], {"q": "red"})
    assert scored(Unfinished(), one) == 0.0
    cut = replace(one, turns=(replace(one.turns[0], finished=False), *one.turns[1:]))
    assert scored(Unfinished(), cut) == pytest.approx(-1 / 3)
    assert scored(Unfinished(roles=("thought",)), cut) == -0.5
    assert scored(Unfinished(roles=("answer",)), cut) == 0.0


def test_length_bonus_of_video_r1() -> None:
    shown = sample(ask("q", "red", options=("red", "blue")))

    def rollout(answer: str, tokens: int, number: int) -> Episode:
        # two words of tags around the thought, the answer, and the boundary token
        text = f"<think> {words(tokens - 4)} </think> <answer>{answer}</answer>"
        return episode(shown, replies={"q": text}, rollout=number)

    group = (
        rollout("A", 320, 0),
        rollout("A", 512, 1),
        rollout("A", 319, 2),
        rollout("A", 513, 3),
        rollout("B", 400, 4),
    )
    assert [mean_tokens(one, ("answer",)) for one in group] == [320, 512, 319, 513, 400]
    reward = build("video_r1_length", {})
    assert [scored(reward, one, Scene(group)) for one in group] == [0.2, 0.2, 0.0, 0.0, 0.0]
    # a single right one gets nothing
    alone_right = (group[0], group[4])
    assert [scored(reward, one, Scene(alone_right)) for one in alone_right] == [0.0, 0.0]
    given = reward(group[0], Scene(group))
    assert given is not None and given.parts == {"tokens": 320.0, "right_in_group": 4.0}


@pytest.mark.parametrize(("kind", "gold", "said"), [("ocr", "exit to hall", "exit to hell"), ("regression", "10", "8")])
def test_length_bonus_of_video_r1_is_for_what_it_rewards_as_accuracy(kind: str, gold: str, said: str) -> None:
    shown = sample(ask("q", gold, kind=kind))

    def rollout(answer: str) -> Episode:
        return episode(shown, replies={"q": f"<think> {words(400)} </think> <answer>{answer}</answer>"})

    group = (rollout(said), rollout(gold), rollout("nothing"))
    assert [scored(build("video_r1_length", {}), one, Scene(group)) for one in group] == [0.2, 0.2, 0.0]


def test_brevity_is_accuracy_times_what_is_left() -> None:
    one = episode(SHOWN, [words(3), ""], {"q": "red"})  # 4, 1 and 2 tokens: 7/3 a turn
    assert scored(Brevity(most=14), one) == pytest.approx(1 - 7 / 3 / 14)
    assert scored(Brevity(most=14, roles=("answer",)), one) == pytest.approx(1 - 2 / 14)
    assert scored(Brevity(most=2), one) == 0.0
    assert scored(Brevity(most=14), episode(SHOWN, replies={"q": "blue"})) == 0.0
    assert scored(Brevity(most=14), episode(SHOWN)) == 0.0  # the shortest of all says nothing
    assert scored(Brevity(kinds=("order",)), one) is None
    assert scored(LengthBonus(kinds=("order",)), one) is None


@pytest.mark.parametrize(
    "make",
    [lambda: SoftOverlong(10, 0), lambda: SoftOverlong(10, 11), lambda: Brevity(most=0), lambda: Brevity(relative=1)],
)
def test_wrong_parameters(make: Any) -> None:
    with pytest.raises(RewardError):
        make()
