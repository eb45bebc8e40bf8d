"""Sources of the procedural world, without their videos, for tests of everything that comes after."""

from dataclasses import replace

from data_pipeline.source import Source
from data_pipeline.world.build import BuildReport, tell
from data_pipeline.world.config import WorldConfig

# Many things happen, between objects too, so that there are chains, counts and orders to ask for.
BUSY = WorldConfig(
    segments=(16, 24),
    grid=4,
    colours=("red", "green", "blue"),
    shapes=("circle", "square", "triangle", "diamond"),
    events={"touch": 5.0, "enter": 1.0, "leave": 0.5, "move": 1.0, "hide": 1.0, "change": 0.2, "idle": 0.5},
)


def world_sources(n: int, seed: int = 0, config: WorldConfig = BUSY, split: str = "train") -> list[Source]:
    """`n` sources of worlds; their videos do not exist."""
    return [told.source for told in tell(replace(config, seed=seed), split, n, BuildReport())]
