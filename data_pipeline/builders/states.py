"""Streamo's states: at every turn the model is silent, stands by, or responds (`scripts/convert_streaming_video.py`).

The rules of the released code: a turn is a second of video; `</Silence>` while nothing that is asked for shows;
`</Standby>` while it goes on or its evidence is incomplete; `</Response>` and the reply one turn after its end.

Here the state stands where a thought stands: a Silence event, or a Thought that is the word `standby` or `respond`,
which an Answer follows. That an event has ended shows in the first turn after it, so the paper's `end + 1` is also what
causality asks for. Whether a turn can stand by depends on the graph: an event that is only known at its end
(`knowable_at`) has one such turn; with a smaller `span_clue` of the annotation reader it has more.

mode `each`: the request is to report every event when it is over. mode `when`: it names one event of the video.
Open: Streamo's time-grounding and question tasks, and its text of requests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from data_pipeline.builders.assemble import Said, assemble
from data_pipeline.builders.script import Builder, Plan, Script
from data_pipeline.builders.watch import Moment, any_event, frames, watch
from data_pipeline.graph import Edge, Graph
from data_pipeline.queries.ask import Ask, Reply
from data_pipeline.source import Rejected, Source, SynthError, draw
from data_pipeline.text.task import Task, Write
from data_pipeline.text.templates.clauses import joined, sentence
from whilst.sample import Sample, Segment


@dataclass(frozen=True)
class StatesSettings:
    """`seconds` is the length of a turn; a sample has `turns` of them at most. `standby` and `respond` are the words
    of two states; the third is a Silence event. `asks` counts the requests of a source in mode `when`."""

    mode: Literal["each", "when"] = "each"
    seconds: float = 1.0
    turns: int = 300
    standby: str = "standby"
    respond: str = "respond"
    asks: int = 3

    def __post_init__(self) -> None:
        if self.seconds <= 0 or self.turns < 2 or self.asks < 1:
            raise SynthError("states: seconds must be above 0, turns at least 2 and asks at least 1")
        if not self.standby.strip() or not self.respond.strip() or self.standby == self.respond:
            raise SynthError("states: standby and respond must be two different words")


def plan(source: Source, settings: StatesSettings, write: Write, seed: int) -> Plan:
    """Mode `each`: a script for every piece of `turns` in which something ends. Mode `when`: one for each of `asks`."""
    planned = Plan()
    stream = frames(0.0, source.graph.duration, 1.0 / settings.seconds)
    if len(stream) < 2:
        planned.rejected.append(Rejected(source.id, "shorter than two turns"))
        return planned
    found = _each(source, settings, stream) if settings.mode == "each" else _when(source, settings, stream, seed)
    for id, piece, ask in found:
        planned.queries.taken += 1
        # Told in full once: a request that never gets a response makes no sample.
        if not any(reply is not None for _, _, reply in turns(source.graph, piece, ask, settings)):
            planned.queries.reject("nothing to respond to")
            planned.rejected.append(Rejected(id, "nothing to respond to"))
            continue
        facts = {"kind": ask.kind, "subkind": ask.subkind, **ask.slots}
        words = write(Task("question", facts, key=f"{seed}/{id}/{ask.id}"))
        planned.scripts.append(Script(id, piece, (ask,), {ask.id: words}))
        planned.queries.made += 1
        planned.statistics[f"subkind {ask.subkind}"] += 1
    if not planned.scripts and not planned.rejected:
        planned.rejected.append(Rejected(source.id, "no event to wait for"))
    return planned


Found = tuple[str, tuple[Segment, ...], Ask]


def _each(source: Source, settings: StatesSettings, stream: tuple[Segment, ...]) -> Iterator[Found]:
    for n, at in enumerate(range(0, len(stream), settings.turns)):
        piece = stream[at : at + settings.turns]
        id = source.id if len(stream) <= settings.turns else f"{source.id}-states-{n}"
        yield id, piece, Ask("q0", "forward", "states_each", piece[0].start, {}, until=piece[-1].end)


def _when(source: Source, settings: StatesSettings, stream: tuple[Segment, ...], seed: int) -> Iterator[Found]:
    texts = [edge.text for edge in source.graph.edges if any_event(edge)]
    once = sorted({text for text in texts if texts.count(text) == 1})
    chosen = draw(seed, source.id, "states").sample(once, min(settings.asks, len(once)))
    for n, text in enumerate(chosen):
        edge = next(edge for edge in source.graph.edges if edge.text == text)
        first = next((k for k, turn in enumerate(stream) if turn.end >= edge.start), 0)
        # The event lies at a drawn place of the piece, so that its time tells nothing.
        room = draw(seed, source.id, "states", n).randint(0, settings.turns // 2)
        start = max(0, first - room)
        piece = stream[start : start + settings.turns]
        ask = Ask("q0", "forward", "states_when", piece[0].start, {"clause": text}, until=piece[-1].end)
        yield f"{source.id}-states-{n}", piece, ask


def tell(source: Source, script: Script, settings: StatesSettings, write: Write, seed: int) -> Sample:
    """A state at every turn, and an answer where it is `respond`."""
    if not script.asks:
        return assemble(source, script, "states", (), {})  # nobody asks, nothing is said
    ask = script.asks[0]
    told = list(turns(source.graph, script.segments, ask, settings))
    states: list[Said | None] = [None if state == "silence" else (state, ()) for _, state, _ in told]
    replies = [(time, reply) for time, _, reply in told if reply is not None]
    named = {settings.standby: "standby", settings.respond: "respond"}
    meta = {"states": [named.get(state, state) for _, state, _ in told]}
    return assemble(source, script, "states", states, {ask.id: replies}, meta)


def turns(
    graph: Graph, segments: tuple[Segment, ...], ask: Ask, settings: StatesSettings
) -> Iterator[tuple[float, str, Reply | None]]:
    """(time in seconds, state, reply) of every turn; a request that names one event is done when it is answered."""
    since = segments[0].start
    clause = ask.slots.get("clause")
    done = False

    def wanted(edge: Edge) -> bool:
        return any_event(edge) and (clause is None or edge.text == clause)

    for moment in watch(graph, [segment.end for segment in segments], wanted, since=since if since else -1.0):
        over, going = _shown(moment, since)
        if done:
            yield moment.time, "silence", None
        elif over:
            done = clause is not None
            spans = tuple(dict.fromkeys((edge.start, edge.end) for edge in over))
            text = sentence(joined(list(dict.fromkeys(edge.text for edge in over))))
            known = max(edge.knowable_at for edge in over)
            yield moment.time, settings.respond, Reply(text, spans, tuple(edge.id for edge in over), known)
        else:
            yield moment.time, settings.standby if going else "silence", None


def _shown(moment: Moment, since: float) -> tuple[tuple[Edge, ...], tuple[Edge, ...]]:
    """What is over since the turn before, and what goes on. What was over when the piece began is not told."""
    return tuple(edge for edge in moment.ended if edge.end > since or since == 0.0), moment.now


BUILDER = Builder(StatesSettings, plan, tell)
