"""GRPO on two processes (gloo): they learn what one process would from the same episodes, and no rank waits for ever.

Bounds are on `drift`: how far the trained weights lie apart, of the way that training went. Sums in another order cost
about 1e-5 of it (AdamW divides small gradients by themselves); a mean of the ranks' means would cost more than 1e-2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rewards.mix import RewardTerm
from tests.train import grpo_runs
from tests.train.grpo_runs import KV, PACKED, ROOT, drift, grpo_recipe, logged, run_apart, sft_folder, weights
from tests.train.zygote import Zygote
from train.difficulty import Difficulty
from train.grpo import run
from train.grpo_recipe import EpisodeData, GRPORecipe, LossSettings
from train.pool import SamplePool
from train.stage import ModelSettings
from whilst.recipe import load_recipe
from whilst.sample import read_samples

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("rewards_of_tests")]
rewards_of_tests = grpo_runs.rewards_of_tests

FROZEN = ModelSettings("", freeze_vision="tower+merger")
LOSS = LossSettings(max_gap=1e-3, max_mean_gap=1e-4)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return grpo_runs.write_samples(tmp_path_factory.mktemp("samples"))


@pytest.fixture(scope="module")
def unreadable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same samples, but the videos that the second of two ranks shows first cannot be read."""
    file = grpo_runs.write_samples(tmp_path_factory.mktemp("unreadable"))
    for i in of_rank_1(file):
        (file.parent / f"{i}.mp4").write_bytes(b"not a video")
    return file


def of_rank_1(samples: Path) -> list[int]:
    """The samples of rank 1 in the first generation of two ranks with two groups each."""
    return SamplePool(read_samples(samples), seed=0).groups(0, 1, 2, 2)


