"""OmniMMI: multi-turn questions, predictions and speakers; and when to speak (proactive). OmniMMI/OmniMMI, MIT.

    SG  dynamic_state_grounding.json         [{video, qa: [{question, answer, timestamp: "9.0 -- 13.0"}]}]
    MD  multiturn_dependency_reasoning.json  the same; "##ANSWER##" stands for the answer before
    AP  action_prediction.json               [{video, question, answer, vocab: [...]}]
    SI  speaker_identification.json          [{video, question, answer, timestamp: 22.08}]
    PA  proactive_alerting.json              [{video, question, answer: [start, end]}]
    PT  proactive_turntaking.json            [{video, conversation: [{human, assistant}, ..., {human}]}]

Name one of these files, or the folder that holds them. SG and MD are asked in the middle of their span, as published;
a span that runs backwards is rejected. AP and PT are put at the end of their clip, whose length no file tells: they are
rejected where it is not known. "##ANSWER##" is replaced by the right answer (published: by the model's own).

`omnimmi` is SG, MD, AP and SI. They are published with a judge (GPT), so there is no `official` rule without one;
strict is word for word, which is harsh on free answers: compare it with itself alone.

`omnimmi_proactive` is PA and PT, which belong together: silence wins PT (100) and an alert at 136 s wins a quarter of
PA. In PA the request stands from 0 s on; every `poll_seconds` until the end the model may speak or stay silent. An
alert is any reply. In PT the whole conversation is put once, and its last turn needs no reply (also written "<2>").
`official` reproduces `evaluations/evaluate.py`. Strictly, PA is right if all alerts lie in the span and there is one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from evaluation.benchmarks import prompts
from evaluation.benchmarks.base import Benchmark, BenchmarkError, Given, Rejected, Total, Verdict, mean, only
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
    load_lines,
    objects,
    problem,
    stand_in,
    stream,
)
from evaluation.benchmarks.strict import judge_words, shown, unread
from whilst.sample import JSON, Answer, Query, Sample, Silence

NAME, PROACTIVE_NAME = "omnimmi", "omnimmi_proactive"
FILES = {
    "SG": "dynamic_state_grounding.json",
    "MD": "multiturn_dependency_reasoning.json",
    "AP": "action_prediction.json",
    "SI": "speaker_identification.json",
    "PA": "proactive_alerting.json",
    "PT": "proactive_turntaking.json",
}
ASKED, PROACTIVE_TASKS = ("SG", "MD", "AP", "SI"), ("PA", "PT")
PRECISION, IOU = "PA precision", "PA IoU"
SILENT = "<2>"  # how the published PT says that nothing is to be said
NOW = "Now."  # what a right alert may say; the dataset has no words for alerts
POLL = 2.0  # s

_PLACEHOLDER = "##ANSWER##"
_SPAN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*--\s*(\d+(?:\.\d+)?)\s*")
_CLIP = re.compile(r".*_(\d+(?:\.\d+)?)_(\d+(?:\.\d+)?)")

Asks = Iterator["Ask | Rejected"]


def _files(path: Path, tasks: Sequence[str]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The rows of each file of these tasks, by task."""
    found = {task: path / FILES[task] for task in tasks} if path.is_dir() else {_task_of(path, tasks): path}
    for task, file in found.items():
        yield task, objects(load_json(file), str(file))


def _task_of(path: Path, tasks: Sequence[str]) -> str:
    for task in tasks:
        if path.name == FILES[task]:
            return task
    raise BenchmarkError(f"{path}: must be the folder of the files, or one of {', '.join(FILES[t] for t in tasks)}")


# ---- Annotations -> samples.


def read(
    annotations: Path, videos: str = "", segment_seconds: float | None = None, durations: str | None = None
) -> Iterator[Sample | Rejected]:
    """SG, MD, AP and SI: one sample a video and task."""
    yield from _read(NAME, ASKED, annotations, videos, segment_seconds, durations, POLL)


def read_proactive(
    annotations: Path,
    videos: str = "",
    segment_seconds: float | None = None,
    durations: str | None = None,
    poll_seconds: float | None = None,
) -> Iterator[Sample | Rejected]:
    """PA and PT: one sample a video and task. poll_seconds: as `segment_seconds` where that is given, else 2."""
    poll = poll_seconds if poll_seconds is not None else segment_seconds if segment_seconds is not None else POLL
    if not poll > 0:
        raise BenchmarkError(f"poll_seconds: {poll}: must be above 0")
    yield from _read(PROACTIVE_NAME, PROACTIVE_TASKS, annotations, videos, segment_seconds, durations, poll)


