"""The sample: one timeline, a video and the time-ordered events on it. Every stage meets in this form.

One sample is one JSON object, one line of a JSONL file:

    {"schema": "whilst.sample/1", "id": "a", "video": {"path": "videos/a.mp4", "start": 0.0, "end": 4.0}, "memory": "",
     "events": [{"type": "segment", "start": 0.0, "end": 2.0}, {"type": "thought", "time": 2.0, "text": "a cat ."},
                {"type": "query", "id": "q0", "time": 2.0, "text": "who ?"},
                {"type": "answer", "time": 2.0, "text": "a cat", "query": "q0"}], "meta": {}}

The fields are those of the dataclasses in `timeline.py`, which also states the rules. Nothing is read or written that
breaks one of them, so no later stage has to ask again.

A relative `video.path` in a file is relative to the folder of that file. Readers hand it out absolute; writers keep a
relative path as it is, and store an absolute one relative to the file's folder where it lies below that.
"""

from __future__ import annotations

import glob
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeAlias

from whilst.timeline import (
    JSON,
    Answer,
    Event,
    Query,
    Sample,
    SampleError,
    Segment,
    Silence,
    Thought,
    Video,
    fail,
    validate,
)

__all__ = [
    "JSON", "SCHEMA", "Answer", "Event", "Query", "Rejection", "Sample", "SampleError", "Segment", "Silence",
    "Thought", "Video", "from_record", "read_jsonl", "read_parquet", "read_samples", "samples_exist", "scan_jsonl",
    "to_record", "validate", "write_jsonl", "write_parquet",
]  # fmt: skip

SCHEMA = "whilst.sample/1"

StrPath: TypeAlias = "str | os.PathLike[str]"


@dataclass(frozen=True)
class Rejection:
    """A line (counted from 1) that `scan_jsonl` did not accept, and why."""

    line: int
    reason: str


# ---- Records: a sample as plain JSON values.

_EVENTS: dict[str, type[Any]] = {
    "segment": Segment,
    "thought": Thought,
    "query": Query,
    "answer": Answer,
    "silence": Silence,
}
_TYPES = {cls: name for name, cls in _EVENTS.items()}
_PARTS: tuple[type[Any], ...] = (Video, *_TYPES)
_KNOWN = {cls: frozenset(f.name for f in fields(cls)) for cls in _PARTS}
_NEEDED = {cls: frozenset(f.name for f in fields(cls) if f.default is MISSING) for cls in _PARTS}
_OPTIONAL = {cls: {f.name: f.default for f in fields(cls) if f.default is not MISSING} for cls in _PARTS}
_SAMPLE_KNOWN = frozenset({"schema", "id", "video", "memory", "events", "meta"})
_SAMPLE_NEEDED = _SAMPLE_KNOWN - {"memory", "meta"}
_TIMES = frozenset({"start", "end", "time", "knowable_at"})


def to_record(sample: Sample) -> dict[str, Any]:
    """The sample as a JSON object; fields that hold their default are left out of events."""
    events = [{"type": _TYPES[type(event)]} | _stated(event) for event in sample.events]
    video = {"path": sample.video.path, "start": sample.video.start, "end": sample.video.end}
    meta = dict(sample.meta)
    return {"schema": SCHEMA, "id": sample.id, "video": video, "memory": sample.memory, "events": events, "meta": meta}


def _stated(event: Event) -> dict[str, Any]:
    optional = _OPTIONAL[type(event)]
    return {name: _plain(v) for name, v in vars(event).items() if name not in optional or v != optional[name]}


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def from_record(record: object, where: str = "") -> Sample:
    """The validated sample of a JSON object, its video path unchanged. `where` begins the message of an error.

    Raises:
        SampleError: for another schema, an unknown, missing or mistyped field, and whatever `validate` turns away.
    """
    if isinstance(record, dict) and record.get("schema", SCHEMA) != SCHEMA:
        fail(where, "schema", f"{record['schema']!r} is not known; this version reads {SCHEMA!r}, convert the file")
    found = _object(record, "", _SAMPLE_KNOWN, _SAMPLE_NEEDED, where)
    events = found["events"]
    if not isinstance(events, list):
        fail(where, "events", f"must be a list of events, not {events!r}")
    sample = Sample(
        id=found["id"],
        video=_build(Video, found["video"], "video", where),
        events=tuple(_event(event, i, where) for i, event in enumerate(events)),
        memory=found.get("memory", ""),
        meta=found.get("meta", {}),
    )
    try:
        validate(sample, where)
    except RecursionError:
        fail(where, "meta", "is nested too deeply to be checked; flatten it")
    return sample


def _object(
    value: object, name: str, known: frozenset[str], needed: frozenset[str], where: str, ignored: str = ""
) -> dict[str, Any]:
    if not isinstance(value, dict):
        fail(where, name, f"must be an object, not {value!r}")
    if not needed <= value.keys():
        fail(where, name, f"field missing: {', '.join(sorted(needed - value.keys()))}; add it")
    if not value.keys() <= known and (unknown := value.keys() - known - {ignored}):
        here = ", ".join(sorted(known))
        fail(where, name, f"unknown field: {', '.join(sorted(unknown))}; the fields here are {here}")
    return value


