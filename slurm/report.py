"""What the tasks of job arrays have left undone: which pieces, which task had them, and what its log says last.

    whilst synth recipe.yaml --missing | python -m slurm.report LAUNCH_FOLDER gather=41:1 publish=42:16

Reads a line a missing piece, `<phase> <number> <name>`; PHASE=JOB:TASKS says which array did a phase. Piece i is of
task i modulo TASKS. Writes report.json into the folder. Ends with code 1 where something is missing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

TAIL = 400  # characters of a log


def arrays_of(given: Iterable[str]) -> dict[str, tuple[str, int]]:
    """PHASE=JOB:TASKS as {phase: (job, tasks)}."""
    found = {}
    for text in given:
        phase, _, rest = text.partition("=")
        job, _, tasks = rest.partition(":")
        found[phase] = job, int(tasks)
    return found


def missing(lines: Iterable[str], folder: Path, arrays: Mapping[str, tuple[str, int]]) -> list[dict[str, Any]]:
    """The missing pieces, in the order of the lines: phase, piece, name, and of its task: job, log, last words."""
    found = []
    for line in lines:
        phase, number, name = line.rstrip("\n").split(" ", 2)
        one: dict[str, Any] = {"phase": phase, "piece": int(number), "name": name}
        if phase in arrays:
            job, tasks = arrays[phase]
            log = folder / "logs" / phase / f"{job}_{int(number) % tasks}.log"
            said = log.read_text(encoding="utf-8", errors="replace").strip() if log.is_file() else ""
            one |= {"job": f"{job}_{int(number) % tasks}", "log": str(log), "says": said[-TAIL:]}
        found.append(one)
    return found


def told(found: list[dict[str, Any]], folder: Path) -> str:
    """For people. The last words of a log stand once, however many pieces its task had."""
    if not found:
        return "nothing is missing"
    lines, seen = [f"{len(found)} pieces are missing; `whilst launch` with the same recipe does just those"], set()
    for one in found:
        lines.append(f"  {one['phase']} {one['piece']} {one['name']}: task {one.get('job', '(none was submitted)')}")
        log = one.get("log")
        if log is not None and log not in seen:
            seen.add(log)
            last = one["says"].splitlines()[-1:] or ["it wrote nothing: it was never started, or killed at once"]
            lines.append(f"    {log}: {last[0]}")
    return "\n".join([*lines, f"report: {folder / 'report.json'}"])


if __name__ == "__main__":
    where = Path(sys.argv[1])
    undone = missing(sys.stdin, where, arrays_of(sys.argv[2:]))
    (where / "report.json").write_text(json.dumps({"missing": undone}, indent=1, ensure_ascii=False) + "\n")
    print(told(undone, where))
    sys.exit(1 if undone else 0)
