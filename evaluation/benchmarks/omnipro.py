"""OmniPro: events to be noticed, counted and told in videos with sound; nine tasks, probed and online.
RuixiangZhao/OmniPro @16d0cc3 (arXiv 2605.18577).

    benchmark.json   [{id, task, video_id, video_path, duration, question, question_time: "MM:SS", event?, target?,
                     states?, ground_truth: [{trigger_time, trigger_time_sec, response?, count?, position?,
                     state_from?, state_to?}]}]

Seen: all of its code. Not seen: benchmark.json. 84% of it needs sound, which Whilst does not give.

Probed (this file, track asked): each trigger is asked about before (2 to 5 s, by task) and after (0 to 3 s), each time
with all since the start visible; a pair counts only if both are right. Narration and steps: one question with options.
The published offsets and orders of options come from `seed + hash(str)`, which is another in each process, so that
nobody can repeat them; here they come from a SHA-256 of seed and id, in the same order of draws: the same everywhere.

Online (omnipro_online.py, track poll): the question stands, and silence is allowed.

The words of the probes are ours. `official` reads replies as utils/prompts.py does (yes or no anywhere, the last
integer, ...); `strict` wants what is asked for and nothing else. Failed streams leave the official denominator, as
published.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.benchmarks import prompts
from evaluation.benchmarks.base import Benchmark, Given, Rejected, Total, Verdict, by_task, mean
from evaluation.benchmarks.choices import records, reply_of, seconds_of, streams
from evaluation.benchmarks.reading import (
    DURATIONS,
    LIST,
    SEGMENTS,
    TEXT,
    Ask,
    asked_once,
    duration_of,
    item_of,
    problem,
)
from evaluation.benchmarks.strict import judge_number, judge_option, judge_words, judge_yes_no, letters, shown, unread
from rewards.parsing import normal
from whilst.sample import Query, Sample

NAME = "omnipro"
ALERTS = ("instant_event_alert", "semantic_condition_alert")
GROUNDING, SNAPSHOT = "explicit_target_grounding", "snapshot_counting"
COUNTS = ("cumulative_counting", "dedup_counting")
STATES = "realtime_state_monitor"
NARRATION = ("event_narration", "sequential_step_instruction")
TASKS = (*ALERTS, GROUNDING, SNAPSHOT, *COUNTS, STATES, *NARRATION)
REGIONS = tuple(
    "center" if (row, column) == ("center", "center") else f"{row}-{column}"
    for row in ("top", "center", "bottom")
    for column in ("left", "center", "right")
)
SEED = 42
PRE, POST = (-5, -4, -3, -2), (0, 1, 2, 3)  # s from the trigger
PRE_OF = {"semantic_condition_alert": (-5,)}
POST_OF = {GROUNDING: (0,), SNAPSHOT: (1,), "sequential_step_instruction": (2,)}


# ---- Rows.


def triggers(row: Mapping[str, Any]) -> list[float] | str:
    """Trigger times (s) of a row, or what is wrong with the row."""
    fields = {"id": TEXT, "task": TEXT, "video_path": TEXT, "question": TEXT, "ground_truth": LIST}
    if reason := problem(row, fields):
        return reason
    if row["task"] not in TASKS:
        return f"task: {row['task']!r} is none of OmniPro's"
    if not row["ground_truth"]:
        return "ground_truth: is empty"
    if row["task"] == STATES and (not isinstance(row.get("states"), list) or len(row["states"]) < 2):
        return "states: must be two texts or more"
    needed = {
        GROUNDING: ("position",), SNAPSHOT: ("count",), STATES: ("state_from", "state_to"),
        **{task: ("response",) for task in NARRATION},
    }.get(row["task"], ())  # fmt: skip
    if row["task"] in NARRATION and len(row["ground_truth"]) > 26:
        return "ground_truth: over 26 responses; there are no letters for so many options"
    times = []
    for gold in row["ground_truth"]:
        if not isinstance(gold, dict) or any(gold.get(name) is None for name in needed):
            return f"ground_truth: {gold!r} lacks {', '.join(needed) or 'its fields'}"
        time = seconds_of(gold.get("trigger_time_sec", gold.get("trigger_time")))
        if isinstance(time, str):
            return f"ground_truth: trigger_{time}"
        if row["task"] == GROUNDING and gold["position"] not in REGIONS:
            return f"ground_truth: position: {gold['position']!r} is none of {', '.join(REGIONS)}"
        if row["task"] == STATES and not {gold["state_from"], gold["state_to"]} <= set(row["states"]):
            return "ground_truth: state_from, state_to: must be among `states`"
        times.append(time)
    return times


def draws(seed: int, id: str) -> random.Random:
    """The source of a row's offsets and order of options: the same in every process and on every machine."""
    return random.Random(int.from_bytes(hashlib.sha256(f"{seed}:{id}".encode()).digest()[:8], "big"))


