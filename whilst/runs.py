"""What a training run says of itself: `run.json` in its folder, rewritten whole at every change."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
