"""What readers of questions with options share: rows of any file type, times, gold letters, verdicts.

The gold is an index, noted by query id when the row is read, and never looked up by text afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.benchmarks import prompts
from evaluation.benchmarks.base import BenchmarkError, Given, Judge, Rejected, Verdict
from evaluation.benchmarks.reading import Ask, asked_once, item_of, load_json, load_lines, objects, stream
from evaluation.benchmarks.strict import judge_option, letters, shown
from whilst.sample import Query, Sample
from whilst.timeline import is_seconds

CONTEXT = "how much before a query is visible, in seconds; none: all since the start"
LATER = 1.0  # s by which a time may pass the video's end: annotations round

_LABEL = re.compile(r"\(?([A-Z])[.):]\s*(?=\S)")
# credit, reason, whether it stands in the denominator
Ruled = tuple[float, str, bool]


def records(path: Path) -> list[dict[str, Any]]:
    """The rows of a .parquet, .jsonl or .json file (one list of objects). Raises BenchmarkError naming the file."""
    path = Path(path)
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        except (pa.ArrowInvalid, OSError) as error:
            raise BenchmarkError(f"{path}: no Parquet file ({error}); name the published file") from error
        return rows
    if path.suffix == ".jsonl":
        return objects([row for _, row in load_lines(path)], str(path))
    return objects(load_json(path), str(path))


def files_of(path: Path, suffix: str = ".json") -> list[Path]:
    """The file itself, or the files of a folder in order of name. Raises BenchmarkError where there are none."""
    path = Path(path)
    found = sorted(path.glob(f"*{suffix}")) if path.is_dir() else [path]
    if not found:
        raise BenchmarkError(f"{path}: holds no {suffix} files; name the published folder or file")
    return found


def seconds_of(stamp: object) -> float | str:
    """Seconds of a number, "SS", "MM:SS" or "HH:MM:SS", or what is wrong with it."""
    if is_seconds(stamp):
        return float(stamp)  # type: ignore[arg-type]
    if isinstance(stamp, str) and re.fullmatch(r"(\d{1,2}:)?(\d{1,3}:)?\d{1,6}(\.\d+)?", stamp.strip()):
        parts = [float(part) for part in stamp.strip().split(":")]
        if all(part < 60 for part in parts[1:]):
            return sum(part * 60**i for i, part in enumerate(reversed(parts)))
    return f"time: {stamp!r} is no number of seconds, MM:SS or HH:MM:SS"


def put_at(stamp: object, end: float | None) -> float | str:
    """When a query is put: its time, at most the video's end; or why it cannot be put."""
    time = seconds_of(stamp)
    if isinstance(time, float) and end is not None:
        return min(time, end) if time <= end + LATER else f"time: {time:g} s is after the video's end, {end:g} s"
    return time


def bare(options: Sequence[str]) -> tuple[str, ...]:
    """Options without their letters, where all of them have theirs ("A. red", "B. blue")."""
    found = [_LABEL.match(option) for option in options]
    if all(label is not None and label[1] == letter for label, letter in zip(found, letters(26), strict=False)):
        return tuple(option[label.end() :].strip() for option, label in zip(options, found, strict=True) if label)
    return tuple(options)


def gold_index(answer: object, count: int) -> int | str:
    """Index of a gold letter ("C", "C.", "(C)", or a text that begins with it as options do), or what is wrong."""
    if isinstance(answer, str):
        text = answer.strip().strip("()")
        label = _LABEL.match(answer.strip())
        letter = text[:1] if len(text) == 1 or (len(text) == 2 and text[1] in ".:)") else (label[1] if label else "")
        if letter and letter in letters(count):
            return letters(count).index(letter)
    return f"answer: {answer!r} is no letter of the {count} options"


def choice_ask(
    id: str,
    time: float,
    question: str,
    options: Sequence[str],
    gold: int,
    task: str,
    more: Mapping[str, Any] | None = None,
    *,
    text: str | None = None,
) -> Ask:
    """A question with options that is put once. text: how it is put; None: as `prompts.choice` does."""
    query = Query(id, time, prompts.choice(question, options) if text is None else text, task, tuple(options))
    item = {"golds": [gold], "options": list(options), **(more or {})}
    return asked_once(query, letters(len(options))[gold], item)


def options_problem(options: object) -> str:
    """What is wrong with a list of options; "" where nothing is."""
    if not isinstance(options, list) or not 2 <= len(options) <= 26:
        return "options: must be 2 to 26 texts"
    return "" if all(isinstance(one, str) and one.strip() for one in options) else "options: must be texts, not empty"


def streams(
    name: str,
    by_video: Mapping[str, Sequence[Ask]],
    *,
    videos: str,
    segment_seconds: float | None,
    end: Callable[[str], float | None],
    context_seconds: float | None = None,
    alone: Callable[[Ask], bool] = lambda ask: True,
) -> Iterator[Sample | Rejected]:
    """One sample a video with its queries in order of time; with `context_seconds`, each query that is `alone` has a
    sample of its own, of the span [t - context_seconds, t]."""
    if context_seconds is not None and not context_seconds > 0:
        raise BenchmarkError(f"context_seconds: {context_seconds}: must be above 0; leave it out for all of the video")
    for video, asks in by_video.items():
        path = str(Path(videos, video)) if videos else video
        apart = [ask for ask in asks if context_seconds is not None and alone(ask)]
        together = [ask for ask in asks if ask not in apart]
        yield from stream(name, video, path, together, segment_seconds=segment_seconds, end=end(video))
        for ask in apart:
            start = max(0.0, ask.query.time - (context_seconds or 0.0))
            yield from stream(name, ask.query.id, path, [ask], segment_seconds=segment_seconds, start=start)


# ---- Verdicts.


def choice_verdict(
    sample: Sample, query: Query, credit: float, reason: str, reply: str, counted: bool = True
) -> Verdict:
    golds = item_of(sample, query)["golds"]
    count = len(query.options or ())
    return Verdict(
        sample.video.path, sample.id, query.id, str(query.kind), credit, reply, reason, counted,
        gold=letters(count)[golds[0]], chance=len(golds) / count,
    )  # fmt: skip


def strict(sample: Sample, query: Query, given: Sequence[Given]) -> list[Verdict]:
    """The whole reply is the letter, the text, or both, of the right option."""
    credit, reason = judge_option(given, query.options or (), item_of(sample, query)["golds"])
    return [choice_verdict(sample, query, credit, reason, shown(given))]


def reply_of(given: Iterable[Given]) -> str | None:
    """The reply that a published rule reads: the first; None where there is none, or the stream failed."""
    replies = list(given)
    return None if not replies or any(reply.failure for reply in replies) else replies[0].text


def by_rule(rule: Callable[[str, Query, Mapping[str, Any]], Ruled]) -> Judge:
    """The judge that applies a published rule to the reply ("" where there is none)."""

    def judge(sample: Sample, query: Query, given: Sequence[Given]) -> list[Verdict]:
        text = reply_of(given) or ""
        credit, reason, counted = rule(text, query, item_of(sample, query))
        return [choice_verdict(sample, query, credit, reason, text, counted)]

    return judge


def first_letter(reply: str, prefixes: Sequence[str], alphabet: str) -> str:
    """The letter that Video-MME's rule and its descendants read: without the phrases of `prefixes`, the first sign of
    the alphabet that stands anywhere, upper case ("" where none does). "The Answer: C" is A where "The Answer" stays.
    """
    text = reply.strip()
    for prefix in prefixes:
        text = text.replace(prefix, "")
    found = re.search(f"[{alphabet}]", text)
    return found[0] if found else ""
