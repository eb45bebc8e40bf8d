"""`whilst doctor causality FOLDER`: the future-leak test (causality.py) on a dataset that `whilst synth` made.

    report = check_folder("runs/vst", cuts=3)
    write_report(report, "runs/vst/causality.json")
    show(report, console)
    sys.exit(exit_code(report))

Needed in the folder: recipe.yaml, sources/ (the graphs) and data/ (the samples), all as `whilst synth` leaves them. An
endpoint's texts come out of its cache; what is not cached is asked for anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from data_pipeline.doctor.causality import CausalityReport, check_samples
from data_pipeline.engine.recipe import SynthRecipe
from data_pipeline.engine.tools import Tools
from data_pipeline.source import SynthError, draw, scan_sources
from whilst.recipe import load_recipe
from whilst.sample import Sample, SampleError, from_record, json_lines, replacing

SHOWN = 20  # leaks that the table names; the JSON report has all


def check_folder(folder: str | Path, cuts: int = 3, limit: int | None = None, seed: int = 0) -> CausalityReport:
    """Check every sample of a dataset, or about `limit` of them, drawn by their ids and `seed`.

    `cuts` moments are looked at for each sample.

    Raises:
        SynthError: a file is missing, or a sample is of no source of its shard; names it.
        SampleError: a sample that breaks a rule.
    """
    folder = Path(folder)
    for part in ("recipe.yaml", "sources", "data"):
        if not (folder / part).exists():
            raise SynthError(f"{folder / part}: missing; give the output folder of a finished `whilst synth`")
    recipe = load_recipe(folder / "recipe.yaml", SynthRecipe)
    write = Tools(recipe).write
    chosen = recipe.builder
    share = 1.0 if limit is None else min(1.0, limit / max(1, _count(folder)))
    report = CausalityReport()
    for sources in _shards(folder):
        groups = groupby(_samples(folder, sources.stem), key=lambda sample: str(sample.meta.get("source")))
        waiting = next(groups, None)
        for source in scan_sources(sources):
            if waiting is None or waiting[0] != source.id:
                continue  # no sample of this source is left
            samples = [one for one in waiting[1] if draw(seed, "doctor", one.id).random() < share]
            report.add(check_samples(samples, source, chosen.builder, chosen.settings, write, recipe.seed, cuts))
            waiting = next(groups, None)
        if waiting is not None:
            raise SynthError(f"{sources}: has no source {waiting[0]!r} in its place, of which data/ holds a sample")
    return report


def _shards(folder: Path) -> list[Path]:
    found = sorted((folder / "sources").glob("*.jsonl"))
    if not found:
        raise SynthError(f"{folder / 'sources'}: no *.jsonl in it; without graphs nothing can be told again")
    return found


def _samples(folder: Path, stem: str) -> Iterator[Sample]:
    """The samples of a shard, one by one."""
    parquet, lines = folder / "data" / f"{stem}.parquet", folder / "data" / f"{stem}.jsonl"
    if parquet.is_file():
        for batch in pq.ParquetFile(parquet).iter_batches(batch_size=64):
            for row in batch.to_pylist():
                record: object = {name: row[name] for name in ("schema", "id", "memory")} | {
                    name: json.loads(row[name]) for name in ("video", "events", "meta")
                }
                yield from_record(record, f"{parquet}: {row['id']}")
    elif lines.is_file():
        for line, record in json_lines(lines):
            if isinstance(record, SampleError):
                raise SampleError(f"{lines}:{line}: {record}")
            yield from_record(record, f"{lines}:{line}")
    else:
        raise SynthError(f"{parquet}: missing; the run is not finished, run its recipe again")


def _count(folder: Path) -> int:
    return sum(1 for sources in _shards(folder) for _ in _samples(folder, sources.stem))


def write_report(report: CausalityReport, path: str | Path) -> None:
    """The report as JSON."""
    with replacing(path) as part:
        text = json.dumps(report.to_json(), ensure_ascii=False, indent=2, allow_nan=False)
        Path(part).write_text(text + "\n", encoding="utf-8")


def show(report: CausalityReport, console: Console) -> None:
    """What was checked and found, for people."""
    table = Table("what", "count", title="causality: nothing said at t may depend on what comes after t")
    rows: list[tuple[str, Any]] = [("samples", report.samples), ("samples checked", report.checked)]
    rows += [(f"told again: {name}", count) for name, count in sorted(report.futures.items())]
    rows += [(f"compared: {name}", count) for name, count in sorted(report.compared.items())]
    for what, count in (*rows, ("leaks", len(report.leaks))):
        table.add_row(what, str(count))
    console.print(table)
    for sample, reason in report.unchecked[:SHOWN]:
        console.print(f"not checked: {sample}: {reason}", markup=False)
    for leak in report.leaks[:SHOWN]:
        until = "" if leak.time is None else f" after {leak.time:g} s"
        query = f" to {leak.query}" if leak.query else ""
        where = f"{leak.sample}: {leak.event}{query} at {leak.at:g} s"
        console.print(f"{where}: {leak.said!r}, told again ({leak.variant}{until}): {leak.again!r}", markup=False)
    console.print("clean" if report.clean else "NOT clean", markup=False)


def exit_code(report: CausalityReport) -> int:
    """0 when all samples were checked and none leaks, else 1."""
    return 0 if report.clean else 1
