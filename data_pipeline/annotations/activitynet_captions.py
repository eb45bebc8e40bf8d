"""ActivityNet Captions: sentences over spans of untrimmed videos ({train,val_1,val_2}.json).

    {"v_<youtube id>": {"duration": 55.15, "timestamps": [[0.28, 55.15], ...], "sentences": ["A ...", " The ..."]}}

Spans overlap and need not be in order; all but the first sentence of a video begin with a space.
Source: ranjaykrishna/densevid_eval, README.
"""

from __future__ import annotations

from collections.abc import Iterator

from data_pipeline.annotations.record import (
    LIST,
    NUMBER,
    Annotation,
    AnnotationError,
    StrPath,
    VideoAnnotations,
    checked,
    read_json,
    span,
    texts,
)
from data_pipeline.source import Rejected


def read(*paths: StrPath) -> Iterator[VideoAnnotations | Rejected]:
    """The videos of caption files. Sentences are spans of level 0; they name their own actors.

    Raises:
        AnnotationError: another layout, or another number of sentences than of timestamps.
    """
    for path in paths:
        file = read_json(path)
        if not isinstance(file, dict):
            raise AnnotationError(str(path), "", "must be an object of videos by id")
        for video_id, record in file.items():
            where = f"{path}: {video_id}"
            checked(record, where, {"duration": NUMBER, "timestamps": LIST, "sentences": LIST})
            spans = [span(one, where, f"timestamps[{i}]") for i, one in enumerate(record["timestamps"])]
            sentences = texts(record["sentences"], where, "sentences")
            if len(spans) != len(sentences):
                raise AnnotationError(where, "timestamps", f"{len(spans)} for {len(sentences)} sentences; one each")
            yield VideoAnnotations(
                video_id=video_id,
                dataset="activitynet_captions",
                duration=float(record["duration"]),
                licence="unknown",
                annotations=tuple(
                    Annotation(video_id, start, end, sentence, "span", f"{video_id}/{i}")
                    for i, ((start, end), sentence) in enumerate(zip(spans, sentences, strict=True))
                ),
            )
