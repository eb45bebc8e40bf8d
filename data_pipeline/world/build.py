"""Worlds into files: videos and sources of one split.

    from data_pipeline.world.build import build_world
    report = build_world(WorldConfig(), Path("runs/world"), "train", 2000)

writes, for split `train`, train.sources.jsonl and train/videos/*.mp4. The split of a world is decided by its state
alone, so no story of one split is told in another, whatever the seeds.
"""

import random
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.progress import track

from data_pipeline.source import Source, fixed_segments, write_sources
from data_pipeline.world.config import FPS, SEGMENT_SECONDS, WorldConfig, WorldError
from data_pipeline.world.draw import draw
from data_pipeline.world.graph import graph_of
from data_pipeline.world.simulate import World, simulate, split_of
from whilst.sample import Video
from whilst.video import write_video

PATIENCE = 10_000  # worlds in a row that may be turned down before there are taken to be no more


@dataclass(frozen=True)
class Told:
    """A world and its source, whose video is yet to be written."""

    world: World
    source: Source


@dataclass
class BuildReport:
    """What was made and what was not: simulated == videos + sum(rejected.values()).

    `rejected` by reason; `events` counts what the videos hold.
    """

    simulated: int = 0
    videos: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)


def build_world(config: WorldConfig, out_dir: Path, split: str, n: int) -> BuildReport:
    """Write `n` videos and their sources; the same again for the same config.

    Raises WorldError for an unknown split, and where there are fewer than `n` different worlds.
    """
    report = BuildReport()
    videos = out_dir / split / "videos"
    videos.mkdir(parents=True, exist_ok=True)
    sources = []
    for told in track(tell(config, split, n, report), "videos", total=n, disable=not sys.stdout.isatty()):
        write_video(videos / f"{told.source.id}.mp4", draw(told.world, config), FPS)
        sources.append(told.source)
    write_sources(sources, out_dir / f"{split}.sources.jsonl")
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
        reason = _reason_against(world, config, split, states)
        if reason is not None:
            report.rejected[reason] += 1
            turned_down += 1
            if turned_down == PATIENCE:
                raise WorldError(
                    f"world: only {len(states)} of {n} different worlds were found for {split} ({report.rejected}): "
                    "ask for fewer, or allow more segments, objects or kinds of events"
                )
            continue
        turned_down = 0
        id = f"{split}-{len(states):05d}"
        states.add(world.state())
        report.videos += 1
        report.events.update(scene.event for scene in world.scenes)
        yield Told(world, source_of(world, id, path=f"{split}/videos/{id}.mp4"))


def source_of(world: World, id: str, path: str) -> Source:
    """The source of a world whose video lies at `path`, relative to the file of sources."""
    graph = graph_of(world, id)
    return Source(
        id,
        Video(path, 0.0, graph.duration),
        graph,
        fixed_segments(graph.duration, SEGMENT_SECONDS),
        dataset="world",
        video_id=world.state(),
        licence="Apache-2.0",
    )


def _reason_against(world: World, config: WorldConfig, split: str, states: set[str]) -> str | None:
    if split_of(world, config) != split:
        return "other split"
    return "duplicate" if world.state() in states else None
