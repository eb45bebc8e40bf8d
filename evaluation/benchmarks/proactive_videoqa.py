"""ProactiveVideoQA: a question at some time, and answers that come up later; web, ego, TV and surveillance videos.

    anno.json   [{video, question_id, duration, conversation: [{role: "user", content, time}],
                answer: [{content, related_timespan: [s, e], reply_timespan: [s, e]}]}]

Seen: the row format and the scorer as ported in public forks of VLMEvalKit. Not seen: the original code and files.
The question stands from its time until the last reply_timespan ends: later replies do not count.

The published score, PAUC, needs the verdicts of a language model (1 to 3 for what has been said so far), so there is no
`official` judge of replies alone. `judge_requests` gives what is to be judged, `pauc_judge` makes a judge of its
verdicts: silence in a window is worth 0.25, a wrong reply less. `strict` is timing alone: a window is answered by
anything said in it, one to one; content is not looked at, since exact words mean nothing here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.benchmarks import prompts
from evaluation.benchmarks.base import Benchmark, BenchmarkError, Given, Judge, Rejected, Total, Verdict, mean
from evaluation.benchmarks.choices import records, seconds_of, streams
from evaluation.benchmarks.reading import DURATIONS, LIST, SEGMENTS, TEXT, Ask, duration_of, item_of, problem
from evaluation.benchmarks.windows import TIMING, emissions_of, standing_ask, window_verdicts, windows_of
from evaluation.proactive import Fit, Window
from evaluation.published_timing import judged_points, pauc
from whilst.sample import Query, Sample

NAME = "proactive_videoqa"
OMEGAS = (0.0, 0.5, 1.0)  # how much of a delay is forgiven; all three are published


def read(
    annotations: Path, videos: str = "", segment_seconds: float | None = None, durations: str | None = None
) -> Iterator[Sample | Rejected]:
    """One sample a video, with all its questions; each is put every second and may always be met with silence."""
    known = duration_of(videos, durations)
    by_video: dict[str, list[Ask]] = {}
    for row in records(annotations):
        made = _ask(row, known)
        if isinstance(made, Rejected):
            yield made
        else:
            by_video.setdefault(row["video"], []).append(made)
    yield from streams(NAME, by_video, videos=videos, segment_seconds=segment_seconds, end=known)


def _ask(row: Mapping[str, Any], known: Any) -> Ask | Rejected:
    id = str(row.get("question_id"))
    if reason := problem(row, {"video": TEXT, "conversation": LIST, "answer": LIST}):
        return Rejected(id, reason)
    first = row["conversation"][0] if row["conversation"] else None
    if not isinstance(first, dict) or first.get("role") != "user" or problem(first, {"content": TEXT}):
        return Rejected(id, "conversation: must begin with a turn of the user")
    time = seconds_of(first.get("time"))
    length = known(row["video"]) or row.get("duration")
    if isinstance(time, str):
        return Rejected(id, f"conversation: {time}")
    if not row["answer"]:
        return Rejected(id, "answer: is empty")
    golds, related = [], []
    for turn in row["answer"]:
        spans = [turn.get(name) if isinstance(turn, dict) else None for name in ("reply_timespan", "related_timespan")]
        if not _span(spans[0]) or (spans[1] is not None and not _span(spans[1])) or problem(turn, {"content": TEXT}):
            return Rejected(id, f"answer: {turn!r} has no content, or a time span that is no [start, end] in seconds")
        span = spans[0]
        assert span is not None
        if span[0] < time or (isinstance(length, (int, float)) and span[0] > length):
            return Rejected(id, f"answer: reply_timespan {span} is not between the question and the video's end")
        golds.append(Window(float(span[0]), float(span[1]), turn["content"]))
        related.append(float((spans[1] or span)[1]))
    last = max(gold.end for gold in golds)
    end = min(last, float(length)) if isinstance(length, (int, float)) else last
    item = {"question": first["content"], "related": related}
    return standing_ask(id, time, prompts.alert(first["content"]), NAME, golds, max(end, time + 1.0), item)


def _span(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(seconds_of(time), float) and not isinstance(time, str) for time in value)
        and value[0] <= value[1]
    )


def count_queries(annotations: Path) -> int:
    """Questions of a file: its rows."""
    return len(records(annotations))


# ---- Timing alone.


def strict(sample: Sample, query: Query, given: Sequence[Given]) -> list[Verdict]:
    """Windows answered by anything, and what answers none. Content is not judged."""
    return window_verdicts(sample, query, given, fit=Fit(), says=lambda emission, window: None)


# ---- PAUC, from a judge's verdicts.


@dataclass(frozen=True)
class JudgeRequest:
    """What a language model is to judge: how well `predicted`, all that was said in this window so far, covers `gold`.

    3: all key information, 2: some, 1: none of it, or beside the point. key: names the request, for `pauc_judge`.
    """

    key: str
    question: str
    gold: str
    predicted: str


def judge_requests(sample: Sample, query: Query, given: Sequence[Given]) -> list[JudgeRequest]:
    """One for each thing said in a window for the first time there, with all that was said in it before."""
    requests = []
    for turn, window in enumerate(windows_of(sample, query)):
        so_far: list[str] = []
        for emission in emissions_of(given):
            if window.start <= emission.time <= window.end and emission.text not in so_far:
                so_far.append(emission.text)
                key = f"{query.id}={turn}={float(emission.time)}"
                requests.append(JudgeRequest(key, item_of(sample, query)["question"], window.text, " ".join(so_far)))
    return requests


def pauc_judge(judged: Mapping[str, str | int], omega: float = 0.5) -> Judge:
    """The judge that gives each answer its PAUC, from what a language model said to each of `judge_requests`, by key.

    A verdict that begins with no 1, 2 or 3 is passed over, as published. Raises BenchmarkError where one is missing.
    """

    def judge(sample: Sample, query: Query, given: Sequence[Given]) -> list[Verdict]:
        wanted = [request.key for request in judge_requests(sample, query, given)]
        if missing := [key for key in wanted if key not in judged]:
            raise BenchmarkError(f"{query.id}: no verdict for {missing[0]}; judge every one of judge_requests")
        failed = next((one.failure for one in given if one.failure), "")
        verdicts = []
        for turn, window in enumerate(windows_of(sample, query)):
            scores: dict[float, float] = {}
            for key in wanted:
                told = re.match("[123]", str(judged[key]).strip())
                if key.startswith(f"{query.id}={turn}=") and told:
                    scores[float(key.rpartition("=")[2])] = float(told[0]) - 1
            points = [] if failed else judged_points(scores, item_of(sample, query)["related"][turn])
            credit = 0.0 if failed else pauc(points, window.start, window.end, omega)
            reason = f"failed: {failed}" if failed else "no reply" if not points else "" if credit == 1 else "partly"
            verdicts.append(
                Verdict(sample.video.path, sample.id, query.id, NAME, credit, "", reason, gold="", part=turn)
            )
        return verdicts

    return judge


PAUC = {
    f"pauc_{omega:g}": Total(
        f"mean PAUC over answers at omega {omega:g}, of verdicts of pauc_judge(..., {omega:g})", mean
    )
    for omega in OMEGAS
}

BENCHMARK = Benchmark(
    name=NAME,
    source="yellow-binary-tree/ProactiveVideoQA, <task>/anno.json",
    licence="none read",
    tested_on="fixtures in the documented format",
    track="poll",
    read=read,
    strict=strict,
    official=None,
    totals=TIMING,
    options={"segment_seconds": SEGMENTS, "durations": DURATIONS},
    count=count_queries,
)
