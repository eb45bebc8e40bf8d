"""What every annotation file comes down to: one record a moment or span, grouped by video.

A reader turns a dataset's own layout into these, field by field, and checks the layout; `to_source` in `convert.py`
turns them into a graph, and checks the times. All times are seconds on the clock of the video file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeAlias

from data_pipeline.graph import Kind
from data_pipeline.source import Exchange, Rejected
from whilst.sample import JSON

StrPath: TypeAlias = "str | Path"

SILENCE = "silence"  # kind of an exchange to which nothing is the right reply
PLACEHOLDER = "##ANSWER##"  # in a question: what was answered to the one before it


class AnnotationError(ValueError):
    """A file that is not what its reader takes. The message names the file, the record, the field and the fix."""

    def __init__(self, where: str, field: str, problem: str) -> None:
        super().__init__(": ".join(part for part in (where, field, problem) if part))


@dataclass(frozen=True)
class Entity:
    """Something that an annotation names with an id of its own; `name` is a noun phrase without article."""

    id: str
    kind: str
    name: str


@dataclass(frozen=True)
class Triple:
    """`head` `relation` `tail`: what relation datasets annotate. `relation` as the dataset writes it."""

    head: Entity
    relation: str
    tail: Entity


@dataclass(frozen=True)
class Annotation:
    """One annotated point, span or state of a video.

    `start` and `end` are seconds of the file; a point has start == end. `knowable_at` (seconds) is set only where the
    dataset itself says when; None leaves it to the rule of `to_source`. `level` is 0 for what is coarsest, `parent` the
    `source_id` of the annotation that this one is part of. `actor` says who does what `text` says; with an actor,
    `text` is a verb phrase, without one a whole clause. Relation datasets give a `triple` and no text.
    """

    video_id: str
    start: float
    end: float
    text: str
    kind: Kind
    source_id: str
    level: int = 0
    knowable_at: float | None = None
    actor: Entity | None = None
    triple: Triple | None = None
    parent: str | None = None


@dataclass(frozen=True)
class VideoAnnotations:
    """All that one annotator says of one video.

    `start` (seconds of the file) is where the annotated part begins and `duration` (seconds) how long it is; None where
    the dataset does not say. `file` is the video's path inside the dataset's folder; None where it is `<video_id>.mp4`.
    `part` tells apart what several annotators, or several records, say of one video; it ends the source's id.
    """

    video_id: str
    dataset: str
    duration: float | None
    licence: str
    annotations: tuple[Annotation, ...]
    exchanges: tuple[Exchange, ...] = ()
    start: float = 0.0
    file: str | None = None
    part: str = ""
    meta: Mapping[str, JSON] = field(default_factory=dict, hash=False)


class Reader(Protocol):
    """Reads the file(s) of one dataset, video by video.

    A file of another layout raises AnnotationError; a video of which nothing can be made is a Rejected.
    """

    def __call__(self, *paths: StrPath) -> Iterator[VideoAnnotations | Rejected]: ...


# ---- Checks of a layout.

TEXT, NUMBER, LIST, OBJECT, FLAG = "text", "a number", "a list", "an object", "true or false"
ANY = "anything"

_IS = {
    TEXT: lambda value: isinstance(value, str),
    NUMBER: lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e12,
    LIST: lambda value: isinstance(value, list),
    OBJECT: lambda value: isinstance(value, dict),
    FLAG: lambda value: isinstance(value, bool),
    ANY: lambda value: True,
}


def is_a(kind: str, value: object) -> bool:
    """Whether a value is of one of the types above."""
    return _IS[kind](value)


def checked(
    record: object, where: str, needed: Mapping[str, str], optional: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The record, if it has every field of `needed`, none beside those of `optional`, and each of its type.

    Raises:
        AnnotationError: naming the field that is missing, unknown or mistyped.
    """
    if not isinstance(record, dict):
        raise AnnotationError(where, "", f"must be an object, not {_short(record)}")
    types = {**needed, **(optional or {})}
    for name in needed:
        if name not in record:
            raise AnnotationError(where, name, f"field missing; it is needed, beside {_names(needed)}")
    for name, value in record.items():
        if name not in types:
            raise AnnotationError(where, name, f"unknown field; the fields here are {_names(types)}")
        if not _IS[types[name]](value):
            raise AnnotationError(where, name, f"must be {types[name]}, not {_short(value)}")
    return record


def span(value: object, where: str, name: str) -> tuple[float, float]:
    """A pair of seconds as floats, in the order in which it is written.

    Raises:
        AnnotationError: for anything but a list of two numbers.
    """
    if not isinstance(value, list) or len(value) != 2 or not all(_IS[NUMBER](time) for time in value):
        raise AnnotationError(where, name, f"must be [start, end] in seconds, not {_short(value)}")
    return float(value[0]), float(value[1])


def texts(value: object, where: str, name: str) -> list[str]:
    """A list of texts.

    Raises:
        AnnotationError: for anything else.
    """
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise AnnotationError(where, name, f"must be a list of texts, not {_short(value)}")
    return value


def read_json(path: StrPath) -> Any:
    """The value of a JSON file.

    Raises:
        AnnotationError: for a file that is not JSON, or writes NaN or Infinity.
    """
    try:
        return json.loads(Path(path).read_bytes(), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise AnnotationError(str(path), "", f"not a JSON file: {error}") from error


def read_jsonl(path: StrPath) -> Iterator[tuple[str, Any]]:
    """`file:line` and the value of every line that is not blank.

    Raises:
        AnnotationError: at the first line that is not JSON.
    """
    with open(path, "rb") as file:
        for line, text in enumerate(file, start=1):
            if text.strip():
                try:
                    yield f"{path}:{line}", json.loads(text, parse_constant=_no_constant)
                except (ValueError, RecursionError) as error:
                    raise AnnotationError(f"{path}:{line}", "", f"not JSON: {error}") from error


def opens_with(file: BinaryIO, mark: bytes, where: str) -> None:
    """Check how a file to be streamed begins: a streaming parser finds nothing in another layout, and says nothing.

    Raises:
        AnnotationError: when its first character is not `mark`.
    """
    head = file.read(64).lstrip()
    file.seek(0)
    if not head.startswith(mark):
        raise AnnotationError(where, "", f"must begin with {mark.decode()!r}, not {head[:20]!r}")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _names(fields: Mapping[str, str]) -> str:
    return ", ".join(fields)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
