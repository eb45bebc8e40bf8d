"""LIVE's narration stream (VideoLLM-online, `data/ego4d/narration.py`): speak when something happens.

The rules, as the released code has them:

1. One frame that is not learned, then an instruction, then the stream.
2. A narration is said at its time, rounded up to the grid of frames; of several in one frame the last one stays.
3. A narration needs two words, and one that repeats the narration before it word for word is skipped.
4. At every other frame nothing is said, and that is learned: an explicit Silence of the instruction.

Open: LIVE's refinement of "C does" to "You do" is a matter of the annotation reader here. It begins a stream with the
first narration, ours begins with the video. It cuts a stream at the frames a model takes (1200 or 7200); here the
stream goes on in the next sample, so that no narration is lost. A narration is said once it can be known
(`knowable_at`), which for points in time is their moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from data_pipeline.builders.assemble import assemble
from data_pipeline.builders.script import Builder, Plan, Script
from data_pipeline.builders.watch import any_event, frames, watch
from data_pipeline.graph import Edge, Graph
from data_pipeline.queries.ask import Ask, Reply
from data_pipeline.source import Rejected, Source, SynthError
from data_pipeline.text.task import Task, Write
from data_pipeline.text.templates.clauses import sentence
from whilst.sample import Sample, Segment


@dataclass(frozen=True)
class LiveNarrationSettings:
    """Defaults are LIVE's; `max_frames` is the length of a sample, that of its 10-token model."""

    fps: float = 2.0
    max_frames: int = 1200
    least_words: int = 2

    def __post_init__(self) -> None:
        if self.fps <= 0 or self.max_frames < 2 or self.least_words < 1:
            raise SynthError("live_narration: fps must be above 0, max_frames at least 2, least_words at least 1")


def plan(source: Source, settings: LiveNarrationSettings, write: Write, seed: int) -> Plan:
    """One script for every `max_frames` of a source in which something is narrated."""
    planned = Plan()
    stream = frames(0.0, source.graph.duration, settings.fps)
    pieces = [stream[at : at + settings.max_frames] for at in range(0, len(stream), settings.max_frames)]
    if not pieces:
        planned.rejected.append(Rejected(source.id, "shorter than one frame"))
    for n, piece in enumerate(pieces):
        id = source.id if len(pieces) == 1 else f"{source.id}-live_narration-{n}"
        planned.queries.taken += 1
        time = piece[0].end
        until = piece[-1].end
        ask = Ask("q0", "forward", "live_narration", time, {}, until=until)
        if not any(reply for _, reply in narrations(source.graph, piece, ask, settings, sentence)):
            planned.queries.reject("nothing to narrate")
            planned.rejected.append(Rejected(id, "nothing to narrate"))
            continue
        facts = {"kind": ask.kind, "subkind": ask.subkind}
        words = write(Task("question", facts, key=f"{seed}/{id}/{ask.id}"))
        planned.scripts.append(Script(id, piece, (ask,), {ask.id: words}))
        planned.queries.made += 1
    return planned


def tell(source: Source, script: Script, settings: LiveNarrationSettings, write: Write, seed: int) -> Sample:
    """The narrations, and silence at every other frame after the instruction."""
    if not script.asks:
        return assemble(source, script, "live_narration", (), {})  # nobody asks, nothing is said
    ask = script.asks[0]
    replies = list(narrations(source.graph, script.segments, ask, settings, sentence))
    return assemble(source, script, "live_narration", (), {ask.id: replies})


def narrations(
    graph: Graph,
    segments: tuple[Segment, ...],
    ask: Ask,
    settings: LiveNarrationSettings,
    worded: Callable[[str], str],
) -> Iterator[tuple[float, Reply | None]]:
    """What is said at the end of each frame from the instruction on (seconds); None is silence."""
    first = segments[0].start
    previous = ""
    wanted = _told_by(settings)
    for moment in watch(graph, [segment.end for segment in segments], wanted, since=first if first else -1.0):
        if moment.time < ask.time:
            continue
        fitting = [edge for edge in moment.new if edge.text != previous]
        if not fitting:
            if moment.time > ask.time:  # the frame before the instruction is not learned
                yield moment.time, None
            continue
        edge = fitting[-1]
        previous = edge.text
        span = (edge.start, min(edge.end, moment.time))
        yield moment.time, Reply(worded(edge.text), (span,), (edge.id,), edge.knowable_at)


def _told_by(settings: LiveNarrationSettings) -> Callable[[Edge], bool]:
    return lambda edge: any_event(edge) and len(edge.text.split()) >= settings.least_words


BUILDER = Builder(LiveNarrationSettings, plan, tell)
