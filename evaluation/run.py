"""Evaluate checkpoints on samples, with controls, and write the report.

    whilst eval recipes/tiny/eval.yaml

Every figure of report.html stands in report.json. Jobs (an arm, whole, under a control, or reading another's thoughts)
run in `jobs` processes of one thread each.
"""

from __future__ import annotations

import json
import multiprocessing
import platform
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import whilst
from evaluation import controls
from evaluation.predict import Episode, EvaluationError, predict
from evaluation.recipe import EvalRecipe, Job, check_readers, named_jobs
from evaluation.scores import Scored, gain, score, summary, thought_accuracy, thought_shares
from whilst.checkpoint import Checkpoint, load_checkpoint, read_contract
from whilst.clips import SegmentClip, segment_clips
from whilst.sample import Sample, read_samples


@dataclass(frozen=True)
class Outcome:
    """One job's figures."""

    job: Job
    scored: list[Scored]
    episodes: list[Episode]
    thoughts: float | None
    shares: dict[str, dict[str, float | int]] | None
    seconds: float


def run_job(recipe: EvalRecipe, job: Job) -> Outcome:
    """Predict and score one job."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    checkpoint = load_checkpoint(recipe.arms[job.arm])
    samples = read_samples(recipe.samples)[: recipe.limit]
    clips = [segment_clips(sample, checkpoint.contract.fps) for sample in samples]
    episodes = watched(recipe, job, checkpoint, samples, clips)
    own = job.writer is None and job.control in (None, controls.GREEDY)  # else its thoughts are as of the arm, or given
    figures = (recipe.idle_thought, recipe.bootstrap_draws, recipe.seed)
    return Outcome(
        job,
        score(samples, episodes),
        episodes[: recipe.shown_episodes],
        thought_accuracy(samples, episodes, recipe.idle_thought) if own else None,
        thought_shares(samples, episodes, *figures) if own else None,
        time.perf_counter() - started,
    )


def watched(
    recipe: EvalRecipe,
    job: Job,
    checkpoint: Checkpoint,
    samples: Sequence[Sample],
    clips: Sequence[Sequence[SegmentClip]],
) -> list[Episode]:
    """The episodes of a job."""
    limits: dict[str, Any] = {
        "batch": recipe.batch,
        "thought_tokens": recipe.thought_tokens,
        "answer_tokens": recipe.answer_tokens,
        "seed": recipe.seed,
    }
    own = limits | {"temperature": recipe.temperature.get(job.arm, 0.0)}
    if job.writer is not None:
        return predict(checkpoint, samples, clips, **limits, thoughts=_written(recipe, job.writer, samples, limits))
    control = job.control
    if control is None:
        return predict(checkpoint, samples, clips, **own)
    if control in ("thoughts_shuffled", controls.SWAPPED):
        controls.check_distinct(samples, recipe.batch if control == "thoughts_shuffled" else len(samples))
    if control == "thoughts_shuffled":
        return predict(checkpoint, samples, clips, **own, before_asking=controls.shuffle_thoughts)
    if control == "thoughts_dropped":
        return predict(checkpoint, samples, clips, **own, before_asking=controls.drop_thoughts)
    if control == "text_only":
        return predict(checkpoint, *controls.without_video(samples, clips), **own)
    if control == "last_frames":
        return predict(checkpoint, *controls.last_frames(samples, clips, recipe.last_frames), **own)
    if control == controls.GREEDY:
        return predict(checkpoint, samples, clips, **limits)
    if control == controls.SWAPPED:
        written = predict(checkpoint, controls.unasked(samples), clips, **own)
        return predict(checkpoint, samples, clips, **limits, thoughts=controls.swapped(written))
    raise EvaluationError(f"unknown control {control!r}")


def _written(recipe: EvalRecipe, arm: str, samples: Sequence[Sample], limits: dict[str, Any]) -> list[list[str]]:
    """The thoughts of an arm, a text a segment, the same as in its own job."""
    checkpoint = load_checkpoint(recipe.arms[arm])
    clips = [segment_clips(sample, checkpoint.contract.fps) for sample in samples]
    temperature = recipe.temperature.get(arm, 0.0)
    episodes = predict(checkpoint, controls.unasked(samples), clips, **limits, temperature=temperature)
    return [[text for _, text, _ in episode.thoughts] for episode in episodes]


def run(recipe: EvalRecipe) -> dict[str, Any]:
    """Run every job and write report.json and report.html into the output folder; returns the report."""
    started = time.perf_counter()
    check_readers(recipe)
    jobs = named_jobs(recipe)
    outcomes: dict[Job, Outcome] = {}
    if recipe.jobs == 1:
        outcomes = {job: run_job(recipe, job) for job in jobs.values()}
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(recipe.jobs, mp_context=context) as pool:
            futures = [pool.submit(run_job, recipe, job) for job in jobs.values()]
            outcomes = {future.result().job: future.result() for future in as_completed(futures)}
    report = assemble(recipe, {name: outcomes[job] for name, job in jobs.items()})
    report["seconds"]["evaluation"] = time.perf_counter() - started

    from evaluation.pictures import take_pictures
    from evaluation.report import write_report

    write_report(report, Path(recipe.output), take_pictures(recipe.arms, recipe.samples))
    return report


def assemble(recipe: EvalRecipe, outcomes: dict[str, Outcome]) -> dict[str, Any]:
    """The report: figures by arm and kind, controls, gains, curves, settings. `outcomes` are by the jobs' names."""
    chance = (recipe.bootstrap_draws, recipe.seed)
    figures = {name: summary(outcome.scored, *chance) for name, outcome in outcomes.items()}

    def under_control(arm: str | None) -> dict[str, Any]:
        found = [(name, o.job) for name, o in outcomes.items() if o.job.arm == arm]
        return {job.control: figures[name] for name, job in found if job.control is not None}

    whole = {arm: outcomes[arm] for arm in recipe.arms}
    controlled = dict.fromkeys(arm for arm in (recipe.control_arm, *recipe.control_arms) if arm is not None)
    return {
        "name": recipe.name,
        "arms": {arm: figures[arm] for arm in recipe.arms},
        "control_arm": recipe.control_arm,
        "controls": under_control(recipe.control_arm),
        "controls_by_arm": {arm: under_control(arm) for arm in controlled},
        "kv_arm": recipe.kv_arm,
        "controls_kv": under_control(recipe.kv_arm),
        "readers": {name: figures[name] for name in recipe.readers},
        "gains": {
            name: {"baseline": baseline} | gain(outcomes[name].scored, outcomes[baseline].scored, *chance)
            for name, baseline in recipe.gains.items()
        },
        "thoughts": {arm: outcome.thoughts for arm, outcome in whole.items()},
        "thought_shares": {name: o.shares for name, o in outcomes.items() if o.shares is not None},
        "unfinished": {arm: sum(not s.finished for s in outcome.scored) for arm, outcome in whole.items()},
        "curves": {arm: learning_curve(path) for arm, path in recipe.arms.items()},
        "reward_curves": {arm: curve for arm, path in recipe.arms.items() if (curve := reward_curve(path))},
        "episodes": {arm: [asdict(e) for e in outcome.episodes] for arm, outcome in whole.items()},
        "settings": asdict(recipe)
        | {"contracts": {arm: asdict(read_contract(path)) for arm, path in recipe.arms.items()}},
        "seconds": {
            "by_job": {name: outcome.seconds for name, outcome in outcomes.items()},
            "training": {arm: training_seconds(path) for arm, path in recipe.arms.items()},
        },
        "code": {"version": whilst.__version__, "commit": commit(), "python": platform.python_version()},
    }


def _trainer_state(path: str) -> dict[str, Any]:
    file = Path(path, "trainer_state.json")
    return json.loads(file.read_text()) if file.exists() else {"log_history": []}


def learning_curve(path: str) -> list[dict[str, float]]:
    """Loss and token accuracy by step, as the trainer logged them; empty where it left no state."""
    return [
        {key: entry[key] for key in ("step", "loss", "mean_token_accuracy")}
        for entry in _trainer_state(path)["log_history"]
        if "mean_token_accuracy" in entry and "loss" in entry
    ]


def reward_curve(path: str) -> list[dict[str, float]]:
    """Reward by step, with the share of segments that got a thought and the accuracy where the trainer logged them;
    empty for other training."""
    return [
        {key: entry[key] for key in ("step", "reward", "told", "accuracy") if key in entry}
        for entry in _trainer_state(path)["log_history"]
        if "reward" in entry
    ]


def training_seconds(path: str) -> float | None:
    history = _trainer_state(path)["log_history"]
    return next((entry["train_runtime"] for entry in reversed(history) if "train_runtime" in entry), None)


def commit() -> str | None:
    """The commit of the code, or None outside a checkout."""
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() if found.returncode == 0 else None
