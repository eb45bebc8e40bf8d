"""The strip: one column a segment, with its frames and with what was thought, asked and answered there."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from PIL import Image

from whilst.clips import SegmentClip
from whilst.sample import Answer, Event, Query, Sample, Segment, Silence, Thought

FRAME_PIXELS = 160  # width or height of a frame on the page, whichever is more, at most
FRAMES_SHOWN = 4  # of a segment, at most: the first, the last, and some in between
SMALL_PIXELS = 96  # frames up to this size are kept exactly (PNG) and enlarged without smoothing


def kind_of(event: Event) -> str:
    """The word of an event's type, which is its class in the style sheet too."""
    return type(event).__name__.lower()


def strip(sample: Sample, clips: Sequence[SegmentClip] | None, notes: Mapping[int, str]) -> str:
    """The columns, and one before the first segment if something happens there. Without clips: no frames.

    notes: HTML that stands under the event with this index.
    """
    queries = {query.id: query for query in sample.queries()}
    segments = sample.segments()
    cells: list[list[str]] = [[]]
    for i, event in enumerate(sample.events):
        if isinstance(event, Segment):
            cells.append([])
        else:
            cells[-1].append(_told(event, queries, notes.get(i, "")))
    times = [f' data-time="{s.end}"' for s in segments]
    head = [f"<th{time}>{s.start:g} to {s.end:g} s</th>" for s, time in zip(segments, times, strict=True)]
    frames = [f'<td class="frames"{time}>{_frames(c)}</td>' for c, time in zip(clips or (), times, strict=False)]
    happened = [f"<td>{''.join(cell)}</td>" for cell in cells]
    if cells[0]:
        head = ["<th>before</th>", *head]
        frames = ["<td></td>", *frames] if frames else []
    else:
        happened = happened[1:]
    rows = "".join(f"<tr>{''.join(row)}</tr>" for row in (head, frames, happened) if row)
    return f'<div class="scroll"><table class="strip">{rows}</table></div>'


def _told(event: Event, queries: dict[str, Query], note: str) -> str:
    details = ""
    if isinstance(event, Query):
        facts = [event.kind or "", f"options: {', '.join(event.options)}" if event.options else ""]
        if event.knowable_at is not None:
            facts.append(f"knowable at {event.knowable_at:g} s")
        if event.window is not None:
            facts.append(f"reply from {event.window[0]:g} to {event.window[1]:g} s")
        details = f"<small>{escape('; '.join(fact for fact in facts if fact))}</small>"
    return (
        f'<p class="{kind_of(event)}" data-time="{event.time}"><b>{kind_of(event)}</b> <span>{event.time:g} s</span>'
        f"<br>{escape(words_of(event, queries))}{details}{note}</p>"
    )


def words_of(event: Event, queries: dict[str, Query]) -> str:
    """What an event says, with the query that it replies to."""
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
    return (
        f'<figure><img{look} alt="frame at {time:g} s" data-time="{time}" src="{source}">'
        f"<figcaption>{time:g} s</figcaption></figure>"
    )
