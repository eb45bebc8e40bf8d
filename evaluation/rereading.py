"""Thoughts as words alone: a stream that gets the thoughts of another one, but not the clips they were written about.

What the words carry is what is still right when they are read there. With KV memory the rest was in keys and values.
Words are a thought's text, encoded anew: special tokens that were sampled are not among them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from whilst.backbones.base import ClipShape
from whilst.checkpoint import Checkpoint
from whilst.chunks import Chunk
from whilst.clips import SegmentClip
from whilst.render import Renderer
from whilst.sample import Answer, Query, Sample, Segment, Silence

Clips = Sequence[Sequence[SegmentClip]]


def moments(
    samples: Sequence[Sample], clips: Clips
) -> Iterator[tuple[Sample, Sequence[SegmentClip], Query, Answer | Silence]]:
    """(sample, clips of the segments arrived, query, the event of its reply) for every moment at which one is put."""
    for sample, of_sample in zip(samples, clips, strict=True):
        arrived = 0
        queries: dict[str, Query] = {}
        for event in sample.events:
            if isinstance(event, Segment):
                arrived += 1
            elif isinstance(event, Query):
                queries[event.id] = event
            elif isinstance(event, Answer) or (isinstance(event, Silence) and event.query is not None):
                yield sample, of_sample[:arrived], queries[str(event.query)], event


@dataclass(frozen=True)
class Unseen(Segment):
    """A segment whose clip is not shown."""


class BlindRenderer(Renderer):
    """Writes the received turn of an `Unseen` segment without its clip: the marks of a turn around nothing."""

    def received(self, shape: ClipShape | None, segment: Segment | None, query: Query | None) -> Chunk:
        if isinstance(segment, Unseen):
            return super().received(None, None, query)
        return super().received(shape, segment, query)


def blind(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with a renderer that hides the clips of `Unseen` segments."""
    backbone = checkpoint.backbone
    return replace(checkpoint, renderer=BlindRenderer(backbone.tokenizer, backbone.spec, checkpoint.contract.render))


def unseen(clip: SegmentClip) -> SegmentClip:
    """A clip of a segment that is not shown."""
    return replace(clip, segment=Unseen(clip.segment.start, clip.segment.end))


def reread(
    samples: Sequence[Sample], clips: Clips, texts: Sequence[Sequence[str]], *, show_now: bool
) -> tuple[list[Sample], list[list[SegmentClip]], list[list[str]]]:
    """One sample a moment at which a query is put, with its clips and the thoughts to be written in it.

    Per segment arrived: its received turn without the clip, then its thought as a generated turn; then the query. Keys
    and values of the thoughts are computed anew, in streams that never saw the clip. show_now: the clip of the segment
    that arrived last is shown.
    """
    cut_samples: list[Sample] = []
    cut_clips: list[list[SegmentClip]] = []
    cut_texts: list[list[str]] = []
    of_sample = {id(sample): own for sample, own in zip(samples, texts, strict=True)}
    for sample, arrived, query, reply in moments(samples, clips):
        kept = [unseen(clip) for clip in arrived]
        if show_now and arrived:
            kept[-1] = arrived[-1]
        asked = replace(query, time=reply.time)
        cut_samples.append(replace(sample, events=(*(clip.segment for clip in kept), asked, reply)))
        cut_clips.append(kept)
        cut_texts.append(list(of_sample[id(sample)][: len(arrived)]))
    return cut_samples, cut_clips, cut_texts
