"""What watching costs, and what a stream makes of it: a discrete-event simulation with measured costs.

Figures of this file are simulated (`source: "simulated"`): the costs are medians of what the ledger measured, each
taken as constant, so what grows with a stream does not show here (evaluation/stream_cost.py measures that).

Segments arrive as one piece, at their end, on the clock of the video divided by `speed`. Each is encoded and read, then
thought about, in order of arrival; a query that arrives at the same moment comes after it.

| scheduler | workers | an answer |
|---|---|---|
| sequential | 1 | waits for all that arrived before it: its thoughts block it |
| deadline | 1 | interrupts what is done and takes the last finished memory; what was interrupted goes on afterwards |
| parallel | 2 | as sequential, but one worker encodes and reads while the other thinks and answers: the same tokens |
| think_after | 1 | waits for thoughts that are begun when its query arrives, about all segments since the last query |

`deadline` interrupts at once. A real run can only stop between two forwards, so it may wait `grain` longer, the longest
single one. What is dropped: with `max_backlog`, when more segments than that wait to be encoded, the oldest (or newest)
of them is never read nor thought about.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Literal

from evaluation.ledger import Ledger, distribution
from evaluation.predict import EvaluationError

Scheduler = Literal["sequential", "deadline", "parallel", "think_after"]
SCHEDULERS: tuple[Scheduler, ...] = ("sequential", "deadline", "parallel", "think_after")


@dataclass(frozen=True)
class Costs:
    """Seconds. encode_frame: to encode a frame. read: to read a segment (0 with text memory, which reads it with the
    thought). thought_opening: from the start of a thought to its first token; thought_token: each further token;
    thought_closing: what is written after the last one (boundary token, memory entry). answer_opening, answer_token:
    the same of an answer. None: was not measured; a simulation that needs it is refused."""

    encode_frame: float | None
    read: float | None
    thought_opening: float | None
    thought_token: float | None
    thought_closing: float | None
    answer_opening: float | None
    answer_token: float | None


def measured_costs(ledgers: Sequence[Ledger]) -> Costs:
    """Medians over all actions of measured ledgers."""
    actions = [action for ledger in ledgers for action in ledger.actions]

    def middle(values: Sequence[float]) -> float | None:
        return float(median(values)) if values else None

    def turns(kind: str) -> tuple[list[float], list[float], list[float]]:
        chosen = [action for action in actions if action.kind == kind]
        steps = [b - a for action in chosen for a, b in zip(action.tokens, action.tokens[1:], strict=False)]
        return (
            [action.tokens[0] - action.started for action in chosen],
            steps,
            [action.ended - action.tokens[-1] for action in chosen],
        )

    thoughts, answers = turns("thought"), turns("answer")
    return Costs(
        encode_frame=middle([a.seconds / a.frames for a in actions if a.kind == "encode"]),
        read=middle([a.seconds for a in actions if a.kind == "read"]),
        thought_opening=middle(thoughts[0]),
        thought_token=middle(thoughts[1]),
        thought_closing=middle(thoughts[2]),
        answer_opening=middle(answers[0]),
        answer_token=middle(answers[1]),
    )


@dataclass(frozen=True)
class Load:
    """A segment that arrives at `time` (s of video since the stream began). thought_tokens: with the boundary token; 0:
    no thought is written about it."""

    time: float
    frames: int
    thought_tokens: int


@dataclass(frozen=True)
class Asked:
    """A query at `time` (s of video since the stream began). tokens: of its answer, 1 at least."""

    time: float
    tokens: int


@dataclass(frozen=True)
class Work:
    """What arrives in one stream, each list in order of time."""

    segments: tuple[Load, ...]
    queries: tuple[Asked, ...]


def work_of(ledger: Ledger) -> Work:
    """What arrived in a measured stream, with the tokens that were written there."""
    frames = {a.segment: a.frames for a in ledger.actions if a.kind == "encode"}
    written = {a.segment: len(a.tokens) for a in ledger.actions if a.kind == "thought"}
    segments = tuple(Load(time, frames.get(i, 0), written.get(i, 0)) for i, time in enumerate(ledger.times))
    queries = tuple(Asked(max(cost.time - ledger.begin, 0.0), cost.answer_tokens) for cost in ledger.queries)
    return Work(segments, queries)


def steady(
    seconds: float, *, segment: float, fps: float, thought_tokens: int, queries: Sequence[float], answer_tokens: int
) -> Work:
    """A stream of `seconds` in equal segments (s) at `fps` frames a second of video, asked at times `queries` (s)."""
    count = math.floor(seconds / segment + 1e-9)
    frames = max(1, round(segment * fps))
    loads = tuple(Load((i + 1) * segment, frames, thought_tokens) for i in range(count))
    return Work(loads, tuple(Asked(time, answer_tokens) for time in sorted(queries)))


@dataclass(frozen=True)
class Answered:
    """One query. Clocks in s since the stream began. memory_time: s of video up to which the memory went that it was
    answered from (its last finished thought, or read segment where none is written); None before any.

    backlog_segments, backlog_thought_tokens: arrived, not dropped, and not finished when the query arrived.
    """

    arrival: float
    started: float
    first_token: float
    complete: float
    memory_time: float | None
    staleness: float | None  # s of video between the last segment that had arrived and memory_time
    backlog_segments: int
    backlog_thought_tokens: int

    @property
    def latency(self) -> float:
        """s from the query's arrival to its last token: all enclosed."""
        return self.complete - self.arrival


