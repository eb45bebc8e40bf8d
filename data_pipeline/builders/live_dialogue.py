"""LIVE's dialogues (VideoLLM-online, arXiv 2406.11816; `data/livechat` of its repository) out of annotated steps.

The rules, as the released code has them; tests/data_pipeline/test_live_rules.py holds a test of each:

1. A video of less than 60 s or more than 3600 s gives nothing.
2. Three queries a dialogue, at times drawn evenly from [first start, last end] of the steps, rounded to 0.1 s.
3. Each is about the past, the present or what comes next.
4. Replies come to each query, and then at every start and end of a step until the next query.
5. On the grid of frames (2 a second) users' times are rounded down, replies' up.
6. The stream begins 0 to 20 frames before the first query, and is cut after `max_frames`.
7. A dialogue with `second`, or digits followed by `s`, in any message is dropped: seconds never leak.
8. Ten dialogues a video.

What is open or different here. LIVE's language model fills in replies from the whole timeline, so it tells what comes
next before it can be seen; here each reply is written from what is known at its time, `next` is deferred until it
begins, and a step is named at its start only if the graph says it can be known then (`span_clue: 0` of the annotation
reader is LIVE's way). That a step is over shows in the first frame after its end: an end that lies on the grid itself
is told one frame later. A reply tells of what the stream itself has shown. Between replies an explicit Silence stands
at every frame. A query that comes before the reply to the one before it is turned down.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from data_pipeline.builders.assemble import assemble
from data_pipeline.builders.script import Builder, Plan, Script
from data_pipeline.builders.watch import Moment, ceil_to, floor_to, frames, watch
from data_pipeline.graph import Edge, Graph
from data_pipeline.queries.ask import Ask, Reply
from data_pipeline.source import Rejected, Source, SynthError, draw
from data_pipeline.text.task import Task, TextRejected, Write
from whilst.sample import Sample

ABOUT = {"live_past": "past", "live_current": "current", "live_next": "next"}
KIND = {"live_past": "backward", "live_current": "present", "live_next": "forward"}
SECONDS = re.compile(r"second|\d+s", re.IGNORECASE)


@dataclass(frozen=True)
class LiveDialogueSettings:
    """Defaults are LIVE's. `kinds` of edges count as steps; `max_frames` is that of its 10-token model."""

    fps: float = 2.0
    dialogues: int = 10
    queries: int = 3
    shortest: float = 60.0  # seconds
    longest: float = 3600.0  # seconds
    waiting_frames: int = 20
    max_frames: int = 1200
    kinds: tuple[str, ...] = ("span",)

    def __post_init__(self) -> None:
        for name in ("fps", "dialogues", "queries", "max_frames"):
            if getattr(self, name) <= 0:
                raise SynthError(f"live_dialogue.{name}: {getattr(self, name)!r}: must be above 0")
        if self.waiting_frames < 0 or not 0 <= self.shortest <= self.longest:
            raise SynthError("live_dialogue: waiting_frames must be 0 or more, and 0 <= shortest <= longest seconds")


def plan(source: Source, settings: LiveDialogueSettings, write: Write, seed: int) -> Plan:
    """`dialogues` scripts a source, less those with no query or with seconds in a message."""
    planned = Plan()
    duration = source.graph.duration
    edges = [edge for edge in source.graph.edges if _is_step(edge, settings)]
    if not settings.shortest <= duration <= settings.longest:
        return _nothing(planned, source, "video too short or too long", f"{duration} s")
    if not edges:
        return _nothing(planned, source, "no steps")
    span = min(edge.start for edge in edges), max(edge.end for edge in edges)
    for n in range(settings.dialogues):
        script = _script(source, settings, write, seed, n, span, planned)
        if isinstance(script, Script):
            planned.scripts.append(script)
            planned.queries.made += len(script.asks)
            planned.statistics.update(f"subkind {ask.subkind}" for ask in script.asks)
        else:
            planned.rejected.append(script)
    return planned


def _nothing(planned: Plan, source: Source, reason: str, detail: str = "") -> Plan:
    planned.rejected.append(Rejected(source.id, reason, detail))
    return planned


