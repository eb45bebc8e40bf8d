"""TWW, Think While Watching (arXiv 2603.11896): a note a segment, a rationale and an answer a question.

The rules of the paper. Stage 1: one question a video. Stage 2: questions grouped over one video, 3.09 on average.
Stage 3: long videos (600 to 3600 s), 3 to 5 questions about what lies far back, some of which cannot be answered yet
(the right reply defers), with segments in between that have nothing to do with the question. Only samples with exactly
one note a segment and one answer a question are kept. What comes after the last question is not watched.

Here `distractors` is the least number of segments between the last evidence of a question and the asking of it; the
paper inserts unrelated frames instead, which would take another video than the source's. The paper's answer follows
its rationale in one turn: an open answer does so here (`answers: reasoned`); where it is a letter or a number, the
rationale stands in meta["rationales"]. Queries are replied to at once: this paper has no standing ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from data_pipeline.builders.asking import Answers, Asked, Asking, add, ask, moments, no_objection, reply_to, script_of
from data_pipeline.builders.assemble import assemble
from data_pipeline.builders.script import Builder, Plan, Script
from data_pipeline.queries.ask import Ask, Reply
from data_pipeline.source import Rejected, Source, SynthError, draw
from data_pipeline.text.task import TextRejected, Write
from data_pipeline.thoughts import thoughts
from whilst.sample import JSON, Sample

ROUNDS = {1: (1, 1), 2: (2, 4), 3: (3, 5)}  # least and most questions of a stage


def _asking() -> Asking:
    kinds = {"backward": 3.0, "present": 1.0, "order": 1.0, "counting": 1.0, "multi_hop": 1.0, "unanswerable": 1.0}
    return Asking(kinds, {"choice": 1.0, "open": 1.0, "number": 1.0})


@dataclass(frozen=True)
class TwwSettings:
    """`rounds` (least, most) questions; null: those of the stage. `shortest` and `longest` of a video in seconds.

    `distractors` (segments) is for stage 3 alone.
    """

    stage: Literal[1, 2, 3] = 1
    asking: Asking = field(default_factory=_asking)
    rounds: tuple[int, int] | None = None
    shortest: float = 0.0
    longest: float = 3600.0
    distractors: int = 3
    answers: Answers = "reasoned"

    def __post_init__(self) -> None:
        least, most = self.of_stage
        if not 1 <= least <= most or self.distractors < 0 or not 0 <= self.shortest <= self.longest:
            raise SynthError("tww: need 1 <= least <= most rounds, distractors >= 0 and shortest <= longest seconds")
        if self.asking.kinds.get("forward", 0.0) > 0:
            raise SynthError("tww.asking.kinds.forward: every question is answered when it is asked; leave it out")

    @property
    def of_stage(self) -> tuple[int, int]:
        """The least and the most questions."""
        return self.rounds or ROUNDS[self.stage]


def plan(source: Source, settings: TwwSettings, write: Write, seed: int) -> Plan:
    """One script a source, with as many questions as drawn, or at least the least; or a rejection."""
    planned = Plan()
    if not settings.shortest <= source.graph.duration <= settings.longest:
        detail = f"{source.graph.duration} s"
        planned.rejected.append(Rejected(source.id, "video too short or too long", detail))
        return planned
    least, most = settings.of_stage
    wanted = draw(seed, source.id, "tww rounds").randint(least, most)
    times = moments(source, source.segments, wanted, settings.asking, seed, "tww")

    def near(ask: Ask, reply: Reply, before: Sequence[Asked]) -> str | None:
        return "too few distractors between" if between(source, ask, reply) < settings.distractors else None

    against = near if settings.stage == 3 else no_objection
    asked, counted = ask(source, source.segments, times, wanted, settings.asking, write, seed, source.id, against)
    if len(asked) < least:
        for _ in asked:
            counted.made -= 1
            counted.reject("too few questions in the sample")
        planned.rejected.append(Rejected(source.id, "too few questions", f"{len(asked)} of {least}"))
    else:
        last = max(one.ask.time for one in asked)
        watched = tuple(segment for segment in source.segments if segment.end <= last)
        add(planned, script_of(source.id, watched, asked))
    planned.queries.add(counted)
    return planned


def between(source: Source, ask: Ask, reply: Reply) -> int:
    """How many segments lie between the last evidence and the query; for a deferral, which rests on all: all."""
    last = max((end for _, end in reply.evidence), default=0.0) if reply.edges else 0.0
    if ask.kind == "unanswerable":
        last = 0.0
    return sum(last <= segment.start and segment.end <= ask.time for segment in source.segments)


def tell(source: Source, script: Script, settings: TwwSettings, write: Write, seed: int) -> Sample:
    """One note a segment, one answer a question.

    Raises:
        TextRejected: an empty note; or by the writer.
    """
    said = thoughts(source, script.segments, write, seed)
    given, apart = reply_to(source, script, settings.answers, write)
    if any(not text.strip() for text, _ in said):
        raise TextRejected("not one note a segment", f"script {script.id}: an empty note")
    meta: dict[str, JSON] = {"stage": settings.stage}
    if apart:
        meta["rationales"] = apart
    return assemble(source, script, "tww", said, given, meta)


BUILDER = Builder(TwwSettings, plan, tell)
