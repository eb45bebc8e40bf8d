"""The road from a video to a source: clips, descriptions, linking, refinement, a graph, and whether it is worth having.

    source = extract_source(Video("street.mp4"), ExtractSettings(), describer, id="street", dataset="own",
                            video_id="street", licence="CC-BY-4.0")   # a Source, or Rejected

After VST's pipeline (section 2.3 and appendix C of arXiv 2603.12262, steps 1 to 3; no code of it was released): scene
clips, entity extraction over a sliding window of W clips with a registry of known entities, refinement, graph.

Causal, unlike VST's: clip k is described, linked and refined when it has arrived, and nothing known earlier is
rewritten. So at the end of every clip `graph.as_of(t)` is the graph of the video cut there, node for node and edge for
edge. (Between two ends of clips an edge that goes on may seem to hold up to t, although only the next clip shows it:
speak at the ends of segments, which are the clips.)
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from data_pipeline.extract.describe import Describer, View
from data_pipeline.extract.embed import encoder
from data_pipeline.extract.link import Link, Registry, Similar, link, merge, voted
from data_pipeline.extract.names import normal
from data_pipeline.extract.refine import Edges, refine
from data_pipeline.extract.settings import ClipSettings, ExtractSettings
from data_pipeline.extract.shape import against, shape
from data_pipeline.graph import Edge, Graph, make_graph
from data_pipeline.source import Rejected, Source
from data_pipeline.text.task import TextRejected
from whilst.sample import JSON, Segment, Video, replacing
from whilst.segmenters import SEGMENTERS, Clip, fixed
from whilst.video import Frames, VideoError, probe, stream_frames


@dataclass
class Extraction:
    """A video's graph and how it came about. `failed` counts clips without a description, by reason."""

    id: str
    graph: Graph
    segments: tuple[Segment, ...]
    registry: Registry
    edges: Edges
    failed: Counter[str] = field(default_factory=Counter)

    @property
    def links(self) -> list[Link]:
        """What became of every mention; entities by the id that stands for them at the end."""
        now = self.registry.now
        return [one if one.entity is None else replace(one, entity=now(one.entity).id) for one in self.registry.links]

    def statistics(self) -> dict[str, JSON]:
        """Counts of everything that was described, kept and rejected, and the shape of the graph."""
        standing = self.registry.standing()
        return {
            "id": self.id,
            "duration": self.graph.duration,
            "clips": len(self.segments),
            "failed_clips": dict(sorted(self.failed.items())),
            "entities": len(standing),
            "kinds": dict(sorted(Counter(entity.kind for entity in standing).items())),
            "aliases": sum(len(entity.names) - 1 for entity in standing),
            "mentions": _counts(self.registry.mentions) | {"by": dict(sorted(self.registry.hows.items()))},
            "refused": dict(sorted(self.registry.refused.items())),
            "merges": _counts(self.registry.merges),
            "triples": _counts(self.edges.triples) | {"clipped": self.edges.clipped},
            "relations": dict(sorted(Counter(edge.relation for edge in self.graph.edges).items())),
            "shape": asdict(shape(self.graph)),
        }


def extract_source(
    video: Video,
    settings: ExtractSettings,
    describer: Describer,
    *,
    id: str,
    dataset: str,
    video_id: str,
    licence: str,
    similar: Similar | None = None,
) -> Source | Rejected:
    """The source of a video, or why there is none. One segment a clip.

    `similar` is the encoder that `settings.link.embedder` names, loaded by `similar_of` once for many videos; None: it
    is loaded here. Statistics stand in `Source.meta["extract"]`, and in a file where the settings give a folder: for
    rejected videos too, unless they could not be read.

    Raises:
        SynthError: settings that cannot be used, such as an encoder that is not there.
        EndpointError: of the describer; a fault of the server is no property of the video.
    """
    try:
        found = extract(video, settings, describer, id=id, similar=similar or similar_of(settings))
    except VideoError as error:
        return Rejected(id, "video cannot be read", str(error))
    statistics = found.statistics()
    reason = _reason_against(found, settings)
    if settings.statistics is not None:
        outcome: dict[str, JSON] = {"rejected": None if reason is None else ": ".join(reason)}
        with replacing(Path(settings.statistics) / f"{id}.json") as part:
            Path(part).write_text(json.dumps(outcome | statistics, indent=1, ensure_ascii=False) + "\n", "utf-8")
    if reason is not None:
        return Rejected(id, *reason)
    return Source(
        id,
        replace(video, end=video.start + found.graph.duration if video.end is None else video.end),
        found.graph,
        found.segments,
        dataset,
        video_id,
        licence,
        meta={"extract": statistics},
    )


