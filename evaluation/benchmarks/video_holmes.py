"""Video-Holmes: reasoning about short films, six options, the whole film visible. TencentARC/Video-Holmes, Apache-2.0,
for academic use.

    official    [{"video ID", "Question ID", "Question Type", "Question", "Options": {"A": ...}, "Answer": "F"}]
                tested on fixtures
    converted   [{task, subtask, question, answer: text, video, candidates}], as VST ships it; tested on the real file

A question is put at the end of its film, which no file tells: durations must be given, or the films be there; else it
is rejected. In the converted layout two candidates may have the answer's text (7 rows); either of them is right then.

`official` reproduces `evaluate.py`: of the text in the last <answer> tags, or of all of it, the first letter from A to
F that stands before a space or a colon or after "[", else the first that stands anywhere. Letters are tried in the
order A to F, not in the order of the text, so "BA" is A.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.benchmarks import prompts
from evaluation.benchmarks.base import Benchmark, BenchmarkError, Given, Rejected, Total, Verdict, balanced, mean
from evaluation.benchmarks.reading import (
    DURATIONS,
    LIST,
    OBJECT,
    SEGMENTS,
    TEXT,
    Ask,
    asked_once,
    duration_of,
    item_of,
    load_json,
    objects,
    problem,
    stream,
)
from evaluation.benchmarks.strict import judge_option, letters, shown
from whilst.sample import JSON, Query, Sample

NAME = "video_holmes"
_ANSWER = re.compile(r"<answer>\s*(.*?)\s*</answer>", re.DOTALL)


@dataclass(frozen=True)
class _Row:
    id: str
    video: str
    kind: str
    question: str
    options: tuple[str, ...]
    golds: tuple[int, ...]


def read(
    annotations: Path, videos: str = "", segment_seconds: float | None = None, durations: str | None = None
) -> Iterator[Sample | Rejected]:
    """One sample a film, with all its questions at its end."""
    seconds = duration_of(videos, durations)
    by_video: dict[str, list[Ask]] = {}
    ends: dict[str, float] = {}
    for row in _rows(Path(annotations)):
        if isinstance(row, Rejected):
            yield row
            continue
        end = ends.get(row.video) or seconds(row.video)
        if end is None:
            yield Rejected(row.id, f"{row.video}: its duration is not known; give `durations`, or the folder of videos")
            continue
        ends[row.video] = end
        query = Query(row.id, end, prompts.choice(row.question, row.options), row.kind, row.options)
        item: dict[str, JSON] = {"golds": list(row.golds), "options": list(row.options)}
        by_video.setdefault(row.video, []).append(asked_once(query, letters(len(row.options))[row.golds[0]], item))
    for video, asks in by_video.items():
        path = str(Path(videos, video)) if videos else video
        yield from stream(NAME, video, path, asks, segment_seconds=segment_seconds, end=ends[video])


def _rows(path: Path) -> Iterator[_Row | Rejected]:
    rows = objects(load_json(path), str(path))
    if all("Options" in row for row in rows):
        yield from (_official_row(row) for row in rows)
    elif all("candidates" in row for row in rows):
        counts: dict[str, int] = {}
        for row in rows:
            number = counts[str(row.get("video"))] = counts.get(str(row.get("video")), -1) + 1
            yield _converted_row(f"{Path(str(row.get('video'))).stem}/{number}", row)
    else:
        raise BenchmarkError(f"{path}: neither `Options` nor `candidates` in every row; name a Video-Holmes file")


def _official_row(row: Mapping[str, Any]) -> _Row | Rejected:
    id = str(row.get("Question ID"))
    needed = {"video ID": TEXT, "Question Type": TEXT, "Question": TEXT, "Options": OBJECT, "Answer": TEXT}
    if reason := problem(row, needed):
        return Rejected(id, reason)
    options = row["Options"]
    if "".join(options) != letters(len(options)) or not all(isinstance(one, str) for one in options.values()):
        return Rejected(id, f"Options: {', '.join(options)}: must be texts under the letters A, B, ...")
    if row["Answer"] not in options:
        return Rejected(id, f"Answer: {row['Answer']!r} is no letter of the options")
    gold = list(options).index(row["Answer"])  # keys are letters, each stands once
    return _Row(id, f"{row['video ID']}.mp4", row["Question Type"], row["Question"], tuple(options.values()), (gold,))


def _converted_row(id: str, row: Mapping[str, Any]) -> _Row | Rejected:
    if reason := problem(row, {"subtask": TEXT, "question": TEXT, "answer": TEXT, "video": TEXT, "candidates": LIST}):
        return Rejected(id, reason)
    golds = tuple(i for i, text in enumerate(row["candidates"]) if text == row["answer"])
    if not golds:
        return Rejected(id, f"answer: {row['answer']!r} is none of the candidates")
    return _Row(id, row["video"], row["subtask"], row["question"], tuple(row["candidates"]), golds)


def count_queries(annotations: Path) -> int:
    """Questions of a file: its rows."""
    return len(load_json(annotations))


# ---- Verdicts.


def official_letter(reply: str) -> str:
    """The letter that the published script takes a reply for; "WRONG" for none."""
    found = _ANSWER.findall(reply)
    said = found[-1].strip() if found else reply
    for letter in "ABCDEF":
        if f"{letter} " in said or f"{letter}:" in said or f"[{letter}" in said:
            return letter
    return next((letter for letter in "ABCDEF" if letter in said), "WRONG")


def strict(sample: Sample, query: Query, given: Sequence[Given]) -> list[Verdict]:
    golds = item_of(sample, query)["golds"]
    credit, reason = judge_option(given, query.options or (), golds)
    return [_verdict(sample, query, golds, credit, reason, shown(given))]


def official(sample: Sample, query: Query, given: Sequence[Given]) -> list[Verdict]:
    golds = item_of(sample, query)["golds"]
    # the script puts "Wrong" in place of what failed, in which no letter stands
    text = "Wrong" if any(reply.failure for reply in given) or not given else given[0].text
    credit = float(official_letter(text) in [letters(26)[gold] for gold in golds])
    return [_verdict(sample, query, golds, credit, "" if credit else "wrong", text)]


def _verdict(sample: Sample, query: Query, golds: Sequence[int], credit: float, reason: str, reply: str) -> Verdict:
    return Verdict(
        sample.video.path, sample.id, query.id, str(query.kind), credit, reply, reason, gold=letters(26)[golds[0]],
        chance=len(golds) / len(query.options or ()),
    )  # fmt: skip


BENCHMARK = Benchmark(
    name=NAME,
    source="TencentARC/Video-Holmes, Benchmark/test_Video-Holmes.json",
    licence="Apache-2.0, academic use",
    tested_on="real files",
    track="asked",
    read=read,
    strict=strict,
    official=official,
    totals={
        "micro": Total("share of right items among all questions", mean),
        "balanced": Total("mean over question types of the mean over letters of the accuracy", balanced),
    },
    options={"segment_seconds": SEGMENTS, "durations": DURATIONS},
    count=count_queries,
    contains=("YouTube",),
)
