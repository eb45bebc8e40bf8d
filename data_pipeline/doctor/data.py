"""`whilst doctor data`: are the files of a dataset sound, and do its annotations fit its videos?

    report = check_data(Path("runs/vst"), state=Path("runs/vst.checked.jsonl"))
    print_report(report, Console()); write_report(report, Path("runs/vst.data.json"))

Every record is read and every video is looked at; nothing is changed. An error makes the data wrong or unreadable, a
warning is for a person to judge. Memory grows with the number of videos and ids, not with that of events.
"""

from __future__ import annotations

import glob
import json
import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from data_pipeline.doctor.lookalikes import groups
from data_pipeline.doctor.videos import Depth, VideoCheck, check_videos
from data_pipeline.graph import GraphError
from data_pipeline.source import SCHEMA as SOURCE_SCHEMA
from data_pipeline.source import Source, SynthError
from data_pipeline.source import from_record as source_from_record
from whilst.progress import progress
from whilst.sample import SCHEMA as SAMPLE_SCHEMA
from whilst.sample import Query, Sample, SampleError, json_lines, parse_json, replacing
from whilst.sample import from_record as sample_from_record
from whilst.video import ROUNDED_END

SCHEMA = "whilst.data_report/1"

CHECKS = {
    "invalid record": "no valid sample or source: it breaks a rule, or is of another schema",
    "duplicate id": "an id that came before",
    "missing video": "no such file",
    "zero-byte video": "an empty file",
    "undecodable video": "frames that cannot be decoded, or end too early",
    "duration mismatch": "a record says that the video is longer (error) or shorter (warning) than it is",
    "options not shown": "a query whose text, all that a model reads of it, does not hold its options (warning)",
    "outside the video": "an event, edge or segment after the end of the file",
    "no licence": "records that name no licence (warning)",
    "near-duplicate videos": "files that show the same (warning)",
}

