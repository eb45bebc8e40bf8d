"""Samples as a page: the frames of every segment, and the events beside them. One HTML file that needs nothing else.

    whilst view runs/demo/world/test.jsonl -o view.html

Above, the timeline in proportion; below, one column a segment: what was shown, thought, asked and answered there.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from whilst.clips import SegmentClip, segment_clips
from whilst.progress import progress
from whilst.sample import Answer, Event, Query, Sample, SampleError, Segment, Silence, Thought, read_jsonl

FRAME_PIXELS = 160  # width or height of a frame on the page, whichever is more, at most
FRAMES_SHOWN = 4  # of a segment, at most: the first, the last, and some in between
SMALL_PIXELS = 96  # frames up to this size are kept exactly (PNG) and enlarged without smoothing


def write_page(samples: Path, out: Path, *, ids: Sequence[str] = (), limit: int = 20, fps: float = 2.0) -> Path:
    """Write the page of the samples with these ids (none: the first `limit`) and return its path.

    Raises:
        SampleError: a sample that is not valid, or an id that is not in the file.
        VideoError: a video that cannot be read.
    """
    chosen = choose(read_jsonl(samples), ids, str(samples))[:limit]
    sections = []
    with progress("draw samples", len(chosen)) as advance:
        for sample in chosen:
            sections.append(section(sample, segment_clips(sample, fps)))
            advance(1)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page(samples.name, sections), encoding="utf-8")
    return out


def choose(samples: Sequence[Sample], ids: Sequence[str], where: str) -> list[Sample]:
    """The samples with these ids, in the order of `ids`; all of them where none is given."""
    by_id = {sample.id: sample for sample in samples}
    for wanted in ids:
        if wanted not in by_id:
            some = ", ".join(list(by_id)[:5]) or "none"
            raise SampleError(f"{where}: no sample has the id {wanted!r}; the first ids are: {some}")
    return [by_id[wanted] for wanted in ids] if ids else list(samples)


def section(sample: Sample, clips: Sequence[SegmentClip]) -> str:
    """One sample: heading, timeline, columns."""
    segments = sample.segments()
    queries = {query.id: query for query in sample.queries()}
    start, end = sample.video.start, max([event.time for event in sample.events] + [sample.video.start + 1e-6])
    counts = ", ".join(
        f"{sum(isinstance(event, kind) for event in sample.events)} {name}"
        for kind, name in ((Segment, "segments"), (Thought, "thoughts"), (Query, "queries"), (Answer, "answers"))
    )
    memory = f'<p class="memory"><b>text memory</b> {escape(sample.memory)}</p>' if sample.memory else ""
    return (
        f'<section><h2>{escape(sample.id)}</h2><p class="about">{escape(os.path.basename(sample.video.path))}, '
        f"{start:g} to {end:g} s: {counts}</p>{memory}"
        f"{_timeline(sample.events, queries, start, end)}"
        f'<div class="scroll"><table>{_columns(sample.events, queries, segments, clips)}</table></div></section>'
    )


# ---- The timeline.


def _timeline(events: Sequence[Event], queries: dict[str, Query], start: float, end: float) -> str:
    marks: list[str] = []

    def place(first: float, last: float, kind: str, told: str) -> None:
        left, width = (100 * (t - start) / (end - start) for t in (first, last - first + start))
        size = f"width:{width:.3f}%;" if last > first else ""
        marks.append(f'<i class="{kind}" style="left:{left:.3f}%;{size}" title="{escape(told, quote=True)}"></i>')

    for event in events:
        if isinstance(event, Segment):
            place(event.start, event.end, "segment", f"segment {event.start:g} to {event.end:g} s")
            continue
        if isinstance(event, Query):
            if event.window is not None:
                place(*event.window, "window", f"a reply is valid from {event.window[0]:g} to {event.window[1]:g} s")
            for span in event.evidence:
                place(*span, "evidence", f"evidence for {event.text}: {span[0]:g} to {span[1]:g} s")
        place(event.time, event.time, _kind(event), f"{event.time:g} s {_kind(event)}: {_words(event, queries)}")
    ends = f'<div class="ends"><span>{start:g} s</span><span>{end:g} s</span></div>'
    return f'<div class="line">{"".join(marks)}</div>{ends}'


# ---- The columns: one a segment, and one before the first if something happens there.


def _columns(
    events: Sequence[Event], queries: dict[str, Query], segments: Sequence[Segment], clips: Sequence[SegmentClip]
) -> str:
    cells: list[list[Event]] = [[]]
    for event in events:
        if isinstance(event, Segment):
            cells.append([])
        else:
            cells[-1].append(event)
    head = [f"<th>{s.start:g} to {s.end:g} s</th>" for s in segments]
    frames = [f'<td class="frames">{_frames(clip)}</td>' for clip in clips]
    happened = [f"<td>{''.join(_told(event, queries) for event in cell)}</td>" for cell in cells]
    if cells[0]:
        head, frames = ["<th>before</th>", *head], ["<td></td>", *frames]
    else:
        happened = happened[1:]
    return "".join(f"<tr>{''.join(row)}</tr>" for row in (head, frames, happened))


def _told(event: Event, queries: dict[str, Query]) -> str:
    details = ""
    if isinstance(event, Query):
        facts = [event.kind or "", f"options: {', '.join(event.options)}" if event.options else ""]
        if event.knowable_at is not None:
            facts.append(f"knowable at {event.knowable_at:g} s")
        if event.window is not None:
            facts.append(f"reply from {event.window[0]:g} to {event.window[1]:g} s")
        details = f"<small>{escape('; '.join(fact for fact in facts if fact))}</small>"
    return (
        f'<p class="{_kind(event)}"><b>{_kind(event)}</b> <span>{event.time:g} s</span><br>'
        f"{escape(_words(event, queries))}{details}</p>"
    )


def _kind(event: Event) -> str:
    return type(event).__name__.lower()


def _words(event: Event, queries: dict[str, Query]) -> str:
    if isinstance(event, Thought | Query):
        return event.text
    if isinstance(event, Answer):
        return f"{event.text}   (to: {queries[event.query].text})"
    if isinstance(event, Silence):
        return f"(to: {queries[event.query].text})" if event.query is not None else "nothing is said"
    return ""


def _frames(clip: SegmentClip) -> str:
    count = len(clip.images)
    shown = np.unique(np.linspace(0, count - 1, min(count, FRAMES_SHOWN)).round().astype(int))
    pictures = "".join(_picture(clip.images[i], clip.times[i]) for i in shown)
    left_out = f"<small>{len(shown)} of {count} frames</small>" if len(shown) < count else ""
    return f"<div>{pictures}</div>{left_out}"


def _picture(image: np.ndarray, time: float) -> str:
    """A frame (H, W, 3) uint8 at `time` seconds, inline."""
    height, width, _ = image.shape
    small = max(height, width) <= SMALL_PIXELS
    picture = Image.fromarray(image)
    if not small:
        picture.thumbnail((FRAME_PIXELS, FRAME_PIXELS))
    data = io.BytesIO()
    picture.save(data, "PNG" if small else "JPEG")
    text = base64.b64encode(data.getvalue()).decode()
    look = ' class="small"' if small else ""
    kind = "png" if small else "jpeg"
    source = f"data:image/{kind};base64,{text}"
    return f'<figure><img{look} alt="frame at {time:g} s" src="{source}"><figcaption>{time:g} s</figcaption></figure>'


# ---- The page.


def page(title: str, sections: Sequence[str]) -> str:
    """A whole page around the sections."""
    legend = "".join(
        f'<span><i class="{kind}"></i>{kind}</span>'
        for kind in ("segment", "thought", "query", "answer", "silence", "window", "evidence")
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head><body>'
        f'<h1>{escape(title)}</h1><p class="about">{len(sections)} samples. Times are seconds of the video.</p>'
        f'<p class="legend">{legend}</p>{"".join(sections)}</body></html>\n'
    )


STYLE = """
:root{--page:#fff;--ink:#1c2430;--quiet:#637085;--rule:#dde2ea;--segment:#c9d3e2;--thought:#2f7d5b;--query:#2f5fb3;
--answer:#b3541e;--silence:#8792a3;--window:#f3d3b8;--evidence:#a7c4f2}
@media (prefers-color-scheme:dark){:root{--page:#141920;--ink:#e4e9f0;--quiet:#97a3b5;--rule:#2c3542;
--segment:#364355;--thought:#6cc79c;--query:#86aef5;--answer:#eb9a66;--silence:#76839a;
--window:#5a3b25;--evidence:#2f4a78}}
*{box-sizing:border-box}body{margin:2rem auto;padding:0 1.25rem;max-width:1200px;background:var(--page);
color:var(--ink);font:15px/1.45 system-ui,sans-serif}h1{font-size:1.5rem;margin:0}h2{font-size:1.05rem;margin:0}
section{border-top:1px solid var(--rule);padding:1.25rem 0}.about,small,figcaption,.ends,th,p span{color:var(--quiet)}
.about{margin:.15rem 0 .8rem}.memory{white-space:pre-wrap}
.legend{display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;font-size:.85rem}.legend span{color:var(--ink)}
.legend i{display:inline-block;width:.75rem;height:.75rem;margin-right:.4rem;border-radius:2px;vertical-align:-1px}
i.segment{background:var(--segment)}i.thought{background:var(--thought)}i.query{background:var(--query)}
i.answer{background:var(--answer)}i.silence{background:var(--silence)}i.window{background:var(--window)}
i.evidence{background:var(--evidence)}
.line{position:relative;height:62px}.line i{position:absolute;height:10px;min-width:2px}
.line i.segment{top:0;height:14px;border-right:2px solid var(--page)}.line i.evidence{top:16px;height:4px}
.line i.window{top:44px;height:14px}
.line i.thought,.line i.query,.line i.answer,.line i.silence{width:9px;height:9px;margin-left:-9px;border-radius:50%}
.line i.thought{top:21px}.line i.query{top:33px;border-radius:0}.line i.answer,.line i.silence{top:46px}
.ends{display:flex;justify-content:space-between;font-size:.8rem;margin-bottom:.6rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.87rem}
th,td{text-align:left;vertical-align:top;padding:.3rem .7rem .3rem 0;min-width:8.5rem;font-weight:400}
td p{margin:0 0 .45rem;padding-left:.5rem;border-left:3px solid var(--rule);overflow-wrap:anywhere}
td p b{font-weight:600}td small{display:block}
p.thought{border-color:var(--thought)}p.query{border-color:var(--query)}p.answer{border-color:var(--answer)}
p.silence{border-color:var(--silence)}
.frames div{display:flex;gap:4px}figure{margin:0}figcaption{font-size:.72rem}
img{display:block;max-width:160px}img.small{width:64px;image-rendering:pixelated}
"""
