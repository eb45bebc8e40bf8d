"""What a training run says of itself: `run.json` in its folder, rewritten whole at every change; and all of them in a
list: `whilst runs [FOLDER]...`."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from whilst.files import write_whole

FILE = "run.json"
SCHEMA = "whilst.run/1"
State = Literal["running", "preempted", "failed", "finished"]


class RunError(ValueError):
    """A run.json that cannot be read; names the file and what is wrong with it."""


@dataclass(frozen=True)
class Run:
    """One run. attempt counts starts from 1; started, updated: seconds since 1970. metrics: the last that were logged.

    error: of a failed run, its last line. checkpoint: the newest whole one. job: Slurm's, "" outside. wandb: its run.
    stalled: how many attempts in a row were stopped at the step that they began at.
    """

    name: str
    stage: str
    state: State
    step: int
    steps: int
    ranks: int
    attempt: int
    started: float
    updated: float
    version: str
    checkpoint: str = ""
    job: str = ""
    host: str = ""
    pid: int = 0
    wandb: str = ""
    error: str = ""
    stalled: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)


def write_run(folder: str | Path, run: Run) -> None:
    """Replace a run's own account of itself."""
    write_whole(Path(folder, FILE), json.dumps({"schema": SCHEMA, **asdict(run)}, indent=1) + "\n")


def read_run(folder: str | Path) -> Run | None:
    """A run's account of itself; None where there is none. RunError where it is not one."""
    file = Path(folder, FILE)
    if not file.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if found.pop("schema", None) != SCHEMA:
            raise ValueError(f"it is not of schema {SCHEMA}")
        unknown = set(found) - {one.name for one in fields(Run)}
        if unknown:
            raise ValueError(f"unknown keys {sorted(unknown)}")
        return Run(**found)
    except (ValueError, TypeError, AttributeError) as error:
        raise RunError(f"{file}: {error}; another version wrote it, or it was edited: remove it") from error


# --- a listing --------------------------------------------------------------------------------------------------------

SILENT = 1800.0  # seconds without a change that are told of; where nobody can be asked, such a run counts as lost
Shown = Literal["running", "preempted", "failed", "finished", "lost", "unreadable"]


@dataclass(frozen=True)
class Listed:
    """A run as `whilst runs` shows it. run: None where its run.json cannot be read. why: what is wrong with it; of a
    lost run, by what it is known; of a running one, that its job waits, or how long it has been silent."""

    folder: Path
    state: Shown
    run: Run | None
    why: str = ""


def find_runs(folders: Sequence[Path]) -> list[Listed]:
    """Every run below `folders`, the last changed first, those that cannot be read at the end.

    A run that says `running` is `lost` where its Slurm job is no longer known to squeue; without a job, where its
    process is no longer there. Where neither can be asked for (no squeue, another host), it is lost when it has not
    written for SILENT seconds. One whose job or process lives is not, however long it takes to a log or a checkpoint.
    RunError for a folder that does not exist.
    """
    found: dict[Path, Listed] = {}
    jobs, now = _jobs(), time.time()
    for folder in folders:
        if not folder.is_dir():
            raise RunError(f"{folder}: no such folder; give the folders that runs were written to")
        for inner, names, files in os.walk(folder):
            names[:] = [name for name in names if not name.startswith("checkpoint-")]
            if FILE in files:
                found[Path(inner).resolve()] = _listed(Path(inner), jobs, now)
    return sorted(found.values(), key=lambda one: -one.run.updated if one.run is not None else 0.0)


def _listed(folder: Path, jobs: Mapping[str, str] | None, now: float) -> Listed:
    try:
        run = read_run(folder)
    except RunError as error:
        return Listed(folder, "unreadable", None, str(error))
    assert run is not None, "its file was just seen"
    if run.state != "running":
        return Listed(folder, run.state, run, run.error)
    state, why = _running(run, jobs, now)
    return Listed(folder, state, run, why)


def _running(run: Run, jobs: Mapping[str, str] | None, now: float) -> tuple[Shown, str]:
    """Whether a run that says it is running does, and what to say of it."""
    silent = f"silent for {age(now - run.updated)}" if now - run.updated > SILENT else ""
    if run.job and jobs is not None:
        if run.job not in jobs:
            return "lost", f"job {run.job} is gone"
        waits = f"job {run.job} is pending" if jobs[run.job] == "PENDING" else ""  # after the loss of a node
        return "running", waits or silent
    if not run.job and run.pid and run.host == socket.gethostname():
        return ("running", silent) if _lives(run.pid) else ("lost", f"process {run.pid} is gone")
    return "lost" if silent else "running", silent


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _jobs() -> dict[str, str] | None:
    """The Slurm jobs that are waiting or running, with their states; None where there is no Slurm to ask."""
    if shutil.which("squeue") is None:
        return None
    asked = subprocess.run(["squeue", "-h", "-o", "%A %T"], capture_output=True, text=True)
    if asked.returncode:
        return None
    return {job: state for job, _, state in (line.partition(" ") for line in asked.stdout.splitlines())}


def age(seconds: float) -> str:
    """A span in its largest whole unit: 40 s, 12 min, 5 h, 3 d."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"


COLUMNS = ("folder", "name", "stage", "state", "step", "attempt", "age", "loss", "reward", "checkpoint", "")


def cells(one: Listed, now: float) -> list[str]:
    """A listed run as the texts of COLUMNS."""
    run = one.run
    if run is None:
        return [str(one.folder), "", "", one.state, "", "", "", "", "", "", one.why]
    figures = [f"{run.metrics[name]:.4g}" if name in run.metrics else "" for name in ("loss", "reward")]
    progress, last = f"{run.step}/{run.steps}", Path(run.checkpoint).name
    told = [str(run.attempt), age(now - run.updated), *figures, last, one.why]
    return [str(one.folder), run.name, run.stage, one.state, progress, *told]


def table(listed: Sequence[Listed], now: float) -> str:
    """A listing for people: a line a run, however long."""
    rows = [COLUMNS, *(cells(one, now) for one in listed)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def as_json(listed: Sequence[Listed]) -> list[dict[str, Any]]:
    """A listing for programs: run.json's fields with the state that is shown, `said` for the one in the file, folder
    and why."""
    return [
        {**(asdict(one.run) if one.run is not None else {}), "said": one.run.state if one.run is not None else None}
        | {"folder": str(one.folder), "state": one.state, "why": one.why}
        for one in listed
    ]
