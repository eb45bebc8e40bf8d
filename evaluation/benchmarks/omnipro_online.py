"""OmniPro online: the same rows as omnipro.py, but the question stands and silence is allowed.

Published models speak when they want; here the request is put every second (track poll, see windows.py).

`official` reproduces the published scorer (evaluators/online_evaluator.py, metrics/online/scorer.py): emissions at most
2 s after the one before are one, at the time of the first; each is matched to a trigger at most 3 s away, nearest pairs
first; then content is read out of it: a region, the first integer (which must be the count due when it is said), a
state. Alerts need no content; narration and steps need a language model, without whose verdicts (`official_judge`) they
are left out of joint F1. `strict` merges nothing, matches as many as can be, and wants the content and nothing else.

A model that speaks at every second has, merged, said one thing at the first second: see the intrusions of `strict`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.benchmarks import prompts
from evaluation.benchmarks.base import Benchmark, Given, Judge, Rejected, Total, Verdict
from evaluation.benchmarks.choices import records, seconds_of
from evaluation.benchmarks.omnipro import (
    ALERTS,
    COUNTS,
    GROUNDING,
    LICENCE,
    NARRATION,
    REGIONS,
    SNAPSHOT,
    SOURCE,
    STATES,
    TASKS,
    triggers,
)
from evaluation.benchmarks.reading import DURATIONS, SEGMENTS, Ask, duration_of, item_of, stream
from evaluation.benchmarks.windows import (
    TIMING,
    UNJUDGED,
    content,
    joint_f1,
    over_tasks,
    standing_ask,
    time_f1,
    window_verdicts,
)
from evaluation.proactive import Emission, Fit, Window, match_nearest
from rewards.parsing import normal, number
from whilst.sample import Query, Sample

NAME = "omnipro_online"
TOLERANCE, MERGE, PASS = 3.0, 2.0, 3  # s, s, and what a judge must give of 5
AFTERWARDS = 10.0  # s after the last trigger, where the duration is not known
READABLE = tuple(task for task in TASKS if task not in NARRATION)


def read(
    annotations: Path, videos: str = "", segment_seconds: float | None = None, durations: str | None = None
) -> Iterator[Sample | Rejected]:
    """One sample a row, since its history is of its own; the request is put every second from its time on."""
    known = duration_of(videos, durations)
    for row in records(annotations):
        times = triggers(row)
        asked = seconds_of(row.get("question_time", 0.0)) if isinstance(times, list) else 0.0
        if isinstance(times, str) or isinstance(asked, str):
            yield Rejected(str(row.get("id")), times if isinstance(times, str) else f"question_{asked}")
            continue
        length = known(row["video_path"]) or row.get("duration")
        end = float(length) if isinstance(length, (int, float)) and length > 0 else max(times) + AFTERWARDS
        if not asked <= min(times) or max(times) > end:
            yield Rejected(
                row["id"], f"ground_truth: a trigger is not between question_time, {asked:g} s, and {end:g} s"
            )
            continue
        ask = _ask(row, float(round(asked)), times, max(end, asked + 1.0))
        path = str(Path(videos, row["video_path"])) if videos else row["video_path"]
        yield from stream(NAME, row["id"], path, [ask], segment_seconds=segment_seconds)


def _ask(row: Mapping[str, Any], asked: float, times: Sequence[float], end: float) -> Ask:
    task, golds = row["task"], row["ground_truth"]
    item = {
        "task": task,
        "counts": [gold.get("count") for gold in golds],
        "positions": [gold.get("position") for gold in golds],
        "states": [gold.get("state_to") or gold.get("state") for gold in golds],
        "times": list(times),
    }
    windows = [
        Window(time, time, _told(task, k, gold)) for k, (time, gold) in enumerate(zip(times, golds, strict=True))
    ]
    return standing_ask(row["id"], asked, prompts.alert(row["question"]), task, windows, end, item)


def _told(task: str, k: int, gold: Mapping[str, Any]) -> str:
    """What a sample's answer says at a trigger: the content where it is a word or number, else the response."""
    if task == GROUNDING:
        return str(gold["position"])
    if task == STATES:
        return str(gold["state_to"])
    if task in (SNAPSHOT, *COUNTS):
        return str(gold.get("count", k + 1))
    return str(gold.get("response") or "now")


def count_queries(annotations: Path) -> int:
    """Requests of a file: its rows."""
    return len(records(annotations))


# ---- Content.