def count_queries(annotations: Path) -> int:
    """Probes of a file: two a trigger, one in narration and steps; one for a row whose triggers cannot be told."""
    total = 0
    for row in records(annotations):
        golds = row.get("ground_truth")
        each = 1 if row.get("task") in NARRATION else 2
        total += len(golds) * each if isinstance(golds, list) and golds and row.get("task") in TASKS else 1
    return total


# ---- Probes.


def read(
    annotations: Path,
    videos: str = "",
    segment_seconds: float | None = None,
    durations: str | None = None,
    seed: int = SEED,
) -> Iterator[Sample | Rejected]:
    """One sample a video, with the probes of all its rows in order of time."""
    known = duration_of(videos, durations)
    by_video: dict[str, list[Ask]] = {}
    for row in records(annotations):
        times = triggers(row)
        if isinstance(times, str):
            golds = row.get("ground_truth")
            whole = isinstance(golds, list) and golds and row.get("task") in TASKS
            count = len(golds) * (1 if row["task"] in NARRATION else 2) if whole and isinstance(golds, list) else 1
            yield from (Rejected(f"{row.get('id')}/{i}", times) for i in range(count))
            continue
        length = known(row["video_path"]) or row.get("duration")
        end = float(length) if isinstance(length, (int, float)) and length > 0 else None
        by_video.setdefault(row["video_path"], []).extend(_probes(row, times, end, int(seed)))
    yield from streams(NAME, by_video, videos=videos, segment_seconds=segment_seconds, end=known)


def _probes(row: Mapping[str, Any], times: Sequence[float], end: float | None, seed: int) -> Iterator[Ask]:
    task, rng = row["task"], draws(seed, row["id"])
    order = list(range(len(times)))
    if task in NARRATION:
        rng.shuffle(order)  # option j is the response of trigger order[j]
    for k, time in enumerate(times):
        if task not in NARRATION:
            before = rng.choice(PRE_OF.get(task, PRE))
            yield _probe(row, k, "pre", _at(time + before, end), order)
        yield _probe(row, k, "post", _at(time + rng.choice(POST_OF.get(task, POST)), end), order)


def _at(time: float, end: float | None) -> float:
    """When a probe is put: at a whole second, from 1 on and not after the end, as the clips are cut."""
    return float(int(min(max(1.0, time), end if end is not None else time + 1)))


def _probe(row: Mapping[str, Any], k: int, probe: str, time: float, order: Sequence[int]) -> Ask:
    task, gold = row["task"], row["ground_truth"][k]
    id = f"{row['id']}/{k}/{probe}"
    item = {"task": task, "probe": probe}
    happened = str(row.get("event") or row["question"]).strip()
    earlier = f" It has happened {k} times before; those do not count." if k else ""
    asked = f"Has this just happened in the video: {happened}?{earlier}"
    options = None
    if task in NARRATION:
        options = [str(row["ground_truth"][j]["response"]) for j in order]
        text, answer = prompts.choice(row["question"], options), letters(len(options))[order.index(k)]
        item |= {"options": options, "gold": answer, "golds": [order.index(k)]}
    elif task == STATES:
        text = prompts.words(f"{row['question'].strip()} Which state is it at this moment?", row["states"])
        answer = gold["state_from"] if probe == "pre" else gold["state_to"]
        item |= {"states": row["states"], "gold": answer}
    elif task in COUNTS:
        text = f"{row['question'].strip()}\nHow many so far? Reply with a number alone."
        answer = str(k if probe == "pre" else k + 1)
        item |= {"gold": answer}
    else:
        wanted, more = "", ""
        if task == GROUNDING:
            where = row.get("target") or "the target"
            wanted, more = gold["position"], f", and where {where} is: one of {', '.join(REGIONS)}; as in yes: top-left"
        elif task == SNAPSHOT:
            wanted, more = str(gold["count"]), f", and the number of {row.get('target') or 'them'}; as in yes: 5"
        text = f"{asked}\nReply with no alone, or with yes{more}." if more else f"{asked}\nReply with yes or no alone."
        answer = "no" if probe == "pre" else f"yes: {wanted}" if wanted else "yes"
        item |= {"gold": answer, "wanted": wanted}
    return asked_once(Query(id, time, text, task, tuple(options) if options else None), answer, item)


