"""Launched jobs under a real Slurm of two nodes: training that is interrupted in every way, and a chain of arrays.

All in one file with one cluster, whose lock also keeps other runs of these tests out.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rewards.mix import RewardTerm
from slurm.checks import LaunchError
from slurm.submit import Work, prepare, submit
from tests.slurm import cluster
from tests.slurm.cluster import Cluster
from tests.train.grpo_runs import PACKED, sft_folder, write_samples
from train import sft
from train.grpo_recipe import EpisodeData, GRPORecipe, LossSettings
from train.rollouts import RolloutSettings
from train.stage import ModelSettings, OptimSettings
from whilst.cli import app
from whilst.hardware import Launch
from whilst.runs import read_run

ROOT = Path(__file__).parents[2]
LONG = 240.0  # seconds that a job may take on a machine that is shared; none takes a quarter of it
CPU = Launch(nodes=2, gpus_per_node=0, ranks_per_node=2, cpus_per_rank=1, time="01:00:00", signal_seconds=60)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(cluster.missing()), reason=f"no real Slurm: {cluster.missing()}"),
]


@pytest.fixture(scope="module")
def slurm() -> Iterator[Cluster]:
    with cluster.cluster() as here:
        yield here
    assert cluster.here_running(here) == []


@pytest.fixture(autouse=True)
def environment(slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where jobs are submitted from, and what they inherit."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_CONF", slurm.environment["SLURM_CONF"])
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")


GATE = """
import os, sys, time

def wait(event, args):
    name = os.path.basename(args[1]) if event == "os.rename" else ""
    while name.startswith("checkpoint-") and os.path.exists(%r):
        if int(name.removeprefix("checkpoint-")) < int(open(%r).read() or 0):
            return
        time.sleep(0.05)

sys.addaudithook(wait)
"""


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """While this file is there, no training of the test goes on with a checkpoint of the step in it, or of a later one:
    however fast the machine is, the run is under way when it is interrupted."""
    file, site = tmp_path / "gate", tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(GATE % (str(file), str(file)))
    monkeypatch.setenv("PYTHONPATH", f"{site}:{ROOT}")
    return file


def until_said(slurm: Cluster, recipe: Any, what: str) -> None:
    """Wait until rank 0 of the newest attempt has said `what`. It alone is held by the gate in Python; the others wait
    for it inside a collective, where no signal is handled. One rank that is asked is enough."""
    file = Path(recipe.output, "launch", "logs", "latest", "rank_0.log")
    slurm.wait(
        lambda: file.exists() and what in file.read_text(),
        LONG,
        lambda: f"rank 0 has not said {what!r}\n{log(recipe)}",
    )


def start(recipe: Any) -> str:
    """Launch one recipe; its job."""
    (made,) = submit(prepare([Work(recipe)]))
    return made.job


def log(recipe: Any) -> str:
    """All that a training's job and ranks have said."""
    folder = Path(recipe.output, "launch", "logs")
    return "\n".join(f"{file}:\n{file.read_text()[-3000:]}" for file in sorted(folder.rglob("*.log")))


def newest(recipe: Any) -> int:
    """The step of its newest checkpoint, which is whole when it has its name; 0: there is none."""
    return max(
        (int(p.parent.name.split("-")[1]) for p in Path(recipe.output).glob("checkpoint-*/manifest.json")), default=0
    )


def until_saved(slurm: Cluster, recipe: Any, job: str, step: int) -> None:
    """Wait until `step` is done and saved; the test fails where the job ends before."""

    def saved() -> bool:
        assert not slurm.ended(job), f"{slurm.states(job)}\n{log(recipe)}\n{slurm.logs()}"
        return newest(recipe) >= step

    slurm.wait(saved, LONG, lambda: log(recipe))


def finish(slurm: Cluster, recipe: Any, job: str) -> bytes:
    """The weights when the job has ended well."""
    slurm.wait(lambda: slurm.ended(job), LONG, lambda: log(recipe))
    assert slurm.job(job)["JobState"] == "COMPLETED", log(recipe)
    return Path(recipe.output, "model.safetensors").read_bytes()


def sft_recipe(checkpoint: Path, samples: Path, output: Path) -> sft.SFTRecipe:
    return sft.SFTRecipe(
        name="tiny",
        stage="sft",
        output=str(output),
        model=ModelSettings(str(checkpoint)),
        data=sft.DataSettings(str(samples), fps=2.0),
        optim=OptimSettings(steps=STEPS, batch_size=2, learning_rate=1e-3),
        render=PACKED,
        save_steps=4,
        launch=CPU,
    )


STEPS = 20
OPEN = "1000"  # not removed: a rank may be about to read it


