"""What the benchmarks share: timing in turns, a table, and the last line.

Times are CPU seconds of this process on one thread: what the wall clock says on an idle core, without the waits that
other work on the machine causes. What is compared runs in turns, so that whatever slows the machine down slows all of
it, and a ratio is the median of the ratios within the turns.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import torch


def one_thread() -> None:
    """Measure on one thread, whatever OMP_NUM_THREADS says."""
    torch.set_num_threads(1)


def take_turns(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """CPU seconds of each run, `repeats` times in turns; every second turn goes backwards.

    Run everything once before: benchmarks do when they check that the results are the same. What a run returns is freed
    within its time, as it would be in a training step.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats):
        names = list(runs) if turn % 2 == 0 else list(runs)[::-1]
        for name in names:
            started = time.process_time()
            runs[name]()
            seconds[name].append(time.process_time() - started)
    return seconds


def paired_ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Median over the turns of over / under."""
    return median(a / b for a, b in zip(over, under, strict=True))


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows as text, in columns; floats with three digits."""
    cells = [[_cell(value) for value in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in cells)


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def last_line(name: str, ratio: float, target: float, holds: bool, details: Mapping[str, Any]) -> str:
    """The JSON object that a benchmark ends with; `details` may be nested, its floats are cut to four digits."""
    return json.dumps({"name": name, "ratio": _cut(ratio), "target": target, "holds": holds, "details": _cut(details)})


def _cut(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {str(key): _cut(item) for key, item in value.items()}
    return [_cut(item) for item in value] if isinstance(value, (list, tuple)) else value
