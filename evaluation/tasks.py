"""An evaluation cut into phases that tasks share, in processes that know nothing of each other: job arrays.

prepare: the folders of all predictions. predict: the arms and their controls, a piece a shard. read: the readers, whose
writers must have written. score: everything that `whilst eval` does, of which nothing but scoring is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from evaluation.cache import blocks_of, folder_of, is_open, read_block
from evaluation.predict import EvaluationError
from evaluation.predictions import (
    check_devices,
    load_samples,
    manifests_of,
    open_folders,
    predict_task,
    spread,
)
from evaluation.recipe import EvalRecipe, Job, check_readers
from evaluation.run import run, valid_jobs


def for_tasks(recipe: EvalRecipe, tasks: int) -> EvalRecipe:
    """The recipe with shards for `tasks` tasks of `jobs` processes each. Predictions do not depend on that."""
    return replace(recipe, shards=max(recipe.shards, tasks * recipe.jobs))


def phases(recipe: EvalRecipe) -> dict[str, int]:
    """Pieces by phase."""
    read = {"read": recipe.shards} if recipe.readers else {}
    return {"prepare": 1, "predict": recipe.shards, **read, "score": 1}


def undone(recipe: EvalRecipe) -> list[tuple[str, int, dict[int, str]]]:
    """Of every phase its name, its number of pieces, and those that are not done, with their names."""
    samples = load_samples(recipe)
    jobs, _ = valid_jobs(recipe, samples)
    blocks = [[samples[i].id for i in which] for which in blocks_of(samples, recipe.batch)]
    todo: dict[str, dict[int, str]] = {name: {} for name in phases(recipe)}
    for name, job in jobs.items():
        folder = folder_of(recipe.output, name)
        for index, ids in enumerate(blocks):
            if read_block(folder, index, ids)[0] is None:
                shard = index % recipe.shards
                wave = "predict" if job.writer is None else "read"
                todo[wave][shard] = ", ".join(filter(None, (todo[wave].get(shard, ""), f"{name} block {index}")))
    if any(not manifest.exists() for manifest in (folder_of(recipe.output, n) / "manifest.json" for n in jobs)):
        todo["prepare"][0] = "folders"
    if not _is_scored(recipe, jobs) or any(todo.values()):
        todo["score"][0] = "report"
    return [(name, pieces, todo[name]) for name, pieces in phases(recipe).items()]


def _is_scored(recipe: EvalRecipe, jobs: Mapping[str, Job]) -> bool:
    """Whether the report is there and younger than all predictions."""
    report = Path(recipe.output, "report.json")
    made = [file for name in jobs for file in folder_of(recipe.output, name).glob("*.json*")]
    return report.exists() and all(file.stat().st_mtime_ns <= report.stat().st_mtime_ns for file in made)


def run_share(recipe: EvalRecipe, phase: str, task: int, tasks: int) -> str:
    """Do what is not done yet of one task of a phase; says what.

    Raises:
        EvaluationError: no such phase or task; or the folders are not ready for this recipe, these checkpoints and
            this code.
    """
    if phase not in phases(recipe):
        raise EvaluationError(f"--phase {phase}: this recipe has {', '.join(phases(recipe))}")
    if not 0 <= task < tasks:
        raise EvaluationError(f"--task {task}: must be from 0 to {tasks - 1}, below --tasks")
    if phase == "score":
        run(recipe)
        return f"report: {recipe.output}/report.html"
    check_devices(recipe.devices)
    check_readers(recipe)
    samples = load_samples(recipe)
    jobs, _ = valid_jobs(recipe, samples)
    if phase == "prepare":
        notes = [note for done in open_folders(recipe, jobs, samples)[0].values() for note in done.notes]
        return "\n".join([*notes, f"prepare: {len(jobs)} jobs on {len(samples)} samples"])
    for name, manifest in manifests_of(recipe, jobs, samples).items():
        folder = folder_of(recipe.output, name)
        if not is_open(folder, manifest):
            raise EvaluationError(
                f"{folder}: not made ready for this recipe, checkpoint and code; run --phase prepare first"
            )
    wave = {name: job for name, job in jobs.items() if (job.writer is None) == (phase == "predict")}
    mine = range(task, recipe.shards, tasks)
    done = spread(recipe, predict_task, [(name, wave[name], shard) for name in wave for shard in mine])
    reused, made = sum(one.reused for one in done.values()), sum(one.made for one in done.values())
    return f"{phase}: task {task} of {tasks}, {made} samples predicted, {reused} were there"