def test_sft_survives_a_time_limit_and_scancel(
    slurm: Cluster, gate: Path, tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    samples = write_samples(tmp_path / "samples")
    recipe = sft_recipe(checkpoints["qwen3_vl"], samples, tmp_path / "a run's 50% folder")
    whole = replace(recipe, output=str(tmp_path / "whole"))
    gate.write_text("8")
    job = start(recipe)
    until_saved(slurm, recipe, job, 4)
    slurm.run("scancel", "--signal=USR1", job)  # as before a time limit: to the ranks, not to the shell
    until_said(slurm, recipe, "SIGUSR1: stopping")
    gate.write_text("16")
    slurm.wait(lambda: slurm.job(job)["JobState"] == "PENDING", LONG, lambda: log(recipe))
    stopped = newest(recipe)
    state = read_run(recipe.output)
    assert state is not None and state.state == "preempted" and state.step == stopped < STEPS
    slurm.run("scontrol", "update", f"jobid={job}", "StartTime=now+3")  # not at once: slurmd still refuses it

    until_saved(slurm, recipe, job, stopped + 1)
    slurm.run("scancel", job)
    until_said(slurm, recipe, "SIGTERM: stopping")
    gate.write_text(OPEN)
    slurm.wait(lambda: slurm.ended(job), LONG, lambda: log(recipe))
    assert slurm.job(job)["JobState"] == "CANCELLED"  # and not requeued
    assert not Path(recipe.output, "model.safetensors").exists()

    again = start(recipe)
    resumed = finish(slurm, recipe, again)
    logs = Path(recipe.output, "launch", "logs")
    assert sorted(one.name for one in logs.glob("attempt_*")) == [f"attempt_{n}" for n in (1, 2, 3)]
    assert (logs / "latest").readlink() == Path("attempt_3")
    assert sorted(one.name for one in (logs / "latest").iterdir()) == [f"rank_{n}.log" for n in range(4)]
    assert "attempt 2 (requeued 1 times)" in (logs / f"job_{job}.log").read_text()
    assert finish(slurm, whole, start(whole)) == resumed
    state = read_run(recipe.output)
    assert state is not None and (state.state, state.step, state.ranks) == ("finished", STEPS, 4)


def test_grpo_goes_on_after_a_node_is_lost(
    slurm: Cluster, gate: Path, tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    samples = write_samples(tmp_path / "samples", (1, 2, 1, 2))
    model = sft_folder(checkpoints["qwen3_vl"], samples, tmp_path / "sft", PACKED, steps=10)
    recipe = GRPORecipe(
        name="tiny-rl",
        stage="grpo",
        output=str(tmp_path / "cut"),
        model=ModelSettings(str(model)),
        data=EpisodeData(str(samples)),
        rollout=RolloutSettings(groups=2, rollouts=4, thought_tokens=6, answer_tokens=4),
        rewards=(RewardTerm("unfinished"),),
        loss=LossSettings(max_gap=1e-3, max_mean_gap=1e-4),
        optim=OptimSettings(steps=8, learning_rate=1e-3, schedule="constant"),
        save_steps=2,
        log_episodes=0,
        launch=replace(CPU, ranks_per_node=1),
    )
    whole = replace(recipe, output=str(tmp_path / "whole"))
    gate.write_text("4")
    job = start(recipe)
    until_saved(slurm, recipe, job, 2)
    slurm.run("scontrol", "update", "nodename=n2", "state=down", "reason=test")
    slurm.wait(lambda: slurm.job(job)["JobState"] == "PENDING", LONG, lambda: log(recipe))
    gate.write_text(OPEN)
    assert slurm.job(job)["Restarts"] == "1" and newest(recipe) < 8
    if "DOWN" in slurm.run("sinfo", "--noheader", "--nodes=n2", "--format=%T").upper():  # it may be back by itself
        subprocess.run(["scontrol", "update", "nodename=n2", "state=resume"], env=slurm.environment)
    # n2 was not lost in truth: until it is done with ending this job, it kills whatever bears its number
    done, slurmd = f"set revoke expiration for jobid {job} ", slurm.folder / "slurmd.n2.log"
    slurm.wait(lambda: done in slurmd.read_text(), LONG, lambda: f"n2 has not said {done!r}")
    slurm.run("scontrol", "update", f"jobid={job}", "StartTime=now+3")
    weights = finish(slurm, recipe, job)
    assert weights == finish(slurm, whole, start(whole)) != Path(model, "model.safetensors").read_bytes()


def test_a_chain_stops_at_a_failed_task_and_goes_on_with_what_is_missing(slurm: Cluster, tmp_path: Path) -> None:
    quick = ROOT / "recipes" / "quickstart"
    cpu = "launch: {gpus_per_node: 0, cpus_per_rank: 1, time: '00:30:00'%s}\n"
    inputs = "inputs: {train: {shards: 3}, validation: {shards: 1}, test: {shards: 1}}\n"
    for name, more in {
        "world": "counts: {train: 6, validation: 1, test: 2}\n" + cpu % "",
        "samples": inputs + cpu % ", tasks: 2",
        "model": cpu % "",
        "sft": "optim: {steps: 2}\nsave_steps: 0\n" + cpu % "",
    }.items():
        (tmp_path / f"{name}.yaml").write_text(f"extends: {quick / name}.yaml\n{more}")
    (tmp_path / "eval.yaml").write_text(
        "name: e\nstage: eval\noutput: runs/quickstart/eval\nsamples: runs/quickstart/samples/data/test\n"
        "arms: {sft: runs/quickstart/sft}\naudit_samples: 0\nledger_samples: 0\nbootstrap_draws: 20\n"
        + cpu
        % ", tasks: 2"
    )
    out = Path("runs/quickstart/samples")
    wall = out / "data" / "train-00001-of-00003.parquet" / "wall"

    def launched(*arguments: str) -> dict[str, str]:
        done = CliRunner().invoke(app, ["launch", *arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        lines = [line for line in done.output.splitlines() if ": job " in line]
        return {line.split(":")[0].split()[-1]: line.split(": job ")[1].split(",")[0] for line in lines}

    def everything() -> str:
        return "\n".join(f"{p}:\n{p.read_text()[-1500:]}" for p in sorted(Path("runs").rglob("launch/logs/**/*.log")))

    jobs = launched("world.yaml", "--then", "samples.yaml", "--then", "model.yaml")
    wall.mkdir(parents=True)  # the samples of one shard cannot be put in their place
    slurm.wait(lambda: slurm.ended(*jobs.values()), LONG, everything)
    states = {name: slurm.states(job) for name, job in jobs.items()}
    assert states == {
        "world": "COMPLETED",
        "gather": "COMPLETED",
        "publish": states["publish"],
        "finish": "CANCELLED",
        "report": "FAILED",
        "tiny": "CANCELLED",  # not left in the queue for ever
    }, everything()
    report = json.loads((out / "launch" / "report.json").read_text())["missing"]
    (piece,) = [one for one in report if one["phase"] == "publish"]
    assert (piece["piece"], piece["name"]) == (1, "train-00001-of-00003")
    assert piece["job"] == f"{jobs['publish']}_1" and "train-00001-of-00003.parquet" in piece["says"]
    assert [one["phase"] for one in report] == ["publish", "finish"]
    shutil.rmtree(wall.parent)
    before = {p: p.stat().st_mtime_ns for p in (out / "data").iterdir()}

    rest = [word for name in ("model", "sft", "eval") for word in ("--then", f"{name}.yaml")]
    jobs = launched("samples.yaml", *rest, "--export-to", "exported")
    assert "#SBATCH --array=1\n" in (out / "launch" / "publish.sbatch").read_text()
    slurm.wait(lambda: slurm.ended(*jobs.values()), LONG, everything)
    states = {name: slurm.states(job) for name, job in jobs.items()}
    names = ("publish", "finish", "report", "tiny", "sft", "prepare", "predict", "score", "export")
    assert states == dict.fromkeys(names, "COMPLETED"), everything()
    assert json.loads(Path("runs/quickstart/eval/report.json").read_text())["samples"]["n"] > 0
    assert json.loads((out / "yields.json").read_text())["all"]["samples"]["out"] > 0
    assert {p: p.stat().st_mtime_ns for p in before} == before  # nothing was done twice
    assert Path("exported", "config.json").exists() and Path("runs/quickstart/sft/model.safetensors").exists()


def test_a_failed_rank_fails_the_job_and_is_named(slurm: Cluster, tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    recipe = sft_recipe(checkpoints["qwen3_vl"], tmp_path / "absent.jsonl", tmp_path / "run")
    job = start(replace(recipe, launch=replace(CPU, nodes=1, ranks_per_node=1, setup="true\necho prepared")))
    slurm.wait(lambda: slurm.ended(job), LONG, lambda: log(recipe))
    told = Path(recipe.output, "launch", "logs", f"job_{job}.log").read_text()
    assert slurm.job(job)["JobState"] == "FAILED"
    assert "code 2" in told and "absent.jsonl" in told and "prepared" in told, told


def test_sbatch_refusing_leaves_nothing(slurm: Cluster, tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    first = sft_recipe(checkpoints["qwen3_vl"], tmp_path / "x.jsonl", tmp_path / "a")
    waits = replace(first, launch=replace(CPU, sbatch={"begin": "now+1hour"}))
    second = replace(first, name="b", output=str(tmp_path / "b"), launch=replace(CPU, partition="none-such"))
    with pytest.raises(LaunchError, match="invalid partition"):
        submit(prepare([Work(waits), Work(second)]))
    left = subprocess.run(["squeue", "--noheader"], env=os.environ, capture_output=True, text=True, check=True).stdout
    assert left == ""
