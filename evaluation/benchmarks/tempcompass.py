"""TempCompass: one temporal aspect of a short clip, in several formats, the whole clip visible. llyx97/TempCompass.

    questions/{multi-choice, yes_no, caption_matching, captioning}.json
        {video: {aspect: [{question, answer}]}}; aspects action, direction, speed, order, attribute_change
        multi-choice       "What ...?\\nA. running\\nB. swimming", "B. swimming"
        yes_no             "Is the child running?", "no"
        caption_matching   "Which ...?\\nOption 1: ...\\nOption 2: ...", "Option 2: ..." (also Caption A:, Sentence A:)

Seen: all of it (@87d5cf3, @ff5faec). `annotations` is the folder `questions`, or one of its files. A question is put at
the end of its clip, <video>.mp4: durations must be given, or the clips be there. Captioning is judged by a language
model alone, so its rows are rejected; `captioning_rating` is the published reading of what such a judge says.

`official` reproduces the rules of eval_{multi-choice, yes_no, caption_matching}.py as with --disable_llm: a reply that
no rule reads is wrong ("no rule matches"; otherwise ChatGPT decides). Match Success Rate: the share of the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.benchmarks import prompts
from evaluation.benchmarks.base import Benchmark, BenchmarkError, Given, Rejected, Total, Verdict, by_task, mean
from evaluation.benchmarks.choices import choice_ask, files_of, reply_of, streams
from evaluation.benchmarks.reading import (
    DURATIONS,
    SEGMENTS,
    TEXT,
    Ask,
    asked_once,
    duration_of,
    item_of,
    load_json,
    problem,
)
from evaluation.benchmarks.strict import CUT_OFF, SILENT, judge_option, judge_yes_no, option, shown, unread
from whilst.sample import Query, Sample

NAME = "tempcompass"
FORMATS = ("multi-choice", "yes_no", "caption_matching")
CAPTIONING = "captioning"
ASPECTS = ("action", "direction", "speed", "order", "attribute_change")
UNMATCHED = "no rule matches"
# reasons of both judges that mean: the reply could not be read
_UNREAD = (UNMATCHED, "not one of the options", "neither yes nor no", SILENT, CUT_OFF)

_LINE = {
    "multi-choice": re.compile(r"(?P<label>[A-D])\. (?P<text>.+)"),
    "caption_matching": re.compile(r"(?P<label>(?:Option|Caption|Sentence) [12AB]): (?P<text>.+)"),
}


def read(
    annotations: Path, videos: str = "", segment_seconds: float | None = None, durations: str | None = None
) -> Iterator[Sample | Rejected]:
    """One sample a clip, with its questions of all formats at its end."""
    seconds = duration_of(videos, durations)
    by_video: dict[str, list[Ask]] = {}
    for format, video, aspect, number, row in _rows(annotations):
        id, name = f"{video}/{format}/{aspect}/{number}", f"{video}.mp4"
        if format == CAPTIONING:
            yield Rejected(id, "captions are judged by a language model; see captioning_rating")
            continue
        if reason := problem(row, {"question": TEXT, "answer": TEXT}) if isinstance(row, dict) else "no object":
            yield Rejected(id, reason)
            continue
        end = seconds(name)
        if end is None:
            yield Rejected(id, f"{name}: its duration is not known; give `durations`, or the folder of videos")
            continue
        ask = _ask(id, end, f"{format}/{aspect}", format, row["question"], row["answer"])
        if isinstance(ask, Rejected):
            yield ask
        else:
            by_video.setdefault(name, []).append(ask)
    yield from streams(NAME, by_video, videos=videos, segment_seconds=segment_seconds, end=seconds)


def _rows(path: Path) -> Iterator[tuple[str, str, str, int, Any]]:
    """Format, video, aspect, number and row of every question."""
    for file in files_of(path):
        if file.stem not in (*FORMATS, CAPTIONING):
            raise BenchmarkError(f"{file}: name: must be one of {', '.join((*FORMATS, CAPTIONING))}.json")
        found = load_json(file)
        if not isinstance(found, dict) or not found:
            raise BenchmarkError(f"{file}: must be an object of videos; name a file of questions/")
        for video, aspects in found.items():
            if not isinstance(aspects, dict) or not set(aspects) <= set(ASPECTS):
                raise BenchmarkError(f"{file}: {video}: must be an object of {', '.join(ASPECTS)}")
            for aspect, rows in aspects.items():
                if not isinstance(rows, list):
                    raise BenchmarkError(f"{file}: {video}: {aspect}: must be a list of questions")
                for number, row in enumerate(rows):
                    yield file.stem, video, aspect, number, row


def count_queries(annotations: Path) -> int:
    """Questions of a file or folder, captioning among them."""
    return sum(1 for _ in _rows(annotations))


def _ask(id: str, time: float, task: str, format: str, question: str, answer: str) -> Ask | Rejected:
    told: dict[str, Any] = {"format": format, "question": question, "answer": answer}
    if format == "yes_no":
        if answer not in ("yes", "no"):
            return Rejected(id, f"answer: {answer!r} is neither yes nor no")
        query = Query(id, time, f"{question.strip()}\nReply with yes or no alone.", task)
        return asked_once(query, answer, told)
    asked, *lines = question.split("\n")
    found = [_LINE[format].fullmatch(line) for line in lines]
    if len(lines) < 2 or not all(found):
        return Rejected(id, f"question: its options are not written as {format} has them: {lines}")
    if lines.count(answer) != 1:  # whole lines, which begin with their label: no two are alike
        return Rejected(id, f"answer: {answer!r} is no line of the question")
    told["labels"] = [line["label"] for line in found if line]
    texts = [line["text"] for line in found if line]
    text = prompts.choice(asked, texts) if format == "multi-choice" else prompts.words(asked, lines)
    return choice_ask(id, time, asked, texts, lines.index(answer), task, told, text=text)


# ---- The published rules: 1, 0, or None where none matches. Faults are theirs.


def rule_multi_choice(said: str, answer: str) -> int | None:
    if said == answer:
        return 1
    if said in ("A", "B", "C", "D") or said.startswith(("A.", "B.", "C.", "D.", "A)", "B)", "C)", "D)")):
        return int(said[0] == answer[0])
    return None


def rule_yes_no(said: str, answer: str) -> int | None:
    """By how the reply begins, so that "nothing of the kind" is no."""
    begins = next((word for word in ("yes", "no") if said.lower().startswith(word)), None)
    return None if begins is None else int(begins == answer)


def rule_caption_matching(said: str, question: str, answer: str) -> int | None:
    """The last that matches of: a line, its text (also after ") "), its label (also without full stops)."""
    lines = question.split("\n")[1:]
    texts = [line.split(": ")[1] for line in lines]
    labels = [line.split(": ")[0] for line in lines]
    after = said.split(") ")[1] if ") " in said else None
    matches = [line for line in lines if line == said]
    matches += [text for text in texts if text in (said, after)]
    matches += [label for label in labels if label in (said, said.replace(".", ""))]
    if not matches:
        return None
    return int(matches[-1] in (answer, answer.split(":")[0], answer.split(": ")[1]))


def captioning_rating(judged: str, answer: str) -> int:
    """1 or 0 for a caption, from what a language model says that was asked which answer the caption gives: the
    published reading. -1: the judge said nothing; published sums take it as it is."""
    if not judged or judged == "invalid_request_error":
        return -1
    told = [line.strip() for line in judged.split("\n") if "Answer" in line]
    said = told[-1].replace("Answer:", "").strip() if told else judged
    one = sum(said.count(f"{letter}.") for letter in "ABCD") == 1
    return int(one and said.split(". ")[0] == answer.split(". ")[0])


# ---- Verdicts.


def strict(sample: Sample, query: Query, given: Sequence[Given]) -> list[Verdict]:
    """The whole reply is the right option (a caption: its line, its name or its words), or yes or no."""
    item = item_of(sample, query)
    if item["format"] == "yes_no":
        credit, reason = judge_yes_no(given, item["answer"] == "yes")
    elif item["format"] == "multi-choice":
        credit, reason = judge_option(given, item["options"], item["golds"])
    else:
        credit, reason = _strict_caption(given, item)
    return [_verdict(sample, query, credit, reason, shown(given))]


def _strict_caption(given: Sequence[Given], item: Mapping[str, Any]) -> tuple[float, str]:
    if reason := unread(given):
        return 0.0, reason
    lines = [f"{label}: {text}" for label, text in zip(item["labels"], item["options"], strict=True)]
    found = (option(shown(given), known) for known in (lines, item["labels"], item["options"]))
    said = next((index for index in found if index is not None), None)
    if said is None:
        return 0.0, "not one of the options"
    return (1.0, "") if said in item["golds"] else (0.0, "wrong")


def official(sample: Sample, query: Query, given: Sequence[Given]) -> list[Verdict]:
    item, reply = item_of(sample, query), reply_of(given)
    said = (reply or "").replace("</s>", "")
    if item["format"] == "yes_no":
        rating = rule_yes_no(said, item["answer"])
    elif item["format"] == "multi-choice":
        rating = rule_multi_choice(said, item["answer"])
    else:
        rating = rule_caption_matching(said, item["question"], item["answer"])
    reason = UNMATCHED if rating is None else "" if rating else "wrong"
    return [_verdict(sample, query, float(rating or 0), reason, reply or "")]


def _verdict(sample: Sample, query: Query, credit: float, reason: str, reply: str) -> Verdict:
    item = item_of(sample, query)
    count = len(item["options"]) if "options" in item else 2
    gold = item["answer"] if item["format"] == "yes_no" else item["labels"][item["golds"][0]]
    return Verdict(
        sample.video.path, sample.id, query.id, str(query.kind), credit, reply, reason, gold=gold, chance=1 / count
    )


# ---- Totals.


def _of_format(format: str, verdicts: Sequence[Verdict]) -> list[Verdict]:
    return [verdict for verdict in verdicts if verdict.task.startswith(f"{format}/")]


def mean_of_formats(verdicts: Sequence[Verdict]) -> float:
    """Mean over the formats that are there of their micro accuracies."""
    means = [mean(of_format) for format in FORMATS if (of_format := _of_format(format, verdicts))]
    return sum(means) / len(means) if means else 0.0


def match_success(verdicts: Sequence[Verdict]) -> float:
    """Share of replies that could be read."""
    read = [v.reason not in _UNREAD and not v.reason.startswith("failed") for v in verdicts]
    return sum(read) / len(read) if read else 0.0


def _aspect(name: str, verdicts: Sequence[Verdict]) -> float:
    return mean([v for task, of in by_task(verdicts).items() if task.endswith(f"/{name}") for v in of])


def _micro(format: str) -> Total:
    return Total(
        f"share of right items among the questions of {format}", lambda verdicts: mean(_of_format(format, verdicts))
    )


def _by_aspect(aspect: str) -> Total:
    return Total(
        f"share of right items among the questions about {aspect}, of all formats",
        lambda verdicts: _aspect(aspect, verdicts),
    )


BENCHMARK = Benchmark(
    name=NAME,
    source="llyx97/TempCompass, questions/*.json",
    licence="CC BY-NC 4.0",
    tested_on="fixtures in the documented format",
    track="asked",
    read=read,
    strict=strict,
    official=official,
    totals={
        "mean_of_formats": Total(
            "mean of the micro accuracies of multi-choice, yes_no and caption_matching (ours; each is published apart)",
            mean_of_formats,
        ),
        **{format: _micro(format) for format in FORMATS},
        **{aspect: _by_aspect(aspect) for aspect in ASPECTS},
        "match_success_rate": Total("share of replies that the rule could read", match_success),
    },
    options={"segment_seconds": SEGMENTS, "durations": DURATIONS},
    count=count_queries,
)
