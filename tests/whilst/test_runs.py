"""`whilst runs`: how far each run is, which are lost and by what that is known, and none is left out."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from whilst.cli import app
from whilst.runs import SILENT, Run, RunError, age, find_runs, write_run

NOW = 1.8e9  # the same however long ago this file was read: a whole suite takes longer than a run may be silent
RUN = Run(
    name="a",
    stage="sft",
    state="running",
    step=3,
    steps=10,
    ranks=2,
    attempt=1,
    started=NOW - 100,
    updated=NOW - 90,
    version="0",
    host=socket.gethostname(),
    pid=os.getpid(),
    metrics={"loss": 1.25},
)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whilst.runs.time.time", lambda: NOW)


def put(folder: Path, run: Run) -> None:
    folder.mkdir(parents=True)
    write_run(folder, run)


def ended() -> int:
    """The id of a process that is no more."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_a_running_run_is_lost_when_its_process_is_gone_or_nobody_can_say_and_it_is_silent(tmp_path: Path) -> None:
    gone = ended()
    put(tmp_path / "alive", RUN)
    put(tmp_path / "dead", replace(RUN, pid=gone, updated=NOW - 80))
    put(tmp_path / "elsewhere", replace(RUN, host="another", pid=gone, updated=NOW - 70))
    put(tmp_path / "silent", replace(RUN, host="another", updated=NOW - SILENT - 3600))
    put(tmp_path / "slow", replace(RUN, updated=NOW - SILENT - 3600))  # samples are measured, steps are long
    put(tmp_path / "over", replace(RUN, state="finished", pid=gone, updated=NOW - 10 * SILENT))
    shown = {one.folder.name: (one.state, one.why) for one in find_runs([tmp_path])}
    assert shown == {
        "alive": ("running", ""),
        "dead": ("lost", f"process {gone} is gone"),
        "elsewhere": ("running", ""),
        "silent": ("lost", "silent for 1 h"),
        "slow": ("running", "silent for 1 h"),
        "over": ("finished", ""),
    }


def test_a_job_is_asked_for_where_there_is_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process of a job is on another host, and may have the same id as one of this host."""
    put(tmp_path / "runs/runs", replace(RUN, job="7", pid=ended()))
    put(tmp_path / "runs/slow", replace(RUN, job="77", updated=NOW - 2 * SILENT - 10))
    put(tmp_path / "runs/requeued", replace(RUN, job="777", updated=NOW - 95))
    put(tmp_path / "runs/cancelled", replace(RUN, job="8", updated=NOW - 100))
    squeue = tmp_path / "bin/squeue"
    squeue.parent.mkdir()
    squeue.write_text("#!/bin/sh\necho 7 RUNNING\necho 77 RUNNING\necho 777 PENDING\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{squeue.parent}:{os.environ['PATH']}")
    assert [(one.folder.name, one.state, one.why) for one in find_runs([tmp_path / "runs"])] == [
        ("runs", "running", ""),
        ("requeued", "running", "job 777 is pending"),
        ("cancelled", "lost", "job 8 is gone"),
        ("slow", "running", "silent for 1 h"),
    ]


def test_the_listing_shows_all_and_broken_ones_too(tmp_path: Path) -> None:
    put(tmp_path / "deep/er/one", replace(RUN, checkpoint="runs/one/checkpoint-2", attempt=2))
    put(tmp_path / "failed", replace(RUN, state="failed", error="GRPOError: drift", metrics={"reward": 0.5}))
    put(tmp_path / "deep/er/one/checkpoint-2", RUN)  # a copy inside a checkpoint is no run
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/run.json").write_text('{"schema": "whilst.run/1", "na')
    table = CliRunner().invoke(app, ["runs", str(tmp_path)]).output.splitlines()
    assert len(table) == 4, table
    rows = {Path(line.split()[0]).name: line for line in table[1:]}
    for part in ("running", "3/10", "2", "1.25", "checkpoint-2"):
        assert part in rows["one"].split()
    assert "0.5" in rows["failed"].split() and "GRPOError: drift" in rows["failed"]
    assert "unreadable" in rows["broken"] and "broken/run.json" in rows["broken"]
    found = json.loads(CliRunner().invoke(app, ["runs", str(tmp_path), "--json"]).output)
    states = {Path(one["folder"]).name: (one["state"], one["said"]) for one in found}
    assert states == {
        "one": ("running", "running"),
        "failed": ("failed", "failed"),
        "broken": ("unreadable", None),
    }
    with pytest.raises(RunError, match="no such folder"):
        find_runs([tmp_path / "nothing"])


def test_ages_are_told_in_one_unit() -> None:
    assert [age(s) for s in (-1, 59, 60, 3599, 3600, 86399, 200000)] == [
        "0 s", "59 s", "1 min", "59 min", "1 h", "23 h", "2 d",
    ]  # fmt: skip