# ---- How the published code reads a reply. Faults are theirs.


def says_yes(reply: str) -> bool:
    """Whether yes stands in it as a word, and no "no" before it."""
    yes, no = (re.search(rf"\b{word}\b", reply.strip(), re.IGNORECASE) for word in ("yes", "no"))
    return yes is not None and (no is None or yes.start() < no.start())


def without_times(reply: str) -> str:
    """Without 1:05, 01:02:03 and a trailing "1:", whose digits are no counts."""
    reply = re.sub(r"\b\d{1,2}:\d{2}(?::\d{2})?\b[.,]?", " ", reply)
    return re.sub(r"\b\d{1,2}:(?=\D|$)", " ", reply)


_COUNT_PHRASES = (
    r"(?:a\s+)?total\s+of\s+(\d+)", r"\b(\d+)\s+times?\b", r"(?:answer|count|total|number)\s*(?:is|:|=)\s*(\d+)",
    r"(?:reply|response)\s*(?:is|:)\s*['\"]?(\d+)", r":\s*(\d+)\s*[\.\)]?\s*$",
)  # fmt: skip


def count_in(reply: str) -> int | None:
    """A number alone, else one in a telling phrase, else the last."""
    if alone := re.match(r"^\s*(\d+)\s*[\.\)]?\s*$", reply.strip()):
        return int(alone[1])
    text = without_times(reply.strip())
    for phrase in _COUNT_PHRASES:
        if found := re.search(phrase, text, re.IGNORECASE):
            return int(found[1])
    numbers = re.findall(r"\d+", text)
    return int(numbers[-1]) if numbers else None


def region_in(reply: str) -> str | None:
    """After "position", else the longest region that stands anywhere."""
    text = reply.strip().lower()
    anchored = re.search(r"position\s*[:\-]?\s*([a-z\-]+)", text)
    if anchored and (region := anchored[1].strip().rstrip(".,;")) in REGIONS:
        return region
    return next((region for region in sorted(REGIONS, key=len, reverse=True) if region in text), None)


def state_in(reply: str, states: Sequence[str]) -> str | None:
    """A state alone, else the longest that stands anywhere."""
    text = reply.strip().lower().strip(' \n\t".,;:!?')
    if alone := next((state for state in states if state.lower() == text), None):
        return alone
    return next((state for state in sorted(states, key=lambda one: -len(one)) if state.lower() in text), None)


_LETTER_PHRASES = (
    r"answer\s*(?:is|:)\s*([A-Z])\b", r"correct\s*answer\s*(?:is|:)\s*([A-Z])\b", r"\boption\s+([A-Z])\b",
    r"\bchoice\s+([A-Z])\b", r"response\s*(?:is|:)\s*([A-Z])\b", r"\bselect\s+([A-Z])\b", r"^\s*([A-Z])\s*[:\.\)]",
)  # fmt: skip


def letter_in(reply: str) -> str | None:
    """A letter alone, in parentheses, in a telling phrase, else the first capital that is a word (not I; A only where
    something beside it says so)."""
    text = reply.strip()
    if found := re.match(r"^\s*\(?([A-Z])\)?[\s\.\):,;!?]*$", text) or re.search(r"\(([A-Z])\)", text):
        return found[1]
    for phrase in _LETTER_PHRASES:
        if found := re.search(phrase, text, re.IGNORECASE):
            return found[1].upper()
    for word in re.finditer(r"\b([A-Z])\b", text):
        around = text[max(0, word.start() - 6) : word.start() + 6]
        told = re.search(rf"(option|choice|answer|\(|\)|\.)\s*{word[1]}\b", around, re.IGNORECASE)
        if told or word[1] not in "IA":
            return word[1]
    return None


def official_right(reply: str, item: Mapping[str, Any]) -> bool:
    """Whether a reply to a probe is right by the published code."""
    task, gold = item["task"], item["gold"]
    if task in NARRATION:
        return letter_in(reply) == gold
    if task == STATES:
        said = state_in(reply, item["states"])
        return said is not None and said.lower() == gold.lower()
    if task in COUNTS:
        return count_in(reply) == int(gold)
    if item["probe"] == "pre":
        return not says_yes(reply)
    if not says_yes(reply) or task not in (GROUNDING, SNAPSHOT):
        return says_yes(reply)
    if task == GROUNDING:
        return region_in(reply) == item["wanted"]
    numbers = re.findall(r"\d+", without_times(reply.strip()))
    return bool(numbers) and int(numbers[0]) == int(item["wanted"])


