"""A shard of Samples, written as they come: Parquet and JSONL, in a memory that does not grow with the shard."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from whilst.sample import Sample, from_record, json_lines, to_record, validate

ROWS = 256  # of a row group: what is kept in memory until it is written

# The columns of whilst.sample.write_parquet: `video`, `events` and `meta` are JSON texts.
COLUMNS = pa.schema(
    [
        ("schema", pa.string()),
        ("id", pa.string()),
        ("duration", pa.float64()),
        ("n_events", pa.int64()),
        ("memory", pa.string()),
        ("video", pa.string()),
        ("events", pa.string()),
        ("meta", pa.string()),
    ]
)

Format = Literal["parquet", "jsonl"]


class ShardWriter:
    """Open shard files, one a format. Made by `writing`."""

    def __init__(self, table: pq.ParquetWriter | None, lines: IO[str] | None) -> None:
        self._table, self._lines = table, lines
        self._rows: list[dict[str, Any]] = []

    def add(self, sample: Sample) -> None:
        """Write one sample. Raises SampleError for one that breaks a rule."""
        validate(sample, f"sample {sample.id!r}")
        record = to_record(sample)
        if self._lines is not None:
            self._lines.write(_dumps(record) + "\n")
        if self._table is not None:
            start, end = record["video"]["start"], record["video"]["end"]
            row = record | {"duration": None if end is None else end - start, "n_events": len(record["events"])}
            self._rows.append(row | {name: _dumps(record[name]) for name in ("video", "events", "meta")})
            if len(self._rows) == ROWS:
                self.flush()

    def flush(self) -> None:
        """Hand the rows that wait to the Parquet file."""
        if self._table is not None and self._rows:
            self._table.write_table(pa.Table.from_pylist(self._rows, schema=COLUMNS))
            self._rows = []


@contextmanager
def writing(formats: Sequence[Format], paths: Sequence[Path]) -> Iterator[ShardWriter]:
    """A writer to `paths`, one a format; an empty shard is a file of no rows."""
    by_format = dict(zip(formats, paths, strict=True))
    with ExitStack() as stack:
        table = lines = None
        if "parquet" in by_format:
            table = stack.enter_context(pq.ParquetWriter(by_format["parquet"], COLUMNS))
        if "jsonl" in by_format:
            lines = stack.enter_context(open(by_format["jsonl"], "w", encoding="utf-8", newline="\n"))
        writer = ShardWriter(table, lines)
        yield writer
        writer.flush()


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=dict)


def read_shard(path: Path) -> Iterator[Sample]:
    """The samples of a shard with their video paths as they stand in it, relative to its folder.

    Raises:
        SampleError: one that breaks a rule; names file and row.
    """
    if path.suffix == ".jsonl":
        for line, record in json_lines(path):
            yield from_record(record, f"{path}:{line}")
        return
    for row in (row for batch in pq.ParquetFile(path).iter_batches(ROWS) for row in batch.to_pylist()):
        record = {name: row[name] for name in ("schema", "id", "memory")}
        record |= {name: json.loads(row[name]) for name in ("video", "events", "meta")}
        yield from_record(record, f"{path}: {row['id']}")
