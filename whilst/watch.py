"""What `whilst watch` prints: the events of one live stream, as lines for a reader or as JSON lines for a program."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from whilst.checkpoint import Checkpoint
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
from whilst.live import LiveStream
from whilst.pace import Clock, Source
from whilst.policies import Policy

Say = Callable[[str], None]


def watch(
    checkpoint: Checkpoint,
    source: Source,
    settings: LiveSettings,
    say: Say,
    *,
    as_json: bool = False,
    queries: Sequence[tuple[float, str]] = (),
    questions: Iterable[str] | None = None,
    clock: Clock | None = None,
    policy: Policy | None = None,
) -> None:
    """Watch a source to its end and `say` each event as a line.

    A checkpoint that was not trained to think does not. questions: lines that are asked when they come, read by a
    thread of their own while the stream runs; their end does not end the stream. Raises what LiveStream raises.
    """
    settings = replace(settings, thinks=settings.thinks and checkpoint.contract.thinks)
    told = _json_line if as_json else Lines(settings)
    stream = LiveStream(
        checkpoint,
        source,
        settings,
        on_event=lambda event: _say_all(say, told(event)),
        queries=queries,
        clock=clock,
        policy=policy,
    )
    if questions is not None:
        threading.Thread(target=_ask_all, args=(stream, questions), name="questions", daemon=True).start()
    stream.run()


def lines_of(descriptor: int) -> Iterator[str]:
    """The lines of an open file as they come. Not through a buffered file: a thread that waits in one keeps the process
    from ending."""
    rest = b""
    while block := os.read(descriptor, 4096):
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace")
    if rest:
        yield rest.decode(errors="replace")


def _say_all(say: Say, lines: Iterable[str]) -> None:
    for line in lines:
        say(line)


def _ask_all(stream: LiveStream, questions: Iterable[str]) -> None:
    for line in questions:
        if line.strip():
            stream.ask(line)


def _json_line(event: StreamEvent) -> list[str]:
    return [json.dumps(event.record(), ensure_ascii=False, allow_nan=False)]


class Lines:
    """Events as a reader wants them: what was said, what was not taken and why, and a line at the end.

    Segments and silences are counted, not shown.
    """

    def __init__(self, settings: LiveSettings) -> None:
        self.texts: dict[str, str] = {}  # of queries that wait for an answer, and of standing ones
        self.standing: set[str] = set()
        self.settings = settings
        self.lag = 0.0
        self.silences = 0

    def __call__(self, event: StreamEvent) -> list[str]:
        text = self._told(event)
        return [] if text is None else [f"{event.time:8.2f} s  {text}"]

    def _told(self, event: StreamEvent) -> str | None:
        if isinstance(event, QueryHeard):
            self.texts[event.id] = event.text
            if event.text in self.settings.standing:
                self.standing.add(event.id)
        elif isinstance(event, SegmentRead):
            self.lag = max(self.lag, event.lag)
        elif isinstance(event, Silent):
            self.silences += 1
        elif isinstance(event, ThoughtDone):
            return f"thought: {event.text}{_cut(event.finished)}"
        elif isinstance(event, Reply):
            query = self.texts[event.query] if event.query in self.standing else self.texts.pop(event.query)
            return f"answer: {query} -> {event.text}{_cut(event.finished)}{self._lateness(event)}"
        elif isinstance(event, Rejected):
            return f"rejected: {event.what}: {event.reason}"
        elif isinstance(event, Gap):
            return f"gap: no frames from {event.start:g} s on; it goes on at {event.end:g} s"
        elif isinstance(event, Failed):
            return f"failed: {event.reason}"
        elif isinstance(event, Stopped):
            return "stopped"
        elif isinstance(event, Ended):
            return self._summary(event)
        return None

    def _lateness(self, event: Reply) -> str:
        if self.settings.speed is None or event.silence is not None:
            return ""
        late = f", from thoughts up to {event.memory_time:g} s" if event.thought_late else ""
        return f" [{event.last_token:.2f} s after it was asked{late}]"

    def _summary(self, event: Ended) -> str:
        counted = ((event.segments, "segment", "s"), (event.thoughts, "thought", "s"), (event.queries, "quer", "ies"))
        parts = [f"{n} {word}{('y' if word == 'quer' else '') if n == 1 else many}" for n, word, many in counted]
        if self.settings.standing:
            parts.append(f"silent {self.silences} times")
        if self.settings.speed is not None:
            parts.append(f"at most {self.lag:.2f} s late")
        if event.dropped:
            parts.append(f"{event.dropped} frames dropped")
        return f"end: {', '.join(parts)}"


def _cut(finished: bool) -> str:
    return "" if finished else " [cut by the token limit]"