def _due(item: Mapping[str, Any], time: float) -> int | None:
    """The count that is due at a time: that of the last trigger by then."""
    passed = [
        (trigger, count)
        for trigger, count in zip(item["times"], item["counts"], strict=True)
        if count is not None and trigger <= time + 1e-6
    ]
    return int(max(passed)[1]) if passed else None


def official_says(item: Mapping[str, Any], emission: Emission, window: int) -> bool | None:
    """Whether an emission says what its trigger wants, by the published code; None: a language model must tell."""
    task, text = item["task"], emission.text
    if task in ALERTS:
        return True
    if task in NARRATION:
        return None
    if task == GROUNDING:
        return _region(text) == str(item["positions"][window]).lower().strip()
    if task == STATES:
        return text.strip().strip("'\"").lower().strip() == str(item["states"][window] or "").lower().strip() != ""
    cleaned = re.sub(r"\b\d{1,2}:\d{2}(?::\d{2})?\b", " ", text.strip())
    said = re.search(r"-?\d+", cleaned)
    wanted = item["counts"][window] if task == SNAPSHOT else _due(item, emission.time)
    return said is not None and wanted is not None and int(said[0]) == int(wanted)


def _region(text: str) -> str | None:
    anchored = re.search(r"position\s*:\s*([\w\-]+)", text.lower())
    if anchored and anchored[1] in REGIONS:
        return anchored[1]
    return next((region for region in sorted(REGIONS, key=len, reverse=True) if region in text.lower()), None)


def strict_says(item: Mapping[str, Any], emission: Emission, window: int) -> bool | None:
    """Whether an emission is what its trigger wants and nothing else. Alerts, narration and steps: time alone."""
    task = item["task"]
    if task in ALERTS:
        return True
    if task in NARRATION:
        return None
    if task == GROUNDING:
        return normal(emission.text) == item["positions"][window]
    if task == STATES:
        return normal(emission.text) == normal(str(item["states"][window]))
    wanted = item["counts"][window] if task == SNAPSHOT else _due(item, emission.time)
    return wanted is not None and number(emission.text) == float(wanted)


# ---- Verdicts.


def strict(sample: Sample, query: Query, given: Sequence[Given]) -> list[Verdict]:
    """Every emission counts; as many as can be are matched, within 3 s; content is read as a whole."""
    item = item_of(sample, query)
    finished = {one.time for one in given if one.finished}

    def says(emission: Emission, window: int) -> bool | None:
        return strict_says(item, emission, window) if emission.time in finished else False

    return window_verdicts(sample, query, given, fit=Fit(TOLERANCE, TOLERANCE), says=says)


def official_judge(score: Callable[[str, str, str], int] | None = None) -> Judge:
    """The published scorer. score(question, gold response, emission) -> 0 to 5 by a language model, for narration and
    steps: 3 is right. None: these are matched by time and left out of joint F1."""

    def judge(sample: Sample, query: Query, given: Sequence[Given]) -> list[Verdict]:
        item = item_of(sample, query)

        def says(emission: Emission, window: int) -> bool | None:
            found = official_says(item, emission, window)
            if found is None and score is not None:
                return score(query.text, str(item["windows"][window][2]), emission.text) >= PASS
            return found

        return window_verdicts(
            sample, query, given, fit=Fit(TOLERANCE, TOLERANCE), match=match_nearest, says=says, merge=MERGE
        )

    return judge


def joint(verdicts: Sequence[Verdict]) -> float:
    """Mean over tasks of joint F1; narration and steps only where their content was judged."""
    judged = [
        task
        for task in TASKS
        if task in READABLE
        or (
            any(v.reason in ("", "wrong") for v in verdicts if v.task == task)
            and not any(v.reason == UNJUDGED for v in verdicts if v.task == task)
        )
    ]
    return over_tasks(joint_f1, judged)(verdicts)


ONLINE = Benchmark(
    name=NAME,
    source=SOURCE,
    licence=LICENCE,
    tested_on="fixtures in the documented format",
    track="poll",
    read=read,
    strict=strict,
    official=official_judge(),
    totals={
        "joint_f1": Total(
            "mean over tasks of 2 x triggers answered within 3 s and rightly / (triggers + emissions); without "
            "narration and steps unless their content was judged",
            joint,
        ),
        "mean_time_f1": Total("mean over all tasks of time F1, +-3 s", over_tasks(time_f1)),
        "content": Total("mean over tasks that need no judge of the share of answered triggers that are right",
                         over_tasks(content, READABLE)),
        **TIMING,
    },
    options={"segment_seconds": SEGMENTS, "durations": DURATIONS},
    count=count_queries,
)  # fmt: skip
BENCHMARK = ONLINE
