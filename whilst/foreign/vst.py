"""VST's released SFT data: thoughts by interval of the video, and questions. Source: `VST-SFT`, `lmm_dataset.py`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from whilst.foreign.chat import chat_record, read_chat, scan_lines, stated_ids, write_lines
from whilst.foreign.layout import Record, answered, rows, said
from whilst.sample import Rejection, StrPath, accept_all, sort_out
from whilst.timeline import Answer, Event, Query, Sample, Segment, Silence, Thought, fail


def read_vst(path: StrPath) -> list[Sample]:
    """VST's released SFT JSONL.

    - `text_stream` [start, end, thought]: Segment and, at its end, Thought; an empty thought is a Silence.
    - `qa_stream` [start, end, question, answer]: Query at `start` (the time that VST prints with it) and Answer at
      `end`. VST shows the frames of [start, end) with the question: where no thought's interval covers them they are a
      Segment of their own, which is the only kind that nothing is said about at its end.
    - `previous`: Sample.memory; the instruction: meta["instruction"]; a list of images: meta["vst"]["images"], names
      in the folder Video.path.

    VST renders all questions after all thoughts, whatever their times; here they stand in order of time.

    Raises:
        SampleError: at the first line that is no such timeline (plain chat has no text_stream), naming file and line.
    """
    return accept_all(scan_lines(path, _vst_sample, "vst"), path)


def scan_vst(path: StrPath) -> tuple[list[Sample], list[Rejection]]:
    """As `read_vst`, with a rejection for each line that it would raise at."""
    return sort_out(scan_lines(path, _vst_sample, "vst"))


def write_vst(samples: Iterable[Sample], path: StrPath) -> None:
    """Write VST's JSONL and beside it the `<stem>_seeks.jsonl` of byte offsets that its loader wants.

    Raises:
        SampleError: for a sample that VST cannot say: silence of a standing query, several answers, options, windows,
            thoughts that do not stand at a segment's end, other entries of `meta`, ...
    """
    write_lines(samples, path, _vst_record, _vst_sample, "vst")


def _vst_sample(record: Record, default_id: str) -> Sample:
    chat = read_chat(record, "vst", default_id)
    events: list[Event] = []
    seen: list[Segment] = []
    for i, (start, end, text) in enumerate(
        rows(chat.stream["text_stream"], "text_stream", ("start", "end", "thought"))
    ):
        if seen and start < seen[-1].end:
            fail("", f"text_stream[{i}]", f"starts at {start} s, before the interval above it ends; sort and cut them")
        seen.append(Segment(start, end))
        events += [seen[-1], Thought(end, text) if text else Silence(end)]
    asked = rows(chat.stream.get("qa_stream", []), "qa_stream", ("start", "end", "question", "answer"))
    for i, ((start, end, question, answer), query_id) in enumerate(zip(asked, chat.query_ids(len(asked)), strict=True)):
        if end < start:
            fail("", f"qa_stream[{i}]", f"runs backwards, from {start} s to {end} s; write [start, end]")
        events.append(Query(query_id, start, question))
        if start < end and _is_new(start, end, seen, f"qa_stream[{i}]"):
            seen = sorted([*seen, Segment(start, end)], key=lambda segment: segment.start)
            events.append(Segment(start, end))
        events.append(Answer(end, answer, query_id))
    return chat.sample(sorted(events, key=lambda event: event.time), {})


def _is_new(start: float, end: float, seen: Sequence[Segment], name: str) -> bool:
    at = start
    for segment in seen:
        if segment.start <= at < segment.end:
            at = segment.end
    if at < end and any(segment.start < end and start < segment.end for segment in seen):
        fail("", name, f"[{start}, {end}] s lies partly in intervals before it; cut it where they end")
    return at < end


def _vst_record(sample: Sample, default_id: str) -> Record:
    texts, pairs = said(sample), answered(sample)
    thoughts = [
        [segment.start, segment.end, texts[segment.end]] for segment in sample.segments() if segment.end in texts
    ]
    qas = [[query.time, answer.time, query.text, answer.text] for query, answer in pairs]
    return chat_record(sample, "vst", default_id, {"text_stream": thoughts, "qa_stream": qas, **stated_ids(pairs)})