def _read(
    name: str,
    tasks: Sequence[str],
    annotations: Path,
    videos: str,
    segment_seconds: float | None,
    durations: str | None,
    poll: float,
) -> Iterator[Sample | Rejected]:
    seconds = duration_of(videos, durations)
    for task, rows in _files(Path(annotations), tasks):
        by_video: dict[str, list[Ask]] = {}
        for number, row in enumerate(rows):
            video = row.get("video")
            if not isinstance(video, str):
                yield from (Rejected(id, "video: must be a file name") for id in _ids(task, number, row))
                continue
            for ask in _ASKS[task](f"{task}-{number}", row, seconds(video), poll):
                if isinstance(ask, Rejected):
                    yield ask
                else:
                    by_video.setdefault(video, []).append(ask)
        for video, asks in by_video.items():
            path = str(Path(videos, video)) if videos else video
            end = seconds(video)
            yield from stream(name, f"{task}/{video}", path, asks, segment_seconds=segment_seconds, end=end)


def _ids(task: str, number: int, row: Mapping[str, Any]) -> list[str]:
    qa = row.get("qa")
    return [f"{task}-{number}/{i}" for i in range(len(qa) if isinstance(qa, list) else 1)]


def _turns(id: str, row: Mapping[str, Any], end: float | None, poll: float) -> Asks:
    """SG and MD."""
    if reason := problem(row, {"qa": LIST}):
        yield Rejected(f"{id}/0", reason)
        return
    task = id.partition("-")[0]
    before = ""
    for i, turn in enumerate(row["qa"]):
        name = f"{id}/{i}"
        needed: Types = {"question": TEXT, "answer": TEXT, "timestamp": TEXT}
        reason = problem(turn, needed) if isinstance(turn, dict) else "qa: must be objects"
        if reason:
            yield Rejected(name, reason)
            continue
        span = _SPAN.fullmatch(turn["timestamp"])
        start, stop = (float(span[1]), float(span[2])) if span else (1.0, 0.0)
        middle = (start + stop) / 2
        if span is None or start > stop:
            yield Rejected(name, f"timestamp: {turn['timestamp']!r} is no `start -- end`")
        elif end is not None and middle > end:
            yield Rejected(name, f"timestamp: {middle} s is after the video's end, {end} s")
        else:
            text = prompts.brief(turn["question"].replace(_PLACEHOLDER, before))
            query = Query(name, middle, text, task, evidence=((start, middle),))
            yield asked_once(query, turn["answer"], {"gold": turn["answer"], "row": id})
        before = turn["answer"]


def _prediction(id: str, row: Mapping[str, Any], end: float | None, poll: float) -> Asks:
    """AP."""
    if reason := problem(row, {"question": TEXT, "answer": TEXT, "vocab": LIST}):
        yield Rejected(f"{id}/0", reason)
    elif not all(isinstance(one, str) for one in row["vocab"]) or row["vocab"].count(row["answer"]) != 1:
        yield Rejected(f"{id}/0", f"vocab: must be texts, the answer {row['answer']!r} once among them")
    elif end is None:
        yield Rejected(f"{id}/0", _unknown(row))
    else:
        options = tuple(row["vocab"])
        query = Query(f"{id}/0", end, prompts.words(row["question"], options), "AP", options)
        yield asked_once(query, row["answer"], {"gold": row["answer"], "row": id})


def _speaker(id: str, row: Mapping[str, Any], end: float | None, poll: float) -> Asks:
    """SI."""
    if reason := problem(row, {"question": TEXT, "answer": TEXT, "timestamp": NUMBER}):
        yield Rejected(f"{id}/0", reason)
    elif end is not None and row["timestamp"] > end:
        yield Rejected(f"{id}/0", f"timestamp: {row['timestamp']} s is after the video's end, {end} s")
    else:
        query = Query(f"{id}/0", float(row["timestamp"]), prompts.brief(row["question"]), "SI")
        yield asked_once(query, row["answer"], {"gold": row["answer"], "row": id})