@dataclass(frozen=True)
class Watched:
    """One segment: clocks (s) of its arrival, of when it was read and thought about; None: dropped, or never asked."""

    arrival: float
    read: float | None
    thought: float | None
    dropped: bool
    late: bool  # read later than the next segment arrived (the last one: than another of its length would have)


@dataclass(frozen=True)
class Simulated:
    """What a scheduler made of the work. backlog: (clock, segments arrived and not read, thought tokens not written)
    whenever one of them changed. busy: s of work by worker. grain: see above. source: always "simulated"."""

    scheduler: Scheduler
    speed: float
    queries: tuple[Answered, ...]
    segments: tuple[Watched, ...]
    frames: int
    frames_late: int
    frames_dropped: int
    backlog: tuple[tuple[float, int, int], ...]
    busy: tuple[float, ...]
    grain: float
    source: str = field(default="simulated")

    def summary(self) -> dict[str, Any]:
        """Distributions of latency, first token, staleness and lag; frames late and dropped; the largest backlog."""
        lags = [(s.read - s.arrival) if s.read is not None else None for s in self.segments]
        return {
            "source": self.source,
            "scheduler": self.scheduler,
            "speed": self.speed,
            "latency": distribution([q.latency for q in self.queries]),
            "first_token": distribution([q.first_token - q.arrival for q in self.queries]),
            "staleness": distribution([q.staleness for q in self.queries]),
            "lag": distribution(lags),
            "frames": self.frames,
            "frames_late": self.frames_late,
            "frames_dropped": self.frames_dropped,
            "most_segments_waiting": max((unread for _, unread, _ in self.backlog), default=0),
            "most_thought_tokens_waiting": max((tokens for _, _, tokens in self.backlog), default=0),
            "busy": list(self.busy),
            "grain": self.grain,
        }

    def record(self) -> dict[str, Any]:
        """As a JSON object, events and all."""
        return asdict(self) | {"summary": self.summary()}


# ---- The simulation.

Part = Literal["read", "thought", "first", "rest"]


@dataclass
class _Task:
    """Work of one worker. key: what is done first among what is there (smaller first; the first number: priority)."""

    part: Part
    item: int  # ordinal of the segment or query
    seconds: float
    release: float
    worker: int
    key: tuple[int, int, int]
    needs: int = 0  # tasks that must be over before
    then: list[int] = field(default_factory=list)
    left: float = 0.0
    started: float | None = None
    ended: float | None = None
    dropped: bool = False


def simulate(
    work: Work,
    costs: Costs,
    scheduler: Scheduler,
    *,
    speed: float = 1.0,
    max_backlog: int | None = None,
    drop: Literal["oldest", "newest"] = "oldest",
) -> Simulated:
    """Run the work to its end. Raises EvaluationError for a cost that is needed and was not measured."""
    if not speed > 0:
        raise EvaluationError(f"speed: {speed}: must be above 0 (s of video a second)")
    if scheduler not in SCHEDULERS:
        raise EvaluationError(f"unknown scheduler {scheduler!r}; known: {', '.join(SCHEDULERS)}")
    _check(work, costs)
    tasks = _tasks(work, costs, scheduler, speed)
    backlog = _run(tasks, work, scheduler == "deadline", max_backlog, drop)
    return _result(tasks, work, costs, scheduler, speed, backlog)


def _check(work: Work, costs: Costs) -> None:
    needed: set[str] = {"encode_frame", "read"} if work.segments else set()
    if any(load.thought_tokens for load in work.segments):
        needed |= {"thought_opening", "thought_closing"}
    if any(load.thought_tokens > 1 for load in work.segments):
        needed.add("thought_token")
    if work.queries:
        needed.add("answer_opening")
    if any(asked.tokens > 1 for asked in work.queries):
        needed.add("answer_token")
    for name in sorted(needed):
        if getattr(costs, name) is None:
            raise EvaluationError(f"costs.{name} was not measured, and the work needs it; measure a stream that has it")
    for name, times in (("segments", [s.time for s in work.segments]), ("queries", [q.time for q in work.queries])):
        if times != sorted(times):
            raise EvaluationError(f"work.{name}: times must not decrease")
    if any(asked.tokens < 1 for asked in work.queries):
        raise EvaluationError("work.queries: tokens: an answer has at least one, its boundary token")


