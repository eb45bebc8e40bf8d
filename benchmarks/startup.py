"""How long `whilst` takes to start: the help of every command, and the plan of a small recipe.

Claim: `whilst --help` takes at most a quarter of the time that Python takes to import torch: the door loads neither
torch nor any stage before a command needs it. It then stays under half a second (`seconds` in the details says what was
measured here). The help of each command is in the table and the details, the slowest by name.

Baseline: `python -c "import torch"` with the same interpreter and environment, from the same compiled files. Every
command that loads a model pays that in any case; help need not.

Times are CPU seconds of whole processes, as the system counts them for children; runs in turns, medians. `whilst plan`
loads torch, transformers and TRL to build the model on the meta device; it is timed for the details.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from benchmarks._measure import last_line, paired_ratio, table

TARGET = 0.25
SECONDS = 0.5
REPEATS = 3
RECIPE = """
name: startup
stage: sft
output: runs/startup
model: {path: Qwen/Qwen3-VL-2B-Instruct}
data: {train: none.jsonl}
optim: {steps: 1}
"""


def cpu_seconds(arguments: list[str]) -> float:
    """CPU seconds of a process that must end well."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *arguments], check=True, env=environment, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def commands() -> list[str]:
    """The commands that the door has."""
    from whilst.cli import app

    names = [command.name or str(getattr(command.callback, "__name__", "")) for command in app.registered_commands]
    return [*names, *(str(group.name) for group in app.registered_groups)]


def main(repeats: int = REPEATS) -> str:
    """Measure everything in turns."""
    door = ["-m", "whilst.cli"]
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder, "recipe.yaml")
        recipe.write_text(RECIPE)
        runs = {"import torch": ["-c", "import torch"], "whilst --help": [*door, "--help"]}
        runs |= {f"whilst {name} --help": [*door, name, "--help"] for name in commands()}
        plan = [*door, "plan", str(recipe)]
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(repeats):
            for name in list(runs) if turn % 2 == 0 else list(runs)[::-1]:
                seconds[name].append(cpu_seconds(runs[name]))
        planned = median(cpu_seconds(plan) for _ in range(2))
    torch = seconds.pop("import torch")
    ratios = {name: paired_ratio(times, torch) for name, times in seconds.items()}
    slowest = max(ratios, key=lambda name: ratios[name])
    medians = {name: median(times) for name, times in seconds.items()}
    print(table(["command", "CPU s", "/ import torch"], [[n, medians[n], ratios[n]] for n in ratios]))
    ratio = ratios["whilst --help"]
    details = {
        "unit": "CPU seconds",
        "import torch": median(torch),
        "slowest": {"command": slowest, "ratio": ratios[slowest]},
        "seconds": medians,
        "plan": planned,
        "help under half a second": medians["whilst --help"] < SECONDS,
    }
    return last_line("start-up, help / import torch", ratio, TARGET, ratio <= TARGET, details)


if __name__ == "__main__":
    print(main())