# ---- Verdicts: one a probe. A pair is the probes of one trigger.


def _verdict(sample: Sample, query: Query, credit: float, reason: str, reply: str, counted: bool = True) -> Verdict:
    item = item_of(sample, query)
    known = {STATES: len(item.get("states", ())), **{task: len(item.get("options", ())) for task in NARRATION}}
    chance = 0.5 if item["task"] in ALERTS else 1 / known[item["task"]] if known.get(item["task"]) else 0.0
    return Verdict(
        sample.video.path, sample.id, query.id, item["task"], credit, reply, reason, counted, gold=item["gold"],
        chance=chance,
    )  # fmt: skip


def strict(sample: Sample, query: Query, given: Sequence[Given]) -> list[Verdict]:
    """The whole reply is what the probe asks for."""
    item = item_of(sample, query)
    task, gold = item["task"], item["gold"]
    if task in NARRATION:
        credit, reason = judge_option(given, item["options"], item["golds"])
    elif task == STATES:
        credit, reason = judge_words(given, gold)
    elif task in COUNTS:
        credit, reason = judge_number(given, float(gold))
    elif not item["wanted"]:
        credit, reason = judge_yes_no(given, gold == "yes")
    else:
        reason = unread(given)
        right = not reason and _plain(shown(given)) == _plain(gold)
        credit, reason = float(right), reason or ("" if right else "wrong")
    return [_verdict(sample, query, credit, reason, shown(given))]


def _plain(text: str) -> str:
    """ "Yes: top-left." and "yes, top-left" are one."""
    return " ".join(normal(text).replace(":", " ").replace(",", " ").split())


def official(sample: Sample, query: Query, given: Sequence[Given]) -> list[Verdict]:
    """By the published code; a probe of a failed stream is not counted."""
    text = reply_of(given)
    failed = any(reply.failure for reply in given)
    right = official_right(text or "", item_of(sample, query))
    return [_verdict(sample, query, float(right and not failed), "" if right else "wrong", text or "", not failed)]


def paired(verdicts: Sequence[Verdict]) -> float:
    """Share of triggers whose probes are all right (one in narration and steps, else two)."""
    pairs: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in verdicts:
        pairs.setdefault((verdict.sample, verdict.query.rpartition("/")[0]), []).append(verdict)
    whole = [all(one.credit == 1 for one in pair) for pair in pairs.values() if all(one.counted for one in pair)]
    return sum(whole) / len(whole) if whole else 0.0


def mean_of_tasks_paired(verdicts: Sequence[Verdict]) -> float:
    """Mean over tasks of `paired`."""
    means = [paired(of_task) for of_task in by_task(verdicts).values()]
    return sum(means) / len(means) if means else 0.0


def _probes_of(probe: str, verdicts: Sequence[Verdict]) -> float:
    return mean([verdict for verdict in verdicts if verdict.query.endswith(f"/{probe}")])


def _task_total(task: str) -> Total:
    return Total(
        f"share of triggers of {task} whose probes are all right",
        lambda verdicts: paired([verdict for verdict in verdicts if verdict.task == task]),
    )


SOURCE = "RuixiangZhao/OmniPro (data: omniproact-bench/OmniPro, benchmark.json)"
LICENCE = "data CC BY-NC 4.0, code MIT"

BENCHMARK = Benchmark(
    name=NAME,
    source=SOURCE,
    licence=LICENCE,
    tested_on="fixtures in the documented format",
    track="asked",
    read=read,
    strict=strict,
    official=official,
    totals={
        "paired": Total(
            "mean over tasks of the share of triggers whose probes (before and after) are all right; offsets by a"
            " stable hash, not the published ones",
            mean_of_tasks_paired,
        ),
        "pre": Total("share of right probes before triggers (silence wins it)", lambda v: _probes_of("pre", v)),
        "post": Total("share of right probes after triggers", lambda v: _probes_of("post", v)),
        **{task: _task_total(task) for task in TASKS},
    },
    options={"segment_seconds": SEGMENTS, "durations": DURATIONS, "seed": f"of the offsets; {SEED} by default"},
    count=count_queries,
)