def thought_seconds(load: Load, costs: Costs) -> float:
    """What a thought takes."""
    if not load.thought_tokens:
        return 0.0
    steps = (load.thought_tokens - 1) * (costs.thought_token or 0.0)
    return (costs.thought_opening or 0.0) + steps + (costs.thought_closing or 0.0)


def _tasks(work: Work, costs: Costs, scheduler: Scheduler, speed: float) -> list[_Task]:
    """Every task with what must come before it. Two for a segment (read, thought), two for a query (first, rest)."""
    tasks: list[_Task] = []

    def add(task: _Task, *before: int | None) -> int:
        for other in before:
            if other is not None:
                task.needs += 1
                tasks[other].then.append(len(tasks))
        task.left = task.seconds
        tasks.append(task)
        return len(tasks) - 1

    second = 1 if scheduler == "parallel" else 0
    arriving = [(load.time, 0, i) for i, load in enumerate(work.segments)]
    arriving += [(asked.time, 1, i) for i, asked in enumerate(work.queries)]
    last_read = last_thought = last_answer = None
    postponed: list[tuple[int, int]] = []  # think_after: (segment, its read task)

    def think(i: int, read: int, release: float, key: tuple[int, int, int]) -> None:
        nonlocal last_thought
        task = _Task("thought", i, thought_seconds(work.segments[i], costs), release, second, key)
        last_thought = add(task, read, last_thought)

    for order, (time, kind, i) in enumerate(sorted(arriving)):
        clock = time / speed
        if kind == 0:
            seconds = work.segments[i].frames * (costs.encode_frame or 0.0) + (costs.read or 0.0)
            last_read = add(_Task("read", i, seconds, clock, 0, (1, order, 0)), last_read)
            if not work.segments[i].thought_tokens:
                continue
            if scheduler == "think_after":
                postponed.append((i, last_read))
            else:
                think(i, last_read, clock, (1, order, 1))
            continue
        for n, (segment, read) in enumerate(postponed):
            think(segment, read, clock, (1, order, n))
        tokens, urgent = work.queries[i].tokens, scheduler == "deadline"
        waits = (last_answer,) if urgent else (last_answer, last_read, last_thought)
        key = (0 if urgent else 1, order, len(postponed))
        postponed.clear()
        first = add(_Task("first", i, costs.answer_opening or 0.0, clock, second, key), *waits)
        rest = (tokens - 1) * (costs.answer_token or 0.0)
        last_answer = add(_Task("rest", i, rest, clock, second, (key[0], key[1], key[2] + 1)), first)
    return tasks


def _run(
    tasks: list[_Task], work: Work, preempt: bool, max_backlog: int | None, drop: str
) -> list[tuple[float, int, int]]:
    """Let time pass until nothing is left; fills started, ended and dropped, and returns the backlog over time."""
    pending = sorted(range(len(tasks)), key=lambda t: (tasks[t].release, tasks[t].key), reverse=True)
    workers = 1 + max((task.worker for task in tasks), default=0)
    ready: list[list[tuple[tuple[int, int, int], int]]] = [[] for _ in range(workers)]
    running: list[int | None] = [None] * workers
    released = [False] * len(tasks)
    unread = tokens = 0
    backlog: list[tuple[float, int, int]] = []
    waiting: dict[int, None] = {}  # segments arrived whose encoding has not begun, oldest first
    index: dict[tuple[str, int], int] = {(task.part, task.item): t for t, task in enumerate(tasks)}
    now = 0.0

    def offer(t: int) -> None:
        """A task whose turn may have come. A dropped one passes on at once what waits for it."""
        offered = [t]
        while offered:
            t = offered.pop()
            if tasks[t].needs:
                continue
            if tasks[t].dropped:
                offered += let_go(t)
            elif released[t]:
                heapq.heappush(ready[tasks[t].worker], (tasks[t].key, t))

    def let_go(t: int) -> list[int]:
        """Those that waited for a task that is over."""
        for other in tasks[t].then:
            tasks[other].needs -= 1
        return [other for other in tasks[t].then if not tasks[other].needs]

    def forget(segment: int) -> None:
        nonlocal unread, tokens
        unread, tokens = unread - 1, tokens - work.segments[segment].thought_tokens
        gone = [index[part, segment] for part in ("read", "thought") if (part, segment) in index]
        for t in gone:
            tasks[t].dropped = True
        offer(gone[0])  # its thought waits for it, so it comes with it

    while True:
        for w in range(workers):  # what ends now
            t = running[w]
            if t is not None and tasks[t].left <= 0.0:
                tasks[t].ended, running[w] = now, None
                unread -= tasks[t].part == "read"
                tokens -= work.segments[tasks[t].item].thought_tokens if tasks[t].part == "thought" else 0
                for other in let_go(t):
                    offer(other)
        while pending and tasks[pending[-1]].release <= now:  # what arrives now
            t = pending.pop()
            released[t] = True
            if tasks[t].part == "read":
                unread, tokens = unread + 1, tokens + work.segments[tasks[t].item].thought_tokens
                waiting[tasks[t].item] = None
            if not tasks[t].dropped:  # one that was dropped has passed on already, or will when those before it end
                offer(t)
        for w in range(workers):  # what begins now
            t = running[w]
            while ready[w] and tasks[ready[w][0][1]].dropped:
                heapq.heappop(ready[w])
            if ready[w] and (t is None or (preempt and ready[w][0][0][0] < tasks[t].key[0])):
                if t is not None:
                    heapq.heappush(ready[w], (tasks[t].key, t))
                _, t = heapq.heappop(ready[w])
                if tasks[t].started is None:
                    tasks[t].started = now
                    if tasks[t].part == "read":
                        del waiting[tasks[t].item]
                running[w] = t
        busy = [t for t in running if t is not None]
        if any(tasks[t].left <= 0.0 for t in busy):
            continue  # something takes no time
        if max_backlog is not None and len(waiting) > max_backlog:
            segment = next(iter(waiting)) if drop == "oldest" else next(reversed(waiting))
            del waiting[segment]
            forget(segment)
            continue  # what waited for it may be ready now
        if not backlog or backlog[-1][1:] != (unread, tokens):
            backlog.append((now, unread, tokens))
        ends = [now + tasks[t].left for t in busy]
        if pending:
            ends.append(tasks[pending[-1]].release)
        if not ends:
            return backlog
        later = min(ends)
        for t in busy:
            tasks[t].left = 0.0 if now + tasks[t].left <= later else tasks[t].left - (later - now)
        now = later


