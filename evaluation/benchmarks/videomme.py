"""Video-MME: questions about short, medium and long videos, four options, the whole video visible. BradyFU/Video-MME.

    flat (parquet or JSON)   {video_id: "001", videoID: "fFjv93ACGo8", duration: "short|medium|long", domain,
                             sub_category, task_type, question_id: "001-1", question, options: ["A. ...", x4],
                             answer: "C"}
    results template (JSON)  [{video_id, duration_category, video_category, video_subcategory, questions:
                             [{question_id, task_type, question, options, answer, response}]}]

Seen: the columns of the parquet file (a copy of its card) and the scorer, evaluation/eval_your_results.py @4e7566d,
with some field names of its input. Not seen: the parquet file and the template themselves.
A question is put at the end of its video, which no file tells (`duration` is a class): durations must be given, or the
videos be there as <videoID>.mp4; else it is rejected. Without subtitles.

`official` reproduces the scorer: some phrases are cut out (two of its pairs stand without a comma between them, so they
are cut out only where both follow each other), then the first of A, B, C, D anywhere is the answer; a reply without any
leaves the denominator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.benchmarks.base import Benchmark, Rejected, Total, Verdict, balanced, mean, only
from evaluation.benchmarks.choices import (
    Ruled,
    bare,
    by_rule,
    choice_ask,
    first_letter,
    gold_index,
    options_problem,
    records,
    streams,
    strict,
)
from evaluation.benchmarks.reading import DURATIONS, SEGMENTS, TEXT, Ask, Types, duration_of, problem
from evaluation.benchmarks.strict import letters
from whilst.sample import Query, Sample

NAME = "videomme"
LENGTHS = ("short", "medium", "long")
PREFIXES = (
    "The best answer is", "The correct answer is", "The answer is", "The answer",
    "The best option isThe correct option is", "Best answer:Best option:",
)  # fmt: skip
_NEEDED: Types = {"question": TEXT, "options": list, "answer": TEXT, "question_id": TEXT, "task_type": TEXT}


def read(
    annotations: Path, videos: str = "", segment_seconds: float | None = None, durations: str | None = None
) -> Iterator[Sample | Rejected]:
    """One sample a video, with all its questions at its end."""
    seconds = duration_of(videos, durations)
    by_video: dict[str, list[Ask]] = {}
    for row in _rows(annotations):
        id = str(row.get("question_id"))
        if reason := problem(row, _NEEDED) or options_problem(row["options"]):
            yield Rejected(id, reason)
            continue
        length = row.get("duration", row.get("duration_category"))
        gold = gold_index(row["answer"], len(row["options"]))
        video = f"{row.get('videoID') or row.get('video_id')}.mp4"
        end = seconds(video)
        if length not in LENGTHS:
            yield Rejected(id, f"duration: {length!r} is none of {', '.join(LENGTHS)}")
        elif isinstance(gold, str):
            yield Rejected(id, gold)
        elif end is None:
            yield Rejected(id, f"{video}: its duration is not known; give `durations`, or the folder of videos")
        else:
            more = {name: row.get(name) for name in ("task_type", "domain", "sub_category")}
            ask = choice_ask(id, end, row["question"], bare(row["options"]), gold, str(length), more)
            by_video.setdefault(video, []).append(ask)
    yield from streams(NAME, by_video, videos=videos, segment_seconds=segment_seconds, end=seconds)


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    for row in records(path):
        if "questions" not in row:
            yield row
            continue
        shared = {name: value for name, value in row.items() if name != "questions"}
        questions = row["questions"] if isinstance(row["questions"], list) else [row["questions"]]
        for question in questions:
            yield {**shared, **(question if isinstance(question, dict) else {"question": question})}


def count_queries(annotations: Path) -> int:
    """Questions of a file of either layout."""
    return sum(len(row["questions"]) if isinstance(row.get("questions"), list) else 1 for row in records(annotations))


def official_rule(reply: str, query: Query, item: Mapping[str, Any]) -> Ruled:
    said = first_letter(reply, PREFIXES, "ABCD")
    credit = float(said == letters(26)[item["golds"][0]])
    return credit, "" if credit else ("wrong" if said else "no letter"), bool(said)


def _of(length: str) -> Total:
    return Total(f"share of right items among questions of {length} videos", only([length]))


def _answered(verdicts: Sequence[Verdict]) -> float:
    return sum(verdict.counted for verdict in verdicts) / len(verdicts) if verdicts else 0.0


BENCHMARK = Benchmark(
    name=NAME,
    source="BradyFU/Video-MME (data: lmms-lab/Video-MME, videomme/test-*.parquet)",
    licence="data for academic use only, no redistribution of videos (secondary source); scorer: no licence read",
    tested_on="fixtures in the documented format",
    track="asked",
    read=read,
    strict=strict,
    official=by_rule(official_rule),
    totals={
        "overall": Total("share of right items among all questions (officially: among those with a letter)", mean),
        **{length: _of(length) for length in LENGTHS},
        "answered": Total("share of questions that stand in the denominator", _answered),
        "balanced": Total("mean over lengths of the mean over letters of the accuracy", balanced),
    },
    options={"segment_seconds": SEGMENTS, "durations": DURATIONS},
    count=count_queries,
    contains=("YouTube",),
)
