"""VST (arXiv 2603.12262): thoughts while watching, then questions over a chain of evidence; answers in \\boxed{}.

The rules of the paper (2.3 and appendix C; no code was released): a thought a segment, the delta alone; chains of
evidence through the graph; a question that needs several segments; a sample of at most 128 s, which goes on with the
thoughts before it as its text memory (Eq. 4). One question a stream, after its last segment; `queries` > 1 asks on the
way too, which the paper leaves for later.

Open in the paper: how many hops a chain has, its spread, the mix of reasoning. Here `asking` says so; the default is
multi-hop questions alone. What coverage the thoughts give a chain stands in meta["chains"].
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from data_pipeline.builders.asking import (
    Answers,
    Asked,
    Asking,
    add,
    ask,
    evidence,
    moments,
    reply_to,
    script_of,
)
from data_pipeline.builders.assemble import Replies, assemble
from data_pipeline.builders.script import Builder, Plan, Script
from data_pipeline.graph import Graph
from data_pipeline.queries.ask import Ask, Reply
from data_pipeline.source import Rejected, Source, SynthError
from data_pipeline.text.task import Write
from data_pipeline.thoughts import covered, thoughts
from whilst.sample import JSON, Sample, Segment

HUB = 0.25


@dataclass(frozen=True)
class VstSettings:
    """`longest` is that of a sample in seconds; `queries` the most a sample has, one of them at its end.

    Two chains of a video share less than the part `overlap` of the entities of the smaller one.

    `memory_entry` is how an earlier thought stands in the memory: VST's own layout, with times in seconds.
    """

    asking: Asking = field(default_factory=lambda: Asking({"multi_hop": 1.0}))
    queries: int = 1
    longest: float = 128.0
    overlap: float = 0.1
    answers: Answers = "boxed"
    memory_entry: str = "Time={start:.1f}-{end:.1f}s {text}\n"

    def __post_init__(self) -> None:
        if self.queries < 1 or self.longest <= 0 or self.overlap <= 0:
            raise SynthError("vst: queries must be at least 1, longest above 0 seconds and overlap above 0")
        if "{text}" not in self.memory_entry:
            raise SynthError(f"vst.memory_entry: {self.memory_entry!r}: must hold {{text}}, the thought")


def plan(source: Source, settings: VstSettings, write: Write, seed: int) -> Plan:
    """A script for every part of at most `longest` seconds, or a rejection where nothing can be asked in it."""
    planned = Plan()
    parts = list(_parts(source.segments, settings.longest))
    done: list[Asked] = []  # of the parts before

    def against(ask: Ask, reply: Reply, before: Sequence[Asked]) -> str | None:
        chains = [one for one in (*done, *before) if one.ask.kind == "multi_hop"]
        if ask.kind != "multi_hop":
            return None
        shared = (_overlap(source.graph, reply, one.reply) for one in chains)
        return "entity overlap" if any(part >= settings.overlap for part in shared) else None

    for n, part in enumerate(parts):
        id = source.id if len(parts) == 1 else f"{source.id}-{n}"
        times = moments(source, part, settings.queries, settings.asking, seed, f"vst {n}", at_end=1)
        asked, counted = ask(source, part, times, settings.queries, settings.asking, write, seed, id, against)
        planned.queries.add(counted)
        done += asked
        if asked:
            add(planned, script_of(id, part, asked))
            planned.statistics.update(f"hops {len(one.reply.edges)}" for one in asked if one.ask.kind == "multi_hop")
        else:
            planned.rejected.append(Rejected(id, "no query", "; ".join(sorted(counted.rejected))))
    return planned


def _overlap(graph: Graph, one: Reply, other: Reply) -> float:
    """The part of the entities of the smaller chain that the other one has too, from 0 to 1.

    Entities that more than `HUB` of all edges touch do not count: the actor of every step is in every chain.
    """
    touched = Counter(end for edge in graph.edges for end in {edge.head, edge.tail})
    hubs = {node for node, count in touched.items() if count > HUB * len(graph.edges)}
    mine, theirs = (_entities(graph, reply) - hubs for reply in (one, other))
    return len(mine & theirs) / min(len(mine), len(theirs)) if mine and theirs else 0.0


def _entities(graph: Graph, reply: Reply) -> set[str]:
    return {end for edge in graph.edges if edge.id in reply.edges for end in (edge.head, edge.tail)}


def _parts(segments: Sequence[Segment], longest: float) -> Iterator[tuple[Segment, ...]]:
    """The segments in parts of at most `longest` seconds; a longer segment is a part of its own."""
    part: list[Segment] = []
    for segment in segments:
        if part and segment.end - part[0].start > longest:
            yield tuple(part)
            part = []
        part.append(segment)
    yield tuple(part)


def tell(source: Source, script: Script, settings: VstSettings, write: Write, seed: int) -> Sample:
    """Thoughts of the part, those before it as memory, and the answers.

    Raises:
        TextRejected: by the writer.
    """
    earlier = [segment for segment in source.segments if segment.end <= script.segments[0].start]
    said = thoughts(source, [*earlier, *script.segments], write, seed)
    before, now = said[: len(earlier)], said[len(earlier) :]
    entries = [
        settings.memory_entry.format(start=segment.start, end=segment.end, text=text)
        for segment, (text, _) in zip(earlier, before, strict=True)
    ]
    given, apart = reply_to(source, script, settings.answers, write)
    told = {edge for _, edges in said for edge in edges}
    meta: dict[str, JSON] = {"chains": _chains(source, given, told)}
    if apart:
        meta["rationales"] = apart
    return assemble(source, script, "vst", now, given, meta, memory="".join(entries))


def _chains(source: Source, given: Mapping[str, Replies], told: Collection[str]) -> dict[str, JSON]:
    """Of each answer by query id: its evidence (edge ids), how far that spreads (seconds), and how much was told."""
    found: dict[str, JSON] = {}
    for query, said in given.items():
        for time, reply in said:
            edges = evidence(reply, source.graph.as_of(time)) if reply is not None else []
            if edges:
                starts = [edge.start for edge in edges]
                found[query] = {
                    "edges": [edge.id for edge in edges],
                    "spread": max(starts) - min(starts),
                    "coverage": covered(edges, told),
                }
    return found


BUILDER = Builder(VstSettings, plan, tell)
