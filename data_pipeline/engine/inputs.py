"""Inputs into shards of sources: sources/<split>-00000-of-00008.jsonl, which the builders read and the doctor keeps.

An input is read once, from front to back, and dealt out record by record, so that a huge file costs one reading and no
memory. Only videos that a model has yet to describe are dealt out first and described shard by shard.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from data_pipeline.annotations import READERS, to_source
from data_pipeline.annotations.convert import UnknownDuration, read_durations
from data_pipeline.engine.tally import Tally
from data_pipeline.extract.settings import ExtractSettings
from data_pipeline.source import Rejected, Source, SynthError, scan_sources, to_record
from data_pipeline.text.endpoint import Endpoint, EndpointSettings
from whilst.sample import Video

Found: TypeAlias = "Iterator[Source | Rejected]"  # video paths absolute, or relative to the working folder


@dataclass(frozen=True)
class AnnotationInput:
    """What people annotated. `reader` is a name of `annotations.READERS`, `paths` are the files that it takes.

    The other fields are those of `annotations.convert`: where the `videos` lie, the length of a segment (seconds), the
    part of a span that must have passed before its text can be known, and what is done about times outside the video.
    `durations` is a JSON file of seconds by video id, for annotations that do not give them. `only` and `without` are
    text files, a video id a line: what a split takes of the annotated videos, and what it must not take.
    """

    reader: str
    paths: tuple[str, ...]
    videos: str
    segment_seconds: float
    span_clue: float = 1.0
    tolerance: float = 0.5
    unknown_duration: UnknownDuration = "reject"
    durations: str | None = None
    only: str | None = None
    without: str | None = None

    def __post_init__(self) -> None:
        if self.reader not in READERS:
            raise ValueError(f"reader: {self.reader!r} is not one of {', '.join(sorted(READERS))}")
        if not self.paths:
            raise ValueError("paths: name at least one file")
        if self.segment_seconds <= 0:
            raise ValueError(f"segment_seconds: {self.segment_seconds}: must be above 0")


@dataclass(frozen=True)
class ExtractInput:
    """Videos (paths or patterns such as `videos/*.mp4`) that a model behind `endpoint` turns into graphs.

    A video's id is `<dataset>-<name of its file>`; `licence` is that of what is made of it.
    """

    videos: tuple[str, ...]
    dataset: str
    licence: str
    endpoint: EndpointSettings
    settings: ExtractSettings = field(default_factory=ExtractSettings)


@dataclass(frozen=True)
class Input:
    """One of `sources` (JSONL files that `whilst world` or `whilst synth` wrote), `annotations` or `extract`.

    Its sources are dealt out to `shards` files; `limit` takes only the first ones.
    """

    shards: int
    sources: tuple[str, ...] | None = None
    annotations: AnnotationInput | None = None
    extract: ExtractInput | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("sources", "annotations", "extract") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of sources, annotations and extract, not {', '.join(given) or 'none'}")
        if self.sources == ():
            raise ValueError("sources: name at least one file")
        if not 1 <= self.shards <= 99_999:
            raise ValueError(f"shards: {self.shards}: must be 1 to 99999")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit: {self.limit}: must be at least 1, or left out")


def stem(split: str, shard: int, shards: int) -> str:
    """The name of a shard, as `datasets` writes it."""
    return f"{split}-{shard:05d}-of-{shards:05d}"


def stamps(given: Input) -> list[tuple[str, int, int]]:
    """(path, bytes, time of change) of every input file, to notice that one has been changed between two runs.

    Raises:
        SynthError: a file that is not there.
    """
    if given.extract is not None:
        paths = _videos(given.extract)
    else:
        told = given.annotations
        paths = [*(given.sources or ()), *(told.paths if told else ())]
        paths += [path for path in (told.durations, told.only, told.without) if path] if told else []
    files: list[str] = []
    for path in paths:
        if os.path.isdir(path):
            files += sorted(
                found for found in glob.glob(f"{glob.escape(path)}/**", recursive=True) if os.path.isfile(found)
            )
        elif os.path.isfile(path):
            files.append(path)
        else:
            raise SynthError(f"{path}: no such input; correct the path in the recipe's inputs")
    return [(file, (found := os.stat(file)).st_size, found.st_mtime_ns) for file in files]


def gathered(given: Input) -> Found:
    """The sources of an input that is read in one go, up to its `limit`, and what was rejected on the way.

    Raises:
        SynthError, GraphError, AnnotationError: a file that is not what the recipe says it is; names file and record.
    """
    if given.sources is not None:
        found = _from_files(given.sources)
    elif given.annotations is not None:
        found = _from_annotations(given.annotations)
    else:
        raise SynthError("videos are extracted shard by shard; this is a bug")
    return _first(found, given.limit)


def extracted(given: Input, shard: int, endpoint: Endpoint) -> Found:
    """The sources of the videos that fall to `shard`.

    Raises:
        EndpointError: the server keeps failing. What it has answered is cached, so it is not asked again on resume.
    """
    from data_pipeline.extract.road import extract_source, similar_of  # here, to keep PyAV out of the other jobs
    from data_pipeline.extract.vision import vision_describer

    task = given.extract
    assert task is not None
    describer, similar = vision_describer(endpoint, task.settings), similar_of(task.settings)
    for path in _videos(task)[: given.limit][shard :: given.shards]:
        name = Path(path).stem
        yield extract_source(
            Video(path),
            task.settings,
            describer,
            id=f"{task.dataset}-{name}",
            dataset=task.dataset,
            video_id=name,
            licence=task.licence,
            similar=similar,
        )


def deal(found: Found, parts: list[Path], rejected: Path, folder: Path) -> tuple[Tally, list[int]]:
    """Write sources to `parts` in turn and rejections to `rejected`; how many records came, and how many to each part.

    Video paths are written relative to `folder`, the one that the parts will lie in.

    Raises:
        SynthError: two sources with one id.
    """
    tally, counts, ids = Tally(), [0] * len(parts), set()
    with ExitStack() as stack:
        files = [stack.enter_context(open(part, "w", encoding="utf-8", newline="\n")) for part in parts]
        turned_down = stack.enter_context(open(rejected, "w", encoding="utf-8", newline="\n"))
        for one in found:
            tally.sources.taken += 1
            if isinstance(one, Rejected):
                tally.sources.reject(one.reason)
                turned_down.write(_line(rejection("source", one)))
                continue
            if one.id in ids:  # ids alone, about a hundred bytes each, are kept of all sources
                raise SynthError(f"source {one.id!r} comes twice in the inputs; give each source its own id")
            ids.add(one.id)
            k = tally.sources.made % len(parts)
            files[k].write(_line(to_record(_rebased(one, folder))))
            tally.sources.made += 1
            counts[k] += 1
    return tally, counts


def rejection(level: str, one: Rejected) -> dict[str, str]:
    """A line of rejected.jsonl: what was turned down (`source`, `sample` or `query`) and why."""
    return {"level": level, "item": one.item, "reason": one.reason, "detail": one.detail}


def _line(record: object) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def _from_files(paths: Iterable[str]) -> Found:
    for path in paths:
        base = os.path.dirname(path)
        for source in scan_sources(path):
            yield replace(source, video=replace(source.video, path=os.path.join(base, source.video.path)))


def _from_annotations(given: AnnotationInput) -> Found:
    settings = asdict(given) | {"durations": read_durations(given.durations) if given.durations else None}
    for name in ("reader", "paths", "only", "without"):
        del settings[name]
    only = _ids(given.only) if given.only else None
    without = _ids(given.without) if given.without else frozenset()
    for annotated in READERS[given.reader](*given.paths):
        if isinstance(annotated, Rejected):
            yield annotated
        elif only is not None and annotated.video_id not in only:
            yield Rejected(annotated.video_id, "not in only")
        elif annotated.video_id in without:
            yield Rejected(annotated.video_id, "in without")
        else:
            yield to_source(annotated, **settings)


def _ids(path: str) -> frozenset[str]:
    """The ids of a text file, one a line. SynthError: there is none."""
    ids = frozenset(Path(path).read_text(encoding="utf-8").split())
    if not ids:
        raise SynthError(f"{path}: holds no video id; write one a line, or leave the key out")
    return ids


def _first(found: Found, limit: int | None) -> Found:
    made = 0
    for one in found:
        yield one
        made += isinstance(one, Source)
        if made == limit:
            return


def _videos(given: ExtractInput) -> list[str]:
    videos: list[str] = []
    for pattern in given.videos:
        found = sorted(glob.glob(pattern, recursive=True))
        if not found:
            raise SynthError(f"{pattern}: no such video; correct `videos` in the recipe's inputs")
        videos += found
    return videos


def _rebased(source: Source, folder: Path) -> Source:
    # Relative to where it is written, so that the bytes do not depend on where the run's folder is.
    path = Path(os.path.relpath(source.video.path, folder)).as_posix()
    return replace(source, video=replace(source.video, path=path))
