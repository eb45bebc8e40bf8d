"""Run benchmarks, each in a process of its own, and write docs/BENCHMARKS.md.

    python -m benchmarks                # all; exit code 1 if one of them fails or ends without its JSON line
    python -m benchmarks masks rollout  # these alone; the page keeps what it says of the others, and when that was

A claim that does not hold is written down like any other: the page says what was measured.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "BENCHMARKS.md"
KEYS = ("name", "ratio", "target", "holds", "details")
LIBRARIES = ("torch", "transformers", "trl", "numpy", "av")


@dataclass(frozen=True)
class Result:
    """What a benchmark printed before its last line, that line as `figures`, and the seconds it took.

    `fault` says why there are no figures; it is empty where there are.
    """

    file: str
    printed: str
    figures: dict[str, Any]
    seconds: float
    fault: str = ""


def run(path: Path) -> Result:
    """Run one benchmark, passing its output through as it comes."""
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=path.parent.parent,
        env=os.environ | {"PYTHONPATH": str(path.parent.parent)},
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line.rstrip())
    code, seconds = process.wait(), time.monotonic() - started
    while lines and not lines[-1]:
        lines.pop()
    if code != 0:
        return Result(path.name, "\n".join(lines), {}, seconds, f"exit code {code}")
    figures = read_figures(lines[-1] if lines else "")
    if figures is None:
        return Result(
            path.name, "\n".join(lines), {}, seconds, f"its last line is no JSON object with {', '.join(KEYS)}"
        )
    return Result(path.name, "\n".join(lines[:-1]), figures, seconds)


def read_figures(line: str) -> dict[str, Any] | None:
    """The figures of a benchmark's last line; None where it is anything else."""
    try:
        found = json.loads(line)
    except json.JSONDecodeError:
        return None
    return found if isinstance(found, dict) and set(KEYS) <= found.keys() else None


def page(results: Sequence[Result], machine: str, when: str, before: str = "") -> str:
    """The results as Markdown: a table of the claims, then what each benchmark printed. when: date and commit of these;
    before: the page as it was, whose other benchmarks stay."""
    rows, parts = _told(before)
    for r in results:
        claim = (
            f"{r.figures['name']} | {_number(r.figures['ratio'])} | {_number(r.figures['target'])} |"
            f" {'yes' if r.figures['holds'] else 'NO'}"
            if not r.fault
            else f"- | - | - | failed: {r.fault}"
        )
        rows[r.file] = f"| {r.file} | {claim} | {r.seconds:.0f} | {when} |"
        parts[r.file] = f"## {r.file}\n\n```\n{r.printed.strip()}\n```\n"
    head = ["| file | claim | ratio | target | holds | seconds | measured |", "|---|---|---|---|---|---|---|"]
    table = "\n".join([*head, *(rows[file] for file in sorted(rows))])
    text = "\n".join(parts[file] for file in sorted(parts))
    return f"# Benchmarks\n\nWritten by `make bench`. {machine}\n\n{table}\n\n{text}"


def _told(text: str) -> tuple[dict[str, str], dict[str, str]]:
    """Row and section of each benchmark that a page has."""
    head, *sections = text.split("\n## ")
    rows = {line.split("|")[1].strip(): line for line in head.splitlines() if line.count("|") == 8 and ".py |" in line}
    return rows, {section.partition("\n")[0]: f"## {section.rstrip()}\n" for section in sections}


def _number(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def describe_machine() -> str:
    """Machine, date and commit, in Markdown."""
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return (
        f"\n\n- date: {datetime.now(UTC):%Y-%m-%d %H:%M} UTC\n- commit: {_commit()}\n"
        f"- machine: {_processor()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()},"
        f" OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}\n"
        f"- software: Python {platform.python_version()}, {libraries}"
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown processor"


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()

    return git("rev-parse", "HEAD") + (" with uncommitted changes" if git("status", "--porcelain") else "")


def main(folder: Path = HERE, out: Path = PAGE, names: Sequence[str] = ()) -> int:
    """Run the benchmarks of `folder`, or those that are named, write `out`, and return the exit code."""
    paths = sorted(path for path in folder.glob("*.py") if not path.name.startswith("_"))
    if unknown := set(names) - {path.stem for path in paths}:
        print(f"{folder}: no benchmark {', '.join(sorted(unknown))}", file=sys.stderr)
        return 1
    paths = [path for path in paths if not names or path.stem in names]
    if not paths:
        print(f"{folder}: no benchmarks", file=sys.stderr)
        return 1
    results = []
    for path in paths:
        print(f"\n== {path.name}", flush=True)
        results.append(run(path))
    out.parent.mkdir(parents=True, exist_ok=True)
    before = out.read_text(encoding="utf-8") if names and out.exists() else ""
    when = f"{datetime.now(UTC):%Y-%m-%d}, {_commit()[:7]}"
    out.write_text(page(results, describe_machine(), when, before), encoding="utf-8")
    print(f"\nwritten: {out}")
    for result in results:
        if result.fault:
            print(f"error: {result.file}: {result.fault}", file=sys.stderr)
    return 1 if any(result.fault for result in results) else 0


if __name__ == "__main__":
    sys.exit(main(names=sys.argv[1:]))
