"""The demo: every recipe of a folder, stage by stage, each in a process of its own.

    whilst demo                                                 # recipes/tiny: world, samples, model, arms, evaluation

Recipes of one stage run `parallel` at a time, since they do not need each other; the next stage waits for all of them.
Each process writes to a log. If one fails, the others are ended and the end of its log is shown.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from whilst.recipe import stage_of

ORDER = ("world", "synth", "tiny", "sft", "grpo", "eval")
FRAGMENT = "base.yaml"  # what the others extend; no recipe by itself
# One thread a process: two OpenMP threads on two cores collapse as soon as two processes run.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}


class DemoError(ValueError):
    """A folder without recipes, or a process that failed; the message holds the end of its log."""


@dataclass(frozen=True)
class Job:
    """One recipe, the stage that runs it, and where its output goes."""

    stage: str
    recipe: Path
    log: Path

    @property
    def name(self) -> str:
        return self.recipe.stem


@dataclass
class Running:
    """A job's process, and its seconds: since when (monotonic clock), and how long it took once it has ended."""

    job: Job
    process: subprocess.Popen[bytes]
    since: float
    seconds: float | None = None


def jobs_of(folder: Path, logs: Path) -> list[list[Job]]:
    """The jobs of every recipe in `folder`, one list a stage, in the order in which stages run.

    Raises:
        DemoError: no recipe there, or one of a stage that does not exist.
    """
    paths = sorted(path for path in folder.glob("*.yaml") if path.name != FRAGMENT)
    if not paths:
        raise DemoError(f"{folder}: no recipes here; run the demo in the repository's folder, or give --recipes")
    jobs = [Job(stage_of(path), path, logs / f"{path.stem}.log") for path in paths]
    for job in jobs:
        if job.stage not in ORDER:
            raise DemoError(f"{job.recipe}: stage {job.stage!r} is not one of {', '.join(ORDER)}")
    return [wave for stage in ORDER if (wave := [job for job in jobs if job.stage == stage])]


def run(folder: Path, output: Path, parallel: int = 2) -> dict[str, float]:
    """Run every recipe of `folder`; logs go to `output`/logs. Returns the seconds that each took.

    Raises:
        DemoError: see `jobs_of`, and where a process fails.
    """
    waves = jobs_of(folder, output / "logs")
    (output / "logs").mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    seconds: dict[str, float] = {}
    for wave in waves:
        seconds |= _run_wave(wave, parallel, console)
    return seconds


def _run_wave(wave: Sequence[Job], parallel: int, console: Console) -> dict[str, float]:
    waiting, all_of_them = list(wave), list[Running]()
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        try:
            while waiting or any(running.seconds is None for running in all_of_them):
                while waiting and sum(running.seconds is None for running in all_of_them) < parallel:
                    all_of_them.append(_start(waiting.pop(0)))
                for running in all_of_them:
                    if running.seconds is None and running.process.poll() is not None:
                        _ended(running, console)
                if console.is_terminal:
                    live.update(_state(all_of_them, waiting))
                time.sleep(0.1)
        finally:
            for running in all_of_them:
                if running.process.poll() is None:
                    running.process.terminate()
                    running.process.wait()
    return {running.job.name: running.seconds or 0.0 for running in all_of_them}


def _start(job: Job) -> Running:
    with job.log.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "whilst.cli", job.stage, str(job.recipe)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | ENVIRONMENT,
        )
    return Running(job, process, time.monotonic())


def _ended(running: Running, console: Console) -> None:
    running.seconds = time.monotonic() - running.since
    job, code = running.job, running.process.returncode
    if code != 0:
        end = "\n".join(job.log.read_text(errors="replace").splitlines()[-15:])
        raise DemoError(f"{job.stage} {job.recipe} ended with exit code {code}; the end of {job.log}:\n{end}")
    console.print(f"{job.stage} {job.name}: {running.seconds:.0f} s", highlight=False)


def _state(started: Sequence[Running], waiting: Sequence[Job]) -> Table:
    table = Table("stage", "recipe", "seconds", "last line of its log", box=None, padding=(0, 2, 0, 0))
    for running in started:
        if running.seconds is None:
            lines = running.job.log.read_text(errors="replace").splitlines()
            last = lines[-1][:80] if lines else ""
            table.add_row(running.job.stage, running.job.name, f"{time.monotonic() - running.since:.0f}", last)
    for job in waiting:
        table.add_row(job.stage, job.name, "waits", "", style="dim")
    return table
