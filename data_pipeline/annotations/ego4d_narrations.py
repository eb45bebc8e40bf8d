"""Ego4D narrations: what the camera wearer does, as sentences at moments. Two layouts.

    official:      {uid: {"narration_pass_1": {"narrations": [{"timestamp_sec", "timestamp_frame", "narration_text",
                    "annotation_uid"}], "summaries": [{"start_sec", "end_sec", "summary_text", "annotation_uid"}]},
                    "narration_pass_2": {...}, "status"}}
    VideoLLM-online: {"videos": {uid: {"narrations": [{"time", "text", "_annotation_uid"}]}}}

Tags: `#C C` the camera wearer, `#O` another person, `#unsure` (rejected by `to_source`), `#Summary`. The passes are two
annotators who tell the same events, so each becomes a source of its own. The files do not say how long a video is.
A narration is a point; it may name what takes a second or two to happen, and its moment is all that is known.
Source: narration.json of Ego4D; showlab/videollm-online, data/ego4d/narration.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from data_pipeline.annotations.ego4d_goalstep import CAMERA_WEARER
from data_pipeline.annotations.record import (
    ANY,
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
)
from data_pipeline.source import Rejected

_LICENCE = "Ego4D licence"
_WEARER = re.compile(r"^#?c\s+c\b\s*", re.IGNORECASE)
_OTHER = re.compile(r"^#o\s+(?:(?:a|the|an)\s+)?((?:man|woman|person|boy|girl|lady|child)\s+[a-z])\b\s*", re.IGNORECASE)
_SUMMARY = re.compile(r"^#summary\s+", re.IGNORECASE)
_TAG = re.compile(r"#(?!unsure)\w+\s*", re.IGNORECASE)


def read_official(*paths: StrPath) -> Iterator[VideoAnnotations | Rejected]:
    """The passes of every video of narration.json. Summaries are spans of level 0, narrations points of level 1.

    Raises:
        AnnotationError: another layout.
    """
    for path in paths:
        for uid, record in _videos(read_json(path), str(path)):
            where = f"{path}: {uid}"
            checked(record, where, {}, {"narration_pass_1": OBJECT, "narration_pass_2": OBJECT, "status": TEXT})
            passes = [name for name in ("narration_pass_1", "narration_pass_2") if name in record]
            if not passes:
                yield Rejected(f"ego4d_narrations-{uid}", "no annotations", str(record.get("status", "no pass")))
            for name in passes:
                yield _pass(uid, name, record[name], f"{where}.{name}")


def _pass(uid: str, name: str, record: Any, where: str) -> VideoAnnotations:
    checked(record, where, {"narrations": LIST}, {"summaries": LIST})
    annotations = []
    for i, one in enumerate(record.get("summaries", ())):
        here = f"{where}.summaries[{i}]"
        checked(one, here, {"start_sec": NUMBER, "end_sec": NUMBER, "summary_text": TEXT}, {"annotation_uid": ANY})
        actor, text = untagged(one["summary_text"])
        start, end = float(one["start_sec"]), float(one["end_sec"])
        annotations.append(Annotation(uid, start, end, text, "span", f"{uid}/{name}/summary{i}", actor=actor))
    for i, one in enumerate(record["narrations"]):
        here = f"{where}.narrations[{i}]"
        needed = {"timestamp_sec": NUMBER, "narration_text": TEXT}
        checked(one, here, needed, {"timestamp_frame": NUMBER, "annotation_uid": ANY})
        annotations.append(_point(uid, one["timestamp_sec"], one["narration_text"], f"{uid}/{name}/{i}", 1))
    return VideoAnnotations(uid, "ego4d_narrations", None, _LICENCE, tuple(annotations), part=name)


def read_live(*paths: StrPath) -> Iterator[VideoAnnotations | Rejected]:
    """The videos of all_narrations_redacted.json, one source an annotator; narrations are points of level 0.

    Raises:
        AnnotationError: another layout.
    """
    for path in paths:
        file = checked(read_json(path), str(path), {"videos": OBJECT})
        for uid, record in _videos(file["videos"], f"{path}: videos"):
            where = f"{path}: videos.{uid}"
            checked(record, where, {"narrations": LIST})
            groups: dict[str, list[Annotation]] = {}
            for i, one in enumerate(record["narrations"]):
                checked(one, f"{where}.narrations[{i}]", {"time": NUMBER, "text": TEXT, "_annotation_uid": TEXT})
                points = groups.setdefault(one["_annotation_uid"], [])
                points.append(_point(uid, one["time"], one["text"], f"{uid}/{i}", 0))
            if not groups:
                yield Rejected(f"ego4d_narrations_live-{uid}", "no annotations")
            for annotator, points in groups.items():
                yield VideoAnnotations(uid, "ego4d_narrations_live", None, _LICENCE, tuple(points), part=annotator)


def _videos(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise AnnotationError(where, "", "must be an object of videos by uid")
    yield from value.items()


def _point(uid: str, time: float, text: str, source_id: str, level: int) -> Annotation:
    actor, said = untagged(text)
    return Annotation(uid, float(time), float(time), said, "point", source_id, level, actor=actor)


def untagged(text: str) -> tuple[Entity | None, str]:
    """Who acts and what they do: ("#C C picks a bag") gives the camera wearer and "picks a bag".

    Without a known actor the text stays a whole clause; #unsure stays in it.
    """
    text = _SUMMARY.sub("", " ".join(text.split()))
    if wearer := _WEARER.match(text):
        return CAMERA_WEARER, _TAG.sub("", text[wearer.end() :])
    if other := _OTHER.match(text):
        name = other[1].lower()
        return Entity(name.replace(" ", "_"), "person", name), _TAG.sub("", text[other.end() :])
    return None, _TAG.sub("", text)
