"""HowTo100M: automatic transcripts of the speech in instruction videos (raw_caption_superclean.json and the like).

    {"<youtube id>": {"start": [0.0, ...], "end": [3.4, ...], "text": ["today we ...", ...]}}

Three parallel lists; spans overlap, as recognised speech does. The file is larger than memory, so it is streamed: no
more than one video is held. It has no durations. Source: antoine77340/howto100m, README and youtube_dataloader.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ijson

from data_pipeline.annotations.record import (
    LIST,
    NUMBER,
    Annotation,
    AnnotationError,
    Entity,
    StrPath,
    VideoAnnotations,
    checked,
    is_a,
    opens_with,
    texts,
)
from data_pipeline.source import Rejected

NARRATOR = Entity("narrator", "person", "narrator")


def read(*paths: StrPath) -> Iterator[VideoAnnotations | Rejected]:
    """The videos of caption files, one by one. Lines are spans of level 0 in which the narrator says the text.

    Raises:
        AnnotationError: another layout, at the video where it is found.
    """
    for path in paths:
        with open(path, "rb") as file:
            opens_with(file, b"{", str(path))
            try:
                for video_id, record in ijson.kvitems(file, "", use_float=True):
                    yield _video(video_id, record, f"{path}: {video_id}")
            except ijson.JSONError as error:
                raise AnnotationError(str(path), "", f"not a JSON object of videos: {error}") from error


def _video(video_id: str, record: Any, where: str) -> VideoAnnotations:
    checked(record, where, {"start": LIST, "end": LIST, "text": LIST})
    lines = texts(record["text"], where, "text")
    for name in ("start", "end"):
        if len(record[name]) != len(lines):
            raise AnnotationError(where, name, f"{len(record[name])} for {len(lines)} texts; one each")
        for i, time in enumerate(record[name]):
            if not is_a(NUMBER, time):
                raise AnnotationError(where, f"{name}[{i}]", f"must be seconds, not {time!r}")
    annotations = tuple(
        Annotation(video_id, float(start), float(end), _says(text), "span", f"{video_id}/{i}", actor=NARRATOR)
        for i, (start, end, text) in enumerate(zip(record["start"], record["end"], lines, strict=True))
    )
    return VideoAnnotations(video_id, "howto100m", None, "unknown", annotations)


def _says(text: str) -> str:
    return f"says: {text}" if text.strip() else ""
