"""Readers and writers for three foreign layouts: VST's JSONL, StreamingVLM's and LiveCC's text_stream, TWW's sample JSON.

What holds for all three:

- A writer reads its own record back before it writes, and raises when anything of the sample would be lost or changed:
  what a layout cannot say is an error, not a loss. Events, times and texts live in the layout's own fields, the rest of
  the foreign record (fields that mean nothing here) in `Sample.meta` under the layout's name, from where it is written.
- Layouts without ids get `vst-<line>`, `text_stream-<line>` or the file's name, and queries `q0`, `q1`, ... in their
  order in the record. Other ids ride in the fields `id` and `query_ids`, which the foreign readers pass over.
- `video.path` stays as the record states it. The folder it is relative to is not in the file: see `with_video_root`.
- `scan_*` turns what `read_*` raises at into rejections: items in = samples + rejections.

Sources: VST, `VST-SFT/lmm_dataset.py`; StreamingVLM, `streaming_vlm/data/lmm_dataset.py`; LiveCC,
`data/lmm_dataset.py`; Think While Watching (arXiv 2603.11896), `dataloader.py` and its sample data.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

from whilst.sample import Found, Rejection, StrPath, accept_all, claim, json_lines, read_json, replacing, sort_out
from whilst.timeline import (
    Answer,
    Event,
    Query,
    Sample,
    SampleError,
    Segment,
    Silence,
    Thought,
    Video,
    fail,
    is_seconds,
    validate,
)

Record = Any  # foreign JSON, of whatever shape it turns out to be
Reader = Callable[[Record, str], Sample]  # (record, id unless the record has one) -> sample
Writer = Callable[[Sample], Record]


def with_video_root(sample: Sample, root: StrPath) -> Sample:
    """The same sample with its relative video path under the folder `root`."""
    return replace(sample, video=replace(sample.video, path=os.path.join(root, sample.video.path)))


# ---- VST: a line is [user message, assistant message], with thoughts by interval and questions after them all.


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
    return accept_all(_scan_lines(path, _vst_sample, "vst"), path)


def scan_vst(path: StrPath) -> tuple[list[Sample], list[Rejection]]:
    """As `read_vst`, with a rejection for each line that it would raise at."""
    return sort_out(_scan_lines(path, _vst_sample, "vst"))


def write_vst(samples: Iterable[Sample], path: StrPath) -> None:
    """Write VST's JSONL and beside it the `<stem>_seeks.jsonl` of byte offsets that its loader wants.

    Raises:
        SampleError: for a sample that VST cannot say: silence of a standing query, several answers, options, windows,
            thoughts that do not stand at a segment's end, other entries of `meta`, ...
    """
    _write_lines(samples, path, _vst_record, _vst_sample, "vst")


def _vst_sample(record: Record, default_id: str) -> Sample:
    chat = _read_chat(record, "vst", default_id)
    events: list[Event] = []
    seen: list[Segment] = []
    for i, (start, end, text) in enumerate(_rows(chat.stream["text_stream"], "text_stream", ("start", "end", "thought"))):
        if seen and start < seen[-1].end:
            fail("", f"text_stream[{i}]", f"starts at {start} s, before the interval above it ends; sort and cut them")
        seen.append(Segment(start, end))
        events += [seen[-1], Thought(end, text) if text else Silence(end)]
    rows = _rows(chat.stream.get("qa_stream", []), "qa_stream", ("start", "end", "question", "answer"))
    for i, ((start, end, question, answer), query_id) in enumerate(zip(rows, _ids(chat.stream, rows), strict=True)):
        if end < start:
            fail("", f"qa_stream[{i}]", f"runs backwards, from {start} s to {end} s; write [start, end]")
        events.append(Query(query_id, start, question))
        if start < end and _is_new(start, end, seen, f"qa_stream[{i}]"):
            seen = sorted([*seen, Segment(start, end)], key=lambda segment: segment.start)
            events.append(Segment(start, end))
        events.append(Answer(end, answer, query_id))
    return chat.sample(sorted(events, key=lambda event: event.time))


def _is_new(start: float, end: float, seen: Sequence[Segment], name: str) -> bool:
    at = start
    for segment in seen:
        if segment.start <= at < segment.end:
            at = segment.end
    if at < end and any(segment.start < end and start < segment.end for segment in seen):
        fail("", name, f"[{start}, {end}] s lies partly in intervals before it; cut it where they end")
    return at < end


def _vst_record(sample: Sample) -> Record:
    said = _said(sample)
    thoughts = [[s.start, s.end, said[s.end]] for s in sample.segments() if s.end in said]
    queries = _in_order(sample)
    qas = [[query.time, answer.time, query.text, answer.text] for query, answer in queries]
    return _chat_record(sample, "vst", {"text_stream": thoughts, "qa_stream": qas} | _query_ids(queries))


# ---- StreamingVLM and LiveCC: the same two messages, but the text is a stream of words with their own times.


def read_text_stream(path: StrPath, *, seconds: float = 1.0, first_seconds: float = 1.0) -> list[Sample]:
    """StreamingVLM's and LiveCC's JSONL of words [start, end, word], said while the video plays.

    The video arrives in segments of `seconds`, the first of `first_seconds` (StreamingVLM 1 and 1, LiveCC 1 and 3; the
    file does not say). At the end of a segment stand the words that have ended by then, as one Thought, or a Silence
    where there are none. Both projects write " ..." after every such phrase, for a stream that is not over, and " ..."
    alone for silence: that is rendering, and is not part of the texts here. LiveCC's loader leaves out the silent turns
    after the last word; here they are Silence events.

    A question of `qa_stream` [start, time, question, answer] is asked at `time` and answered at the end of the segment
    it falls in, before that segment's words. `previous` is Sample.memory, the prompt meta["instruction"]. The words'
    own times stay in meta["text_stream"]["words"]: leave that out when you change the texts.

    A line that is a list of numbers (LiveCC's last: byte offsets) is passed over.

    Raises:
        SampleError: at the first line that is no such timeline, naming file and line.
    """
    return accept_all(_scan_lines(path, _text_stream_reader(seconds, first_seconds), "text_stream"), path)


def scan_text_stream(
    path: StrPath, *, seconds: float = 1.0, first_seconds: float = 1.0
) -> tuple[list[Sample], list[Rejection]]:
    """As `read_text_stream`, with a rejection for each line that it would raise at."""
    return sort_out(_scan_lines(path, _text_stream_reader(seconds, first_seconds), "text_stream"))


def write_text_stream(
    samples: Iterable[Sample], path: StrPath, *, seconds: float = 1.0, first_seconds: float = 1.0
) -> None:
    """Write the JSONL of words and beside it the `<stem>_seeks.jsonl` that StreamingVLM's loader wants.

    A thought that does not come with its words' times is written as one word, as long as its segment.

    Raises:
        SampleError: for a sample that the layout cannot say: segments other than `seconds` and `first_seconds` give,
            a segment without thought or silence, standing queries, options, other entries of `meta`, ...
    """
    _write_lines(samples, path, _text_stream_record, _text_stream_reader(seconds, first_seconds), "text_stream")


def _text_stream_reader(seconds: float, first_seconds: float) -> Reader:
    if not (is_seconds(seconds) and is_seconds(first_seconds) and seconds > 0 and first_seconds > 0):
        raise ValueError(f"seconds and first_seconds must be more than 0, not {seconds} and {first_seconds}")

    def read(record: Record, default_id: str) -> Sample:
        chat = _read_chat(record, "text_stream", default_id)
        words = _rows(chat.stream["text_stream"], "text_stream", ("start", "end", "word"))
        qas = _rows(chat.stream.get("qa_stream", []), "qa_stream", ("start", "time", "question", "answer"))
        end = chat.video.end
        if end is None:
            end = max((row[1] for row in words + qas), default=chat.video.start)
        spans = _spans(chat.video.start, end, seconds, first_seconds)
        if chat.video.end is None and spans:  # the last segment is not known to be shorter than the others
            spans[-1] = (spans[-1][0], spans[-1][0] + (seconds if len(spans) > 1 else first_seconds))
        events = _play(spans, words, qas, _ids(chat.stream, qas))
        own = {}
        if words != _phrases(events):
            own["words"] = words
        if any(start != time for start, time, _, _ in qas):
            own["qa_starts"] = [row[0] for row in qas]
        return chat.sample(events, own)

    return read


def _spans(start: float, end: float, seconds: float, first_seconds: float) -> list[tuple[float, float]]:
    edges = [start]
    while edges[-1] < end:
        edges.append(start + first_seconds + seconds * (len(edges) - 1))
    # Rounding must not leave a sliver at the end: no frame falls in it.
    while len(edges) > 2 and edges[-2] > end - 1e-6:
        edges.pop()
    if len(edges) > 1:
        edges[-1] = end
    return list(zip(edges, edges[1:], strict=False))


def _play(spans: list[tuple[float, float]], words: list[Any], qas: list[Any], ids: list[str]) -> list[Event]:
    events: list[Event] = []
    word = qa = 0
    for start, end in spans:
        first_word, first_qa = word, qa
        while word < len(words) and words[word][1] <= end:
            word += 1
        while qa < len(qas) and qas[qa][1] <= end:
            qa += 1
        asked = [(Query(ids[i], qas[i][1], qas[i][2]), Answer(end, qas[i][3], ids[i])) for i in range(first_qa, qa)]
        phrase = " ".join(text.strip() for _, _, text in words[first_word:word] if text.strip())
        events += [query for query, _ in asked if query.time < end]
        events.append(Segment(start, end))
        events += [query for query, _ in asked if query.time == end]
        events += [answer for _, answer in asked]
        events.append(Thought(end, phrase) if phrase else Silence(end))
    for name, rows, used in (("text_stream", words, word), ("qa_stream", qas, qa)):
        if used < len(rows):
            fail("", f"{name}[{used}]", f"{rows[used]} comes after the video's end; correct it or video_end")
    return events


def _phrases(events: Iterable[Event]) -> list[list[Any]]:
    rows, start = [], 0.0
    for event in events:
        if isinstance(event, Segment):
            start = event.start
        elif isinstance(event, Thought):
            rows.append([start, event.time, event.text])
    return rows


def _text_stream_record(sample: Sample) -> Record:
    own = _own(sample, "text_stream")
    words = own.get("words", _phrases(sample.events))
    queries = _in_order(sample)
    starts = own.get("qa_starts", [query.time for query, _ in queries])
    qas = [[start, q.time, q.text, answer.text] for start, (q, answer) in zip(starts, queries, strict=False)]
    stream = {"text_stream": words} | ({"qa_stream": qas} if qas else {}) | _query_ids(queries)
    return _chat_record(sample, "text_stream", stream)


# ---- TWW: one JSON file a sample; a conversation with times, and segments in the metadata. It has no thoughts.


def read_tww(path: StrPath) -> list[Sample]:
    """TWW's samples: one JSON file, or the `*.json` of a folder in order of name, as its loader takes them.

    - `metadata.segment_info`: Segments; `metadata.video_duration`: Video.end.
    - a human turn: Query at its `timestamps`, with the text of `value` (options and all) less the tag "<video>";
      the gpt turn after it: Answer at the same time, with the whole of its text.
    - everything else (frame files, resolutions, original_questions, ...): meta["tww"].

    Raises:
        SampleError: at the first file that is no such timeline, naming the file.
    """
    found = _scan_tww(path)
    return [sample if isinstance(sample, Sample) else _raise(sample) for _, sample in found]


def scan_tww(path: StrPath) -> tuple[list[Sample], list[Rejection]]:
    """As `read_tww`, with a rejection for each file that it would raise at; its `line` counts the files from 1."""
    return sort_out(_scan_tww(path))


def write_tww(samples: Iterable[Sample], path: StrPath) -> None:
    """Write one `<id>.json` a sample into the folder `path`, which holds no JSON yet.

    TWW's loader also wants `sample_timestamps`, `frame_files`, `frames_path` and `num_frames`: give them in
    meta["tww"]["metadata"], and those of the segments in meta["tww"]["segments"].

    Raises:
        SampleError: for a folder with JSON in it, and for a sample that TWW cannot say: thoughts, silence, memory, a
            video that does not start at 0, several answers or answers later than their query, ...
    """
    folder = Path(path)
    if any(folder.glob("*.json")):
        fail(os.fspath(path), "", "holds JSON files already, which would be read with the new ones; choose an empty folder")
    ids: dict[str, int] = {}
    records: dict[str, Record] = {}
    for n, sample in enumerate(samples, start=1):
        where = f"{os.fspath(path)}:{n}"
        validate(sample, where)
        claim(sample.id, n, ids)
        records[f"{sample.id}.json"] = _checked(sample, _tww_record, _tww_sample, Path(f"{sample.id}.json").stem, where)
    for name, record in records.items():
        with replacing(folder / name) as part:
            Path(part).write_text(json.dumps(record, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _scan_tww(path: StrPath) -> Found:
    files = sorted(Path(path).glob("*.json")) if os.path.isdir(path) else [Path(path)]
    if not files:
        fail(os.fspath(path), "", "holds no *.json file; name a TWW sample or the folder of them")
    for n, file in enumerate(files, start=1):
        try:
            yield n, _tww_sample(read_json(file.read_bytes()), file.stem)
        except SampleError as error:
            yield n, SampleError(f"{file}: {error}")


def _raise(error: SampleError) -> Sample:
    raise error


def _tww_sample(record: Record, default_id: str) -> Sample:
    top, top_rest = _split(record, "", ("video", "conversations", "metadata"), needed=("video", "conversations"))
    metadata, metadata_rest = _split(top.get("metadata"), "metadata", ("timestamps", "video_duration", "segment_info"))
    spans = [
        _split(span, f"metadata.segment_info[{i}]", ("start", "end"), needed=("start", "end"))
        for i, span in enumerate(_list(metadata.get("segment_info"), "metadata.segment_info"))
    ]
    turns = [
        _split(turn, f"conversations[{i}]", ("from", "value", "timestamps", "id"), needed=("from", "value"))
        for i, turn in enumerate(_list(top["conversations"], "conversations"))
    ]
    events: list[Event] = [Segment(_number(span["start"]), _number(span["end"])) for span, _ in spans]
    tag = ""
    for i, (turn, _) in enumerate(turns):
        name = f"conversations[{i}]"
        if turn["from"] != ("human", "gpt")[i % 2]:
            fail("", f"{name}.from", f"is {turn['from']!r}; human and gpt must take turns, human first")
        if not isinstance(turn["value"], str):
            fail("", f"{name}.value", f"must be text, not {turn['value']!r}")
        if i % 2 == 0:
            text, time = turn["value"], _number(turn.get("timestamps"))
            if not is_seconds(time):
                fail("", f"{name}.timestamps", f"must be a finite number of seconds >= 0, not {time!r}")
            if i == 0:
                tag = next((t for t in ("<video>\n", "<video>") if text.startswith(t)), "")
                text = text[len(tag) :]
            query = Query(turn.get("id", f"q{i // 2}"), time, text)
            events.append(query)
        else:
            events.append(Answer(query.time, turn["value"], query.id))
    asked = [event.time for event in events if isinstance(event, Query)]
    if metadata.get("timestamps", asked) != asked:
        fail("", "metadata.timestamps", f"{metadata['timestamps']} are not those of the human turns, {asked}")
    own = {
        "top": top_rest,
        "metadata": metadata_rest,
        "segments": _unless_empty([rest for _, rest in spans]),
        "turns": _unless_empty([rest for _, rest in turns]),
        "tag": None if tag == "<video>\n" or not turns else tag,
    }
    meta = {name: value for name, value in own.items() if value or value == ""}
    video = Video(top["video"], 0.0, _number(metadata.get("video_duration")))
    for event in events:
        if not is_seconds(event.time):
            fail("", "metadata.segment_info", f"must have finite times in seconds >= 0, not {event}")
    ordered = tuple(sorted(events, key=lambda event: event.time))
    return _valid(Sample(default_id, video, ordered, meta={"tww": meta} if meta else {}))


def _unless_empty(rests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return rests if any(rests) else []


def _tww_record(sample: Sample) -> Record:
    own = _own(sample, "tww")
    queries = _in_order(sample)
    rests = iter([*own.get("turns", ()), *[{}] * 2 * len(queries)])
    turns: list[Record] = []
    for i, (query, answer) in enumerate(queries):
        tag = own.get("tag", "<video>\n") if i == 0 else ""
        turns.append({"from": "human", "timestamps": query.time, "value": tag + query.text} | dict(next(rests)))
        if query.id != f"q{i}":
            turns[-1]["id"] = query.id
        turns.append({"from": "gpt", "value": answer.text} | dict(next(rests)))
    segments = sample.segments()
    rests = iter([*own.get("segments", ()), *[{}] * len(segments)])
    metadata = {
        **own.get("metadata", {}),
        "timestamps": [query.time for query, _ in queries],
        "segment_info": [{"start": s.start, "end": s.end} | dict(next(rests)) for s in segments],
    }
    if sample.video.end is not None:
        metadata["video_duration"] = sample.video.end
    return {"video": sample.video.path, "conversations": turns, "metadata": metadata} | dict(own.get("top", {}))
