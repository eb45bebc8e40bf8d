"""Inf-Streams-Eval: commentary of whole games, two hours each. mit-han-lab/streaming-vlm @a940d8c (arXiv 2510.09608).

    *.jsonl   {video, title, content: [[start, end, text], ...]}   times in seconds; one window of 100 s a line in the
                                                                   scorer's file, one game a line in the generator's
    verdicts  {video, start, end, votes: {A, B}, judge: {vote_ab, vote_ba}}   one a window, of two models A and B

Seen: the generator, judge and scorer (a public copy), and what fields they read. Not seen: the files.
A request for commentary stands from the first window on, and the model may speak at every second; what the reference
says at a second is the sample's answer there. One sample a video; a line is a window [start of its first phrase, end of
its last].

The published score is the share of a language model's votes for A against B, both orders pooled (`win_rate`), so there
is no `official` judge of replies. One order alone is worthless: `order_consistency` is the share of windows whose
winner stays when the order turns. `strict` is timing alone: whether anything is said in a window. Lines are windows and
not queries, so there is no `count`: windows read and lines rejected add up to the lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.benchmarks import prompts
from evaluation.benchmarks.base import Benchmark, BenchmarkError, Given, Rejected, Total, Verdict, mean
from evaluation.benchmarks.choices import records, streams
from evaluation.benchmarks.reading import DURATIONS, LIST, SEGMENTS, TEXT, Ask, duration_of, item_of, problem
from evaluation.benchmarks.strict import CUT_OFF, SILENT
from evaluation.benchmarks.windows import standing_ask
from evaluation.proactive import Figure, Window
from whilst.sample import Query, Sample
from whilst.timeline import is_seconds

NAME = "inf_streams"
REQUEST = "Comment on this game live, as it happens."


def read(
    annotations: Path, videos: str = "", segment_seconds: float | None = None, durations: str | None = None
) -> Iterator[Sample | Rejected]:
    """One sample a video, with all its windows and one request."""
    known = duration_of(videos, durations)
    by_video: dict[str, list[tuple[dict[str, Any], list[Window]]]] = {}
    for number, row in enumerate(records(annotations)):
        phrases = _phrases(row, known)
        if isinstance(phrases, str):
            yield Rejected(f"{row.get('video')}/{number}", phrases)
        else:
            by_video.setdefault(row["video"], []).append((row, phrases))
    asks: dict[str, list[Ask]] = {}
    for video, rows in by_video.items():
        phrases = sorted(phrase for _, of_row in rows for phrase in of_row)
        spans = sorted((int(of_row[0].start), int(of_row[-1].end)) for _, of_row in rows)
        start, end = float(spans[0][0]), max(phrase.end for phrase in phrases)
        said = [Window(phrase.end, phrase.end, phrase.text) for phrase in phrases]  # said when it has been seen
        item = {"spans": [list(span) for span in spans], "title": rows[0][0].get("title", "")}
        ask = standing_ask(Path(video).stem, start, prompts.alert(REQUEST), NAME, said, end, item)
        asks[video] = [ask]
    yield from streams(NAME, asks, videos=videos, segment_seconds=segment_seconds, end=known)


def _phrases(row: Mapping[str, Any], known: Any) -> list[Window] | str:
    if reason := problem(row, {"video": TEXT, "content": LIST}):
        return reason
    if not row["content"]:
        return "content: is empty"
    end = known(row["video"])
    found = []
    for phrase in row["content"]:
        if not isinstance(phrase, list) or len(phrase) < 3 or not isinstance(phrase[2], str) or not phrase[2].strip():
            return f"content: {phrase!r} is no [start, end, text]"
        if not is_seconds(phrase[0]) or not is_seconds(phrase[1]) or not phrase[0] <= phrase[1]:
            return f"content: {phrase!r}: start and end must be seconds, in this order"
        if end is not None and phrase[1] > end:
            return f"content: {phrase!r} ends after the video, at {end:g} s"
        found.append(Window(float(phrase[0]), float(phrase[1]), phrase[2].strip()))
    if found[-1].end - found[0].start < 1:
        return "content: covers less than a second"
    return found


# ---- What a judge is shown.


def commentary(given: Iterable[Given], start: float, end: float) -> str:
    """What was said in a window, joined: replies whose whole second lies in (start, end], as the scorer cuts them."""
    said = sorted((one for one in given if not one.failure and one.text.strip()), key=lambda one: one.time)
    return " ".join(one.text.strip() for one in said if start < int(one.time) <= end)


# ---- Timing alone.


def strict(sample: Sample, query: Query, given: Sequence[Given]) -> list[Verdict]:
    """One verdict a window: whether anything is said in it. Content is not looked at."""
    failed = next((one.failure for one in given if one.failure), "")
    verdicts = []
    for part, (start, end) in enumerate(item_of(sample, query)["spans"]):
        said = commentary([one for one in given if one.finished], start, end)
        cut = commentary(given, start, end)
        reason = f"failed: {failed}" if failed else "" if said else CUT_OFF if cut else SILENT
        verdicts.append(
            Verdict(sample.video.path, sample.id, query.id, NAME, float(not reason), cut, reason, part=part)
        )
    return verdicts


# ---- Win rates, from a judge's votes.


def _votes(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The last verdict of each window; raises BenchmarkError for one without two votes."""
    last: dict[tuple[Any, Any, Any], Mapping[str, Any]] = {}
    for row in rows:
        judge = row.get("judge")
        if not isinstance(judge, Mapping) or any(judge.get(name) not in ("A", "B") for name in ("vote_ab", "vote_ba")):
            raise BenchmarkError(
                f"{row.get('video')}: judge: must have vote_ab and vote_ba, each A or B (the winner's name)"
            )
        last[row.get("video"), row.get("start"), row.get("end")] = row
    return list(last.values())