def _event(record: object, i: int, where: str) -> Event:
    kind = record.get("type") if isinstance(record, dict) else None
    cls = _EVENTS.get(kind) if isinstance(kind, str) else None
    if cls is None:
        fail(where, f"events[{i}].type", f"must be one of {', '.join(_EVENTS)}, not {kind!r}")
    event: Event = _build(cls, record, f"events[{i}]", where, ignored="type")
    return event


def _build(cls: type[Any], record: object, name: str, where: str, ignored: str = "") -> Any:
    values = {}
    for key, value in _object(record, name, _KNOWN[cls], _NEEDED[cls], where, ignored).items():
        if key in _TIMES:
            values[key] = as_float(value)
        elif key in ("options", "window", "evidence"):
            values[key] = _tuple(value, f"{name}.{key}", where)
        elif key != ignored:
            values[key] = value
    return cls(**values)


def as_float(value: Any) -> Any:
    """A whole number as a float: 2 and 2.0 are one number in JSON. What is no number is left for `validate` to name."""
    return float(value) if type(value) is int and abs(value) <= sys.float_info.max else value


def _tuple(value: object, name: str, where: str) -> object:
    if value is None:
        return None
    if not isinstance(value, list):
        fail(where, name, f"must be a list, not {value!r}")
    return tuple(tuple(map(as_float, item)) if isinstance(item, list) else as_float(item) for item in value)


# ---- Files.


def read_samples(path: StrPath) -> list[Sample]:
    """All samples of a .jsonl or .parquet file, or of the shards `<path>-00000-of-00004.parquet` (or .jsonl) of a name.

    Raises:
        SampleError: no such file, a shard that is missing, an id in two shards, and as `read_jsonl`.
    """
    samples: list[Sample] = []
    shards: dict[str, Path] = {}
    for file in _files(Path(path)):
        for sample in read_parquet(file) if file.suffix == ".parquet" else read_jsonl(file):
            first = shards.setdefault(sample.id, file)
            if first != file:
                fail(os.fspath(file), "id", f"{sample.id!r} is in {first.name} too; give each sample its own")
            samples.append(sample)
    return samples


def samples_exist(path: StrPath) -> bool:
    """Whether there is anything for `read_samples` to read: the file, or a shard of this name."""
    return Path(path).is_file() or bool(_shards(Path(path)))


def _shards(path: Path) -> list[Path]:
    for suffix in (".parquet", ".jsonl"):
        if found := sorted(path.parent.glob(f"{glob.escape(path.name)}-[0-9]*-of-[0-9]*{suffix}")):
            return found
    return []


def _files(path: Path) -> list[Path]:
    if path.suffix in (".jsonl", ".parquet"):
        if not path.is_file():
            fail(os.fspath(path), "", "no such file; make the samples first, for instance with `whilst synth`")
        return [path]
    found = _shards(path)
    if not found:
        wanted = "give a .jsonl or .parquet file, or the name before -00000-of-00004"
        fail(os.fspath(path), "", f"no such samples; {wanted}")
    count = int(found[0].stem.rpartition("-of-")[2])
    whole = [path.parent / f"{path.name}-{k:05d}-of-{count:05d}{found[0].suffix}" for k in range(count)]
    if found != whole:
        odd = ", ".join(sorted({file.name for file in whole} ^ {file.name for file in found})[:5])
        fail(os.fspath(path), "", f"of {count} shards some are missing or too many: {odd}; finish the run")
    return found


Found: TypeAlias = Iterable[tuple[int, Sample | SampleError]]  # by line, counted from 1


def write_jsonl(samples: Iterable[Sample], path: StrPath) -> None:
    """Write one sample a line, or leave `path` as it was.

    Raises:
        SampleError: for a sample that breaks a rule, or an id that came before; names `path` and the line.
    """
    with replacing(path) as part, open(part, "w", encoding="utf-8", newline="\n") as file:
        for record in _records(samples, path):
            file.write(_dumps(record) + "\n")


def read_jsonl(path: StrPath) -> list[Sample]:
    """All samples of a file; blank lines are passed over.

    Raises:
        SampleError: at the first line that is not a valid sample; names the file, line, field and fix.
    """
    return accept_all(_scan(path), path)


def scan_jsonl(path: StrPath) -> tuple[list[Sample], list[Rejection]]:
    """The valid samples of a file and a rejection for every other line that is not blank.

    Together they are as many as the lines that are not blank. Of samples with one id the first valid one stays.
    """
    return sort_out(_scan(path))


