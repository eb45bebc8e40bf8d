"""OmniMMI: questions and requests on streams, six tasks, one file each. MIT licence.

    SG  dynamic_state_grounding         {video, qa: [{question, answer, timestamp: "9.0 -- 13.0"}]}
    MD  multiturn_dependency_reasoning  the same; "##ANSWER##" in a question stands for the answer before it
    AP  action_prediction               {video, question, answer, vocab: [...]}
    PA  proactive_alerting              {video, question, answer: [s, e]}
    PT  proactive_turntaking            {video, conversation: [{human, assistant}, ..., {human}]}
    SI  speaker_identification          {video, question, answer, timestamp: 22.08}

SG and MD ask in the middle of their span, as the official evaluation does, so the evidence is what has passed by
then. An alert (PA) is valid in [s, e] s and asked at the start; all 200 clips are of QVHighlights val. The last turn
of PT has no answer: silence is right, and `to_source` rejects the turn as one that "expects silence". No file has
durations.
Source: OmniMMI/OmniMMI, evaluations/evaluate.py and online_inference_utils.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from data_pipeline.annotations import qvhighlights
from data_pipeline.annotations.record import (
    LIST,
    NUMBER,
    PLACEHOLDER,
    SILENCE,
    TEXT,
    Annotation,
    AnnotationError,
    Reader,
    StrPath,
    VideoAnnotations,
    checked,
    read_json,
    span,
    texts,
)
from data_pipeline.source import Exchange, Rejected

_SPAN = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*--\s*(\d+(?:\.\d+)?)\s*$")
_WHEN = re.compile(r"\b(?:when|if|where|once|as soon as)(?: the video shows)? (.+)$", re.IGNORECASE)
NOW = "This is it."  # the alert to a request from which no event can be read: the dataset has no words for alerts

Parsed: TypeAlias = "tuple[list[Annotation], list[Exchange]]"


def reader(task: str) -> Reader:
    """The reader of one task: sg, md, ap, pa, pt or si. A .jsonl file among the paths is a QVHighlights release, from
    which clips (those of PA) get their durations.

    It raises AnnotationError for another layout.
    """
    parse = _PARSERS[task]

    def read(*paths: StrPath) -> Iterator[VideoAnnotations | Rejected]:
        durations = _durations([path for path in paths if Path(path).suffix == ".jsonl"])
        for path in (path for path in paths if Path(path).suffix != ".jsonl"):
            rows = read_json(path)
            if not isinstance(rows, list):
                raise AnnotationError(str(path), "", "must be a list of records")
            videos: dict[str, list[Parsed]] = {}
            for i, row in enumerate(rows):
                where = f"{path}: [{i}]"
                if not isinstance(row, dict) or not isinstance(row.get("video"), str):
                    raise AnnotationError(where, "video", "must be the file name of the video")
                videos.setdefault(row["video"], []).append(parse(row, f"q{i}", where))
            for file, parsed in videos.items():
                annotations = tuple(one for found, _ in parsed for one in found)
                exchanges = tuple(one for _, found in parsed for one in found)
                video_id = PurePosixPath(file).stem
                seconds = durations.get(video_id)
                yield VideoAnnotations(video_id, f"omnimmi_{task}", seconds, "MIT", annotations, exchanges, file=file)

    return read


def _durations(paths: list[StrPath]) -> dict[str, float]:
    """Seconds by clip, of QVHighlights release files."""
    clips = (clip for clip in qvhighlights.read(*paths) if isinstance(clip, VideoAnnotations))
    return {clip.video_id: clip.duration for clip in clips if clip.duration is not None}


def _turns(row: Any, id: str, where: str) -> Parsed:
    """SG and MD."""
    checked(row, where, {"video": TEXT, "qa": LIST})
    exchanges: list[Exchange] = []
    before: str | None = None
    for i, turn in enumerate(row["qa"]):
        here = f"{where}: qa[{i}]"
        checked(turn, here, {"question": TEXT, "answer": TEXT, "timestamp": TEXT})
        match = _SPAN.match(turn["timestamp"])
        if match is None:
            raise AnnotationError(here, "timestamp", f"must be `start -- end`, not {turn['timestamp']!r}")
        start, end = float(match[1]), float(match[2])
        middle = (start + end) / 2
        question = turn["question"] if before is None else turn["question"].replace(PLACEHOLDER, before)
        # a span that runs backwards stays as it is, so that it is rejected
        evidence = ((start, middle if start < end else end),)
        exchanges.append(Exchange(f"{id}-{i}", question, turn["answer"], time=middle, evidence=evidence))
        before = turn["answer"]
    return [], exchanges


def _prediction(row: Any, id: str, where: str) -> Parsed:
    """AP. The clip ends where the prediction is due, which no field says."""
    checked(row, where, {"video": TEXT, "question": TEXT, "answer": TEXT, "vocab": LIST})
    vocab = texts(row["vocab"], where, "vocab")
    if row["answer"] not in vocab:
        raise AnnotationError(where, "answer", f"{row['answer']!r} is not in vocab")
    options = tuple(dict.fromkeys(vocab))
    return [], [Exchange(id, row["question"], row["answer"], options=options, kind="prediction")]


def _alert(row: Any, id: str, where: str) -> Parsed:
    """PA. The event that the request names, where it can be read off, is also annotated as a span."""
    checked(row, where, {"video": TEXT, "question": TEXT, "answer": LIST})
    start, end = span(row["answer"], where, "answer")
    match = _WHEN.search(row["question"].strip())
    text = match[1].strip().rstrip(".?!") if match else ""
    video_id = PurePosixPath(row["video"]).stem
    annotations = [Annotation(video_id, start, end, text, "span", id)] if text else []
    alert = f"{text[:1].upper()}{text[1:]}." if text else NOW
    exchange = Exchange(
        id, row["question"], alert, time=0.0, wait=start, window=(start, end), evidence=((start, end),), kind="forward"
    )
    return annotations, [exchange]


def _conversation(row: Any, id: str, where: str) -> Parsed:
    """PT."""
    checked(row, where, {"video": TEXT, "conversation": LIST})
    exchanges = []
    for i, turn in enumerate(row["conversation"]):
        last = i == len(row["conversation"]) - 1
        checked(turn, f"{where}: conversation[{i}]", {"human": TEXT} | ({} if last else {"assistant": TEXT}))
        kind = SILENCE if last else None
        exchanges.append(Exchange(f"{id}-{i}", turn["human"], turn.get("assistant", ""), kind=kind))
    return [], exchanges


def _speaker(row: Any, id: str, where: str) -> Parsed:
    """SI."""
    checked(row, where, {"video": TEXT, "question": TEXT, "answer": TEXT, "timestamp": NUMBER})
    return [], [Exchange(id, row["question"], row["answer"], time=float(row["timestamp"]))]


_PARSERS: dict[str, Callable[[Any, str, str], Parsed]] = {
    "sg": _turns,
    "md": _turns,
    "ap": _prediction,
    "pa": _alert,
    "pt": _conversation,
    "si": _speaker,
}