def extract(
    video: Video, settings: ExtractSettings, describer: Describer, *, id: str, similar: Similar | None = None
) -> Extraction:
    """The graph of a video, whatever its shape. Holds the frames of a window and of the open clip, no more.

    Raises:
        VideoError: a file that is missing or damaged, or a range outside it.
    """
    registry, edges, failed = Registry(), Edges(), Counter[str]()
    said: list[Edge] = []
    segments: list[Segment] = []
    window: deque[Clip] = deque(maxlen=settings.clips.window)
    for number, clip in enumerate(clips(video, settings.clips)):
        window.append(clip)
        segments.append(Segment(clip.start, clip.end))
        view = View(id, number, tuple(window), registry.known(settings.link.registry))
        try:
            description = describer(view)
        except TextRejected as error:
            failed[error.reason] += 1
            edges.seen = view.end
            continue
        found = link(
            description.mentions,
            registry,
            clip=number,
            end=view.end,
            settings=settings.link,
            refine=settings.refine,
            similar=similar,
        )
        ignored = frozenset(normal(mention.name) for mention in description.mentions) - found.keys()
        refine(description.triples, found, ignored, edges, view, settings.refine)
        pairs = [*description.same, *voted(registry, settings.link.votes)]
        # Of an entity that no edge has touched nothing was told yet, so there is nothing to set right.
        merged = merge(pairs, registry, clip=number, end=view.end)
        said += [edge for edge in merged if edge.head in edges.touched]
    registry.mentions.check(f"{id}: mentions")
    registry.merges.check(f"{id}: merges")
    edges.triples.check(f"{id}: triples")
    graph = _graph(id, segments[-1].end, registry, [*edges.by_id.values(), *said])
    return Extraction(id, graph, tuple(segments), registry, edges, failed)


def clips(video: Video, settings: ClipSettings) -> Iterator[Clip]:
    """The clips of a video, one by one as it is decoded; times in seconds from `video.start`.

    Raises VideoError as `stream_frames`.
    """
    end = probe(video.path).duration if video.end is None else video.end
    frames = stream_frames(video.path, settings.fps, video.start, video.end)
    arguments: dict[str, dict[str, Any]] = {
        "shots": {"threshold": settings.threshold},
        "token_budget": {"budget": settings.budget, "tokens_per_frame": settings.tokens_per_frame},
        "fixed": {"seconds": settings.seconds},
    }
    chosen = SEGMENTERS[settings.segmenter]
    assert chosen.causal
    for clip in chosen.function(frames, **arguments[settings.segmenter], end=end):
        pieces = fixed(clip.frames, settings.most_seconds, end=clip.end) if settings.segmenter == "shots" else [clip]
        for piece in pieces:
            start = video.start
            moved = Frames(piece.frames.images, piece.frames.times - start, piece.frames.pts - start)
            yield Clip(round(piece.start - start, 6), round(piece.end - start, 6), moved)


def similar_of(settings: ExtractSettings) -> Similar | None:
    """The encoder that the settings name, loaded; None where they name none. Raises SynthError as `encoder`."""
    return None if settings.link.embedder is None else encoder(settings.link.embedder)


def _reason_against(found: Extraction, settings: ExtractSettings) -> tuple[str, str] | None:
    failed = sum(found.failed.values())
    if failed > settings.failed_clips:
        reason, count = found.failed.most_common(1)[0]
        return "clip without description", f"{failed} of {len(found.segments)} clips, {count} by {reason!r}"
    return against(shape(found.graph), settings.shape)


def _graph(id: str, duration: float, registry: Registry, edges: list[Edge]) -> Graph:
    """Every entity is a node with its first name; later names are aliases from when they were learnt."""
    nodes = [(entity.id, entity.kind, entity.name) for entity in registry.entities.values()]
    aliases = {
        entity.id: tuple((name, known) for name, (_, _, known) in entity.names.items() if name != entity.name)
        for entity in registry.entities.values()
    }
    return make_graph(id, duration, nodes, edges, aliases=aliases)


def _counts(one: Any) -> dict[str, JSON]:
    return {"taken": one.taken, "made": one.made, "rejected": dict(sorted(one.rejected.items()))}
