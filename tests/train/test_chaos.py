"""Fifty times kill -9: two ranks are killed at random moments, in steps, in saves and between them, and go on. Every
checkpoint that can be seen is whole, every time, and every run ends with the weights of one that nobody disturbed.

WHILST_CHAOS_SEED draws other moments.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rewards.registry import REWARDS
from tests.train.grpo_runs import FPS, KV, PACKED, TEST_REWARDS, grpo_recipe, sft_folder, write_samples
from tests.train.zygote import Fault, Finished, Zygote
from train.checkpoint_files import PART, checkpoints, verify
from train.grpo_recipe import LossSettings
from train.sft import DataSettings, SFTRecipe
from train.stage import ModelSettings, OptimSettings
from whilst.checkpoint import CONTRACT
from whilst.runs import read_run

KILLS = {"sft": 30, "grpo": 20}
GRACE = 0.5  # seconds after which a launcher kills the ranks that are left; one that waits for the other knows nothing
SEED = int(os.environ.get("WHILST_CHAOS_SEED", "0"))
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rewards() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        for name, reward in TEST_REWARDS.items():
            patched.setitem(REWARDS, name, reward)
        yield


@pytest.fixture(scope="module")
def recipes(checkpoints: Mapping[str, Path], rewards: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Four updates of each stage on two ranks, each saved, two kept; GRPO's in two generations of two updates."""
    folder = tmp_path_factory.mktemp("runs")
    samples = write_samples(folder / "samples", seconds=(1, 2, 2, 1))
    model = checkpoints["qwen3_vl"]
    sft = SFTRecipe(
        name="chaos",
        stage="sft",
        output="",
        model=ModelSettings(str(model)),
        data=DataSettings(str(samples), fps=FPS),
        optim=OptimSettings(steps=4, learning_rate=1e-3, schedule="constant"),
        render=PACKED,
        save_steps=1,
        log_steps=1,
    )
    start = sft_folder(model, samples, folder / "start", KV, steps=2)
    loss = LossSettings(updates=2, max_gap=1e-2, max_mean_gap=1e-3)
    grpo = grpo_recipe(start, samples, folder, loss=loss, save_steps=1)
    rollout = replace(grpo.rollout, groups=2, rollouts=2, thought_tokens=3, answer_tokens=3)
    grpo = replace(grpo, rollout=rollout, optim=replace(grpo.optim, steps=4))
    return {"sft": sft, "grpo": grpo}


def check_what_can_be_seen(out: Path) -> None:
    """Whatever was killed: a checkpoint is whole, and so is a final model."""
    for folder in checkpoints(out).values():
        verify(folder)
    if (out / CONTRACT).exists():
        assert (out / "model.safetensors").exists() and (out / "trainer_state.json").exists()


def attempt(forks: Zygote, recipe: Any, draw: random.Random, events: Sequence[int], seconds: float) -> list[Finished]:
    """One attempt with a kill in it: where a rank touches the run's files for the n-th time, or after so long."""
    which, rank = draw.choice(("event", "event", "time")), draw.randrange(2)
    both = draw.random() < 0.5
    if which == "event":
        moments = [(one, draw.randint(1, events[one])) for one in ((rank, 1 - rank) if both else (rank,))]
        for one, moment in moments:
            print(f"  kill rank {one} at access {moment} of {events[one]}")
        faults = [Fault(one, signal.SIGKILL, event=moment) for one, moment in moments]
        running = forks.start(recipe, ranks=2, faults=faults)
    else:
        moment_s = draw.uniform(0.0, seconds)
        print(f"  kill rank {rank}{' and the other' if both else ''} after {moment_s:.3f} s")
        running = forks.start(recipe, ranks=2)
        time.sleep(moment_s)  # wherever the run is by then
        running.send(rank, signal.SIGKILL)
        if both:
            running.send(1 - rank, signal.SIGKILL)
    return running.wait(grace=GRACE)


@pytest.mark.parametrize("stage", KILLS)
def test_fifty_kills_and_no_bit_of_difference(
    stage: str, forks: Zygote, recipes: Mapping[str, Any], tmp_path: Path
) -> None:
    draw = random.Random(f"{SEED} {stage}")
    print(f"seed {SEED}: WHILST_CHAOS_SEED={SEED}")
    forks.wait_until_ready()
    begun = time.monotonic()
    undisturbed = replace(recipes[stage], output=str(tmp_path / "undisturbed"))
    whole = forks.start(undisturbed, ranks=2).wait()
    assert [one.code for one in whole] == [0, 0], whole[0].output[-3000:]
    seconds, events = time.monotonic() - begun, [one.events for one in whole]
    assert min(events) > 20, "accesses are not counted"
    expected = Path(undisturbed.output, "model.safetensors").read_bytes()

    kills, runs = 0, 0
    while kills < KILLS[stage]:
        runs += 1
        recipe = replace(recipes[stage], output=str(tmp_path / f"run{runs}"))
        out, ended, attempts = Path(recipe.output), False, 0
        while not ended:
            attempts += 1
            if kills < KILLS[stage]:
                finished = attempt(forks, recipe, draw, events, seconds)
            else:
                finished = forks.start(recipe, ranks=2).wait()
            codes = [one.code for one in finished]
            kills += -signal.SIGKILL in codes
            assert -signal.SIGKILL in codes or codes == [0, 0], "\n".join(one.output[-3000:] for one in finished)
            check_what_can_be_seen(out)
            ended = codes == [0, 0]
        assert (out / "model.safetensors").read_bytes() == expected, f"run {runs} after {attempts} attempts"
        told = read_run(out)
        assert told is not None and told.state == "finished" and told.attempt <= attempts
        assert not list(out.glob(f"{PART}*"))
        print(f"  run {runs}: {attempts} attempts, {kills} kills so far")
