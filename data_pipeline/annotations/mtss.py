"""MTSS scripts (Script-a-Video, arXiv 2604.11244): references, shots and sound events of one video. One file a video.

    {"structured_caption": {"english": {scene_description, global_style, global_audio, references: [{ref_id: "PERSON_1",
      type: "person|object|animal|scene", semantic_description, timestamp?, appearance_anchor}]}},
     "shots": [{shot_id, time_range: [0.0, 3.4], references_in_shot: [ref_id], active_events: [], camera,
      visual_description}],
     "events": [{event_id?, type: "dialogue|sfx|music", time_range, content: {speaker?, line?, description?}}]}

Nothing was released: the layout is that of the listing in a paper that builds on it, and where `events` stands is not
certain. Checked as the paper asks: every id that is referred to exists (else the video is rejected), and every time
lies in the video (`to_source` does). A file has no duration and no video id: its name, without the ending, is the id.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipeline.annotations.record import (
    ANY,
    LIST,
    OBJECT,
    TEXT,
    Annotation,
    AnnotationError,
    Entity,
    StrPath,
    Triple,
    VideoAnnotations,
    checked,
    read_json,
    span,
    texts,
)
from data_pipeline.source import Rejected

_CAPTION = {"references": LIST}
_CAPTION_MAYBE = {"scene_description": TEXT, "global_style": TEXT, "global_audio": TEXT}
_REFERENCE = {"ref_id": TEXT, "type": TEXT, "semantic_description": TEXT}
_SHOT = {"shot_id": ANY, "time_range": LIST, "references_in_shot": LIST, "visual_description": TEXT}
_EVENT = {"type": TEXT, "time_range": LIST, "content": OBJECT}
_TYPES = ("person", "object", "animal", "scene")
_EVENT_TYPES = ("dialogue", "sfx", "music")


class _Dangling(Exception):
    """An id that is referred to and does not exist."""


def read(*paths: StrPath) -> Iterator[VideoAnnotations | Rejected]:
    """The scripts of files or folders (*.json, in order of path).

    Shots are spans of level 0, events spans of level 1, and who appears in which scene is a state of level 0.

    Raises:
        AnnotationError: another layout.
    """
    for path in map(Path, paths):
        for file in sorted(path.rglob("*.json")) if path.is_dir() else [path]:
            try:
                yield _script(read_json(file), file)
            except _Dangling as error:
                yield Rejected(f"mtss-{file.stem}", "dangling id", str(error))


def _script(record: Any, file: Path) -> VideoAnnotations:
    where, video_id = str(file), file.stem
    checked(record, where, {"structured_caption": OBJECT, "shots": LIST}, {"events": LIST})
    checked(record["structured_caption"], f"{where}: structured_caption", {"english": OBJECT})
    caption = checked(record["structured_caption"]["english"], f"{where}: english", _CAPTION, _CAPTION_MAYBE)
    entities = _references(caption["references"], f"{where}: references")
    events = record.get("events", [])
    annotations: list[Annotation] = []
    known = {event["event_id"] for event in events if isinstance(event, dict) and "event_id" in event}
    for i, shot in enumerate(record["shots"]):
        annotations += _shot(shot, f"{where}: shots[{i}]", f"{video_id}/shot{i}", video_id, entities, known)
    for i, event in enumerate(events):
        annotations.append(_event(event, f"{where}: events[{i}]", f"{video_id}/event{i}", video_id, entities))
    meta = {name: caption[name] for name in _CAPTION_MAYBE if name in caption}
    return VideoAnnotations(video_id, "mtss", None, "unknown", tuple(annotations), meta=meta)


def _references(records: Any, where: str) -> dict[str, Entity]:
    entities: dict[str, Entity] = {}
    for i, one in enumerate(records):
        here = f"{where}[{i}]"
        checked(one, here, _REFERENCE, {"timestamp": ANY, "time_range": ANY, "appearance_anchor": OBJECT})
        if one["type"] not in _TYPES:
            raise AnnotationError(here, "type", f"must be one of {', '.join(_TYPES)}, not {one['type']!r}")
        name = one["ref_id"].lower().replace("_", " ")
        entities[one["ref_id"]] = Entity(one["ref_id"], one["type"], name)
    return entities


def _shot(
    shot: Any, where: str, source_id: str, video_id: str, entities: dict[str, Entity], events: set[Any]
) -> list[Annotation]:
    checked(shot, where, _SHOT, {"active_events": LIST, "camera": ANY})
    start, end = span(shot["time_range"], where, "time_range")
    seen = [_entity(one, where, entities) for one in texts(shot["references_in_shot"], where, "references_in_shot")]
    for event in shot.get("active_events", ()):
        if event not in events:
            raise _Dangling(f"{where}: active_events: {event!r}")
    text = _named(shot["visual_description"], where, entities)
    found = [Annotation(video_id, start, end, text, "span", source_id)]
    scenes = [one for one in seen if one.kind == "scene"]
    for scene in scenes:
        for one in seen:
            if one.kind != "scene":
                triple = Triple(one, "appear in", scene)
                found.append(Annotation(video_id, start, end, "", "state", f"{source_id}/{one.id}", triple=triple))
    return found


def _event(event: Any, where: str, source_id: str, video_id: str, entities: dict[str, Entity]) -> Annotation:
    checked(event, where, _EVENT, {"event_id": ANY})
    if event["type"] not in _EVENT_TYPES:
        raise AnnotationError(where, "type", f"must be one of {', '.join(_EVENT_TYPES)}, not {event['type']!r}")
    content = checked(event["content"], f"{where}.content", {}, {"speaker": TEXT, "line": TEXT, "description": TEXT})
    start, end = span(event["time_range"], where, "time_range")
    if event["type"] == "dialogue":
        checked(content, f"{where}.content", {"speaker": TEXT, "line": TEXT}, {"description": TEXT})
        speaker = _entity(content["speaker"], where, entities)
        return Annotation(video_id, start, end, f"says: {content['line']}", "span", source_id, 1, actor=speaker)
    text = _named(content.get("description", ""), where, entities)
    return Annotation(video_id, start, end, text, "span", source_id, 1)


def _entity(ref_id: str, where: str, entities: dict[str, Entity]) -> Entity:
    if ref_id not in entities:
        raise _Dangling(f"{where}: {ref_id!r}")
    return entities[ref_id]


def _named(text: str, where: str, entities: dict[str, Entity]) -> str:
    """A description with the names of its references: "PERSON_1 leans" becomes "person 1 leans"."""
    return re.sub(r"\b[A-Z]+_\d+\b", lambda match: _entity(match[0], where, entities).name, text)
