"""Making samples: sources in files to filtered Parquet shards, at 1,000, 10,000 and 100,000 samples.

Claim: the local runner takes the CPU time of datatrove's local executor with the same jobs, to within a tenth; its
memory does not grow with the data, at most 1 kB for each further sample, all processes together; and every builder of
the second table makes 2,000 samples a minute or more on two cores, by the wall clock, starting the programs included.

Baseline: datatrove 0.10.1, LocalPipelineExecutor with the same number of workers, up to 10,000 samples: with more, a
run is the same work for longer. Both do the same jobs on the same shards and must write the same bytes.

Sources are worlds of 6 to 8 segments (1,000 different ones, again and again under new ids), the builder is `tays`,
texts are templates, all filters but the guesser are on. The second table has other builders on 1,000 sources. Videos
are neither there nor needed: nothing is decoded. CPU time and memory are those of all processes of a run, looked at ten
times a second; shared pages count once for each process. Memory is said to grow from the second largest size to the
largest: before that, buffers are still filling.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks._measure import last_line, table
from data_pipeline.source import to_record
from data_pipeline.world.build import BuildReport, tell
from data_pipeline.world.config import WorldConfig

TARGET = 0.9  # times the CPU time of datatrove; the rest is noise
BYTES = 1000.0  # of memory for each further sample
A_MINUTE = 2000.0  # samples, of every builder
SIZES = (1_000, 10_000, 100_000)
COMPARED = 10_000  # samples: up to here datatrove runs too
SHARDS = 8
A_SOURCE = 2  # samples that `tays` makes of one
RUNNERS = {"local": "local", "datatrove": "{name: datatrove}"}

WORLD = WorldConfig(segments=(6, 8), events={"enter": 1.0, "leave": 1.0, "touch": 1.0})

PROGRAM = """
import sys
from data_pipeline.synth import SynthRecipe, run
from whilst.recipe import load_recipe

if __name__ == "__main__":
    run(load_recipe(sys.argv[1], SynthRecipe, sys.argv[2:]))
"""
RECIPE = """
name: benchmark
stage: synth
output: run
inputs: {train: {sources: [sources.jsonl], shards: %d}}
builder: {%s}
workers: %d
"""

# What the second table runs at 1,000 sources, the local runner alone; the first one takes `tays` for its speed.
BUILDERS = ("vst: {}", "live_narration: {fps: 1.0}", "tww: {stage: 2}", "timechat_online: {}", "world: {}")


@dataclass(frozen=True)
class Run:
    """What a run took: wall and CPU seconds, and the peak of all processes' memory in bytes."""

    seconds: float
    cpu: float
    memory: int
    samples: int
    digest: str


def write_sources(path: Path, n: int, different: int) -> None:
    """`n` sources, of which `different` are different but for their ids."""
    worlds = [to_record(told.source) for told in tell(replace(WORLD), "train", min(n, different), BuildReport())]
    with open(path, "w", encoding="utf-8") as file:
        for k in range(n):
            record = worlds[k % len(worlds)]
            record["id"] = f"w{k:06d}"
            file.write(json.dumps(record) + "\n")


