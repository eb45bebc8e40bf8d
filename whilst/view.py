"""Samples as a page: the video, the events on a timeline, and the graph as of the playhead. One HTML file.

    whilst view runs/demo/samples/data/test --id test-00000 --graphs runs/demo/world/test.sources.jsonl -o view.html

Moving the playhead shows what was there at that moment: thoughts and replies so far, and of the graph only what was
knowable then. `view.html#t=3.5` opens at 3.5 s. The page loads nothing from anywhere; a video that is too large to be
embedded is linked, and the page says so.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from whilst.clips import SegmentClip, segment_clips
from whilst.progress import progress
from whilst.sample import Answer, Query, Sample, SampleError, Segment, Thought, read_samples, to_record
from whilst.view_page.budget import Count, Slot, count_tokens, count_words, slots
from whilst.view_page.graphs import on_the_clock_of, read_graphs
from whilst.view_page.lanes import clock, timeline
from whilst.view_page.strip import SMALL_PIXELS, strip

PARTS = Path(__file__).parent / "view_page"
PLAYED = {".mp4": "video/mp4", ".m4v": "video/mp4", ".webm": "video/webm"}  # what browsers play, by suffix
EMBED_MEGABYTES = 24.0  # of video files in one page


def write_page(
    samples: Path,
    out: Path,
    *,
    ids: Sequence[str] = (),
    limit: int = 20,
    fps: float = 2.0,
    graphs: Path | None = None,
    checkpoint: Path | None = None,
    embed_megabytes: float = EMBED_MEGABYTES,
    frames: bool = True,
) -> Path:
    """Write the page of the samples with these ids (none: the first `limit`) and return its path.

    samples: a .jsonl or .parquet file, or the name of its shards.
    fps: frames a second that are sampled for the strip and for the visual budget.
    graphs: a file of graphs or sources (or a folder of them) that holds one for every sample shown: the one whose id is
        the sample's meta["source"], or else the sample's own id.
    checkpoint: a folder (or Hub id) whose tokenizer and sizes count tokens; None: words and frames are counted.
    embed_megabytes: videos go into the page while they fit into this; those that do not are linked.
    frames: False leaves out pixels altogether, for samples whose videos are not on this machine.

    Raises:
        SampleError: a sample or graph that is not valid, or an id that is not in the file.
        VideoError: a video that cannot be read.
    """
    chosen = choose(read_samples(samples), ids, str(samples))[:limit]
    known = read_graphs(graphs, {graph_id(sample) for sample in chosen}) if graphs is not None else {}
    count = count_tokens(checkpoint, fps) if checkpoint is not None else count_words()
    videos = Videos(out.parent, embed_megabytes)
    sections = []
    with progress("draw samples", len(chosen)) as advance:
        for sample in chosen:
            clips = segment_clips(sample, fps) if frames else None
            stage = videos.stage(sample, clips) if clips is not None else _no_frames()
            sections.append(section(sample, clips, stage, count, known.get(graph_id(sample))))
            advance(1)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page(samples.name, sections, videos.embedded), encoding="utf-8")
    return out


def choose(samples: Sequence[Sample], ids: Sequence[str], where: str) -> list[Sample]:
    """The samples with these ids, in the order of `ids`; all of them where none is given."""
    by_id = {sample.id: sample for sample in samples}
    for wanted in ids:
        if wanted not in by_id:
            some = ", ".join(list(by_id)[:5]) or "none"
            raise SampleError(f"{where}: no sample has the id {wanted!r}; the first ids are: {some}")
    return [by_id[wanted] for wanted in ids] if ids else list(samples)


def graph_id(sample: Sample) -> str:
    """The id of the graph that a sample was made from."""
    return str(sample.meta.get("source", sample.id))


# ---- The video.


@dataclass
class Videos:
    """The videos of a page. `embedded` holds those inside it as data URIs: one copy, however many samples show it."""

    folder: Path
    megabytes: float
    embedded: dict[str, str] = field(default_factory=dict)
    used: int = 0

    def stage(self, sample: Sample, clips: Sequence[SegmentClip]) -> str:
        """The player of a sample's video; where a browser cannot play it, the place for its frames."""
        path = Path(sample.video.path)
        kind = PLAYED.get(path.suffix.lower())
        if kind is None or path.is_dir():
            what = "a folder of images" if path.is_dir() else f"{path.suffix or 'such'} files"
            return stage_with("", f"Browsers do not play {what}: the frames of the strip are shown.")
        if not clips:
            return stage_with("", "No segment, so no frame is shown.")
        size = path.stat().st_size
        if str(path) not in self.embedded and self.used + size <= self.megabytes * 1e6:
            self.embedded[str(path)] = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
            self.used += size
        height, width = clips[0].images.shape[1:3]
        look = ' class="small"' if max(height, width) <= SMALL_PIXELS else ""
        shape = f'muted playsinline preload="auto" title="click to play or pause"{look}'
        shape += f' style="aspect-ratio:{width}/{height}"'
        if str(path) in self.embedded:
            name = list(self.embedded).index(str(path))
            return stage_with(f'<video {shape} data-video="video-{name}"></video>', f"Embedded, {_size(size)}.")
        link = quote(Path(os.path.relpath(path, self.folder)).as_posix())
        note = f"Not embedded: {_size(size)} do not fit into the page's {self.megabytes:g} MB. Linked: {link}"
        return stage_with(f'<video {shape} src="{escape(link, quote=True)}"></video>', note)


