"""Controls: what an accuracy falls to when the model is deprived of something.

| control | what is taken away |
|---|---|
| thoughts_shuffled | at every query the text memory is another video's |
| thoughts_dropped | at every query the text memory is empty |
| text_only | no video at all: the query alone |
| last_frames | only the last n frames before a query are watched (and thought about) |
| thoughts_swapped | it writes another video's thoughts while it watches its own (KV memory) |
| thoughts_greedy | chance: the likeliest thoughts of an arm whose thoughts are drawn |

Shuffling or dropping thoughts is valid with text memory alone: kept keys and values also carry what they saw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from evaluation.predict import Episode, EvaluationError
from whilst.clips import SegmentClip
from whilst.runtime import StreamBatch
from whilst.sample import Answer, Query, Sample, Segment, Silence

CONTROLS = ("thoughts_shuffled", "thoughts_dropped", "text_only", "last_frames")  # of text memory
SWAPPED = "thoughts_swapped"  # of KV memory
GREEDY = "thoughts_greedy"  # of an arm whose thoughts are drawn


def shuffle_thoughts(streams: StreamBatch) -> None:
    """Each stream gets the memory of the next one. `check_distinct` says whether that is another video's."""
    entries = streams.memory_entries()
    streams.replace_memory(entries[1:] + entries[:1])


def check_distinct(samples: Sequence[Sample], batch: int) -> None:
    """Raise unless every sample's next one in its batch is of another video, as shuffling and swapping take it."""
    for start in range(0, len(samples), batch):
        videos = [sample.video.path for sample in samples[start : start + batch]]
        for video, other in zip(videos, videos[1:] + videos[:1], strict=True):
            if video == other:
                raise EvaluationError(
                    f"{video}: its next neighbour in a batch of {len(videos)} is the same video, so a memory would be "
                    f"swapped with itself; order the samples by turns, and leave no single sample for the last batch"
                )


def drop_thoughts(streams: StreamBatch) -> None:
    streams.forget()


def without_video(
    samples: Sequence[Sample], clips: Sequence[Sequence[SegmentClip]]
) -> tuple[list[Sample], list[list[SegmentClip]]]:
    """The queries alone."""
    asked = [
        sample.with_events(
            [e for e in sample.events if isinstance(e, Query | Answer) or (isinstance(e, Silence) and e.query)]
        )
        for sample in samples
    ]
    return asked, [[] for _ in samples]


def last_frames(
    samples: Sequence[Sample], clips: Sequence[Sequence[SegmentClip]], frames: int
) -> tuple[list[Sample], list[list[SegmentClip]]]:
    """One sample a moment at which a query is put: the segments of the last `frames` frames, then the query.

    They keep their sample's id; whole segments are kept, at least one.
    """
    cut_samples: list[Sample] = []
    cut_clips: list[list[SegmentClip]] = []
    for sample, of_sample in zip(samples, clips, strict=True):
        arrived: list[Segment] = []
        queries: dict[str, Query] = {}
        for event in sample.events:
            if isinstance(event, Segment):
                arrived.append(event)
            elif isinstance(event, Query):
                queries[event.id] = event
            elif isinstance(event, Answer) or (isinstance(event, Silence) and event.query is not None):
                kept, shown = 0, 0
                while kept < len(arrived) and (kept == 0 or shown < frames):
                    kept += 1
                    shown += len(of_sample[len(arrived) - kept].images)
                recent = arrived[len(arrived) - kept :]
                query = replace(queries[str(event.query)], time=event.time)
                cut_samples.append(replace(sample, events=(*recent, query, event)))
                cut_clips.append(list(of_sample[len(arrived) - kept : len(arrived)]))
    return cut_samples, cut_clips


def unasked(samples: Sequence[Sample]) -> list[Sample]:
    """The samples without their queries: all that it takes to know an arm's thoughts, since queries are on branches."""
    return [sample.with_events(sample.segments()) for sample in samples]


def swapped(episodes: Sequence[Episode]) -> list[list[str]]:
    """Each sample's thoughts replaced by the next one's, to be written while it watches its own video.

    With KV memory the words are another video's, but their keys and values still saw this one: what is right beyond
    chance leaked through them.
    """
    texts = [[text for _, text, _ in episode.thoughts] for episode in episodes]
    silent = [episode.sample for episode in episodes if not episode.thoughts]
    if silent:
        raise EvaluationError(f"sample {silent[0]}: no thought to swap; leave samples without segments out")
    others = texts[1:] + texts[:1]
    return [[other[i % len(other)] for i in range(len(own))] for own, other in zip(texts, others, strict=True)]
