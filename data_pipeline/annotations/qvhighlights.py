"""QVHighlights: sentences over the windows that show them, in clips of YouTube videos (highlight_*_release.jsonl).

    {"qid": 2579, "query": "A girl ...", "duration": 150, "vid": "<youtube id>_<start>_<end>",
     "relevant_windows": [[82, 150]], "relevant_clip_ids": [41, ...], "saliency_scores": [[1, 1, 2], ...]}

Clips are 2 s long; three raters score each relevant clip from 0 to 4. The file of a clip may be shorter than start and
end say; `duration` is right. The test split has no windows: its queries are rejected, clip by clip.
Source: jayleicn/moment_detr, data/README; data CC BY-NC-SA 4.0. OmniMMI's alerts are asked on clips of the val split.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from data_pipeline.annotations.record import (
    LIST,
    NUMBER,
    TEXT,
    Annotation,
    AnnotationError,
    StrPath,
    VideoAnnotations,
    checked,
    read_jsonl,
    span,
)
from data_pipeline.source import Rejected

CLIP_SECONDS = 2
RATERS = 3

_NEEDED = {"qid": NUMBER, "query": TEXT, "duration": NUMBER, "vid": TEXT}
_LABELS = {"relevant_windows": LIST, "relevant_clip_ids": LIST, "saliency_scores": LIST}


def read(*paths: StrPath) -> Iterator[VideoAnnotations | Rejected]:
    """The clips of release files, each with all of its queries. Every window is a span of level 0.

    Raises:
        AnnotationError: another layout, scores that do not match the clips, clips that do not match the windows, or one
            clip with two durations.
    """
    for path in paths:
        clips: dict[str, list[tuple[str, Any]]] = {}
        for where, record in read_jsonl(path):
            checked(record, where, _NEEDED, _LABELS)
            clips.setdefault(record["vid"], []).append((where, record))
        for vid, records in clips.items():
            yield _clip(vid, records)


def _clip(vid: str, records: list[tuple[str, Any]]) -> VideoAnnotations | Rejected:
    durations = {record["duration"] for _, record in records}
    if len(durations) > 1:
        raise AnnotationError(records[-1][0], "duration", f"{vid} has several: {sorted(durations)}; keep the right one")
    labelled = [(where, record) for where, record in records if "relevant_windows" in record]
    if not labelled:
        return Rejected(f"qvhighlights-{vid}", "no labels", "queries without windows, as in the test split")
    annotations = tuple(one for where, record in labelled for one in _windows(vid, record, where))
    meta = {"qids": [record["qid"] for _, record in labelled]}
    duration = float(durations.pop())
    return VideoAnnotations(vid, "qvhighlights", duration, "CC BY-NC-SA 4.0", annotations, meta=meta)


def _windows(vid: str, record: Any, where: str) -> Iterator[Annotation]:
    checked(record, where, _NEEDED | _LABELS)
    clips, scores = record["relevant_clip_ids"], record["saliency_scores"]
    if len(clips) != len(scores):
        raise AnnotationError(where, "saliency_scores", f"{len(scores)} for {len(clips)} clips; one each")
    for i, raters in enumerate(scores):
        if not isinstance(raters, list) or len(raters) != RATERS or not all(score in range(5) for score in raters):
            raise AnnotationError(
                where, f"saliency_scores[{i}]", f"must be {RATERS} scores from 0 to 4, not {raters!r}"
            )
    spans = [span(one, where, f"relevant_windows[{i}]") for i, one in enumerate(record["relevant_windows"])]
    inside = {clip for start, end in spans for clip in range(int(start) // CLIP_SECONDS, int(end) // CLIP_SECONDS)}
    if inside != set(clips):
        odd = sorted(inside ^ set(clips))
        raise AnnotationError(where, "relevant_clip_ids", f"do not cover relevant_windows: clips {odd[:5]} differ")
    for i, (start, end) in enumerate(spans):
        yield Annotation(vid, start, end, record["query"], "span", f"{record['qid']}/{i}")
