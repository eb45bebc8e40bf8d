"""The `world` stage: a recipe for a procedural video world, its videos with their exact graphs.

    whilst world recipes/tiny/world.yaml

The output folder gets, for every split, <split>.sources.jsonl and <split>/videos; counts.json, what was made and turned
down; and recipe.yaml (resolved). `whilst synth` makes samples of the sources.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from data_pipeline.world.build import BuildReport, build_world
from data_pipeline.world.config import WorldConfig
from whilst.recipe import Recipe, save_resolved


@dataclass(frozen=True, kw_only=True)
class WorldRecipe(Recipe):
    """`counts`: how many videos each split gets. The world's seed is the recipe's."""

    output: str
    counts: dict[str, int]
    world: WorldConfig = field(default_factory=WorldConfig)

    def __post_init__(self) -> None:
        if self.world.seed not in (0, self.seed):
            raise ValueError(f"world.seed is {self.world.seed}: leave it out, the recipe's seed is the world's")
        for split, count in self.counts.items():
            if split not in self.world.splits:
                raise ValueError(f"counts.{split}: no such split; world.splits are {', '.join(self.world.splits)}")
            if count < 1:
                raise ValueError(f"counts.{split}: {count} videos; give at least 1 or leave the split out")


def run(recipe: WorldRecipe) -> dict[str, BuildReport]:
    """Build every split; what was made, by split.

    Raises:
        WorldError: the configuration allows fewer different worlds than are asked for.
    """
    config, out = replace(recipe.world, seed=recipe.seed), Path(recipe.output)
    reports = {split: build_world(config, out, split, count) for split, count in recipe.counts.items()}
    counts = {split: vars(report) for split, report in reports.items()}
    (out / "counts.json").write_text(json.dumps(counts, indent=2) + "\n", encoding="utf-8")
    save_resolved(recipe, out / "recipe.yaml")
    return reports


def told(report: BuildReport) -> str:
    """A report in one line."""
    rejected = _counts(report.rejected) or "none rejected"
    return f"{report.videos} videos of {report.simulated} worlds ({rejected}); events: {_counts(report.events)}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