Level = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong. `item` is a path or id, `where` the file and line (or row) that speaks of it."""

    check: str
    level: Level
    item: str
    where: str
    message: str


@dataclass
class DataReport:
    """All findings, in the order of the data. samples + sources + invalid == records; sound + unsound == videos."""

    path: str
    records: int = 0
    samples: int = 0
    sources: int = 0
    invalid: int = 0
    videos: int = 0
    sound: int = 0
    unsound: int = 0
    hours: float = 0.0
    findings: list[Finding] = field(default_factory=list)

    def count(self, level: Level) -> int:
        """How many findings of a level there are; data without errors is fit for use."""
        return sum(finding.level == level for finding in self.findings)


def check_data(
    path: Path, *, state: Path | None = None, depth: Depth = "few", workers: int = 1, tolerance: float = ROUNDED_END
) -> DataReport:
    """Check a dataset.

    path: a folder that `whilst synth` or `whilst world` wrote, a file of samples or sources, or the name of shards.
    state: remembers the videos that are sound, so that a later run (after a kill, or of grown data) skips them.
    depth: decode a few frames of each video, or all.
    workers: processes that decode.
    tolerance: seconds by which times may pass the end of the video, as readers allow.

    Raises:
        SynthError: no data at `path`, or a state file that is none.
    """
    report = DataReport(str(path))
    uses: dict[str, _Use] = {}
    ids: dict[tuple[str, str], str] = {}
    for file in _files(path):
        licences = _Licences(str(file))
        for where, record in _records(file):
            report.records += 1
            item = _item(record, where)
            if isinstance(item, Finding):
                report.invalid += 1
                report.findings.append(item)
                continue
            kind = "source" if isinstance(item, Source) else "sample"
            report.sources += kind == "source"
            report.samples += kind == "sample"
            first = ids.setdefault((kind, item.id), where)
            if first != where:
                message = f"{first} has this {kind} id too; give each {kind} its own"
                report.findings.append(Finding("duplicate id", "error", item.id, where, message))
            licences.add(item, where)
            report.findings += _not_shown(item, where)
            video = os.path.normpath(os.path.join(file.parent.absolute(), item.video.path))
            uses.setdefault(video, _Use(where)).add(item, where)
        report.findings += licences.findings()
    _check_videos(report, uses, list(_checks(list(uses), depth, state, workers)), tolerance)
    if (report.samples + report.sources + report.invalid, report.sound + report.unsound) != (
        report.records,
        report.videos,
    ):
        raise SynthError(f"{path}: the counts do not add up: {report}; this is a bug")
    return report


def _checks(paths: list[str], depth: Depth, state: Path | None, workers: int) -> Iterator[VideoCheck]:
    with progress("check videos", len(paths)) as advance:
        for check in check_videos(paths, depth, state, workers):
            advance(1)
            yield check


# ---- Records.


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if (path / "data").is_dir():  # of the two forms of the same samples, Parquet is what is loaded
        shards = sorted((path / "data").glob("*.parquet")) or sorted((path / "data").glob("*.jsonl"))
        found = [*shards, *sorted((path / "sources").glob("*.jsonl"))]
    elif path.is_dir():
        found = sorted([*path.glob("*.jsonl"), *path.glob("*.parquet")])
    else:
        name = f"{glob.escape(path.name)}-[0-9]*-of-[0-9]*"
        found = sorted(path.parent.glob(f"{name}.parquet")) or sorted(path.parent.glob(f"{name}.jsonl"))
    if not found:
        raise SynthError(f"{path}: no .parquet or .jsonl file of samples or sources; give a dataset's folder or file")
    return found


def _records(file: Path) -> Iterator[tuple[str, object]]:
    """Where a record stands, and the record or why it cannot be read; blank lines are passed over."""
    if file.suffix != ".parquet":
        yield from ((f"{file}:{line}", record) for line, record in json_lines(file))
        return
    try:
        batches = pq.ParquetFile(file).iter_batches(256)
        rows = (row for batch in batches for row in batch.to_pylist())
        for number, row in enumerate(rows, start=1):
            try:
                texts = {name: row.get(name) for name in ("schema", "id", "memory")}
                parsed = {name: parse_json(row.get(name)) for name in ("video", "events", "meta")}
                yield f"{file}:{number}", texts | parsed
            except SampleError as error:
                yield f"{file}:{number}", error
    except pa.ArrowInvalid as error:
        yield f"{file}", SampleError(f"not a Parquet file, or a damaged one: {error}; make it again")


def _item(record: object, where: str) -> Sample | Source | Finding:
    """The valid sample or source of a record, or what is wrong with it."""
    id = str(record.get("id", "")) if isinstance(record, dict) else ""
    schema = record.get("schema", SAMPLE_SCHEMA) if isinstance(record, dict) else SAMPLE_SCHEMA
    try:
        if isinstance(record, SampleError):
            raise record
        if schema == SOURCE_SCHEMA:
            return source_from_record(record)
        return sample_from_record(record)
    except (SampleError, SynthError, GraphError) as error:
        return Finding("invalid record", "error", id, where, str(error))


@dataclass
class _Licences:
    """How many records of a file name no licence: one finding a file, however many they are."""

    file: str
    records: int = 0
    without: int = 0
    first: tuple[str, str] = ("", "")

    def add(self, item: Sample | Source, where: str) -> None:
        licence = item.licence if isinstance(item, Source) else item.meta.get("licence")
        self.records += 1
        if not isinstance(licence, str) or licence.strip().lower() in ("", "unknown"):
            self.first = self.first if self.without else (item.id, where)
            self.without += 1

    def findings(self) -> list[Finding]:
        if not self.without:
            return []
        message = (
            f"{self.without} of the {self.records} records name no licence, this one first; samples name it in "
            "meta.licence, sources in licence"
        )
        return [Finding("no licence", "warning", self.first[0], self.first[1], message)]


# ---- Videos and what is said of them.


@dataclass
class _Use:
    """What records say of one video: the latest time they name, and how long they say that it is. All in seconds."""

    where: str
    records: int = 0
    last: tuple[float, str, str, str] = (-1.0, "", "", "")  # time, what is there, id, where
    end: tuple[float, str, str] = (-1.0, "", "")  # the latest video.end, id, where
    whole: tuple[float, str, str] = (math.inf, "", "")  # the earliest end of a source that begins at 0

    def add(self, item: Sample | Source, where: str) -> None:
        self.records += 1
        for time, what in _times(item):
            if time > self.last[0]:
                self.last = (time, what, item.id, where)
        if item.video.end is not None:
            if item.video.end > self.end[0]:
                self.end = (item.video.end, item.id, where)
            if isinstance(item, Source) and item.video.start == 0.0 and item.video.end < self.whole[0]:
                self.whole = (item.video.end, item.id, where)


def _not_shown(item: Sample | Source, where: str) -> Iterator[Finding]:
    for query in item.queries() if isinstance(item, Sample) else ():
        missing = [option for option in query.options or () if option not in query.text]
        if missing:
            message = f"query {query.id!r} does not say {missing[0]!r}: write its options into its text, a line each"
            yield Finding("options not shown", "warning", item.id, where, message)


def _times(item: Sample | Source) -> Iterator[tuple[float, str]]:
    """Every time that a record names, on the clock of the file, and what is there."""
    if isinstance(item, Sample):
        for event in item.events:
            yield event.time, f"a {type(event).__name__.lower()}"
            if isinstance(event, Query):
                for span in (*event.evidence, *([event.window] if event.window is not None else [])):
                    yield span[1], f"a span of query {event.id!r}"
        return
    start = item.video.start
    for segment in item.segments:
        yield start + segment.end, "a segment"
    for edge in item.graph.edges:
        yield start + max(edge.end, edge.knowable_at), f"edge {edge.id!r}"
    for one in item.exchanges:
        spans = [*one.evidence, *([one.window] if one.window is not None else [])]
        for time in (one.time, one.wait, *(end for _, end in spans)):
            if time is not None:
                yield start + time, f"exchange {one.id!r}"


def _check_videos(report: DataReport, uses: dict[str, _Use], checks: list[VideoCheck], tolerance: float) -> None:
    sound = []
    for (path, use), check in zip(uses.items(), checks, strict=True):
        report.videos += 1
        if check.problem is not None:
            report.unsound += 1
            message = f"{check.detail} ({use.records} records need it)"
            report.findings.append(Finding(check.problem, "error", path, use.where, message))
            continue
        assert check.duration is not None
        report.sound += 1
        report.hours += check.duration / 3600
        report.findings += _fits(path, use, check.duration, tolerance)
        sound.append(check)
    if sound:
        hashes = np.stack([check.pictures() for check in sound])
        for group in groups(hashes, [check.duration or 0.0 for check in sound]):
            names = [sound[i].path for i in group]
            message = f"{len(names)} videos show the same: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
            where = uses[names[0]].where
            report.findings.append(Finding("near-duplicate videos", "warning", names[0], where, message))


def _fits(path: str, use: _Use, duration: float, tolerance: float) -> Iterator[Finding]:
    """Whether what is said of a video fits the seconds it lasts."""
    end, id, where = use.end
    if end > duration + tolerance:
        message = f"{id!r} says that it ends at {end:.3f} s, but it lasts {duration:.3f} s; correct video.end"
        yield Finding("duration mismatch", "error", path, where, message)
    whole, id, where = use.whole
    if whole < duration - max(1.0, 0.02 * duration):
        message = f"source {id!r} is {whole:.3f} s long, but the file {duration:.3f} s: is it the annotated version ?"
        yield Finding("duration mismatch", "warning", path, where, message)
    time, what, id, where = use.last
    if time > duration + tolerance:
        message = f"{id!r} has {what} at {time:.3f} s, but the video lasts {duration:.3f} s; cut it, or drop the record"
        yield Finding("outside the video", "error", path, where, message)


# ---- The report for machines and for people.


def to_record(report: DataReport) -> dict[str, Any]:
    """The report as a JSON object; the same for the same data, however many runs it took."""
    found = Counter(finding.check for finding in report.findings)
    plain = asdict(report)
    findings = plain.pop("findings")
    totals = {"errors": report.count("error"), "warnings": report.count("warning")}
    checks = {name: found[name] for name in CHECKS}
    return {"schema": SCHEMA} | plain | totals | {"checks": checks, "findings": findings}


def write_report(report: DataReport, path: Path) -> None:
    """The report as a JSON file, or `path` as it was."""
    with replacing(path) as part:
        text = json.dumps(to_record(report), ensure_ascii=False, allow_nan=False, indent=1) + "\n"
        Path(part).write_text(text, encoding="utf-8", newline="\n")


def print_report(report: DataReport, console: Console, shown: int = 20) -> None:
    """What was checked, a table of the checks, and the first `shown` findings, errors first."""
    console.print(
        f"{report.path}: {report.records} records ({report.samples} samples, {report.sources} sources, "
        f"{report.invalid} invalid), {report.videos} videos, {report.sound} of them sound, {report.hours:.2f} h",
        highlight=False,
        markup=False,
    )
    table = Table("check", "errors", "warnings", "what it means", box=None, padding=(0, 2, 0, 0))
    for name, meaning in CHECKS.items():
        of = Counter(finding.level for finding in report.findings if finding.check == name)
        style = "red" if of["error"] else "yellow" if of["warning"] else "dim"
        table.add_row(name, str(of["error"]), str(of["warning"]), meaning, style=style)
    console.print(table)
    for finding in sorted(report.findings, key=lambda finding: finding.level)[:shown]:
        told = f"{finding.level}: {finding.check}: {finding.item}: {finding.message} [{finding.where}]"
        console.print(told, highlight=False, markup=False, soft_wrap=True)
    if len(report.findings) > shown:
        console.print(f"and {len(report.findings) - shown} more", highlight=False)
