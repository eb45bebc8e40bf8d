"""Rewards are found by name, with typed parameters; what is unknown is named with what is nearest."""

import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from rewards.accuracy import Accuracy, Exact, Number
from rewards.base import PERTURBATIONS, RewardError
from rewards.judge import Judge
from rewards.length import SoftOverlong
from rewards.mix import RewardMix, RewardTerm
from rewards.registry import REWARDS, VARIANTS, build, collected

PAGE = Path(__file__).parents[2] / "docs" / "REWARDS.md"

NEEDED: dict[str, dict[str, Any]] = {
    "judge": {"base_url": "http://localhost:1/v1", "model": "m"},
    "soft_overlong": {"limit": 8, "cache": 4},
}
"""Parameters of the rewards that have no defaults for all."""


def family(rewards: dict[str, type], variants: dict[str, tuple[str, dict[str, Any]]]) -> Any:
    return SimpleNamespace(REWARDS=rewards, VARIANTS=variants)


@pytest.mark.parametrize("name", [*REWARDS, *VARIANTS])
def test_every_reward_is_built_by_name_and_is_a_frozen_dataclass(name: str) -> None:
    reward = build(name, NEEDED.get(name, {}))
    assert isinstance(reward, REWARDS[VARIANTS.get(name, (name, {}))[0]])
    assert set(reward.perturbations) <= set(PERTURBATIONS)
    assert reward == build(name, NEEDED.get(name, {}))
    assert type(reward).__doc__
    field = next((field.name for field in dataclasses.fields(reward)), "perturbations")  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        setattr(reward, field, None)


def test_rewards_that_the_documents_name_are_there() -> None:
    assert {"accuracy", "judge", "t_grpo", "tiou", "pauc", "grounding", "utility", "repetition"} <= set(REWARDS)


def test_parameters_become_the_fields_types() -> None:
    assert build("accuracy", {"kinds": ["backward", "order"], "absolute": 1}) == Accuracy(
        kinds=("backward", "order"), absolute=1.0
    )
    assert type(build("number", {"absolute": 1}).absolute) is float  # type: ignore[attr-defined]
    assert build("accuracy", {"kinds": None}) == Accuracy()


def test_a_variant_is_its_reward_with_constants_that_can_be_replaced() -> None:
    assert build("vst_accuracy", {}) == Accuracy(answer_in="boxed")
    assert build("vst_accuracy", {"open": "f1"}) == Accuracy(answer_in="boxed", open="f1")
    assert build("dapo_overlong", {"limit": 4096}) == SoftOverlong(limit=4096, cache=4096)


@pytest.mark.parametrize(
    ("name", "parameters", "said"),
    [
        ("acuracy", {}, "no reward is called 'acuracy'; did you mean 'accuracy'?"),
        ("t_grppo", {}, "did you mean 't_grpo'?"),
        ("xyzzy", {}, "known: accuracy, "),
        ("accuracy", {"answers_in": "boxed"}, "accuracy: unknown parameter 'answers_in'; did you mean 'answer_in'?"),
        ("accuracy", {"answer_in": "box"}, "accuracy.answer_in: 'box' is no choice; did you mean 'boxed'?"),
        ("accuracy", {"perturbations": []}, "unknown parameter 'perturbations'"),
        ("accuracy", {"absolute": "1"}, "accuracy.absolute: must be float, not '1'"),
        ("accuracy", {"absolute": True}, "accuracy.absolute: must be float, not True"),
        ("accuracy", {"absolute": float("nan")}, "accuracy.absolute: must be finite, not nan"),
        ("accuracy", {"relative": float("inf")}, "accuracy.relative: must be finite, not inf"),
        ("accuracy", {"kinds": "backward"}, "accuracy.kinds: must be"),
        ("accuracy", {"kinds": ["backward", 3]}, "accuracy.kinds[1]: must be str, not 3"),
        ("accuracy", {"absolute": -1}, "absolute is -1.0"),
        ("rounded", {"digits": 2.0}, "rounded.digits: must be int, not 2.0"),
        ("rounded", {"digits": True}, "rounded.digits: must be int, not True"),
        ("boxed_once", {"n": 1}, "unknown parameter 'n'; known: none"),
        ("soft_overlong", {"limit": 8}, "soft_overlong: missing parameter 'cache'"),
        ("judge", {"base_url": "http://x/v1", "model": "m", "_judged": {}}, "unknown parameter '_judged'"),
        ("vst_accuracy", {"place": 1}, "vst_accuracy: unknown parameter 'place'"),
    ],
)
def test_errors_name_what_is_wrong_and_what_is_near(name: str, parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(RewardError) as error:
        build(name, parameters)
    assert said in str(error.value)


def test_a_name_twice_is_an_error() -> None:
    with pytest.raises(RewardError, match="two rewards are called 'number'"):
        collected([family({"number": Number}, {}), family({"number": Exact}, {})])
    with pytest.raises(RewardError, match="two rewards are called 'number'"):
        collected([family({"number": Number}, {"number": ("number", {})})])
    with pytest.raises(RewardError, match="variant 'half' is of 'nummer', which is no reward; did you mean 'number'?"):
        collected([family({"number": Number}, {"half": ("nummer", {})})])


def test_the_judges_memory_is_its_own() -> None:
    one, other = (build("judge", NEEDED["judge"]) for _ in range(2))
    assert isinstance(one, Judge) and isinstance(other, Judge)
    assert one._judged is not other._judged


# ---- docs/REWARDS.md


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_page_names_every_reward_and_variant() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == sorted(REWARDS)
    for name in VARIANTS:
        assert f"`{name}`" in text, name


def test_the_example_of_the_page_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REWARDS, "hedging", object)  # put back what the example adds
    (example,) = blocks("python")
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(example, str(PAGE), "exec", dont_inherit=True), names)
    assert names["scored"].score == -0.5


def test_the_recipe_of_the_page_is_one() -> None:
    (recipe,) = blocks("yaml")
    mix = RewardMix([RewardTerm(**term) for term in yaml.safe_load(recipe)["rewards"]])
    assert list(mix.rewards) == ["accuracy", "judge", "repetition", "repetition_5", "t_grpo"]
    assert mix.perturbations == ("shuffled_frames",)
