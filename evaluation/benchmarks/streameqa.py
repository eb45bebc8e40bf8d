"""StreamEQA: embodied questions in mid-stream, 42 tasks, four options. MrYF-Wang/StreamEQA @01dc44a.

    [{id, video: "<group>-<clip>", task, question, options: [x4], gt: 2, realtime: 75 or "1:15"}]

Seen: all of its code. Not seen: the annotations. The video of "<group>-<clip>" is <group>/<group>-<clip>.mp4.
Visible is [0, t], one sample a video; published: the last 64 s, `context_seconds: 64`, one sample a question.

`official` reproduces `normalize_choice` and `compute_stats`: a letter alone or before "." or ")", else the letter of
the first option ("A. text") that contains the whole reply, else the first word that is a letter, else the first sign of
the reply. No reply leaves the denominator, and so do the questions that the published run passes over without a word:
those at which at most a second is visible, and those that have not four options.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evaluation.benchmarks.base import Benchmark, Rejected, Total, balanced, mean, mean_of_tasks
from evaluation.benchmarks.choices import (
    CONTEXT,
    Ruled,
    bare,
    by_rule,
    choice_ask,
    options_problem,
    put_at,
    records,
    streams,
    strict,
)
from evaluation.benchmarks.reading import DURATIONS, SEGMENTS, TEXT, Ask, duration_of, problem
from evaluation.benchmarks.strict import letters
from whilst.sample import Query, Sample

NAME = "streameqa"
PUBLISHED_CONTEXT = 64.0  # s


def read(
    annotations: Path,
    videos: str = "",
    segment_seconds: float | None = None,
    durations: str | None = None,
    context_seconds: float | None = None,
) -> Iterator[Sample | Rejected]:
    """One sample a video with all its questions; with `context_seconds` one sample a question."""
    seconds = duration_of(videos, durations)
    by_video: dict[str, list[Ask]] = {}
    for row in records(annotations):
        id = str(row.get("id"))
        if row.get("options") in (None, []) and "question" in row:
            yield Rejected(id, "options: none; open questions have no published rule")
            continue
        if reason := problem(row, {"video": TEXT, "task": TEXT, "question": TEXT, "gt": int}) or options_problem(
            row.get("options")
        ):
            yield Rejected(id, reason)
            continue
        options = bare(row["options"])
        video = f"{row['video'].split('-')[0]}/{row['video']}.mp4"
        time = put_at(row.get("realtime"), seconds(video))
        if not 0 <= row["gt"] < len(options):
            yield Rejected(id, f"gt: {row['gt']} is no index of the {len(options)} options")
        elif isinstance(time, str):
            yield Rejected(id, f"realtime: {time}")
        else:
            more = {"skipped": int(time) - int(max(0.0, time - PUBLISHED_CONTEXT)) <= 1 or len(options) != 4}
            ask = choice_ask(id, time, row["question"], options, row["gt"], row["task"], more)
            by_video.setdefault(video, []).append(ask)
    yield from streams(
        NAME, by_video, videos=videos, segment_seconds=segment_seconds, end=seconds, context_seconds=context_seconds
    )


def count_queries(annotations: Path) -> int:
    """Questions of a file: its rows."""
    return len(records(annotations))


def normalized(reply: str, options: list[str]) -> str:
    """The letter that the published run notes for a reply; the reply itself where it finds none."""
    text = reply.strip()
    for letter in "ABCD":
        if text == letter or text.startswith((f"{letter}.", f"{letter})")):
            return letter
    if text:
        for letter, option in zip("ABCD", options, strict=False):
            if text in f"{letter}. {option}":
                return letter
    words = (word.strip(" .,:;()[]{}") for word in text.split())
    return next((word for word in words if word in ("A", "B", "C", "D")), reply)


def official_rule(reply: str, query: Query, item: Mapping[str, Any]) -> Ruled:
    if item["skipped"]:
        return 0.0, "passed over by the published run", False
    said = normalized(reply, item["options"])
    if not said:
        return 0.0, "no reply", False
    credit = float(said[0] == letters(4)[item["golds"][0]])
    return credit, "" if credit else "wrong", True


BENCHMARK = Benchmark(
    name=NAME,
    source="MrYF-Wang/StreamEQA",
    licence="code MIT (badge); data: none read",
    tested_on="fixtures in the documented format",
    track="asked",
    read=read,
    strict=strict,
    official=by_rule(official_rule),
    totals={
        "micro": Total("share of right items among all questions (officially: among those not passed over)", mean),
        "mean_of_tasks": Total("mean over tasks of their accuracies", mean_of_tasks),
        "balanced": Total("mean over tasks of the mean over letters of the accuracy", balanced),
    },
    options={"segment_seconds": SEGMENTS, "durations": DURATIONS, "context_seconds": f"{CONTEXT} (64 as published)"},
    count=count_queries,
)
