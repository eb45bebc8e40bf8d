"""VideoEspresso: questions whose answers rest on few core frames. Three layouts, JSON or JSON lines.

    test      {video_path, question, options: ["(A): ...", ...], correct_answer: "(A)", evidence, task}
    extended  the same with core_frames_paths[], core_frames_captions[], core_frames_timestamps[] (s), answer, duration
    TaYS      {video_path, video_duration_in_s, human_caption, question, answer, rewrited_evidence, ratio} (training)

The captions of core frames are points at their timestamps. An answer is looked up by its letter, never by its text: two
options may read the same. Evidence stays in meta: it is one text about the whole video, with no times in it.
Source: hshjerry/VideoEspresso, eval/README; EIT-NLP/StreamingLLM, TaYS, dataset_utils.py and lmm_dataset_for_batch.py.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from data_pipeline.annotations.record import (
    ANY,
    LIST,
    NUMBER,
    TEXT,
    Annotation,
    AnnotationError,
    StrPath,
    VideoAnnotations,
    checked,
    is_a,
    read_json,
    read_jsonl,
    texts,
)
from data_pipeline.source import Exchange, Rejected

_TEST = {"video_path": TEXT, "question": TEXT, "options": LIST, "correct_answer": TEXT, "evidence": TEXT, "task": TEXT}
_EXTENDED = {
    "core_frames_paths": LIST, "core_frames_captions": LIST, "core_frames_timestamps": LIST, "answer": TEXT,
    "duration": NUMBER,
}  # fmt: skip
_TAYS = {"video_path": TEXT, "video_duration_in_s": NUMBER, "question": TEXT, "answer": TEXT}
_TAYS_MAYBE = {"human_caption": ANY, "rewrited_evidence": ANY, "ratio": ANY, "video_id": ANY}
_LETTER = re.compile(r"^\(?([A-Z])\)?[:.]?\s*")


def read(*paths: StrPath) -> Iterator[VideoAnnotations | Rejected]:
    """The rows of files, each a source with one exchange; what tells the layouts apart is the field of the duration.

    Raises:
        AnnotationError: another layout, or a letter that no option has.
    """
    for path in paths:
        for i, (where, row) in enumerate(_rows(path)):
            if isinstance(row, dict) and "video_duration_in_s" in row:
                yield _training(row, where, i)
            else:
                yield _test(row, where, i)


def _rows(path: StrPath) -> Iterator[tuple[str, Any]]:
    if Path(path).suffix == ".jsonl":
        yield from read_jsonl(path)
        return
    rows = read_json(path)
    if not isinstance(rows, list):
        raise AnnotationError(str(path), "", "must be a list of rows, or JSON lines in a .jsonl file")
    yield from ((f"{path}: [{i}]", row) for i, row in enumerate(rows))


def _training(row: Any, where: str, i: int) -> VideoAnnotations:
    checked(row, where, _TAYS, _TAYS_MAYBE)
    evidence = row.get("rewrited_evidence", row.get("human_caption"))
    exchange = Exchange("q0", row["question"], row["answer"])
    return _made(row["video_path"], i, float(row["video_duration_in_s"]), (), exchange, {"evidence": evidence})


def _test(row: Any, where: str, i: int) -> VideoAnnotations:
    checked(row, where, _TEST, _EXTENDED)
    options = [_LETTER.sub("", option, count=1).strip() for option in texts(row["options"], where, "options")]
    match = _LETTER.match(row["correct_answer"])
    place = string.ascii_uppercase.index(match[1]) if match else len(options)
    if place >= len(options):
        raise AnnotationError(
            where, "correct_answer", f"{row['correct_answer']!r} is no letter of {len(options)} options"
        )
    exchange = Exchange("q0", row["question"], options[place], options=tuple(options), kind=row["task"] or None)
    duration = float(row["duration"]) if "duration" in row else None
    meta = {"evidence": row["evidence"], "task": row["task"]}
    return _made(row["video_path"], i, duration, tuple(_frames(row, where)), exchange, meta)


def _frames(row: Any, where: str) -> Iterator[Annotation]:
    captions = texts(row.get("core_frames_captions", []), where, "core_frames_captions")
    times = row.get("core_frames_timestamps", [])
    if len(captions) != len(times):
        raise AnnotationError(where, "core_frames_timestamps", f"{len(times)} for {len(captions)} captions; one each")
    video_id = PurePosixPath(row["video_path"]).stem
    for i, (caption, time) in enumerate(zip(captions, times, strict=True)):
        if not is_a(NUMBER, time):
            raise AnnotationError(where, f"core_frames_timestamps[{i}]", f"must be seconds, not {time!r}")
        yield Annotation(video_id, float(time), float(time), caption, "point", f"{video_id}/core{i}")


def _made(
    path: str, i: int, duration: float | None, frames: tuple[Annotation, ...], exchange: Exchange, meta: dict[str, Any]
) -> VideoAnnotations:
    video_id = PurePosixPath(path).stem
    return VideoAnnotations(
        video_id, "videoespresso", duration, "unknown", frames, (exchange,), file=path, part=str(i), meta=meta
    )
