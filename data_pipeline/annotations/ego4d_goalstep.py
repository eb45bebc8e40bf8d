"""Ego4D Goal-Step: steps and substeps of what the camera wearer does, in two levels (goalstep_{train,valid}.json).

    {version, date, description, split, videos: [{video_uid, start_time, end_time, goal_category, goal_description,
     goal_wikihow_url, summary[], is_procedural, segments: [{start_time, end_time, step_category, step_description,
     is_continued, is_procedural, is_relevant, summary[], segments: [{... the same without segments}]}]}]}

Seen in the validation file: steps out of order, substeps that reach out of their step, steps that begin some 20 ms
before start_time, and one step without is_continued, is_procedural and is_relevant.
Source: facebookresearch/ego4d-goalstep, data/.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from data_pipeline.annotations.record import (
    ANY,
    LIST,
    NUMBER,
    TEXT,
    Annotation,
    AnnotationError,
    Entity,
    StrPath,
    VideoAnnotations,
    checked,
    read_json,
)
from data_pipeline.source import Rejected

CAMERA_WEARER = Entity("c", "person", "camera wearer")

_FILE = {"version": TEXT, "date": TEXT, "description": TEXT, "split": TEXT, "videos": LIST}
_VIDEO = {
    "video_uid": TEXT, "start_time": NUMBER, "end_time": NUMBER, "goal_category": TEXT, "goal_description": TEXT,
    "goal_wikihow_url": ANY, "summary": LIST, "is_procedural": ANY, "segments": LIST,
}  # fmt: skip
_STEP = {"start_time": NUMBER, "end_time": NUMBER, "step_category": TEXT, "step_description": TEXT, "summary": LIST}
_STEP_MAYBE = {"is_continued": ANY, "is_procedural": ANY, "is_relevant": TEXT, "segments": LIST}
_RELEVANT = ("essential", "optional", "irrelevant", "unsure")


def read(*paths: StrPath) -> Iterator[VideoAnnotations | Rejected]:
    """The videos of goalstep JSON files. Steps are level 0 and substeps level 1; both are spans.

    Raises:
        AnnotationError: another layout.
    """
    for path in paths:
        file = checked(read_json(path), str(path), _FILE)
        for i, record in enumerate(file["videos"]):
            yield _video(record, f"{path}: videos[{i}]")


def _video(record: Any, where: str) -> VideoAnnotations:
    checked(record, where, _VIDEO)
    uid = record["video_uid"]
    where = f"{where} ({uid})"
    annotations: list[Annotation] = []
    for i, step in enumerate(record["segments"]):
        annotations.append(_step(step, uid, f"{uid}/{i}", None, f"{where}: segments[{i}]"))
        for j, substep in enumerate(step.get("segments", ())):
            here = f"{where}: segments[{i}].segments[{j}]"
            annotations.append(_step(substep, uid, f"{uid}/{i}/{j}", f"{uid}/{i}", here))
    return VideoAnnotations(
        video_id=uid,
        dataset="ego4d_goalstep",
        duration=float(record["end_time"]) - float(record["start_time"]),
        licence="MIT (annotations)",
        annotations=tuple(annotations),
        start=float(record["start_time"]),
        meta={"goal": record["goal_description"], "goal_category": record["goal_category"]},
    )


def _step(record: Any, uid: str, source_id: str, parent: str | None, where: str) -> Annotation:
    checked(record, where, _STEP, _STEP_MAYBE)
    relevant = record.get("is_relevant", "unsure")
    if relevant not in _RELEVANT:
        raise AnnotationError(where, "is_relevant", f"must be one of {', '.join(_RELEVANT)}, not {relevant!r}")
    if parent is not None and record.get("segments"):
        raise AnnotationError(where, "segments", "a third level of steps; this layout has two")
    return Annotation(
        video_id=uid,
        start=float(record["start_time"]),
        end=float(record["end_time"]),
        text=record["step_description"],
        kind="span",
        source_id=source_id,
        level=0 if parent is None else 1,
        actor=CAMERA_WEARER,
        parent=parent,
    )
