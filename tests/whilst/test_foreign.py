"""Foreign layouts: the events they mean, the same JSON back, errors for bad input and for what they cannot say."""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from whilst.foreign import (
    read_text_stream,
    read_tww,
    read_vst,
    scan_text_stream,
    scan_tww,
    scan_vst,
    with_video_root,
    write_text_stream,
    write_tww,
    write_vst,
)
from whilst.sample import (
    Answer,
    Event,
    Query,
    Sample,
    SampleError,
    Segment,
    Silence,
    Thought,
    Video,
    read_jsonl,
    scan_jsonl,
    to_record,
    validate,
    write_jsonl,
)

Json = Any


def chat(video: Json, text: Json, stream: Json) -> Json:
    """The two messages that VST, StreamingVLM and LiveCC share."""
    return [
        {"role": "user", "content": [{"type": "video", **video}, {"type": "text", **text}]},
        {"role": "assistant", "content": [{"type": "text_stream", **stream}]},
    ]


VST = chat(
    {"video": "clips/a.mp4", "video_start": 10.0, "video_end": 40.0, "max_pixels": 1000},
    {"text": "Think as you watch.", "previous": "Time=0-10s a cat .\n"},
    {
        "text_stream": [[10, 20.5, "a dog runs"], [20.5, 30, ""]],
        "qa_stream": [
            [30.0, 40.0, "What now?", "It sleeps."],  # frames that no thought covers
            [12.0, 12.0, "Who?", "A dog."],  # in mid-stream, listed after a later question
            [15.0, 25.0, "Where?", "In the park."],  # frames that thoughts cover
            [32.0, 40.0, "How?", "Quietly."],  # frames that the first question brought
        ],
        "source": "made up",
    },
)
VST_EVENTS: tuple[Event, ...] = (
    Query("q1", 12.0, "Who?"),
    Answer(12.0, "A dog.", "q1"),
    Query("q2", 15.0, "Where?"),
    Segment(10.0, 20.5),
    Thought(20.5, "a dog runs"),
    Answer(25.0, "In the park.", "q2"),
    Segment(20.5, 30.0),
    Silence(30.0),
    Query("q0", 30.0, "What now?"),
    Query("q3", 32.0, "How?"),
    Segment(30.0, 40.0),
    Answer(40.0, "It sleeps.", "q0"),
    Answer(40.0, "Quietly.", "q3"),
)
VST_PLAIN = chat({"video": "b.mp4", "video_start": 0.0}, {"text": ""}, {"text_stream": [], "qa_stream": []})
VST_IMAGES = chat(
    {"video": ["d/1.jpg", "d/2.jpg"], "video_start": 0.0, "video_end": 2.0},
    {"text": "Think."},
    {"text_stream": [[0.0, 2.0, "two frames"]], "qa_stream": []},
)
VST_EXTRA = copy.deepcopy(VST_IMAGES)
VST_EXTRA[0] |= {"id": "mine", "weight": 2}
VST_EXTRA[1] |= {"name": "teacher"}
VST_EXTRA[0]["content"][1]["title"] = "T"

WORDS = chat(
    {"video": "g.mp4", "video_start": 5.0, "video_end": 8.5},
    {"text": "Comment.", "title": "Game", "previous": "so far"},
    {
        "text_stream": [[4.5, 5.2, "And "], [5.2, 6.0, "he"], [6.0, 6.1, "..."], [7.9, 8.2, "shoots"], [8.2, 8.4, "!"]],
        "qa_stream": [[5.0, 6.5, "Score?", "1:0"], [7.0, 7.0, "Who?", "Nine."]],
    },
)
WORDS_EVENTS: tuple[Event, ...] = (
    Segment(5.0, 6.0),
    Thought(6.0, "And he"),
    Query("q0", 6.5, "Score?"),
    Segment(6.0, 7.0),
    Query("q1", 7.0, "Who?"),
    Answer(7.0, "1:0", "q0"),
    Answer(7.0, "Nine.", "q1"),
    Thought(7.0, "..."),
    Segment(7.0, 8.0),
    Silence(8.0),
    Segment(8.0, 8.5),
    Thought(8.5, "shoots !"),
)
WORDS_PREVIOUS = chat(
    {"video": "g.mp4", "video_start": 0.0, "video_end": 2.0, "previous": "with the video"},
    {"text": ""},
    {"text_stream": [[0.0, 1.0, "one phrase"]]},
)

