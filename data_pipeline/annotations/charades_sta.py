"""Charades-STA: sentences over spans of short indoor videos. Three kinds of file, told apart by their ending.

    .txt   charades_sta_{train,test}.txt: "3MSZA 24.3 30.4##person turn a light on."
    .csv   Charades_v1_{train,test}.csv: columns `id` and `length` (seconds) are read; Charades-STA has no durations
    .json  uniform rows: {data_type, data_source, problem_type, problem, problem_id, options, path, solution}, where
           `solution` holds one JSON object {"time": [start, end], "boxes": {}} between tags

Source: jiyanggao/TALL, README; the rows as in cyuQ1n/EasyVideoR1, eval/data. One video has several sentences, many of
them "person ..." with a verb in any form.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipeline.annotations.phrases import clean, predicated
from data_pipeline.annotations.record import (
    LIST,
    NUMBER,
    OBJECT,
    TEXT,
    Annotation,
    AnnotationError,
    Entity,
    StrPath,
    VideoAnnotations,
    checked,
    read_json,
    span,
)
from data_pipeline.annotations.youcook2 import PERSON
from data_pipeline.source import Rejected

_LINE = re.compile(r"^(\S+) (\d+(?:\.\d+)?) (\d+(?:\.\d+)?)##(.*)$")
_PERSON = re.compile(r"^(?:(?:a|the|this|that) )?person (?:(?:they|he|she) )?(?:then )?")
_ROW = {
    "data_type": TEXT, "data_source": TEXT, "problem_type": TEXT, "problem": TEXT, "problem_id": NUMBER,
    "options": LIST, "path": TEXT, "solution": TEXT,
}  # fmt: skip


def read(*paths: StrPath) -> Iterator[VideoAnnotations | Rejected]:
    """The videos of .txt and .json files, with the durations of .csv files where given. Sentences are spans of level 0.

    Raises:
        AnnotationError: another layout or another ending.
    """
    durations: dict[str, float] = {}
    spans: dict[str, list[Annotation]] = {}
    for path in map(Path, paths):
        if path.suffix == ".csv":
            durations |= _durations(path)
        elif path.suffix in (".txt", ".json"):
            for annotation in _lines(path) if path.suffix == ".txt" else _rows(path):
                spans.setdefault(annotation.video_id, []).append(annotation)
        else:
            raise AnnotationError(str(path), "", "must end in .txt, .json (annotations) or .csv (durations)")
    for video_id, found in spans.items():
        yield VideoAnnotations(video_id, "charades_sta", durations.get(video_id), "unknown", tuple(found))


def _lines(path: Path) -> Iterator[Annotation]:
    for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not text.strip():
            continue
        match = _LINE.match(text.strip())
        if match is None:
            raise AnnotationError(f"{path}:{line}", "", f"must be `id start end##sentence`, not {text[:80]!r}")
        yield _annotation(match[1], float(match[2]), float(match[3]), match[4], f"{path.stem}/{line}")


def _rows(path: Path) -> Iterator[Annotation]:
    rows = read_json(path)
    if not isinstance(rows, list):
        raise AnnotationError(str(path), "", "must be a list of rows")
    for i, row in enumerate(rows):
        where = f"{path}: [{i}]"
        checked(row, where, _ROW)
        if row["problem_type"] != "temporal grounding":
            raise AnnotationError(
                where, "problem_type", f"{row['problem_type']!r}; this reader takes temporal grounding"
            )
        start, end = _solution(row["solution"], where)
        yield _annotation(Path(row["path"]).stem, start, end, row["problem"], str(row["problem_id"]))


def _solution(text: str, where: str) -> tuple[float, float]:
    """The span inside a solution; the tags around the JSON object are not read."""
    try:
        value, _ = json.JSONDecoder().raw_decode(text, max(text.find("{"), 0))
    except ValueError as error:
        raise AnnotationError(where, "solution", f"holds no JSON object: {text[:80]!r}") from error
    checked(value, f"{where}: solution", {"time": LIST, "boxes": OBJECT})
    return span(value["time"], f"{where}: solution", "time")


def _annotation(video_id: str, start: float, end: float, sentence: str, source_id: str) -> Annotation:
    """ "person turn a light on" is the person, doing "turn a light on". Where no known verb follows, and with any other
    subject, the sentence stays whole.
    """
    actor: Entity | None = None
    text = clean(sentence)
    match = _PERSON.match(text)
    if match and predicated("", text[match.end() :]):
        actor, text = PERSON, text[match.end() :]
    return Annotation(video_id, start, end, text, "span", source_id, actor=actor)


def _durations(path: Path) -> dict[str, float]:
    with open(path, encoding="utf-8", newline="") as file:
        table = csv.DictReader(file)
        if not {"id", "length"} <= set(table.fieldnames or ()):
            raise AnnotationError(str(path), "id, length", f"columns missing; found {table.fieldnames}")
        return {row["id"]: _seconds(row, f"{path}: {row['id']}") for row in table}


def _seconds(row: dict[str, Any], where: str) -> float:
    try:
        return float(row["length"])
    except (TypeError, ValueError) as error:
        raise AnnotationError(where, "length", f"must be seconds, not {row['length']!r}") from error
