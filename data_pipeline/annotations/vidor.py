"""VidOR and VidVRD: relations between tracked objects, one JSON file a video.

    {version, video_id, video_hash, video_path, frame_count, fps, width, height, "subject/objects": [{tid, category}],
     trajectories: [[{tid, bbox, generated}]], relation_instances: [{subject_tid, object_tid, predicate, begin_fid,
     end_fid}]}

`begin_fid` is the first frame of a relation, `end_fid` the first one after it. There is one list of trajectories a
frame, empty where nothing is seen; tids need not be contiguous. Trajectories are not read. VidVRD cuts a relation
into pieces of 30 frames that overlap: pieces of one triple that meet become one state.
Source: xdshang/VidVRD-helper.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipeline.annotations.phrases import noun
from data_pipeline.annotations.record import (
    ANY,
    LIST,
    NUMBER,
    TEXT,
    Annotation,
    AnnotationError,
    Entity,
    Reader,
    StrPath,
    Triple,
    VideoAnnotations,
    checked,
    read_json,
)
from data_pipeline.source import Rejected

PERSONS = frozenset({"adult", "child", "baby", "person"})
ANIMALS = frozenset(
    """
    animal antelope bear bird camel cat cattle chicken cow crab crocodile dog domestic_cat duck elephant fish fox frog
    giant_panda hamster hippopotamus horse kangaroo leopard lion lizard monkey panda penguin pig rabbit red_panda
    sheep snake squirrel stingray tiger turtle whale zebra
    """.split()  # noqa: SIM905
)

_FILE = {
    "version": TEXT, "video_id": TEXT, "video_hash": TEXT, "video_path": TEXT, "frame_count": NUMBER, "fps": NUMBER,
    "width": NUMBER, "height": NUMBER, "subject/objects": LIST, "trajectories": LIST, "relation_instances": LIST,
}  # fmt: skip
_RELATION = {
    "subject_tid": NUMBER, "object_tid": NUMBER, "predicate": TEXT, "begin_fid": NUMBER, "end_fid": NUMBER,
}  # fmt: skip


def reader(dataset: str) -> Reader:
    """The reader of files or folders (searched for *.json, in order of path) under a dataset's name.

    Relations are states of level 0. It raises AnnotationError for another layout and for a relation to an unknown tid.
    """

    def read(*paths: StrPath) -> Iterator[VideoAnnotations | Rejected]:
        for path in map(Path, paths):
            for file in sorted(path.rglob("*.json")) if path.is_dir() else [path]:
                yield _video(read_json(file), str(file), dataset)

    return read


def entity_kind(category: str) -> str:
    """The node kind of a class name."""
    return "person" if category in PERSONS else "animal" if category in ANIMALS else "object"


def _video(record: Any, where: str, dataset: str) -> VideoAnnotations:
    checked(record, where, _FILE)
    fps = record["fps"]
    if fps <= 0:
        raise AnnotationError(where, "fps", f"must be frames per second, not {fps}")
    entities: dict[int, Entity] = {}
    for i, one in enumerate(record["subject/objects"]):
        checked(one, f"{where}: subject/objects[{i}]", {"tid": NUMBER, "category": TEXT})
        entities[one["tid"]] = Entity(f"e{one['tid']}", entity_kind(one["category"]), noun(one["category"]))
    spans: dict[tuple[int, str, int], list[tuple[int, int, int]]] = {}
    for i, one in enumerate(record["relation_instances"]):
        here = f"{where}: relation_instances[{i}]"
        checked(one, here, _RELATION, {"confidence": ANY})
        for field in ("subject_tid", "object_tid"):
            if one[field] not in entities:
                raise AnnotationError(here, field, f"{one[field]} is no tid of subject/objects; add it there")
        key = (one["subject_tid"], one["predicate"], one["object_tid"])
        spans.setdefault(key, []).append((one["begin_fid"], one["end_fid"], i))
    video_id = record["video_id"]
    annotations = [
        Annotation(video_id, begin / fps, end / fps, "", "state", f"{video_id}/{i}",
                   triple=Triple(entities[subject], predicate, entities[tail]))
        for (subject, predicate, tail), found in spans.items()
        for begin, end, i in joined(found)
    ]  # fmt: skip
    return VideoAnnotations(
        video_id=video_id,
        dataset=dataset,
        duration=record["frame_count"] / fps,
        licence="unknown",
        annotations=tuple(annotations),
        file=record["video_path"],
    )


def joined(spans: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """(begin, end, index) spans in order, those that overlap or touch made one; one that runs backwards stays alone."""
    out: list[tuple[int, int, int]] = []
    for begin, end, i in sorted(spans):
        if out and out[-1][0] <= begin <= out[-1][1] and begin <= end:
            out[-1] = (out[-1][0], max(out[-1][1], end), out[-1][2])
        else:
            out.append((begin, end, i))
    return out
