"""One episode as a page shows it: frames as they arrived, thoughts under them, queries and replies at their times.

The words come from the report's own episodes, and what is right is what the scorer says (`scores.score`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, TypeGuard

from evaluation.charts import arm_colours, frame, named
from evaluation.figures import MISSING, ReportError
from evaluation.predict import Episode, Reply
from evaluation.scores import Scored, same_thought, score
from whilst.clips import SegmentClip
from whilst.sample import Answer, Event, Query, Sample, Segment, Silence, Thought


@dataclass(frozen=True)
class Timeline:
    """A sample whose episodes the report holds, and its frames: clips[i] belongs to its i-th segment."""

    sample: Sample
    clips: Sequence[SegmentClip]


@dataclass(frozen=True)
class _Watched:
    """What one arm did on the sample: replies by (query, time), thoughts by time, outcomes by query."""

    tag: str
    thoughts: Mapping[float, tuple[str, bool]]
    replies: Mapping[tuple[str, float], Reply]
    scored: Mapping[str, Scored]


def timeline_section(report: Mapping[str, Any], timeline: Timeline) -> str:
    """The sample's events in order, as an HTML list. ReportError where the report has no episode of the sample."""
    sample = timeline.sample
    if len(timeline.clips) != len(sample.segments()):
        raise ReportError(
            f"sample {sample.id}: {len(timeline.clips)} clips for {len(sample.segments())} segments; give one a segment"
        )
    watched, absent = [], []
    for arm, shade in arm_colours(report).items():
        episodes = (report.get("episodes") or {}).get(arm) or ()
        found = [episode for episode in episodes if episode["sample"] == sample.id]
        if found:
            watched.append(_watched(f'<span class="tag">{named(arm, shade)}</span>', found[0], sample))
        else:
            absent.append(arm)
    if not watched:
        raise ReportError(f"report.episodes: no arm has an episode of sample {sample.id!r}; show one that is there")
    clips = iter(timeline.clips)
    gold = {event.time: event.text for event in sample.events if isinstance(event, Thought)}
    idle = str((report.get("settings") or {}).get("idle_thought", ""))
    queries = {query.id: query for query in sample.queries()}
    polls = [event for event in sample.events if _is_poll(event)]
    last_poll = {event.query: event for event in polls}
    asked_at_once = {(event.query, event.time) for event in polls}
    items = []
    for event in sample.events:
        if isinstance(event, Segment):
            items.append(_segment(event, next(clips), watched, gold, idle))
        elif isinstance(event, Query) and (event.id, event.time) not in asked_at_once:
            items.append(_moment(event.time, _question(event) + '<p class="faint">stands from here on</p>'))
        elif _is_poll(event):
            query, last = queries[str(event.query)], last_poll[event.query] is event
            body = "".join(_reply(arm, query, event.time, last=last) for arm in watched)
            items.append(_moment(event.time, _question(query) + f'<ul class="plain">{body}</ul>'))
    note = f'<p class="faint">No episode of this sample: {escape(", ".join(absent))} ({MISSING}).</p>' if absent else ""
    return f'<p>Sample <code>{escape(sample.id)}</code>.</p>{note}<ol class="timeline">{"".join(items)}</ol>'


def _is_poll(event: Event) -> TypeGuard[Answer | Silence]:
    return isinstance(event, Answer) or (isinstance(event, Silence) and event.query is not None)


def _watched(tag: str, record: Mapping[str, Any], sample: Sample) -> _Watched:
    episode = Episode(
        sample.id,
        [(float(time), text, finished) for time, text, finished in record["thoughts"]],
        [Reply(r["query"], float(r["time"]), r["text"], r["finished"]) for r in record["replies"]],
    )
    return _Watched(
        tag,
        {time: (text, finished) for time, text, finished in episode.thoughts},
        {(reply.query, reply.time): reply for reply in episode.replies},
        {item.query: item for item in score([sample], [episode])},
    )


def _moment(time: float, body: str) -> str:
    return f'<li><span class="time">{time:g} s</span><div>{body}</div></li>'


def _segment(
    segment: Segment, clip: SegmentClip, watched: Sequence[_Watched], gold: Mapping[float, str], idle: str
) -> str:
    frames = "".join(
        f"<figure>{frame(image, f'frame at {time:g} s')}<figcaption>{time:g} s</figcaption></figure>"
        for image, time in zip(clip.images, clip.times, strict=True)
    )
    thoughts = []
    for arm in watched:
        if segment.end in arm.thoughts:
            text, finished = arm.thoughts[segment.end]
            expected = gold.get(segment.end)
            mark = _mark(same_thought(text, expected, idle), expected) if expected is not None else ""
            thoughts.append(f"<li>{arm.tag}thinks {_said(text, finished)}{mark}</li>")
    listed = f'<ul class="plain">{"".join(thoughts)}</ul>' if thoughts else ""
    span = f'<span class="time">{segment.start:g}–{segment.end:g} s</span>'
    return f'<li>{span}<div><div class="frames">{frames}</div>{listed}</div></li>'


def _question(query: Query) -> str:
    kind = f' <span class="faint">{escape(query.kind)}</span>' if query.kind else ""
    return f'<p class="query">{escape(query.text)}{kind}</p>'


def _reply(arm: _Watched, query: Query, time: float, *, last: bool) -> str:
    """One arm's reply at one time; the outcome of the whole query stands at its last one."""
    reply = arm.replies.get((query.id, time))
    said = _said(reply.text, reply.finished) if reply else f'<span class="faint">{MISSING}</span>'
    early = query.kind == "forward" and query.window is not None and time < query.window[0]
    if reply and reply.text and early:
        said += ' <span class="wrong">too early</span>'
    scored = arm.scored[query.id]
    if last and not scored.right and scored.finished and scored.got.strip() == scored.expected.strip():
        said += ' <span class="wrong">✗ wrong: it had spoken too early</span>'
    elif last:
        said += _mark(scored.right, scored.expected)
    return f"<li>{arm.tag}{said}</li>"


def _said(text: str, finished: bool) -> str:
    words = f"<q>{escape(text.strip())}</q>" if text.strip() else '<span class="faint">(silence)</span>'
    return words + ("" if finished else ' <span class="faint">(cut at the token limit)</span>')


def _mark(right: bool, expected: str) -> str:
    if right:
        return ' <span class="right">✓ right</span>'
    return f' <span class="wrong">✗ wrong</span> <span class="faint">expected</span> <q>{escape(expected.strip())}</q>'