TWW = {
    "video": "raw/0.mp4",
    "conversations": [
        {"from": "human", "timestamps": 5.0, "value": "<video>\nWhat is going on?\nA. Rain\nB. Sun"},
        {"from": "gpt", "value": "Drops fall.\nAnswer: A", "note": "kept"},
        {"from": "human", "timestamps": 10, "value": "And now?"},
        {"from": "gpt", "value": "Sun."},
    ],
    "metadata": {
        "dataset": "made up",
        "timestamps": [5.0, 10.0],
        "original_resolution": [1280, 720],
        "video_duration": 15.0,
        "sample_timestamps": [1.0, 6.0],
        "frame_files": ["1.jpg", "2.jpg"],
        "segment_info": [{"start": 0.0, "end": 5.0, "num_frames": 1}, {"start": 5.0, "end": 10.0, "num_frames": 1}],
        "is_image_sequence": False,
        "index": 0,
        "original_questions": [{"question": "What is going on?", "options": ["A. Rain", "B. Sun"], "answer": "A"}],
    },
    "extra": None,
}
TWW_EVENTS: tuple[Event, ...] = (
    Segment(0.0, 5.0),
    Query("q0", 5.0, "What is going on?\nA. Rain\nB. Sun"),
    Answer(5.0, "Drops fall.\nAnswer: A", "q0"),
    Segment(5.0, 10.0),
    Query("q1", 10.0, "And now?"),
    Answer(10.0, "Sun.", "q1"),
)


def put(path: Path, *records: Json) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def lines(path: Path) -> list[Json]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# ---- What the records mean.


def test_vst_events(tmp_path: Path) -> None:
    found, plain, images, extra = read_vst(put(tmp_path / "x.jsonl", VST, VST_PLAIN, VST_IMAGES, VST_EXTRA))
    assert found.events == VST_EVENTS
    assert (found.id, found.video, found.memory) == (
        "vst-1",
        Video("clips/a.mp4", 10.0, 40.0),
        "Time=0-10s a cat .\n",
    )
    assert found.meta["instruction"] == "Think as you watch."
    assert plain == Sample("vst-2", Video("b.mp4"), ())
    assert images.video == Video("d", 0.0, 2.0) and images.meta["vst"] == {"images": ["1.jpg", "2.jpg"]}
    assert extra.id == "mine" and extra.events == images.events


def test_text_stream_events(tmp_path: Path) -> None:
    found, previous = read_text_stream(put(tmp_path / "x.jsonl", WORDS, WORDS_PREVIOUS))
    assert found.events == WORDS_EVENTS
    assert (found.id, found.video, found.memory) == ("text_stream-1", Video("g.mp4", 5.0, 8.5), "so far")
    assert previous.memory == "with the video"
    assert previous.events == (Segment(0.0, 1.0), Thought(1.0, "one phrase"), Segment(1.0, 2.0), Silence(2.0))
    assert previous.meta == {"text_stream": {"previous_in": "video"}}  # the words say no more than the thoughts


def test_text_stream_with_livecc_turns(tmp_path: Path) -> None:
    """The first turn covers 3 s, and the last line of the file holds byte offsets."""
    found = read_text_stream(put(tmp_path / "x.jsonl", WORDS, [0, 120]), first_seconds=3.0)
    assert len(found) == 1
    assert [(s.start, s.end) for s in found[0].segments()] == [(5.0, 8.0), (8.0, 8.5)]
    assert [e.text for e in found[0].events if isinstance(e, Thought)] == ["And he ...", "shoots !"]
    assert [a.time for a in found[0].events if isinstance(a, Answer)] == [8.0, 8.0]


@pytest.mark.parametrize(
    ("start", "end", "seconds", "n"),
    [(0.0, 2.1, 0.3, 7), (0.1, 10.1, 1.0, 10), (0.0, 1.0, 0.1, 10), (0.0, 0.5, 1.0, 1)],
)
def test_text_stream_segments_leave_no_sliver(tmp_path: Path, start: float, end: float, seconds: float, n: int) -> None:
    record = chat({"video": "v", "video_start": start, "video_end": end}, {"text": ""}, {"text_stream": []})
    (found,) = read_text_stream(put(tmp_path / "x.jsonl", record), seconds=seconds, first_seconds=seconds)
    segments = found.segments()
    assert len(segments) == n and segments[0].start == start and segments[-1].end == end
    assert min(s.end - s.start for s in segments) > 0.99 * min(seconds, end - start)
    assert all(a.end == b.start for a, b in pairwise(segments))


