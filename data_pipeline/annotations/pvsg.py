"""PVSG: relations between segmented objects in 400 videos at 5 fps (pvsg.json), S-Lab licence (non-commercial).

    {objects: {thing: [...], stuff: [...]}, relations: [...], split: {vidor|epic_kitchen|ego4d: {train: [], val: []}},
     data: [{video_id, meta: {fps, num_frames, height, width}, objects: [{object_id, category, is_thing, status}],
     relations: [[subject id, object id, predicate, [[begin, end], ...]], ...], captions, qa_pairs, summary}]}

Both frames of a span are in it, as the tools that read the file take it. Captions and question pairs are allowed and
not read: how they write times could not be seen. Source: Jingkang50/OpenPVSG, datasets/datasets/pvsg_*.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from data_pipeline.annotations.phrases import noun
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
    Triple,
    VideoAnnotations,
    checked,
    read_json,
    span,
)
from data_pipeline.annotations.vidor import entity_kind
from data_pipeline.source import Rejected

_VIDEO = {"video_id": TEXT, "meta": OBJECT, "objects": LIST, "relations": LIST}
_META = {"fps": NUMBER, "num_frames": NUMBER, "height": NUMBER, "width": NUMBER}
_OBJECT = {"object_id": NUMBER, "category": TEXT}


def read(*paths: StrPath) -> Iterator[VideoAnnotations | Rejected]:
    """The videos of pvsg.json. Relations are states of level 0; `meta.source` is vidor, epic_kitchen or ego4d.

    Raises:
        AnnotationError: another layout, a relation of an unknown object, or a video in no split.
    """
    for path in paths:
        file = checked(
            read_json(path), str(path), {"objects": OBJECT, "relations": LIST, "split": OBJECT, "data": LIST}
        )
        homes = _homes(file["split"], str(path))
        for i, record in enumerate(file["data"]):
            yield _video(record, f"{path}: data[{i}]", homes)


def _homes(split: Any, where: str) -> dict[str, tuple[str, str]]:
    """Where each video comes from, and its split."""
    homes: dict[str, tuple[str, str]] = {}
    for source, parts in split.items():
        checked(parts, f"{where}: split.{source}", {"train": LIST, "val": LIST})
        homes |= {video: (source, part) for part, videos in parts.items() for video in videos}
    return homes


def _video(record: Any, where: str, homes: dict[str, tuple[str, str]]) -> VideoAnnotations:
    checked(record, where, _VIDEO, {"captions": ANY, "qa_pairs": ANY, "summary": ANY})
    video_id = record["video_id"]
    where = f"{where} ({video_id})"
    if video_id not in homes:
        raise AnnotationError(where, "video_id", "is in no list of `split`; add it there")
    source, part = homes[video_id]
    meta = checked(record["meta"], f"{where}: meta", _META)
    fps = meta["fps"]
    if fps <= 0:
        raise AnnotationError(where, "meta.fps", f"must be frames per second, not {fps}")
    entities: dict[int, Entity] = {}
    for i, one in enumerate(record["objects"]):
        checked(one, f"{where}: objects[{i}]", _OBJECT, {"is_thing": ANY, "status": ANY})
        entities[one["object_id"]] = Entity(f"e{one['object_id']}", entity_kind(one["category"]), noun(one["category"]))
    annotations: list[Annotation] = []
    for i, relation in enumerate(record["relations"]):
        here = f"{where}: relations[{i}]"
        if not isinstance(relation, list) or len(relation) != 4 or not isinstance(relation[3], list):
            raise AnnotationError(here, "", f"must be [subject, object, predicate, spans], not {relation!r}")
        subject, tail, predicate, spans = relation
        for name, id in (("subject", subject), ("object", tail)):
            if id not in entities:
                raise AnnotationError(here, name, f"{id!r} is no object_id of this video")
        triple = Triple(entities[subject], str(predicate), entities[tail])
        for j, frames in enumerate(spans):
            begin, end = span(frames, here, f"spans[{j}]")
            until = (end + 1) / fps if end >= begin else end / fps
            source_id = f"{video_id}/{i}/{j}"
            annotations.append(Annotation(video_id, begin / fps, until, "", "state", source_id, triple=triple))
    return VideoAnnotations(
        video_id=video_id,
        dataset="pvsg",
        duration=meta["num_frames"] / fps,
        licence="S-Lab (non-commercial)",
        annotations=tuple(annotations),
        file=f"{source}/videos/{video_id}.mp4",
        meta={"source": source, "split": part},
    )
