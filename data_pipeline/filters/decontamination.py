"""Decontamination: no video of a benchmark among the sources. Videos are told by the id that their site gave them.

    lists = read_benchmarks([BenchmarkFile("ovo_bench", "ovo_bench_new.json")])
    lists.found(source)   # "ovo_bench" or None

Datasets write one video in many ways (`v_<id>`, `<id>_<start>_<end>`, a path, a URL); `names` brings them together. An
id that many datasets could have, such as `42` or `video_4017`, counts only within its own dataset.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from data_pipeline.filters.settings import BenchmarkFile
from data_pipeline.source import Source, SynthError
from whilst.sample import SampleError, json_lines, parse_json

_URL = re.compile(r"(?:youtube\.com/(?:watch\?(?:.*&)?v=|embed/|shorts/)|youtu\.be/)([\w-]{11})")
_CUT = re.compile(r"(.{5,}?)_\d+(?:\.\d+)?(?:_\d+(?:\.\d+)?)?")  # <id>_<start>_<end>, <id>_<number of the clip>
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.I)
_YOUTUBE = re.compile(r"[\w-]{11}")
# 42, video_4017, sample_3_real, movie101_2
_COMMON = re.compile(r"(?:[A-Za-z]?[a-z]{2,}(?:\d{0,3}[_-])?)?\d{1,6}(?:[_-][a-z]+)?")
_SUFFIX = re.compile(r"\.(?:mp4|mkv|webm|avi|mov|m4v|flv|npy|mpg|ts)$", re.I)


def names(written: str, dataset: str) -> frozenset[str]:
    """All ids under which a video that `dataset` writes as `written` may be known.

    YouTube ids and uuids are kept as such, free of folder, extension, `v_` and clip times; any other id is also kept
    whole. Ids that are common become `<folder or dataset>/<id>`. Case is kept: YouTube ids differ by it.
    """
    if found := _URL.search(written):
        return frozenset({found[1]})
    path = PurePosixPath(written.replace("\\", "/").strip())
    stem = _SUFFIX.sub("", path.name)
    if found := _UUID.match(stem):
        return frozenset({found[0].lower()})
    if stem.startswith("v_") and _YOUTUBE.fullmatch(stem[2:]):
        stem = stem[2:]
    if len(stem) > 11 and stem[11] == "_" and _YOUTUBE.match(stem) and _CUT.fullmatch(stem) and not _common(stem):
        return frozenset({stem[:11]})
    if _common(stem):
        folders = {path.parent.name, dataset} - {"", "videos", "video", "clips", "videos_cropped"}
        return frozenset(f"{folder.casefold()}/{stem}" for folder in folders)
    return frozenset({stem})


def _common(stem: str) -> bool:
    # A YouTube id may look like that by chance: 11 signs, hardly ever all in lower case.
    return _COMMON.fullmatch(stem) is not None and not (len(stem) == 11 and stem.lower() != stem)


@dataclass(frozen=True)
class Decontamination:
    """The benchmark of every id that must not be trained on."""

    benchmarks: Mapping[str, str] = field(default_factory=dict)

    def found(self, source: Source) -> str | None:
        """The benchmark that has the source's video, by its `video_id` or the name of its file; None: no benchmark."""
        ids = names(source.video_id, source.dataset) | names(source.video.path, source.dataset)
        return min((self.benchmarks[id] for id in ids if id in self.benchmarks), default=None)


def read_benchmarks(files: Iterable[BenchmarkFile]) -> Decontamination:
    """The ids of all videos of these benchmarks.

    Raises:
        SynthError: an unknown layout, a file that cannot be read as such, or a record without its id; names file,
            record, field and fix.
    """
    found: dict[str, str] = {}
    for file in files:
        if file.layout not in LAYOUTS:
            known = ", ".join(LAYOUTS)
            raise SynthError(f"filters.benchmarks: layout {file.layout!r} is not known; it is one of {known}")
        count = 0
        for written in LAYOUTS[file.layout](file.path):
            count += 1
            for name in names(written, file.layout):
                found.setdefault(name, file.layout)
        if not count:
            raise SynthError(f"{file.path}: no video in it; is this the file of {file.layout}?")
    return Decontamination(found)


# ---- Layouts: the ids as a benchmark's annotation file writes them.


def _rows(*fields: str) -> Callable[[str], Iterator[str]]:
    """A JSON list (or JSONL) of objects of which each has its id in the first of `fields` that it has."""

    def read(path: str) -> Iterator[str]:
        for where, row in _records(path):
            yield _id(row, fields, where)

    return read


def _records(path: str) -> Iterator[tuple[str, Any]]:
    if path.endswith(".jsonl"):
        for line, record in json_lines(path):
            if isinstance(record, SampleError):
                raise SynthError(f"{path}:{line}: {record}")
            yield f"{path}:{line}", record
        return
    whole = _json(path)
    if not isinstance(whole, list):
        raise SynthError(f"{path}: must be a list of records, not {type(whole).__name__}; choose another layout")
    for i, record in enumerate(whole):
        yield f"{path}: record {i}", record


def _json(path: str) -> Any:
    try:
        return parse_json(Path(path).read_bytes())
    except SampleError as error:
        raise SynthError(f"{path}: {error}") from error


def _id(row: object, fields: tuple[str, ...], where: str) -> str:
    if isinstance(row, dict):
        for name in fields:
            value = row.get(name)
            if isinstance(value, str) and value.strip():
                return value
    have = ", ".join(sorted(row)) if isinstance(row, dict) else json.dumps(row)[:60]
    raise SynthError(f"{where}: {' or '.join(fields)}: missing or no text (it has: {have}); name the video there")


def _keys(path: str) -> Iterator[str]:
    """An object by video id, such as ActivityNet Captions; or {"database": {...}}, such as COIN and YouCook2."""
    whole = _json(path)
    if isinstance(whole, dict) and isinstance(whole.get("database"), dict):
        whole = whole["database"]
    if not isinstance(whole, dict):
        raise SynthError(f"{path}: must be an object by video id; choose another layout")
    yield from whole


def _videos(path: str) -> Iterator[str]:
    """{"videos": [{"video_uid"}]}, as Ego4D GoalStep."""
    whole = _json(path)
    if not isinstance(whole, dict) or not isinstance(whole.get("videos"), list):
        raise SynthError(f"{path}: videos: missing; choose another layout")
    for i, row in enumerate(whole["videos"]):
        yield _id(row, ("video_uid",), f"{path}: videos[{i}]")


def _lines(path: str) -> Iterator[str]:
    """One id a line; what follows the first white space is let be, so the text of Charades-STA is read too."""
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        if line.strip():
            yield line.split()[0]


LAYOUTS: dict[str, Callable[[str], Iterator[str]]] = {
    "ovo_bench": _rows("video"),
    "streaming_bench": _rows("video", "video_path"),
    "video_holmes": _rows("video", "video ID"),
    "omnimmi": _rows("video"),
    "qvhighlights": _rows("vid"),
    "activitynet_captions": _keys,
    "youcook2": _keys,
    "coin": _keys,
    "ego4d_goalstep": _videos,
    "charades_sta": _rows("path", "video"),
    "ids": _lines,
}
"""By name: how the ids of a benchmark's videos are read. `ids` is a text file with one id a line."""