def test_text_stream_without_an_end_runs_until_the_last_word(tmp_path: Path) -> None:
    record = chat({"video": "v", "video_start": 1.0}, {"text": ""}, {"text_stream": [[1.0, 2.5, "hm"]]})
    (found,) = read_text_stream(put(tmp_path / "x.jsonl", record))
    assert found.video.end is None
    assert found.events == (Segment(1.0, 2.0), Silence(2.0), Segment(2.0, 3.0), Thought(3.0, "hm"))


def test_tww_events(tmp_path: Path) -> None:
    (found,) = read_tww(put(tmp_path / "data_000000.json", TWW))
    assert found.events == TWW_EVENTS
    assert (found.id, found.video) == ("data_000000", Video("raw/0.mp4", 0.0, 15.0))


# ---- There and back.

LAYOUTS: list[tuple[Callable[..., list[Sample]], Callable[..., None], list[Json]]] = [
    (read_vst, write_vst, [VST, VST_PLAIN, VST_IMAGES, VST_EXTRA]),
    (read_text_stream, write_text_stream, [WORDS, WORDS_PREVIOUS]),
]


@pytest.mark.parametrize(("read", "write", "records"), LAYOUTS, ids=["vst", "text_stream"])
def test_lines_round_trip(
    tmp_path: Path, read: Callable[..., list[Sample]], write: Callable[..., None], records: list[Json]
) -> None:
    samples = read(put(tmp_path / "x.jsonl", *records))
    write(samples, tmp_path / "y_with_seeks.jsonl")
    assert lines(tmp_path / "y_with_seeks.jsonl") == records
    assert read(tmp_path / "y_with_seeks.jsonl") == samples
    # The byte offsets lead to the records.
    data = (tmp_path / "y_with_seeks.jsonl").read_bytes()
    seeks = json.loads((tmp_path / "y_seeks.jsonl").read_text())
    assert [json.loads(data[at:].split(b"\n")[0]) for at in seeks] == records
    # Another order, and our own files in between, lose nothing either: ids that are not the default are written.
    write_jsonl([with_video_root(s, tmp_path) for s in reversed(samples)], tmp_path / "own.jsonl")
    own = read_jsonl(tmp_path / "own.jsonl")
    write(own, tmp_path / "z.jsonl")
    assert read(tmp_path / "z.jsonl") == own


