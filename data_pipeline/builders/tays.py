"""TaYS: frame-aligned evidence, one sentence at the frames that show some and a skip at all others (arXiv 2603.02872).

The rules of the paper: the question comes first; frames at 2 a second (a grid of 0.5 s), a frame of evidence within
0.1 s of a grid frame takes its place; the video is cut at 30 s; a sentence for each kept frame, in order, none merged
or split; a sentence as similar as 0.9 to the one kept before is dropped; other frames are skipped; then the answer.

Here the grid stays, since videos are read at it: no frame gives way to one of evidence. Evidence is said at the
end of the first half second by which it can be known (`knowable_at`); the picture that was read of that is of its
start. A skip is a Silence event. What is asked: `entity`, what happens to one thing of the graph, which is told at the
end; or `exchanges`, the source's own questions (VideoEspresso), each answered at the end with its own answer.

Open: the paper measures likeness by BGE-M3 embeddings, here by shared words; its first threshold (question against
caption, 0.7) does not carry over to words, so by default evidence of an exchange is all that the graph tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from data_pipeline.builders.assemble import Said, assemble
from data_pipeline.builders.script import Builder, Plan, Script
from data_pipeline.builders.watch import any_event, frames
from data_pipeline.graph import Edge, Graph
from data_pipeline.queries.ask import Ask, Reply
from data_pipeline.source import Rejected, Source, SynthError, draw
from data_pipeline.text.task import Task, Write
from data_pipeline.text.templates.clauses import joined, sentence
from whilst.sample import Sample, Segment


@dataclass(frozen=True)
class TaysSettings:
    """Defaults are the paper's. Times in seconds; `least_likeness` of a question and its evidence, `most_likeness` of
    two sentences in a row, both from 0 to 1; `asks` is the most a source gives."""

    ask: Literal["entity", "exchanges"] = "entity"
    fps: float = 2.0
    longest: float = 30.0
    least_likeness: float = 0.0
    most_likeness: float = 0.9
    least_evidence: int = 1
    asks: int = 2

    def __post_init__(self) -> None:
        if self.fps <= 0 or self.longest <= 0 or self.asks < 1 or self.least_evidence < 1:
            raise SynthError("tays: fps and longest must be above 0, asks and least_evidence at least 1")


def plan(source: Source, settings: TaysSettings, write: Write, seed: int) -> Plan:
    """A script for each question, at most `asks`, that has evidence in the first `longest` seconds."""
    planned = Plan()
    segments = frames(0.0, min(source.graph.duration, settings.longest), settings.fps)
    if not segments:
        planned.rejected.append(Rejected(source.id, "shorter than one frame"))
        return planned
    asks = list(_entity_asks(source, segments, seed) if settings.ask == "entity" else _exchange_asks(source, segments))
    kept = 0
    for ask in asks:
        if kept == settings.asks:
            break
        planned.queries.taken += 1
        said = [one for one in sentences(source.graph, segments, ask, settings) if one is not None]
        id = f"{source.id}-tays-{kept}"
        if len(said) < settings.least_evidence:
            planned.queries.reject("too little evidence")
        elif _reply(source, ask, segments[-1].end, settings) is None:
            planned.queries.reject("no answer by the end")
        else:
            facts = {"kind": ask.kind, "subkind": ask.subkind, **ask.slots}
            question = ask.slots.get("question")
            words = str(question) if question else write(Task("question", facts, key=f"{seed}/{id}/{ask.id}"))
            planned.scripts.append(Script(id, segments, (ask,), {ask.id: words}))
            planned.queries.made += 1
            kept += 1
    if not kept:
        planned.rejected.append(Rejected(source.id, "no question with evidence"))
    return planned


def _entity_asks(source: Source, segments: tuple[Segment, ...], seed: int) -> Iterator[Ask]:
    """One for every thing that something happens to, in a drawn order; not for what is an event itself."""
    end = segments[-1].end
    touched = {node for edge in source.graph.edges if any_event(edge) for node in (edge.head, edge.tail)}
    names = sorted({node.name for node in source.graph.nodes if node.id in touched and node.kind != "activity"})
    draw(seed, source.id, "tays").shuffle(names)
    for name in names:
        yield Ask("q0", "backward", "tays_entity", 0.0, {"entity": name}, until=end)


def _exchange_asks(source: Source, segments: tuple[Segment, ...]) -> Iterator[Ask]:
    end = segments[-1].end
    for one in source.exchanges:
        slots = {"exchange": one.id, "question": one.question}
        format = "choice" if one.options else "open"
        kind = one.kind or "backward"
        yield Ask("q0", kind, "tays_exchange", 0.0, slots, format=format, options=one.options, until=end)


def tell(source: Source, script: Script, settings: TaysSettings, write: Write, seed: int) -> Sample:
    """A sentence or a skip at every frame, then the answer."""
    if not script.asks:
        return assemble(source, script, "tays", (), {})  # nobody asks, nothing is said
    ask, end = script.asks[0], script.segments[-1].end
    thoughts = list(sentences(source.graph, script.segments, ask, settings))
    reply = _reply(source, ask, end, settings)
    meta = {"skips": sum(said is None for said in thoughts)}
    return assemble(source, script, "tays", thoughts, {ask.id: [(end, reply)] if reply else []}, meta)


def sentences(graph: Graph, segments: tuple[Segment, ...], ask: Ask, settings: TaysSettings) -> Iterator[Said | None]:
    """What is said at each frame: the evidence that became known in it, or None for a skip."""
    before, previous = -1.0, ""
    bears_on = _bears_on(ask, graph, settings)
    for segment in segments:
        new = [edge for edge in graph.new(before, segment.end) if bears_on(edge)]
        fresh = [edge for edge in new if likeness(edge.text, previous) < settings.most_likeness]
        before = segment.end
        if not fresh:
            yield None
            continue
        previous = fresh[-1].text
        yield sentence(joined(list(dict.fromkeys(edge.text for edge in fresh)))), tuple(edge.id for edge in fresh)


def _bears_on(ask: Ask, graph: Graph, settings: TaysSettings) -> Callable[[Edge], bool]:
    if ask.subkind == "tays_entity":
        entity = str(ask.slots["entity"])
        return lambda edge: any_event(edge) and entity in (graph.name(edge.head), graph.name(edge.tail))
    question = str(ask.slots["question"])
    return lambda edge: any_event(edge) and likeness(edge.text, question) >= settings.least_likeness


def _reply(source: Source, ask: Ask, end: float, settings: TaysSettings) -> Reply | None:
    """The answer at the end, with the evidence that was said."""
    known = source.graph.as_of(end)
    edges = [edge for edge in known.edges if _bears_on(ask, known, settings)(edge)]
    spans = tuple(dict.fromkeys((edge.start, edge.end) for edge in edges))
    ids = tuple(edge.id for edge in edges)
    if ask.subkind == "tays_exchange":
        found = next((one for one in source.exchanges if one.id == ask.slots["exchange"]), None)
        return None if found is None else Reply(found.answer, found.evidence or spans, ids, end)
    if not edges:
        return None
    text = sentence(joined(list(dict.fromkeys(edge.text for edge in edges)), last="and then"))
    return Reply(text, spans, ids, max(edge.knowable_at for edge in edges))


def likeness(one: str, other: str) -> float:
    """Shared words over all words of two texts, from 0 to 1 (Jaccard); of two empty texts 0."""
    words, others = set(one.casefold().split()), set(other.casefold().split())
    return len(words & others) / len(words | others) if words | others else 0.0


BUILDER = Builder(TaysSettings, plan, tell)
