"""COIN: the steps of 180 tasks in instruction videos (COIN.json), CC BY-NC 4.0.

    {"database": {"<youtube id>": {"duration", "class", "video_url", "start", "end", "subset": "training|testing",
     "recipe_type": 131, "annotation": [{"id": "212", "segment": [60.0, 69.0], "label": "take out ..."}]}}}

`start` and `end` enclose the task within the video. `id` is that of the step's label, so one may come twice in a video.
Source: coin-dataset/annotations, README.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from data_pipeline.annotations.record import (
    LIST,
    NUMBER,
    OBJECT,
    TEXT,
    Annotation,
    StrPath,
    VideoAnnotations,
    checked,
    read_json,
    span,
)
from data_pipeline.annotations.youcook2 import PERSON
from data_pipeline.source import Rejected

_VIDEO = {
    "duration": NUMBER, "class": TEXT, "video_url": TEXT, "start": NUMBER, "end": NUMBER, "subset": TEXT,
    "recipe_type": NUMBER, "annotation": LIST,
}  # fmt: skip


def read(*paths: StrPath) -> Iterator[VideoAnnotations | Rejected]:
    """The videos of annotation files. Steps are spans of level 0 of a person; the task is in meta.

    Raises:
        AnnotationError: another layout.
    """
    for path in paths:
        file = checked(read_json(path), str(path), {"database": OBJECT})
        for video_id, record in file["database"].items():
            yield _video(video_id, record, f"{path}: database.{video_id}")


def _video(video_id: str, record: Any, where: str) -> VideoAnnotations:
    checked(record, where, _VIDEO)
    annotations = []
    for i, step in enumerate(record["annotation"]):
        here = f"{where}: annotation[{i}]"
        checked(step, here, {"id": TEXT, "segment": LIST, "label": TEXT})
        start, end = span(step["segment"], here, "segment")
        source_id = f"{video_id}/{i}-{step['id']}"
        annotations.append(Annotation(video_id, start, end, step["label"], "span", source_id, actor=PERSON))
    return VideoAnnotations(
        video_id=video_id,
        dataset="coin",
        duration=float(record["duration"]),
        licence="CC BY-NC 4.0",
        annotations=tuple(annotations),
        meta={"task": record["class"], "task_span": [record["start"], record["end"]], "subset": record["subset"]},
    )
