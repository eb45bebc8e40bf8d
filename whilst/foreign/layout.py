"""What the foreign layouts share: taking records apart, putting them together, and proving that nothing was lost."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any, TypeAlias

from whilst.sample import StrPath, as_float
from whilst.timeline import (
    Answer,
    Query,
    Sample,
    SampleError,
    Silence,
    Thought,
    fail,
    is_seconds,
    validate,
)

Record: TypeAlias = Any  # foreign JSON, of whatever shape it turns out to be
Reader: TypeAlias = Callable[[Record, str], Sample]  # (record, id unless the record has one) -> valid sample
Writer: TypeAlias = Callable[[Sample, str], Record]  # (sample, id that need not be written) -> record


def with_video_root(sample: Sample, root: StrPath) -> Sample:
    """The same sample with its relative video path under the folder `root`."""
    return replace(sample, video=replace(sample.video, path=os.path.join(root, sample.video.path)))


# ---- Taking a record apart. Every complaint is a SampleError that names the field.


def split(
    value: Record, name: str, known: Sequence[str], needed: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The known fields of an object, and the rest of it."""
    if not isinstance(value, dict):
        fail("", name, f"must be an object, not {value!r}")
    if missing := [field for field in needed if field not in value]:
        fail("", name, f"field missing: {', '.join(missing)}; add it")
    found = {field: value[field] for field in known if field in value}
    return found, {field: item for field, item in value.items() if field not in found}


def items(value: Record, name: str) -> list[Any]:
    """The items of a list."""
    if not isinstance(value, list):
        fail("", name, f"must be a list, not {value!r}")
    return value


def rows(value: Record, name: str, columns: Sequence[str]) -> list[list[Any]]:
    """The rows of a list of rows: columns called start, end or time hold seconds, the others text."""
    found = []
    for i, row in enumerate(items(value, name)):
        if not isinstance(row, list) or len(row) != len(columns):
            fail("", f"{name}[{i}]", f"must be [{', '.join(columns)}], not {row!r}")
        for column, item in zip(columns, row, strict=True):
            if column in ("start", "end", "time"):
                if not is_seconds(item):
                    fail("", f"{name}[{i}]", f"{column} must be a finite number of seconds >= 0, not {item!r}")
            elif not isinstance(item, str):
                fail("", f"{name}[{i}]", f"{column} must be text, not {item!r}")
        found.append([as_float(item) for item in row])
    return found


# ---- Putting a record together.


def own_meta(sample: Sample, key: str) -> Mapping[str, Any]:
    """What the reader of a layout kept for its writer, in meta[key]."""
    own = sample.meta.get(key, {})
    if not isinstance(own, Mapping):
        fail("", f"meta.{key}", f"must be an object, not {own!r}")
    return own


def answered(sample: Sample) -> list[tuple[Query, Answer]]:
    """The queries with their first answers: in the order of the ids q0, q1, ... where these are all, else of asking."""
    pairs = [(query, sample.answers_to(query.id)[0]) for query in sample.queries()]
    if {query.id for query, _ in pairs} == {f"q{i}" for i in range(len(pairs))}:
        pairs.sort(key=lambda pair: int(pair[0].id[1:]))
    return pairs


def said(sample: Sample) -> dict[float, str]:
    """What is said at each time: a thought's text, or "" for a silence."""
    texts: dict[float, str] = {}
    for event in sample.events:
        if isinstance(event, Thought):
            texts[event.time] = event.text
        elif isinstance(event, Silence):
            texts[event.time] = ""
    return texts


def checked_record(sample: Sample, write: Writer, read: Reader, default_id: str) -> Record:
    """The record of a sample, or SampleError when reading it back would not give the very same sample."""
    validate(sample)
    record = write(sample, default_id)
    try:
        back = read(record, default_id)
    except SampleError as error:
        raise SampleError(f"this layout cannot say the sample, as its own record has an error: {error}") from error
    for name, mine, its in _parts(sample, back):
        if mine != its:
            problem = f"this layout cannot say {mine!r}, it would be read back as {its!r}; change it or leave it out"
            fail("", name, problem)
    return record


def _parts(sample: Sample, back: Sample) -> list[tuple[str, object, object]]:
    parts: list[tuple[str, object, object]] = [
        (name, getattr(sample, name), getattr(back, name)) for name in ("id", "video", "memory")
    ]
    pairs = enumerate(zip_longest(sample.events, back.events))
    names = sorted(sample.meta.keys() | back.meta.keys())
    return [
        *parts,
        *((f"events[{i}]", mine, its) for i, (mine, its) in pairs),
        *((f"meta.{name}", sample.meta.get(name), back.meta.get(name)) for name in names),
    ]
