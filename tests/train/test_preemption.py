"""Runs that are asked to stop: all ranks stop after the same step, save, exit with 75, and go on to the bit."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.train import grpo_runs
from tests.train.grpo_runs import FPS, KV, PACKED, grpo_recipe, logged, sft_folder, write_samples
from tests.train.zygote import Fault, Zygote
from train import attempt as attempts
from train import grpo, sft
from train.attempt import RECIPE
from train.checkpoint_files import CheckpointError, checkpoints, read_manifest
from train.grpo_recipe import GRPORecipe, LossSettings
from train.policies import StreamPolicy
from train.sft import DataSettings, SFTRecipe
from train.stage import ModelSettings, OptimSettings, StageError
from train.stopping import PREEMPTED, Preempted, asked, catching
from whilst.runs import Run, read_run
from whilst.sample import read_samples

pytestmark = pytest.mark.usefixtures("rewards_of_tests")
rewards_of_tests = grpo_runs.rewards_of_tests


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_samples(tmp_path_factory.mktemp("samples"), seconds=(1, 2, 2, 1))


@pytest.fixture
def recipe(checkpoints: Mapping[str, Path], samples: Path, tmp_path: Path) -> SFTRecipe:
    """Six updates of two rows on two ranks; nothing is saved on the way."""
    return SFTRecipe(
        name="test",
        stage="sft",
        output=str(tmp_path / "run"),
        model=ModelSettings(str(checkpoints["qwen3_vl"])),
        data=DataSettings(str(samples), fps=FPS),
        optim=OptimSettings(steps=6, learning_rate=1e-3, schedule="constant"),
        render=PACKED,
        log_steps=1,
    )


@pytest.fixture(scope="module")
def start(checkpoints: Mapping[str, Path], samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("start") / "sft"
    return sft_folder(checkpoints["qwen3_vl"], samples, out, KV, steps=4)


@pytest.fixture
def grpo_run(start: Path, samples: Path, tmp_path: Path) -> GRPORecipe:
    """Five updates, four a generation."""
    loss = LossSettings(updates=2, iterations=2, max_gap=1e-2, max_mean_gap=1e-3)
    recipe = grpo_recipe(start, samples, tmp_path / "run", loss=loss)
    rollout = replace(recipe.rollout, groups=2, rollouts=2, thought_tokens=3, answer_tokens=3)
    return replace(recipe, rollout=rollout, optim=replace(recipe.optim, steps=5))


def account(folder: str | Path) -> Run:
    run = read_run(folder)
    assert run is not None
    return run


def weights(folder: str | Path) -> bytes:
    return Path(folder, "model.safetensors").read_bytes()


def test_one_rank_that_is_asked_stops_all_and_the_run_goes_on_to_the_bit(
    forks: Zygote, recipe: SFTRecipe, tmp_path: Path
) -> None:
    """USR1 reaches rank 1 only, in its fourth step. The second attempt is asked on both ranks, in different steps."""
    whole = replace(recipe, output=str(tmp_path / "whole"))
    assert [one.code for one in forks.start(whole, ranks=2).wait()] == [0, 0]

    stopped = forks.start(recipe, ranks=2, faults=[Fault(1, signal.SIGUSR1, step=3)]).wait()
    assert [one.code for one in stopped] == [PREEMPTED, PREEMPTED], stopped[0].output[-3000:]
    assert "stopped after step 4 and saved; run it again to go on (exit 75)" in stopped[0].output
    assert "USR1: stopping after this step" in stopped[1].output and "USR1" not in stopped[0].output
    out = Path(recipe.output)
    assert list(checkpoints(out)) == [4], "save_steps is 0, and yet it is saved"
    manifest = read_manifest(out / "checkpoint-4")
    assert (manifest.step, manifest.ranks, manifest.batch) == (4, 2, 2)
    assert {"rng_state_0.pth", "rng_state_1.pth", "optimizer.pt", "scheduler.pt"} <= manifest.files.keys()
    told = account(out)
    assert (told.state, told.step, told.steps, told.ranks, told.attempt) == ("preempted", 4, 6, 2, 1)
    assert told.checkpoint == "checkpoint-4" and told.metrics["loss"] > 0
    assert not (out / "streaming.yaml").exists()

    assert [one.code for one in forks.start(recipe, ranks=2).wait()] == [0, 0]
    assert weights(out) == weights(whole.output)
    assert logged(out, "loss") == logged(whole.output, "loss")
    told = account(out)
    assert (told.state, told.step, told.attempt) == ("finished", 6, 2)


def test_both_ranks_are_told_to_end_and_told_again_while_they_save(
    forks: Zygote, recipe: SFTRecipe, tmp_path: Path
) -> None:
    """TERM in different steps of the ranks, and once more inside the save: it ends, whole."""
    again = [Fault(rank, signal.SIGTERM, path="rng_state_") for rank in (0, 1)]
    first = [Fault(0, signal.SIGTERM, step=1), Fault(1, signal.SIGTERM, step=2)]
    ended = forks.start(recipe, ranks=2, faults=[*first, *again]).wait()
    assert [one.code for one in ended] == [PREEMPTED, PREEMPTED], ended[0].output[-3000:]
    assert list(checkpoints(recipe.output)) == [2]
    assert account(recipe.output).state == "preempted"


def test_a_rank_does_not_wait_for_one_that_is_gone(forks: Zygote, recipe: SFTRecipe) -> None:
    """Killed, not asked: the other fails at its next exchange, within the test's time, and says so in run.json."""
    ended = forks.start(recipe, ranks=2, faults=[Fault(1, signal.SIGKILL, step=2)]).wait()
    assert ended[1].code == -signal.SIGKILL
    assert ended[0].code == 1
    assert account(recipe.output).state == "failed"


