"""YouCook2: the steps of recipes (youcookii_annotations_trainval.json).

    {"database": {"<youtube id>": {"duration": 241.62, "subset": "training", "recipe_type": "113", "video_url": ...,
     "annotations": [{"segment": [90, 102], "id": 0, "sentence": "spread margarine ..."}]}}}

The file of the test split has segments without sentences: its videos are rejected.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from data_pipeline.annotations.record import (
    ANY,
    LIST,
    NUMBER,
    OBJECT,
    TEXT,
    Annotation,
    Entity,
    StrPath,
    VideoAnnotations,
    checked,
    read_json,
    span,
)
from data_pipeline.source import Rejected

PERSON = Entity("person", "person", "person")

_VIDEO = {"duration": NUMBER, "subset": TEXT, "recipe_type": TEXT, "annotations": LIST, "video_url": TEXT}


def read(*paths: StrPath) -> Iterator[VideoAnnotations | Rejected]:
    """The videos of annotation files. Steps are spans of level 0 of a person.

    Raises:
        AnnotationError: another layout.
    """
    for path in paths:
        file = checked(read_json(path), str(path), {"database": OBJECT})
        for video_id, record in file["database"].items():
            yield _video(video_id, record, f"{path}: database.{video_id}")


def _video(video_id: str, record: Any, where: str) -> VideoAnnotations | Rejected:
    checked(record, where, _VIDEO)
    annotations = []
    for i, step in enumerate(record["annotations"]):
        here = f"{where}: annotations[{i}]"
        checked(step, here, {"segment": LIST, "id": ANY}, {"sentence": TEXT})
        if "sentence" not in step:
            return Rejected(f"youcook2-{video_id}", "no labels", "segments without sentences, as in the test split")
        start, end = span(step["segment"], here, "segment")
        source_id = f"{video_id}/{step['id']}"
        annotations.append(Annotation(video_id, start, end, step["sentence"], "span", source_id, actor=PERSON))
    return VideoAnnotations(
        video_id=video_id,
        dataset="youcook2",
        duration=float(record["duration"]),
        licence="unknown",
        annotations=tuple(annotations),
        meta={"subset": record["subset"], "recipe_type": record["recipe_type"]},
    )
