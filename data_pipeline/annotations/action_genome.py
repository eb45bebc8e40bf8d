"""Action Genome: what the person does with the objects around, on sampled frames of Charades videos.

The dataset comes as pickles, which may run any code when they are opened, so none is read here. Convert
object_bbox_and_relationship.pkl once, on a machine that may be lost:

    data = pickle.load(open("object_bbox_and_relationship.pkl", "rb"))
    json.dump(data, open("relations.json", "w"), default=list)

    relations.json  {"<video>.mp4/<frame>.png": [{class, bbox, attention_relationship: [], spatial_relationship: [],
                     contacting_relationship: [], visible, metadata: {tag, set}}]}
    frames.json     {"<video>.mp4": {"fps": 29.97, "duration": 31.2}}: yours to write, the dataset says neither

Frames are numbered from 1 at the video's own rate. Relationships are null where an object is not visible. A relation
that holds on sampled frames one after another is one state, from the first of them to the last. Of a spatial relation
the object is the subject ("the table is in front of the person"), of the others the person is.
Source: JingweiJ/ActionGenome, README and tools/dump_frames.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipeline.annotations.phrases import noun
from data_pipeline.annotations.record import (
    ANY,
    FLAG,
    NUMBER,
    TEXT,
    Annotation,
    AnnotationError,
    Entity,
    StrPath,
    Triple,
    VideoAnnotations,
    checked,
    read_json,
    texts,
)
from data_pipeline.annotations.youcook2 import PERSON
from data_pipeline.source import Rejected

_OBJECT = {
    "class": TEXT, "bbox": ANY, "attention_relationship": ANY, "spatial_relationship": ANY,
    "contacting_relationship": ANY, "visible": FLAG, "metadata": ANY,
}  # fmt: skip
_SAYS_NOTHING = frozenset({"unsure", "other_relationship"})

Found = dict[tuple[str, str, bool], list[int]]  # (class, predicate, the object is the subject): frames


def read(*paths: StrPath) -> Iterator[VideoAnnotations | Rejected]:
    """The videos of relations.json with the rates of frames.json, given in this order. Relations are states of level 0.

    Raises:
        AnnotationError: a pickle, another number of files, another layout, or a video that frames.json lacks.
    """
    if any(Path(path).suffix in (".pkl", ".pickle") for path in paths):
        raise AnnotationError(str(paths[0]), "", "a pickle can run any code; convert it to JSON, see action_genome.py")
    if len(paths) != 2:
        raise AnnotationError(", ".join(map(str, paths)), "", "give two files: relations.json, then frames.json")
    path, rates = str(paths[0]), read_json(paths[1])
    frames = read_json(path)
    if not isinstance(frames, dict) or not isinstance(rates, dict):
        raise AnnotationError(path, "", "both files must be objects")
    videos: dict[str, dict[int, Any]] = {}
    for name, objects in frames.items():
        video, _, frame = name.rpartition("/")
        if not video or not Path(frame).stem.isdigit() or not isinstance(objects, list):
            raise AnnotationError(f"{path}: {name}", "", "must be a list of objects by <video>/<frame number>.png")
        videos.setdefault(video, {})[int(Path(frame).stem)] = objects
    for video, by_frame in videos.items():
        if video not in rates:
            raise AnnotationError(str(paths[1]), video, "missing; give its fps and duration")
        rate = checked(rates[video], f"{paths[1]}: {video}", {"fps": NUMBER, "duration": NUMBER})
        yield _video(video, by_frame, rate, f"{path}: {video}")


def _video(video: str, by_frame: dict[int, Any], rate: dict[str, Any], where: str) -> VideoAnnotations:
    found: Found = {}
    for frame, objects in sorted(by_frame.items()):
        for i, one in enumerate(objects):
            _note(one, frame, found, f"{where}/{frame}: [{i}]")
    order = {frame: k for k, frame in enumerate(sorted(by_frame))}
    video_id = Path(video).stem
    annotations: list[Annotation] = []
    for (category, relation, reverse), frames in found.items():
        other = Entity(category, "object", noun(category))
        triple = Triple(other, relation, PERSON) if reverse else Triple(PERSON, relation, other)
        for first, last in _runs(frames, order):
            start, end = ((frame - 1) / rate["fps"] for frame in (first, last))
            source_id = f"{video}/{first}/{category}/{relation}"
            annotations.append(Annotation(video_id, start, end, "", "state", source_id, triple=triple))
    return VideoAnnotations(
        video_id, "action_genome", float(rate["duration"]), "unknown", tuple(annotations), file=video
    )


def _note(record: Any, frame: int, found: Found, where: str) -> None:
    checked(record, where, _OBJECT)
    for kind in ("attention", "spatial", "contacting"):
        name = f"{kind}_relationship"
        if record[name] is None and not record["visible"]:
            continue
        for relation in texts(record[name], where, name):
            if relation not in _SAYS_NOTHING:
                frames = found.setdefault((record["class"], relation, kind == "spatial"), [])
                if frame not in frames[-1:]:
                    frames.append(frame)


def _runs(frames: list[int], order: dict[int, int]) -> list[tuple[int, int]]:
    """The first and last frame of every run of sampled frames without a gap."""
    runs: list[tuple[int, int]] = []
    for frame in frames:
        if runs and order[frame] == order[runs[-1][1]] + 1:
            runs[-1] = (runs[-1][0], frame)
        else:
            runs.append((frame, frame))
    return runs
