"""TimeChat-Online-139K (arXiv 2504.17343): one question a sample, about the past, the present or what is to come.

The rules of the paper (section 4): videos of scenes; questions of four types: temporal-enhanced (order of events,
change), backward tracing, real-time perception, and forward, where the answer comes later than the question; 20,000
of 139,000 cannot be answered. No thoughts. The released files have neither times nor types of questions; here both
stand in the sample.

Types map to kinds: temporal-enhanced: order, counting and multi_hop; backward; present; forward; unanswerable. Open:
the mix of types, which is even by default. A sample watches the video up to its last reply. The paper takes videos of
5 minutes and more: set `shortest: 300`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from data_pipeline.builders.asking import Answers, Asking, add, ask, moments, reply_to, script_of
from data_pipeline.builders.assemble import assemble
from data_pipeline.builders.script import Builder, Plan, Script
from data_pipeline.source import Rejected, Source, SynthError
from data_pipeline.text.task import Write
from whilst.sample import Sample

UNANSWERABLE = 20.0 / 139.0


def _asking() -> Asking:
    quarter = (1.0 - UNANSWERABLE) / 4
    temporal = {"order": quarter / 2, "counting": quarter / 4, "multi_hop": quarter / 4}
    kinds = {"backward": quarter, "present": quarter, "forward": quarter, "unanswerable": UNANSWERABLE} | temporal
    return Asking(kinds, {"choice": 2.0, "open": 1.0, "number": 1.0})


@dataclass(frozen=True)
class TimechatOnlineSettings:
    """`queries` is how many samples a video gives at most; `shortest` seconds of video."""

    asking: Asking = field(default_factory=_asking)
    queries: int = 4
    shortest: float = 0.0
    answers: Answers = "plain"

    def __post_init__(self) -> None:
        if self.queries < 1 or self.shortest < 0:
            raise SynthError("timechat_online: queries must be at least 1, shortest at least 0 seconds")


def plan(source: Source, settings: TimechatOnlineSettings, write: Write, seed: int) -> Plan:
    """A script for each of at most `queries` questions."""
    planned = Plan()
    if source.graph.duration < settings.shortest:
        planned.rejected.append(Rejected(source.id, "video too short", f"{source.graph.duration} s"))
        return planned
    times = moments(source, source.segments, settings.queries, settings.asking, seed, "timechat_online")
    asked, counted = ask(source, source.segments, times, settings.queries, settings.asking, write, seed, source.id)
    planned.queries.add(counted)
    for n, one in enumerate(asked):
        last = one.ask.time if one.ask.until is None else one.ask.until
        # A standing query ends with the segment after which it is answered, at the latest.
        watched = tuple(segment for segment in source.segments if segment.end <= last)
        add(planned, script_of(f"{source.id}-{n}", watched, [replace(one, ask=replace(one.ask, id="q0"))]))
    if not asked:
        planned.rejected.append(Rejected(source.id, "no query", "; ".join(sorted(counted.rejected))))
    return planned


def tell(source: Source, script: Script, settings: TimechatOnlineSettings, write: Write, seed: int) -> Sample:
    """The reply, at once or when it can be known, with silence until then.

    Raises:
        TextRejected: by the writer.
    """
    given, apart = reply_to(source, script, settings.answers, write)
    return assemble(source, script, "timechat_online", (), given, {"rationales": apart} if apart else None)


BUILDER = Builder(TimechatOnlineSettings, plan, tell)
