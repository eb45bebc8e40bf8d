"""Evaluate checkpoints on samples, with controls, and write the report.

    whilst eval recipes/tiny/eval.yaml

Every figure of report.html stands in report.json. Jobs (an arm, or an arm under a control) run in `jobs` processes of
one thread each.
"""

from __future__ import annotations

import json
import multiprocessing
import platform
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

import whilst
from evaluation import controls
from evaluation.predict import Episode, EvaluationError, predict
from evaluation.scores import Scored, score, summary, thought_accuracy
from whilst.checkpoint import Checkpoint, load_checkpoint
from whilst.clips import SegmentClip, segment_clips
from whilst.recipe import Recipe
from whilst.sample import Sample, read_samples


@dataclass(frozen=True)
class EvalRecipe(Recipe):
    """Arms (name -> folder of a checkpoint) on one set of samples."""

    output: str = field(kw_only=True)
    samples: str = field(kw_only=True)
    arms: dict[str, str] = field(kw_only=True)
    control_arm: str | None = field(kw_only=True, default=None)  # text memory: takes all controls
    kv_arm: str | None = field(kw_only=True, default=None)  # KV memory: its leak is measured
    last_frames: int = field(kw_only=True, default=4)
    limit: int | None = field(kw_only=True, default=None)
    batch: int = field(kw_only=True, default=64)
    thought_tokens: int = field(kw_only=True, default=16)
    answer_tokens: int = field(kw_only=True, default=8)
    bootstrap_draws: int = field(kw_only=True, default=2000)
    shown_episodes: int = field(kw_only=True, default=3)
    jobs: int = field(kw_only=True, default=1)


@dataclass(frozen=True)
class Outcome:
    """One job's figures."""

    arm: str
    control: str | None
    scored: list[Scored]
    episodes: list[Episode]
    thoughts: float | None
    seconds: float


def jobs_of(recipe: EvalRecipe) -> list[tuple[str, str | None]]:
    """(arm, control) pairs, the longest first."""
    jobs: list[tuple[str, str | None]] = [(arm, None) for arm in recipe.arms]
    if recipe.control_arm is not None:
        jobs += [(recipe.control_arm, name) for name in controls.CONTROLS]
    if recipe.kv_arm is not None:
        jobs.append((recipe.kv_arm, "thoughts_swapped"))
    for arm, _ in jobs:
        if arm not in recipe.arms:
            raise EvaluationError(f"control_arm and kv_arm must be among arms {sorted(recipe.arms)}, got {arm!r}")
    return jobs


def run_job(recipe: EvalRecipe, arm: str, control: str | None) -> Outcome:
    """Predict and score one arm, whole or deprived of something."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    checkpoint = load_checkpoint(recipe.arms[arm])
    samples = read_samples(recipe.samples)[: recipe.limit]
    clips = [segment_clips(sample, checkpoint.contract.fps) for sample in samples]
    episodes = deprived(recipe, checkpoint, samples, clips, control)
    return Outcome(
        arm,
        control,
        score(samples, episodes),
        episodes[: recipe.shown_episodes],
        thought_accuracy(samples, episodes) if control is None else None,
        time.perf_counter() - started,
    )


def deprived(
    recipe: EvalRecipe,
    checkpoint: Checkpoint,
    samples: Sequence[Sample],
    clips: Sequence[Sequence[SegmentClip]],
    control: str | None,
) -> list[Episode]:
    """Episodes under a control (None: whole)."""
    limits: dict[str, Any] = {
        "batch": recipe.batch,
        "thought_tokens": recipe.thought_tokens,
        "answer_tokens": recipe.answer_tokens,
    }
    if control is None:
        return predict(checkpoint, samples, clips, **limits)
    if control in ("thoughts_shuffled", "thoughts_swapped"):
        controls.check_distinct(samples, recipe.batch if control == "thoughts_shuffled" else len(samples))
    if control == "thoughts_shuffled":
        return predict(checkpoint, samples, clips, **limits, before_asking=controls.shuffle_thoughts)
    if control == "thoughts_dropped":
        return predict(checkpoint, samples, clips, **limits, before_asking=controls.drop_thoughts)
    if control == "text_only":
        return predict(checkpoint, *controls.without_video(samples, clips), **limits)
    if control == "last_frames":
        return predict(checkpoint, *controls.last_frames(samples, clips, recipe.last_frames), **limits)
    if control == "thoughts_swapped":
        own = predict(checkpoint, samples, clips, **limits)
        return predict(checkpoint, samples, clips, **limits, thoughts=controls.swapped(own))
    raise EvaluationError(f"unknown control {control!r}; known: {', '.join(controls.CONTROLS)}, thoughts_swapped")


def run(recipe: EvalRecipe) -> dict[str, Any]:
    """Run every job and write report.json and report.html into the output folder; returns the report."""
    started = time.perf_counter()
    pairs = jobs_of(recipe)
    outcomes: dict[tuple[str, str | None], Outcome] = {}
    if recipe.jobs == 1:
        for arm, control in pairs:
            outcomes[arm, control] = run_job(recipe, arm, control)
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(recipe.jobs, mp_context=context) as pool:
            futures = [pool.submit(run_job, recipe, arm, control) for arm, control in pairs]
            for future in as_completed(futures):
                outcome = future.result()
                outcomes[outcome.arm, outcome.control] = outcome
    report = assemble(recipe, outcomes)
    report["seconds"]["evaluation"] = time.perf_counter() - started

    from evaluation.pictures import take_pictures
    from evaluation.report import write_report

    write_report(report, Path(recipe.output), take_pictures(recipe.arms, recipe.samples))
    return report


def assemble(recipe: EvalRecipe, outcomes: dict[tuple[str, str | None], Outcome]) -> dict[str, Any]:
    """The report: figures by arm and kind, controls, curves, settings."""

    def figures(outcome: Outcome) -> dict[str, Any]:
        return summary(outcome.scored, recipe.bootstrap_draws, recipe.seed)

    def under_control(arm: str | None) -> dict[str, Any]:
        return {o.control: figures(o) for o in outcomes.values() if o.control is not None and o.arm == arm}

    whole = {arm: outcomes[arm, None] for arm in recipe.arms}
    return {
        "name": recipe.name,
        "arms": {arm: figures(outcome) for arm, outcome in whole.items()},
        "control_arm": recipe.control_arm,
        "controls": under_control(recipe.control_arm),
        "kv_arm": recipe.kv_arm,
        "controls_kv": under_control(recipe.kv_arm),
        "thoughts": {arm: outcome.thoughts for arm, outcome in whole.items()},
        "unfinished": {arm: sum(not s.finished for s in outcome.scored) for arm, outcome in whole.items()},
        "curves": {arm: learning_curve(path) for arm, path in recipe.arms.items()},
        "episodes": {arm: [asdict(e) for e in outcome.episodes] for arm, outcome in whole.items()},
        "settings": asdict(recipe) | {"contracts": {arm: contract_of(path) for arm, path in recipe.arms.items()}},
        "seconds": {
            "by_job": {f"{o.arm}/{o.control}" if o.control else o.arm: o.seconds for o in outcomes.values()},
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


def training_seconds(path: str) -> float | None:
    history = _trainer_state(path)["log_history"]
    return next((entry["train_runtime"] for entry in reversed(history) if "train_runtime" in entry), None)


def contract_of(path: str) -> dict[str, Any]:
    from whilst.checkpoint import read_contract

    return asdict(read_contract(path))


def commit() -> str | None:
    """The commit of the code, or None outside a checkout."""
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() if found.returncode == 0 else None
