"""The jobs as tasks of datatrove: its local executor, or Slurm job arrays. Needs `pip install whilst[synth]`.

datatrove launches, we keep the books: a task is done when its manifest is valid, so datatrove's own marks of completion
are not asked (`skip_completed=False`). They say that a task has returned, not that its files are there. What a job
raises ends its task with an error; the step after waits for all tasks before to end well (Slurm's `afterok`), and reads
only what has a valid manifest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datatrove.executor.local import LocalPipelineExecutor
from datatrove.executor.slurm import SlurmPipelineExecutor
from datatrove.pipeline.base import PipelineStep

from data_pipeline.engine.jobs import Job, perform
from data_pipeline.engine.recipe import Slurm, SynthRecipe
from data_pipeline.engine.tools import Tools


class Perform(PipelineStep):  # type: ignore[misc]
    """Does the job of its rank."""

    name = "whilst synth"
    type = "job"

    def __init__(self, recipe: SynthRecipe, jobs: list[Job]) -> None:
        super().__init__()
        self.recipe, self.jobs = recipe, jobs

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        """Do job `rank`; documents, if any come, are passed on unseen."""
        if world_size != len(self.jobs):
            raise ValueError(f"{world_size} tasks for {len(self.jobs)} jobs")
        manifest = perform(self.recipe, self.jobs[rank], Tools(self.recipe))
        self.stat_update("files", value=len(manifest.files))
        yield from data or ()


def run_datatrove(recipe: SynthRecipe, phases: list[list[Job]]) -> None:
    """Do all jobs with datatrove's local executor. Raises whatever a job raises."""
    for number, jobs in enumerate(phases):
        LocalPipelineExecutor(
            [Perform(recipe, jobs)],
            tasks=len(jobs),
            workers=min(recipe.workers, len(jobs)),
            logging_dir=str(_logs(recipe, number, jobs)),
            skip_completed=False,
        ).run()


def slurm_executors(recipe: SynthRecipe, slurm: Slurm, phases: list[list[Job]]) -> list[SlurmPipelineExecutor]:
    """One executor a phase, each depending on the one before; nothing is launched."""
    executors: list[SlurmPipelineExecutor] = []
    for number, jobs in enumerate(phases):
        executors.append(
            SlurmPipelineExecutor(
                [Perform(recipe, jobs)],
                tasks=len(jobs),
                time=slurm.time,
                partition=slurm.partition,
                cpus_per_task=slurm.cpus_per_task,
                mem_per_cpu_gb=slurm.mem_per_cpu_gb,
                workers=min(recipe.workers, len(jobs)),
                job_name=f"{recipe.name}-{jobs[0].step}",
                qos=slurm.qos,
                env_command=slurm.environment or None,
                sbatch_args=dict(slurm.sbatch),
                max_array_size=slurm.max_array_size,
                depends=executors[-1] if executors else None,
                logging_dir=str(_logs(recipe, number, jobs)),
                skip_completed=False,
            )
        )
    return executors


def launch_slurm(recipe: SynthRecipe, slurm: Slurm, phases: list[list[Job]]) -> str:
    """Submit all phases; the id of the last job. Launching the last launches those that it depends on."""
    last = slurm_executors(recipe, slurm, phases)[-1]
    last.run()
    return str(last.job_id)


def _logs(recipe: SynthRecipe, number: int, jobs: list[Job]) -> Path:
    return Path(recipe.output).absolute() / "logs" / f"{number}-{jobs[0].step}"