def measure(folder: Path, runner: str) -> Run:
    """One run in `folder`, which holds sources.jsonl; its output is deleted."""
    (folder / "program.py").write_text(PROGRAM)
    command = [sys.executable, str(folder / "program.py"), "recipe.yaml", f"executor={RUNNERS[runner]}"]
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    started = time.monotonic()
    with open(folder / "log.txt", "w+") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
        cpu: dict[int, float] = {}
        memory = 0
        while process.poll() is None:
            now = {pid: found for pid in _pids() if (found := _looked_at(pid, process.pid)) is not None}
            cpu |= {pid: seconds for pid, (seconds, _) in now.items()}
            memory = max(memory, sum(size for _, size in now.values()))
            time.sleep(0.1)
        log.seek(0)
        assert process.returncode == 0, log.read()[-3000:]
    seconds = time.monotonic() - started
    report = json.loads((folder / "run" / "yields.json").read_text())
    digest = hashlib.sha256()
    for path in sorted((folder / "run" / "data").iterdir()):
        digest.update(path.read_bytes())
    subprocess.run(["rm", "-r", str(folder / "run")], check=True)
    return Run(seconds, sum(cpu.values()), memory, report["all"]["samples"]["out"], digest.hexdigest())


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _looked_at(pid: int, session: int) -> tuple[float, int] | None:
    """CPU seconds and resident bytes of a process of the session; None for any other, or one that is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if int(fields[3]) != session:
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    return (int(fields[11]) + int(fields[12])) / ticks, int(fields[21]) * os.sysconf("SC_PAGE_SIZE")


def compare(folder: Path, n: int, workers: int, different: int) -> dict[str, Any]:
    """Both runners on `n` samples, in turns; the local one alone on more than COMPARED."""
    folder.mkdir()
    write_sources(folder / "sources.jsonl", n // A_SOURCE, different)
    (folder / "recipe.yaml").write_text(RECIPE % (SHARDS, "tays: {}", workers))
    runs = {name: measure(folder, name) for name in RUNNERS if n <= COMPARED or name == "local"}
    assert len({run.digest for run in runs.values()}) == 1, "the runners write different shards"
    found: dict[str, Any] = {name: _figures(run) for name, run in runs.items()}
    if "datatrove" in runs:
        found["ratio"] = runs["datatrove"].cpu / runs["local"].cpu
    return found


def rate(folder: Path, builder: str, n: int, workers: int) -> Mapping[str, float]:
    """The local runner and one builder on `n` sources."""
    folder.mkdir()
    write_sources(folder / "sources.jsonl", n, n)
    (folder / "recipe.yaml").write_text(RECIPE % (SHARDS, builder, workers))
    return _figures(measure(folder, "local"))


def _figures(run: Run) -> Mapping[str, float]:
    return {
        "samples": run.samples,
        "seconds": run.seconds,
        "cpu_seconds": run.cpu,
        "samples_per_minute": 60 * run.samples / run.seconds,
        "megabytes": run.memory / 1e6,
    }


def main(sizes: tuple[int, ...] = SIZES, workers: int = 2, different: int = 1000) -> str:
    """Measure every size in a folder of its own, which is deleted."""
    with tempfile.TemporaryDirectory() as folder:
        results = {n: compare(Path(folder) / str(n), n, workers, different) for n in sizes}
        rates = {b: rate(Path(folder) / b.partition(":")[0], b, different, workers) for b in BUILDERS}
    measures = ("samples", "seconds", "cpu_seconds", "samples_per_minute", "megabytes")
    head = ["samples", "seconds", "CPU seconds", "samples a minute", "MB at most"]
    rows = [[name, *(r[name][key] for key in measures)] for r in results.values() for name in RUNNERS if name in r]
    small, large = (results[n]["local"] for n in sizes[-2:])
    slope = 1e6 * (large["megabytes"] - small["megabytes"]) / max(1, large["samples"] - small["samples"])
    ratio = [r["ratio"] for r in results.values() if "ratio" in r][-1]
    print(f"memory of the local runner: {slope:.0f} bytes for each further sample")
    print(table(["runner", *head], rows))
    print()
    print(table(["builder", *head], [[name, *(found[key] for key in measures)] for name, found in rates.items()]))
    details = {
        "workers": workers,
        "bytes_per_sample": slope,
        "most_bytes": BYTES,
        "least_a_minute": A_MINUTE,
        "sizes": results,
        "builders": rates,
    }
    fast = min(found["samples_per_minute"] for found in rates.values()) >= A_MINUTE
    holds = ratio >= TARGET and slope <= BYTES and fast
    return last_line("synth: datatrove's CPU time over the local runner's", ratio, TARGET, holds, details)


if __name__ == "__main__":
    print(main())