def _no_frames() -> str:
    return stage_with("", "Without frames: the video was not read.")


def stage_with(player: str, note: str) -> str:
    """The place of the video. Without a player the frames of the strip are shown in it."""
    return f'<div class="stage">{player}<p class="note">{escape(note)}</p></div>'


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


# ---- One sample.


def section(
    sample: Sample,
    clips: Sequence[SegmentClip] | None,
    stage: str,
    count: Count,
    graph: dict[str, Any] | None,
    *,
    above: str = "",
    notes: Mapping[int, str] | None = None,
    opens_at: float | None = None,
) -> str:
    """One sample: heading, video and graph, timeline, strip, budget. `graph` is as `read_graphs` gives it.

    above: HTML under the heading. notes: HTML in the strip, under the event with this index. opens_at: where the
    playhead stands at first (seconds); None: at the start.
    """
    start = sample.video.start
    end = max([event.time for event in sample.events] + [start + 1e-6])
    made = slots(sample, clips, count)
    numbers = ", ".join(
        f"{sum(isinstance(event, kind) for event in sample.events)} {name}"
        for kind, name in ((Segment, "segments"), (Thought, "thoughts"), (Query, "queries"), (Answer, "answers"))
    )
    about = [f"{clock(start)} to {clock(end)}: {numbers}"]
    about += [f"{name} {sample.meta[name]}" for name in ("builder", "dataset", "licence") if sample.meta.get(name)]
    memory = f'<p class="memory"><b>text memory</b> {escape(sample.memory)}</p>' if sample.memory else ""
    aside = '<div class="graph"></div>' if graph is not None else ""
    data = {
        "start": start,
        "end": end,
        "at": start if opens_at is None else opens_at,
        "sample": to_record(sample),
        "costs": [[slot.visual, slot.thought, slot.received, slot.answer] for slot in made],
        "memory": count.text(sample.memory),
        "units": [count.clip_unit if clips is not None else None, count.text_unit],
        "graph": on_the_clock_of(graph, start) if graph is not None else None,
    }
    return (
        f"<section><h2>{escape(sample.id)}</h2>"
        f'<p class="about">{escape(os.path.basename(sample.video.path))}, {escape(", ".join(about))}</p>{above}{memory}'
        f'<div class="{"scene with-graph" if aside else "scene"}">{stage}<div class="now"></div>{aside}</div>'
        f"{timeline(sample, made, count, start, end, clips is not None)}"
        f"{strip(sample, clips, notes or {})}{_budget(made, count, clips is not None)}"
        f'<script type="application/json">{_json(data)}</script></section>'
    )


def _budget(made: Sequence[Slot], count: Count, with_clips: bool) -> str:
    """Totals, means and the busiest segment."""
    columns = [(count.clip_unit, [float(slot.visual) for slot in made])] if with_clips else []
    for name in ("thought", "received", "answer"):
        told = "query" if name == "received" else name
        columns.append((f"{told} {count.text_unit}", [float(getattr(slot, name)) for slot in made]))
    seconds = sum(slot.segment.end - slot.segment.start for slot in made)
    rows = []
    for title, values in columns:
        total = sum(values)
        cells = (total, total / len(values) if values else 0.0, max(values, default=0.0), total / (seconds or 1.0))
        rows.append(f"<tr><th>{escape(title)}</th>{''.join(f'<td>{cell:,.4g}</td>' for cell in cells)}</tr>")
    head = "".join(f"<th>{title}</th>" for title in ("", "in all", "a segment", "at most", "a second of video"))
    busiest = max((slot for slot in made if slot.rate), key=lambda slot: slot.rate or 0.0, default=None)
    pace = ""
    if busiest is not None:
        pace = (
            f"To keep up with the video, {busiest.rate:.3g} {count.text_unit} a second must be written after the "
            f"segment {busiest.segment.start:g} to {busiest.segment.end:g} s, the busiest one: "
            f"{busiest.thought + busiest.answer} in {busiest.seconds:g} s."
        )
    return (
        f'<details class="budget" open><summary>Token and time budget</summary><table>{head}{"".join(rows)}</table>'
        f'<p class="about">{escape(pace)} {escape(count.note)}</p></details>'
    )


# ---- The page.


def page(title: str, sections: Sequence[str], videos: dict[str, str], what: str = "sample") -> str:
    """A whole page around the sections, one a `what`; `videos` are data URIs."""
    legend = "".join(
        f'<span><i class="{kind}"></i>{kind}</span>'
        for kind in ("segment", "thought", "query", "answer", "silence", "window", "evidence", "knowable")
    )
    held = "".join(f'<script type="text/plain" id="video-{i}">{uri}</script>' for i, uri in enumerate(videos.values()))
    style, script = ((PARTS / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    many = f"{len(sections)} {what}{'s' if len(sections) != 1 else ''}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        '<meta HTTP-EQUIV="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "media-src data: file: 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'\">"
        f"<style>{style}</style></head><body>"
        f'<header><h1>{escape(title)}</h1><p class="about">{many}. Times are seconds of the video file.</p>'
        f'<p class="legend">{legend}</p></header>{"".join(sections)}{held}<script>{script}</script></body></html>\n'
    )


def _json(value: object) -> str:
    """JSON that can stand inside a script element."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=dict).replace("<", "\\u003c")