def win_rate(rows: Sequence[Mapping[str, Any]], model: str = "A") -> dict[str, Figure]:
    """Figures of a judge's votes on windows, for model "A" or "B". vote_ab is the winner where A was shown first,
    vote_ba where B was; both name the winner, not the place.

    win_rate (micro, as published; LiveSports-3K-CC's wins over 2 N is the same), wins by where it was shown, consistent
    wins, and the share of windows whose winner changes with the order.
    """
    votes = _votes(rows)
    n = len(votes)
    first, second = ("vote_ab", "vote_ba") if model == "A" else ("vote_ba", "vote_ab")

    def share(count: int, whole: int, definition: str) -> Figure:
        return Figure(count / whole if whole else None, f"{definition}; {n} windows, model {model}")

    won = [[row["judge"][order] == model for order in (first, second)] for row in votes]
    return {
        "win_rate": share(sum(map(sum, won)), 2 * n, "votes won / all votes, both orders pooled"),
        "win_rate_shown_first": share(sum(pair[0] for pair in won), n, "votes won where it was shown first"),
        "win_rate_shown_second": share(sum(pair[1] for pair in won), n, "votes won where it was shown second"),
        "consistent_wins": share(sum(all(pair) for pair in won), n, "windows won in both orders"),
        "order_consistency": share(
            sum(pair[0] == pair[1] for pair in won), n, "windows with the same winner in both orders"
        ),
    }


def win_rate_by_video(rows: Sequence[Mapping[str, Any]], model: str = "A") -> dict[str, dict[str, Figure]]:
    """`win_rate` of each video: windows of one game are not independent."""
    videos: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        videos.setdefault(str(row.get("video")), []).append(row)
    return {video: win_rate(of_video, model) for video, of_video in videos.items()}


BENCHMARK = Benchmark(
    name=NAME,
    source="mit-han-lab/streaming-vlm, Inf-Streams-Eval",
    licence="MIT",
    tested_on="fixtures in the documented format",
    track="poll",
    read=read,
    strict=strict,
    official=None,
    totals={
        "spoken": Total("share of windows in which anything is said: timing alone; published scores need a judge", mean)
    },
    options={"segment_seconds": SEGMENTS, "durations": DURATIONS},
    contains=("YouTube",),
)
