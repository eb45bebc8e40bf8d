"""Queries off the graph, for every builder that asks: which, when, in what words; and what is replied to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from data_pipeline.builders.assemble import Replies
from data_pipeline.builders.script import Plan, Script
from data_pipeline.graph import Edge, Graph
from data_pipeline.queries.ask import Ask, Reply
from data_pipeline.queries.plan import AskSettings, plan_asks, question_task, replies
from data_pipeline.source import Source, SynthError, Yield, draw
from data_pipeline.text.task import Task, TextRejected, Write
from data_pipeline.thoughts import STRUCTURE
from whilst.sample import Segment

Answers = Literal["plain", "boxed", "reasoned", "tagged"]

WITH_THE_WAY = {
    "reasoned": "{way} \\boxed{{{answer}}}",
    "tagged": "<think>{way}</think><answer>{answer}</answer>",  # Video-R1, arXiv 2503.21776
}


@dataclass(frozen=True)
class Asking:
    """What is asked: `kinds` and `formats` are weights, which need not add up to one; `asks` says how it is put.

    In a recipe they are merged with those that a builder has by default: a weight of 0 leaves one of them out.

    `tries` moments are tried for each query that a sample is to have: where nothing of the drawn kind can be asked at
    one moment, another one may do.
    """

    kinds: dict[str, float]
    formats: dict[str, float] = field(default_factory=lambda: {"open": 1.0})
    tries: int = 3
    asks: AskSettings = field(default_factory=AskSettings)

    def __post_init__(self) -> None:
        for name in ("kinds", "formats"):
            weights: dict[str, float] = getattr(self, name)
            if not weights or min(weights.values()) < 0 or sum(weights.values()) <= 0:
                raise SynthError(f"asking.{name}: {weights!r}: must be weights, one of them above 0")
        if self.tries < 1:
            raise SynthError(f"asking.tries: {self.tries!r}: must be at least 1")


@dataclass(frozen=True)
class Asked:
    """An ask that is to stand in a sample, the reply that it gets in the end, and its words."""

    ask: Ask
    reply: Reply
    words: str


Objection: TypeAlias = Callable[[Ask, Reply, Sequence[Asked]], "str | None"]
"""The reason why an ask with this reply is not wanted beside those before it; None if it is."""


def no_objection(ask: Ask, reply: Reply, before: Sequence[Asked]) -> str | None:
    """Every ask is wanted."""
    return None


def ask(
    source: Source,
    segments: Sequence[Segment],
    times: Sequence[float],
    most: int,
    asking: Asking,
    write: Write,
    seed: int,
    id: str,
    against: Objection = no_objection,
) -> tuple[list[Asked], Yield]:
    """At most `most` asks, at the first of `times` (seconds) at which there are some; ids q0, q1, ... in order of time.

    Times are tried `most` at a time, until there are asks enough.
    """
    ends = [segment.end for segment in segments]
    kept: list[Asked] = []
    counted = Yield()
    for tried in range(most, len(times) + most, most):
        # What is planned for the first times does not depend on those after them.
        found, counted = plan_asks(
            source, times[:tried], asking.kinds, asking.formats, seed, settings=asking.asks, segments=segments
        )
        kept = []
        for one in found:
            if len(kept) == most:
                reason: str | Asked = "enough of this sample"
            else:
                reason = _asked(source, one, ends, write, id, against, kept)
            if isinstance(reason, Asked):
                kept.append(reason)
            else:
                counted.made -= 1
                counted.reject(reason)
        if len(kept) == most:
            break
    kept.sort(key=lambda one: one.ask.time)
    return [replace(one, ask=replace(one.ask, id=f"q{i}")) for i, one in enumerate(kept)], counted


def _asked(
    source: Source,
    one: Ask,
    ends: Sequence[float],
    write: Write,
    id: str,
    against: Objection,
    before: Sequence[Asked],
) -> Asked | str:
    """The ask with its reply and words, or the reason against it."""
    reply = next((reply for _, reply in replies(one, source.graph, ends) if reply is not None), None)
    if reply is None:
        return "no reply in time"
    reason = against(one, reply, before)
    if reason is not None:
        return reason
    try:
        return Asked(one, reply, write(question_task(one, id)))
    except TextRejected as error:
        return error.reason


def script_of(id: str, segments: tuple[Segment, ...], asked: Sequence[Asked]) -> Script:
    """The script of a sample that asks this."""
    return Script(id, segments, tuple(one.ask for one in asked), {one.ask.id: one.words for one in asked})


def moments(
    source: Source, segments: Sequence[Segment], most: int, asking: Asking, seed: int, purpose: str, at_end: int = 0
) -> list[float]:
    """Ends of segments (seconds) to ask at: `most` for each of `asking.tries`, the first `at_end` of them the last end.

    The others are drawn evenly, none twice in one try unless there are too few.
    """
    ends = [segment.end for segment in segments]
    found: list[float] = []
    for n in range(asking.tries):
        rng = draw(seed, source.id, purpose, n)
        drawn = [ends[-1]] * at_end
        while len(drawn) < most:
            drawn += rng.sample(ends, min(len(ends), most - len(drawn)))
        found += drawn
    return found


def reply_to(
    source: Source, script: Script, answers: Answers, write: Write
) -> tuple[dict[str, Replies], dict[str, str]]:
    """The replies to every ask of a script, and the rationales that stand apart from their answer, both by ask id.

    `plain` is the answer alone. `boxed` is \\boxed{answer}, for open questions: an option has to be given as it is.
    `reasoned` has the way from the evidence to the answer before that; where an answer cannot hold it, it stands apart.
    `tagged` is as `reasoned`, but <think>the way</think><answer>answer</answer>.

    Raises:
        TextRejected: by the writer.
    """
    given: dict[str, Replies] = {}
    apart: dict[str, str] = {}
    ends = [segment.end for segment in script.segments]
    for one in script.asks:
        said: list[tuple[float, Reply | None]] = []
        # What does not stand is replied to at once, or never.
        due = ends if one.until is not None else [end for end in ends if end >= one.time][:1]
        for time, reply in replies(one, source.graph, due):
            if reply is not None and answers in ("reasoned", "tagged"):
                way = _reasoning(one, script, reply, source.graph.as_of(time), write, f"{script.id}/{one.id}/{time:g}")
                if one.format == "open":
                    reply = replace(reply, text=WITH_THE_WAY[answers].format(way=way, answer=reply.text))
                else:
                    apart[one.id] = way
            elif reply is not None and answers == "boxed" and one.format == "open":
                reply = replace(reply, text=_boxed(reply.text))
            said.append((time, reply))
        given[one.id] = said
    return given, apart


def _boxed(text: str) -> str:
    return f"\\boxed{{{text}}}"


def _reasoning(one: Ask, script: Script, reply: Reply, known: Graph, write: Write, key: str) -> str:
    edges = sorted(evidence(reply, known), key=lambda edge: (edge.start, edge.id))
    facts = {
        "question": script.questions[one.id],
        "clauses": list(dict.fromkeys(edge.text for edge in edges)),
        "answer": reply.text,
    }
    return write(Task("reasoning", facts, key))


def evidence(reply: Reply, known: Graph) -> list[Edge]:
    """The edges of `known` that a reply rests on, in its order; how annotations hang together is no evidence."""
    by_id = {edge.id: edge for edge in known.edges}
    found = [by_id[id] for id in reply.edges if id in by_id]
    return [edge for edge in found if edge.relation not in STRUCTURE]


def add(planned: Plan, script: Script) -> None:
    """Add a script to a plan, and count what it asks for by kind, subkind and format."""
    planned.scripts.append(script)
    for one in script.asks:
        planned.statistics.update((f"kind {one.kind}", f"subkind {one.subkind}", f"format {one.format}"))
