"""StreamingBench: questions at times of a stream (real-time, omni-source, sequential), and outputs due at a moment.
THUNLP-MT/StreamingBench, MIT.

    official    [{time, video_path, questions: [{task_type, question, time_stamp: "HH:MM:SS", answer: "C",
                options: ["A. ...", ...]}]}], sequential questions as a list of such lists; proactive questions have
                ground_truth_time_stamp and ground_truth_output in place of answer and options; tested on fixtures
    converted   [{task, subtask, question, answer: text, video, candidates, start, end}], as VST ships it;
                tested on the real file

Visible is [0, t], or the last `context_seconds` (60 in the published main setting): then each query has its own sample.
A time stamp that is no HH:MM:SS ("00:12450") or lies beyond an hour ("05:11:00", meant as 5:11) is rejected. In the
converted layout two candidates may have the answer's text (one row); either of them is right then.

Sequential questions come after those before them and their right answers, as published.

Proactive outputs: the published prompt tells what to output and asks "is it the right time", so it leaks the answer.
Here the request stands from its time on; once a second, from the next second until 4 s after the right time, the model
may speak or stay silent. What it says first counts.

`official` reproduces `src/data/count.py`: the first character is the letter; an empty reply leaves the denominator. A
proactive output is in time within 2 s, and its content right if the output stands somewhere in the reply.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation.benchmarks import prompts
from evaluation.benchmarks.base import Benchmark, BenchmarkError, Given, Rejected, Total, Verdict, balanced, mean, only
from evaluation.benchmarks.reading import (
    DURATIONS,
    LIST,
    NUMBER,
    SEGMENTS,
    TEXT,
    Ask,
    Types,
    asked_once,
    duration_of,
    item_of,
    load_json,
    objects,
    problem,
    stand_in,
    stream,
)
from evaluation.benchmarks.strict import first, judge_option, judge_words, letters, shown, unread
from whilst.sample import JSON, Answer, Query, Sample, Silence

NAME, PROACTIVE_NAME = "streaming_bench", "streaming_bench_proactive"
LONGEST = 3600.0  # s; the longest video lasts 24 minutes
TOLERANCE = 2.0  # s, of a proactive output
POLL, AFTERWARDS = 1.0, 4.0  # s between polls, and after the right time
TIME, CONTENT = "time", "time and content"

_STAMP = re.compile(r"(?:(\d{1,2}):)?(\d{1,2}):(\d{1,2})")
_FIELDS = {
    "task_type", "question", "time_stamp", "answer", "options", "required_ability", "audio_path", "time",
    "ground_truth_time_stamp", "ground_truth_output", "video_categories", "video_path",
}  # fmt: skip


@dataclass(frozen=True)
class _Row:
    """One question. time: s, or why it has none. before: the questions that came before it, with options and letters.

    due, output: of a proactive question. others: further fields, such as the replies of a result file.
    """

    id: str
    video: str
    task: str
    question: str
    options: tuple[str, ...]
    golds: tuple[int, ...]
    time: float | str
    before: tuple[tuple[str, tuple[str, ...], str], ...] = ()
    due: float | str = 0.0
    output: str = ""
    others: Mapping[str, Any] = field(default_factory=dict)


def seconds_of(stamp: str) -> float | str:
    """Seconds of "HH:MM:SS" or "MM:SS", or what is wrong with it."""
    found = _STAMP.fullmatch(stamp.strip())
    if found is None or int(found[2]) > 59 or int(found[3]) > 59:
        return f"time_stamp: {stamp!r} is no HH:MM:SS"
    time = float(int(found[1] or 0) * 3600 + int(found[2]) * 60 + int(found[3]))
    return time if time <= LONGEST else f"time_stamp: {stamp!r} is {time:.0f} s; no video lasts over an hour"


# ---- Rows of either layout.


def _rows(path: Path) -> Iterator[_Row | Rejected]:
    found = load_json(path)
    if isinstance(found, list) and found and all(isinstance(entry, list) for entry in found):
        for entries in found:
            yield from _official_rows(objects(entries, str(path)), sequential=True)
        return
    rows = objects(found, str(path))
    if all("questions" in row for row in rows):
        yield from _official_rows(rows, sequential=False)
    elif all("candidates" in row for row in rows):
        yield from _converted_rows(rows)
    else:
        raise BenchmarkError(f"{path}: neither `questions` nor `candidates` in every row; name a StreamingBench file")


def _official_rows(entries: Sequence[Mapping[str, Any]], *, sequential: bool) -> Iterator[_Row | Rejected]:
    counts: dict[str, int] = {}
    before: list[tuple[str, tuple[str, ...], str]] = []
    for entry in entries:
        video = entry.get("video_path")
        for question in entry["questions"] if isinstance(entry["questions"], list) else [entry["questions"]]:
            number = counts[str(video)] = counts.get(str(video), -1) + 1
            id = f"{Path(str(video)).stem}/{number}"
            if not isinstance(video, str) or not isinstance(question, dict):
                yield Rejected(id, "video_path, questions: must be a path and a list of objects")
                continue
            row = _official_row(id, video.removeprefix("./"), question, tuple(before))
            yield row
            if sequential and isinstance(row, _Row):
                before.append((row.question, row.options, letters(len(row.options))[row.golds[0]]))


def _official_row(
    id: str, video: str, row: Mapping[str, Any], before: tuple[tuple[str, tuple[str, ...], str], ...]
) -> _Row | Rejected:
    others = {name: value for name, value in row.items() if name not in _FIELDS}
    if reason := problem(row, {"task_type": TEXT, "question": TEXT, "time_stamp": TEXT}):
        return Rejected(id, reason)
    time = seconds_of(row["time_stamp"])
    if "ground_truth_output" in row:
        if reason := problem(row, {"ground_truth_time_stamp": TEXT, "ground_truth_output": TEXT}):
            return Rejected(id, reason)
        due = seconds_of(row["ground_truth_time_stamp"])
        return _Row(
            id, video, row["task_type"], row["question"], (), (), time, (), due, row["ground_truth_output"], others
        )
    if reason := problem(row, {"answer": TEXT, "options": LIST}):
        return Rejected(id, reason)
    if not all(isinstance(one, str) and one.strip() for one in row["options"]):
        return Rejected(id, "options: must be texts")
    options = _bare(row["options"])
    gold = letters(len(options)).find(row["answer"].strip()) if len(row["answer"].strip()) == 1 else -1
    if gold < 0:
        return Rejected(id, f"answer: {row['answer']!r} is no letter of the {len(options)} options")
    return _Row(id, video, row["task_type"], row["question"], options, (gold,), time, before, others=others)


def _bare(options: Sequence[str]) -> tuple[str, ...]:
    """Options without their letters, where all of them have theirs."""
    labels = [f"{letter}." for letter in letters(len(options))]
    if len(labels) == len(options) and all(
        one.startswith(label) and one[len(label) :].strip() for one, label in zip(options, labels, strict=True)
    ):
        return tuple(one[len(label) :].strip() for one, label in zip(options, labels, strict=True))
    return tuple(options)


def _converted_rows(rows: Sequence[Mapping[str, Any]]) -> Iterator[_Row | Rejected]:
    needed: Types = {
        "subtask": TEXT,
        "question": TEXT,
        "answer": TEXT,
        "video": TEXT,
        "candidates": LIST,
        "end": NUMBER,
    }
    counts: dict[str, int] = {}
    for row in rows:
        number = counts[str(row.get("video"))] = counts.get(str(row.get("video")), -1) + 1
        id = f"{Path(str(row.get('video'))).stem}/{number}"
        if reason := problem(row, needed):
            yield Rejected(id, reason)
            continue
        golds = tuple(i for i, text in enumerate(row["candidates"]) if text == row["answer"])
        if not golds:
            yield Rejected(id, f"answer: {row['answer']!r} is none of the candidates")
            continue
        time = float(row["end"])
        yield _Row(id, row["video"], row["subtask"], row["question"], tuple(row["candidates"]), golds, time)


def count_queries(annotations: Path) -> int:
    """Questions of a file of either layout."""
    found = load_json(annotations)
    entries = [entry for one in found for entry in (one if isinstance(one, list) else [one])]
    return sum(len(entry["questions"]) if "questions" in entry else 1 for entry in entries)


# ---- Rows -> samples.


def read(
    annotations: Path,
    videos: str = "",
    segment_seconds: float | None = None,
    durations: str | None = None,
    context_seconds: float | None = None,
) -> Iterator[Sample | Rejected]:
    """One sample a video with all its questions; with `context_seconds` one sample a question."""
    yield from _streams(NAME, annotations, videos, segment_seconds, durations, context_seconds)


def read_proactive(
    annotations: Path,
    videos: str = "",
    segment_seconds: float | None = None,
    durations: str | None = None,
    context_seconds: float | None = None,
) -> Iterator[Sample | Rejected]:
    """As `read`, of a file of proactive outputs. With `context_seconds`, that long before the request is visible."""
    yield from _streams(PROACTIVE_NAME, annotations, videos, segment_seconds, durations, context_seconds)


def _streams(
    name: str,
    annotations: Path,
    videos: str,
    segment_seconds: float | None,
    durations: str | None,
    context_seconds: float | None,
) -> Iterator[Sample | Rejected]:
    if context_seconds is not None and not context_seconds > 0:
        raise BenchmarkError(f"context_seconds: {context_seconds}: must be above 0")
    seconds = duration_of(videos, durations)
    by_video: dict[str, list[Ask]] = {}
    for row in _rows(Path(annotations)):
        if isinstance(row, Rejected):
            yield row
            continue
        end = seconds(row.video)
        ask = _ask(row, end)
        if bool(row.output) != (name == PROACTIVE_NAME):
            other = PROACTIVE_NAME if row.output else NAME
            yield Rejected(row.id, f"this is a question of {other}")
        elif isinstance(ask, Rejected):
            yield ask
        else:
            by_video.setdefault(row.video, []).append(ask)
    for video, asks in by_video.items():
        path = str(Path(videos, video)) if videos else video
        if context_seconds is None:
            end = seconds(video)
            yield from stream(name, video, path, asks, segment_seconds=segment_seconds, end=end)
            continue
        for ask in asks:
            start = max(0.0, ask.query.time - context_seconds)
            yield from stream(name, ask.query.id, path, [ask], segment_seconds=segment_seconds, start=start)


def _ask(row: _Row, end: float | None) -> Ask | Rejected:
    if isinstance(row.time, str):
        return Rejected(row.id, row.time)
    if end is not None and row.time > end + 1.0:
        return Rejected(row.id, f"time_stamp: {row.time:.0f} s is after the video's end, {end:.1f} s")
    time = row.time if end is None else min(row.time, end)
    if row.output:
        return _standing(row, time, end)
    text = prompts.after(row.before, prompts.choice(row.question, row.options))
    item: dict[str, JSON] = {"golds": list(row.golds), "options": list(row.options)}
    query = Query(row.id, time, text, row.task, row.options)
    return asked_once(query, letters(len(row.options))[row.golds[0]], item)


def _standing(row: _Row, time: float, end: float | None) -> Ask | Rejected:
    if isinstance(row.due, str):
        return Rejected(row.id, f"ground_truth_{row.due}")
    if row.due < time:
        return Rejected(row.id, f"ground_truth_time_stamp: {row.due:.0f} s is before the request, {time:.0f} s")
    polls = [time + POLL * k for k in range(1, int((row.due + AFTERWARDS - time) / POLL) + 1)]
    polls = [poll for poll in polls if end is None or poll <= end]
    answered = next((poll for poll in polls if poll >= row.due), None)
    if answered is None:
        return Rejected(row.id, f"ground_truth_time_stamp: {row.due:.0f} s is after the video's end, {end} s")
    window = (max(time, row.due - TOLERANCE), min(row.due + TOLERANCE, polls[-1]))
    query = Query(row.id, time, prompts.alert(row.question), row.task, window=window, knowable_at=row.due)
    replies = tuple(Answer(poll, row.output, row.id) if poll == answered else Silence(poll, row.id) for poll in polls)
    return Ask(query, replies, {"due": row.due, "output": row.output})


# ---- Verdicts.


def strict(sample: Sample, query: Query, given: Sequence[Given]) -> list[Verdict]:
    item = item_of(sample, query)
    credit, reason = judge_option(given, query.options or (), item["golds"])
    return [_verdict(sample, query, item["golds"], credit, reason, shown(given))]


def official(sample: Sample, query: Query, given: Sequence[Given]) -> list[Verdict]:
    golds = item_of(sample, query)["golds"]
    text = "" if any(reply.failure for reply in given) else (given[0].text if given else "")
    credit, counted = official_choice(text, [letters(26)[gold] for gold in golds])
    reason = "" if credit else ("wrong" if counted else "no reply")
    return [_verdict(sample, query, golds, credit, reason, text, counted)]


def official_choice(reply: str, golds: Sequence[str]) -> tuple[float, bool]:
    """Credit of a reply by the published rule, and whether it stands in the denominator."""
    return float(reply[:1] in golds), bool(reply)


def _verdict(
    sample: Sample,
    query: Query,
    golds: Sequence[int],
    credit: float,
    reason: str,
    reply: str,
    counted: bool = True,
) -> Verdict:
    options = query.options or ()
    return Verdict(
        sample.video.path, sample.id, query.id, str(query.kind), credit, reply, reason, counted,
        gold=letters(26)[golds[0]], chance=len(golds) / len(options),
    )  # fmt: skip


def strict_proactive(sample: Sample, query: Query, given: Sequence[Given]) -> list[Verdict]:
    """Two items: the first thing said comes within 2 s of the right time; and it is the output, word for word."""
    item = item_of(sample, query)
    said, reason = first(given), unread(given)
    if said is not None and not reason and abs(said.time - item["due"]) > TOLERANCE:
        reason = "too early" if said.time < item["due"] else "too late"
    credit, why = (0.0, reason) if reason else judge_words(given, item["output"])
    return _both(sample, query, given, (float(not reason), reason), (credit, why), counted=True)


def official_proactive(sample: Sample, query: Query, given: Sequence[Given]) -> list[Verdict]:
    """The published rule, on what is said without its prompt. A stream that failed has no row, so it is not counted."""
    item = item_of(sample, query)
    said = first(given)
    in_time = said is not None and abs(said.time - item["due"]) <= TOLERANCE
    content = in_time and said is not None and item["output"] in said.text
    told = [(float(right), "" if right else "wrong") for right in (in_time, content)]
    return _both(sample, query, given, told[0], told[1], counted=not any(reply.failure for reply in given))


def _both(
    sample: Sample,
    query: Query,
    given: Sequence[Given],
    time: tuple[float, str],
    content: tuple[float, str],
    counted: bool,
) -> list[Verdict]:
    return [
        Verdict(sample.video.path, sample.id, query.id, task, credit, shown(given), reason, counted, part=part)
        for part, (task, (credit, reason)) in enumerate([(TIME, time), (CONTENT, content)])
    ]


# ---- Published result files: the annotations, with each reply under the model's name.


def results(annotations: Path, file: Path) -> tuple[list[Verdict], list[Verdict]]:
    """Verdicts of a result file of `src/eval.py`: by the official rule, and strictly. Bad time stamps do not matter."""
    replies: dict[str, Any] = {}
    models: set[str] = set()
    for row in _rows(Path(file)):
        if isinstance(row, _Row):
            models |= row.others.keys()
            for reply in row.others.values():
                replies[row.id] = reply
    if len(models) != 1:
        found = ", ".join(sorted(models)) or "none"
        raise BenchmarkError(f"{file}: questions must have replies under the name of one model, found: {found}")
    judged: tuple[list[Verdict], list[Verdict]] = ([], [])
    for row in _rows(Path(annotations)):
        if isinstance(row, Rejected) or row.output:
            reason = row.reason if isinstance(row, Rejected) else "a proactive output"
            raise BenchmarkError(f"{annotations}: {row.id}: {reason}; results of questions with options are judged")
        reply = replies.get(row.id, "")
        if not isinstance(reply, (str, type(None))):
            raise BenchmarkError(f"{file}: {row.id}: {reply!r} is no text")
        query = Query(row.id, 0.0, row.question, row.task, row.options)
        sample = stand_in(NAME, row.video, query, {"golds": list(row.golds)})
        given = [Given(0.0, reply or "")]
        judged[0].extend(official(sample, query, given))
        judged[1].extend(strict(sample, query, given))
    return judged


OPTIONS = {
    "segment_seconds": SEGMENTS,
    "durations": DURATIONS,
    "context_seconds": "how much before a query is visible (60 in the published main setting); none: all",
}

BENCHMARK = Benchmark(
    name=NAME,
    source="THUNLP-MT/StreamingBench, src/data/questions_{real,omni,sqa}.json",
    licence="MIT",
    tested_on="real files",
    track="asked",
    read=read,
    strict=strict,
    official=official,
    totals={
        "micro": Total("share of right items among the questions of the file (empty ones left out, officially)", mean),
        "balanced": Total("mean over tasks of the mean over letters of the accuracy", balanced),
    },
    options=OPTIONS,
    results=results,
    count=count_queries,
    contains=("YouTube",),
)

PROACTIVE = Benchmark(
    name=PROACTIVE_NAME,
    source="THUNLP-MT/StreamingBench, src/data/questions_proactive.json",
    licence="MIT",
    tested_on="fixtures in the documented format",
    track="poll",
    read=read_proactive,
    strict=strict_proactive,
    official=official_proactive,
    totals={
        CONTENT: Total(
            "share of requests whose first reply comes within 2 s of the right time and is the output", only([CONTENT])
        ),
        TIME: Total("share of requests whose first reply comes within 2 s of the right time", only([TIME])),
    },
    options=OPTIONS,
    count=count_queries,
    contains=("YouTube",),
)
