"""Terms add up with their weights, and a reward that fails stops the lot."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from rewards import registry
from rewards.base import RewardError, Scene, Scored
from rewards.mix import Mixed, RewardMix, RewardTerm
from tests.rewards.episodes import alone, ask, episode, sample
from whilst.episode import Episode
from whilst.recipe import Recipe, RecipeError, load_recipe


@dataclass(frozen=True)
class Fixed:
    """`value` for all; None where it is negative; an exception where it is 13."""

    perturbations: ClassVar[tuple[str, ...]] = ("no_memory",)

    value: float = 1.0

    def __call__(self, episode: Episode, scene: Scene) -> Scored | None:
        if self.value == 13:
            raise ZeroDivisionError("thirteen")
        return None if self.value < 0 else Scored(self.value)


@dataclass(frozen=True)
class Shuffled(Fixed):
    perturbations: ClassVar[tuple[str, ...]] = ("shuffled_frames", "no_memory")

    def __call__(self, episode: Episode, scene: Scene) -> Scored | None:
        scene.under("shuffled_frames")
        return Scored(self.value)


@dataclass(frozen=True, kw_only=True)
class Rewarded(Recipe):
    rewards: tuple[RewardTerm, ...]


@pytest.fixture(autouse=True)
def further_rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.REWARDS, "fixed", Fixed)
    monkeypatch.setitem(registry.REWARDS, "shuffled", Shuffled)


ONE = episode(sample(ask("q", "red", kind="backward"), id="s7"), replies={"q": "red"}, rollout=3)


def mixed(*terms: RewardTerm) -> Mixed:
    return RewardMix(terms).score(ONE, alone(ONE))


def test_the_total_is_the_weighted_sum_of_what_applies() -> None:
    given = mixed(
        RewardTerm("fixed", 0.5, {"value": 4.0}),
        RewardTerm("fixed", -2.0, {"value": 0.25}, label="cost"),
        RewardTerm("fixed", 100.0, {"value": -1.0}, label="not here"),
        RewardTerm("accuracy", 3.0),
        RewardTerm("accuracy", 0.0, label="reported"),
    )
    assert given.total == 0.5 * 4.0 - 2.0 * 0.25 + 3.0 * 1.0
    assert list(given.terms) == ["fixed", "cost", "not here", "accuracy", "reported"]
    assert given.terms["not here"] is None
    accuracy = given.terms["accuracy"]
    assert accuracy is not None and accuracy.parts["accuracy/backward"] == 1.0


def test_nothing_applies() -> None:
    assert mixed(RewardTerm("fixed", 1.0, {"value": -1.0})) == Mixed(0.0, {"fixed": None})


def test_the_perturbations_are_those_of_all_terms_once() -> None:
    assert RewardMix([RewardTerm("accuracy")]).perturbations == ()
    mix = RewardMix([RewardTerm("fixed"), RewardTerm("shuffled"), RewardTerm("accuracy")])
    assert mix.perturbations == ("no_memory", "shuffled_frames")


def test_a_reward_that_raises_is_named_with_sample_and_rollout() -> None:
    with pytest.raises(
        RewardError, match="reward 'bad' failed on sample 's7', rollout 3: ZeroDivisionError: thirteen"
    ) as e:
        mixed(RewardTerm("accuracy"), RewardTerm("fixed", 0.0, {"value": 13.0}, label="bad"))
    assert isinstance(e.value.__cause__, ZeroDivisionError)
    with pytest.raises(RewardError, match="reward 'shuffled' failed .* no rollouts under 'shuffled_frames'"):
        mixed(RewardTerm("shuffled"))


def test_two_terms_of_one_reward_need_labels() -> None:
    with pytest.raises(RewardError, match="two terms are called 'fixed'"):
        RewardMix([RewardTerm("fixed"), RewardTerm("fixed", 2.0)])
    with pytest.raises(RewardError, match="two terms are called 'accuracy'"):
        RewardMix([RewardTerm("fixed", label="accuracy"), RewardTerm("accuracy")])
    with pytest.raises(RewardError, match="no rewards"):
        RewardMix([])


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_weights_are_finite(weight: float) -> None:
    with pytest.raises(RewardError, match="weight"):
        RewardTerm("fixed", weight)


def test_a_total_that_overflows_is_an_error() -> None:
    with pytest.raises(RewardError, match="add up to inf"):
        mixed(RewardTerm("fixed", 1e308, {"value": 100.0}))
    with pytest.raises(RewardError, match="add up to nan"):
        mixed(RewardTerm("fixed", 1e308, {"value": 100.0}), RewardTerm("fixed", -1e308, {"value": 100.0}, label="b"))


def test_a_recipe_gives_the_terms(tmp_path: Path) -> None:
    path = tmp_path / "grpo.yaml"
    path.write_text(
        "name: n\nstage: s\nrewards:\n"
        "  - {name: accuracy, parameters: {answer_in: boxed}}\n"
        "  - {name: repetition, label: pairs, weight: 0.2, parameters: {n: 2}}\n"
    )
    terms = load_recipe(path, Rewarded).rewards
    assert terms[1] == RewardTerm("repetition", 0.2, {"n": 2}, "pairs")
    assert list(RewardMix(terms).rewards) == ["accuracy", "pairs"]


def test_a_recipe_is_refused_where_the_wrong_term_stands(tmp_path: Path) -> None:
    path = tmp_path / "grpo.yaml"
    path.write_text("name: n\nstage: s\nrewards:\n  - {name: accuracy}\n  - {name: repetition, parameters: {m: 2}}\n")
    with pytest.raises(RecipeError, match=r"grpo.yaml:5: rewards\[1\]: repetition: unknown parameter 'm'"):
        load_recipe(path, Rewarded)