def _result(
    tasks: Sequence[_Task],
    work: Work,
    costs: Costs,
    scheduler: Scheduler,
    speed: float,
    backlog: Sequence[tuple[float, int, int]],
) -> Simulated:
    of: dict[tuple[Part, int], _Task] = {(task.part, task.item): task for task in tasks}
    segments: list[Watched] = []
    for i, load in enumerate(work.segments):
        read, thought = of["read", i], of.get(("thought", i))
        before = work.segments[i - 1].time if i else 0.0
        following = work.segments[i + 1].time if i + 1 < len(work.segments) else 2 * load.time - before
        late = read.ended is not None and read.ended > following / speed
        segments.append(Watched(load.time / speed, read.ended, thought.ended if thought else None, read.dropped, late))

    def finished(i: int) -> float | None:
        """Clock at which segment i is in the memory."""
        return segments[i].thought if work.segments[i].thought_tokens else segments[i].read

    answers: list[Answered] = []
    for q, asked in enumerate(work.queries):
        first, rest = of["first", q], of["rest", q]
        assert first.started is not None and first.ended is not None and rest.ended is not None
        arrived = [i for i, load in enumerate(work.segments) if load.time <= asked.time]
        done = [i for i in arrived if (at := finished(i)) is not None and at <= first.started]
        memory = work.segments[done[-1]].time if done else None
        arrival = asked.time / speed
        alive = [i for i in arrived if not segments[i].dropped]
        answers.append(
            Answered(
                arrival,
                first.started,
                first.ended,
                rest.ended,
                memory,
                work.segments[arrived[-1]].time - memory if memory is not None else None,
                sum(1 for i in alive if (at := segments[i].read) is None or at > arrival),
                sum(
                    work.segments[i].thought_tokens
                    for i in alive
                    if (at := segments[i].thought) is None or at > arrival
                ),
            )
        )
    workers = 1 + max((task.worker for task in tasks), default=0)
    frames = [load.frames for load in work.segments]
    singles = [value for value in asdict(costs).values() if value is not None]
    encoding = max(frames, default=0) * (costs.encode_frame or 0.0)  # a clip is encoded in one call
    return Simulated(
        scheduler,
        speed,
        tuple(answers),
        tuple(segments),
        sum(frames),
        sum(n for n, seen in zip(frames, segments, strict=True) if seen.late),
        sum(n for n, seen in zip(frames, segments, strict=True) if seen.dropped),
        tuple(backlog),
        tuple(sum(t.seconds for t in tasks if t.worker == w and t.ended is not None) for w in range(workers)),
        max([*singles, encoding], default=0.0),
    )


def schedules(work: Work, costs: Costs, **options: Any) -> dict[str, dict[str, Any]]:
    """The summary of every scheduler on the same work."""
    return {name: simulate(work, costs, name, **options).summary() for name in SCHEDULERS}
