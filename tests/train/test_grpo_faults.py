"""GRPO when something goes wrong: it is counted, or training stops and says what and where. Nothing is passed over."""

from __future__ import annotations

import json
import math
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from rewards.base import RewardError
from rewards.mix import RewardTerm
from tests.train import grpo_runs
from tests.train.grpo_runs import PACKED, grpo_recipe, logged, sft_folder, weights
from train.grpo import build_trainer, run
from train.grpo_recipe import GRPOError, GRPORecipe
from train.grpo_trainer import EpisodeGRPOTrainer, RolloutGapError
from train.policies import Limits, Task
from train.rollouts import Generation
from train.rows import DataError
from whilst.backbones.base import VISION_TOKENS
from whilst.episode import Episode

pytestmark = pytest.mark.usefixtures("rewards_of_tests")
rewards_of_tests = grpo_runs.rewards_of_tests


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return grpo_runs.write_samples(tmp_path_factory.mktemp("samples"))


@pytest.fixture(scope="module")
def folder(checkpoints: Mapping[str, Path], samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sft_folder(checkpoints["qwen3_vl"], samples, tmp_path_factory.mktemp("sft"), PACKED)


@pytest.fixture
def recipe(folder: Path, samples: Path, tmp_path: Path) -> GRPORecipe:
    return grpo_recipe(folder, samples, tmp_path / "run")


def watched(trainer: EpisodeGRPOTrainer) -> list[Generation]:
    """The generations of a trainer, as it makes them."""
    made: list[Generation] = []
    generation = trainer.rollouts.generation
    trainer.rollouts.generation = lambda *where: made.append(generation(*where)) or made[-1]  # type: ignore
    return made


class After(TrainerCallback):
    """Does something once, after a step."""

    def __init__(self, step: int, act: Callable[[Any], None]) -> None:
        self.step, self.act = step, act

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.act(model)


def dumped(recipe: GRPORecipe, name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(Path(recipe.output, f"rank0-{name}.json").read_text())
    return record


# --- rewards ----------------------------------------------------------------------------------------------------------


def test_a_reward_that_raises_stops_training(recipe: GRPORecipe) -> None:
    broken = (RewardTerm("token_sum", parameters={"fails_on": [f"s{i}" for i in range(8)]}),)
    with pytest.raises(RewardError, match=r"reward 'token_sum' failed on sample 's\d', rollout 1: ZeroDivisionError"):
        run(replace(recipe, rewards=broken))
    assert not Path(recipe.output, "model.safetensors").exists()


@contextmanager
def silent_server() -> Iterator[str]:
    """Takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1"


@pytest.mark.parametrize("threads", (1, 4))
def test_a_judge_that_never_answers_stops_training(recipe: GRPORecipe, threads: int) -> None:
    with silent_server() as url:
        waiting = {"base_url": url, "model": "any", "timeout_seconds": 0.2, "attempts": 2, "backoff_seconds": 0.0}
        judged = replace(recipe, rewards=(RewardTerm("judge", parameters=waiting),))
        judged = replace(judged, rollout=replace(recipe.rollout, reward_threads=threads))
        with pytest.raises(RewardError, match=r"reward 'judge' failed on sample 's\d', rollout \d: .*no whole"):
            run(judged)


# --- videos -----------------------------------------------------------------------------------------------------------


def losing(recipe: GRPORecipe, samples: Path, tmp_path: Path, lost: str, **data: Any) -> EpisodeGRPOTrainer:
    """A trainer whose samples lose a video after the first step; frames are decoded anew for each generation."""
    shutil.copytree(samples.parent, tmp_path / "own")
    settings = replace(recipe.data, train=str(tmp_path / "own" / samples.name), **data)
    rollout = replace(recipe.rollout, keep_megabytes=0.0, resample_rounds=1)
    trainer = build_trainer(replace(recipe, data=settings, rollout=rollout))
    video = tmp_path / "own" / f"{lost.removeprefix('s')}.mp4"
    trainer.add_callback(After(1, lambda model: video.unlink()))
    return trainer


def second_generation(recipe: GRPORecipe) -> list[str]:
    trainer = build_trainer(recipe)
    return [trainer.rollouts.samples[i].id for i in trainer.rollouts.pool.groups(1, 0, 1, recipe.rollout.groups)]


def test_a_video_lost_in_mid_run_is_counted_and_its_group_replaced(
    recipe: GRPORecipe, samples: Path, tmp_path: Path
) -> None:
    lost = second_generation(recipe)[0]
    trainer = losing(recipe, samples, tmp_path, lost, max_rejected=1)
    made = watched(trainer)
    trainer.train()
    (rejected,) = [json.loads(line) for line in Path(recipe.output, "rejected.jsonl").read_text().splitlines()]
    assert rejected["sample"] == lost and f"{lost.removeprefix('s')}.mp4" in rejected["reason"]
    assert [len(generation.groups) for generation in made] == [4, 4, 4]
    assert made[0].counts["rejected_groups"] == 0 and made[0].counts["resampled_groups"] == 0
    assert made[1].counts["rejected_groups"] == 1 and made[1].counts["resampled_groups"] == 1
    assert lost not in {one.episode.sample.id for generation in made[1:] for one in generation.judged}
    assert [entry["groups/rejected_groups"] for entry in trainer.state.log_history if "loss" in entry][:2] == [0, 1]


def test_a_video_lost_in_mid_run_stops_training_where_none_may_be(
    recipe: GRPORecipe, samples: Path, tmp_path: Path
) -> None:
    lost = second_generation(recipe)[0]
    trainer = losing(recipe, samples, tmp_path, lost)
    with pytest.raises(DataError, match=rf"1 samples cannot be used, data.max_rejected is 0; the last: {lost}: .*mp4"):
        trainer.train()
    assert trainer.state.global_step == 1


# --- turns that never end ---------------------------------------------------------------------------------------------


ENDLESS = ("s0", "s2", "s4", "s6")


def without_end(trainer: EpisodeGRPOTrainer) -> None:
    """The policy cannot end a turn of ENDLESS samples: their rollouts are made without the boundary token."""
    rollout = trainer.rollouts.policy.rollout
    bias = trainer.backbone.model.get_output_embeddings().bias

    def babble(tasks: Sequence[Task], limits: Limits) -> list[Episode]:
        bias[trainer.renderer.boundary] = -1e9
        endless = rollout([task for task in tasks if task.sample.id in ENDLESS], limits)
        bias[trainer.renderer.boundary] = 0.0
        others = rollout([task for task in tasks if task.sample.id not in ENDLESS], limits)
        made = {(one.sample.id, one.rollout): one for one in (*endless, *others)}
        return [made[task.sample.id, task.rollout] for task in tasks]

    trainer.rollouts.policy.rollout = babble  # type: ignore[method-assign]


@pytest.mark.parametrize("cut_off", ("train", "mask"))
def test_turns_that_never_end_are_cut_and_counted(recipe: GRPORecipe, cut_off: Any) -> None:
    """At their limit. `mask` takes the episode out of the loss, and out of its divisor."""
    loss = replace(recipe.loss, cut_off=cut_off, max_gap=1e9, max_mean_gap=1e9)  # the trainer knows of no such ban
    trainer = build_trainer(replace(recipe, loss=loss, optim=replace(recipe.optim, steps=1)))
    without_end(trainer)
    made = watched(trainer)
    divisors = []
    prepare = trainer._new_batches

    def noted(number: int) -> list[dict[str, Any]]:
        batches = prepare(number)
        divisors.append(batches[0]["num_items_in_batch"].item())
        return batches

    trainer._new_batches = noted  # type: ignore[method-assign]
    trainer.train()
    episodes = [one.episode for one in made[0].judged]
    cut = [turn for one in episodes if one.sample.id in ENDLESS for turn in one.turns]
    assert cut and not any(turn.finished for turn in cut)
    assert {turn.tokens for turn in cut if turn.role == "thought"} == {recipe.rollout.thought_tokens}
    assert {turn.tokens for turn in cut if turn.role == "answer"} == {recipe.rollout.answer_tokens}
    trained = [one for one in episodes if cut_off == "train" or all(turn.finished for turn in one.turns)]
    assert trained and (len(trained) < len(episodes) or cut_off == "train")
    assert divisors == [sum(one.tokens for one in trained)]
    unfinished = [not turn.finished for one in episodes for turn in one.turns]
    (entry,) = [entry for entry in trainer.state.log_history if "grad_norm" in entry]
    assert entry["unfinished"] == pytest.approx(sum(unfinished) / len(unfinished))


# --- numbers that are none --------------------------------------------------------------------------------------------


def poke(model: Any) -> None:
    with torch.no_grad():
        model.get_input_embeddings().weight[5:400] = math.nan


@pytest.mark.parametrize("iterations", (1, 2))  # 2: log-probs of the old weights are computed apart, and first
def test_weights_that_are_not_finite_stop_training(recipe: GRPORecipe, iterations: int) -> None:
    trainer = build_trainer(replace(recipe, loss=replace(recipe.loss, iterations=iterations)))
    trainer.add_callback(After(iterations, poke))
    with pytest.raises(GRPOError, match=rf"step {iterations}: .* not finite") as error:
        trainer.train()
    assert not isinstance(error.value, RolloutGapError)
    assert trainer.state.global_step == iterations
    assert dumped(recipe, "loss")["step"] == iterations


def test_a_loss_that_is_not_finite_updates_nothing(recipe: GRPORecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """One NaN among the advantages of one micro-batch, in the second generation."""
    trainer = build_trainer(replace(recipe, optim=replace(recipe.optim, accumulation=2)))
    prepare = trainer._new_batches

    def poisoned(number: int) -> list[dict[str, Any]]:
        batches = prepare(number)
        if number == 1:
            batches[1]["advantages"][0, 0] = math.nan
        return batches

    monkeypatch.setattr(trainer, "_new_batches", poisoned)
    kept: dict[str, torch.Tensor] = {}
    trainer.add_callback(After(1, lambda model: kept.update({k: v.clone() for k, v in model.state_dict().items()})))
    with pytest.raises(GRPOError, match="step 1: the loss is not finite"):
        trainer.train()
    now = trainer.backbone.model.state_dict()
    assert kept and all(torch.equal(value, now[name]) for name, value in kept.items())
    record = dumped(recipe, "loss")
    assert record["sample"].startswith("s") and len(record["ids"]) == len(record["rollout_logps"])


def test_a_gradient_that_is_not_finite_updates_nothing(recipe: GRPORecipe) -> None:
    """Of a finite loss: the weights would be NaN, and so would the checkpoint of this step."""
    trainer = build_trainer(replace(recipe, save_steps=1))
    norm = trainer.backbone.core.language_model.norm.weight
    trainer.add_callback(After(1, lambda model: norm.register_hook(lambda gradient: gradient * math.nan)))
    with pytest.raises(GRPOError, match="step 1: the gradient's norm is nan"):
        trainer.train()
    saved, now = weights(Path(recipe.output, "checkpoint-1")), trainer.backbone.model.state_dict()
    assert all(torch.equal(now[name], value) for name, value in saved.items() if name in now)
    assert not Path(recipe.output, "checkpoint-2").exists()


def test_generations_without_spread_train_nothing(recipe: GRPORecipe, folder: Path) -> None:
    """All groups, and those in their place, score alike: steps go by, with a blank row each, and nothing moves."""
    flat = (RewardTerm("token_sum", parameters={"flat": [f"s{i}" for i in range(8)]}),)
    out = run(replace(recipe, rewards=flat, rollout=replace(recipe.rollout, resample_rounds=1)))
    before, after = weights(folder), weights(out)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert logged(out, "groups/equal_groups") == [8, 8, 8] and logged(out, "grad_norm") == [0, 0, 0]


# --- rollout and trainer ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("iterations", (1, 2))
def test_weights_that_move_between_rollout_and_loss_stop_training(recipe: GRPORecipe, iterations: int) -> None:
    trainer = build_trainer(replace(recipe, loss=replace(recipe.loss, iterations=iterations)))
    generation = trainer.rollouts.generation

    def then_moved(*where: int) -> Generation:
        made = generation(*where)
        with torch.no_grad():
            trainer.backbone.core.language_model.norm.weight.mul_(1.05)
        return made

    trainer.rollouts.generation = then_moved  # type: ignore
    with pytest.raises(RolloutGapError, match=r"step 0: log-probs of rollout and trainer differ by"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_the_turn_with_the_largest_gap_is_named(recipe: GRPORecipe) -> None:
    """One log-prob of one turn is off by 0.5: under 1, over 1e-3."""
    trainer = build_trainer(recipe)
    generation = trainer.rollouts.generation
    told: dict[str, Any] = {}

    def off(*where: int) -> Generation:
        made = generation(*where)
        one = made.groups[2][1]
        turns = list(one.episode.turns)
        logprobs = list(turns[1].logprobs)
        logprobs[0] -= 0.5
        turns[1] = replace(turns[1], logprobs=tuple(logprobs))
        made.groups[2][1] = replace(one, episode=replace(one.episode, turns=tuple(turns)))
        told.update(sample=one.episode.sample.id, rollout=1, turn=1, ids=list(turns[1].ids))
        return made

    trainer.rollouts.generation = off  # type: ignore
    with pytest.raises(RolloutGapError, match=r"differ by 0\.5 on a token"):
        trainer.train()
    record = dumped(recipe, "gap")
    assert {name: record[name] for name in ("sample", "rollout", "turn")} == {
        name: told[name] for name in ("sample", "rollout", "turn")
    }
    assert record["ids"][: len(told["ids"])] == told["ids"]
    assert record["trainer_logps"][0] - record["rollout_logps"][0] == pytest.approx(0.5, abs=1e-3)


def test_a_pass_without_visuals_raises(recipe: GRPORecipe) -> None:
    trainer = build_trainer(recipe)
    prepare = trainer._new_batches

    def blind(number: int) -> list[dict[str, Any]]:
        batches = prepare(number)
        for batch in batches:
            del batch["forward"]["pixel_values_videos"]
        return batches

    trainer._new_batches = blind  # type: ignore[method-assign]
    with pytest.raises(GRPOError, match="a log-prob pass without visuals"):
        trainer.train()


@pytest.mark.parametrize("temperature", (1.0, 0.7))
def test_vision_tokens_are_never_sampled(recipe: GRPORecipe, temperature: float) -> None:
    """Their rows of the head are made those of the likeliest tokens, ten times as large; the trainer knows of the ban
    too, or its log-probs would be far from the rollout's."""
    trainer = build_trainer(replace(recipe, rollout=replace(recipe.rollout, temperature=temperature)))
    banned = trainer.backbone.tokenizer.convert_tokens_to_ids(list(VISION_TOKENS))
    head = trainer.backbone.model.get_output_embeddings()
    made = watched(trainer)
    with torch.no_grad():
        head.weight[banned] = 10 * head.weight[[favourite(trainer)]]
    trainer.train()
    sampled = {token for generation in made for one in generation.judged for t in one.episode.turns for token in t.ids}
    assert sampled and not sampled & set(banned)
    gaps = [entry["rollout_gap/max"] for entry in trainer.state.log_history if "rollout_gap/max" in entry]
    assert len(gaps) == 3 and max(gaps) < 1e-4


def favourite(trainer: EpisodeGRPOTrainer) -> int:
    """The token that the policy samples most."""
    made = trainer.rollouts.generation(0, 0, 1)
    ids = [token for one in made.judged for turn in one.episode.turns for token in turn.ids]
    return max(set(ids), key=ids.count)