def _script(
    source: Source,
    settings: LiveDialogueSettings,
    write: Write,
    seed: int,
    n: int,
    span: tuple[float, float],
    planned: Plan,
) -> Script | Rejected:
    id, fps = f"{source.id}-live_dialogue-{n}", settings.fps
    rng = draw(seed, source.id, "live_dialogue", n)
    raw = sorted(round(rng.uniform(*span), 1) for _ in range(settings.queries))
    waiting = rng.randint(0, settings.waiting_frames)
    subkinds = [rng.choice(list(ABOUT)) for _ in raw]
    first = floor_to(raw[0], fps)
    # The frame in which the first query falls is watched in any case, so there is something to reply from.
    start = max(0.0, floor_to(first - (waiting + 1) / fps, fps))
    end = min(source.graph.duration, start + settings.max_frames / fps, ceil_to(span[1], fps) + 1 / fps)
    segments = frames(start, end, fps)
    planned.queries.taken += len(raw)
    asks: list[Ask] = []
    free = start  # when the query before has got its reply
    for time, subkind in zip(raw, subkinds, strict=True):
        asked, replied = floor_to(time, fps), max(ceil_to(time, fps), start + 1 / fps)
        if not segments or replied > segments[-1].end:
            planned.queries.reject("after the last frame")
        elif asks and (asked < free or replied == free):
            planned.queries.reject("before the reply to the query before")
        else:
            slots = {"time": time, "reply": replied, "start": start}
            asks.append(Ask(f"q{len(asks)}", KIND[subkind], subkind, asked, slots))
            free = replied
    if not asks:
        return Rejected(id, "no query")
    ends = [ask.time for ask in asks[1:]] + [segments[-1].end]
    asks = [_until(ask, last) for ask, last in zip(asks, ends, strict=True)]
    questions = {
        ask.id: write(Task("question", {"subkind": ask.subkind, "kind": ask.kind}, key=f"{seed}/{id}/{ask.id}"))
        for ask in asks
    }
    for question in questions.values():
        if SECONDS.search(question):
            for _ in asks:
                planned.queries.reject("seconds in a message")
            return Rejected(id, "seconds in a message", question)
    return Script(id, segments, tuple(asks), questions)


def _until(ask: Ask, last: float) -> Ask:
    return Ask(ask.id, ask.kind, ask.subkind, ask.time, ask.slots, until=last)


def tell(source: Source, script: Script, settings: LiveDialogueSettings, write: Write, seed: int) -> Sample:
    """The dialogue: a reply to each query and at each change of state, silence at all other frames in between.

    Raises:
        TextRejected: seconds in a message; or by the writer.
    """
    replies: dict[str, list[tuple[float, Reply | None]]] = {ask.id: [] for ask in script.asks}
    for ask, moment in _turns(source.graph, script, settings):
        facts = _facts(ask, moment)
        reply = None
        if facts is not None:
            text = write(Task("reply", facts, key=f"{seed}/{script.id}/{ask.id}/{moment.time:g}"))
            if SECONDS.search(text):
                raise TextRejected("seconds in a message", text)
            reply = _reply(ask, moment, facts["change"], text)
        replies[ask.id].append((moment.time, reply))
    return assemble(source, script, "live_dialogue", (), replies)


def _turns(graph: Graph, script: Script, settings: LiveDialogueSettings) -> Iterator[tuple[Ask, Moment]]:
    """Every moment at which a query is replied to, or not, from its first reply on until the next query."""
    start = script.segments[0].start
    times = [segment.end for segment in script.segments]
    for moment in watch(graph, times, lambda edge: _is_step(edge, settings), since=start):
        ask = next((ask for ask in reversed(script.asks) if _first(ask) <= moment.time), None)
        if ask is not None and ask.until is not None and moment.time <= ask.until:
            yield ask, moment


def _first(ask: Ask) -> float:
    return float(cast(Any, ask.slots["reply"]))


def _facts(ask: Ask, moment: Moment) -> dict[str, Any] | None:
    """What the reply at this moment is written from; None where nothing changes and nothing was just asked."""
    begun, over = _begun(moment), moment.ended
    if moment.time == _first(ask):
        change = "ask"
    elif begun or over:
        change = "both" if begun and over else "start" if begun else "end"
    else:
        return None
    clauses = {"begun": _clauses(begun), "over": _clauses(over)}
    clauses |= {"now": _clauses(moment.now), "before": _clauses(moment.last)}
    return {"about": ABOUT[ask.subkind], "change": change} | clauses


def _begun(moment: Moment) -> tuple[Edge, ...]:
    going = {edge.id for edge in moment.now}
    return tuple(edge for edge in moment.new if edge.id in going)


def _clauses(edges: Sequence[Edge]) -> list[str]:
    return list(dict.fromkeys(edge.text for edge in sorted(edges, key=lambda one: (one.level, one.start, one.id))))


def _reply(ask: Ask, moment: Moment, change: str, text: str) -> Reply:
    told = {"live_past": moment.last, "live_current": moment.now, "live_next": ()}[ask.subkind]
    edges = told if change == "ask" else (*_begun(moment), *moment.ended)
    if not edges:  # that nothing has been seen rests on all that was watched
        return Reply(text, ((float(cast(Any, ask.slots["start"])), moment.time),), (), moment.time)
    spans = tuple(dict.fromkeys((edge.start, min(edge.end, moment.time)) for edge in edges))
    return Reply(text, spans, tuple(edge.id for edge in edges), max(edge.knowable_at for edge in edges))


def _is_step(edge: Edge, settings: LiveDialogueSettings) -> bool:
    return edge.kind in settings.kinds and edge.relation not in ("then", "part_of")


BUILDER = Builder(LiveDialogueSettings, plan, tell)
