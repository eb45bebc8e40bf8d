"""The timeline: lanes in proportion to time, with the slider that moves the playhead above them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from whilst.sample import Event, Query, Sample, Segment, Silence
from whilst.view_page.budget import Count, Slot
from whilst.view_page.strip import kind_of, words_of


@dataclass(frozen=True)
class Scale:
    """The time from `start` to `end` (seconds) over the width of a lane."""

    start: float
    end: float

    def mark(
        self,
        kind: str,
        first: float,
        last: float,
        told: str,
        *,
        known: float | None = None,
        height: float | None = None,
    ) -> str:
        """One mark: a moment (first == last) or a span.

        `known` is the time from which on it belongs to the past; `height` is a share of the lane's height, 0 to 1.
        """
        left, width = (100 * (t - self.start) / (self.end - self.start) for t in (first, last - first + self.start))
        size = f"width:{width:.3f}%;" if last > first else ""
        size += f"height:{100 * height:.1f}%;" if height is not None else ""
        return (
            f'<i class="{kind}" style="left:{left:.3f}%;{size}" data-time="{first if known is None else known}" '
            f'title="{escape(told, quote=True)}"></i>'
        )


def timeline(sample: Sample, slots: Sequence[Slot], count: Count, start: float, end: float, with_clips: bool) -> str:
    """All lanes: segments, visual and thought budgets, what is said to nobody, and one a query."""
    scale = Scale(start, end)
    lanes = [
        _lane("segments", "", [_segment(scale, segment) for segment in sample.segments()]),
        *([_bars(scale, slots, "visual", count.clip_unit)] if with_clips else []),
        _bars(scale, slots, "thought", f"thought {count.text_unit}"),
    ]
    quiet = [scale.mark("silence", e.time, e.time, f"{e.time:g} s: nothing is said") for e in _silences(sample, None)]
    if quiet:
        lanes.append(_lane("silence", "", quiet))
    lanes += [_query(scale, sample, query) for query in sample.queries()]
    # The range's thumb is 16 pixels wide, so the style makes it 16 pixels wider than the lanes: its centre is the time.
    slider = f'<input type="range" min="{start}" max="{end}" step="any" value="{start}" aria-label="playhead, seconds">'
    return (
        f'<div class="lanes"><div class="lane top"><span class="name"><output>{start:g} s</output></span>'
        f'<div class="track">{slider}</div></div>{"".join(lanes)}'
        f'<div class="lane axis"><span class="name"></span><div class="track">{_axis(scale)}</div></div>'
        f'<div class="over"><div class="playhead"></div></div></div>'
    )


def _lane(name: str, detail: str, marks: Sequence[str], kind: str = "") -> str:
    small = f" <small>{escape(detail)}</small>" if detail else ""
    return (
        f'<div class="lane {kind}"><span class="name" title="{escape(f"{name} {detail}".strip(), quote=True)}">'
        f'{escape(name)}{small}</span><div class="track">{"".join(marks)}</div></div>'
    )


def _segment(scale: Scale, segment: Segment) -> str:
    return scale.mark(
        "segment", segment.start, segment.end, f"segment {segment.start:g} to {segment.end:g} s", known=segment.end
    )


def _bars(scale: Scale, slots: Sequence[Slot], what: str, unit: str) -> str:
    """One bar a segment. A thought's bar stands on the time that there is to write it: until the next segment's end."""
    most = max((getattr(slot, what) for slot in slots), default=0)
    marks = []
    for slot in slots:
        value, segment = getattr(slot, what), slot.segment
        if not value:
            continue
        if what == "visual":
            first, last = segment.start, segment.end
        else:
            first, last = segment.end, segment.end + (slot.seconds or 0.0)
        told = f"{value} {unit}, segment {segment.start:g} to {segment.end:g} s"
        if what == "thought" and slot.seconds:
            told += f", {slot.seconds:g} s until the next segment has arrived"
        marks.append(scale.mark(f"bar {what}", first, last, told, known=segment.end, height=max(0.06, value / most)))
    return _lane(unit, f"max {most}", marks, "bars")


def _query(scale: Scale, sample: Sample, query: Query) -> str:
    queries = {query.id: query}
    marks = []
    if query.window is not None:
        first, last = query.window
        told = f"a reply is valid from {first:g} to {last:g} s"
        marks.append(scale.mark("window", first, last, told, known=query.time))
    for first, last in query.evidence:
        told = f"evidence for {query.text}: {first:g} to {last:g} s"
        marks.append(scale.mark("evidence", first, last, told, known=last))
    if query.knowable_at is not None:
        told = f"knowable at {query.knowable_at:g} s"
        marks.append(scale.mark("knowable", query.knowable_at, query.knowable_at, told))
    events: list[Event] = [query, *_silences(sample, query.id), *sample.answers_to(query.id)]
    for event in events:
        told = f"{event.time:g} s {kind_of(event)}: {words_of(event, queries)}"
        marks.append(scale.mark(kind_of(event), event.time, event.time, told))
    return _lane(query.id, query.kind or "", marks, "asked")


def _silences(sample: Sample, query: str | None) -> list[Silence]:
    return [event for event in sample.events if isinstance(event, Silence) and event.query == query]


def _axis(scale: Scale) -> str:
    """About eight round times; none so near the end that their texts would touch."""
    length = scale.end - scale.start
    step = next((s for s in (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 3600) if length / s <= 10), 7200.0)
    times = [scale.start]
    tick = (scale.start // step + 1) * step
    while tick < scale.end - length / 40:
        if tick - scale.start > length / 40:
            times.append(tick)
        tick += step
    left = [100 * (time - scale.start) / length for time in times]
    marks = [f'<span style="left:{at:.3f}%">{clock(time)}</span>' for at, time in zip(left, times, strict=True)]
    return "".join(marks) + f'<span class="last" style="left:100%">{clock(scale.end)}</span>'


def clock(seconds: float) -> str:
    """12.5 s, and 1:02:05 from two minutes on."""
    if seconds < 120:
        return f"{round(seconds, 2):g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
