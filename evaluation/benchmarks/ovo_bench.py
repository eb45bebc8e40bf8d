"""OVO-Bench: twelve tasks in three categories, asked in mid-stream. JoeLeelyf/OVO-Bench; data CC BY-NC-SA 4.0.

    EPM HLD ASI, STU OJR ATR FPD ACR OCR   {id, task, video, realtime, question, options, gt}
    REC  {id, task, video, activity, start_times, end_times, test_info: [{realtime, count}]}
    SSR  {id, task, video, all_steps, start_time, end_time, test_info: [{realtime, step, type: 0 or 1}]}
    CRR  {id, task, video, question, answer, ask_time, clue_time, test_info: [{realtime, type}]}

What is visible at t is [0, ceil(t)], as published, so queries are put at ceil(t); where two counts that differ fall on
one second, one of them cannot be right. Forward tasks are polled: a query of REC and CRR, and one of each step of SSR,
is a standing query that is put at every time of its tests and replied to each time (a count, yes or no). Each test is
an item, as in the published scorer. Nothing of it is proactive: the model is never free to be silent.

`official` reproduces `utils/OVOBenchScore.py`: an answer is right if the letter is in it, a count if all digits of the
reply written one after the other are it, yes and no if the word is in it ("Y" and "N" alone count too); no reply is 0.
All of "ABCDE", "YesNo" is right there; see the strict figures.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evaluation.benchmarks import prompts
from evaluation.benchmarks.base import (
    Benchmark,
    BenchmarkError,
    Given,
    Rejected,
    Total,
    Verdict,
    balanced,
    by_task,
    mean,
    mean_of_tasks,
    only,
)
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
    stream,
)
from evaluation.benchmarks.strict import Judged, judge_number, judge_option, judge_yes_no, letters, shown
from whilst.sample import Answer, Query, Sample

NAME = "ovo_bench"
CATEGORIES = {
    "backward": ("EPM", "HLD", "ASI"),
    "realtime": ("STU", "OJR", "ATR", "FPD", "ACR", "OCR"),
    "forward": ("REC", "SSR", "CRR"),
}
CHOICE = (*CATEGORIES["backward"], *CATEGORIES["realtime"])
COUNTS = 11  # golds of REC are 0 to 10

_FIELDS: dict[str, Types] = {
    "choice": {"id": int, "video": TEXT, "realtime": NUMBER, "question": TEXT, "options": LIST, "gt": int},
    "REC": {"id": int, "video": TEXT, "activity": TEXT, "start_times": LIST, "end_times": LIST, "test_info": LIST},
    "SSR": {
        "id": int,
        "video": TEXT,
        "all_steps": LIST,
        "start_time": LIST,
        "end_time": LIST,
        "test_info": LIST,
    },
    "CRR": {"id": int, "video": TEXT, "question": TEXT, "ask_time": NUMBER, "clue_time": NUMBER, "test_info": LIST},
}
_TESTS: dict[str, Types] = {
    "REC": {"realtime": NUMBER, "count": int},
    "SSR": {"realtime": NUMBER, "step": TEXT, "type": int},
    "CRR": {"realtime": NUMBER, "type": int},
}


# ---- Annotations -> samples.


def read(
    annotations: Path, videos: str = "", segment_seconds: float | None = None, durations: str | None = None
) -> Iterator[Sample | Rejected]:
    """One sample a video, with all its queries. Where a duration is known, nothing is put after it."""
    seconds = duration_of(videos, durations)
    by_video: dict[str, list[Ask]] = {}
    for row in objects(load_json(annotations), str(annotations)):
        name = row.get("id")
        if row.get("task") not in (*CHOICE, *CATEGORIES["forward"]):
            yield Rejected(str(name), f"task: {row.get('task')!r} is none of OVO-Bench's")
            continue
        if reason := _row_problem(row):
            yield from (Rejected(id, reason) for id in _query_ids(row))
            continue
        end = seconds(row["video"])
        for ask in _asks(row, end if end is not None else math.inf):
            if ask is not None:
                by_video.setdefault(row["video"], []).append(ask)
    for video, asks in by_video.items():
        path = str(Path(videos, video)) if videos else video
        yield from stream(NAME, video, path, asks, segment_seconds=segment_seconds, end=seconds(video))


def count_queries(annotations: Path) -> int:
    """Queries of an annotation file: one an item, one a step of SSR."""
    return sum(len(_query_ids(row)) for row in objects(load_json(annotations), str(annotations)))


def _query_ids(row: Mapping[str, Any]) -> list[str]:
    tests = row.get("test_info")
    if row.get("task") != "SSR" or not isinstance(tests, list):
        return [str(row.get("id"))]
    steps = dict.fromkeys(str(test.get("step")) if isinstance(test, dict) else "?" for test in tests)
    return [f"{row.get('id')}/{i}" for i in range(len(steps))]


def _row_problem(row: Mapping[str, Any]) -> str:
    task = row["task"]
    kind = "choice" if task in CHOICE else task
    if reason := problem(row, _FIELDS[kind]):
        return reason
    if kind == "choice":
        options = row["options"]
        if len(options) < 2 or not all(isinstance(one, str) and one.strip() for one in options):
            return "options: must be two texts or more"
        return "" if 0 <= row["gt"] < len(options) else f"gt: {row['gt']} is no index of the {len(options)} options"
    if not row["test_info"]:
        return "test_info: is empty"
    for test in row["test_info"]:
        if not isinstance(test, dict):
            return f"test_info: {test!r} is no object"
        if reason := problem(test, _TESTS[task]):
            return f"test_info: {reason}"
        if task != "REC" and test["type"] not in (0, 1):
            return f"test_info: type: {test['type']} is neither 0 nor 1"
    if task == "SSR" and len({len(row[name]) for name in ("all_steps", "start_time", "end_time")}) > 1:
        return "all_steps, start_time, end_time: differ in length"
    return ""


def _asks(row: Mapping[str, Any], end: float) -> Iterator[Ask]:
    task, id = row["task"], str(row["id"])
    if task in CHOICE:
        options = row["options"]
        query = Query(id, _put(row["realtime"], end), prompts.choice(row["question"], options), task, tuple(options))
        item = {"gold": row["gt"], "options": options, "realtime": row["realtime"]}
        yield asked_once(query, letters(len(options))[row["gt"]], item)
        return
    tests = list(enumerate(row["test_info"]))
    if task == "REC":
        spans = list(zip(row["start_times"], row["end_times"], strict=False))
        yield _polled(id, task, prompts.count(row["activity"]), tests, spans, end, {})
    elif task == "CRR":
        spans = [(row["ask_time"], row["clue_time"])]
        more = {"clue_time": row["clue_time"], "ask_time": row["ask_time"]}
        yield _polled(id, task, prompts.enough(row["question"]), tests, spans, end, more)
    else:
        for i, step in enumerate(dict.fromkeys(test["step"] for _, test in tests)):
            of_step = [(j, test) for j, test in tests if test["step"] == step]
            named = zip(row["all_steps"], row["start_time"], row["end_time"], strict=True)
            spans = [(start, stop) for name, start, stop in named if name == step]
            yield _polled(f"{id}/{i}", task, prompts.step(step), of_step, spans, end, {})


def _polled(
    id: str,
    task: str,
    text: str,
    tests: Sequence[tuple[int, Mapping[str, Any]]],
    spans: Sequence[tuple[float, float]],
    end: float,
    more: Mapping[str, Any],
) -> Ask:
    """A standing query, put at the time of each test; evidence: the spans that begin before it is put last."""
    polls = sorted(((_put(test["realtime"], end), j, test) for j, test in tests), key=lambda poll: poll[:2])
    golds = [test["count"] if task == "REC" else test["type"] for _, _, test in polls]
    said = [str(gold) if task == "REC" else ("No", "Yes")[gold] for gold in golds]
    last = polls[-1][0]
    evidence = tuple((float(start), min(float(stop), last)) for start, stop in spans if 0 <= start <= min(stop, last))
    query = Query(id, polls[0][0], text, task, evidence=evidence)
    replies = tuple(Answer(time, word, id) for (time, _, _), word in zip(polls, said, strict=True))
    item = {"times": [time for time, _, _ in polls], "tests": [j for _, j, _ in polls], "golds": golds, **more}
    return Ask(query, replies, item)


def _put(realtime: float, end: float) -> float:
    """When a query about `realtime` is put: at the whole second that is visible, or at the end of the video."""
    return min(float(math.ceil(realtime)), end)


# ---- The published rules, on what a model said (None: nothing). Faults are theirs.


def official_choice(said: Any, letter: str) -> float:
    return 0.0 if said is None else float(letter in said)


def official_count(said: Any, count: float) -> float:
    return 0.0 if said is None else float("".join(re.findall(r"\d+", said)) == str(count))


def official_yes_no(said: Any, kind: float) -> float:
    if (said == "N" and kind == 0) or (said == "Y" and kind == 1):
        return 1.0
    return 0.0 if said is None else float(("No" if kind == 0 else "Yes") in said)


def _official(task: str, said: Any, gold: Any) -> float:
    """gold: a letter, a count, or 0 or 1."""
    if task in CHOICE:
        return official_choice(said, gold)
    return official_count(said, gold) if task == "REC" else official_yes_no(said, gold)


def _strict(task: str, given: Sequence[Given], gold: int, options: Sequence[str]) -> Judged:
    if task in CHOICE:
        return judge_option(given, options, [gold])
    return judge_number(given, gold) if task == "REC" else judge_yes_no(given, bool(gold))


# ---- Verdicts.


def strict(sample: Sample, query: Query, given: Sequence[Given]) -> list[Verdict]:
    """One verdict an item: a question, or a test of a forward task."""
    return [
        _verdict(sample, query, part, gold, *_strict(str(query.kind), said, gold, query.options or ()), shown(said))
        for part, gold, said in _items(sample, query, given)
    ]


def official(sample: Sample, query: Query, given: Sequence[Given]) -> list[Verdict]:
    """The same items by the published rule."""
    verdicts = []
    for part, gold, said in _items(sample, query, given):
        text = next((one.text for one in said if not one.failure), None)
        credit = _official(str(query.kind), text, letters(26)[gold] if query.kind in CHOICE else gold)
        verdicts.append(_verdict(sample, query, part, gold, credit, "" if credit else "wrong", text or ""))
    return verdicts


def _items(sample: Sample, query: Query, given: Sequence[Given]) -> Iterator[tuple[int, int, Sequence[Given]]]:
    """Number, gold and replies of each item. Of several tests at one time, each takes the next reply of that time."""
    item = item_of(sample, query)
    if query.kind in CHOICE:
        yield 0, item["gold"], given
        return
    failed = [reply for reply in given if reply.failure]
    waiting = [reply for reply in given if not reply.failure]
    for time, part, gold in zip(item["times"], item["tests"], item["golds"], strict=True):
        said = next((reply for reply in waiting if reply.time == time), None)
        if said is not None:
            waiting.remove(said)
        yield part, gold, failed or ([said] if said is not None else [])


def _verdict(sample: Sample, query: Query, part: int, gold: int, credit: float, reason: str, reply: str) -> Verdict:
    task = str(query.kind)
    if task in CHOICE:
        right, chance = letters(26)[gold], 1 / len(query.options or ())
    elif task == "REC":
        right, chance = str(gold), 1 / COUNTS
    else:
        right, chance = ("No", "Yes")[gold], 1 / 2
    return Verdict(
        sample.video.path, sample.id, query.id, task, credit, reply, reason, gold=right, chance=chance, part=part
    )


# ---- Published result files.


def results(annotations: Path, folder: Path) -> tuple[list[Verdict], list[Verdict]]:
    """Verdicts of a folder of published results (`results/<model>/*.json`): by the official rule, and strictly.

    The official ones are of the rows that the files hold, with the golds that stand there, as the published script has
    it: what the files lack is not missed, a row that stands twice counts twice. The strict ones are of the items of the
    annotations: an item without a row, or with rows that disagree, is wrong; a row of no item is listed, not counted. A
    reply that is a list is looked up in as the script does; in REC the script fails on it, and so does this.
    """
    asked: dict[tuple[str, int], tuple[Sample, Query, int]] = {}  # by id and test: gold
    for made in read(annotations):
        if isinstance(made, Rejected):
            raise BenchmarkError(f"{annotations}: {made.id}: {made.reason}; results are judged on a whole file")
        for query in made.queries():
            asked |= {
                (query.id.partition("/")[0], part): (made, query, gold) for part, gold, _ in _items(made, query, ())
            }
    judged: list[Verdict] = []
    strictly: list[Verdict] = []
    said: dict[tuple[str, int], list[Any]] = {}
    for row in _result_rows(folder):
        credit = _official(row.task, row.reply, row.gold)
        reason = "" if credit else ("no reply" if row.reply is None else "wrong")
        one = Verdict("", "", row.id, row.task, credit, _text(row.reply), reason, gold=str(row.gold), part=row.part)
        if (row.id, row.part) in asked and asked[row.id, row.part][1].kind == row.task:
            sample, query, gold = asked[row.id, row.part]
            said.setdefault((row.id, row.part), []).append(row.reply)
            here = _verdict(sample, query, row.part, gold, credit, reason, one.reply)
            judged.append(replace(here, gold=here.gold if row.task not in CHOICE else one.gold))
        else:
            judged.append(one)
            strictly.append(replace(one, credit=0.0, reason=f"{row.where}: not in the annotations", counted=False))
    for (id, part), (sample, query, gold) in asked.items():
        given, reason = _one_reply(said.get((id, part), []))
        credit = 0.0
        if not reason:
            credit, reason = _strict(str(query.kind), given, gold, query.options or ())
        strictly.append(_verdict(sample, query, part, gold, credit, reason, shown(given)))
    return judged, strictly


@dataclass(frozen=True)
class _Row:
    """One reply of a result file, with the gold that stands beside it, as it stands. reply: text, list or None."""

    id: str
    task: str
    part: int
    gold: Any
    reply: Any
    where: str


def _result_rows(folder: Path) -> Iterator[_Row]:
    files = sorted(Path(folder).glob("*.json"))
    if not files:
        raise BenchmarkError(f"{folder}: holds no .json files; name the folder of one model's results")
    for file in files:
        found = load_json(file)
        for category, tasks in CATEGORIES.items():
            if not isinstance(found, dict) or not isinstance(found.get(category), list):
                raise BenchmarkError(f"{file}: {category}: must be a list; name a result file of OVO-Bench")
            for i, row in enumerate(found[category]):
                where = f"{file}: {category}[{i}]"
                if not isinstance(row, dict) or row.get("task") not in tasks:
                    raise BenchmarkError(f"{where}: task: must be one of {', '.join(tasks)}")
                if category == "forward":
                    yield from _forward_rows(row, where)
                else:
                    yield _choice_row(row, where)


def _choice_row(row: Mapping[str, Any], where: str) -> _Row:
    if reason := problem(row, {"id": (int, str), "ground_truth": TEXT}):
        raise BenchmarkError(f"{where}: {reason}")
    return _Row(str(row["id"]), row["task"], 0, row["ground_truth"], _reply(row, where), where)


def _forward_rows(row: Mapping[str, Any], where: str) -> Iterator[_Row]:
    task = row["task"]
    if reason := problem(row, {"id": (int, str), "test_info": LIST}):
        raise BenchmarkError(f"{where}: {reason}")
    for j, test in enumerate(row["test_info"]):
        here = f"{where}: test_info[{j}]"
        if not isinstance(test, dict):
            raise BenchmarkError(f"{here}: must be an object")
        if reason := problem(test, {"count" if task == "REC" else "type": NUMBER}):
            raise BenchmarkError(f"{here}: {reason}")
        reply = _reply(test, here)
        if task == "REC" and isinstance(reply, list):
            raise BenchmarkError(
                f"{here}: response: {reply!r} is a list, on which the published scorer fails too; write its text alone"
            )
        yield _Row(str(row["id"]), task, j, test["count" if task == "REC" else "type"], reply, here)


def _reply(row: Mapping[str, Any], where: str) -> Any:
    if "response" not in row:
        raise BenchmarkError(f"{where}: field missing: response")
    value = row["response"]
    if value is not None and not isinstance(value, (str, list)):
        raise BenchmarkError(f"{where}: response: {value!r} is neither text, a list nor null")
    return value


def _text(reply: Any) -> str:
    return "" if reply is None else str(reply)


def _one_reply(replies: Sequence[Any]) -> tuple[list[Given], str]:
    """What was replied to one item, and why it is wrong whatever it says ("" where it has to be read)."""
    if not replies:
        return [], "not in the results"
    given = [Given(0.0, _text(replies[0]))]
    if any(isinstance(reply, list) for reply in replies):
        return given, "the reply is a list, not a text"
    return given, "" if len(set(replies)) == 1 else "several rows that disagree"


# ---- Totals.


def _category(name: str, verdicts: Sequence[Verdict]) -> float:
    return only(CATEGORIES[name], mean_of_tasks)(verdicts)


def mean_of_categories(verdicts: Sequence[Verdict], names: Sequence[str] = tuple(CATEGORIES)) -> float:
    """Mean over those of the categories that have items of the mean over their tasks."""
    present = [name for name in names if any(task in CATEGORIES[name] for task in by_task(verdicts))]
    return sum(_category(name, verdicts) for name in present) / len(present) if present else 0.0


BENCHMARK = Benchmark(
    name=NAME,
    source="JoeLeelyf/OVO-Bench, data/ovo_bench_new.json",
    licence="data CC BY-NC-SA 4.0, code MIT",
    tested_on="real files",
    track="asked",
    read=read,
    strict=strict,
    official=official,
    totals={
        "overall": Total(
            "mean of the categories backward, realtime and forward, each the mean of its tasks' accuracies",
            mean_of_categories,
        ),
        "backward": Total("mean of the accuracies of EPM, HLD and ASI", only(CATEGORIES["backward"], mean_of_tasks)),
        "realtime": Total(
            "mean of the accuracies of STU, OJR, ATR, FPD, ACR and OCR", only(CATEGORIES["realtime"], mean_of_tasks)
        ),
        "forward": Total(
            "mean of the accuracies of REC, SSR and CRR, each test an item", only(CATEGORIES["forward"], mean_of_tasks)
        ),
        "realtime+backward": Total(
            "mean of the categories backward and realtime alone (what some papers call overall)",
            lambda verdicts: mean_of_categories(verdicts, ("backward", "realtime")),
        ),
        "overall without HLD": Total(
            "overall, HLD left out: \"Unable to answer\" is right in all its items, and offered in no other task",
            lambda verdicts: mean_of_categories([verdict for verdict in verdicts if verdict.task != "HLD"]),
        ),
        "micro": Total("share of right items among all questions and tests", mean),
        "balanced": Total(
            "mean over tasks of the mean over golds (letter, count, yes or no) of the accuracy: a reply that never "
            "changes cannot win it",
            balanced,
        ),
    },
    options={"segment_seconds": SEGMENTS, "durations": DURATIONS},
    results=results,
    count=count_queries,
    contains=(
        "Ego4D", "COIN", "YouCook2", "CrossTask", "HiREST", "THUMOS", "STAR", "MovieNet", "OpenEQA", "Perception Test",
        "YouTube",
    ),
)  # fmt: skip
