"""What a live stream reports: one record for everything that happens, in the order in which it happens.

`whilst watch` prints them as JSON lines, `whilst serve` sends them to its page, ledgers are made of them. Two clocks:
`time` is s on the clock of the video; `clock` is s of wall time since the stream began.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class StreamEvent:
    """time: s on the clock of the video; clock: s of wall time since the stream began."""

    type: ClassVar[str] = ""
    time: float
    clock: float

    def record(self) -> dict[str, Any]:
        """The event as a JSON object."""
        return {"type": self.type} | asdict(self)


@dataclass(frozen=True)
class SegmentRead(StreamEvent):
    """A segment [start, end) s with `frames` frames is in the cache.

    lag: wall time s by which that is later than its end; backlog: segments that have arrived and are not read yet;
    tokens: entries of the key-value cache; dropped: frames since the last segment that were too late by the policy that
    was asked for, and so not shown to the model.
    """

    type: ClassVar[str] = "segment"
    start: float
    end: float
    frames: int
    lag: float
    backlog: int
    tokens: int
    dropped: int = 0


@dataclass(frozen=True)
class ThoughtDone(StreamEvent):
    """The thought about the segment that ended at `time`. late: a later segment had arrived before it was done."""

    type: ClassVar[str] = "thought"
    text: str
    tokens: int
    finished: bool
    seconds: float
    late: bool


@dataclass(frozen=True)
class QueryHeard(StreamEvent):
    """A query arrived."""

    type: ClassVar[str] = "query"
    id: str
    text: str


@dataclass(frozen=True)
class Reply(StreamEvent):
    """The answer to a query, or a reply that the model gave of itself (query: the standing query, or "").

    waited: wall time s from the query's arrival to the start of its reading; first_token, last_token: from its arrival
    to these tokens. memory_time: the end (s of the video) of the last segment whose thought was finished and could be
    used; thought_late: a thought was still being written when the query came, and was not waited for. silence: of a
    standing query, the probability that the model gave to silence; None for a query that was asked once.
    """

    type: ClassVar[str] = "answer"
    query: str
    text: str
    tokens: int
    finished: bool
    waited: float
    first_token: float
    last_token: float
    memory_time: float
    thought_late: bool
    silence: float | None = None


@dataclass(frozen=True)
class Silent(StreamEvent):
    """A standing query was put again and the model stayed silent. probability: that it gave to silence. state: silence,
    standby or other, of a checkpoint that writes states; else ""."""

    type: ClassVar[str] = "silence"
    query: str
    probability: float
    state: str = ""


@dataclass(frozen=True)
class Gap(StreamEvent):
    """No frame came for [start, end) s, at least a segment: the clock jumped ahead or frames were lost. Nothing is made
    up for it; the next segment begins at `end`."""

    type: ClassVar[str] = "gap"
    start: float
    end: float


@dataclass(frozen=True)
class Rejected(StreamEvent):
    """Something that was not taken (frames out of order, a query after the end) and the reason. The stream goes on."""

    type: ClassVar[str] = "rejected"
    what: str
    reason: str


@dataclass(frozen=True)
class Failed(StreamEvent):
    """The stream ended with an error (decoder, device, disk). Other streams live on."""

    type: ClassVar[str] = "failed"
    reason: str


@dataclass(frozen=True)
class Stopped(StreamEvent):
    """The stream was stopped by its user before its end."""

    type: ClassVar[str] = "stopped"


@dataclass(frozen=True)
class Ended(StreamEvent):
    """The stream is over: all segments read, all thoughts written, all queries answered."""

    type: ClassVar[str] = "end"
    segments: int
    thoughts: int
    queries: int
    dropped: int = 0