def test_grpo_stops_inside_a_generation_and_goes_on_to_the_bit(
    forks: Zygote, grpo_run: GRPORecipe, tmp_path: Path
) -> None:
    """After step 2 of the four that a generation lasts: its rows are kept by each rank."""
    whole = replace(grpo_run, output=str(tmp_path / "whole"))
    done = forks.start(whole, ranks=2).wait()
    assert [one.code for one in done] == [0, 0], done[0].output[-3000:]
    stopped = forks.start(grpo_run, ranks=2, faults=[Fault(0, signal.SIGUSR1, step=1)]).wait()
    assert [one.code for one in stopped] == [PREEMPTED, PREEMPTED], stopped[0].output[-3000:]
    out = Path(grpo_run.output)
    files = read_manifest(out / "checkpoint-2").files
    assert {"rollouts-0-of-2.pt", "rollouts-1-of-2.pt"} <= files.keys()
    assert [one.code for one in forks.start(grpo_run, ranks=2).wait()] == [0, 0]
    assert weights(out) == weights(whole.output)
    assert logged(out, "reward") == logged(whole.output, "reward")


def test_a_generation_is_left_between_two_batches_and_made_again(
    grpo_run: GRPORecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked while episodes are made: the run does not wait for the generation to end, and loses nothing but it."""
    recipe = replace(grpo_run, rollout=replace(grpo_run.rollout, batch=1))
    whole = grpo.run(replace(recipe, output=str(tmp_path / "whole")))
    watch, batches = StreamPolicy._watch, [0]

    def asked_in_the_sixth(self, tasks, limits):
        batches[0] += 1
        if batches[0] == 6:
            os.kill(os.getpid(), signal.SIGUSR1)
        return watch(self, tasks, limits)

    with monkeypatch.context() as patched:
        patched.setattr(StreamPolicy, "_watch", asked_in_the_sixth)
        with pytest.raises(Preempted) as stop:
            grpo.run(recipe)
    assert (stop.value.code, stop.value.step) == (PREEMPTED, 4)
    assert batches[0] == 6, "four episodes a generation: the second was left after two"
    assert list(checkpoints(recipe.output)) == [4] and account(recipe.output).state == "preempted"
    with monkeypatch.context() as patched, pytest.raises(CheckpointError, match="saved while training on other data"):
        patched.setattr(grpo, "read_samples", lambda path: read_samples(path)[::-1])
        grpo.run(recipe)
    assert weights(grpo.run(recipe)) == weights(whole)


def test_a_run_that_never_gets_a_step_further_fails_instead_of_coming_back(
    grpo_run: GRPORecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A generation that takes longer than an attempt may: Slurm would start it again for ever."""
    recipe = replace(grpo_run, rollout=replace(grpo_run.rollout, batch=1))
    watch = StreamPolicy._watch

    def asked_at_once(self, tasks, limits):
        os.kill(os.getpid(), signal.SIGUSR1)
        return watch(self, tasks, limits)

    with monkeypatch.context() as patched:
        patched.setattr(StreamPolicy, "_watch", asked_at_once)
        patched.setattr(attempts, "STALLED", 3)
        for stalled in (1, 2):
            with pytest.raises(Preempted):
                grpo.run(recipe)
            assert account(recipe.output).stalled == stalled
        with pytest.raises(StageError, match="stopped 3 times in a row at step 0, so it would never end"):
            grpo.run(recipe)
    left = account(recipe.output)
    assert (left.state, left.stalled, left.attempt) == ("failed", 0, 3) and "launch.time" in left.error
    grpo.run(recipe)  # with more time it goes on
    assert account(recipe.output).state == "finished"


def test_handlers_are_put_back_and_forked_workers_keep_none() -> None:
    before = [signal.getsignal(one) for one in (signal.SIGUSR1, signal.SIGTERM)]
    with catching():
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked()
        worker = os.fork()
        if not worker:  # a DataLoader's worker is ended by TERM
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == -signal.SIGTERM
    assert not asked()
    assert [signal.getsignal(one) for one in (signal.SIGUSR1, signal.SIGTERM)] == before


def test_asked_in_the_last_step_or_before_the_first(recipe: SFTRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first step nothing is lost and nothing saved; in the last one the run ends as it would have."""
    recipe = replace(recipe, optim=replace(recipe.optim, steps=1))
    build = sft.build_trainer

    def build_for_long(recipe: SFTRecipe):
        os.kill(os.getpid(), signal.SIGTERM)
        return build(recipe)

    with monkeypatch.context() as patched, pytest.raises(Preempted):
        patched.setattr(sft, "build_trainer", build_for_long)
        sft.run(recipe)
    assert not checkpoints(recipe.output) and account(recipe.output).state == "preempted"
    assert Path(recipe.output, RECIPE).exists()

    step = sft.StreamingSFTTrainer.training_step

    def asked_in_it(self, *args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(sft.StreamingSFTTrainer, "training_step", asked_in_it)
    sft.run(recipe)
    assert account(recipe.output).state == "finished" and account(recipe.output).attempt == 2