def test_tww_round_trip(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    untagged = json.loads(json.dumps(TWW).replace("<video>\\n", ""))
    tagged = json.loads(json.dumps(TWW).replace("<video>\\n", "<video>"))
    quiet = {"video": "v.mp4", "conversations": [], "metadata": {"timestamps": [], "segment_info": []}}
    for name, record in {"b": TWW, "a": untagged, "c": quiet, "d.e": tagged}.items():
        put(tmp_path / "in" / f"{name}.json", record)
    samples = read_tww(tmp_path / "in")
    assert [s.id for s in samples] == ["a", "b", "c", "d.e"]
    assert {s.events for s in samples} == {TWW_EVENTS, ()}
    write_tww(samples, tmp_path / "out")
    for name in os.listdir(tmp_path / "in"):
        assert json.loads((tmp_path / "out" / name).read_text()) == json.loads((tmp_path / "in" / name).read_text())
    assert read_tww(tmp_path / "out") == samples
    write_jsonl(samples, tmp_path / "own.jsonl")
    assert [s.events for s in read_jsonl(tmp_path / "own.jsonl")] == [s.events for s in samples]
    with pytest.raises(SampleError, match="holds JSON files already"):
        write_tww(samples, tmp_path / "out")


def test_samples_that_were_never_foreign(tmp_path: Path) -> None:
    events = (Segment(0.0, 1.0), Thought(1.0, "a cat"), Segment(1.0, 2.0), Silence(2.0))
    asked = (
        Query("who", 2.0, "Who ?"),
        Answer(2.0, "a cat", "who"),
        Query("q0", 2.0, "How ?"),
        Answer(2.0, "so", "q0"),
    )
    video = Video("v.mp4", 0.0, 2.0)
    vst = Sample("mine", video, (*events, *asked), "m", {"instruction": "Think."})
    write_vst([vst], tmp_path / "vst.jsonl")
    assert read_vst(tmp_path / "vst.jsonl") == [vst]
    words = vst.with_events((*events[:3], asked[0], asked[2], asked[1], asked[3], events[3]))
    write_text_stream([words], tmp_path / "words.jsonl")
    assert read_text_stream(tmp_path / "words.jsonl") == [words]
    tww = Sample("mine", video, (Segment(0.0, 1.0), *asked))
    write_tww([tww], tmp_path / "tww")
    assert read_tww(tmp_path / "tww") == [tww]


# ---- What a layout cannot say is an error in its writer, and leaves no file behind.

QUERY, ANSWER = Query("q0", 2.0, "Who?"), Answer(2.0, "A cat.", "q0")
BASE = (Segment(0.0, 1.0), Thought(1.0, "x"), Segment(1.0, 2.0), Silence(2.0))
TALK = (Segment(0.0, 1.0), Segment(1.0, 2.0))


def timeline(*events: Event) -> Sample:
    return Sample("a", Video("v.mp4", 0.0, 4.0), events)


ASKED_IN_ANY_LAYOUT: dict[str, tuple[Event, ...]] = {
    "kind": (replace(QUERY, kind="backward"), ANSWER),
    "options": (replace(QUERY, options=("A cat.",)), ANSWER),
    "window": (replace(QUERY, window=(2.0, 2.0)), ANSWER),
    "evidence": (replace(QUERY, evidence=((0.0, 1.0),)), ANSWER),
    "knowable_at": (replace(QUERY, knowable_at=1.0), ANSWER),
    "two answers": (QUERY, ANSWER, Answer(2.0, "Still.", "q0")),
    "standing silence": (QUERY, Silence(2.0, "q0"), ANSWER),
}
CANNOT: list[tuple[str, Callable[..., None], Sample]] = [
    *((f"vst {name}", write_vst, timeline(*BASE, *asked)) for name, asked in ASKED_IN_ANY_LAYOUT.items()),
    *((f"tww {name}", write_tww, timeline(*TALK, *asked)) for name, asked in ASKED_IN_ANY_LAYOUT.items()),
    *(
        (f"words {name}", write_text_stream, replace(timeline(*BASE[:3], *asked, BASE[3]), video=Video("v", 0.0, 2.0)))
        for name, asked in ASKED_IN_ANY_LAYOUT.items()
    ),
    ("vst meta", write_vst, replace(timeline(*BASE), meta={"subkinds": {}})),
    ("vst null instruction", write_vst, replace(timeline(*BASE), meta={"instruction": ""})),
    ("vst own meta", write_vst, replace(timeline(*BASE), meta={"vst": [1]})),
    ("vst images elsewhere", write_vst, replace(timeline(*BASE), meta={"vst": {"images": ["a/1.jpg", "b/2.jpg"]}})),
    ("vst override", write_vst, replace(timeline(*BASE), meta={"vst": {"video": {"video_start": 1.0}}})),
    ("vst segment without a thought", write_vst, timeline(Segment(0.0, 1.0))),
    ("vst empty thought", write_vst, timeline(Segment(0.0, 1.0), Thought(1.0, ""))),
    ("vst late thought", write_vst, timeline(Segment(0.0, 1.0), Thought(1.5, "x"))),
    ("vst two thoughts", write_vst, timeline(*BASE[:2], Thought(1.0, "y"))),
    ("vst thought before its segment", write_vst, timeline(Thought(1.0, "x"), Segment(0.0, 1.0))),
    ("vst silence alone", write_vst, timeline(Silence(1.0))),
    ("words long segments", write_text_stream, timeline(Segment(0.0, 2.0), Thought(2.0, "x"))),
    ("words gap", write_text_stream, timeline(BASE[0], BASE[1], Segment(2.0, 3.0), Silence(3.0))),
    ("words late answer", write_text_stream, timeline(QUERY, Answer(3.5, "x", "q0"))),
    ("words spaces", write_text_stream, replace(timeline(BASE[0], Thought(1.0, " x")), video=Video("v", 0.0, 1.0))),
    (
        "words that say something else",
        write_text_stream,
        replace(
            timeline(*BASE),
            video=Video("v", 0.0, 2.0),
            meta={"text_stream": {"words": [[0.0, 1.0, "a"], [0.5, 1.0, "b"]]}},
        ),
    ),
    ("tww thought", write_tww, timeline(*BASE)),
    ("tww silence", write_tww, timeline(*TALK, Silence(2.0))),
    ("tww memory", write_tww, replace(timeline(*TALK), memory="m")),
    ("tww start", write_tww, replace(timeline(TALK[1]), video=Video("v", 1.0, 4.0))),
    ("tww late answer", write_tww, timeline(*TALK, QUERY, Answer(3.0, "x", "q0"))),
    ("tww meta", write_tww, replace(timeline(*TALK), meta={"instruction": "x"})),
    ("tww id", write_tww, replace(timeline(*TALK), id="a/b")),
    ("tww too many rests", write_tww, replace(timeline(*TALK), meta={"tww": {"segments": [{}, {}, {"n": 1}]}})),
]


@pytest.mark.parametrize(("write", "sample"), [case[1:] for case in CANNOT], ids=[case[0] for case in CANNOT])
def test_what_cannot_be_said_is_refused(tmp_path: Path, write: Callable[..., None], sample: Sample) -> None:
    validate(sample)  # nothing is wrong with it but the layout
    name = "out" if write is write_tww else "out.jsonl"
    with pytest.raises(SampleError, match=rf"{name}:1: .*nothing was written"):
        write([sample], tmp_path / name)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("write", [write_vst, write_text_stream, write_tww])
def test_writers_refuse_bad_samples_and_duplicate_ids(tmp_path: Path, write: Callable[..., None]) -> None:
    name = "out" if write is write_tww else "out.jsonl"
    with pytest.raises(SampleError, match=rf"{name}:1: events\[0\]\.end: .*not after"):
        write([timeline(Segment(1.0, 1.0))], tmp_path / name)
    empty = Sample("a", Video("v", 0.0), ())
    with pytest.raises(SampleError, match=rf"{name}:2: id: 'a' is the id of line 1 too"):
        write([empty, empty], tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_line_files_end_in_jsonl(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match=r"must end in \.jsonl"):
        write_vst([], tmp_path / "x.json")


# ---- Bad input.


def edited(record: Json, path: str, value: Json) -> Json:
    record = copy.deepcopy(record)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    target = record
    for part in parents:
        target = target[part]
    target[last] = value
    return record


STREAM = "1.content.0"
BAD_CHAT: list[tuple[Json, str]] = [
    ({}, "two messages"),
    (["a", 2], "user: must be an object"),
    (edited(VST, "0.role", "system"), "role: "),
    (edited(VST, "0.content", "hello"), "user.content: must be a list"),
    (edited(VST, "0.content", VST[0]["content"][:1]), "user.content: must be a video and a text"),
    (edited(VST, "0.content.0.type", "image"), "user.content: must be a video and a text"),
    (edited(VST, "0.content.0.video", None), "video.path: must be text"),
    (edited(VST, "0.content.0.video", []), "list of image paths"),
    (edited(VST, "0.content.0.video", ["a/1.jpg", "b/2.jpg"]), "must lie in one folder"),
    (edited(VST, "0.content.0.video_start", -1), "video.start: must be a finite number"),
    (edited(VST, "0.content.0.previous", "x"), "has `previous` twice"),
    (edited(VST, "0.content.1.previous", 3), "memory: must be text"),
    (edited(VST, "0.id", 5), "id: must be text"),
    (edited(VST, "1.content", [{"type": "text", "text": "hi"}]), "plain chat is no timeline"),
    (edited(VST, f"{STREAM}.text_stream", {}), "text_stream: must be a list"),
    (edited(VST, f"{STREAM}.text_stream.1", [20.5, 30.0]), "text_stream[1]: must be [start, end, thought]"),
    (edited(VST, f"{STREAM}.text_stream.1.0", "20"), "text_stream[1]: start must be a finite number"),
    (edited(VST, f"{STREAM}.text_stream.1.1", math.nan), "text_stream[1]: end must be a finite number"),
    (edited(VST, f"{STREAM}.text_stream.1.2", None), "text_stream[1]: thought must be text"),
    (edited(VST, f"{STREAM}.text_stream.1.0", 19.0), "text_stream[1]: starts at 19.0 s, before the interval above"),
    (edited(VST_IMAGES, f"{STREAM}.text_stream.0.0", 2.0), "not after the segment's start"),
    (edited(VST, f"{STREAM}.text_stream.1.1", 41.0), "outside the video's"),
    (edited(VST, f"{STREAM}.qa_stream.1.1", 11.0), "qa_stream[1]: runs backwards"),
    (edited(VST, f"{STREAM}.qa_stream.0.0", 29.0), "qa_stream[0]: [29.0, 40.0] s lies partly in intervals"),
    (edited(VST, f"{STREAM}.qa_stream.0.1", 41.0), "outside the video's"),
    (edited(VST, f"{STREAM}.qa_stream.0.3", ""), "must not be empty"),
    (edited(VST, f"{STREAM}.query_ids", ["a"]), "query_ids: must be 4 texts"),
    (edited(VST, f"{STREAM}.query_ids", ["a", "b", "c", "a"]), "a second query 'a'"),
]
BAD_WORDS: list[tuple[Json, str]] = [
    (edited(WORDS, f"{STREAM}.text_stream.4.1", 9.0), "text_stream[4]: [8.2, 9.0, '!'] comes after the video's end"),
    (edited(WORDS, f"{STREAM}.text_stream.4.0", 8.45), "text_stream[4]: runs backwards"),
    (edited(WORDS, f"{STREAM}.qa_stream.1.1", 9.0), "comes after the video's end"),
    (edited(WORDS, f"{STREAM}.qa_stream.1.1", 6.25), "comes after an event at 6.5 s"),
    (edited(WORDS, f"{STREAM}.qa_stream.0.1", 4.0), "outside the video's"),
    (edited(WORDS, "0.content.0.video_end", 1e300), "more than 1000000 segments away"),
    (edited(WORDS, "0.content.0.video_end", math.inf), "video_end: must be a finite number"),
    (edited(WORDS, "0.content.0.video_start", None), "video_start: must be a finite number"),
    (edited(WORDS, "0.content.0.video_end", 4.0), "comes after the video's end"),
]
BAD_TWW: list[tuple[Json, str]] = [
    ([TWW], "must be an object"),
    ({"video": "v", "conversations": []}, "field missing: metadata"),
    (edited(TWW, "metadata", None), "metadata: must be an object"),
    (edited(TWW, "video", 3), "video.path: must be text"),
    (edited(TWW, "metadata.segment_info", None), "metadata.segment_info: must be a list"),
    (edited(TWW, "metadata.segment_info.1", {"start": 0.0}), "metadata.segment_info[1]: field missing: end"),
    (edited(TWW, "metadata.segment_info.1.end", "10"), "metadata.segment_info[1]: start and end must be finite"),
    (edited(TWW, "metadata.segment_info.1.start", 4.0), "overlaps the segment before it"),
    (edited(TWW, "metadata.timestamps", [5.0, 11.0]), "metadata.timestamps: "),
    (edited(TWW, "metadata.video_duration", 9.0), "outside the video's"),
    (edited(TWW, "conversations.1.from", "human"), "conversations[1].from: is 'human'"),
    (edited(TWW, "conversations.0.value", None), "conversations[0].value: must be text"),
    (edited(TWW, "conversations.0.timestamps", None), "conversations[0].timestamps: must be a finite number"),
    (edited(TWW, "conversations.2", {"from": "human", "value": "x"}), "conversations[2]: field missing: timestamps"),
    (edited(TWW, "conversations", TWW["conversations"][:3]), "conversations: ends with a human turn"),  # type: ignore[index]
    (edited(TWW, "conversations.2.id", "q0"), "a second query 'q0'"),
]


@pytest.mark.parametrize(("record", "says"), BAD_CHAT, ids=[case[1] for case in BAD_CHAT])
def test_bad_vst(tmp_path: Path, record: Json, says: str) -> None:
    file = put(tmp_path / "x.jsonl", VST_PLAIN, record)
    with pytest.raises(SampleError) as caught:
        read_vst(file)
    assert str(caught.value).startswith(f"{file}:2: ") and says in str(caught.value)
    samples, rejections = scan_vst(file)
    assert len(samples) == 1 and [r.line for r in rejections] == [2]


@pytest.mark.parametrize(("record", "says"), BAD_WORDS, ids=[case[1] for case in BAD_WORDS])
def test_bad_text_stream(tmp_path: Path, record: Json, says: str) -> None:
    file = put(tmp_path / "x.jsonl", WORDS_PREVIOUS, record)
    with pytest.raises(SampleError) as caught:
        read_text_stream(file)
    assert str(caught.value).startswith(f"{file}:2: ") and says in str(caught.value)
    samples, rejections = scan_text_stream(file)
    assert len(samples) == 1 and [r.line for r in rejections] == [2]


@pytest.mark.parametrize(("record", "says"), BAD_TWW, ids=[case[1] for case in BAD_TWW])
def test_bad_tww(tmp_path: Path, record: Json, says: str) -> None:
    put(tmp_path / "a.json", TWW)
    file = put(tmp_path / "b.json", record)
    with pytest.raises(SampleError) as caught:
        read_tww(tmp_path)
    assert str(caught.value).startswith(f"{file}: ") and says in str(caught.value)
    samples, rejections = scan_tww(tmp_path)
    assert len(samples) == 1 and [r.line for r in rejections] == [2]


def test_other_bad_files(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match=r"holds no \*\.json file"):
        read_tww(tmp_path)
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(SampleError, match=r"a\.json: not JSON"):
        read_tww(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_tww(tmp_path / "nowhere.json")
    with pytest.raises(SampleError, match=r"s\.jsonl:1: .*two messages"):
        read_vst(put(tmp_path / "s.jsonl", [0, 17, 42]))  # the seek index itself
    with pytest.raises(ValueError, match="more than 0"):
        read_text_stream(tmp_path / "x.jsonl", seconds=0.0)


def test_conservation(tmp_path: Path) -> None:
    """Samples + rejections = the lines that are neither blank nor a seek index, which stands last."""
    records = [record for record, _ in BAD_CHAT] + [[0, 5], VST, VST_EXTRA, VST_EXTRA]
    file = put(tmp_path / "x.jsonl", *records)
    file.write_text(file.read_text() + "\n{\n  \n[0, 5]\n")
    samples, rejections = scan_vst(file)
    assert len(samples) == 2 and len(samples) + len(rejections) == len(records) + 1
    assert "id of line" in rejections[-2].reason and rejections[-1].line == len(records) + 2


JUNK: list[Json] = [None, True, -1, 0, 1e400, "", "x", [], [None], {}, {"x": 1}, [[0.0, 1.0]], "\ud800"]


def places(record: Json) -> list[str]:
    """The path of every value in a record."""
    if isinstance(record, dict):
        pairs = list(record.items())
    else:
        pairs = list(enumerate(record)) if isinstance(record, list) else []
    return [path for key, value in pairs for path in (f"{key}", *(f"{key}.{rest}" for rest in places(value)))]


@pytest.mark.parametrize(
    ("scan", "write", "record"),
    [
        (scan_vst, write_vst, VST),
        (scan_vst, write_vst, VST_EXTRA),
        (scan_text_stream, write_text_stream, WORDS),
        (scan_tww, write_tww, TWW),
        (scan_jsonl, write_jsonl, to_record(Sample("a", Video("v", 10.0, 40.0), VST_EVENTS, meta={"a": [1]}))),
    ],
    ids=["vst", "vst images", "text_stream", "tww", "own"],
)
def test_junk_anywhere_is_turned_away_or_kept(
    tmp_path: Path, scan: Callable[..., Any], write: Callable[..., None], record: Json
) -> None:
    """Whatever stands in whatever place: a rejection and no other exception, or a sample that is there and back."""
    kept = 0
    for n, (path, junk) in enumerate((path, junk) for path in places(record) for junk in JUNK):
        samples, rejections = scan(put(tmp_path / "x.json", edited(record, path, junk)))
        assert len(samples) + len(rejections) == 1, path
        if samples:
            kept += 1
            out = tmp_path / (f"{n}" if write is write_tww else "y.jsonl")
            write(samples, out)
            assert scan(out) == (samples, []), (path, junk)
    assert kept > 20
