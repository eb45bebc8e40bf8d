"""Worlds into files: videos, samples and graphs of one split.

    from data_pipeline.world.build import build_world
    report = build_world(WorldConfig(), Path("runs/world"), "train", 2000)

writes, for split `train`, train.jsonl (Samples), train.graphs.jsonl and train/videos/*.mp4. The split of a world is
decided by its state alone, so no story of one split is told in another, whatever the seeds.
"""

import random
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.progress import track

from data_pipeline.world.config import FPS, SEGMENT_SECONDS, WorldConfig, WorldError
from data_pipeline.world.draw import draw
from data_pipeline.world.graph import WorldGraph, graph_of, thoughts, write_graphs
from data_pipeline.world.queries import Asked, ask
from data_pipeline.world.simulate import World, simulate, split_of
from whilst.sample import JSON, Event, Sample, Segment, Thought, Video, write_jsonl
from whilst.video import write_video

PATIENCE = 10_000  # worlds in a row that may be turned down before there are taken to be no more


@dataclass(frozen=True)
class Told:
    """A world with its sample and its graph; the sample's video is yet to be written."""

    world: World
    graph: WorldGraph
    sample: Sample


@dataclass
class BuildReport:
    """What was made and what was not: simulated == videos + sum(rejected.values()).

    `rejected` by reason; `events`, `kinds` and `subkinds` (of queries) count what the videos hold.
    """

    simulated: int = 0
    videos: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    subkinds: Counter[str] = field(default_factory=Counter)


def build_world(config: WorldConfig, out_dir: Path, split: str, n: int) -> BuildReport:
    """Write `n` videos with their samples and graphs; the same again for the same config.

    Raises WorldError for an unknown split, and where there are fewer than `n` different worlds.
    """
    report = BuildReport()
    videos = out_dir / split / "videos"
    videos.mkdir(parents=True, exist_ok=True)
    samples, graphs = [], []
    for told in track(tell(config, split, n, report), "videos", total=n, disable=not sys.stdout.isatty()):
        write_video(videos / f"{told.sample.id}.mp4", draw(told.world, config), FPS)
        samples.append(told.sample)
        graphs.append(told.graph)
    write_graphs(graphs, out_dir / f"{split}.graphs.jsonl")
    write_jsonl(samples, out_dir / f"{split}.jsonl")
    return report


def tell(config: WorldConfig, split: str, n: int, report: BuildReport) -> Iterator[Told]:
    """`n` different worlds of a split, without their videos; the first ones are the same for every `n`."""
    if split not in config.splits:
        raise WorldError(f"world: there is no split {split!r}: choose one of {', '.join(config.splits)}")
    states: set[str] = set()
    turned_down = 0
    while len(states) < n:
        rng = random.Random(f"{config.seed}/{report.simulated}")
        report.simulated += 1
        world = simulate(config, rng)
        graph, asked = graph_of(world, id=f"{split}-{len(states):05d}"), []
        reason = _reason_against(world, config, split, states)
        if reason is None:
            asked = ask(graph, config, rng)
            reason = "too few queries" if len(asked) < config.queries_per_video else None
        if reason is not None:
            report.rejected[reason] += 1
            turned_down += 1
            if turned_down == PATIENCE:
                raise WorldError(
                    f"world: only {len(states)} of {n} different worlds were found for {split} ({report.rejected}): "
                    "ask for fewer, or allow more segments, objects or kinds of queries"
                )
            continue
        turned_down = 0
        states.add(world.state())
        report.videos += 1
        report.events.update(scene.event for scene in world.scenes)
        report.kinds.update(one.query.kind for one in asked if one.query.kind is not None)
        report.subkinds.update(one.subkind for one in asked)
        yield Told(world, graph, sample_of(world, graph, asked, path=f"{split}/videos/{graph.id}.mp4"))


def sample_of(world: World, graph: WorldGraph, asked: list[Asked], path: str) -> Sample:
    """The timeline. At a segment's end come the segment, its thought, what a standing query is due, and new queries."""
    events: list[Event] = []
    for k, thought in enumerate(thoughts(graph)):
        end = (k + 1) * SEGMENT_SECONDS
        events += [Segment(k * SEGMENT_SECONDS, end), Thought(end, thought)]
        events += [reply for one in asked for reply in one.replies if one.query.time < end == reply.time]
        for one in asked:
            if one.query.time == end:
                events += [one.query, *(reply for reply in one.replies if reply.time == end)]
    meta: dict[str, JSON] = {"subkinds": {one.query.id: one.subkind for one in asked}, "world": world.state()}
    return Sample(graph.id, Video(path, 0.0, graph.duration), tuple(events), meta=meta)


def _reason_against(world: World, config: WorldConfig, split: str, states: set[str]) -> str | None:
    if split_of(world, config) != split:
        return "other split"
    return "duplicate" if world.state() in states else None
