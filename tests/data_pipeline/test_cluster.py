"""Jobs as tasks of datatrove on Slurm: built and run here, not submitted."""

from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipeline.engine.jobs import Job, phases
from data_pipeline.engine.recipe import Slurm
from data_pipeline.synth import run
from tests.data_pipeline.runs import small

pytest.importorskip("datatrove", reason="datatrove is not installed")


def test_slurm_jobs_wait_for_those_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from data_pipeline.engine import cluster

    recipe = small(
        tmp_path, executor={"partition": "main", "time": "01:00:00", "environment": "source env.sh"}, workers=2
    )
    assert isinstance(recipe.executor, Slurm)
    submitted: list[tuple[str, tuple[str, ...]]] = []

    def submit(script: str, retrieve: Callable[[str], str], *arguments: str) -> str:
        submitted.append((script, arguments))
        return str(100 + len(submitted))

    monkeypatch.setattr("datatrove.executor.slurm.launch_slurm_job", submit)
    report = run(recipe)
    jobs = [(script, arguments) for script, arguments in submitted if "launch_pickled_pipeline" in script]
    assert [script.split("--job-name=small-")[1].split()[0] for script, _ in jobs] == ["gather", "publish", "finish"]
    assert "--array=0-2%2" in jobs[1][0] and "source env.sh" in jobs[1][0] and "--partition=main" in jobs[1][0]
    numbers = [str(101 + submitted.index(job)) for job in jobs]
    assert f"--dependency=afterok:{numbers[0]}" in jobs[1][1] and f"--dependency=afterok:{numbers[1]}" in jobs[2][1]
    assert report == {"submitted": numbers[2]}
    # What a task does, done here in turn: the pickled step of each phase, by rank.
    import dill

    for number, phase in enumerate(phases(recipe)):
        with open(tmp_path / "run" / "logs" / f"{number}-{phase[0].step}" / "executor.pik", "rb") as file:
            executor = dill.load(file)
        for rank in range(len(phase)):
            list(executor.pipeline[0].run(None, rank, len(phase)))
    assert run(recipe)["all"]["samples"]["out"] == 12
    assert cluster.Perform(recipe, [Job("finish")]).jobs == [Job("finish")]


def test_a_step_of_another_number_of_tasks_is_refused(tmp_path: Path) -> None:
    from data_pipeline.engine.cluster import Perform

    with pytest.raises(ValueError, match="2 tasks for 1 jobs"):
        list(Perform(small(tmp_path), [Job("finish")]).run(None, 0, 2))
