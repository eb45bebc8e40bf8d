"""StreamGaze: where the wearer of a camera looks, asked in mid-stream; ten tasks. daeunni/StreamGaze @bbd4ae5.

    <task>.json   [{video_path, response_time: "[00:08 - 02:42]", questions: [...]}], questions of
        past_*, present_*   {question, time_stamp: "13:20", answer: "C", options: ["A. ...", ...]}
        proactive_*         {question, time_stamp, first_appearance, target_object,
                            test_info: [{realtime: "02:02", type: 0 or 1}]}

Seen: its benchmark code, scorer and scripts (the ten file names). Not seen: the files. `annotations` is the folder, or
one of its files; the name of a file is its task. Videos with the gaze drawn into them are another folder of `videos`.

Past tasks see [0, t]; present and future ones see the last 60 s as published, `context_seconds: 60`; without it all
queries of a video share one stream. Proactive tasks are polled at each time of `test_info`, as OVO-Bench does it: has
it been seen yet, yes or no. Each test is an item. Nothing of it is proactive: the model is never free to be silent.

`official` reproduces evaluate_results.py: of the reply in capitals the first A, B, C or D that is a word of its own (so
"a dog" is A), else all of it; a proactive test is right if YES (NO) stands anywhere, so that "YESNO" always is, and
"not known" is NO. No reply is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.benchmarks.base import (
    Benchmark,
    BenchmarkError,
    Given,
    Rejected,
    Total,
    Verdict,
    balanced,
    mean,
    mean_of_tasks,
    only,
)
from evaluation.benchmarks.choices import (
    CONTEXT,
    bare,
    choice_ask,
    choice_verdict,
    files_of,
    gold_index,
    options_problem,
    put_at,
    reply_of,
    streams,
)
from evaluation.benchmarks.choices import strict as strict_choice
from evaluation.benchmarks.reading import (
    DURATIONS,
    LIST,
    SEGMENTS,
    TEXT,
    Ask,
    duration_of,
    item_of,
    load_json,
    objects,
    problem,
)
from evaluation.benchmarks.strict import judge_yes_no, letters, shown
from whilst.sample import Answer, Query, Sample

NAME = "streamgaze"
PAST = (
    "past_gaze_sequence_matching", "past_non_fixated_object_identification", "past_object_transition_prediction",
    "past_scene_recall",
)  # fmt: skip
PRESENT = (
    "present_future_action_prediction", "present_object_attribute_recognition", "present_object_identification_easy",
    "present_object_identification_hard",
)  # fmt: skip
PROACTIVE = ("proactive_gaze_triggered_alert", "proactive_object_appearance_alert")


def read(
    annotations: Path,
    videos: str = "",
    segment_seconds: float | None = None,
    durations: str | None = None,
    context_seconds: float | None = None,
) -> Iterator[Sample | Rejected]:
    """One sample a video with all its queries; with `context_seconds`, one for each of a present or future task."""
    seconds = duration_of(videos, durations)
    by_video: dict[str, list[Ask]] = {}
    for task, id, video, row in _rows(annotations):
        if not isinstance(video, str) or not isinstance(row, dict):
            yield Rejected(id, "video_path, questions: must be a path and objects")
            continue
        made = _polled(id, task, row, seconds(video)) if task in PROACTIVE else _asked(id, task, row, seconds(video))
        if isinstance(made, Rejected):
            yield made
        else:
            by_video.setdefault(video, []).append(made)
    yield from streams(
        NAME,
        by_video,
        videos=videos,
        segment_seconds=segment_seconds,
        end=seconds,
        context_seconds=context_seconds,
        alone=lambda ask: ask.query.kind in PRESENT,
    )


def _rows(path: Path) -> Iterator[tuple[str, str, Any, Any]]:
    """Task, id, video and row of every question."""
    for file in files_of(path):
        task = file.stem
        if task not in (*PAST, *PRESENT, *PROACTIVE):
            raise BenchmarkError(f"{file}: name: {task!r} is none of StreamGaze's tasks; keep the published file names")
        for i, entry in enumerate(objects(load_json(file), str(file))):
            questions = entry.get("questions")
            for j, row in enumerate(questions if isinstance(questions, list) else [questions]):
                yield task, f"{task}/{i}/{j}", entry.get("video_path"), row


def count_queries(annotations: Path) -> int:
    """Questions of a file or folder; a polled one is one."""
    return sum(1 for _ in _rows(annotations))


def _asked(id: str, task: str, row: Mapping[str, Any], end: float | None) -> Ask | Rejected:
    if reason := problem(row, {"question": TEXT, "time_stamp": TEXT}) or options_problem(row.get("options")):
        return Rejected(id, reason)
    gold, time = gold_index(row.get("answer"), len(row["options"])), put_at(row["time_stamp"], end)
    if isinstance(gold, str) or isinstance(time, str):
        return Rejected(id, gold if isinstance(gold, str) else f"time_stamp: {time}")
    return choice_ask(id, time, row["question"], bare(row["options"]), gold, task)


def _polled(id: str, task: str, row: Mapping[str, Any], end: float | None) -> Ask | Rejected:
    if reason := problem(row, {"question": TEXT, "test_info": LIST}):
        return Rejected(id, reason)
    polls: list[tuple[float, int, int]] = []
    for part, test in enumerate(row["test_info"]):
        if not isinstance(test, dict) or test.get("type") not in (0, 1):
            return Rejected(id, f"test_info: {test!r} has no type 0 or 1")
        time = put_at(test.get("realtime"), end)
        if isinstance(time, str):
            return Rejected(id, f"test_info: realtime: {time}")
        polls.append((time, part, test["type"]))
    if not polls:
        return Rejected(id, "test_info: is empty")
    polls.sort()
    text = f"{row['question'].strip()}\nHas this happened so far in the video? Reply with Yes or No alone."
    query = Query(id, polls[0][0], text, task)
    replies = tuple(Answer(time, ("no", "yes")[gold], id) for time, _, gold in polls)
    item = {name: [poll[i] for poll in polls] for i, name in enumerate(("times", "tests", "golds"))}
    return Ask(query, replies, item)


# ---- The published rules.


def letter_of(text: str) -> str:
    """What the published rule takes an answer to be: a letter, or all of it in capitals."""
    text = text.strip().upper()
    found = re.search(r"\b([ABCD])\b", text)
    return found[1] if found else text


def _items(sample: Sample, query: Query, given: Sequence[Given]) -> Iterator[tuple[int, int, Sequence[Given]]]:
    """Number, gold and replies of each test of a polled query; of several at one time, each takes the next reply."""
    item = item_of(sample, query)
    failed = [reply for reply in given if reply.failure]
    waiting = list(given)
    for time, part, gold in zip(item["times"], item["tests"], item["golds"], strict=True):
        said = next((reply for reply in waiting if reply.time == time), None)
        if said is not None:
            waiting.remove(said)
        yield part, gold, failed or ([said] if said is not None else [])


def _test(sample: Sample, query: Query, part: int, gold: int, credit: float, reason: str, reply: str) -> Verdict:
    return Verdict(
        sample.video.path, sample.id, query.id, str(query.kind), credit, reply, reason,
        gold=("no", "yes")[gold], chance=0.5, part=part,
    )  # fmt: skip


def strict(sample: Sample, query: Query, given: Sequence[Given]) -> list[Verdict]:
    """The whole reply is the right option, or (proactive) the right one of yes and no at each test."""
    if query.kind not in PROACTIVE:
        return strict_choice(sample, query, given)
    return [
        _test(sample, query, part, gold, *judge_yes_no(said, bool(gold)), shown(said))
        for part, gold, said in _items(sample, query, given)
    ]


def official(sample: Sample, query: Query, given: Sequence[Given]) -> list[Verdict]:
    if query.kind not in PROACTIVE:
        text = reply_of(given) or ""
        credit = float(letter_of(text) == letters(26)[item_of(sample, query)["golds"][0]])
        return [choice_verdict(sample, query, credit, "" if credit else "wrong", text)]
    verdicts = []
    for part, gold, said in _items(sample, query, given):
        text = reply_of(said) or ""
        credit = float(("NO", "YES")[gold] in text.strip().upper())
        verdicts.append(_test(sample, query, part, gold, credit, "" if credit else "wrong", text))
    return verdicts


def _group(name: str, tasks: Sequence[str]) -> Total:
    return Total(f"mean over the {name} tasks that are there of their accuracies", only(tasks, mean_of_tasks))


BENCHMARK = Benchmark(
    name=NAME,
    source="daeunni/StreamGaze, dataset/qa/*.json",
    licence="CC BY 4.0",
    tested_on="fixtures in the documented format",
    track="asked",
    read=read,
    strict=strict,
    official=official,
    totals={
        "overall": Total("mean over the tasks that are there of their accuracies, each test an item", mean_of_tasks),
        "past": _group("past", PAST),
        "present": _group("present and future", PRESENT),
        "proactive": _group("proactive", PROACTIVE),
        "micro": Total("share of right items among all questions and tests", mean),
        "balanced": Total("mean over tasks of the mean over golds of the accuracy", balanced),
    },
    options={"segment_seconds": SEGMENTS, "durations": DURATIONS, "context_seconds": f"{CONTEXT} (60 as published)"},
    count=count_queries,
    contains=("EGTEA", "EgoExoLearn", "HoloAssist"),
)
