"""Evaluation of many queries a video: on branches of one stream, or each on a stream of its own.

Claim: with 16 queries a video, spread evenly over it, one stream a video takes at most a fifth of the time of a stream
a query, and every reply is the same.

Baseline: what evaluation packages of this field do. Each query is a sample of its own: its video is watched, with a
thought a segment, up to the moment of the query and no further, and then it is asked. It is given what makes it fast:
as many streams in step as ours has at most, streams that begin with the longest ones so that those in step end
together, and frames that are cut beforehand. Both go through `evaluation.predict.predict`; both encode, watch and think
anew, in keys and values or in text memory.

What to expect: of n queries spread over a video, the baseline watches (n + 1) / 2 videos where ours watches one, 8.5 at
16 queries; the queries themselves cost both the same. Queries that all come at the end would give up to n. Both are in
the table, the claim is about the first, and about the layout that gains less; the second is timed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any, Literal

import torch

from benchmarks._measure import last_line, one_thread, paired_ratio, table, take_turns
from benchmarks._streams import FPS, checkpoint, clips, stream
from evaluation.predict import Episode, predict
from whilst.backbones.base import Backbone, load
from whilst.backbones.tiny import Family
from whilst.checkpoint import Checkpoint, Contract
from whilst.clips import SegmentClip
from whilst.render import Renderer
from whilst.render_config import RenderConfig
from whilst.sample import Answer, Event, Query, Sample, Segment

TARGET = 5.0
FAMILY: Family = "qwen3_vl"
SIZES: dict[str, Any] = {"hidden": 128, "layers": 3, "heads": 4, "kv_heads": 2, "intermediate": 384}
PIXELS = (64, 64)  # two frames a segment: 4 x 4 visual tokens
LIMITS: dict[str, Any] = {"thought_tokens": 8, "answer_tokens": 2}
CONFIGS = (
    RenderConfig(layout="recurrent_packed", rule="text_memory"),
    RenderConfig(layout="interleaved", rule="causal"),
)
Place = Literal["spread", "end"]
Watched = tuple[list[Sample], list[list[SegmentClip]]]


def many_queries(name: str, segments: int, queries: int, place: Place, seed: int) -> Sample:
    """A video with `queries` queries of six words each, after segments at even distances or all after the last one."""
    told = stream(name, segments, thought=(1, 1), seed=seed)
    events: list[Event] = []
    seen = 0
    for event in told.events:
        if not isinstance(event, Segment):
            continue
        events.append(event)
        seen += 1
        due = [q for q in range(queries) if (segments if place == "end" else -(-(q + 1) * segments // queries)) == seen]
        for q in due:
            text = f"word-{q} word-{seed % 50} word-{q + 20} word-7 word-{q + 50} ?"
            events += [Query(f"q{q}", event.end, text), Answer(event.end, "word-1", f"q{q}")]
    return told.with_events(events)


def alone(samples: Sequence[Sample], shown: Sequence[Sequence[SegmentClip]]) -> Watched:
    """One sample a query: its video up to the query, and the query. The longest first."""
    pairs = []
    for sample, of_sample in zip(samples, shown, strict=True):
        for query in sample.queries():
            events = [e for e in sample.events if isinstance(e, Segment) and e.end <= query.time]
            asked = sample.with_events([*events, query, *sample.answers_to(query.id)])
            pairs.append((replace(asked, id=f"{sample.id}/{query.id}"), list(of_sample[: len(events)])))
    pairs.sort(key=lambda pair: -len(pair[1]))
    return [sample for sample, _ in pairs], [own for _, own in pairs]


def replies(episodes: Sequence[Episode]) -> dict[str, str]:
    """Every reply by sample and query."""
    return {f"{e.sample.partition('/')[0]}/{r.query}": r.text for e in episodes for r in e.replies}


def check_equal(ours: Sequence[Episode], theirs: Sequence[Episode]) -> int:
    """The number of replies, which must be the same."""
    one, other = replies(ours), replies(theirs)
    assert one == other, f"replies differ: {[key for key in one if one[key] != other.get(key)][:5]}"
    return len(one)


def measure(
    backbone: Backbone, config: RenderConfig, place: Place, videos: int, segments: int, queries: int, repeats: int
) -> dict[str, Any]:
    """Compare and time one layout."""
    renderer = Renderer(backbone.tokenizer, backbone.spec, config)
    of = Checkpoint(backbone, renderer, Contract("tiny", FPS, True, config))
    samples = [many_queries(f"video-{i}", segments, queries, place, i) for i in range(videos)]
    shown = [clips(sample, *PIXELS, seed=i) for i, sample in enumerate(samples)]
    apart = alone(samples, shown)
    runs = {
        "one_stream": partial(predict, of, samples, shown, batch=videos, **LIMITS),
        "stream_a_query": partial(predict, of, apart[0], apart[1], batch=videos, **LIMITS),
    }
    made = {name: run() for name, run in runs.items()}
    asked = check_equal(made["one_stream"], made["stream_a_query"])
    tokens = {name: sum(e.thought_tokens + e.answer_tokens for e in of_run) for name, of_run in made.items()}
    seconds = take_turns(runs, repeats)
    return {
        "rule": f"{config.layout}/{config.rule}",
        "place": place,
        "videos": videos,
        "segments": segments,
        "queries": asked,
        "tokens_written": tokens,
        "seconds": {name: median(times) for name, times in seconds.items()},
        "ratio": paired_ratio(seconds["stream_a_query"], seconds["one_stream"]),
    }


def main(
    configs: Sequence[RenderConfig] = CONFIGS,
    videos: int = 2,
    segments: int = 16,
    queries: int = 16,
    repeats: int = 2,
    places: Sequence[Place] = ("spread", "end"),
) -> str:
    """Compare and measure; the claim is about queries that are spread, and the layout that gains less."""
    one_thread()
    with checkpoint(FAMILY, **SIZES) as folder:
        backbone = load(folder)
    backbone.model.eval()
    torch.manual_seed(0)
    results = [
        measure(backbone, config, place, videos, segments, queries, repeats if place == places[0] else 1)
        for place in places
        for config in configs
    ]
    lines = [
        [r["rule"], r["place"], name, r["queries"], r["tokens_written"][name], r["seconds"][name], r["ratio"]]
        for r in results
        for name in ("one_stream", "stream_a_query")
    ]
    print(table(["rule", "queries are", "way", "queries", "tokens written", "s", "ratio"], lines))
    ratio = min(r["ratio"] for r in results if r["place"] == places[0])
    details = {"unit": "CPU seconds", "family": FAMILY, "queries_a_video": queries, "settings": results}
    return last_line(
        f"state reuse, time of a stream a query over one stream a video at {queries} queries",
        ratio,
        TARGET,
        ratio >= TARGET,
        details,
    )


if __name__ == "__main__":
    print(main())
