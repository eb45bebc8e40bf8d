"""What becomes of whole annotation files: sources, annotations and exchanges in, out, and rejected by reason.

rows = tabulate({"ego4d_goalstep": ["goalstep_valid.json"]}, segment_seconds=2.0, videos="videos")
print(markdown(rows))
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from data_pipeline.annotations import READERS, convert
from data_pipeline.annotations.record import StrPath
from data_pipeline.source import Rejected, Yield


@dataclass
class YieldRow:
    """The yields of one reader over its files. `clipped` counts times that were moved to the edge of their video."""

    reader: str
    sources: Yield = field(default_factory=Yield)
    annotations: Yield = field(default_factory=Yield)
    exchanges: Yield = field(default_factory=Yield)
    clipped: int = 0


def tabulate(files: Mapping[str, Sequence[StrPath]], **settings: Any) -> list[YieldRow]:
    """Read and convert the files of each reader, by its name; `settings` are those of `convert`.

    Raises:
        AnnotationError: a file of another layout.
        SynthError: anything in that is neither out nor rejected.
    """
    rows = []
    for name, paths in files.items():
        row = YieldRow(name)
        for annotated in READERS[name](*paths):
            row.sources.taken += 1
            if isinstance(annotated, Rejected):
                row.sources.reject(annotated.reason)
                continue
            done = convert(annotated, **settings)
            if done.rejected is not None:
                row.sources.reject(done.rejected.reason)
            else:
                row.sources.made += 1
            row.annotations.add(done.annotations)
            row.exchanges.add(done.exchanges)
            row.clipped += done.clipped
        for part in ("sources", "annotations", "exchanges"):
            getattr(row, part).check(f"{name}: {part}")
        rows.append(row)
    return rows


def markdown(rows: Iterable[YieldRow]) -> str:
    """The rows as a table: for each of sources, annotations and exchanges `in`, `out` and what was rejected."""
    heads = ["reader"]
    for part in ("sources", "annotations", "exchanges"):
        heads += [f"{part} in", "out", "rejected"]
    lines = [[*heads, "clipped"], ["---"] * (len(heads) + 1)]
    for row in rows:
        cells = [row.reader]
        for found in (row.sources, row.annotations, row.exchanges):
            why = ", ".join(f"{count:,} {reason}" for reason, count in sorted(found.rejected.items()))
            cells += [f"{found.taken:,}", f"{found.made:,}", why or "0"]
        lines.append([*cells, f"{row.clipped:,}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
