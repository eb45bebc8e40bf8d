"""Lines that `whilst watch` prints of events, and questions that come while it watches."""

import json
import os
import threading
from collections.abc import Iterator, Mapping

import numpy as np
import pytest

from tests.streams import FPS, frames
from whilst.backbones.base import Backbone
from whilst.checkpoint import Checkpoint, Contract
from whilst.engines import LiveSettings
from whilst.events import (
    Ended,
    Failed,
    Gap,
    QueryHeard,
    Rejected,
    Reply,
    SegmentRead,
    Silent,
    Stopped,
    StreamEvent,
    ThoughtDone,
)
from whilst.pace import Frame, Source
from whilst.render import Renderer
from whilst.render_config import RenderConfig
from whilst.watch import Lines, lines_of, watch


def reply(query: str, silence: float | None = None, late: bool = False) -> Reply:
    return Reply(2.0, 1.0, query, "blue", 2, True, 0.1, 0.2, 0.25, 1.0, late, silence)


EVENTS: list[tuple[StreamEvent, list[str]]] = [
    (QueryHeard(0.0, 0.0, "q1", "tell-when ?"), []),
    (SegmentRead(1.0, 0.1, 0.0, 1.0, 2, 0.07, 0, 12), []),
    (ThoughtDone(1.0, 0.2, "a cat", 3, True, 0.1, False), ["    1.00 s  thought: a cat"]),
    (ThoughtDone(1.0, 0.2, "a cat", 3, False, 0.1, False), ["    1.00 s  thought: a cat [cut by the token limit]"]),
    (Silent(1.0, 0.2, "q1", 0.9), []),
    (QueryHeard(1.5, 0.2, "q2", "who ?"), []),
    (
        reply("q2", late=True),
        ["    2.00 s  answer: who ? -> blue [0.25 s after it was asked, from thoughts up to 1 s]"],
    ),
    (reply("q1", silence=0.2), ["    2.00 s  answer: tell-when ? -> blue"]),
    (reply("q1", silence=0.1), ["    2.00 s  answer: tell-when ? -> blue"]),
    (Rejected(2.0, 1.0, "frame", "out of order"), ["    2.00 s  rejected: frame: out of order"]),
    (Gap(9.0, 1.0, 2.0, 9.0), ["    9.00 s  gap: no frames from 2 s on; it goes on at 9 s"]),
    (Failed(9.0, 1.0, "damaged"), ["    9.00 s  failed: damaged"]),
    (Stopped(9.0, 1.0), ["    9.00 s  stopped"]),
    (
        Ended(9.0, 1.0, 3, 1, 2, 4),
        ["    9.00 s  end: 3 segments, 1 thought, 2 queries, silent 1 times, at most 0.07 s late, 4 frames dropped"],
    ),
]


def test_every_event_has_its_line() -> None:
    lines = Lines(LiveSettings(speed=1.0, standing=("tell-when ?",)))
    assert [lines(event) for event, _ in EVENTS] == [line for _, line in EVENTS]
    assert set(lines.texts) == {"q1"}  # an answered query is not kept
    assert Lines(LiveSettings())(Ended(1.0, 1.0, 1, 1, 1)) == ["    1.00 s  end: 1 segment, 1 thought, 1 query"]


def test_every_event_is_a_json_line() -> None:
    kinds = set()
    for event, _ in EVENTS:
        record = json.loads(json.dumps(event.record(), allow_nan=False))
        assert {"type", "time", "clock"} <= record.keys()
        kinds.add(record["type"])
    assert len(kinds) == len({type(event) for event, _ in EVENTS}) == len(StreamEvent.__subclasses__())


@pytest.mark.parametrize(
    ("blocks", "lines"),
    [
        ([b"one\ntwo\n"], ["one", "two"]),
        ([b"o", b"ne\n\ntw", b"o"], ["one", "", "two"]),
        ([b"\xc3", b"\xa9 ?\n"], ["é ?"]),
        ([b"\xff\n"], ["\ufffd"]),
        ([], []),
    ],
)
def test_lines_are_read_as_they_come(blocks: list[bytes], lines: list[str]) -> None:
    back, to = os.pipe()
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.extend(lines_of(back)))
    reader.start()
    for block in blocks:
        os.write(to, block)
    os.close(to)
    reader.join(60)
    os.close(back)
    assert found == lines


def test_questions_are_asked_when_they_come(backbones: Mapping[str, Backbone]) -> None:
    backbone, render = backbones["qwen3_vl"], RenderConfig(layout="recurrent_packed", rule="text_memory")
    checkpoint = Checkpoint(
        backbone, Renderer(backbone.tokenizer, backbone.spec, render), Contract("base", FPS, True, render)
    )
    said: list[str] = []
    answered, again, thought = threading.Event(), threading.Event(), threading.Event()

    def say(line: str) -> None:
        said.append(line)
        if "answer: now ?" in line:
            answered.set()
        if "answer: which in-1 ?" in line:
            again.set()
        if "thought:" in line:
            thought.set()

    def questions() -> Iterator[str]:
        yield "  "
        yield "now ?"
        assert thought.wait(60)
        yield "which in-1 ?"

    def source() -> Iterator[Frame]:
        images = frames(np.random.default_rng(0), 4)
        assert answered.wait(60)  # a question before the first frame is answered
        yield from ((k / FPS, image) for k, image in enumerate(images[:3]))
        assert again.wait(60)
        yield 1.5, images[3]

    settings = LiveSettings(thought_tokens=3, answer_tokens=3)
    watch(checkpoint, Source("test", FPS, 2.0, False, source), settings, say, questions=questions())
    kinds = [line.split()[2] for line in said]
    assert kinds == ["answer:", "thought:", "answer:", "thought:", "end:"]
    assert said[-1].endswith("2 segments, 2 thoughts, 2 queries")
