"""What the pipeline starts from: a video, its graph, and where both come from. Builders turn it into Samples.

A source is all that a builder sees. The pixels are not among it: whoever needs them has put them into the graph.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data_pipeline.graph import Graph
from data_pipeline.graph import from_record as graph_from_record
from data_pipeline.graph import to_record as graph_record
from whilst.sample import JSON, Segment, Video, json_lines, replacing

SCHEMA = "whilst.source/1"


class SynthError(ValueError):
    """A run that cannot go on as configured. The message names the file or setting and the fix."""


@dataclass(frozen=True)
class Exchange:
    """A question with its answer, as an annotation gives them. Times are seconds; None where it does not say.

    `wait` is the time of the answer where it is later than the question's (a standing request).
    """

    id: str
    question: str
    answer: str
    time: float | None = None
    wait: float | None = None
    options: tuple[str, ...] | None = None
    window: tuple[float, float] | None = None
    evidence: tuple[tuple[float, float], ...] = ()
    kind: str | None = None


@dataclass(frozen=True)
class Source:
    """One video with its graph. All times of graph and segments are seconds from 0, the start of what is watched.

    `video` is the span of the file; `segments` are what arrives piece by piece; `dataset` and `video_id` say where it
    comes from (`video_id` as the dataset writes it, for decontamination); `licence` is that of the annotation.
    """

    id: str
    video: Video
    graph: Graph
    segments: tuple[Segment, ...]
    dataset: str
    video_id: str
    licence: str = "unknown"
    exchanges: tuple[Exchange, ...] = ()
    meta: Mapping[str, JSON] = field(default_factory=dict, hash=False)

    def as_of(self, time: float) -> Source:
        """The same source as it could be known at `time`: what builders may read for a text that is written then."""
        return replace(self, graph=self.graph.as_of(time))


def fixed_segments(duration: float, seconds: float) -> tuple[Segment, ...]:
    """[0, duration) cut every `seconds`; the last piece is what is left over."""
    count = max(1, math.ceil(round(duration / seconds, 6)))
    ends = [min(duration, (k + 1) * seconds) for k in range(count)]
    return tuple(Segment(start, end) for start, end in zip([0.0, *ends], ends, strict=False))


@dataclass(frozen=True)
class Rejected:
    """Something that was not made, and why. `item` is the id of what was turned down: a source, sample or query.

    `reason` is one of few texts, such as "no chain", that can be counted; `detail` says more about this case.
    """

    item: str
    reason: str
    detail: str = ""


@dataclass
class Yield:
    """How many went in, came out and were rejected, by reason. Counted where each happens, so that it can fail."""

    taken: int = 0
    made: int = 0
    rejected: Counter[str] = field(default_factory=Counter)

    def reject(self, reason: str) -> None:
        """Count one rejection."""
        self.rejected[reason] += 1

    def add(self, other: Yield) -> None:
        """Count what another has counted too."""
        self.taken += other.taken
        self.made += other.made
        self.rejected.update(other.rejected)

    def check(self, what: str) -> None:
        """Raises SynthError unless taken == made + rejected."""
        lost = self.taken - self.made - sum(self.rejected.values())
        if lost:
            raise SynthError(
                f"{what}: {self.taken} in, {self.made} out, {sum(self.rejected.values())} rejected: {lost} unaccounted "
                "for; this is a bug, nothing was published"
            )


def draw(*key: str | int | float) -> random.Random:
    """Chance that depends on `key` alone: the same on every machine, in any order, whatever else is drawn.

    A builder keys it by seed, source id, purpose and time, never by anything that comes later in the video: then what
    it draws before t stays as it is when all that comes after t is changed.
    """
    text = "/".join(map(str, key))
    return random.Random(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))


# ---- Files: one source a line, as JSON. With them a dataset can be built anew, so a leak of the future can be found.


def to_record(source: Source) -> dict[str, Any]:
    """The source as a JSON object; video paths stay as they are."""
    parts = {
        "video": dict(vars(source.video)),
        "graph": graph_record(source.graph),
        "segments": [dict(vars(segment)) for segment in source.segments],
        "exchanges": [dict(vars(exchange)) for exchange in source.exchanges],
        "meta": dict(source.meta),
    }
    return {"schema": SCHEMA} | vars(source) | parts


def from_record(record: object, where: str = "") -> Source:
    """The source of a JSON object; `where` (such as file:line) begins the message of an error.

    Raises:
        SynthError: another schema, or a missing or unknown field.
        GraphError: a graph that is not valid.
    """
    prefix = f"{where}: " if where else ""
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise SynthError(f"{prefix}not a source of schema {SCHEMA!r}; write it with `whilst world` or `whilst synth`")
    try:
        fields = {name: value for name, value in record.items() if name != "schema"}
        fields["video"] = Video(**fields["video"])
        fields["graph"] = graph_from_record(fields["graph"], where)
        fields["segments"] = tuple(Segment(**segment) for segment in fields["segments"])
        fields["exchanges"] = tuple(_exchange(one) for one in fields["exchanges"])
        return Source(**fields)
    except (KeyError, TypeError) as error:
        raise SynthError(f"{prefix}a field is missing, unknown or of the wrong type: {error}") from error


def _exchange(record: dict[str, Any]) -> Exchange:
    tuples = {name: tuple(record[name]) for name in ("options", "window") if record.get(name) is not None}
    return Exchange(**(record | tuples | {"evidence": tuple(map(tuple, record.get("evidence", ())))}))


def write_sources(sources: Iterable[Source], path: str | Path) -> None:
    """One source a line, or `path` as it was."""
    with replacing(path) as part, open(part, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(to_record(one), ensure_ascii=False, allow_nan=False) + "\n" for one in sources)


def scan_sources(path: str | Path) -> Iterator[Source]:
    """The sources of a file, one by one. Raises as `from_record`, naming file and line."""
    for line, record in json_lines(path):
        yield from_record(record, f"{path}:{line}")
