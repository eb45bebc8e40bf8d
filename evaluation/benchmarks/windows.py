"""What readers of standing requests share: a request that the model may answer whenever it wants, judged by windows.

The request is put every second and silence is always allowed, so the track is "poll", also where the benchmark means a
model that speaks of itself: polled figures say little of those (TRACE). A model that does speak of itself is judged by
the same rules, and its streams are of the kind `Push`. A verdict is made for every window (answered or missed) and for
every emission that answers none (a false alarm, or said again); the totals here are F1s of those, not means of credits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from evaluation.benchmarks.base import Given, Total, Verdict, by_task
from evaluation.benchmarks.reading import Ask, item_of
from evaluation.proactive import Emission, Fit, Matcher, Poll, Stream, Window, match_optimal, merge_emissions
from whilst.sample import JSON, Answer, Query, Sample, Silence

MISSED, FALSE_ALARM, AGAIN, UNJUDGED = "missed", "false alarm", "said again", "content not judged"
POLL = 1.0  # s

# (emission, index of its window) -> whether it says what is wanted; None: that takes a judge
Says = Callable[[Emission, int], bool | None]


def standing_ask(
    id: str, time: float, text: str, task: str, golds: Sequence[Window], end: float, item: Mapping[str, Any]
) -> Ask:
    """A request from `time` (s) on, put every second until `end`; what there is to say comes with the first second at
    which it may be said (two things at one second: in one answer)."""
    polls = [time + POLL * k for k in range(1, int((end - time) / POLL + 1e-9) + 1)] or [end]
    due: dict[float, list[str]] = {}
    for gold in golds:
        due.setdefault(next((poll for poll in polls if poll >= gold.start), polls[-1]), []).append(gold.text or "now")
    replies = tuple(Answer(poll, " ".join(due[poll]), id) if poll in due else Silence(poll, id) for poll in polls)
    windows: list[JSON] = [[gold.start, gold.end, gold.text] for gold in golds]
    return Ask(Query(id, time, text, task), replies, {"windows": windows, "start": time, "end": polls[-1], **item})


def windows_of(sample: Sample, query: Query) -> list[Window]:
    """When there is something to say to a request, and what."""
    return [Window(float(start), float(end), str(text)) for start, end, text in item_of(sample, query)["windows"]]


def emissions_of(given: Iterable[Given]) -> list[Emission]:
    """What was said, in order of time; failures and silences say nothing."""
    return sorted(Emission(one.time, one.text) for one in given if one.text.strip() and not one.failure)


def stream_of(sample: Sample, query: Query, given: Sequence[Given], kind: type[Stream] = Poll) -> Stream:
    """The stream of one request for `evaluation.proactive`: false alarms per quiet hour, controls and the like. kind:
    how the model was made to speak, `Poll` or `Push`."""
    item = item_of(sample, query)
    moments = tuple(sorted({one.time for one in given if not one.failure}))
    start, end = float(item["start"]), max(float(item["end"]), *(time for time in moments), float(item["start"]) + POLL)
    windows = tuple(
        Window(max(window.start, start), max(start, min(window.end, end)), window.text)
        for window in windows_of(sample, query)
        if window.start <= end and window.end >= start
    )
    said = tuple(one for one in emissions_of(given) if start <= one.time <= end)
    return kind(sample.video.path, start, end, windows, said, moments)


def window_verdicts(
    sample: Sample,
    query: Query,
    given: Sequence[Given],
    *,
    fit: Fit,
    match: Matcher = match_optimal,
    says: Says,
    merge: float | None = None,
) -> list[Verdict]:
    """A verdict for each window, then one for each emission left over; a stream that failed misses all its windows."""
    windows = windows_of(sample, query)
    failed = next((one.failure for one in given if one.failure), "")
    emissions = [] if failed else emissions_of(given)
    if merge is not None:
        emissions = merge_emissions(emissions, merge)
    answered = {pair.window: pair.emission for pair in match(emissions, windows, fit)}

    def verdict(part: int, credit: float, reason: str, reply: str) -> Verdict:
        return Verdict(sample.video.path, sample.id, query.id, str(query.kind), credit, reply, reason, part=part)

    verdicts = []
    for j in range(len(windows)):
        if j not in answered:
            verdicts.append(verdict(j, 0.0, f"failed: {failed}" if failed else MISSED, ""))
            continue
        emission = emissions[answered[j]]
        right = says(emission, j)
        reason = UNJUDGED if right is None else "" if right else "wrong"
        verdicts.append(verdict(j, float(bool(right)), reason, emission.text))
    left = [i for i in range(len(emissions)) if i not in answered.values()]
    for part, i in enumerate(left, start=len(windows)):
        inside = any(fit.holds(window, emissions[i].time) for window in windows)
        verdicts.append(verdict(part, 0.0, AGAIN if inside else FALSE_ALARM, emissions[i].text))
    return verdicts


# ---- Totals. Windows = verdicts that are no emission left over; emissions = those that were matched, and those left.


def _counts(verdicts: Sequence[Verdict]) -> tuple[int, int, int, float]:
    """Windows, of them answered in time, emissions left over, and the credit for content."""
    left = sum(verdict.reason in (FALSE_ALARM, AGAIN) for verdict in verdicts)
    answered = sum(verdict.reason in ("", "wrong", UNJUDGED) for verdict in verdicts)
    return len(verdicts) - left, answered, left, sum(verdict.credit for verdict in verdicts)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def time_f1(verdicts: Sequence[Verdict]) -> float:
    """2 x answered in time / (windows + emissions); 0 where there is neither, as published."""
    windows, answered, left, _ = _counts(verdicts)
    return _ratio(2 * answered, windows + answered + left)


def time_precision(verdicts: Sequence[Verdict]) -> float:
    """Answered in time / emissions."""
    _, answered, left, _ = _counts(verdicts)
    return _ratio(answered, answered + left)


def time_recall(verdicts: Sequence[Verdict]) -> float:
    """Answered in time / windows."""
    windows, answered, _, _ = _counts(verdicts)
    return _ratio(answered, windows)


def joint_f1(verdicts: Sequence[Verdict]) -> float:
    """2 x answered in time and rightly / (windows + emissions)."""
    windows, answered, left, right = _counts(verdicts)
    return _ratio(2 * right, windows + answered + left)


def content(verdicts: Sequence[Verdict]) -> float:
    """Share of the windows answered in time whose answer is right."""
    _, answered, _, right = _counts(verdicts)
    return _ratio(right, answered)


def intrusions(verdicts: Sequence[Verdict]) -> float:
    """Emissions that fit no window, per window."""
    windows = _counts(verdicts)[0]
    return _ratio(sum(verdict.reason == FALSE_ALARM for verdict in verdicts), windows)


def over_tasks(
    of: Callable[[Sequence[Verdict]], float], tasks: Sequence[str] | None = None
) -> Callable[[Sequence[Verdict]], float]:
    """The mean over tasks (of those named, the ones that are there) of a figure of their verdicts."""

    def figure(verdicts: Sequence[Verdict]) -> float:
        found = [of(of_task) for task, of_task in by_task(verdicts).items() if tasks is None or task in tasks]
        return _ratio(sum(found), len(found))

    return figure


TIMING = {
    "time_f1": Total("2 x windows answered / (windows + emissions), one to one by time alone", time_f1),
    "time_precision": Total("windows answered / emissions, by time alone", time_precision),
    "time_recall": Total("windows answered / windows, by time alone", time_recall),
    "intrusions": Total("emissions that fit no window, per window (0 is best)", intrusions),
}