def _alert(id: str, row: Mapping[str, Any], end: float | None, poll: float) -> Asks:
    """PA. The length of a clip stands in its name (`<id>_<start>_<end>`), where it is not known better."""
    name = f"{id}/0"
    clip = _CLIP.fullmatch(PurePosixPath(row["video"]).stem)
    if end is None and clip is not None:
        end = float(clip[2]) - float(clip[1])
    reason = problem(row, {"question": TEXT, "answer": LIST})
    span: list[Any] = [] if reason else row["answer"]
    if reason:
        yield Rejected(name, reason)
    elif len(span) != 2 or not all(isinstance(t, (int, float)) for t in span) or not 0 <= span[0] <= span[1]:
        yield Rejected(name, f"answer: {span!r} is no span [start, end] in seconds")
    elif end is None:
        yield Rejected(name, _unknown(row))
    else:
        start, stop = float(span[0]), min(float(span[1]), end)
        polls = [round(poll * k, 9) for k in range(1, int(end / poll) + 1)]
        told = next((time for time in polls if start <= time <= stop), None)
        if told is None:
            yield Rejected(name, f"answer: no poll, one in {poll} s, lies in [{start}, {stop}] s")
            return
        evidence = ((start, stop),)
        query = Query(name, 0.0, prompts.alert(row["question"]), "PA", None, (start, stop), evidence, start)
        replies = tuple(Answer(time, NOW, name) if time == told else Silence(time, name) for time in polls)
        yield Ask(query, replies, {"span": [float(span[0]), float(span[1])]})


def _conversation(id: str, row: Mapping[str, Any], end: float | None, poll: float) -> Asks:
    """PT. A query must be answered in a sample, so its silence is written as published: "<2>"."""
    name = f"{id}/0"
    turns = row.get("conversation")
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        yield Rejected(name, "conversation: must be a list of objects")
        return
    said = [turn.get("human") for turn in turns] + [turn.get("assistant") for turn in turns[:-1]]
    if not all(isinstance(text, str) for text in said) or "assistant" in turns[-1]:
        yield Rejected(name, "conversation: must be turns of human and assistant, and of human alone at its end")
    elif end is None:
        yield Rejected(name, _unknown(row))
    else:
        before = [(turn["human"], turn["assistant"]) for turn in turns[:-1]]
        query = Query(name, end, prompts.turns(before, turns[-1]["human"]), "PT")
        yield asked_once(query, SILENT, {"gold": SILENT})


def _unknown(row: Mapping[str, Any]) -> str:
    return f"{row['video']}: its duration is not known; give `durations`, or the folder of videos"


_ASKS: Mapping[str, Callable[[str, Mapping[str, Any], float | None, float], Asks]] = {
    "SG": _turns,
    "MD": _turns,
    "AP": _prediction,
    "SI": _speaker,
    "PA": _alert,
    "PT": _conversation,
}


def count_queries(annotations: Path) -> int:
    """Questions of SG, MD, AP and SI."""
    return sum(len(_ids(task, 0, row)) for task, rows in _files(Path(annotations), ASKED) for row in rows)


def count_proactive(annotations: Path) -> int:
    """Requests of PA and conversations of PT."""
    return sum(len(rows) for _, rows in _files(Path(annotations), PROACTIVE_TASKS))


# ---- Verdicts.


def strict(sample: Sample, query: Query, given: Sequence[Given]) -> list[Verdict]:
    credit, reason = judge_words(given, item_of(sample, query)["gold"])
    chance = 1 / len(query.options) if query.options else 0.0
    return [_verdict(sample, query, str(query.kind), credit, reason, shown(given), chance=chance)]


def strict_proactive(sample: Sample, query: Query, given: Sequence[Given]) -> list[Verdict]:
    """PA: one alert or more, all in the span. PT: silence; a reply that failed is not silence."""
    reason = unread(given)
    if query.kind == "PT":
        if any(not reply.failure for reply in given) and not reason.startswith("failed") and _silent(shown(given)):
            return [_verdict(sample, query, "PT", 1.0, "", shown(given))]
        if not given:
            reason = "not asked"  # whoever did not ask cannot say that it was silent
        return [_verdict(sample, query, "PT", 0.0, reason or "spoke", shown(given))]
    start, stop = item_of(sample, query)["span"]
    if not reason:
        alerts = _alerts(given)
        early, late = any(time < start for time in alerts), any(time > stop for time in alerts)
        reason = "too early" if early else "outside the span" if late else ""
    return [_verdict(sample, query, "PA", float(not reason), reason, shown(given))]