@pytest.fixture(scope="module")
def folders(
    checkpoints: Mapping[str, Path], samples: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("sft")
    return {
        "text": sft_folder(checkpoints["qwen3_vl"], samples, out / "text", PACKED),
        "kv": sft_folder(checkpoints["qwen2_5_vl"], samples, out / "kv", KV),
    }


def on_two_ranks(recipe: GRPORecipe, folder: Path, name: str) -> GRPORecipe:
    """The recipe for each of two ranks: half the groups, so that both make the episodes that one rank would."""
    rollout = replace(recipe.rollout, groups=recipe.rollout.groups // 2)
    return replace(recipe, rollout=rollout, output=str(folder / name))


def ds_config(stage: int) -> str:
    return str(Path(__file__).with_name(f"ds_zero{stage}.json"))


def test_two_ranks_equal_one(forks: Zygote, folders: Any, samples: Path, unreadable: Path, tmp_path: Path) -> None:
    """Unequal numbers of turns a rank, rows permuted over ranks and micro-batches, a rank without any valid row, and
    a resume inside a generation, in one pair of processes."""
    plain = grpo_recipe(folders["text"], samples, tmp_path / "plain")
    split = replace(plain, optim=replace(plain.optim, accumulation=3))
    idle = replace(
        plain, rewards=(RewardTerm("token_sum", parameters={"flat": [f"s{i}" for i in of_rank_1(samples)]}),)
    )
    gone = replace(plain, data=EpisodeData(str(unreadable), max_rejected=2))
    kv = replace(plain, model=replace(FROZEN, path=str(folders["kv"])), loss=replace(LOSS, type="grpo", beta=0.1))
    inside = replace(plain, loss=replace(LOSS, iterations=2), save_steps=3, optim=replace(plain.optim, steps=6))
    cases = {"plain": plain, "split": split, "idle": idle, "gone": gone, "kv": kv, "inside": inside}
    pairs = {name: on_two_ranks(recipe, tmp_path, f"{name}-2") for name, recipe in cases.items()}
    begun = replace(pairs["inside"], optim=replace(inside.optim, steps=3))
    for rank in run_apart(forks, [begun, *pairs.values()], tmp_path, ranks=2):
        assert rank.code == 0, rank.output[-3000:]
    assert len(list(Path(begun.output, "checkpoint-3").glob("rollouts-?-of-2.pt"))) == 2
    for name, recipe in cases.items():
        one = run(replace(recipe, output=str(tmp_path / name)))
        two = pairs[name].output
        assert drift(weights(two), weights(one), recipe.model.path) < 1e-4, name
        for figure in ("reward", "grad_norm"):
            assert logged(two, figure) == pytest.approx(logged(one, figure), rel=1e-4), (name, figure)
    together = weights(tmp_path / "plain")
    assert drift(weights(tmp_path / "split"), together, folders["text"]) < 1e-4
    assert drift(weights(tmp_path / "idle"), together, folders["text"]) > 1e-2, "drift must see what is left out"


def test_zero_equals_one(forks: Zygote, folders: Any, samples: Path, tmp_path: Path) -> None:
    """The tiny recipe under ZeRO-2, and under ZeRO-3 without its easy and hard samples; and ZeRO-3 with log-probs of
    old weights and of a reference, which is sharded too, and with a trained tower."""
    overrides = {"model.path": folders["text"], "data.train": samples, "rollout.groups": 4, "rollout.rollouts": 4}
    tiny = load_recipe(
        ROOT / "recipes/tiny/grpo.yaml",
        GRPORecipe,
        [f"{key}={value}" for key, value in {**overrides, "optim.steps": 3, "log_steps": 1}.items()],
    )
    tiny = replace(tiny, rewards=(RewardTerm("token_sum"),))
    kl = replace(tiny, loss=replace(LOSS, iterations=2, beta=0.1, importance="token_truncate"))
    whole = replace(tiny, model=replace(tiny.model, freeze_vision="none"))
    middle = replace(tiny, data=replace(tiny.data, difficulty=Difficulty(rollouts=2, low=0.3, high=0.7)))
    cases = {"tiny2": (tiny, 2), "middle3": (middle, 3), "kl3": (kl, 3), "whole3": (whole, 3)}
    pairs = []
    for name, (recipe, stage) in cases.items():
        optim = replace(recipe.optim, deepspeed=ds_config(stage))
        pairs.append(on_two_ranks(replace(recipe, optim=optim), tmp_path, f"{name}-2"))
    for rank in run_apart(forks, pairs, tmp_path, ranks=2):
        assert rank.code == 0, rank.output[-3000:]
        assert [line for line in rank.output.splitlines() if line.startswith("ZeRO stage")] == [
            f"ZeRO stage {stage}" for _, stage in cases.values()
        ]
    for name, (recipe, _) in cases.items():
        one = run(replace(recipe, output=str(tmp_path / name)))
        assert drift(weights(tmp_path / f"{name}-2"), weights(one), folders["text"]) < 1e-4, name
    by_one, by_two = ((tmp_path / name / "difficulty.jsonl").read_text() for name in ("middle3", "middle3-2"))
    assert by_one == by_two
    left_out = (tmp_path / "middle3-2" / "too_easy_or_hard.jsonl").read_text().splitlines()
    assert 0 < len(left_out) < len(by_one.splitlines()) - 1


@pytest.mark.parametrize("what", ("reward", "policy", "reward under ZeRO-3"))
def test_what_fails_on_one_rank_stops_both(
    what: str, forks: Zygote, folders: Any, samples: Path, tmp_path: Path
) -> None:
    """Nobody ends rank 0 from outside: it must hear of the failure, and say what it was."""
    recipe = on_two_ranks(grpo_recipe(folders["text"], samples, tmp_path), tmp_path, "run")
    failing = f"s{of_rank_1(samples)[0]}"
    if what != "policy":
        recipe = replace(recipe, rewards=(RewardTerm("token_sum", parameters={"fails_on": [failing]}),))
        said = f"RewardError: reward 'token_sum' failed on sample '{failing}', rollout 1: ZeroDivisionError: a reward"
    else:
        said = "ZeroDivisionError: a policy with a bug"
    if what == "reward under ZeRO-3":
        recipe = replace(recipe, optim=replace(recipe.optim, deepspeed=ds_config(3)))
    zero, one = run_apart(forks, [recipe], tmp_path, ranks=2, fault="policy_on_rank_1" if what == "policy" else "")
    assert zero.code == 1 and one.code == 1
    assert f"GRPOError: rank 1 failed: {said}" in zero.output
    assert said in one.output
    assert not (tmp_path / "run" / "model.safetensors").exists()
