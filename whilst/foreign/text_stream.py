"""StreamingVLM's and LiveCC's text_stream: words with their own times, said while the video plays.

Sources: StreamingVLM, `streaming_vlm/data/lmm_dataset.py`; LiveCC, `data/lmm_dataset.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from whilst.foreign.chat import chat_record, read_chat, scan_lines, stated_ids, write_lines
from whilst.foreign.layout import Reader, Record, answered, own_meta, rows
from whilst.sample import Rejection, StrPath, accept_all, sort_out
from whilst.timeline import Answer, Event, Query, Sample, Segment, Silence, Thought, Video, fail, is_seconds


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

    LiveCC's last line, a list of byte offsets, is passed over.

    Raises:
        SampleError: at the first line that is no such timeline, naming file and line.
    """
    return accept_all(scan_lines(path, _text_stream_reader(seconds, first_seconds), "text_stream"), path)


def scan_text_stream(
    path: StrPath, *, seconds: float = 1.0, first_seconds: float = 1.0
) -> tuple[list[Sample], list[Rejection]]:
    """As `read_text_stream`, with a rejection for each line that it would raise at."""
    return sort_out(scan_lines(path, _text_stream_reader(seconds, first_seconds), "text_stream"))


def write_text_stream(
    samples: Iterable[Sample], path: StrPath, *, seconds: float = 1.0, first_seconds: float = 1.0
) -> None:
    """Write the JSONL of words and beside it the `<stem>_seeks.jsonl` that StreamingVLM's loader wants.

    A thought that does not come with its words' times is written as one word, as long as its segment.

    Raises:
        SampleError: for a sample that the layout cannot say: segments other than `seconds` and `first_seconds` give,
            a segment without thought or silence, standing queries, options, other entries of `meta`, ...
    """
    write_lines(samples, path, _text_stream_record, _text_stream_reader(seconds, first_seconds), "text_stream")


_LONGEST = 1_000_000  # segments in a video: what is longer is a slip of the pen, not a reason to run out of memory


def _text_stream_reader(seconds: float, first_seconds: float) -> Reader:
    if not (is_seconds(seconds) and is_seconds(first_seconds) and seconds > 0 and first_seconds > 0):
        raise ValueError(f"seconds and first_seconds must be more than 0, not {seconds} and {first_seconds}")

    def read(record: Record, default_id: str) -> Sample:
        chat = read_chat(record, "text_stream", default_id)
        words = rows(chat.stream["text_stream"], "text_stream", ("start", "end", "word"))
        for i, (start, end, _) in enumerate(words):
            if end < start:
                fail("", f"text_stream[{i}]", f"runs backwards, from {start} s to {end} s; write [start, end, word]")
        qas = rows(chat.stream.get("qa_stream", []), "qa_stream", ("start", "time", "question", "answer"))
        last = max((row[1] for row in words + qas), default=chat.video.start)
        spans = _spans(chat.video, last, seconds, first_seconds)
        events = _play(spans, words, qas, chat.query_ids(len(qas)))
        own: dict[str, Any] = {}
        if words != _phrases(events):
            own["words"] = words
        if any(start != time for start, time, _, _ in qas):
            own["qa_starts"] = [row[0] for row in qas]
        return chat.sample(events, own)

    return read


def _spans(video: Video, last: float, seconds: float, first_seconds: float) -> list[tuple[float, float]]:
    for name, time in (("video_start", video.start), ("video_end", 0.0 if video.end is None else video.end)):
        if not is_seconds(time):
            fail("", name, f"must be a finite number of seconds >= 0, not {time!r}")
    end = last if video.end is None else video.end
    if end - video.start > _LONGEST * seconds:
        fail("", "video_end", f"{end} s is more than {_LONGEST} segments away; correct it or the times of the words")
    edges = [video.start]
    while edges[-1] < end:
        edges.append(video.start + first_seconds + seconds * (len(edges) - 1))
    if video.end is not None and len(edges) > 1:
        # Rounding must not leave a sliver at the end: no frame would fall in it.
        while len(edges) > 2 and edges[-2] > end - 1e-6:
            edges.pop()
        edges[-1] = end
    return list(pairwise(edges))


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
    for name, stream, used in (("text_stream", words, word), ("qa_stream", qas, qa)):
        if used < len(stream):
            fail("", f"{name}[{used}]", f"{stream[used]} comes after the video's end; correct it or video_end")
    return events


def _phrases(events: Iterable[Event]) -> list[list[Any]]:
    """Each thought as one word that is as long as its segment."""
    words, start = [], 0.0
    for event in events:
        if isinstance(event, Segment):
            start = event.start
        elif isinstance(event, Thought):
            words.append([start, event.time, event.text])
    return words


def _text_stream_record(sample: Sample, default_id: str) -> Record:
    own, pairs = own_meta(sample, "text_stream"), answered(sample)
    words = own.get("words", _phrases(sample.events))
    starts = own.get("qa_starts", [query.time for query, _ in pairs])
    qas = [[start, q.time, q.text, answer.text] for start, (q, answer) in zip(starts, pairs, strict=False)]
    stream = {"text_stream": words} | ({"qa_stream": qas} if qas else {}) | stated_ids(pairs)
    return chat_record(sample, "text_stream", default_id, stream)