def official_proactive(sample: Sample, query: Query, given: Sequence[Given]) -> list[Verdict]:
    """PA: accuracy of the first alert, precision of all, IoU of [first, last]. PT: accuracy."""
    if query.kind == "PT":
        text = given[0].text if given else ""
        credit = official_silence(text)
        return [_verdict(sample, query, "PT", credit, "" if credit else "spoke", text)]
    start, stop = item_of(sample, query)["span"]
    return _alert_verdicts(sample, query, official_alerts(_alerts(given), start, stop), shown(given))


def official_silence(text: str) -> float:
    return float(text == "" or text.startswith(SILENT))


def official_alerts(alerts: Sequence[float], start: float, stop: float) -> tuple[float, float, float]:
    """Accuracy, precision and IoU of alerts (s, in order)."""
    if not alerts:
        return 0.0, 0.0, 0.0
    inside = sum(start <= time <= stop for time in alerts)
    begin, end = alerts[0], alerts[-1]
    union = max(end, stop) - min(begin, start)
    iou = max(0, min(end, stop) - max(begin, start)) / union if union else 0.0
    return float(start <= begin <= stop), inside / len(alerts), iou


def _alerts(given: Sequence[Given]) -> list[float]:
    """Times of replies. An alert at 0 s is none, as published."""
    return [reply.time for reply in given if reply.text.strip() and not reply.failure and int(reply.time) != 0]


def _silent(text: str) -> bool:
    return text.strip() in ("", SILENT)


def _alert_verdicts(sample: Sample, query: Query, credits: tuple[float, float, float], reply: str) -> list[Verdict]:
    return [
        _verdict(sample, query, task, credit, _why(credit), reply, part=part)
        for part, (task, credit) in enumerate(zip(("PA", PRECISION, IOU), credits, strict=True))
    ]


def _why(credit: float) -> str:
    return "" if credit == 1 else "partly right" if credit > 0 else "wrong"


def _verdict(
    sample: Sample,
    query: Query,
    task: str,
    credit: float,
    reason: str,
    reply: str,
    *,
    part: int = 0,
    chance: float = 0.0,
) -> Verdict:
    gold = SILENT if task == "PT" else ""
    return Verdict(
        sample.video.path, sample.id, query.id, task, credit, reply, reason, gold=gold, chance=chance, part=part
    )


# ---- Published result files: JSON lines, the annotations' rows with `pred`.


def results(annotations: Path, file: Path) -> tuple[list[Verdict], list[Verdict]]:
    """Verdicts of result files of PA or PT: by the official rule, over the rows of the file; strictly, over the rows of
    the annotations (a row that is missing, or there twice, is wrong). `pred` of PA is a list of seconds, or one time.
    """
    [(task, golds)] = list(_files(Path(annotations), PROACTIVE_TASKS)) if not Path(annotations).is_dir() else [("", [])]
    if not task:
        raise BenchmarkError(f"{annotations}: name the one annotation file that the results answer")
    rows = [(f"{file}:{number}", row) for number, row in load_lines(file)]
    said: dict[str, list[Any]] = {}
    judged = []
    for where, row in rows:
        needed: Types = {"video": TEXT, "pred": (list, int, float) if task == "PA" else TEXT}
        if not isinstance(row, dict) or (reason := problem(row, needed)):
            raise BenchmarkError(f"{where}: {reason if isinstance(row, dict) else 'must be an object'}")
        said.setdefault(_key(row), []).append(row["pred"])
        judged += _judged_row(task, row, row["pred"], _official_row, where)
    strictly = []
    for row in golds:
        preds = said.get(_key(row), [])
        if len(preds) == 1:
            strictly += _judged_row(task, row, preds[0], strict_proactive, str(annotations))
        else:
            sample, query = _stood(task, row, str(annotations))
            reason = "several rows" if preds else "not in the results"
            strictly.append(_verdict(sample, query, task, 0.0, reason, ""))
    return judged, strictly


def _key(row: Mapping[str, Any]) -> str:
    return f"{row['video']}\n{row.get('question', '')}"


