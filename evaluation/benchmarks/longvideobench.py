"""LongVideoBench: referring questions about videos of up to an hour, up to five options, the whole video visible.

    lvb_val.json   [{id, video_id, video_path, question, candidates: [...], correct_choice: 2, position,
                   question_category: "TOS", topic_category, level, subtitle_path, starting_timestamp_for_subtitles,
                   duration, duration_group: 15|60|600|3600}]
    parquet        the same with option0 ... option4 ("N/A" or null where there is none) in place of candidates

Seen: the dataset class longvideobench/longvideobench_dataset.py @2aa4f91 (id, video_path, question, candidates,
correct_choice, duration, subtitle_path, starting_timestamp_for_subtitles; test rows have no correct_choice) and a copy
of the lmms-eval task (option0..4, duration_group, question_category). Not seen: the files, and what `position` counts.
A question is put at the end of its video: `duration` of the row, or less where the file is shorter. No subtitles.

`official` reproduces lmms-eval, which says it follows the paper: some phrases are cut out, then the first of A to E
anywhere is the answer. Without any, it draws an option at random; nothing is drawn here: the reply earns what the draw
would on average, 1 / options, with the reason "guessed by the published rule".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evaluation.benchmarks.base import Benchmark, Rejected, Total, balanced, mean, only
from evaluation.benchmarks.choices import (
    Ruled,
    by_rule,
    choice_ask,
    first_letter,
    options_problem,
    records,
    streams,
    strict,
)
from evaluation.benchmarks.reading import DURATIONS, NUMBER, SEGMENTS, TEXT, Ask, Types, duration_of, problem
from evaluation.benchmarks.strict import letters
from whilst.sample import Query, Sample

NAME = "longvideobench"
GROUPS = ("15", "60", "600", "3600")  # s, at most
PREFIXES = (
    "The best answer is", "The correct answer is", "The answer is", "The answer", "The best option is",
    "The correct option is", "Best answer:", "Best option:",
)  # fmt: skip
GUESSED = "guessed by the published rule"


def read(
    annotations: Path, videos: str = "", segment_seconds: float | None = None, durations: str | None = None
) -> Iterator[Sample | Rejected]:
    """One sample a video, with all its questions at its end."""
    known = duration_of(videos, durations)
    by_video: dict[str, list[Ask]] = {}
    ends: dict[str, float] = {}
    for row in records(annotations):
        id = str(row.get("id"))
        options = _candidates(row)
        fields: Types = {"id": TEXT, "video_path": TEXT, "question": TEXT, "duration": NUMBER}
        if reason := problem(row, fields) or options_problem(options):
            yield Rejected(id, reason)
            continue
        gold, group = row.get("correct_choice"), str(row.get("duration_group"))
        if gold in (None, -1):
            yield Rejected(id, "correct_choice: none; the test split has no public answers")
        elif not isinstance(gold, int) or not 0 <= gold < len(options):
            yield Rejected(id, f"correct_choice: {gold!r} is no index of the {len(options)} candidates")
        elif group not in GROUPS:
            yield Rejected(id, f"duration_group: {row.get('duration_group')!r} is none of {', '.join(GROUPS)}")
        elif not row["duration"] > 0:
            yield Rejected(id, f"duration: {row['duration']!r} must be above 0 s")
        else:
            video = row["video_path"]
            length = known(video)
            end = ends.setdefault(
                video, float(row["duration"]) if length is None else min(length, float(row["duration"]))
            )
            more = {name: row.get(name) for name in ("question_category", "topic_category", "level", "position")}
            by_video.setdefault(video, []).append(choice_ask(id, end, row["question"], options, gold, group, more))
    yield from streams(NAME, by_video, videos=videos, segment_seconds=segment_seconds, end=ends.get)


def _candidates(row: Mapping[str, Any]) -> Any:
    """`candidates`, or those of option0 ... option4 that are there."""
    if row.get("candidates") is not None:
        return row["candidates"]
    found = [row.get(f"option{i}") for i in range(5)]
    return found[: next((i for i, one in enumerate(found) if one in (None, "N/A")), 5)]


def count_queries(annotations: Path) -> int:
    """Questions of a file: its rows."""
    return len(records(annotations))


def official_rule(reply: str, query: Query, item: Mapping[str, Any]) -> Ruled:
    said = first_letter(reply, PREFIXES, "ABCDE")
    if not said:
        return 1 / len(query.options or ()), GUESSED, True
    credit = float(said == letters(26)[item["golds"][0]])
    return credit, "" if credit else "wrong", True


def _of(group: str) -> Total:
    return Total(f"share of right items among questions of the duration group {group} s", only([group]))


BENCHMARK = Benchmark(
    name=NAME,
    source="longvideobench/LongVideoBench, lvb_val.json",
    licence="data CC BY-NC-SA 4.0",
    tested_on="fixtures in the documented format",
    track="asked",
    read=read,
    strict=strict,
    official=by_rule(official_rule),
    totals={
        "overall": Total("share of right items among all questions", mean),
        **{f"{group}s": _of(group) for group in GROUPS},
        "balanced": Total("mean over duration groups of the mean over letters of the accuracy", balanced),
    },
    options={"segment_seconds": SEGMENTS, "durations": DURATIONS},
    count=count_queries,
    contains=("YouTube",),
)
