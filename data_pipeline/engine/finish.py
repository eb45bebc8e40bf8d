"""What is written once, when all shards are there: yields, rejections, words and the dataset's card."""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from data_pipeline.engine.card import card
from data_pipeline.engine.files import Manifest, committing
from data_pipeline.engine.recipe import SynthRecipe
from data_pipeline.engine.tally import Tally, from_json, yield_json
from data_pipeline.source import SynthError, Yield

SCHEMA = "whilst.yields/1"
NAMES = ["words.txt", "rejected.jsonl", "README.md", "yields.json"]
OPEN = 128  # files read at once; systems allow a process some hundreds


def finish(recipe: SynthRecipe, done: Sequence[tuple[str, Manifest]]) -> list[str]:
    """Write the files of NAMES from what the jobs have made: (split, manifest) of each, in the order of the jobs.

    Raises:
        SynthError: counts that do not add up, or a sample's id that comes twice.
    """
    folder = Path(recipe.output)
    report = report_of(recipe, done)
    with committing(folder, NAMES) as [words, rejected, readme, yields]:
        for sample_id in _twice(_files(folder, done, ".ids.txt")):
            raise SynthError(f"sample {json.loads(sample_id)!r} is made twice; the builder must give each its own id")
        with open(words, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{word}\n" for word, _ in groupby(_merged(_files(folder, done, ".words.txt"))))
        with open(rejected, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(_rejections(folder, done))
        readme.write_text(
            card(recipe, report, (folder / "recipe.yaml").read_text(encoding="utf-8")), encoding="utf-8", newline="\n"
        )
        text = json.dumps(report, ensure_ascii=False, indent=2) + "\n"
        yields.write_text(text, encoding="utf-8", newline="\n")
    return NAMES


def report_of(recipe: SynthRecipe, done: Sequence[tuple[str, Manifest]]) -> dict[str, Any]:
    """yields.json: the tallies by split and of all together, and the exports'.

    Raises:
        SynthError: in != out + rejected somewhere.
    """
    splits: dict[str, Tally] = {split: Tally() for split in recipe.inputs}
    exports: dict[str, Yield] = {export.layout: Yield() for export in recipe.exports}
    for split, manifest in done:
        if "exports" in manifest.figures:
            for layout, counted in manifest.figures["exports"].items():
                exports[layout].add(Yield(counted["in"], counted["out"], Counter(counted["rejected"])))
        elif (
            "sources" in manifest.figures
        ):  # an input: all its records, but the sources that came of them are counted on
            gathered = from_json(manifest.figures["tally"])
            splits[split].sources.taken += sum(gathered.sources.rejected.values())
            splits[split].sources.rejected.update(gathered.sources.rejected)
        else:
            splits[split].add(from_json(manifest.figures["tally"]))
    _check_all_came(splits, done)
    whole = Tally()
    for split, tally in splits.items():
        tally.check(f"split {split}")
        whole.add(tally)
    whole.check("the run")
    for layout, counted in exports.items():
        counted.check(f"export {layout}")
    return {
        "schema": SCHEMA,
        "all": whole.to_json(),
        "splits": {split: tally.to_json() for split, tally in splits.items()},
        "exports": {layout: yield_json(counted) for layout, counted in exports.items()},
    }


def _check_all_came(splits: Mapping[str, Tally], done: Sequence[tuple[str, Manifest]]) -> None:
    """Every source that the inputs gave has come to the builder: counted at both ends."""
    for split, tally in splits.items():
        inputs = [one.figures for name, one in done if name == split and "sources" in one.figures]
        records = sum(figures["tally"]["sources"]["in"] for figures in inputs)
        if records != tally.sources.taken:
            raise SynthError(f"split {split}: {records} records in, {tally.sources.taken} accounted for; this is a bug")


def _files(folder: Path, done: Sequence[tuple[str, Manifest]], ending: str) -> list[Path]:
    return [folder / name for _, manifest in done for name in manifest.files if name.endswith(ending)]


def _rejections(folder: Path, done: Sequence[tuple[str, Manifest]]) -> Iterator[str]:
    for split, manifest in done:
        for name in manifest.files:
            if name.startswith("state/") and name.endswith(".rejected.jsonl"):
                with open(folder / name, encoding="utf-8", newline="\n") as file:
                    for line in file:
                        yield json.dumps({"split": split} | json.loads(line), ensure_ascii=False) + "\n"


# ---- Sorted files, line by line: many of them, in little memory.


def _twice(paths: Sequence[Path]) -> Iterator[str]:
    """The lines that come more than once in sorted files."""
    for line, group in groupby(_merged(paths)):
        if sum(1 for _ in group) > 1:
            yield line


def _merged(paths: Sequence[Path]) -> Iterator[str]:
    """The lines of sorted files, sorted."""
    with TemporaryDirectory() as scratch:
        while len(paths) > OPEN:
            groups = [paths[i : i + OPEN] for i in range(0, len(paths), OPEN)]
            paths = [_written(group, Path(scratch) / f"{len(paths)}-{i}") for i, group in enumerate(groups)]
        with ExitStack() as stack:
            yield from heapq.merge(*(_lines(stack.enter_context(_open(path))) for path in paths))


def _written(paths: Sequence[Path], target: Path) -> Path:
    with open(target, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in _merged(paths))
    return target


def _open(path: Path) -> IO[str]:
    return open(path, encoding="utf-8", newline="\n")


def _lines(file: IO[str]) -> Iterator[str]:
    return (line[:-1] for line in file)
