"""StreamingVLM's text stream: words said while the video plays, in short overlapped chunks (arXiv 2510.09608, 3.3).

The rules of the paper: chunks of W = 24 s that overlap by O = 12 s; at least 2 W words a chunk; a turn is a second of
video, with the words of that second, or none. `previous` is the text said before the chunk, its first and last part
(512 + 512 tokens), in Sample.memory.

Here the words are those of what becomes known, each clause one sentence, spoken from then on at no more than
`words_per_second`; what cannot be said yet waits its turn, first in, first out, across chunks. For speech (ASR
annotations) these are the words heard. A second without words is a Silence. The words' own times are spread evenly over
their second (meta.text_stream.words, as `whilst.foreign` writes them). Open: the paper's edit of transcripts by a
language model; its caps count tokens, `memory_words` counts words.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from data_pipeline.builders.assemble import Said, assemble
from data_pipeline.builders.script import Builder, Plan, Script
from data_pipeline.builders.watch import frames
from data_pipeline.graph import Edge, Graph
from data_pipeline.source import Rejected, Source, SynthError
from data_pipeline.text.task import Write
from data_pipeline.text.templates.clauses import sentence
from data_pipeline.thoughts import news
from whilst.sample import JSON, Sample, Segment

INSTRUCTION = "Comment on the video while it plays."


@dataclass(frozen=True)
class TextStreamSettings:
    """Seconds and words; defaults are the paper's, but for `words_per_second`, the pace of speech.

    `least_words_per_second` of a chunk that is kept; `memory_words` are the first and the last words of `previous`.
    """

    window: float = 24.0
    overlap: float = 12.0
    seconds: float = 1.0
    words_per_second: int = 4
    least_words_per_second: float = 2.0
    memory_words: tuple[int, int] = (512, 512)

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.window or self.seconds <= 0 or self.window < self.seconds:
            raise SynthError("text_stream: need 0 <= overlap < window and 0 < seconds <= window, all in seconds")
        if self.words_per_second < 1 or self.least_words_per_second < 0 or min(self.memory_words) < 0:
            raise SynthError("text_stream: words_per_second must be at least 1, the other counts of words not below 0")


def plan(source: Source, settings: TextStreamSettings, write: Write, seed: int) -> Plan:
    """A script for every chunk with words enough; the last chunk that is as long as the window is the last one."""
    planned = Plan()
    stream = frames(0.0, source.graph.duration, 1.0 / settings.seconds)
    length = round(settings.window / settings.seconds)
    step = max(1, round((settings.window - settings.overlap) / settings.seconds))
    chunks = [stream[at : at + length] for at in range(0, len(stream) - length + 1, step)]
    if not chunks:
        planned.rejected.append(Rejected(source.id, "shorter than a chunk", f"{source.graph.duration} s"))
    said = spoken(source.graph, stream, settings)
    for n, chunk in enumerate(chunks):
        id = f"{source.id}-text_stream-{n}"
        words = sum(len(words) for words, _ in said[n * step : n * step + length])
        planned.statistics["chunks"] += 1
        if not words or words < settings.least_words_per_second * settings.window:
            planned.rejected.append(Rejected(id, "too few words", f"{words} words"))
        else:
            planned.scripts.append(Script(id, chunk))
    return planned


def tell(source: Source, script: Script, settings: TextStreamSettings, write: Write, seed: int) -> Sample:
    """The words of each second of the chunk, and what was said before it.

    `thought_edges` are those whose words begin in the second in which they become known; speech that has to wait for
    its turn is in meta["late_edges"].
    """
    start, end = script.segments[0].start, script.segments[-1].end
    stream = frames(0.0, end, 1.0 / settings.seconds)
    said = spoken(source.graph, stream, settings)
    first = len(stream) - len(script.segments)
    earlier = [word for words, _ in said[:first] for word in words]
    thoughts: list[Said | None] = []
    late: list[JSON] = []
    for segment, (words, edges) in zip(script.segments, said[first:], strict=True):
        new = tuple(edge.id for edge in edges if segment.start < edge.knowable_at or segment.start == 0.0)
        late += [edge.id for edge in edges if edge.id not in new]
        thoughts.append((" ".join(words), new) if words else None)
    timed: list[JSON] = []
    for segment, (words, _) in zip(script.segments, said[first:], strict=True):
        ends = [segment.start + (segment.end - segment.start) * k / len(words) for k in range(1, len(words))]
        for low, high, word in zip([segment.start, *ends], [*ends, segment.end], words, strict=False):
            timed.append([source.video.start + low, source.video.start + high, word])
    meta: dict[str, JSON] = {"instruction": INSTRUCTION, "text_stream": {"words": timed}, "late_edges": late}
    memory = _kept(earlier, *settings.memory_words)
    return assemble(source, script, "text_stream", thoughts, {}, meta, memory=memory, span=(start, end))


def spoken(
    graph: Graph, stream: tuple[Segment, ...], settings: TextStreamSettings
) -> list[tuple[list[str], tuple[Edge, ...]]]:
    """The words said by the end of each second, and the edges whose words begin in it."""
    known = deque(news(graph))
    waiting: deque[tuple[str, Edge | None]] = deque()
    room = max(1, round(settings.words_per_second * settings.seconds))
    told = []
    for segment in stream:
        while known and known[0].knowable_at <= segment.end:
            edge = known.popleft()
            words = sentence(edge.text).split()
            waiting.extend((word, None if k else edge) for k, word in enumerate(words))
        now = [waiting.popleft() for _ in range(min(room, len(waiting)))]
        told.append(([word for word, _ in now], tuple(edge for _, edge in now if edge is not None)))
    return told


def _kept(words: list[str], first: int, last: int) -> str:
    """The first and the last words of a text; all of it where it is short."""
    if len(words) <= first + last:
        return " ".join(words)
    return " ".join([*words[:first], *words[len(words) - last :]])


BUILDER = Builder(TextStreamSettings, plan, tell)