def _stood(task: str, row: Mapping[str, Any], where: str) -> tuple[Sample, Query]:
    item: dict[str, JSON] = {"gold": SILENT}
    if task == "PA":
        span = row.get("answer")
        if not isinstance(span, list) or len(span) != 2 or not all(isinstance(t, (int, float)) for t in span):
            raise BenchmarkError(f"{where}: {row.get('video')}: answer: {span!r} is no span [start, end]")
        item = {"span": [float(span[0]), float(span[1])]}
    query = Query(_key(row), 0.0, "-", task)
    return stand_in(PROACTIVE_NAME, row["video"], query, item), query


def _judged_row(
    task: str,
    row: Mapping[str, Any],
    pred: Any,
    judge: Callable[[Sample, Query, Sequence[Given]], list[Verdict]],
    where: str,
) -> list[Verdict]:
    sample, query = _stood(task, row, where)
    if task == "PT":
        return judge(sample, query, [Given(0.0, pred)])
    times = pred if isinstance(pred, list) else [pred]
    if not all(isinstance(time, (int, float)) for time in times):
        raise BenchmarkError(f"{where}: pred: {pred!r} must be seconds")
    return judge(sample, query, [Given(float(time), NOW) for time in times])


def _official_row(sample: Sample, query: Query, given: Sequence[Given]) -> list[Verdict]:
    if query.kind == "PT":
        return official_proactive(sample, query, given)
    start, stop = item_of(sample, query)["span"]  # an alert at 0 s counts here: the script never left it out of a file
    return _alert_verdicts(sample, query, official_alerts([reply.time for reply in given], start, stop), "")


# ---- Totals.


def both(verdicts: Sequence[Verdict]) -> float:
    """Harmonic mean of the accuracies of PA and PT."""
    alerts, turns = only(["PA"])(verdicts), only(["PT"])(verdicts)
    return 2 * alerts * turns / (alerts + turns) if alerts + turns else 0.0


def chains(verdicts: Sequence[Verdict], task: str) -> float:
    """Share of the rows all of whose turns are right."""
    rows: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        if verdict.task == task:
            rows.setdefault(verdict.query.partition("/")[0], []).append(verdict)
    return sum(all(v.credit == 1 for v in row) for row in rows.values()) / len(rows) if rows else 0.0


BENCHMARK = Benchmark(
    name=NAME,
    source="OmniMMI/OmniMMI, omnimmi/*.json",
    licence="MIT",
    tested_on="real files",
    track="asked",
    read=read,
    strict=strict,
    official=None,
    totals={
        "SG": Total("share of the rows of SG all of whose turns are right", lambda found: chains(found, "SG")),
        "MD": Total("share of the rows of MD all of whose turns are right", lambda found: chains(found, "MD")),
        "AP": Total("share of right items of AP", only(["AP"])),
        "SI": Total("share of right items of SI", only(["SI"])),
        "micro": Total("share of right questions of SG, MD, AP and SI, each turn one", mean),
    },
    options={"segment_seconds": SEGMENTS, "durations": DURATIONS},
    count=count_queries,
    contains=("COIN", "YouCook2", "Ego4D", "YouTube"),
)

PROACTIVE = Benchmark(
    name=PROACTIVE_NAME,
    source="OmniMMI/OmniMMI, omnimmi/proactive_{alerting,turntaking}.json",
    licence="MIT",
    tested_on="real files",
    track="poll",
    read=read_proactive,
    strict=strict_proactive,
    official=official_proactive,
    totals={
        "PA and PT": Total(
            "harmonic mean of the accuracies of PA and PT: silence alone, or alarms alone, earn 0", both
        ),
        "PA": Total(
            "share of requests whose first alert lies in the span (strictly: all alerts, one or more)", only(["PA"])
        ),
        "PT": Total("share of conversations whose last turn is met with silence", only(["PT"])),
        PRECISION: Total("mean over requests of the share of alerts in the span (official alone)", only([PRECISION])),
        IOU: Total("mean over requests of the IoU of [first, last alert] and the span (official alone)", only([IOU])),
    },
    options={
        "segment_seconds": SEGMENTS,
        "durations": DURATIONS,
        "poll_seconds": "how often the model may speak (as segment_seconds, else 2)",
    },
    results=results,
    count=count_proactive,
    contains=("QVHighlights val",),
)
