"""LLaVA-Video-178K: captions and questions on whole videos, without times (*cap*.json, *oe*.json, *mc*.json).

    [{"id": "...", "conversations": [{"from": "human", "value": "<image>\\n..."}, {"from": "gpt", "value": "..."}],
      "data_source": "0_30_s_academic_v0_1", "video": "academic_source/Charades/RW587.mp4"}]

The placeholder is <image> even for a video. One video has several rows, so the row's id ends the source's id. Nothing
is annotated in time: all turns are exchanges without one, and a duration must come from elsewhere. Streamed.
Source: the dataset's card on the Hub.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import ijson

from data_pipeline.annotations.record import (
    ANY,
    LIST,
    TEXT,
    AnnotationError,
    StrPath,
    VideoAnnotations,
    checked,
    opens_with,
)
from data_pipeline.source import Exchange, Rejected

_ROW = {"id": ANY, "conversations": LIST, "data_source": TEXT, "video": TEXT}
_PLACEHOLDERS = ("<image>", "<video>")


def read(*paths: StrPath) -> Iterator[VideoAnnotations | Rejected]:
    """The rows of files, one by one, each with an exchange for every pair of turns.

    Raises:
        AnnotationError: another layout, or turns that do not alternate.
    """
    for path in paths:
        with open(path, "rb") as file:
            opens_with(file, b"[", str(path))
            try:
                for i, row in enumerate(ijson.items(file, "item", use_float=True)):
                    yield _row(row, f"{path}: [{i}]")
            except ijson.JSONError as error:
                raise AnnotationError(str(path), "", f"not a JSON list of rows: {error}") from error


def _row(row: Any, where: str) -> VideoAnnotations:
    checked(row, where, _ROW)
    turns = row["conversations"]
    for i, turn in enumerate(turns):
        checked(turn, f"{where}: conversations[{i}]", {"from": TEXT, "value": TEXT})
        if turn["from"] != ("human", "gpt")[i % 2]:
            raise AnnotationError(where, f"conversations[{i}].from", "human and gpt must alternate, human first")
    if len(turns) % 2:
        raise AnnotationError(where, "conversations", "ends with a question; every turn of human needs one of gpt")
    exchanges = tuple(
        Exchange(f"q{k}", _question(ask["value"]), reply["value"].strip())
        for k, (ask, reply) in enumerate(zip(turns[::2], turns[1::2], strict=True))
    )
    return VideoAnnotations(
        video_id=PurePosixPath(row["video"]).stem,
        dataset="llava_video_178k",
        duration=None,
        licence="unknown",
        annotations=(),
        exchanges=exchanges,
        file=row["video"],
        part=str(row["id"]),
        meta={"data_source": row["data_source"]},
    )


def _question(value: str) -> str:
    for placeholder in _PLACEHOLDERS:
        value = value.replace(placeholder, "")
    return value.strip()