def write_parquet(samples: Iterable[Sample], path: StrPath) -> None:
    """Write one sample a row, or leave `path` as it was.

    Columns: schema, id, duration (seconds, null where `video.end` is), n_events, memory, and video, events and meta as
    the JSON text that a line of the JSONL form would hold.

    Raises:
        SampleError: as `write_jsonl`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = []
    for record in _records(samples, path):
        start, end = record["video"]["start"], record["video"]["end"]
        row = record | {"duration": None if end is None else end - start, "n_events": len(record["events"])}
        rows.append(row | {name: _dumps(row[name]) for name in _JSON_COLUMNS})
    kinds = {"duration": pa.float64(), "n_events": pa.int64()}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in _COLUMNS])
    with replacing(path) as part:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), part)


def read_parquet(path: StrPath) -> list[Sample]:
    """All samples of a file that `write_parquet` wrote.

    Raises:
        SampleError: for a file that is not Parquet or lacks a column, and at the first row (counted from 1) that is not
            a valid sample.
    """
    return accept_all(_scan_parquet(path), path)


_COLUMNS = ("schema", "id", "duration", "n_events", "memory", "video", "events", "meta")
_JSON_COLUMNS = ("video", "events", "meta")


def _scan(path: StrPath) -> Found:
    ids: dict[str, int] = {}
    for line, record in json_lines(path):
        try:
            yield line, record if isinstance(record, SampleError) else _accept(record, line, ids, path)
        except SampleError as error:
            yield line, error


def _scan_parquet(path: StrPath) -> Found:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(os.fspath(path))
    except pa.ArrowInvalid as error:
        fail(os.fspath(path), "", f"not a Parquet file; write it with write_parquet ({error})")
    if lacking := set(_COLUMNS) - set(table.column_names):
        fail(os.fspath(path), "", f"column missing: {', '.join(sorted(lacking))}; write it with write_parquet")
    ids: dict[str, int] = {}
    for line, row in enumerate(table.select(sorted(_SAMPLE_KNOWN)).to_pylist(), start=1):
        try:
            record = row | {name: parse_json(row[name]) for name in _JSON_COLUMNS}
            yield line, _accept(record, line, ids, path)
        except SampleError as error:
            yield line, error


def _accept(record: object, line: int, ids: dict[str, int], path: StrPath) -> Sample:
    sample = from_record(record)
    claim(sample.id, line, ids)
    return replace(
        sample, video=replace(sample.video, path=os.path.normpath(os.path.join(_folder(path), sample.video.path)))
    )


def _records(samples: Iterable[Sample], path: StrPath) -> Iterator[dict[str, Any]]:
    ids: dict[str, int] = {}
    folder = _folder(path)
    for line, sample in enumerate(samples, start=1):
        try:
            validate(sample)
            claim(sample.id, line, ids)
        except SampleError as error:
            fail(f"{os.fspath(path)}:{line}", "", f"{error}; nothing was written")
        record = to_record(sample)
        stored = record["video"]["path"]
        if os.path.isabs(stored) and os.path.normpath(stored).startswith(folder):
            record["video"]["path"] = Path(os.path.relpath(stored, folder)).as_posix()
        yield record


def _folder(path: StrPath) -> str:
    return os.path.join(os.path.dirname(os.path.abspath(path)), "")


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=dict)


# ---- What readers and writers of other layouts need too.


def accept_all(found: Found, path: StrPath) -> list[Sample]:
    """All samples found, or a SampleError with `path` and the line of the first one that is not valid."""
    samples = []
    for line, sample in found:
        if isinstance(sample, SampleError):
            raise SampleError(f"{os.fspath(path)}:{line}: {sample}") from sample
        samples.append(sample)
    return samples


def sort_out(found: Found) -> tuple[list[Sample], list[Rejection]]:
    """The samples found, and a rejection for each error found: nothing is lost."""
    samples: list[Sample] = []
    rejections: list[Rejection] = []
    for line, sample in found:
        if isinstance(sample, SampleError):
            rejections.append(Rejection(line, str(sample)))
        else:
            samples.append(sample)
    return samples, rejections


def json_lines(path: StrPath) -> Iterator[tuple[int, object]]:
    """The number (from 1) and JSON value, or SampleError, of each line that is not blank."""
    # Bytes, so that a line which is not UTF-8 costs itself alone.
    with open(path, "rb") as file:
        for line, text in enumerate(file, start=1):
            if text.strip():
                try:
                    yield line, parse_json(text)
                except SampleError as error:
                    yield line, error


def parse_json(text: str | bytes) -> object:
    """The value of a JSON text, or SampleError."""
    try:
        return json.loads(text.decode() if isinstance(text, bytes) else text)
    except (ValueError, TypeError, RecursionError) as error:
        raise SampleError(f"not JSON: {error}; one sample is one JSON value on one line") from error


def claim(sample_id: str, line: int, ids: dict[str, int]) -> None:
    """Note that `line` holds this id, or raise SampleError when a line before it does."""
    first = ids.setdefault(sample_id, line)
    if first != line:
        raise SampleError(f"id: {sample_id!r} is the id of line {first} too; give each sample its own")


@contextmanager
def replacing(path: StrPath) -> Iterator[str]:
    """A path to write to, which takes the place of `path` only when the block ends well. Creates its folder."""
    os.makedirs(_folder(path), exist_ok=True)
    part = f"{os.fspath(path)}.{os.getpid()}.part"
    try:
        yield part
        os.replace(part, path)
    finally:
        Path(part).unlink(missing_ok=True)
