"""A run cut into phases that tasks share, in processes that know nothing of each other: job arrays.

A phase has as many pieces as it has jobs (data_pipeline/engine/jobs.py); task t of n does the pieces t, t + n, ... What
is done is what has a valid manifest, so tasks may be killed, repeated and done twice.
"""

from __future__ import annotations

import fcntl
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from data_pipeline.engine.jobs import Job, is_done, perform, phases
from data_pipeline.engine.local import holding
from data_pipeline.engine.recipe import SynthRecipe
from data_pipeline.engine.tools import Tools
from data_pipeline.source import SynthError


def name_of(jobs: Sequence[Job]) -> str:
    """A phase is called after its jobs' step; the first, which may hold two, is `gather`."""
    return "gather" if jobs[0].step == "extract" else jobs[0].step


def undone(recipe: SynthRecipe) -> list[tuple[str, int, dict[int, str]]]:
    """Of every phase its name, its number of pieces, and those that are not done, with their names.

    Raises:
        SynthError: the run's folder holds another run.
    """
    return [
        (name_of(jobs), len(jobs), {i: _told(recipe, job) for i, job in enumerate(jobs) if not is_done(recipe, job)})
        for jobs in phases(recipe)
    ]


def _told(recipe: SynthRecipe, job: Job) -> str:
    if job.shard is None:
        return job.split or "all"
    return f"{job.split}-{job.shard:05d}-of-{recipe.inputs[job.split].shards:05d}"


def for_tasks(recipe: SynthRecipe, tasks: int) -> SynthRecipe:
    """The recipe as one of `tasks` processes runs it: each has its part of an endpoint's limits.

    Raises:
        SynthError: an endpoint may be asked too little for so many.
    """
    try:
        return replace(recipe, workers=tasks)
    except ValueError as error:
        raise SynthError(f"launch.tasks {tasks}: {error}") from error


def perform_share(recipe: SynthRecipe, phase: str, task: int, tasks: int) -> int:
    """Do the pieces of one task, those that are not done yet; how many there are. A piece that fails does not keep the
    others from being done.

    Raises:
        SynthError: no such phase or task; or what the first piece that failed raised.
    """
    jobs = next((jobs for jobs in phases(recipe) if name_of(jobs) == phase), None)
    if jobs is None:
        raise SynthError(f"--phase {phase}: this recipe has {', '.join(name_of(jobs) for jobs in phases(recipe))}")
    if not 0 <= task < tasks:
        raise SynthError(f"--task {task}: must be from 0 to {tasks - 1}, below --tasks")
    mine = jobs[task::tasks]
    tools, failures = Tools(for_tasks(recipe, tasks)), list[tuple[Job, Exception]]()
    with holding(Path(recipe.output), fcntl.LOCK_SH):
        for job in mine:
            try:
                perform(recipe, job, tools)
            except (SynthError, OSError) as error:
                failures.append((job, error))
    if failures:
        job, first = failures[0]
        raise SynthError(
            f"{phase} {_told(recipe, job)}: {first} ({len(failures)} of this task's {len(mine)} pieces failed)"
        ) from first
    return len(mine)
