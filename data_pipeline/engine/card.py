"""The dataset's card, README.md: what `datasets.load_dataset` reads of it, and what a reader has to know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml  # type: ignore[import-untyped]

from data_pipeline.engine.recipe import SynthRecipe
from data_pipeline.engine.tally import LEVELS
from whilst import __version__
from whilst.sample import SCHEMA


def card(recipe: SynthRecipe, report: Mapping[str, Any], settings: str) -> str:
    """The text of README.md; `settings` is that of recipe.yaml. No date: the same run gives the same bytes."""
    origins = report["all"]["origins"]
    parts = [
        _header(recipe, report),
        f"# {recipe.name}\n",
        f"Streaming video samples, made by the `{recipe.builder.name}` builder of whilst {__version__}"
        f" with seed {recipe.seed}.",
        recipe.source.strip(),
        recipe.notes.strip(),
        "One row is one sample: a video and the time-ordered events on it (segments, thoughts, queries, answers and"
        f" silences), schema `{SCHEMA}`. `video`, `events` and `meta` are JSON texts; `video.path` is relative to the"
        " folder of the row's file. `whilst.sample.read_samples` reads the rows into dataclasses. The videos themselves"
        " are not part of the dataset.",
        '```python\nfrom datasets import load_dataset\n\nload_dataset("path/to/this/folder")\n```',
        "## Origin\n",
        _table(("dataset", "licence of its annotations", "samples"), origins),
        "Beside `data/` lie `sources/` (each video's graph, from which every text can be made again: `whilst doctor"
        " causality` does), `rejected.jsonl` (everything that was turned down, and why), `yields.json` (the figures"
        " below), `words.txt` and `recipe.yaml`.",
        "## Yields\n",
        _yields(report),
        "## What the samples hold\n",
        _table(("what", "count"), report["all"]["statistics"].items()),
        "## Settings\n",
        f"```yaml\n{settings}```",
    ]
    return "\n\n".join(part.rstrip("\n") for part in parts if part) + "\n"


def _header(recipe: SynthRecipe, report: Mapping[str, Any]) -> str:
    kind = "parquet" if "parquet" in recipe.formats else "jsonl"
    files = [{"split": split, "path": f"data/{split}-*.{kind}"} for split in recipe.inputs]
    header = {
        "pretty_name": recipe.name,
        "license": "other",
        "license_name": " / ".join(sorted({licence for _, licence, _ in report["all"]["origins"]})) or "unknown",
        "task_categories": ["video-text-to-text"],
        "tags": ["streaming-video", "synthetic", "whilst"],
        "size_categories": [_size(report["all"]["samples"]["out"])],
        "configs": [{"config_name": "default", "data_files": files}],
    }
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---"


def _size(count: int) -> str:
    """The Hub's classes of sizes."""
    bounds = [(10**3, "1K"), (10**4, "10K"), (10**5, "100K"), (10**6, "1M"), (10**7, "10M"), (10**8, "100M")]
    below = "n"
    for bound, name in bounds:
        if count < bound:
            return f"{below}<{name}" if below == "n" else f"{below}<n<{name}"
        below = name
    return "n>100M"


def _yields(report: Mapping[str, Any]) -> str:
    rows: list[tuple[object, ...]] = []
    for split, tally in report["splits"].items():
        for level in LEVELS:
            rows.append((split, level, tally[level]["in"], tally[level]["out"], ""))
            rows += [(split, level, "", "", f"{reason}: {count}") for reason, count in tally[level]["rejected"].items()]
    for layout, counted in report["exports"].items():
        rows.append((f"export {layout}", "samples", counted["in"], counted["out"], ""))
    return _table(("split", "what", "in", "out", "rejected"), rows)


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
